"""The format of a completion: the thought inside <think> tags, then the answer inside <answer> tags (R1 Table 1, 2.2).

It reads prefill + completion. A template may end with `<think>`, so that the completion alone never holds the opening
tag; judging the completion alone would then pin the format reward at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True)
class Parsed:
    """A completion, taken apart."""

    thought: str
    """Between the first <think> and the last </think>, stripped; empty when there is none."""
    answer: str | None
    """What the accuracy reward judges, stripped; None when no answer was given."""
    response: str
    """What a reader is given, stripped: all that follows the last </think>. The whole text where there is no think tag,
    nothing where a thought is not closed."""
    format_ok: bool
    reason: str
    """What is wrong with the format; empty when nothing is."""


def parse_completion(text: str, form: Literal["r1-zero", "r1"] = "r1-zero") -> Parsed:
    """Thought, answer and format of `text`, which is the prefilled tail of the prompt followed by the completion.

    r1-zero asks for exactly `<think>thought</think><answer>answer</answer>`, both with content, and only white space
    around (R1 Table 1). r1 asks for one closed thought with content, before anything else, and a response that is not
    empty, with at most one answer (R1 V1 section 2.3.1: thought, then summary). The answer is read more kindly, so that
    accuracy and format are separate rewards: the last closed <answer> after the thought, or, where there is no <answer>
    tag, the last \\boxed{} after </think>. Nothing inside a thought counts.
    """
    reason = _format_fault(text) if form == "r1-zero" else _r1_fault(text)
    return Parsed(_thought(text), _answer(text), _response(text), not reason, reason)


def last_boxed(text: str) -> str | None:
    """Content of the last complete \\boxed{...} in `text`, braces balanced."""
    marker = "\\boxed{"
    start = text.rfind(marker)
    while start != -1:
        depth = 1
        for position in range(start + len(marker), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[start + len(marker) : position].strip()
        start = text.rfind(marker, 0, start)
    return None


def _format_fault(text: str) -> str:
    for tag in TAGS:
        if (count := text.count(tag)) != 1:
            return f"no {tag}" if count == 0 else f"{count} times {tag}"
    before, rest = text.split("<think>")
    if any(tag not in rest for tag in TAGS[1:]):
        return "a tag stands before <think>"
    thought, rest = rest.split("</think>")
    if any(tag not in rest for tag in TAGS[2:]):
        return "an answer tag stands before </think>"
    between, rest = rest.split("<answer>")
    if "</answer>" not in rest:
        return "</answer> stands before <answer>"
    answer, after = rest.split("</answer>")
    for place, part in (
        ("before <think>", before),
        ("between </think> and <answer>", between),
        ("after </answer>", after),
    ):
        if part.strip():
            return f"text {place}"
    if not thought.strip():
        return "empty thought"
    return "" if answer.strip() else "empty answer"


def _r1_fault(text: str) -> str:
    for tag in TAGS[:2]:
        if (count := text.count(tag)) != 1:
            return f"no {tag}" if count == 0 else f"{count} times {tag}"
    before, rest = text.split("<think>")
    if "</think>" not in rest:
        return "</think> stands before <think>"
    if before.strip():
        return "text before <think>"
    thought, response = rest.split("</think>")
    if not thought.strip():
        return "empty thought"
    if any(tag in thought for tag in TAGS[2:]):
        return "an answer tag stands before </think>"
    if not response.strip():
        return "empty response"
    opened, closed = response.count("<answer>"), response.count("</answer>")
    if opened != closed or opened > 1 or response.find("</answer>") < response.find("<answer>"):
        return f"{opened} times <answer>, {closed} times </answer>"
    if opened and not response.split("<answer>")[1].split("</answer>")[0].strip():
        return "empty answer"
    return ""


def _response(text: str) -> str:
    after = text.rpartition("</think>")[2]
    return "" if "<think>" in after else after.strip()


def _thought(text: str) -> str:
    before, opened, after = text.partition("<think>")
    inside, closed, _ = (after if opened else before).rpartition("</think>")
    if not opened and not closed:
        return ""
    return (inside if closed else after).strip()


def _answer(text: str) -> str | None:
    closed = "</think>" in text
    if "<think>" in text and not closed:
        return None
    # A second thought that is opened and not closed hides what follows it.
    rest = text.rpartition("</think>")[2].partition("<think>")[0]
    if "<answer>" not in rest:
        return (last_boxed(rest) or None) if closed else None
    end = rest.rfind("</answer>")
    start = rest.rfind("<answer>", 0, max(end, 0))
    if start == -1:
        return None
    answer = rest[start + len("<answer>") : end].strip()
    return last_boxed(answer) or answer or None
