"""Before and after: the same held-out problem answered by the base and by the final model, picked by rule, not by eye.

Only the first completion of each problem is looked at, and of the problems that fit a case the one whose final
completion has the median length is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from r1kit.report.paper import highlight
from r1kit.report.read import CompletionRecord, Evaluation, ProblemCompletions, read_completions

CHINESE = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Side:
    """One model's first completion of the problem."""

    name: str
    html: Markup
    verdict: str
    reason: str
    tokens: int
    reflection: int
    truncated: bool
    num_right: int
    num_samples: int


@dataclass(frozen=True)
class BeforeAfter:
    """One problem with both completions, and the rule that picked it."""

    task: str
    rule: str
    prompt: str
    gold: str
    before: Side
    after: Side


@dataclass(frozen=True)
class _Pair:
    before: ProblemCompletions
    after: ProblemCompletions

    @property
    def verdicts(self) -> tuple[str, str]:
        return self.before.completions[0].verdict, self.after.completions[0].verdict


def before_after(first: Evaluation, final: Evaluation) -> list[BeforeAfter]:
    """For every task: learnt, still not right, and learnt in Chinese, as far as there are such problems."""
    before = {(p.task, p.id): p for p in read_completions(first.path)}
    pairs = [_Pair(before[p.task, p.id], p) for p in read_completions(final.path) if (p.task, p.id) in before]
    found: list[BeforeAfter] = []
    for task in final.tasks:
        taken: set[str] = set()
        for what, fits in _CASES:
            fitting = [p for p in pairs if p.after.task == task and fits(p) and p.after.id not in taken]
            if not fitting:
                continue
            pair = _median(fitting)
            taken.add(pair.after.id)
            rule = f"{what}; the median length of {len(fitting)} such problem{'s' if len(fitting) != 1 else ''}"
            sides = _side("before", first.step, pair.before), _side("after", final.step, pair.after)
            found.append(BeforeAfter(task, rule, pair.after.prompt, _text(pair.after.gold), *sides))
    return found


_CASES: Sequence[tuple[str, Callable[[_Pair], bool]]] = (
    ("wrong before, right after", lambda p: p.verdicts == ("wrong", "right") and not CHINESE.search(p.after.prompt)),
    (
        "in Chinese, wrong before, right after",
        lambda p: p.verdicts == ("wrong", "right") and bool(CHINESE.search(p.after.prompt)),
    ),
    ("still not right after", lambda p: p.verdicts[1] != "right"),
)


def _median(pairs: Sequence[_Pair]) -> _Pair:
    ordered = sorted(pairs, key=lambda p: (p.after.completions[0].tokens, p.after.id))
    return ordered[(len(ordered) - 1) // 2]


def _side(name: str, step: int, problem: ProblemCompletions) -> Side:
    first: CompletionRecord = problem.completions[0]
    return Side(
        name=f"{name}, step {step}" if step else "before, base model",
        html=highlight(first.text),
        verdict=first.verdict,
        reason=first.reason,
        tokens=first.tokens,
        reflection=first.reflection,
        truncated=first.finish_reason == "length",
        num_right=sum(c.verdict == "right" for c in problem.completions),
        num_samples=len(problem.completions),
    )


def _text(gold: object) -> str:
    return gold if isinstance(gold, str) else json.dumps(gold, ensure_ascii=False)
