"""What is kept of a model's samples: right, readable, rewritten, no two alike (R1 V2 B.3.2 and B.3.3).

A completion has one outcome: kept, or dropped for one reason, which is counted in a Tally.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from r1kit.config import ReadableConfig
from r1kit.rewards.accuracy import WHOLE_RESPONSE, score_answer
from r1kit.rewards.format import parse_completion
from r1kit.rewards.readable import readable_fault
from r1kit.rewards.reward import language_of
from r1kit.types import FinishReason, Problem, Sample, Verdict

if TYPE_CHECKING:
    from r1kit.curation.rewrite import Rewriter

NEAR = 0.9
"""Thoughts of one problem that share this part of their pieces of `PIECE` characters count as the same one (ours)."""
PIECE = 5
NUMBER = re.compile(r"[0-9]+(?:[.,][0-9]+)*")
STAGES = ("problems", "sampled", "right", "readable", "kept")
"""What is counted for each task; a completion is right by its rule or by the judge."""
NO_JUDGE = "no rule judges it, and no --judge.url is given"
REPEATS = "repeats another completion"

Row = dict[str, Any]
"""{"id", "messages", "domain", "language", "tokens"}: a conversation to train on, its last turn the assistant's."""
Judge = Callable[[Sequence["Candidate"]], list[tuple[Verdict, str]]]
"""Verdict and reason for candidates that no rule can judge."""


@dataclass(frozen=True)
class Candidate:
    """A completion that may become data."""

    problem: Problem
    index: int
    """Its place in the problem's group."""
    text: str
    """Prefill and completion, as the model writes after its prompt: a space before <think> stays."""
    num_tokens: int
    language: str
    """The prompt's, ISO 639-1."""


