"""Reads a run folder's plain files into records for the report: config.json, metrics.jsonl, evals/*.

Evaluations are reduced to one row of numbers per problem while they are read, so a run with many long completions fits
in memory; `read_completions` gives the texts of one evaluation back.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1kit.rewards.accuracy import PREFERENCE_SCORERS

GENERAL = "general prompts"
"""Name of all general prompts together, as "all" is of all problems with a right answer."""


@dataclass(frozen=True)
class CompletionRecord:
    """One completion of an evaluation, as written to evals/*.jsonl."""

    text: str
    verdict: str
    extracted: str
    reason: str
    tokens: int
    reflection: int
    """Reflection words in the text."""
    finish_reason: str
    consistency: float | None = None
    """Language consistency of the thought, 0 to 1; None without words, and in files of r1kit before 0.2."""
    readable: bool | None = None
    quality: float | None = None
    """How good the response to a general prompt is, 0 to 1, by the rules that stand in for a judge; else None."""
    summary: bool | None = None
    """Something besides the answer follows the thought."""


@dataclass(frozen=True)
class ProblemCompletions:
    """One problem of an evaluation with all its completions."""

    id: str
    task: str
    prompt: str
    gold: Any
    completions: tuple[CompletionRecord, ...]
    general: bool = False
    """A general prompt: nothing is right or wrong, a response is more or less good."""


@dataclass(frozen=True)
class ProblemResult:
    """One problem's numbers in one evaluation; shares are of its completions, 0 to 1."""

    id: str
    task: str
    num_samples: int
    right: float
    """Share of right completions: this problem's pass@1."""
    cons: float
    """1 if the commonest answer is right, 0 if not; a tie counts as the share of tied answers that are right."""
    any_right: float
    length: float
    """Mean tokens per completion."""
    reflection: float
    """Mean reflection words per completion."""
    truncated: float
    undecided: float
    consistency: float | None = None
    """Mean over the completions that have one; None when none has, as for the next three."""
    readable: float | None = None
    quality: float | None = None
    summary: float | None = None
    qualities: tuple[float, ...] = ()
    """Each completion's quality."""
    general: bool = False
    """A general prompt, which has no right answer: not part of "all"."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: what was asked, how it was sampled, and a result per problem."""

    step: int
    policy: dict[str, Any]
    problems: tuple[ProblemResult, ...]
    voting_tasks: tuple[str, ...]
    """Tasks (or "all") for which the run reports cons@k: their answers are short enough to vote on."""
    path: Path
    """The .jsonl file with the completions."""

    @property
    def num_samples(self) -> int:
        return int(self.policy.get("num_samples", max((p.num_samples for p in self.problems), default=0)))

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(problem.task for problem in self.problems))

    def of(self, task: str) -> tuple[ProblemResult, ...]:
        """The problems of a task; "all": those with a right answer (every problem, if none has); GENERAL: the rest."""
        general = tuple(p for p in self.problems if p.general)
        if task == GENERAL:
            return general
        if task == "all":
            return tuple(p for p in self.problems if not p.general) or general
        return tuple(p for p in self.problems if p.task == task)


@dataclass(frozen=True)
class RunRecord:
    """Everything the report needs of one run folder."""

    folder: Path
    config: dict[str, Any]
    training: tuple[dict[str, float], ...]
    """One row per optimizer step, in order; each has "step"."""
    eval_seconds: dict[int, float]
    evaluations: tuple[Evaluation, ...]
    notes: tuple[str, ...]
    """What was missing or left out, in words."""
    results: dict[str, float]
    """The last evaluation row of metrics.jsonl, of whatever the stage evaluates."""

    @property
    def stage(self) -> str:
        return str(self.config.get("stage", "rl"))

    @property
    def last_step(self) -> int:
        return int(self.training[-1]["step"]) if self.training else 0

    @property
    def finished(self) -> bool:
        """All steps are done, and so is the evaluation after the last one (in a run that evaluates at all)."""
        steps = int(self.config.get("steps", 0))
        return self.last_step >= steps and (not self.evaluations or self.evaluations[-1].step >= steps)

    def series(self, key: str) -> list[tuple[float, float]]:
        """(step, value) for every training row that has a finite value of `key`."""
        return [(row["step"], row[key]) for row in self.training if key in row and math.isfinite(row[key])]


def find_run(folder: Path) -> Path:
    """The run folder itself: `folder`, or its zero/ when it is a pipeline's. Raises FileNotFoundError."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give a run folder such as runs/zero or runs/demo")
    for candidate in (folder, folder / "zero"):
        if (candidate / "config.json").is_file():
            return candidate
    raise FileNotFoundError(
        f"{folder} has neither config.json nor zero/config.json, so it is not a run; "
        "give the folder that `r1kit rl`, `r1kit pretrain` or `r1kit run` wrote"
    )


def read_run(folder: Path) -> RunRecord:
    """Read a run folder. Missing pieces become notes; a damaged file raises ValueError."""
    config = parse(folder / "config.json")
    notes: list[str] = []
    training: dict[int, dict[str, float]] = {}
    eval_seconds: dict[int, float] = {}
    results: dict[str, float] = {}
    for row in rows(folder / "metrics.jsonl", notes):
        step = int(row["step"])
        row = {key: value for key, value in row.items() if value is not None}  # null: not finite
        if any(key.startswith("eval/") for key in row):
            eval_seconds[step] = row.get("seconds/eval", 0.0)
            results = row
        else:
            training[step] = row  # a resumed run repeats the steps after its checkpoint: the later row is the run's
    if not training:
        notes.append("metrics.jsonl has no training step yet")
    notes += [f"step {row['step']}: {row['text']}" for row in rows(folder / "notes.jsonl", notes)]
    evaluations = read_evaluations(folder / "evals", notes)
    return RunRecord(
        folder=folder,
        config=config,
        training=tuple(training[step] for step in sorted(training)),
        eval_seconds=eval_seconds,
        evaluations=tuple(evaluations),
        notes=tuple(notes),
        results=results,
    )


def read_completions(path: Path) -> list[ProblemCompletions]:
    """The problems of one evals/*.jsonl with their completions."""
    return [_problem(row) for row in rows(path, [])]


def majority_right(answers: Sequence[tuple[str, bool]]) -> float:
    """Whether the commonest of (answer, right) is right; empty answers have no vote, and no votes is 0.

    A tie gives the share of the tied answers that are right: the mean over ways to break it.
    """
    votes = Counter(answer for answer, _ in answers if answer)
    if not votes:
        return 0.0
    most = max(votes.values())
    right = {answer for answer, is_right in answers if is_right}
    leaders = [answer for answer, count in votes.items() if count == most]
    return sum(answer in right for answer in leaders) / len(leaders)


def read_evaluations(folder: Path, notes: list[str]) -> Iterator[Evaluation]:
    """The evaluations in a folder, in the order of their steps; what is left out is noted."""
    headers = sorted(folder.glob("step-*.json")) if folder.is_dir() else []
    for header in headers:
        completions = header.with_suffix(".jsonl")
        if not completions.is_file():
            name = f"{folder.name}/{completions.name}"
            notes.append(f"{name} is missing, so the evaluation in {folder.name}/{header.name} is left out")
            continue
        data = parse(header)
        problems = tuple(_result(_problem(row)) for row in rows(completions, notes))
        if not problems:
            notes.append(f"{folder.name}/{completions.name} is empty, so this evaluation is left out")
            continue
        ruled = {"all", *(p.task for p in problems if not p.general)}
        voting = tuple(
            task
            for task, row in data["results"].items()
            if task in ruled and any(key.startswith("cons@") for key in row)
        )
        yield Evaluation(int(data["step"]), data["policy"], problems, voting, completions)


def _problem(row: dict[str, Any]) -> ProblemCompletions:
    completions = tuple(
        CompletionRecord(
            text=c["text"],
            verdict=c["verdict"],
            extracted=c["extracted"],
            reason=c["reason"],
            tokens=c["tokens"],
            reflection=c["reflection"],
            finish_reason=c["finish_reason"],
            consistency=c.get("consistency"),
            readable=c.get("readable"),
            quality=c.get("quality"),
            summary=c.get("summary"),
        )
        for c in row["completions"]
    )
    general = row.get("scorer") in PREFERENCE_SCORERS or any(c.quality is not None for c in completions)
    return ProblemCompletions(row["id"], row["task"], row["prompt"], row["gold"], completions, general)


def _result(problem: ProblemCompletions) -> ProblemResult:
    completions, n = problem.completions, len(problem.completions)
    right = [c.verdict == "right" for c in completions]
    return ProblemResult(
        id=problem.id,
        task=problem.task,
        num_samples=n,
        right=sum(right) / n,
        cons=majority_right([(c.extracted, is_right) for c, is_right in zip(completions, right, strict=True)]),
        any_right=float(any(right)),
        length=sum(c.tokens for c in completions) / n,
        reflection=sum(c.reflection for c in completions) / n,
        truncated=sum(c.finish_reason == "length" for c in completions) / n,
        undecided=sum(c.verdict == "undecided" for c in completions) / n,
        consistency=_mean([c.consistency for c in completions]),
        readable=_mean([c.readable for c in completions]),
        quality=_mean([c.quality for c in completions]),
        summary=_mean([c.summary for c in completions]),
        qualities=tuple(c.quality for c in completions if c.quality is not None),
        general=problem.general,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def rows(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file; a last line cut off by a kill is left out and noted."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                if not line.endswith("\n"):
                    notes.append(f"the last line of {path.name} is cut off and left out")
                    return
                raise ValueError(f"{path}, line {number} is not JSON ({error}); restore or delete it") from error


def parse(path: Path) -> dict[str, Any]:
    """A JSON file's content. Raises ValueError naming the file when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); restore or delete it") from error
