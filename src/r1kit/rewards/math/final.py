"""The final answer of a free-form completion: boxed, tagged, stated in words, or the mathematics that closes it."""

from __future__ import annotations

import re
from typing import NamedTuple

from r1kit.rewards.math.clean import strip_marks

MAX_TAIL = 4000
"""Characters at the end of a completion in which a stated answer is looked for."""
MAX_ANSWER = 300
BETWEEN_BOXES = re.compile(
    r"(?:[\s,;.$、，；或和与及&~{}*]|\\(?:quad|qquad|text|[\[\](),;: !])|and|or|(?:[A-Za-z](?:_\{?\w+\}?)?\s*=))*",
    re.IGNORECASE,
)
BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|(?<!\\)[{}]")
BARE_BOX = re.compile(r"\\boxed\s+([^\s{}$\\]+)")
IS = r"(?::|=|\bis\b(?:\s*:)?|\bare\b|\bequals\b|\bwill be\b|\bwould be\b)"
# What states a final answer; the answer follows.
CUES = re.compile(
    "|".join(
        (
            r"####[ \t]*",
            r"\b(?:the\s+)?(?:correct\s+|final\s+|right\s+)?(?:answer|solution|result)\b(?:\s+(?:to|for|of)\b[^.\n:=]{0,80}?)?"
            rf"\s*[*_]{{0,3}}\s*{IS}[*_]{{0,3}}(?!\s*(?:given by|found by|obtained|as follows|not\b))",
            r"\bfinal answer\b\s*[*_#]{0,3}\s*(?:is)?\s*:?[*_]{0,3}",
            r"(?:(?:最终|正确)?答案|结果|结论)\s*\*{0,2}\s*(?:应该是|应为|等于|是|为|:|：|=)+\*{0,2}",
            r"(?:^|[。\n，,；])\s*答\s*[:：]",
            r"(?:所以|因此|故|综上)[^。\n]{0,60}?(?:一共|总共|共)?"
            r"(?:等于|需要|剩下|用了|花了|有|是|为|要|得|剩|多|少)"
            r"(?=[^。\n，,]{0,20}[\d零一二三四五六七八九十百千万两$\\])",
            r"答え(?:は|\s*[:：])|\bla réponse(?: finale)? est\b|\bréponse\s*:",
            r"\bla respuesta(?: final)? es\b|\brespuesta\s*:",
            r"\bdie antwort ist\b|\bantwort\s*:|\ba resposta(?: final)? é\b|\bresposta\s*:|\bjibu ni\b",
        )
    ),
    re.IGNORECASE,
)
MATHEMATICS = re.compile(
    r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<![\\$])\$(?!\s*\d[\d,.]*\s+[a-z]{3})([^$\n]+?)(?<!\\)\$",
    re.DOTALL,
)
NUMBER = re.compile(r"(?<![\w.])[-−]?(?:[$€£¥]\s?)?[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?:\s?/\s?\d+)?(?:\s?%)?")
CONNECTED = re.compile(r"[\s,.;:]|and|or|或|和|约|\*|[A-Za-z°]{1,12}|是|个")


def final_answer(text: str) -> str | None:
    r"""The answer that `text` gives last, None when it gives none or its thought is not closed.

    In this order: the last `<answer>`; the last `\boxed{}`, with the boxes right before it, joined by commas or `and`;
    the last answer that is stated (`The answer is 42.`, `#### 42`, `答案是 12`); the last mathematics, else the last
    number, of the closing sentence. What a thought says never counts.
    """
    # Behind the last thought; one that is opened again and not closed hides what follows.
    text = text.rpartition("</think>")[2].partition("<think>")[0]
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    if start != -1:
        text = text[start + len("<answer>") : end]
        return boxed_answers(text) or _stated(text) or strip_marks(text)[:MAX_TAIL] or None
    text = text.replace("<answer>", " ")  # never closed
    return boxed_answers(text) or _stated(text) or _closing(text)


def boxed_answers(text: str) -> str | None:
    """Content of the last box; of several, joined by commas, where only connectives stand between them."""
    boxes = _boxes(text)
    if not boxes:
        bare = BARE_BOX.findall(text)
        return strip_marks(bare[-1]) if bare else None
    first = len(boxes) - 1
    while first and _connected(text, boxes[first - 1], boxes[first]):
        first -= 1
    contents = dict.fromkeys(_content(text, box) for box in boxes[first:])
    return ", ".join(content for content in contents if content) or None


def _connected(text: str, box: Box, following: Box) -> bool:
    between = text[box.end : following.start]
    return len(between) <= 30 and "\n\n" not in between and BETWEEN_BOXES.fullmatch(between) is not None