@dataclass
class Tally:
    """How many completions got how far, and why the others did not."""

    tasks: dict[str, dict[str, int]] = field(default_factory=dict)
    """task -> one of STAGES -> completions (of `problems`: problems)."""
    dropped: Counter[str] = field(default_factory=Counter)
    """reason -> completions."""
    examples: dict[str, str] = field(default_factory=dict)
    """reason -> the first one's reason in full."""

    def add(self, task: str, stage: str, count: int = 1) -> None:
        """`count` more of `task` got as far as `stage`."""
        self.tasks.setdefault(task, dict.fromkeys(STAGES, 0))[stage] += count

    def drop(self, reason: str, detail: str = "", count: int = 1) -> None:
        """`count` more are dropped for `reason`; `detail` says it of one of them."""
        if count:
            self.dropped[reason] += count
            self.examples.setdefault(reason, detail or reason)

    def total(self, stage: str) -> int:
        """All tasks' completions that got as far as `stage`."""
        return sum(numbers[stage] for numbers in self.tasks.values())

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add what `as_json` wrote."""
        for task, numbers in other["tasks"].items():
            for stage, count in numbers.items():
                self.add(task, stage, count)
        for reason, count in other["dropped"].items():
            self.drop(reason, other["examples"][reason], count)

    def as_json(self) -> dict[str, Any]:
        """JSON values; the most frequent reasons first."""
        dropped = sorted(self.dropped.items(), key=lambda item: (-item[1], item[0]))
        return {"tasks": self.tasks, "dropped": dict(dropped), "examples": dict(sorted(self.examples.items()))}


@dataclass(frozen=True)
class Selection:
    """What a completion must pass to be kept."""

    readable: ReadableConfig
    keep_per_problem: int
    num_tokens: Callable[[Sequence[str]], list[int]]
    """Texts -> tokens of each."""
    judge: Judge | None
    """For problems without a rule; without one, their completions are left out."""
    rewriter: Rewriter | None

    def unreadable(self, candidate: Candidate) -> str:
        """Why the thought is hard to read; empty when it is not."""
        fault = readable_fault(candidate.text, candidate.language, candidate.num_tokens, self.readable)
        return f"unreadable, {fault}" if fault else ""

    def judged(self, candidates: Sequence[Candidate]) -> list[str]:
        """Why each of the candidates that no rule could judge is not right; empty where the judge says that it is."""
        if self.judge is None or not candidates:
            return [NO_JUDGE] * len(candidates)
        return ["" if verdict == "right" else f"judged {verdict}: {why}" for verdict, why in self.judge(candidates)]


def curate(
    groups: Sequence[Sequence[Sample]], prefills: Sequence[str], selection: Selection, tally: Tally
) -> list[Row]:
    """The rows that groups of samples leave; every completion's outcome goes to `tally`.

    `prefills`: for each group the tail of its prompt that belongs to the completions.
    """
    found: list[list[Candidate]] = []
    unruled: list[tuple[int, Candidate]] = []
    for number, (group, prefill) in enumerate(zip(groups, prefills, strict=True)):
        tally.add(group[0].problem.task, "problems")
        right, open_ = right_and_readable(group, prefill, selection, tally)
        found.append(right)
        unruled += [(number, candidate) for candidate in open_]
    for (number, candidate), fault in zip(unruled, selection.judged([c for _, c in unruled]), strict=True):
        if fault:
            tally.drop(reason_of(fault), fault)
            continue
        tally.add(candidate.problem.task, "right")
        tally.add(candidate.problem.task, "readable")
        found[number].append(candidate)
    queues = []
    for candidates in found:
        distinct = without_repeats(candidates)
        tally.drop(REPEATS, count=len(candidates) - len(distinct))
        queues.append(distinct)
    kept = [candidate for chosen in choose(queues, selection, tally) for candidate in chosen]
    for candidate in kept:
        tally.add(candidate.problem.task, "kept")
    return [row_of(candidate) for candidate in kept]


def right_and_readable(
    group: Sequence[Sample], prefill: str, selection: Selection, tally: Tally
) -> tuple[list[Candidate], list[Candidate]]:
    """The right and readable completions of one problem, and the readable ones that no rule could judge."""
    right: list[Candidate] = []
    open_: list[Candidate] = []
    problem = group[0].problem
    language = language_of(problem)
    texts = [prefill + sample.completion.text for sample in group]
    for index, (sample, text, tokens) in enumerate(zip(group, texts, selection.num_tokens(texts), strict=True)):
        tally.add(problem.task, "sampled")
        candidate = Candidate(problem, index, text, tokens, language)
        verdict = sample.score.verdict
        if fault := form_fault(text, sample.completion.finish_reason):
            tally.drop(reason_of(fault), sample.completion.error or fault)
            continue
        if verdict == "wrong":
            tally.drop("wrong", sample.score.reason)
            continue
        if verdict == "right":
            tally.add(problem.task, "right")
        if fault := selection.unreadable(candidate):
            tally.drop(reason_of(fault), fault)
        elif verdict == "right":
            tally.add(problem.task, "readable")
            right.append(candidate)
        else:
            open_.append(candidate)
    return right, open_


def form_fault(text: str, finish_reason: FinishReason) -> str:
    """Why `text` (prefill and completion) is not one closed thought followed by a response; empty when it is."""
    if finish_reason == "error":
        return "no completion"
    if finish_reason == "length":
        return "cut off at the length cap"
    fault = parse_completion(text, "r1").reason
    return f"format, {fault}" if fault else ""


def reason_of(fault: str) -> str:
    """What is counted of a fault: `repetition 0.52 above 0.3` is a case of `repetition N above N`."""
    return NUMBER.sub("N", fault.partition(":")[0])


def without_repeats(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The candidates of one problem as they were sampled, without those whose thought is (nearly) an earlier one's.

    Not the shortest first: where an answer is searched for, the shortest right thought is the luckiest, and who learns
    from luck gives up early.

    Near is a Jaccard index of NEAR or more over the sets of PIECE characters in a row. What follows the thought does
    not tell two completions apart: it says the same.
    """
    kept: list[tuple[Candidate, frozenset[str]]] = []
    for candidate in sorted(candidates, key=lambda one: one.index):
        thought = normalised(parse_completion(candidate.text, "r1").thought)
        pieces = frozenset(thought[start : start + PIECE] for start in range(max(1, len(thought) - PIECE + 1)))
        if not any(_near(pieces, others) for _, others in kept):
            kept.append((candidate, pieces))
    return [candidate for candidate, _ in kept]


