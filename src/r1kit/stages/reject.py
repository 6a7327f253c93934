"""Sample a model, keep the right and readable completions, write them as SFT data (R1 V2 B.3.2, B.3.3).

    r1kit reject demo                      # the cold start's data: R1-Zero's samples, rewritten

RUN/sft.jsonl is the data, RUN/README.md its card, RUN/counts.json the numbers in it. The work goes on batch by batch of
problems; a run that was cut off goes on at the batch it was in, and ends in the same bytes.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

from r1kit.allocator import release_memory
from r1kit.config import RejectConfig, RewardConfig, to_dict
from r1kit.config.evaluate import AnswerForm
from r1kit.curation.card import data_card, data_counts
from r1kit.curation.general import join_general, num_general, read_general
from r1kit.curation.rewrite import Rewriter, Rewritten, rewrite_by_endpoint, rewrite_by_rules
from r1kit.curation.select import NO_JUDGE, REPEATS, Candidate, Judge, Row, Selection, Tally, curate, distinct_rows
from r1kit.model.chat import TEMPLATES, render_prompt, stop_tokens
from r1kit.model.tokenizer import load_tokenizer
from r1kit.rewards.format import parse_completion
from r1kit.rewards.judge import conversation_text, judge_correctness
from r1kit.run import Progress, Run, write_json_atomic, write_text_atomic
from r1kit.sampling.base import Sampler
from r1kit.sampling.choose import check_sampler, open_sampler
from r1kit.sampling.http import Endpoint, HttpSampler
from r1kit.tasks import ProblemSet, load_problems, summaries
from r1kit.training.checks import check_room, sampling_room
from r1kit.training.models import resolve_model
from r1kit.training.prompts import shorter_prompts
from r1kit.training.rollout import Group, sample_groups, sample_teacher
from r1kit.training.trained import answer_form, trained_as
from r1kit.types import Metrics, Problem, SamplingParams, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Calls = dict[str, Counter[str]]
"""Endpoint -> calls, tokens, cost."""
DATA = "sft.jsonl"
BATCH = 1024
"""Completions sampled at a time; what was done of a batch that is cut off is lost. At the end of each batch a few long
ones have the sampler to themselves."""
ALL_FAILED = 8
"""So many calls of one batch, and none answered: the endpoint is down, and going on would only lose samples."""


def main(cfg: RejectConfig) -> Path:
    """Make the data; returns sft.jsonl. With the same config it resumes, and returns at once when it is done.

    ValueError when nothing survives, with the numbers and what to change.
    """
    if (cfg.run / DATA).exists():
        with Run.open(cfg.run, run_config(cfg), "reject") as run:
            return run.folder / DATA
    if not cfg.teacher.url:
        check_sampler(cfg)
    read_problems(cfg)  # too few of them are named before a model is downloaded
    general = {name: None if name == "general" else read_general(name, cfg.columns) for name in cfg.general_data}
    model = resolve_model(cfg.model)
    tokenizer = load_tokenizer(model)
    problem_sets = read_problems(cfg, tokenizer)
    problems = first_problems(problem_sets, cfg)
    render_prompt(cfg.template, problems[0].messages, tokenizer)
    if not cfg.teacher.url:
        check_room(problem_sets, tokenizer, cfg.template, sampling_room(cfg, model), first=cfg.num_problems)
    size = max(1, BATCH // cfg.num_samples)
    batches = [problems[start : start + size] for start in range(0, len(problems), size)]
    with Run.open(cfg.run, run_config(cfg), "reject") as run, Progress(len(batches), "reject") as progress:
        for line in (form_of(cfg, model)[1], *summaries(problem_sets)):
            progress.note(line)
        sample_batches(batches, cfg, run, progress)
        rows, tally, calls = read_batches(run.folder, len(batches))
        if not rows:
            raise ValueError(nothing_left(tally, cfg))
        wanted = num_general(len(rows), cfg.general_share) if general else 0
        lead = "" if cfg.teacher.url else leading_space(cfg.template)
        joined = join_general(general, wanted, seed=cfg.seed, lead=lead, num_tokens=partial(count_tokens, tokenizer))
        rows += joined
        random.Random(f"reject/{cfg.seed}/order").shuffle(rows)
        counts = data_counts(rows, tally, wanted=wanted, joined=len(joined)) | ({"calls": calls} if calls else {})
        write_json_atomic(run.folder / "counts.json", counts)
        write_text_atomic(run.folder / "README.md", data_card(counts, to_dict(cfg)))
        # The data last: where it is, everything is.
        write_text_atomic(run.folder / DATA, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        shutil.rmtree(run.folder / "batches")
        progress.note(f"{len(rows):,} conversations, {len(joined):,} of them general: {run.folder / DATA}")
        return run.folder / DATA


def run_config(cfg: RejectConfig) -> dict[str, Any]:
    """What config.json holds. Folders that were begun before there was `format` have none, and they go on."""
    settings = to_dict(cfg)
    if not cfg.format:
        del settings["format"]
    return settings


def read_problems(cfg: RejectConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> list[ProblemSet]:
    """The set of each task; with a tokenizer, without the prompts that `cfg.filter` calls too long.

    ValueError where one has fewer than `cfg.num_problems`.
    """
    reading = partial(load_problems, columns=cfg.columns, filters=cfg.filter, system_prompt=cfg.system_prompt)
    problem_sets = [reading(task, "train", cfg.seed) for task in cfg.tasks]
    if tokenizer is not None:
        longest = cfg.filter.max_prompt_tokens
        problem_sets = [shorter_prompts(one, tokenizer, cfg.template, longest) for one in problem_sets]
    first_problems(problem_sets, cfg)
    return problem_sets


def first_problems(problem_sets: Sequence[ProblemSet], cfg: RejectConfig) -> list[Problem]:
    """The problems that are sampled. ValueError where a task has fewer."""
    return [problem for problem_set in problem_sets for problem in problem_set.first(cfg.num_problems)]


def form_of(cfg: RejectConfig, model: Path) -> tuple[AnswerForm, str]:
    """The form that answers are read in, and a line that says so. A teacher is asked in a template of its own."""
    trained, template = (None, "chat") if cfg.teacher.url else (trained_as(model), cfg.template)
    form, why = answer_form(cfg.format, trained, template)
    return form, f"answers are read as {form} ({why})"


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, without special ones around it."""
    if not texts:
        return []
    return [len(ids) for ids in cast("list[list[int]]", tokenizer(list(texts), add_special_tokens=False)["input_ids"])]


