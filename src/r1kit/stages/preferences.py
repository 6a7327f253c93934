"""Make the reward models' data: responses to general prompts, judged (R1 V2 section 3.1).

    r1kit preferences demo --model runs/dev3

helpful: all pairs of responses to a prompt are judged, several times, each response first in half of them; pairs with a
margin are kept, and balanced in length. safety: every response is labelled. An endpoint judges, or the rules of the
demo's small world.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from r1kit.config import PreferencesConfig, to_dict
from r1kit.curation.card import PAIR_COUNTS, preferences_card
from r1kit.curation.pairs import PAIRS, SAFETY, balanced_lengths, relative_length
from r1kit.model.chat import render_prompt, stop_tokens
from r1kit.model.tokenizer import load_tokenizer
from r1kit.rewards.accuracy import PREFERENCE_SCORERS, has_rules
from r1kit.rewards.format import parse_completion
from r1kit.rewards.general import judge_response
from r1kit.rewards.judge import Pair, conversation_text, judge_pairs, judge_safety, rules_verdict
from r1kit.rewards.reward import language_of
from r1kit.run import Progress, Run, write_json_atomic, write_text_atomic
from r1kit.sampling.base import Sampler
from r1kit.sampling.choose import check_sampler, open_sampler
from r1kit.sampling.random import seed_from
from r1kit.tasks import general, load_problems
from r1kit.training.checks import check_fit, sampling_room
from r1kit.training.models import resolve_model
from r1kit.types import Metrics, Problem, Prompt, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from r1kit.sampling.http import Endpoint

WRITERS = 2
"""Responses per prompt of task `general` by the writers of the corpus, a good and a poor one in turn: they stand in for
other models, because one model's own samples may hold too few poor or unsafe ones."""
MOST_DRAFTS = 50
"""Drafts of a poor writer until one takes part in the deed of a prompt of scorer `safety`."""
CARD = "README.md"
BATCHES = "batches"
BATCH = 256
"""Prompts sampled at a time; what was done of a batch that is cut off is lost."""

Row = dict[str, Any]
Sampled = list[tuple[str, str]]
"""Prefill and completion of each sample of a prompt, and why it ended."""
Show = Callable[[int, int], None]


@dataclass(frozen=True)
class Answered:
    """A general prompt with its completions."""

    problem: Problem
    completions: tuple[tuple[str, str], ...]
    """("model" or "writer", prefill + completion)."""


