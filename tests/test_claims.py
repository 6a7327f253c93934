"""An R1-Zero run's claims, and the intervals of all claims, against numbers worked out by hand."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from r1kit.report import claims
from r1kit.report.claims import Claim
from r1kit.report.estimates import difference, mean, paired, ratio, unpaired, wins
from r1kit.report.read import Evaluation, ProblemResult, majority_right

POLICY = {"temperature": 1.0, "num_samples": 16, "split": "heldout"}


def evaluation(
    step: int, right: list[float], *, length: float = 10.0, reflection: float = 0.0, cons: float = 0.0, **policy: object
) -> Evaluation:
    """Problems that alternate between the demo's two tasks."""
    problems = tuple(
        ProblemResult(
            f"p{i}", claims.DEMO_TASKS[i % 2], 16, value, cons, float(value > 0), length + i % 2, reflection, 0.0, 0.0
        )
        for i, value in enumerate(right)
    )
    return Evaluation(step, {**POLICY, **policy}, problems, ("remainder",), Path("unused"))


def halves(low: float, high: float, n: int = 200) -> list[float]:
    return [low] * (n // 2) + [high] * (n // 2)


def by_id(found: list[Claim]) -> dict[str, Claim]:
    return {claim.id: claim for claim in found}


def test_mean_by_hand():
    # values 0, 0.5, 1, 0.5: mean 0.5, sample variance (0.25 + 0 + 0.25 + 0) / 3 = 1/6, se = sqrt(1/24)
    estimate = mean([0.0, 0.5, 1.0, 0.5])
    assert estimate.value == 0.5
    assert estimate.se == pytest.approx(math.sqrt(1 / 24))
    assert (estimate.low, estimate.high) == pytest.approx(
        (0.5 - 1.959964 * math.sqrt(1 / 24), 0.5 + 1.959964 * math.sqrt(1 / 24))
    )


def test_one_problem_has_no_interval():
    assert mean([0.3]).se == math.inf


def test_difference_is_paired():
    # every problem gains exactly 0.25, however different the problems are: no error in the difference
    estimate = difference([0.25, 0.75, 1.0], [0.0, 0.5, 0.75])
    assert (estimate.value, estimate.se) == (0.25, 0.0)


def test_unpaired_by_hand():
    # means 3 and 1, variances 2 and 2, so se = sqrt(2/2 + 2/2)
    estimate = unpaired([2.0, 4.0], [0.0, 2.0])
    assert (estimate.value, estimate.se) == pytest.approx((2.0, math.sqrt(2)))


def test_wins_are_over_all_pairs_and_ties_are_half():
    def prompt(*qualities: float) -> ProblemResult:
        return ProblemResult("g", "general", 2, 0, 0, 0, 1, 0, 0, 0, qualities=qualities, general=True)

    # 0.9 beats 0.5 and 0.7; 0.5 ties 0.5 and loses to 0.7: (1 + 1 + 0.5 + 0) / 4
    assert wins(prompt(0.9, 0.5), prompt(0.5, 0.7)) == 0.625
    assert wins(prompt(0.9), prompt()) is None


def test_ratio_by_hand():
    # means 15 and 5: R = 3; residuals 10 - 3*4 = -2 and 20 - 3*6 = 2: variance 8, se of their mean 2, divided by 5
    estimate = ratio([10.0, 20.0], [4.0, 6.0])
    assert (estimate.value, estimate.se) == pytest.approx((3.0, 0.4))


def test_ratio_to_nothing_is_refused():
    with pytest.raises(ValueError, match="no ratio"):
        ratio([1.0, 2.0], [0.0, 0.0])


def test_ratio_interval_agrees_with_a_bootstrap_on_skewed_lengths():
    rng = random.Random(0)
    before = [rng.lognormvariate(4, 0.5) for _ in range(256)]
    after = [b * rng.lognormvariate(0.8, 0.4) for b in before]
    draws = []
    for _ in range(1000):
        picks = rng.choices(range(256), k=256)
        draws.append(sum(after[i] for i in picks) / sum(before[i] for i in picks))
    draws.sort()
    estimate = ratio(after, before)
    assert (estimate.low, estimate.high) == pytest.approx((draws[25], draws[975]), rel=0.02)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([("7", True), ("7", True), ("8", False)], 1.0),
        ([("7", True), ("8", False), ("8", False)], 0.0),
        ([("7", True), ("8", False)], 0.5),  # a tie: the mean over ways to break it
        ([("", False), ("", False), ("7", True)], 1.0),  # no answer is no vote
        ([("", False)], 0.0),
    ],
)
def test_majority(answers: list[tuple[str, bool]], expected: float):
    assert majority_right(answers) == expected


def test_a_run_that_worked():
    base = evaluation(0, halves(0.0, 0.3), length=50.0, reflection=0.5, cons=0.1)
    middle = evaluation(20, halves(0.9, 0.94), length=90.0, reflection=2.0, cons=1.0)
    final = evaluation(40, halves(0.86, 0.94), length=150.0, reflection=3.0, cons=1.0)
    found = by_id(claims.claims([base, middle, final]))
    assert list(found) == ["base", "zero", "stays", "length", "reflection", "cons"]
    assert all(claim.holds for claim in found.values())

    # base: sd of 100 x 0 and 100 x 0.3 is sqrt(200 * 0.15^2 / 199), se = sd / sqrt(200)
    se = math.sqrt(0.15**2 / 199)
    assert (found["base"].measured, found["base"].low) == pytest.approx((0.15, 0.15 - 1.959964 * se))
    assert found["zero"].measured == pytest.approx(0.90)
    assert found["stays"].measured == pytest.approx(0.02)  # 0.92 at step 20, 0.90 at step 40
    assert found["length"].measured == pytest.approx(150.5 / 50.5)  # odd problems are one token longer
    assert found["reflection"].measured == pytest.approx(2.5)
    assert found["reflection"].detail == "0.50 → 3.00 words per response, 6.0×"
    assert found["cons"].measured == pytest.approx(0.1)