def leading_space(template: str) -> str:
    """What completions of a template begin with: a space where its prompt ends with `Assistant:`."""
    return " " if template in TEMPLATES and TEMPLATES[template].pattern.endswith(":") else ""


def sample_batches(batches: Sequence[Sequence[Problem]], cfg: RejectConfig, run: Run, progress: Progress) -> None:
    """Do the batches that are not in RUN/batches yet. The weights are loaded when there is one."""
    folder = run.folder / "batches"
    folder.mkdir(exist_ok=True)
    done = len(list(folder.glob("batch-*.json")))
    run.rewind(done)
    if done == len(batches):
        return
    model = resolve_model(cfg.model)
    tokenizer = load_tokenizer(model)
    endpoints = open_endpoints(cfg, run.folder)
    selection = Selection(
        cfg.readable, cfg.keep_per_problem, partial(count_tokens, tokenizer),
        make_judge(endpoints.get("judge"), progress), make_rewriter(cfg, endpoints.get("rewriter"), progress),
    )  # fmt: skip
    reward = RewardConfig(format=form_of(cfg, model)[0])
    teacher = HttpSampler(endpoints["teacher"]) if "teacher" in endpoints else None
    with open_sampler(cfg, tokenizer, model, handed=False) if teacher is None else nullcontext(teacher) as sampler:
        for number in range(done, len(batches)):
            before = {name: endpoint.totals for name, endpoint in endpoints.items()}
            groups, prefills, metrics = sample(
                sampler, tokenizer, batches[number], cfg, reward, partial(progress.status, "sample")
            )
            start, tally = time.perf_counter(), Tally()
            rows = curate(groups, prefills, selection, tally)
            metrics |= {
                "seconds/curate": time.perf_counter() - start,
                **{f"reject/{stage}": float(tally.total(stage)) for stage in ("sampled", "right", "readable", "kept")},
            }
            calls = {name: e.totals.since(before[name]).usage(e.cfg) for name, e in endpoints.items()}
            metrics |= {f"{name}/{what}": float(n) for name, used in calls.items() for what, n in used.items()}
            run.log(number + 1, metrics)
            batch = {"rows": rows, "tally": tally.as_json(), "calls": calls}
            write_json_atomic(folder / f"batch-{number:06d}.json", batch)
            progress.show(number + 1, metrics)
            release_memory()


def sample(
    sampler: Sampler | HttpSampler, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], cfg: RejectConfig,
    reward: RewardConfig, on_progress: Callable[[int, int], None],
) -> tuple[list[Group], list[str], Metrics]:  # fmt: skip
    """Scored completions of each problem, the tail of its prompt that belongs to them, and how long it took."""
    params = SamplingParams(cfg.temperature, cfg.top_p, 0, cfg.max_new_tokens)
    if isinstance(sampler, HttpSampler):
        groups, metrics = sample_teacher(
            sampler, problems, params, cfg.num_samples, reward=reward, on_progress=on_progress
        )
        failures = [one.completion.error for group in groups for one in group if one.completion.error]
        stop_when_all_failed("teacher", cfg.teacher.url, failures, len(problems) * cfg.num_samples)
        return groups, [""] * len(problems), metrics
    groups, metrics = sample_groups(
        sampler, tokenizer, problems, replace(params, stop_tokens=stop_tokens(cfg.template, tokenizer)),
        cfg.num_samples, template=cfg.template, seed=f"reject/{cfg.seed}", reward=reward,
        on_progress=on_progress,
    )  # fmt: skip
    metrics["length/mean"] = fmean(len(one.completion.tokens) for group in groups for one in group)
    return groups, [render_prompt(cfg.template, problem.messages, tokenizer).prefill for problem in problems], metrics


