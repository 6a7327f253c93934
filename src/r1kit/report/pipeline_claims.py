"""The paper's claims about the whole recipe (C1 to C9), measured on a pipeline's evaluations.

Every verdict follows from the numbers: thresholds are met by the point estimate (`holds`) and, separately, by the whole
95% interval over problems (`conclusive`). What has no evaluation yet is not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from r1kit.report.claims import DEMO_TASKS, Claim, Unit, judge, not_yet, unmeasured
from r1kit.report.estimates import Estimate, difference, mean, over, paired, pass_at_1, ratio, unpaired, win_rate
from r1kit.report.paper import NAMES
from r1kit.report.read import GENERAL, Evaluation, ProblemResult, RunRecord
from r1kit.report.read_pipeline import PipelineRecord

BASE_BELOW = 0.25
ZERO_AT_LEAST = 0.85
CONSISTENT = 0.97
LANGUAGE_COST = 0.03
READABLE = 0.95
WON_BACK = 0.5
CLEAR_MARGIN = 0.05
HACKED_MARGIN = 0.05

TRIED: dict[str, str] = {
    "C6c": "40 steps instead of 60 regained 39% with one seed; half the rate and 60 steps, after three times the "
    "cold-start data, 52 to 67%",
    "C7a": "more of Dev2's samples and epochs for Dev3 add two points to R1; RL for all scenarios at T=1 or for 64 "
    "steps one at most; twice its rate costs three to five",
    "C7b": "the rest is searches that go in circles and, at T=1, thoughts that a rare token derails; other rates, "
    "batches and epochs of Dev3, sampling Dev2 at T=0.3 and longer RL, tried on an earlier Dev2, change it by a point "
    "or two; at T=0.6 more searches go in circles and no thought derails (92.2% with seed 0)",
    "C9": "R1's own mixture and rate: the quality rises by 14 points in 32 steps and is 4 below R1's after 160; on "
    "general prompts alone at 3.5e-4 it has fallen by 4 to 12 after 64 steps of 16 problems",
}
"""Claim -> what was tried, shown when the claim does not hold."""


def pipeline_claims(record: PipelineRecord) -> list[Claim]:
    """C1 to C9 in order."""
    scored, general = record.evaluations, record.general
    found = [
        _rises(scored),
        _majority(scored),
        _longer(scored),
        _reflects(scored),
        _mixes(scored),
        _consistent(scored),
        _language_cost(scored),
        _language_gain(scored),
        *_cold_start(scored),
        _accurate(scored),
        _readable(scored),
        _preferred(general),
        _distilled(record),
        _hacked(record),
    ]
    return [_finish(claim, record) for claim in found]


def samples_drawn(record: PipelineRecord) -> tuple[int | None, int | None]:
    """Completions that the student's RL drew, and that the teacher drew for its student; None when not known."""
    rl, teacher = (run.config if (run := record.runs.get(name)) else None for name in ("student-rl", "r1-samples"))
    ours = theirs = None
    if rl and {"steps", "problems_per_step", "group_size"} <= rl.keys():
        ours = rl["steps"] * rl["problems_per_step"] * rl["group_size"] // rl.get("inner_epochs", 1)
    if teacher and {"num_problems", "num_samples", "tasks"} <= teacher.keys():
        theirs = teacher["num_problems"] * len(teacher["tasks"]) * teacher["num_samples"]
    return ours, theirs


def preference_rise(run: RunRecord) -> tuple[float, float, Estimate] | None:
    """Mean reward-model score in training up to the second evaluation, after the last but one, and the rise.

    None with fewer than two evaluations, or without scores in both stretches.
    """
    steps = [evaluation.step for evaluation in run.evaluations]
    points = run.series("reward/preference")
    if len(steps) < 2:
        return None
    early = [value for step, value in points if step <= steps[1]]
    late = [value for step, value in points if steps[-2] < step <= steps[-1]]
    return (mean(early).value, mean(late).value, unpaired(late, early)) if early and late else None