def test_a_collapse_after_the_best_is_found_even_when_the_end_recovers():
    curve = [halves(0.1, 0.2), halves(0.9, 0.9), halves(0.8, 0.86), halves(0.9, 0.94)]
    stays = by_id(claims.claims([evaluation(20 * i, right) for i, right in enumerate(curve)]))["stays"]
    # 0.90 at step 20, 0.83 at step 40: a drop of 7 points; per problem 0.10 and 0.04, sd 0.03
    assert stays.measured == pytest.approx(0.07)
    assert (stays.low, stays.high) == pytest.approx(
        (0.07 - 1.959964 * math.sqrt(0.03**2 / 199), 0.07 + 1.959964 * math.sqrt(0.03**2 / 199))
    )
    assert not stays.holds
    assert "step 20 → 40" in stays.detail


def test_holds_is_the_point_estimate_and_conclusive_the_whole_interval():
    base = evaluation(0, halves(0.1, 0.2))
    unsure = by_id(claims.claims([base, evaluation(20, halves(0.72, 1.0))]))["zero"]  # 0.86 +- 0.019
    assert unsure.low is not None and unsure.low < 0.85
    assert (unsure.holds, unsure.conclusive) == (True, False)
    sure = by_id(claims.claims([base, evaluation(20, halves(0.84, 0.9))]))["zero"]  # 0.87 +- 0.004
    assert (sure.holds, sure.conclusive) == (True, True)


@pytest.mark.parametrize(("right", "holds"), [(0.07, False), (0.09, True), (0.24, True), (0.26, False)])
def test_base_must_be_in_range(right: float, holds: bool):
    assert by_id(claims.claims([evaluation(0, [right] * 200)]))["base"].holds is holds


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (evaluation(0, [0.15] * 199), "199 problems"),
        (evaluation(0, [0.15] * 200, num_samples=4), "4 samples"),
        (evaluation(0, [0.15] * 200, temperature=0.6), "temperature 0.6"),
        (evaluation(0, [0.15] * 200, split="train"), "split train"),
        (evaluation(20, [0.15] * 200), "not the base model"),
    ],
)
def test_another_protocol_does_not_count(changed: Evaluation, says: str):
    base = by_id(claims.claims([changed]))["base"]
    assert base.measured == pytest.approx(0.15)
    assert not base.holds
    assert says in base.detail


def test_a_drop_in_length_or_reflection_does_not_hold():
    found = by_id(
        claims.claims(
            [
                evaluation(0, [0.1] * 200, length=50, reflection=2.0),
                evaluation(20, [0.9] * 200, length=60, reflection=1.5),
            ]
        )
    )
    assert not found["length"].holds
    assert found["reflection"].measured == pytest.approx(-0.5)
    assert not found["reflection"].holds


def test_an_unfinished_run_shows_nothing_about_its_end():
    found = by_id(claims.claims([evaluation(0, [0.1] * 200), evaluation(20, [0.9] * 200)], finished=False))
    assert found["base"].holds
    assert not found["zero"].holds and "not finished" in found["zero"].detail
    assert (found["base"].verdict, found["zero"].verdict) == ("holds", "not yet")


def test_changes_need_two_evaluations():
    found = by_id(claims.claims([evaluation(0, [0.1] * 200)]))
    assert [found[id].measured for id in ("stays", "length", "reflection")] == [None, None, None]
    assert not any(found[id].holds for id in ("stays", "length", "reflection"))


def test_a_verdict_says_where_the_interval_disagrees():
    base = evaluation(0, halves(0.1, 0.2))

    def zero(low: float, high: float) -> Claim:
        return by_id(claims.claims([base, evaluation(20, halves(low, high))]))["zero"]

    assert (zero(0.84, 0.9).verdict, zero(0.84, 0.9).remark) == ("holds", "")
    assert (zero(0.72, 1.0).verdict, zero(0.72, 1.0).remark) == ("holds", "but not its whole interval")
    assert (zero(0.68, 1.0).verdict, zero(0.68, 1.0).remark) == ("does not hold", "but part of its interval does")
    assert (zero(0.5, 0.6).verdict, zero(0.5, 0.6).remark) == ("does not hold", "")


def test_only_shared_problems_are_compared_and_none_is_an_error():
    one, other = evaluation(0, [0.1, 0.2, 0.9]), evaluation(20, [0.5, 0.6])
    assert paired(other, one, lambda p: p.right) == ([0.5, 0.6], [0.1, 0.2])
    stranger = Evaluation(20, POLICY, (ProblemResult("x", "remainder", 16, 1, 1, 1, 1, 0, 0, 0),), (), Path("unused"))
    with pytest.raises(ValueError, match="steps 20 and 0 share no problem"):
        claims.claims([one, stranger])


def test_other_tasks_are_not_held_to_the_demo_thresholds():
    def gsm8k(step: int, right: float) -> Evaluation:
        problems = tuple(
            ProblemResult(f"g{i}", "gsm8k", 4, right, 0, 1, 100 + i + 100 * step, 0, 0, 0) for i in range(50)
        )
        return Evaluation(step, POLICY, problems, (), Path("unused"))

    found = by_id(claims.claims([gsm8k(0, 0.4), gsm8k(1, 0.6)]))
    assert list(found) == ["risen", "stays", "length", "reflection"]
    assert found["risen"].measured == pytest.approx(0.2)
    assert found["risen"].conclusive


def test_no_evaluations_no_claims():
    assert claims.claims([]) == []