def open_endpoints(cfg: RejectConfig, folder: Path) -> dict[str, Endpoint]:
    """ "teacher", "judge" and "rewriter": those that are used."""
    used = {name: settings for name, settings in (("teacher", cfg.teacher), ("judge", cfg.judge)) if settings.url}
    used |= {"rewriter": cfg.rewriter} if cfg.rewrite == "endpoint" else {}
    return {name: Endpoint(settings, folder / "cache" / name) for name, settings in used.items()}


def make_judge(endpoint: Endpoint | None, progress: Progress) -> Judge | None:
    """The endpoint that judges where no rule can (R1 V2 B.3.3, Listing 4); None without one."""
    if endpoint is None:
        return None

    def judge(candidates: Sequence[Candidate]) -> list[tuple[Verdict, str]]:
        items = [
            (conversation_text(c.problem.messages), reference_of(c.problem), parse_completion(c.text, "r1").response)
            for c in candidates
        ]
        verdicts = judge_correctness(endpoint, items, partial(progress.status, "judge"))
        failures = [
            reason for verdict, reason in verdicts if verdict == "undecided" and reason.startswith("judge failed")
        ]
        stop_when_all_failed("judge", endpoint.cfg.url, failures, len(verdicts))
        return [(verdict, reason) for verdict, reason in verdicts]

    return judge


def make_rewriter(cfg: RejectConfig, endpoint: Endpoint | None, progress: Progress) -> Rewriter | None:
    """How completions get their readable form; None leaves them as they are."""
    match cfg.rewrite:
        case "none":
            return None
        case "rules":
            return rewrite_by_rules
        case "endpoint":
            assert endpoint is not None

            def rewrite(candidates: Sequence[Candidate]) -> list[Rewritten]:
                rewritten = rewrite_by_endpoint(endpoint, candidates, progress.status)
                failures = [one.fault for one in rewritten if one.fault.startswith("rewriter failed")]
                stop_when_all_failed("rewriter", cfg.rewriter.url, failures, len(rewritten))
                return rewritten

            return rewrite


def stop_when_all_failed(what: str, url: str, failures: Sequence[str], num_calls: int) -> None:
    """ValueError when no call got an answer; a few that fail are counted and left out."""
    if len(failures) == num_calls >= ALL_FAILED:
        raise ValueError(
            f"the {what} at {url} answered none of {num_calls} calls; the first: {failures[0]}. "
            f"See to it and run the same command again: it goes on with this batch"
        )


def reference_of(problem: Problem) -> str:
    """The reference answer for the judge."""
    gold: Any = problem.gold
    if gold is None or gold == "" or gold == {}:
        return "(There is none: decide whether the answer does what the question asks.)"
    return gold if isinstance(gold, str) else json.dumps(gold, ensure_ascii=False)


def read_batches(folder: Path, count: int) -> tuple[list[Row], Tally, Calls]:
    """All batches' rows, each conversation once, their tally, and what endpoints took to make them."""
    rows, tally, calls = [], Tally(), Calls()
    for number in range(count):
        path = folder / "batches" / f"batch-{number:06d}.json"
        batch = json.loads(path.read_text(encoding="utf-8"))
        rows += batch["rows"]
        tally.merge(batch["tally"])
        for name, used in batch["calls"].items():
            calls.setdefault(name, Counter()).update(used)
    distinct = distinct_rows(rows)
    if repeats := len(rows) - len(distinct):
        tally.drop(REPEATS, count=repeats)
        kept = {id(row) for row in distinct}
        for row in rows:
            if id(row) not in kept:
                tally.add(row["domain"], "kept", -1)
    return distinct, tally, calls


def nothing_left(tally: Tally, cfg: RejectConfig) -> str:
    """Why there is no data, and what to change."""
    sampled, right, readable = (tally.total(stage) for stage in ("sampled", "right", "readable"))
    most = [f"{count:,} {reason} ({tally.examples[reason]})" for reason, count in tally.dropped.most_common(3)]
    if not right:
        advice = "check --model, --template and --format, or raise --num-samples, --num-problems or --max-new-tokens"
        if NO_JUDGE in tally.dropped:
            advice = f"give an endpoint that judges with --judge.url and --judge.model; {advice}"
    elif not readable:
        advice = "loosen --readable, or raise --num-samples"
    else:
        advice = "change --rewrite: rules know the thoughts of countdown and remainder only, an endpoint rewrites any"
    return (
        f"{cfg.model}: nothing is left of {sampled:,} completions; {right:,} are right, {readable:,} also readable. "
        f"Most were dropped as: {'; '.join(most)}. With another --run, {advice}"
    )