def quality_drop(run: RunRecord) -> tuple[Evaluation, Evaluation, Estimate] | None:
    """The first evaluation, the last, and how far the last's true quality is below the first's, by prompt.

    Not the best before the last: one that is picked of several is picked by its noise, too.
    """
    judged = [evaluation for evaluation in run.evaluations if over(evaluation, _quality, GENERAL)]
    if len(judged) < 2:
        return None
    first, last = judged[0], judged[-1]
    return first, last, difference(*paired(first, last, _quality, GENERAL))


def _right(problem: ProblemResult) -> float | None:
    return problem.right


def _solved(problem: ProblemResult) -> float | None:
    """`_right` of problems that have a right answer."""
    return None if problem.general else problem.right


def _consistency(problem: ProblemResult) -> float | None:
    return problem.consistency


def _readability(problem: ProblemResult) -> float | None:
    return problem.readable


def _quality(problem: ProblemResult) -> float | None:
    return problem.quality


def signed_points(value: float) -> str:
    """+2.1 for a difference of shares of 0.021; with a true minus sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def _finish(claim: Claim, record: PipelineRecord) -> Claim:
    if claim.measured is None and not record.finished:
        return replace(claim, verdict="not measured yet")
    if claim.measured is not None and not claim.holds and claim.verdict != "not yet":
        return replace(claim, tried=TRIED.get(claim.id, ""))
    return claim


def _missing(scored: dict[str, Evaluation], names: Sequence[str], prefix: str = "eval-") -> str:
    """What evaluations are lacking, in words; empty when none is."""
    lacking = [f"{prefix}{name}" for name in names if name not in scored]
    return f"needs {' and '.join(lacking)}" if lacking else ""


def _size(evaluation: Evaluation) -> str:
    return f"{len(evaluation.of('all'))} problems × {evaluation.num_samples} samples"


def _split(*evaluations: Evaluation) -> str:
    """Why the evaluations do not count: measured on training problems."""
    splits = {str(e.policy.get("split", "heldout")) for e in evaluations} - {"heldout"}
    return f"measured on split {', '.join(sorted(splits))}, not heldout" if splits else ""


def _shares(scored: dict[str, Evaluation], names: Sequence[str], field: Callable[[ProblemResult], float | None]) -> str:
    """R1-Zero 87.1%, R1-Dev1 60.2%"""
    values = [(NAMES[name], over(scored[name], field)) for name in names if name in scored]
    return ", ".join(f"{name} {value.value:.1%}" for name, value in values if value)


def _change(
    scored: dict[str, Evaluation],
    id: str,
    statement: str,
    after: str,
    before: str,
    field: Callable[[ProblemResult], float | None],
    meets: Callable[[float], bool],
    more: str = "",
    broken: str = "",
) -> Claim:
    """A claim about the difference after - before of two checkpoints' shares, paired over problems."""
    if missing := _missing(scored, (after, before)):
        return unmeasured(id, statement, "points", missing)
    if (values := _compared(scored, after, before, field)) is None:
        return unmeasured(id, statement, "points", f"eval-{after} and eval-{before} share no problem with this number")
    change = difference(*values)
    detail = "; ".join(part for part in (_shares(scored, (after, before), field), more) if part)
    broken = "; ".join(part for part in (_split(scored[after], scored[before]), broken) if part)
    return judge(id, statement, "points", change, meets, detail, broken)


def _compared(
    scored: dict[str, Evaluation], after: str, before: str, field: Callable[[ProblemResult], float | None]
) -> tuple[list[float], list[float]] | None:
    """Both checkpoints' values over the problems they share; None when there is no such problem."""
    try:
        return paired(scored[after], scored[before], field)
    except ValueError:
        return None


