"""What an RL run set out to show, computed from its evaluations: numbers, 95% intervals, and whether each claim holds.

`pipeline_claims.py` has the claims of the whole recipe, made of the same parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from r1kit.report.estimates import Estimate, difference, mean, paired, pass_at_1, ratio
from r1kit.report.paper import CLAIMS as PAPER
from r1kit.report.read import Evaluation

DEMO_TASKS = ("countdown", "remainder")
BASE_RANGE = (0.08, 0.25)
ZERO_AT_LEAST = 0.85
LARGEST_DROP = 0.05
LENGTH_RATIO = 2.0
MIN_PROBLEMS, MIN_SAMPLES = 200, 16

Unit = Literal["share", "points", "ratio", "words"]
Verdict = Literal["holds", "does not hold", "not yet", "not measured", "not measured yet"]


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
    verdict: Verdict
    remark: str = ""
    """What the interval adds to the verdict."""
    tried: str = ""
    """For a claim that does not hold: what was tried."""


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
    return [c if c.id == "base" else not_yet(c, "the run has not finished") for c in found]


def judge(
    id: str,
    statement: str,
    unit: Unit,
    estimate: Estimate,
    meets: Callable[[float], bool],
    detail: str,
    broken: str = "",
    *,
    sure: bool = True,
) -> Claim:
    """A claim from an estimate. `meets` is true on an interval of values, so both ends meeting it means all do.

    `broken` says why the claim cannot hold whatever the number is; `sure` is false when something besides the estimate
    that the claim needs is not beyond doubt.
    """
    holds = meets(estimate.value) and not broken
    known = math.isfinite(estimate.se)
    ends = [meets(estimate.low), meets(estimate.high)] if known else [False]
    conclusive = holds and all(ends) and sure
    if holds:
        remark = "" if conclusive else "but not beyond doubt" if all(ends) else "but not its whole interval"
    else:
        remark = "but part of its interval does" if any(ends) and not broken else ""
    return Claim(
        id=id,
        statement=statement,
        paper=PAPER[id],
        unit=unit,
        measured=estimate.value,
        low=estimate.low if known else None,
        high=estimate.high if known else None,
        holds=holds,
        conclusive=conclusive,
        detail="; ".join(part for part in (detail, broken) if part),
        verdict="holds" if holds else "does not hold",
        remark=remark,
    )


def unmeasured(id: str, statement: str, unit: Unit, detail: str, verdict: Verdict = "not measured") -> Claim:
    """A claim that the files say nothing about yet; `detail` is what is missing."""
    return Claim(
        id, statement, PAPER[id], unit, None, None, None, holds=False, conclusive=False, detail=detail, verdict=verdict
    )


def not_yet(claim: Claim, why: str) -> Claim:
    """The claim about something that has not finished: its number stands, but it cannot hold before the end."""
    verdict = "not yet" if claim.measured is not None else claim.verdict
    detail = "; ".join(part for part in (claim.detail, why) if part)
    return replace(claim, holds=False, conclusive=False, verdict=verdict, remark="", detail=detail)


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
    return judge(
        "base",
        f"the base solves {low:.0%} to {high:.0%} (pass@1)",
        "share",
        pass_at_1(first),
        lambda value: low <= value <= high,
        _sizes(first),
        broken,
    )


def _zero(final: Evaluation) -> Claim:
    return judge(
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
        return unmeasured("risen", statement, "points", "needs a second evaluation")
    first, final = evaluations[0], evaluations[-1]
    rise = difference(*paired(final, first, lambda p: p.right))
    detail = f"{pass_at_1(first).value:.1%} → {pass_at_1(final).value:.1%}"
    return judge("risen", statement, "points", rise, lambda value: value > 0, detail)


def _stays(evaluations: Sequence[Evaluation]) -> Claim:
    """The largest drop of any evaluation below the best one before it; negative when every one is a new best."""
    statement = f"no evaluation falls more than {LARGEST_DROP * 100:.0f} points below the best before it"
    if len(evaluations) < 2:
        return unmeasured("stays", statement, "points", "needs a second evaluation")
    drops = []
    for i in range(1, len(evaluations)):
        best = max(evaluations[:i], key=lambda e: pass_at_1(e).value)
        drops.append((difference(*paired(best, evaluations[i], lambda p: p.right)), best.step, evaluations[i].step))
    drop, best_step, step = max(drops, key=lambda item: item[0].value)
    detail = f"largest drop of {len(drops)}: step {best_step} → {step}"
    if drop.value <= 0:
        detail = f"none: every evaluation is a new best, by the least at step {best_step} → {step}"
    return judge("stays", statement, "points", drop, lambda value: value <= LARGEST_DROP, detail)


def _length(evaluations: Sequence[Evaluation]) -> Claim:
    statement = f"the mean response is at least {LENGTH_RATIO:g} times as long as the base's"
    if len(evaluations) < 2:
        return unmeasured("length", statement, "ratio", "needs a second evaluation")
    after, before = paired(evaluations[-1], evaluations[0], lambda p: p.length)
    if not any(before):
        raise ValueError("every completion of the first evaluation has 0 tokens; the evaluation's files are wrong")
    detail = f"{mean(before).value:.1f} → {mean(after).value:.1f} tokens"
    return judge("length", statement, "ratio", ratio(after, before), lambda value: value >= LENGTH_RATIO, detail)


def _reflection(evaluations: Sequence[Evaluation]) -> Claim:
    """A difference, not a ratio, because a base may use no reflection word at all."""
    statement = "responses hold more reflection words than the base's"
    if len(evaluations) < 2:
        return unmeasured("reflection", statement, "words", "needs a second evaluation")
    after, before = paired(evaluations[-1], evaluations[0], lambda p: p.reflection)
    then, now = mean(before).value, mean(after).value
    detail = f"{then:.2f} → {now:.2f} words per response" + (f", {now / then:.1f}×" if then else "")
    return judge("reflection", statement, "words", difference(after, before), lambda value: value > 0, detail)


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
    return judge("cons", statement, "points", gain(final), lambda value: value > 0, detail)
