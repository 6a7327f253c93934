"""A run that learns nothing because the rewards in every group are equal: which of the reasons it is, in one line.

Advantages compare a completion with its group (R1 eq. 3): where all of a group earn the same they are 0, and the steps
end quietly with a gradient of 0.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from r1kit.rewards.accuracy import PREFERENCE_SCORERS
from r1kit.training.rollout import Group
from r1kit.types import Sample

ROLLOUTS = 5
"""So many without a signal, one after the other, are worth a line."""
SHOWN_CHARS = 160
Case = Literal["all wrong", "all right", "no form", "all or none", "all the same"]
ADVICE: dict[Case, str] = {
    "all wrong": "easier problems, a larger --group-size, another --template or --reward.format, or a better base",
    "all right": "harder problems: these are learnt",
    "no form": "a --template that asks for the form or begins it (-prefilled), a fine-tuned model that knows it, or "
    "--reward.format free",
    "all or none": "a larger --group-size, or problems that are neither always nor never solved",
    "all the same": "a larger --group-size, or other rewards (--reward)",
}


@dataclass(frozen=True)
class Fault:
    """Completions that fail for one reason, numbers aside."""

    count: int
    reason: str
    """As the first of them has it."""
    end: str
    """How that one ends: there stands the answer."""


@dataclass(frozen=True)
class Silence:
    """Counts of rollouts in which no group has rewards that differ."""

    completions: int
    judged: int
    """Of problems that have a right answer."""
    right: int
    in_form: int
    """With the form that is rewarded, or of a run that rewards none."""
    cut_off: int
    faults: dict[str, Fault]

    @property
    def case(self) -> Case:
        if not self.judged:
            return "all the same"
        if self.right == self.judged:
            return "all right"
        if self.right:
            return "all or none"
        return "all wrong" if self.in_form else "no form"


def silence(groups: Sequence[Group]) -> Silence | None:
    """Of one rollout; None where a group's rewards differ, so that something can be learnt."""
    if not groups or any(sample.score.reward != group[0].score.reward for group in groups for sample in group):
        return None
    samples = [sample for group in groups for sample in group]
    judged = [sample for sample in samples if sample.problem.scorer not in PREFERENCE_SCORERS]
    faults: dict[str, Fault] = {}
    for sample in judged:
        if sample.score.verdict != "right":
            kind = re.sub(r"-?\d+(\.\d+)?", "0", sample.score.reason)
            faults[kind] = _and(faults.get(kind), Fault(1, sample.score.reason, _end(sample)))
    return Silence(
        completions=len(samples),
        judged=len(judged),
        right=sum(sample.score.verdict == "right" for sample in judged),
        in_form=sum(sample.score.parts.get("format", 1.0) > 0 for sample in judged),
        cut_off=sum(sample.completion.finish_reason == "length" for sample in samples),
        faults=faults,
    )


def together(rollouts: Sequence[Silence]) -> Silence:
    """The counts of all of them."""
    faults: dict[str, Fault] = {}
    for one in rollouts:
        for kind, fault in one.faults.items():
            faults[kind] = _and(faults.get(kind), fault)
    return Silence(
        completions=sum(one.completions for one in rollouts),
        judged=sum(one.judged for one in rollouts),
        right=sum(one.right for one in rollouts),
        in_form=sum(one.in_form for one in rollouts),
        cut_off=sum(one.cut_off for one in rollouts),
        faults=faults,
    )


def diagnosis(found: Silence) -> str:
    """What is the matter, and what to try."""
    all_told = f"{found.completions:,} completions"
    what = {
        "all wrong": f"none of {all_told} is right",
        "all right": f"all of {all_told} are right",
        "no form": f"none of {all_told} has the form that --reward.format asks for",
        "all or none": f"{found.right:,} of {all_told} are right, in each group all or none",
        "all the same": f"all of {all_told} earn what their group earns",
    }[found.case]
    parts = [what]
    if found.faults:
        most = max(found.faults.values(), key=lambda fault: fault.count)
        parts.append(f"most often ({most.count:,}): {most.reason}; one ends with {most.end!r}")
    advice = ADVICE[found.case]
    if 2 * found.cut_off > found.completions and found.case != "all right":
        parts.append(f"{found.cut_off:,} are cut off at the length cap")
        advice = f"a higher --max-new-tokens, {advice}"
    return f"{'; '.join(parts)}. Try {advice}"


class SignalWatch:
    """Looks at every rollout and says what is the matter, once for each case."""

    def __init__(self) -> None:
        self._last: deque[Silence | None] = deque(maxlen=ROLLOUTS)
        self._told: set[Case] = set()

    def look(self, groups: Sequence[Group]) -> str:
        """A line when the rollouts up to this one have no signal and it has not been said; else empty."""
        self._last.append(silence(groups))
        silent = [one for one in self._last if one is not None]
        if len(silent) < ROLLOUTS or (found := together(silent)).case in self._told:
            return ""
        self._told.add(found.case)
        return f"no signal in the last {ROLLOUTS} rollouts, the rewards in every group are equal: {diagnosis(found)}"


def _and(before: Fault | None, fault: Fault) -> Fault:
    return fault if before is None else Fault(before.count + fault.count, before.reason, before.end)


def _end(sample: Sample) -> str:
    text = " ".join(sample.completion.text.split())
    return text if len(text) <= SHOWN_CHARS else f"...{text[-SHOWN_CHARS:]}"