def main(cfg: PreferencesConfig) -> Path:
    """Sample, judge, and write pairs.jsonl, safety.jsonl and the card. Returns the run folder.

    Run again with the same config, a finished run returns at once; one that was cut off goes on with the batch of
    prompts it was at, and with the answers that its endpoint gave.
    """
    check_sampler(cfg)
    with Run.open(cfg.run, to_dict(cfg), "preferences") as run, Progress(1, "preferences") as progress:
        if (run.folder / CARD).exists():
            return run.folder
        run.rewind(None)
        counts: Metrics = defaultdict(float)
        problems = general_problems(cfg, counts)
        sampled = sample(problems, cfg, run.folder / BATCHES, partial(progress.status, "sample"))
        answered = answers(problems, sampled, cfg.seed, counts)
        endpoint = open_endpoint(cfg, run.folder)
        pairs = preferred(answered, cfg, endpoint, counts, partial(progress.status, "judge pairs"))
        labelled = label(answered, endpoint, counts, partial(progress.status, "judge safety"))
        if endpoint is not None:
            counts |= {f"judge/{name}": number for name, number in endpoint.totals.usage(endpoint.cfg).items()}
        for name, rows in ((PAIRS, pairs), (SAFETY, labelled)):
            write_text_atomic(run.folder / name, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
        if not pairs and not labelled:  # an empty data set is no result: the card would say that the run is finished
            raise ValueError(nothing(counts))
        metrics = measure(pairs, labelled, counts)
        run.log(0, metrics)
        shutil.rmtree(run.folder / BATCHES)
        write_text_atomic(run.folder / CARD, preferences_card(cfg, metrics))  # last: it says that the run is finished
        progress.note(f"{len(pairs):,} pairs, {len(labelled):,} labelled responses: {run.folder / CARD}")
        return run.folder


def nothing(counts: Metrics) -> str:
    """Why there is neither a pair nor a label."""
    why = ", ".join(f"{PAIR_COUNTS.get(name, name)}: {n:,.0f}" for name, n in sorted(counts.items()) if n)
    return f"no pair and no labelled response; {why}. Lower --min-margin, or give more prompts or samples"


def general_problems(cfg: PreferencesConfig, counts: Metrics) -> list[Problem]:
    """The training prompts that somebody can judge. Raises ValueError for a task that has no general prompts."""
    judged: list[Problem] = []
    for task in cfg.tasks:
        data = load_problems(task, "train", cfg.seed, columns=cfg.columns)
        problems = data.first(min(cfg.num_prompts, len(data) if isinstance(data, Sized) else cfg.num_prompts))
        found = [problem for problem in problems if problem.scorer in PREFERENCE_SCORERS]
        if not found:
            scorers = ", ".join(sorted({problem.scorer for problem in problems}))
            raise ValueError(
                f"--tasks {task}: its problems have scorer {scorers}, none is a general prompt; give tasks of scorer "
                f"{' or '.join(PREFERENCE_SCORERS)}"
            )
        counts["prompts"] += len(problems)
        counts["prompts/not_general"] += len(problems) - len(found)
        able = found if cfg.judge.url else [problem for problem in found if has_rules(problem.gold)]
        counts["prompts/undecided"] += len(found) - len(able)
        judged += able
    if not judged:
        raise ValueError(
            f"--tasks {' '.join(cfg.tasks)}: none of {counts['prompts']:.0f} prompts has rules to judge it by; give an "
            f"endpoint with --judge.url and --judge.model"
        )
    for scorer in PREFERENCE_SCORERS:
        counts[f"prompts/{scorer}"] = sum(problem.scorer == scorer for problem in judged)
    return judged


def sample(problems: Sequence[Problem], cfg: PreferencesConfig, folder: Path, on_progress: Show) -> list[Sampled]:
    """The model's completions of every prompt, batch by batch; what `folder` has of them is not sampled again.

    ValueError where a prompt leaves no room for a completion, before weights are loaded.
    """
    model = resolve_model(cfg.model)
    tokenizer = load_tokenizer(model)
    check_fit(problems, tokenizer, cfg.template, sampling_room(cfg, model), " ".join(cfg.tasks))
    folder.mkdir(exist_ok=True)
    paths = [folder / f"batch-{start // BATCH:06d}.json" for start in range(0, len(problems), BATCH)]
    if missing := [number for number, path in enumerate(paths) if not path.exists()]:
        with open_sampler(cfg, tokenizer, model, handed=False) as sampler:
            for number in missing:
                start = number * BATCH
                part = problems[start : start + BATCH]
                show = partial(_on_from, on_progress, start * cfg.num_samples, len(problems) * cfg.num_samples)
                write_json_atomic(paths[number], sample_batch(sampler, tokenizer, part, cfg, show))
    return [one for path in paths for one in json.loads(path.read_text(encoding="utf-8"))]


def _on_from(on_progress: Show, before: int, total: int, done: int, _of_batch: int) -> None:
    on_progress(before + done, total)


def sample_batch(
    sampler: Sampler, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], cfg: PreferencesConfig,
    on_progress: Show,
) -> list[Sampled]:  # fmt: skip
    """`cfg.num_samples` completions of each prompt."""
    rendered = [render_prompt(cfg.template, problem.messages, tokenizer) for problem in problems]
    prompts = [
        Prompt(
            tuple(tokenizer(prompt.text, add_special_tokens=False)["input_ids"]),  # type: ignore[arg-type]
            seed_from("preferences", cfg.seed, problem.id),
        )
        for prompt, problem in zip(rendered, problems, strict=True)
    ]
    stops = stop_tokens(cfg.template, tokenizer)
    params = SamplingParams(cfg.temperature, max_new_tokens=cfg.max_new_tokens, stop_tokens=stops)
    groups = sampler.generate(prompts, params, cfg.num_samples, on_progress)
    return [
        [(prompt.prefill + completion.text, completion.finish_reason) for completion in group]
        for prompt, group in zip(rendered, groups, strict=True)
    ]


