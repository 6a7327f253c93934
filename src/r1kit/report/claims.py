"""What a run set out to show, computed from its evaluations: numbers, 95% intervals, and whether each claim holds.

The problem is the unit of sampling: a problem's completions are averaged first, and intervals come from the spread over
problems (paired over the same problems where two evaluations are compared), estimate +- 1.96 standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from r1kit.report.paper import CLAIMS as PAPER
from r1kit.report.read import Evaluation, ProblemResult

Z95 = 1.959964
DEMO_TASKS = ("countdown", "remainder")
BASE_RANGE = (0.08, 0.25)
ZERO_AT_LEAST = 0.85
LARGEST_DROP = 0.05
LENGTH_RATIO = 2.0
MIN_PROBLEMS, MIN_SAMPLES = 200, 16

Unit = Literal["share", "points", "ratio", "words"]


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


@dataclass(frozen=True)
class Claim:
    """One statement about a run and what the run's files say of it."""

    id: str
    statement: str
    paper: str
    """The paper's number for the same thing."""
    unit: Unit
    """share: 0 to 1. points: difference of shares, 0.01 is one point. ratio: after / before. words: a difference."""
    measured: float | None
    low: float | None
    high: float | None
    """95% interval; None, like `measured`, when the run lacks the evaluations."""
    holds: bool
    """The point estimate meets the statement, under the protocol that the statement names, in a finished run."""
    conclusive: bool
    """The claim holds and the whole interval is on the claimed side."""
    detail: str
    """The numbers behind `measured`, and why it does not count where it does not."""


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


def paired(
    after: Evaluation, before: Evaluation, field: Callable[[ProblemResult], float]
) -> tuple[list[float], list[float]]:
    """The field's values in two evaluations, over the problems that both have, in the same order."""
    then = {(p.task, p.id): field(p) for p in before.problems}
    now = {(p.task, p.id): field(p) for p in after.problems}
    keys = [key for key in then if key in now]
    if not keys:
        raise ValueError(
            f"the evaluations of steps {before.step} and {after.step} share no problem; "
            "evaluate both with the same --eval.seed and --eval.num-problems"
        )
    return [now[key] for key in keys], [then[key] for key in keys]


def pass_at_1(evaluation: Evaluation, task: str = "all") -> Estimate:
    """Share of right completions, averaged over problems."""
    return mean([p.right for p in evaluation.of(task)])


def claims(evaluations: Sequence[Evaluation], *, finished: bool = True) -> list[Claim]:
    """The claims of issue "R1-Zero on a laptop" for the demo's tasks; for other tasks those that make sense of any run.

    `evaluations` are in the order of steps, the first being the base model's. Thresholds are met by the point
    estimate (`holds`) and, separately, by the whole interval (`conclusive`). An unfinished run shows nothing about its
    end, so only what is said of the base can hold.
    """
    if not evaluations:
        return []
    first, final = evaluations[0], evaluations[-1]
    demo = set(first.tasks) == set(DEMO_TASKS)
    found = [_base(first), _zero(final)] if demo else [_risen(evaluations)]
    found += [_stays(evaluations), _length(evaluations), _reflection(evaluations)]
    if voting := [task for task in final.voting_tasks if task != "all"]:
        found.append(_cons(evaluations, DEMO_TASKS[1] if DEMO_TASKS[1] in voting else voting[0]))
    if finished:
        return found
    return [
        c
        if c.id == "base"
        else replace(c, holds=False, conclusive=False, detail=f"{c.detail}; the run has not finished")
        for c in found
    ]


def _claim(
    id: str,
    statement: str,
    unit: Unit,
    estimate: Estimate,
    meets: Callable[[float], bool],
    detail: str,
    broken: str = "",
) -> Claim:
    """A claim from an estimate. `meets` is true on an interval of values, so both ends meeting it means all do."""
    holds = meets(estimate.value) and not broken
    known = math.isfinite(estimate.se)
    return Claim(
        id=id,
        statement=statement,
        paper=PAPER[id],
        unit=unit,
        measured=estimate.value,
        low=estimate.low if known else None,
        high=estimate.high if known else None,
        holds=holds,
        conclusive=holds and known and meets(estimate.low) and meets(estimate.high),
        detail="; ".join(part for part in (detail, broken) if part),
    )


def _unmeasured(id: str, statement: str, unit: Unit) -> Claim:
    detail = "needs a second evaluation"
    return Claim(id, statement, PAPER[id], unit, None, None, None, holds=False, conclusive=False, detail=detail)


def _protocol(evaluation: Evaluation) -> str:
    """What the evaluation lacks of the demo's protocol; empty when nothing."""
    lacks = []
    if len(evaluation.problems) < MIN_PROBLEMS:
        lacks.append(f"{len(evaluation.problems)} problems, fewer than {MIN_PROBLEMS}")
    if evaluation.num_samples < MIN_SAMPLES:
        lacks.append(f"{evaluation.num_samples} samples each, fewer than {MIN_SAMPLES}")
    if (temperature := evaluation.policy.get("temperature")) != 1.0:
        lacks.append(f"temperature {temperature}, not 1")
    if (split := evaluation.policy.get("split")) != "heldout":
        lacks.append(f"split {split}, not heldout")
    return f"not the claim's protocol: {', '.join(lacks)}" if lacks else ""


