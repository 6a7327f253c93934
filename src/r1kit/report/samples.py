"""The same held-out problem answered by several models, picked by rule, not by eye.

Only the first completion of each problem is looked at, and of the problems that fit a case the one whose last model's
completion has the median length is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from r1kit.report.paper import NAMES, highlight
from r1kit.report.pipeline_claims import quality_drop
from r1kit.report.read import CompletionRecord, Evaluation, ProblemCompletions, read_completions
from r1kit.report.read_pipeline import PipelineRecord

CHINESE = re.compile(r"[\u4e00-\u9fff]")
CHECKPOINTS = ("base", "zero", "dev1", "dev2", "dev3", "r1")
STUDENTS = ("student-base", "student-rl", "student-distilled", "student-on-policy")


@dataclass(frozen=True)
class Side:
    """One model's first completion of the problem."""

    name: str
    html: Markup
    verdict: str
    chip: str
    """The chip's CSS class: right, wrong or undecided."""
    about: str
    """Its length and the like, and how the model's other samples of the problem did."""
    reason: str


@dataclass(frozen=True)
class Lineup:
    """One problem with the models' completions, and the rule that picked it."""

    task: str
    rule: str
    prompt: str
    gold: str
    sides: tuple[Side, ...]


@dataclass(frozen=True)
class _Row:
    """One problem as every model answered it, in order."""

    answers: tuple[ProblemCompletions, ...]

    @property
    def last(self) -> ProblemCompletions:
        return self.answers[-1]

    @property
    def chinese(self) -> bool:
        return bool(CHINESE.search(self.last.prompt))

    @property
    def verdicts(self) -> tuple[str, str]:
        """Of the first and the last model."""
        return self.answers[0].completions[0].verdict, self.last.completions[0].verdict

    @property
    def gain(self) -> float:
        """In the quality of the first completion, from the last model but one to the last."""
        before, after = (answer.completions[0].quality or 0.0 for answer in self.answers[-2:])
        return after - before


_Case = tuple[str, Callable[[_Row], bool]]

LEARNT: tuple[_Case, ...] = (
    ("wrong before, right after", lambda row: row.verdicts == ("wrong", "right") and not row.chinese),
    ("in Chinese, wrong before, right after", lambda row: row.verdicts == ("wrong", "right") and row.chinese),
)
NOT_YET: _Case = ("still not right after", lambda row: row.verdicts[1] != "right")


def before_after(first: Evaluation, final: Evaluation) -> list[Lineup]:
    """For every task: learnt, learnt in Chinese, and still not right, as far as there are such problems."""
    names = f"before, step {first.step}" if first.step else "before, base model", f"after, step {final.step}"
    return lineups([(names[0], first), (names[1], final)], (*LEARNT, NOT_YET))


def checkpoints(record: PipelineRecord) -> list[Lineup]:
    """The recipe's checkpoints beside each other: problems that the first gets wrong and the last right."""
    models = [(NAMES[name], record.evaluations[name]) for name in CHECKPOINTS if name in record.evaluations]
    return lineups(models, LEARNT) if len(models) > 1 else []


def general(record: PipelineRecord) -> list[Lineup]:
    """A general prompt in each language that the last model answers better than the one before it."""
    models = [(NAMES[name], record.general[name]) for name in CHECKPOINTS if name in record.general]
    cases: Sequence[_Case] = (
        ("better after", lambda row: row.gain > 0 and not row.chinese),
        ("in Chinese, better after", lambda row: row.gain > 0 and row.chinese),
    )
    return lineups(models, cases) if len(models) > 1 else []


def hacked(record: PipelineRecord) -> list[Lineup]:
    """A general prompt whose answer became worse while the preference reward went on."""
    if (run := record.runs.get("hacking")) is None or (drop := quality_drop(run)) is None:
        return []
    models = [(f"hacking, step {evaluation.step}", evaluation) for evaluation in drop[:2]]
    return lineups(models, [("worse after", lambda row: row.gain < 0)], general_only=True)


def students(record: PipelineRecord) -> list[Lineup]:
    """The students beside each other: problems that the distilled one gets right and its base wrong."""
    models = [(NAMES[name], record.evaluations[name]) for name in STUDENTS if name in record.evaluations]
    return lineups(models, LEARNT[:1]) if len(models) > 1 else []


def lineups(
    models: Sequence[tuple[str, Evaluation]], cases: Sequence[_Case], *, general_only: bool = False
) -> list[Lineup]:
    """For every task of the last model and every case, one problem that all models answered and no other case took."""
    read = [{(p.task, p.id): p for p in read_completions(evaluation.path)} for _, evaluation in models]
    rows = [
        _Row(tuple(answers[key] for answers in read)) for key in read[-1] if all(key in answers for answers in read)
    ]
    names, found = [name for name, _ in models], list[Lineup]()
    for task in models[-1][1].tasks:
        taken: set[str] = set()
        for what, fits in cases:
            fitting = [
                row for row in rows if row.last.task == task and fits(row) and row.last.id not in taken
                and (row.last.general or not general_only)
            ]  # fmt: skip
            if not fitting:
                continue
            row = _median(fitting)
            taken.add(row.last.id)
            rule = f"{what}; the median length of {len(fitting)} such problem{'s' if len(fitting) != 1 else ''}"
            sides = tuple(_side(name, answer) for name, answer in zip(names, row.answers, strict=True))
            found.append(Lineup(task, rule, row.last.prompt, _expected(row.last), sides))
    return found


def _median(rows: Sequence[_Row]) -> _Row:
    ordered = sorted(rows, key=lambda row: (row.last.completions[0].tokens, row.last.id))
    return ordered[(len(ordered) - 1) // 2]


def _side(name: str, problem: ProblemCompletions) -> Side:
    first: CompletionRecord = problem.completions[0]
    about = [
        f"{first.tokens} tokens" + (", cut off at the cap" if first.finish_reason == "length" else ""),
        f"{first.reflection} reflection word{'' if first.reflection == 1 else 's'}",
    ]
    if first.consistency is not None and first.consistency < 1:
        about.append(f"{first.consistency:.0%} in the prompt's language")
    verdict, chip, n = first.verdict, first.verdict, len(problem.completions)
    qualities = [c.quality for c in problem.completions if c.quality is not None]
    if problem.general and first.quality is not None:
        verdict, chip = f"quality {first.quality:.0%}", "undecided"
        about[1:2] = [f"mean of {n} samples {fmean(qualities):.0%}"]
    else:
        about.append(f"{sum(c.verdict == 'right' for c in problem.completions)} of {n} samples right")
    return Side(name, highlight(first.text), verdict, chip, "; ".join(about), first.reason)


def _expected(problem: ProblemCompletions) -> str:
    """The gold, where there is one right answer."""
    if problem.general:
        return ""
    return problem.gold if isinstance(problem.gold, str) else json.dumps(problem.gold, ensure_ascii=False)