def answers(problems: Sequence[Problem], sampled: Sequence[Sampled], seed: int, counts: Metrics) -> list[Answered]:
    """The model's completions of every prompt, and those of the corpus's writers where they know the task."""
    answered = []
    for problem, group in zip(problems, sampled, strict=True):
        texts = [text for text, finish in group if finish != "error"]
        counts["completions/failed"] += len(group) - len(texts)
        counts["completions/truncated"] += sum(finish == "length" for _, finish in group)
        written = write(problem, seed) if problem.task == "general" and has_rules(problem.gold) else []
        counts["completions/model"] += len(texts)
        counts["completions/writers"] += len(written)
        everything = [*(("model", text) for text in texts), *(("writer", text) for text in written)]
        answered.append(Answered(problem, tuple(everything)))
    return answered


def write(problem: Problem, seed: int) -> list[str]:
    """The writers' completions: the thought is the same whatever they respond, so that it does not give them away."""
    rng = random.Random(f"preferences/{seed}/{problem.id}")
    responses = [general.respond(problem, rng, good=number % 2 == 0) for number in range(WRITERS)]
    for number in range(1, WRITERS, 2):
        for _ in range(MOST_DRAFTS):
            # A poor writer mostly refuses or says nothing: safe, and of no use against the good one's refusal.
            if problem.scorer != "safety" or not judge_response(responses[number], problem.gold, "safety").safe:
                break
            responses[number] = general.respond(problem, rng, good=False)
    return [f"<think>{general.thought(problem)}</think>{response}" for response in responses]


def open_endpoint(cfg: PreferencesConfig, folder: Path) -> Endpoint | None:
    """The judge; None: the rules judge."""
    if not cfg.judge.url:
        return None
    from r1kit.sampling.http import Endpoint

    return Endpoint(cfg.judge, folder / "calls")


def preferred(
    answered: Sequence[Answered], cfg: PreferencesConfig, endpoint: Endpoint | None, counts: Metrics,
    on_progress: Show,
) -> list[Row]:  # fmt: skip
    """The rows of pairs.jsonl: all pairs of different responses to a prompt, those with a margin, length-balanced."""
    problems: list[Problem] = []
    pairs: list[Pair] = []
    for one in answered:
        if one.problem.scorer != "helpful":
            continue
        responses = [parse_completion(text).response for _, text in one.completions]
        counts["completions/no_response"] += responses.count("")
        different = [response for response in dict.fromkeys(responses) if response]
        for (i, first), (j, second) in itertools.combinations(enumerate(different), 2):
            problems.append(one.problem)
            pairs.append(Pair(f"{one.problem.id}/{i}-{j}", conversation_text(one.problem.messages), first, second))
    verdicts = pair_verdicts(problems, pairs, cfg, endpoint, on_progress)
    rows = []
    for problem, pair, verdict in zip(problems, pairs, verdicts, strict=True):
        if verdict is None:
            counts["pairs/undecided"] += 1
        elif abs(verdict) <= cfg.min_margin:
            counts["pairs/no_margin"] += 1
        else:
            rows.append(pair_row(problem, pair, verdict))
    counts["pairs/judged"] = len(pairs)
    kept = balanced_lengths([(row["chosen"], row["rejected"]) for row in rows], cfg.max_length_bias)
    counts["pairs/unbalanced"] = len(rows) - len(kept)
    counts["pairs/bias_before"] = bias(rows)
    return [rows[i] for i in kept]


def pair_verdicts(
    problems: Sequence[Problem], pairs: Sequence[Pair], cfg: PreferencesConfig, endpoint: Endpoint | None,
    on_progress: Show,
) -> list[float | None]:  # fmt: skip
    """Mean verdicts, 2 (the first is much better) to -2. Rules do not tire: one verdict is all of theirs."""
    if endpoint is not None:
        verdicts = judge_pairs(endpoint, pairs, on_progress, seed=cfg.seed, queries=cfg.queries)
        return answers_of(endpoint, verdicts, "pairs")
    quality = {
        (problem.id, response): judge_response(response, problem.gold, problem.scorer).quality
        for problem, pair in zip(problems, pairs, strict=True)
        for response in (pair.response_a, pair.response_b)
    }
    return [
        rules_verdict(quality[problem.id, pair.response_a], quality[problem.id, pair.response_b])
        for problem, pair in zip(problems, pairs, strict=True)
    ]


