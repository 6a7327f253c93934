"""The format of a completion: the thought inside <think> tags, then the answer inside <answer> tags (R1 Table 1, 2.2).

It reads prefill + completion. A template may end with `<think>`, so that the completion alone never holds the opening
tag; judging the completion alone would then pin the format reward at 0.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
ANGLED = re.compile(r"<[^<>]{5,100}>")
LIKE_A_TAG = re.compile(r"<(/?)(think|answer)(?:\s+[\w-]+\s*=[^<>]*|\s*)>")
UNSEEN = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
"""Of no width, and without effect on the letters beside them: `4\u200b2` is 42."""
BOXES_CHARS = 5_000
"""How far before the last box those that belong to the same answer may begin."""
ANSWER_TAG = re.compile(r"(</?answer>)")
BOX_PART = re.compile(r"\\boxed\s*\{|\\\\(?!boxed)|\\[{}]|[{}]")
BOX = re.compile(r"\\boxed\s*\{")
BOX_MARKS = re.compile(r"\\(?:boxed|fbox)\b|[{}$]")
BOX_FIRST = re.compile(r"\s*\\boxed\s*\{")


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
    tag, the last \\boxed{} after </think>; boxes side by side (`\\boxed{1} and \\boxed{2}`) are one answer. Tags in
    capitals, with attributes or with invisible characters inside are read as tags, and are a fault of the format.
    Nothing inside a thought counts. Unseen characters are left out.
    """
    plain = ANGLED.sub(_as_tag, text)
    odd = "" if plain == text else _odd_tag(text)
    reason = odd or (_format_fault(text) if form == "r1-zero" else _r1_fault(text))
    plain = UNSEEN.sub("", plain)
    return Parsed(_thought(plain), _answer(plain), _response(plain), not reason, reason)


def last_boxed(text: str) -> str | None:
    """Content of the last complete \\boxed{...} in `text`, braces balanced, stripped; empty for an empty box.

    Of boxes inside each other the outermost one counts, and those inside it are only braces.
    """
    open_braces: list[int] = []  # where a box's content begins; -1 for other braces
    ends: dict[int, int] = {}
    start = -1
    for part in BOX_PART.finditer(text):
        if part[0] == "}" and open_braces:
            if (begin := open_braces.pop()) != -1:
                ends[begin], start = part.start(), begin
        elif part[0] == "{" or part[0].startswith("\\boxed"):
            open_braces.append(part.end() if part[0] != "{" else -1)
    if start == -1:
        return None
    end = ends[start]
    while (inner := BOX_FIRST.match(text, start, end)) and not text[ends[inner.end()] + 1 : end].strip():
        start, end = inner.end(), ends[inner.end()]
    return BOX.sub("{", text[start:end]).strip()


def _as_tag(found: re.Match[str]) -> str:
    """The tag that `found` is but for capitals, attributes and invisible characters; else what was found."""
    if found[0] in TAGS:
        return found[0]
    visible = "".join(char for char in found[0] if not _is_invisible(char))
    tag = LIKE_A_TAG.fullmatch(visible.lower())
    return f"<{tag[1]}{tag[2]}>" if tag else found[0]


def _is_invisible(char: str) -> bool:
    """Formatting characters, those of no width among them."""
    return unicodedata.category(char) == "Cf"


def _is_blank(text: str) -> bool:
    return all(char.isspace() or _is_invisible(char) for char in text)


def _odd_tag(text: str) -> str:
    odd = next(found for found in ANGLED.finditer(text) if _as_tag(found) != found[0])
    return f"{odd[0]!a} in place of {_as_tag(odd)}"


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
    if _is_blank(thought):
        return "empty thought"
    return "empty answer" if _is_blank(answer) else ""


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
    if _is_blank(thought):
        return "empty thought"
    if any(tag in thought for tag in TAGS[2:]):
        return "an answer tag stands before </think>"
    if _is_blank(response):
        return "empty response"
    opened, closed = response.count("<answer>"), response.count("</answer>")
    if opened != closed or opened > 1 or response.find("</answer>") < response.find("<answer>"):
        return f"{opened} times <answer>, {closed} times </answer>"
    if opened and _is_blank(response.split("<answer>")[1].split("</answer>")[0]):
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
    from r1kit.rewards.math.final import boxed_answers  # it imports this module

    closed = "</think>" in text
    if "<think>" in text and not closed:
        return None
    # A second thought that is opened and not closed hides what follows it.
    rest = text.rpartition("</think>")[2].partition("<think>")[0]
    pieces = ANSWER_TAG.split(rest)
    if "<answer>" not in pieces:
        return boxed_answers(_from_last_boxes(rest)) if closed else None
    for at in range(len(pieces) - 2, 1, -2):
        if pieces[at - 2 : at + 1 : 2] == ["<answer>", "</answer>"]:
            inside = pieces[at - 1].strip()
            empty = _is_blank(BOX_MARKS.sub("", inside))
            return boxed_answers(_from_last_boxes(inside)) or (None if empty else inside)
    return None


def _from_last_boxes(text: str) -> str:
    """From shortly before the last box: a megabyte of boxes takes seconds to read."""
    return text[max(0, max(text.rfind("\\boxed"), text.rfind("\\fbox")) - BOXES_CHARS) :]
