"""Means over problems with their standard errors, and comparisons of two evaluations over the same problems.

The problem is the unit of sampling: a problem's completions are averaged first, and intervals come from the spread over
problems (paired where two evaluations are compared), estimate +- 1.96 standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from r1kit.report.read import Evaluation, ProblemResult

Z95 = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A mean (or a function of means) over problems, with its standard error; `n` is the number of problems."""

    value: float
    se: float
    n: int

    @property
    def low(self) -> float:
        return self.value - Z95 * self.se

    @property
    def high(self) -> float:
        return self.value + Z95 * self.se


def mean(values: Sequence[float]) -> Estimate:
    """Mean over problems; standard error = sample standard deviation / sqrt(n), infinite for one value."""
    n = len(values)
    centre = math.fsum(values) / n
    if n == 1:
        return Estimate(centre, math.inf, 1)
    variance = math.fsum((value - centre) ** 2 for value in values) / (n - 1)
    return Estimate(centre, math.sqrt(variance / n), n)


def difference(after: Sequence[float], before: Sequence[float]) -> Estimate:
    """Mean of after - before, paired over problems."""
    return mean([a - b for a, b in zip(after, before, strict=True)])


def ratio(after: Sequence[float], before: Sequence[float]) -> Estimate:
    """mean(after) / mean(before), paired over problems; standard error by the delta method.

    se = se of mean(after - R * before) / mean(before), with R the ratio (Cochran 1977, eq. 2.46).
    """
    denominator = math.fsum(before) / len(before)
    if denominator == 0:
        raise ValueError("the mean before is 0, so there is no ratio; compare the difference")
    value = math.fsum(after) / math.fsum(before)
    residual = mean([a - value * b for a, b in zip(after, before, strict=True)])
    return Estimate(value, residual.se / abs(denominator), len(after))


def unpaired(after: Sequence[float], before: Sequence[float]) -> Estimate:
    """mean(after) - mean(before) of two independent sets (Welch's standard error)."""
    now, then = mean(after), mean(before)
    return Estimate(now.value - then.value, math.hypot(now.se, then.se), min(now.n, then.n))


def paired(
    after: Evaluation, before: Evaluation, field: Callable[[ProblemResult], float | None], task: str = "all"
) -> tuple[list[float], list[float]]:
    """The field's values in two evaluations, over the problems that have it in both, in the same order."""
    then = {(p.task, p.id): field(p) for p in before.of(task)}
    now = {(p.task, p.id): field(p) for p in after.of(task)}
    pairs = [(a, b) for key, b in then.items() if b is not None and (a := now.get(key)) is not None]
    if not pairs:
        raise ValueError(
            f"the evaluations of steps {before.step} and {after.step} share no problem; "
            "evaluate both with the same --eval.seed and --eval.num-problems"
        )
    return [a for a, _ in pairs], [b for _, b in pairs]


def over(evaluation: Evaluation, field: Callable[[ProblemResult], float | None], task: str = "all") -> Estimate | None:
    """Mean of the field over the problems that have it; None when none has."""
    values = [value for p in evaluation.of(task) if (value := field(p)) is not None]
    return mean(values) if values else None


def pass_at_1(evaluation: Evaluation, task: str = "all") -> Estimate:
    """Share of right completions, averaged over problems."""
    return mean([p.right for p in evaluation.of(task)])


def wins(mine: ProblemResult, theirs: ProblemResult) -> float | None:
    """Share of all pairs of the two models' completions of one prompt in which mine is of higher quality; ties half."""
    pairs = [(a, b) for a in mine.qualities for b in theirs.qualities]
    return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs) if pairs else None


def win_rate(mine: Evaluation, theirs: Evaluation) -> Estimate | None:
    """Mean over the shared prompts of `wins`; None when no prompt has qualities in both."""
    others = {(p.task, p.id): p for p in theirs.problems}
    shared = [(p, others[p.task, p.id]) for p in mine.problems if (p.task, p.id) in others]
    values = [value for a, b in shared if (value := wins(a, b)) is not None]
    return mean(values) if values else None