def _level(
    scored: dict[str, Evaluation],
    id: str,
    statement: str,
    name: str,
    meets: Callable[[float], bool],
    field: Callable[[ProblemResult], float | None] = _consistency,
    more: str = "",
) -> Claim:
    """A claim about one checkpoint's share."""
    if missing := _missing(scored, (name,)):
        return unmeasured(id, statement, "share", missing)
    if (estimate := over(scored[name], field)) is None:
        return unmeasured(id, statement, "share", f"eval-{name} does not have this number")
    detail = "; ".join(part for part in (f"{NAMES[name]}, {_size(scored[name])}", more) if part)
    return judge(id, statement, "share", estimate, meets, detail, _split(scored[name]))


def _rises(scored: dict[str, Evaluation]) -> Claim:
    demo = "zero" not in scored or set(DEMO_TASKS) == set(scored["zero"].tasks)
    if not demo:  # the thresholds are the demo's
        statement = "pure RL lifts pass@1"
        return _change(scored, "C1", statement, "zero", "base", _right, lambda value: value > 0)
    statement = f"pure RL lifts pass@1 from under {BASE_BELOW:.0%} to at least {ZERO_AT_LEAST:.0%}"
    if missing := _missing(scored, ("base", "zero")):
        return unmeasured("C1", statement, "share", missing)
    base, zero = pass_at_1(scored["base"]), pass_at_1(scored["zero"])
    detail = f"from {base.value:.1%} ({base.low:.1%} to {base.high:.1%}); {_size(scored['zero'])}"
    broken = _split(scored["base"], scored["zero"])
    if base.value >= BASE_BELOW:
        broken = "; ".join(part for part in (broken, f"the base is not under {BASE_BELOW:.0%}") if part)
    return judge(
        "C1", statement, "share", zero, lambda value: value >= ZERO_AT_LEAST, detail, broken,
        sure=base.high < BASE_BELOW,
    )  # fmt: skip


def _majority(scored: dict[str, Evaluation]) -> Claim:
    statement = "on remainder, a majority vote over 16 beats one sample of R1-Zero (cons@16 > pass@1)"
    if missing := _missing(scored, ("zero",)):
        return unmeasured("C2", statement, "points", missing)
    zero = scored["zero"]
    voting = [task for task in zero.voting_tasks if task != "all"]
    if not voting:
        return unmeasured("C2", statement, "points", "no task of eval-zero has one short answer to vote on")
    task = DEMO_TASKS[1] if DEMO_TASKS[1] in voting else voting[0]
    statement = statement.replace("16", str(zero.num_samples)).replace(DEMO_TASKS[1], task)
    problems = zero.of(task)
    cons, single = mean([p.cons for p in problems]).value, pass_at_1(zero, task).value
    gain = difference([p.cons for p in problems], [p.right for p in problems])
    detail = f"{task}: {cons:.1%} against {single:.1%}"
    return judge("C2", statement, "points", gain, lambda value: value > 0, detail, _split(zero))


def _longer(scored: dict[str, Evaluation]) -> Claim:
    statement = "R1-Zero's responses grow without being asked for: longer than the base's"
    if missing := _missing(scored, ("zero", "base")):
        return unmeasured("C3", statement, "ratio", missing)
    values = _compared(scored, "zero", "base", lambda p: p.length)
    if values is None or not any(values[1]):
        return unmeasured("C3", statement, "ratio", "eval-base has no completion with tokens for eval-zero's problems")
    detail = f"{mean(values[1]).value:.1f} → {mean(values[0]).value:.1f} tokens"
    broken = _split(scored["zero"], scored["base"])
    return judge("C3", statement, "ratio", ratio(*values), lambda value: value > 1, detail, broken)


def _reflects(scored: dict[str, Evaluation]) -> Claim:
    """A difference, not a ratio, because a base may use no reflection word at all."""
    statement = "R1-Zero uses more reflection words than the base"
    if missing := _missing(scored, ("zero", "base")):
        return unmeasured("C4", statement, "words", missing)
    if (values := _compared(scored, "zero", "base", lambda p: p.reflection)) is None:
        return unmeasured("C4", statement, "words", "eval-base and eval-zero share no problem")
    then, now = mean(values[1]).value, mean(values[0]).value
    detail = f"{then:.2f} → {now:.2f} words per response" + (f", {now / then:.1f}×" if then else "")
    broken = _split(scored["zero"], scored["base"])
    return judge("C4", statement, "words", difference(*values), lambda value: value > 0, detail, broken)