class Box(NamedTuple):
    """Positions of a box in a text."""

    start: int
    inside: int
    end: int


def _boxes(text: str) -> list[Box]:
    """Every complete box that is not inside another; one pass, however deep they nest."""
    found: list[Box] = []
    opened: list[tuple[bool, int, int]] = []
    for match in BRACES.finditer(text):
        if match[0][-1] == "{":
            opened.append((match[0] != "{", match.start(), match.end()))
        elif opened:
            is_box, start, inside = opened.pop()
            if is_box:
                while found and found[-1].start > start:
                    found.pop()
                found.append(Box(start, inside, match.end()))
    return found


def _content(text: str, box: Box) -> str:
    """What is in the box; where that is just another box, what is in that one."""
    from r1kit.rewards.format import last_boxed  # which imports this module late, for the same reason

    return last_boxed(text[box.start : box.end]) or text[box.inside : box.end - 1].strip()


def _stated(text: str) -> str | None:
    tail = text[-MAX_TAIL:]
    for cue in reversed(list(CUES.finditer(tail))):
        clause = _clause(tail[cue.end() :])
        if clause and (answer := _answer_in(clause)):
            return answer
    return None


def _clause(text: str) -> str:
    """Up to the end of the sentence; display mathematics may stand on lines of its own."""
    text = text.lstrip(" \t:：_#")
    if match := re.match(r"\s*(\$\$.+?\$\$|\\\[.+?\\\])", text, re.DOTALL):
        return match[1]
    text = text.lstrip()
    end = re.search(r"(?<![\d\s][ap])(?<!\b[ap]\.m)[.!?](?=\s|$|\*|\")|[。！]|\n", text)
    return text[: end.start()] if end else text


LEAD = re.compile(r"^[\u4e00-\u9fff\s，,]*(?<![负号之约或和])(?=[-−]?[\d$\\])")
"""The words in front of a number in a Chinese clause: 一共是25个."""


def _answer_in(clause: str) -> str:
    r"""The answer in a clause: bold text, its mathematics with the unit behind, or all of it when it is short."""
    clause = clause.strip()
    clause = LEAD.sub("", clause.replace("**", "") if clause.count("**") == 1 else clause)
    if len(bold := re.findall(r"\*\*(.+?)\*\*", clause)) == 1 and re.search(r"[\w$]", bold[0]):
        clause = bold[0]
    spans = list(MATHEMATICS.finditer(clause))
    if spans:
        outside = MATHEMATICS.sub("", clause)
        if not CONNECTED.sub("", outside):
            return strip_marks(clause)[:MAX_ANSWER]
        last = spans[-1]
        unit = re.match(r"\s*(?:°|%|[A-Za-z]+(?:\s(?:per|of)\s[a-z]+)?\^?\d?)", clause[last.end() :])
        content = next(group for group in last.groups() if group)
        return f"{content.strip()} {unit[0].strip()}" if unit and len(unit[0]) < 20 else content.strip()
    if len(clause) <= MAX_ANSWER and len(clause.split()) <= 6:
        return strip_marks(clause)
    numbers = NUMBER.findall(clause)
    return numbers[-1].strip() if numbers else ""


def _closing(text: str) -> str | None:
    """The mathematics of the last sentence, else its last number; a completion that is short is its own answer."""
    tail = text.strip()[-MAX_TAIL:]
    if not tail or "\\boxed" in tail:  # a box that is empty or cut off
        return None
    tail = re.sub(r"\s[-–—~]\s?[\w.]+$", "", tail)  # a signature
    lines = [line for line in re.split(r"\n\s*\n", tail) if line.strip()]
    last = lines[-1].strip()
    spans = list(MATHEMATICS.finditer(last))
    sentence_start = max((match.end() for match in re.finditer(r"[.!?。！]\s+(?=\S)|\n", last)), default=0)
    closing = (
        [span for span in spans if span.start() >= sentence_start] or spans[-1:]
        if spans and spans[-1].end() >= sentence_start
        else []
    )
    if closing:
        content = next(group for group in closing[-1].groups() if group)
        return content.strip()[:MAX_ANSWER]
    sentence = last[sentence_start:]
    if len(bold := re.findall(r"\*\*(.+?)\*\*", sentence)) == 1 and re.search(r"\d", bold[0]):
        return strip_marks(bold[0])
    if len(lines) == 1 and sentence_start == 0 and len(re.findall(r"[\u4e00-\u9fff]|\S+", sentence)) <= 5:
        return strip_marks(LEAD.sub("", sentence)) or None
    numbers = NUMBER.findall(sentence)
    return numbers[-1].strip() if numbers else None