def _near(some: frozenset[str], others: frozenset[str]) -> bool:
    shared = len(some & others)
    return shared >= NEAR * (len(some) + len(others) - shared)


def normalised(text: str) -> str:
    """For comparison: compatible characters, case and white space made the same."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def choose(queues: Sequence[Sequence[Candidate]], selection: Selection, tally: Tally) -> list[list[Candidate]]:
    """At most `keep_per_problem` of each queue, from its front, rewritten; the next one where rewriting fails."""
    waiting = [list(queue) for queue in queues]
    kept: list[list[Candidate]] = [[] for _ in queues]
    while True:
        asked: list[tuple[int, Candidate]] = []
        for number, queue in enumerate(waiting):
            wanted = selection.keep_per_problem - len(kept[number])
            asked += [(number, candidate) for candidate in queue[:wanted]]
            del queue[:wanted]
        if not asked:
            break
        for (number, _), (candidate, fault) in zip(asked, rewrite([c for _, c in asked], selection), strict=True):
            if fault:
                tally.drop(reason_of(fault), fault)
            elif candidate.text in [other.text for other in kept[number]]:
                tally.drop(REPEATS)
            else:
                kept[number].append(candidate)
    tally.drop("more than --keep-per-problem", count=sum(map(len, waiting)))
    return kept


def rewrite(candidates: Sequence[Candidate], selection: Selection) -> list[tuple[Candidate, str]]:
    """Each candidate rewritten, with what is wrong with that: it must still be right and readable."""
    if selection.rewriter is None:
        return [(candidate, "") for candidate in candidates]
    rewritten = selection.rewriter(candidates)
    sizes = selection.num_tokens([one.text for one in rewritten])
    made = [
        replace(candidate, text=one.text, num_tokens=size)
        for candidate, one, size in zip(candidates, rewritten, sizes, strict=True)
    ]
    faults = [one.fault for one in rewritten]
    open_ = []
    for place, candidate in enumerate(made):
        if faults[place]:
            continue
        verdict, reason = rule_verdict(candidate)
        fault = form_fault(candidate.text, "stop") or selection.unreadable(candidate)
        if not fault and verdict == "undecided":
            open_.append(place)
        fault = fault or (f"wrong: {reason}" if verdict == "wrong" else "")
        faults[place] = f"rewritten, {fault}" if fault else ""
    for place, fault in zip(open_, selection.judged([made[place] for place in open_]), strict=True):
        faults[place] = f"rewritten, {fault}" if fault else ""
    return list(zip(made, faults, strict=True))


def rule_verdict(candidate: Candidate) -> tuple[Verdict, str]:
    """The verdict of the problem's scorer on the candidate's text, and its reason."""
    problem, parsed = candidate.problem, parse_completion(candidate.text, "r1")
    answer = parsed.response if problem.scorer in WHOLE_RESPONSE else parsed.answer
    judged = score_answer(problem.scorer, answer, problem.gold)
    return judged.verdict, judged.reason


def row_of(candidate: Candidate) -> Row:
    """The candidate as training data: its problem's messages with its text as the answer."""
    problem = candidate.problem
    turns = [{"role": message.role, "content": message.content} for message in problem.messages]
    return {
        "id": f"{problem.task}/{problem.id}/{candidate.index}",
        "messages": [*turns, {"role": "assistant", "content": candidate.text}],
        "domain": problem.task,
        "language": candidate.language,
        "tokens": candidate.num_tokens,
    }


def distinct_rows(rows: Iterable[Row]) -> list[Row]:
    """The rows without those that repeat an earlier conversation: tasks may share problems."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault("\n".join(f"{turn['role']}:{normalised(turn['content'])}" for turn in row["messages"]), row)
    return list(first.values())