def _mixes(scored: dict[str, Evaluation]) -> Claim:
    statement, base = f"R1-Zero mixes languages: its consistency is below {CONSISTENT:.0%}", ("base",)
    return _level(
        scored, "C5a", statement, "zero", lambda v: v < CONSISTENT, more=_shares(scored, base, _consistency)
    )  # fmt: skip


def _consistent(scored: dict[str, Evaluation]) -> Claim:
    without = _shares(scored, ("dev2-no-language",), _consistency)
    statement = f"with the language reward, consistency is at least {CONSISTENT:.0%}"
    return _level(scored, "C5b", statement, "dev2", lambda v: v >= CONSISTENT, more=without)


def _language_cost(scored: dict[str, Evaluation]) -> Claim:
    statement = f"the language reward costs at most {LANGUAGE_COST * 100:.0f} points of accuracy"
    return _change(
        scored, "C5c", statement, "dev2-no-language", "dev2", _right, lambda value: value <= LANGUAGE_COST
    )  # fmt: skip


def _language_gain(scored: dict[str, Evaluation]) -> Claim:
    """C5b alone says little where the cold start has cleared its threshold before: this is what the reward adds."""
    statement = "the language reward raises consistency: Dev2 above the same RL without it"
    before = f"before this RL: {_shares(scored, ('dev1',), _consistency)}" if "dev1" in scored else ""
    return _change(
        scored, "C5d", statement, "dev2", "dev2-no-language", _consistency, lambda value: value > 0, before
    )  # fmt: skip


def _beside(scored: dict[str, Evaluation], name: str, other: str) -> str:
    """`Dev2 is -5.4 points (-7.0 to -3.8) beside R1-Zero's 89.9%`; empty where they cannot be compared."""
    if _missing(scored, (name, other)) or not (values := _compared(scored, name, other, _right)):
        return ""
    against = difference(*values)
    return (
        f"{NAMES[name]} is {signed_points(against.value)} points ({signed_points(against.low)} to "
        f"{signed_points(against.high)}) beside {NAMES[other]}'s {mean(values[1]).value:.1%}"
    )


def _cold_start(scored: dict[str, Evaluation]) -> list[Claim]:
    return [
        _change(
            scored, "C6a", "the cold start makes outputs readable: more readable ones than R1-Zero's", "dev1", "zero",
            _readability, lambda value: value > 0,
        ),
        _change(
            scored, "C6b", "the cold start costs accuracy at first: Dev1 below R1-Zero", "dev1", "zero", _right,
            lambda value: value < 0,
        ),
        _won_back(scored),
    ]  # fmt: skip


def _won_back(scored: dict[str, Evaluation]) -> Claim:
    """The paper's Dev2 regains four fifths of what Dev1 lost; half is what is asked here."""
    statement, unit = f"reasoning RL wins it back: Dev2 regains at least {WON_BACK:.0%} of what Dev1 lost", "share"
    if missing := _missing(scored, ("dev2", "dev1", "zero")):
        return unmeasured("C6c", statement, unit, missing)
    gained, lost = _compared(scored, "dev2", "dev1", _right), _compared(scored, "zero", "dev1", _right)
    if gained is None or lost is None or len(gained[0]) != len(lost[0]):
        return unmeasured("C6c", statement, unit, "eval-dev2, eval-dev1 and eval-zero are not of the same problems")
    gain, loss = difference(*gained), difference(*lost)
    detail = (
        f"{_shares(scored, ('zero', 'dev1', 'dev2'), _right)}; {signed_points(gain.value)} points "
        f"({signed_points(gain.low)} to {signed_points(gain.high)}) from Dev1"
    )
    if loss.low <= 0:
        return unmeasured("C6c", statement, unit, f"{detail}; the cold start's cost is not beyond doubt")
    regained = ratio(*([a - b for a, b in zip(*pair, strict=True)] for pair in (gained, lost)))
    return judge("C6c", statement, unit, regained, lambda value: value >= WON_BACK, detail, _split(scored["dev2"]))


