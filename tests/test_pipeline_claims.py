"""The claims about the whole recipe, C1 to C9, against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from r1kit.report import pipeline_claims as pc
from r1kit.report.claims import Claim
from r1kit.report.paper import CLAIMS, NAMES
from r1kit.report.read import Evaluation, ProblemResult, RunRecord
from r1kit.report.read_pipeline import PipelineRecord, Stage

POLICY = {"temperature": 1.0, "num_samples": 16, "split": "heldout"}
TASKS = ("countdown", "remainder")
N = 200


def scored(
    right: float | Sequence[float], *, consistency: float | None = 1.0, readable: float | None = 1.0,
    length: float = 10, reflection: float = 0, cons: float = 0, ids: str = "p", step: int = 0, **policy: object,
) -> Evaluation:  # fmt: skip
    """Problems of both demo tasks in turn; every number the same for all unless `right` is a list."""
    rights = [right] * N if isinstance(right, int | float) else right
    problems = tuple(
        ProblemResult(
            f"{ids}{i}", TASKS[i % 2], 16, value, cons, 1, length + i % 2, reflection, 0, 0,
            consistency=consistency, readable=readable,
        )
        for i, value in enumerate(rights)
    )  # fmt: skip
    return Evaluation(step, {**POLICY, **policy}, problems, ("remainder",), Path("unused"))


def judged(*qualities: tuple[float, ...], step: int = 0) -> Evaluation:
    """One general prompt for each tuple of its completions' qualities."""
    problems = tuple(
        ProblemResult(
            f"g{i}", "general", len(q), 0, 0, 0, 10, 0, 0, 0, quality=sum(q) / len(q), qualities=q, general=True
        )
        for i, q in enumerate(qualities)
    )
    return Evaluation(step, POLICY, problems, (), Path("unused"))