def _sizes(evaluation: Evaluation) -> str:
    return f"{len(evaluation.problems)} problems × {evaluation.num_samples} samples at step {evaluation.step}"


def _base(first: Evaluation) -> Claim:
    low, high = BASE_RANGE
    broken = "; ".join(part for part in (_protocol(first), "" if first.step == 0 else "not the base model") if part)
    return _claim(
        "base",
        f"the base solves {low:.0%} to {high:.0%} (pass@1)",
        "share",
        pass_at_1(first),
        lambda value: low <= value <= high,
        _sizes(first),
        broken,
    )


def _zero(final: Evaluation) -> Claim:
    return _claim(
        "zero",
        f"R1-Zero solves at least {ZERO_AT_LEAST:.0%} (pass@1)",
        "share",
        pass_at_1(final),
        lambda value: value >= ZERO_AT_LEAST,
        _sizes(final),
        _protocol(final),
    )


def _risen(evaluations: Sequence[Evaluation]) -> Claim:
    statement = "pass@1 rises from the first evaluation to the last"
    if len(evaluations) < 2:
        return _unmeasured("risen", statement, "points")
    first, final = evaluations[0], evaluations[-1]
    rise = difference(*paired(final, first, lambda p: p.right))
    detail = f"{pass_at_1(first).value:.1%} → {pass_at_1(final).value:.1%}"
    return _claim("risen", statement, "points", rise, lambda value: value > 0, detail)


def _stays(evaluations: Sequence[Evaluation]) -> Claim:
    """The largest drop of any evaluation below the best one before it; negative when every one is a new best."""
    statement = f"no evaluation falls more than {LARGEST_DROP * 100:.0f} points below the best before it"
    if len(evaluations) < 2:
        return _unmeasured("stays", statement, "points")
    drops = []
    for i in range(1, len(evaluations)):
        best = max(evaluations[:i], key=lambda e: pass_at_1(e).value)
        drops.append((difference(*paired(best, evaluations[i], lambda p: p.right)), best.step, evaluations[i].step))
    drop, best_step, step = max(drops, key=lambda item: item[0].value)
    detail = f"largest drop of {len(drops)}: step {best_step} → {step}"
    if drop.value <= 0:
        detail = f"none: every evaluation is a new best, by the least at step {best_step} → {step}"
    return _claim("stays", statement, "points", drop, lambda value: value <= LARGEST_DROP, detail)


def _length(evaluations: Sequence[Evaluation]) -> Claim:
    statement = f"the mean response is at least {LENGTH_RATIO:g} times as long as the base's"
    if len(evaluations) < 2:
        return _unmeasured("length", statement, "ratio")
    after, before = paired(evaluations[-1], evaluations[0], lambda p: p.length)
    if not any(before):
        raise ValueError("every completion of the first evaluation has 0 tokens; the evaluation's files are wrong")
    detail = f"{mean(before).value:.1f} → {mean(after).value:.1f} tokens"
    return _claim("length", statement, "ratio", ratio(after, before), lambda value: value >= LENGTH_RATIO, detail)


def _reflection(evaluations: Sequence[Evaluation]) -> Claim:
    """A difference, not a ratio, because a base may use no reflection word at all."""
    statement = "responses hold more reflection words than the base's"
    if len(evaluations) < 2:
        return _unmeasured("reflection", statement, "words")
    after, before = paired(evaluations[-1], evaluations[0], lambda p: p.reflection)
    then, now = mean(before).value, mean(after).value
    detail = f"{then:.2f} → {now:.2f} words per response" + (f", {now / then:.1f}×" if then else "")
    return _claim("reflection", statement, "words", difference(after, before), lambda value: value > 0, detail)


def _cons(evaluations: Sequence[Evaluation], task: str) -> Claim:
    """Measured on the final model; the largest gain of any evaluation is only told, because it is picked."""
    final = evaluations[-1]

    def gain(evaluation: Evaluation) -> Estimate:
        problems = evaluation.of(task)
        return difference([p.cons for p in problems], [p.right for p in problems])

    k = final.num_samples
    cons, single = mean([p.cons for p in final.of(task)]).value, pass_at_1(final, task).value
    most = max((e for e in evaluations if task in e.voting_tasks), key=lambda e: gain(e).value)
    detail = f"{task}: {cons:.1%} against {single:.1%} at step {final.step}"
    if most is not final:
        detail += f" (most: {gain(most).value * 100:+.1f} points at step {most.step})"
    statement = f"a majority vote over {k} beats one sample (cons@{k} > pass@1)"
    return _claim("cons", statement, "points", gain(final), lambda value: value > 0, detail)
