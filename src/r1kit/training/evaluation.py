"""Score a policy on held-out problems: evals/step-000020.json (numbers) and .jsonl (every completion behind them)."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.config import EvalConfig, ReadableConfig, RewardConfig, to_dict
from r1kit.config.evaluate import AnswerForm
from r1kit.model.chat import RenderedPrompt, render_prompt, stop_tokens
from r1kit.rewards.accuracy import PREFERENCE_SCORERS, has_rules
from r1kit.rewards.format import parse_completion
from r1kit.rewards.general import judge_response
from r1kit.rewards.language import language_consistency
from r1kit.rewards.readable import readable_fault
from r1kit.rewards.reflection import count_reflection_words
from r1kit.rewards.reward import language_of
from r1kit.run import write_json_atomic, write_text_atomic
from r1kit.sampling.base import Sampler
from r1kit.scoring.passk import GradedSample, summarise
from r1kit.tasks import ProblemSet, load_problems
from r1kit.training.prompts import shorter_prompts
from r1kit.training.rollout import sample_groups
from r1kit.training.trained import form_of_template
from r1kit.types import Metrics, Problem, Sample, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 2048
"""Completions sampled at a time, where what is done of an evaluation is kept."""

Row = dict[str, Any]
Show = Callable[[int, int], None]


def evaluation_sets(cfg: EvalConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> list[ProblemSet]:
    """The problem set of each task; with a tokenizer, without the prompts that `cfg.filter` calls too long.

    ValueError where one of them has fewer than `cfg.num_problems`.
    """
    sets = [
        load_problems(
            task, cfg.split, cfg.seed, columns=cfg.columns, filters=cfg.filter, system_prompt=cfg.system_prompt
        )
        for task in cfg.tasks
    ]
    if tokenizer is not None:
        sets = [shorter_prompts(one, tokenizer, cfg.template, cfg.filter.max_prompt_tokens) for one in sets]
    for problem_set in sets:
        problem_set.first(cfg.num_problems)
    return sets


def evaluation_problems(sets: Sequence[ProblemSet], cfg: EvalConfig) -> list[Problem]:
    """The problems that are asked."""
    return [problem for problem_set in sets for problem in problem_set.first(cfg.num_problems)]


def evaluate(
    sampler: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    cfg: EvalConfig,
    folder: Path,
    step: int,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    form: AnswerForm | None = None,
    problems: Sequence[Problem] | None = None,
    parts: Path | None = None,
) -> Metrics:
    """Sample `cfg.num_samples` completions of `cfg.num_problems` problems of each task, score them, write both files.

    `form`: the form that answers are read in; None: the one of `cfg.template`. `problems`: those of `cfg`, where they
    have been read already. `parts`: a folder that keeps what is sampled, BATCH completions at a time, until the end;
    an evaluation that was cut off goes on from what is there. Returns the metrics of metrics.jsonl:
    `eval/<task>/pass@1` and so on, `eval/all/...` over all problems. The problems and the random numbers depend on
    `cfg` only, so evaluations of one run are paired.
    """
    start = time.perf_counter()
    form = form or form_of_template(cfg.template)
    if problems is None:
        problems = evaluation_problems(evaluation_sets(cfg, tokenizer), cfg)
    ask = partial(sample_rows, sampler, tokenizer, cfg, form)
    rows = ask(problems, on_progress) if parts is None else rows_by_parts(ask, problems, cfg, parts, on_progress)
    results = results_of(rows)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(folder / f"step-{step:06d}.jsonl", _lines(rows))
    evaluation = {"step": step, "policy": sampling_policy(cfg, form), "results": results}
    write_json_atomic(folder / f"step-{step:06d}.json", evaluation)
    if parts is not None:
        shutil.rmtree(parts)
    metrics = {f"eval/{task}/{name}": value for task, values in results.items() for name, value in values.items()}
    if "all" not in results:
        metrics |= {f"eval/all/{name}": value for values in results.values() for name, value in values.items()}
    return metrics | {"seconds/eval": time.perf_counter() - start}


def sample_rows(
    sampler: Sampler, tokenizer: PreTrainedTokenizerBase, cfg: EvalConfig, form: AnswerForm,
    problems: Sequence[Problem], on_progress: Show | None = None,
) -> list[Row]:  # fmt: skip
    """A row of the .jsonl for each problem: its completions, with all that scores are made of."""
    stops = stop_tokens(cfg.template, tokenizer)
    params = SamplingParams(cfg.temperature, cfg.top_p, cfg.top_k, cfg.max_new_tokens, stops)
    groups, _ = sample_groups(
        sampler, tokenizer, problems, params, cfg.num_samples,
        template=cfg.template, seed=f"eval/{cfg.seed}",
        reward=RewardConfig(format=form, unsafe_code=cfg.unsafe_code), on_progress=on_progress,
    )  # fmt: skip
    return [_row(group, render_prompt(cfg.template, group[0].problem.messages, tokenizer)) for group in groups]


def rows_by_parts(
    ask: Callable[[Sequence[Problem], Show | None], list[Row]], problems: Sequence[Problem], cfg: EvalConfig,
    folder: Path, on_progress: Show | None,
) -> list[Row]:  # fmt: skip
    """The rows of all problems. Those that `folder` has are not sampled again."""
    folder.mkdir(parents=True, exist_ok=True)
    size = max(1, BATCH // cfg.num_samples)
    rows: list[Row] = []
    for start in range(0, len(problems), size):

        def show(done: int, _of_part: int, before: int = start * cfg.num_samples) -> None:
            if on_progress:
                on_progress(before + done, len(problems) * cfg.num_samples)

        path = folder / f"part-{start:06d}.jsonl"
        if not path.exists():
            write_text_atomic(path, _lines(ask(problems[start : start + size], show)))
        rows += [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return rows


def _lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def results_of(rows: Sequence[Row]) -> dict[str, Metrics]:
    """The numbers of each task, and of "all" where there are several."""
    grades = [[_grade(completion) for completion in row["completions"]] for row in rows]
    by_task: dict[str, list[list[GradedSample]]] = {}
    for row, grade in zip(rows, grades, strict=True):
        by_task.setdefault(row["task"], []).append(grade)
    if len(by_task) > 1:  # general prompts have no right answer: they stay out of the total
        ruled = [grade for row, grade in zip(rows, grades, strict=True) if row["scorer"] not in PREFERENCE_SCORERS]
        by_task["all"] = ruled or grades
    return {task: summarise(members) for task, members in by_task.items()}


def _grade(completion: Row) -> GradedSample:
    return GradedSample(
        right=completion["verdict"] == "right",
        undecided=completion["verdict"] == "undecided",
        answer=completion["extracted"],
        truncated=completion["finish_reason"] == "length",
        **{name: completion[name] for name in ("tokens", "reflection", "consistency", "readable", "quality")},
    )


def sampling_policy(cfg: EvalConfig, form: AnswerForm) -> dict[str, Any]:
    """What a score depends on besides the model; printed beside every number."""
    names = ("split", "num_problems", "num_samples", "temperature", "top_p", "top_k", "max_new_tokens", "template")
    settings = to_dict(cfg)
    policy = {name: settings[name] for name in (*names, "seed", *(["system_prompt"] if cfg.system_prompt else []))}
    if cfg.filter.max_prompt_tokens:
        policy["max_prompt_tokens"] = cfg.filter.max_prompt_tokens
    return policy | {"format": form}


def _row(group: Sequence[Sample], prompt: RenderedPrompt) -> Row:
    """A problem and its completions. The tail of the prompt may belong to them."""
    problem = group[0].problem
    language = language_of(problem)
    ruled = problem.scorer in PREFERENCE_SCORERS and has_rules(problem.gold)
    completions = []
    for sample in group:
        text, tokens = prompt.prefill + sample.completion.text, len(sample.completion.tokens)
        parsed = parse_completion(text)
        completions.append(
            {
                "text": sample.completion.text,
                "verdict": sample.score.verdict,
                "extracted": sample.score.extracted,
                "reason": sample.score.reason,
                "reward": sample.score.reward,
                "tokens": tokens,
                "reflection": count_reflection_words(sample.completion.text),
                "consistency": language_consistency(parsed.thought, language),
                "readable": not readable_fault(text, language, tokens, ReadableConfig()),
                "quality": judge_response(parsed.response, problem.gold, problem.scorer).quality if ruled else None,
                "finish_reason": sample.completion.finish_reason,
            }
        )
    about = {"id": problem.id, "task": problem.task, "scorer": problem.scorer, "prompt": prompt.text}
    return {**about, "gold": problem.gold, "completions": completions}