def _accurate(scored: dict[str, Evaluation]) -> Claim:
    statement = "R1 is at least as accurate as R1-Zero (pass@1)"
    beside = _beside(scored, "r1", "dev3")
    return _change(scored, "C7a", statement, "r1", "zero", _right, lambda value: value >= 0, beside)


def _readable(scored: dict[str, Evaluation]) -> Claim:
    more = _shares(scored, ("zero",), _readability)
    statement = f"R1 is readable: at least {READABLE:.0%} of its completions"
    return _level(scored, "C7b", statement, "r1", lambda v: v >= READABLE, _readability, more)


def _preferred(general: dict[str, Evaluation]) -> Claim:
    statement, unit = "R1 is preferred over Dev3 on general prompts: wins more than half of all comparisons", "share"
    if missing := _missing(general, ("r1", "dev3"), "general-"):
        return unmeasured("C7c", statement, unit, missing)
    if (rate := win_rate(general["r1"], general["dev3"])) is None:
        return unmeasured("C7c", statement, unit, "general-r1 and general-dev3 share no prompt that rules judge")
    detail = f"mean quality {_shares(general, ('r1', 'dev3'), _quality)}; {rate.n} prompts, ties count half"
    return judge("C7c", statement, unit, rate, lambda v: v > 0.5, detail, _split(general["r1"], general["dev3"]))


def _distilled(record: PipelineRecord) -> Claim:
    rl, teacher = samples_drawn(record)
    drawn = f"RL drew {rl:,} completions, the teacher {teacher:,}" if rl and teacher else ""
    statement = (
        f"the distilled student beats the same student trained by RL, by at least {CLEAR_MARGIN * 100:.0f} points"
    )
    # The claim is about the same number of samples; RL alone may have more.
    unequal = "the teacher drew more than RL" if rl and teacher and teacher > rl else ""
    return _change(
        record.evaluations, "C8", statement, "student-distilled", "student-rl", _right, lambda v: v >= CLEAR_MARGIN,
        drawn, unequal,
    )  # fmt: skip


def _hacked(record: PipelineRecord) -> Claim:
    statement = (
        f"too long a preference reward hacks the reward model: the reward rises while the true quality falls at least "
        f"{HACKED_MARGIN * 100:.0f} points below R1's"
    )
    unit: Unit = "points"
    if (run := record.runs.get("hacking")) is None:
        return unmeasured("C9", statement, unit, "needs the stage hacking")
    drop, rise = quality_drop(run), preference_rise(run)
    if drop is None or rise is None:
        return unmeasured("C9", statement, unit, "needs two evaluations with qualities, and reward-model scores")
    (first, last, fall), (early, late, gain) = drop, rise
    qualities = [q.value for e in run.evaluations if (q := over(e, _quality, GENERAL))]
    detail = f"reward {early:.2f} → {late:.2f}; quality {' → '.join(f'{value:.1%}' for value in qualities)}"
    for what, field, task in (
        ("thoughts in the prompt's language", _consistency, GENERAL),
        ("problems solved", _solved, "all"),
    ):
        if (then := over(first, field, task)) and (now := over(last, field, task)):
            detail += f"; {what} {then.value:.1%} → {now.value:.1%}"
    detail += f"; {fall.n} prompts"
    broken = "" if gain.value > 0 else "the reward did not rise"
    claim = judge("C9", statement, unit, fall, lambda v: v >= HACKED_MARGIN, detail, broken, sure=gain.low > 0)
    return claim if record.done("hacking") else not_yet(claim, "the stage has not finished")