def answers_of(endpoint: Endpoint, verdicts: list[Any], what: str) -> list[Any]:
    """The verdicts. Raises ValueError when there is none at all: a judge that is down is not a judge in doubt."""
    if verdicts and all(verdict is None for verdict in verdicts):
        failed = f"; the first call that failed: {endpoint.first_error}" if endpoint.first_error else ""
        raise ValueError(
            f"{endpoint.cfg.model} at {endpoint.cfg.url} gave no verdict on any of {len(verdicts)} {what}{failed}; "
            f"check --judge.url, --judge.model and --judge.max-new-tokens, then give the same command again"
        )
    return verdicts


def pair_row(problem: Problem, pair: Pair, verdict: float) -> Row:
    chosen, rejected = pair.response_a, pair.response_b
    if verdict < 0:
        chosen, rejected = rejected, chosen
    return {
        "id": pair.id,
        "messages": [asdict(message) for message in problem.messages],
        "chosen": chosen,
        "rejected": rejected,
        "margin": abs(verdict),
        "language": language(problem),
    }


def label(answered: Sequence[Answered], endpoint: Endpoint | None, counts: Metrics, on_progress: Show) -> list[Row]:
    """The rows of safety.jsonl: every different completion of the prompts of scorer `safety`, thought included."""
    items: list[tuple[Problem, str, str]] = []
    for one in answered:
        if one.problem.scorer == "safety":
            sources: dict[str, str] = {}
            for source, text in one.completions:
                sources.setdefault(text.strip(), source)
            items += [(one.problem, text, source) for text, source in sources.items() if text]
    verdicts = safety_verdicts(items, endpoint, on_progress)
    rows = []
    for number, ((problem, text, source), safe) in enumerate(zip(items, verdicts, strict=True)):
        if safe is None:
            counts["safety/undecided"] += 1
            continue
        rows.append(
            {
                "id": f"{problem.id}/{number}",
                "messages": [asdict(message) for message in problem.messages],
                "response": text,
                "safe": safe,
                "language": language(problem),
                "source": source,
            }
        )
    return rows


def safety_verdicts(
    items: Sequence[tuple[Problem, str, str]], endpoint: Endpoint | None, on_progress: Show
) -> list[bool | None]:
    if endpoint is not None:
        texts = [(conversation_text(problem.messages), text) for problem, text, _ in items]
        return answers_of(endpoint, judge_safety(endpoint, texts, on_progress), "responses")
    # The rules look for the deed, which a thought may name in order to refuse it.
    return [judge_response(parse_completion(text).response, p.gold, p.scorer).safe for p, text, _ in items]


def language(problem: Problem) -> str:
    return problem.gold["language"] if has_rules(problem.gold) else language_of(problem)


def bias(rows: Sequence[Row]) -> float:
    """Mean relative length difference of chosen and rejected; 0 of none."""
    return fmean(relative_length(row["chosen"], row["rejected"]) for row in rows) if rows else 0.0


def measure(pairs: Sequence[Row], labelled: Sequence[Row], counts: Metrics) -> Metrics:
    """The numbers of the card, under metric names."""

    def mean_chars(texts: Iterable[str]) -> float:
        lengths = [len(text) for text in texts]
        return fmean(lengths) if lengths else 0.0

    unsafe = sum(not row["safe"] for row in labelled)
    metrics: Metrics = {
        **counts,
        "pairs/kept": len(pairs),
        "pairs/bias": bias(pairs),
        "pairs/chosen_longer": fmean(len(r["chosen"]) > len(r["rejected"]) for r in pairs) if pairs else 0.0,
        "pairs/chosen_chars": mean_chars(row["chosen"] for row in pairs),
        "pairs/rejected_chars": mean_chars(row["rejected"] for row in pairs),
        "safety/safe": len(labelled) - unsafe,
        "safety/unsafe": unsafe,
        "safety/safe_chars": mean_chars(row["response"] for row in labelled if row["safe"]),
        "safety/unsafe_chars": mean_chars(row["response"] for row in labelled if not row["safe"]),
    }
    for code, count in sorted(Counter(row["language"] for row in (*pairs, *labelled)).items()):
        metrics[f"language/{code}"] = count
    return metrics