def spread(low: float, high: float) -> list[float]:
    return [low, high] * (N // 2)


def half_width(low: float, high: float, n: int = N) -> float:
    """Half of the 95% interval of the mean of n values, half of them low and half high."""
    return 1.959964 * (high - low) / 2 / math.sqrt(n - 1)


RECIPE = {
    "base": scored(0.15, length=50, reflection=0.5, consistency=0.9, readable=0.2),
    "zero": scored(0.88, length=150, reflection=3.0, consistency=0.9, readable=0.4, cons=0.95),
    "dev1": scored(0.70, readable=0.9),
    "dev2": scored(0.87, consistency=0.99),
    "dev2-no-language": scored(0.89, consistency=0.93),
    "dev3": scored(0.86),
    "r1": scored(0.89, readable=0.97),
    "student-base": scored(0.1),
    "student-distilled": scored(0.75),
    "student-rl": scored(0.55),
}


def hacking(qualities: Sequence[float], rewards: Sequence[float], every: int = 10) -> RunRecord:
    """An RL run on general prompts: one quality per evaluation, from step 0 on, and one reward per step."""
    evaluations = tuple(judged(*[(q, q + 0.1)] * 20, step=every * i) for i, q in enumerate(qualities))
    training = tuple({"step": i + 1, "reward/preference": value} for i, value in enumerate(rewards))
    return RunRecord(Path("hacking"), {"stage": "rl"}, training, {}, evaluations, (), {})


HACKED = hacking([0.6, 0.8, 0.5], [0.1] * 10 + [0.9, 1.1] * 5)


def record(
    changed: Mapping[str, Evaluation | None] | None = None,
    *,
    finished: bool = True,
    general: dict[str, Evaluation] | None = None,
    run: RunRecord | None = HACKED,
    hacking_state: str = "done",
) -> PipelineRecord:
    """The recipe above; a checkpoint that is changed to None has no evaluation."""
    evaluations = {name: e for name, e in {**RECIPE, **(changed or {})}.items() if e is not None}
    general = {"r1": judged((0.9,), (0.5,)), "dev3": judged((0.5,), (0.5,))} if general is None else general
    stage = Stage("hacking", "rl", ("r1",), hacking_state, 1.0)
    runs = {} if run is None else {"hacking": run}
    return PipelineRecord(Path("x"), {"finished": finished}, (stage,), runs, evaluations, general, {})


def found(made: PipelineRecord) -> dict[str, Claim]:
    return {claim.id: claim for claim in pc.pipeline_claims(made)}


def test_every_claim_by_hand():
    claims = found(record())
    assert list(claims) == [id for id in CLAIMS if id.startswith("C")]
    assert all(claim.holds for claim in claims.values())
    measured = {id: claim.measured for id, claim in claims.items()}
    assert measured == pytest.approx(
        {
            "C1": 0.88,
            "C2": 0.95 - 0.88,
            "C3": 150.5 / 50.5,  # odd problems are one token longer
            "C4": 2.5,
            "C5a": 0.9,
            "C5b": 0.99,
            "C5c": 0.02,
            "C5d": 0.06,
            "C6a": 0.5,
            "C6b": -0.18,
            "C6c": 17 / 18,
            "C7a": 0.01,
            "C7b": 0.97,
            "C7c": 0.75,  # wins one prompt, ties the other
            "C8": 0.20,
            "C9": 0.10,
        }
    )
    assert claims["C1"].detail == "from 15.0% (15.0% to 15.0%); 200 problems × 16 samples"
    assert "Dev1 70.0%, " in claims["C6c"].detail and "; +17.0 points (+17.0 to +17.0)" in claims["C6c"].detail
    assert NAMES["base"] + " 90.0%" in claims["C5a"].detail
    assert "beside " + NAMES["dev3"] in claims["C7a"].detail and NAMES["dev1"] in claims["C5d"].detail
    assert NAMES["dev2-no-language"] + " 93.0%" in claims["C5b"].detail


@pytest.mark.parametrize(
    ("id", "changed"),
    [
        ("C1", {"zero": scored(0.84)}),
        ("C1", {"base": scored(0.26)}),
        ("C2", {"zero": scored(0.88, cons=0.88)}),
        ("C3", {"zero": scored(0.88, length=50)}),
        ("C4", {"zero": scored(0.88, reflection=0.5)}),
        ("C5a", {"zero": scored(0.88, consistency=0.98)}),
        ("C5b", {"dev2": scored(0.87, consistency=0.96)}),
        ("C5c", {"dev2-no-language": scored(0.91)}),
        ("C5d", {"dev2": scored(0.87, consistency=0.92)}),
        ("C6a", {"dev1": scored(0.70, readable=0.4)}),
        ("C6b", {"dev1": scored(0.88)}),
        ("C6c", {"dev2": scored(0.70)}),
        ("C6c", {"dev2": scored(0.78)}),  # 8 of the 18 points
        ("C7a", {"r1": scored(0.87)}),
        ("C7b", {"r1": scored(0.89, readable=0.94)}),
        ("C8", {"student-distilled": scored(0.59)}),
    ],
)
def test_the_opposite_does_not_hold(id: str, changed: dict[str, Evaluation]):
    claim = found(record(changed))[id]
    assert (claim.holds, claim.conclusive, claim.verdict) == (False, False, "does not hold")


def test_c1_needs_both_ends():
    claim = found(record({"base": scored(0.26)}))["C1"]
    assert claim.measured == pytest.approx(0.88) and "the base is not under 25%" in claim.detail
    unsure = found(record({"base": scored(spread(0.0, 0.49))}))["C1"]  # 24.5% +- 3.4%: its interval reaches 25%
    assert (unsure.holds, unsure.conclusive, unsure.remark) == (True, False, "but not beyond doubt")


def test_intervals_are_paired_over_problems():
    claims = found(record({"zero": scored(spread(0.5, 1.0)), "r1": scored([r + 0.02 for r in spread(0.5, 0.98)])}))
    change = [0.02, 0.0]  # per problem, whatever the spread between problems
    assert claims["C7a"].measured == pytest.approx(sum(change) / 2)
    assert claims["C7a"].high == pytest.approx(0.01 + half_width(0.0, 0.02))
    assert claims["C7a"].conclusive
    level = found(record({"zero": scored(spread(0.8, 1.0))}))["C1"]
    assert (level.low, level.high) == pytest.approx((0.9 - half_width(0.8, 1.0), 0.9 + half_width(0.8, 1.0)))


def test_equal_is_at_least_as_accurate_but_not_above():
    claims = found(record({"r1": scored(0.88), "dev1": scored(0.88), "dev2": scored(0.88)}))
    assert claims["C7a"].holds
    assert not claims["C6b"].holds


def test_what_is_won_back_is_a_share_of_what_was_lost():
    claim = found(record({"dev1": scored(spread(0.5, 1.0))}))["C6c"]
    share = 0.12 / 0.13
    residuals = [(0.87 - right) - share * (0.88 - right) for right in (0.5, 1.0)]
    assert claim.measured == pytest.approx(share)
    assert claim.high == pytest.approx(share + half_width(min(residuals), max(residuals)) / 0.13)


def test_what_was_not_lost_cannot_be_won_back():
    doubtful = {"dev1": scored(spread(0.0, 1.0)), "zero": scored(0.52), "dev2": scored(0.51)}
    for changed in ({"dev1": scored(0.88)}, {"dev1": scored(0.95)}, doubtful):
        claim = found(record(changed))["C6c"]
        assert (claim.verdict, claim.measured) == ("not measured", None)
        assert "the cold start's cost is not beyond doubt" in claim.detail


def test_win_rate_is_over_prompts():
    # R1 wins both pairs of the first prompt, loses one of two of the second: 1 and 0.5
    general = {"r1": judged((0.9, 0.8), (0.2, 0.6)), "dev3": judged((0.5,), (0.4,))}
    claim = found(record(general=general))["C7c"]
    assert claim.measured == pytest.approx(0.75)
    assert claim.low == pytest.approx(0.75 - 1.959964 * 0.25)  # sd 0.25 * sqrt(2), over sqrt(2)
    assert (claim.holds, claim.conclusive) == (True, False)
    even = found(record(general={"r1": judged((0.5,)), "dev3": judged((0.5,))}))["C7c"]
    assert (even.measured, even.holds) == (0.5, False)


def test_hacking_compares_the_last_with_where_it_began():
    claim = found(record())["C9"]
    assert claim.detail == "reward 0.10 → 1.00; quality 65.0% → 85.0% → 55.0%; 20 prompts"
    recovered = found(record(run=hacking([0.6, 0.2, 0.58], [0.1] * 10 + [1.0] * 10)))["C9"]
    assert recovered.measured == pytest.approx(0.02) and not recovered.holds
    grew = found(record(run=hacking([0.5, 0.9, 0.7], [0.1] * 10 + [1.0] * 10)))["C9"]
    assert grew.measured == pytest.approx(-0.2) and not grew.holds  # its best before does not count


def test_hacking_shows_whether_it_is_the_language_that_goes():
    drifted = replace(HACKED, evaluations=tuple(
        replace(e, problems=tuple(replace(p, consistency=share) for p in e.problems))
        for e, share in zip(HACKED.evaluations, (1.0, 0.9, 0.5), strict=True)
    ))  # fmt: skip
    assert "; thoughts in the prompt's language 100.0% → 50.0%; 20 prompts" in found(record(run=drifted))["C9"].detail


def test_hacking_shows_what_becomes_of_the_tasks():
    def with_sums(e: Evaluation, share: float) -> Evaluation:
        sums = (replace(p, task="sum", general=False, right=share, quality=None) for p in e.problems)
        return replace(e, problems=(*e.problems, *sums))

    shares = zip(HACKED.evaluations, (0.9, 0.8, 0.6), strict=True)
    both = replace(HACKED, evaluations=tuple(with_sums(e, share) for e, share in shares))
    assert "; problems solved 90.0% → 60.0%; 20 prompts" in found(record(run=both))["C9"].detail
    assert "solved" not in found(record(run=HACKED))["C9"].detail


def test_a_fall_without_a_rise_is_not_hacking():
    claim = found(record(run=hacking([0.6, 0.8, 0.5], [1.0] * 10 + [0.1] * 10)))["C9"]
    assert claim.measured == pytest.approx(0.1)
    assert not claim.holds and "the reward did not rise" in claim.detail
    noisy = found(record(run=hacking([0.6, 0.8, 0.5], [0.0, 1.0] * 5 + [0.1, 1.1] * 5)))["C9"]
    assert (noisy.holds, noisy.conclusive) == (True, False)


def test_hacking_that_goes_on_has_no_verdict_yet():
    claim = found(record(hacking_state="running"))["C9"]
    assert (claim.verdict, claim.holds) == ("not yet", False)
    assert claim.measured == pytest.approx(0.1)
    assert found(record(run=hacking([0.6], [0.1] * 5)))["C9"].verdict == "not measured"


@pytest.mark.parametrize(("finished", "verdict"), [(False, "not measured yet"), (True, "not measured")])
def test_what_is_missing_is_named(finished: bool, verdict: str):
    claims = found(record({"dev2": None, "r1": None}, finished=finished, general={}, run=None))
    lacking = {"C5b", "C5c", "C5d", "C6c", "C7a", "C7b", "C7c", "C9"}
    assert {id for id, claim in claims.items() if claim.measured is None} == lacking
    assert {claims[id].verdict for id in lacking} == {verdict}
    assert claims["C5c"].detail == "needs eval-dev2"
    assert claims["C7c"].detail == "needs general-r1 and general-dev3"
    assert not any(claims[id].holds for id in lacking)


def test_numbers_that_old_files_lack_are_not_measured():
    claims = found(record({"zero": scored(0.88, consistency=None, readable=None)}))
    assert [claims[id].measured for id in ("C5a", "C6a")] == [None, None]
    assert claims["C7a"].holds


def test_evaluations_of_other_problems_cannot_be_compared():
    claims = found(record({"zero": scored(0.88, ids="other")}))
    assert claims["C1"].holds
    assert [claims[id].verdict for id in ("C3", "C4", "C6b", "C7a")] == ["not measured"] * 4


def test_training_problems_do_not_count():
    claim = found(record({"r1": scored(0.99, split="train")}))["C7a"]
    assert not claim.holds and "measured on split train" in claim.detail


def test_thresholds_of_the_demo_are_not_for_other_tasks():
    def gsm8k(right: float) -> Evaluation:
        made = scored(right)
        problems = tuple(replace(p, task="gsm8k") for p in made.problems)
        return replace(made, problems=problems, voting_tasks=("gsm8k",))

    claim = found(record({"base": gsm8k(0.4), "zero": gsm8k(0.6)}))["C1"]
    assert (claim.unit, claim.measured) == ("points", pytest.approx(0.2))
    assert claim.holds


def test_what_was_tried_stands_beside_a_claim_that_does_not_hold(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pc, "TRIED", {"C8": "more epochs", "C7a": "more steps"})
    claims = found(record({"student-distilled": scored(0.5)}))
    assert (claims["C8"].tried, claims["C7a"].tried) == ("more epochs", "")


def test_samples_drawn_by_the_student_and_the_teacher():
    def run(**config: object) -> RunRecord:
        return RunRecord(Path("x"), dict(config), (), {}, (), (), {})

    rl = run(steps=32, problems_per_step=16, group_size=16, inner_epochs=1)
    teacher = run(num_problems=1024, num_samples=4, tasks=list(TASKS))
    made = replace(record(), runs={"student-rl": rl, "r1-samples": teacher})
    assert pc.samples_drawn(made) == (8192, 8192)
    assert "RL drew 8,192 completions, the teacher 8,192" in found(made)["C8"].detail
    assert pc.samples_drawn(record()) == (None, None)
    fewer = replace(rl, config=dict(rl.config, steps=31))
    unfair = found(replace(made, runs={"student-rl": fewer, "r1-samples": teacher}))["C8"]
    assert not unfair.holds and "the teacher drew more than RL" in unfair.detail
