r"""Answers in words: text, yes and no, `no solution`, letters of choices, clock times, dates, numbers in words.

Compared as text before anything is read as mathematics: `Paris` would be the product P a r i s, `12:00` a ratio.
"""

from __future__ import annotations

import re

from r1kit.rewards.math.clean import ascii_spelling
from r1kit.rewards.math.tokens import FUNCTIONS, GREEK_SYMBOLS, NAMES

TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|texttt|textsf|mathrm|mathbf|mbox|hbox|operatorname|emph|rm|bf)\s*\{([^{}]*)\}"
)
# Every group is one meaning; the first of a group stands for it.
MEANINGS = (
    ("yes", "true", "correct", "right", "是", "是的", "对", "对的", "正确", "真", "yes it is", "能", "可以"),
    ("no", "false", "incorrect", "not true", "否", "不是", "不对", "错", "错误", "假", "不正确", "不能", "不可以"),
    (
        "no solution", "no solutions", "no real solution", "no real solutions", "no solution exists",
        "no solutions exist", "none", "empty set",
        "the empty set", "\\emptyset", "\\varnothing", "empty", "无解", "无实数解", "空集", "没有解", "no such number",
        "no real roots", "there are no solutions",
        "there is no solution", "no integer solutions", "no such integer", "no value", "no values", "\\{\\}", "{}",
        "方程无解", "不存在解", "no such numbers",
        "no such integers", "no such function", "no such functions", "无", "no real solution exists",
        "no solution in real numbers", "impossible",
    ),
    ("undefined", "does not exist", "dne", "not defined", "不存在", "无意义", "doesn't exist"),
    ("infinitely many", "infinite", "infinity", "\\infty", "+\\infty", "infinitely many solutions", "无穷多", "无数",
    "无限", "无穷多个", "无数个", "diverges to infinity"),
    (
        "all real numbers", "\\mathbb{r}", "(-\\infty,\\infty)", "(-\\infty,+\\infty)", "all reals",
        "全体实数", "任意实数", "一切实数", "实数集",
        "x\\in\\mathbb{r}", "any real number", "every real number", "the set of all real numbers",
        "-\\infty<x<\\infty", "the real numbers", "real numbers",
    ),
)  # fmt: skip
MEANING = {"".join(phrase.split()): meanings[0] for meanings in MEANINGS for phrase in meanings}
NUMBER_WORDS = {
    word: value
    for value, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ]
    )
} | {
    word: 10 * value
    for value, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2)
}
PARTS = {
    "half": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "seventh": 7,
    "eighth": 8,
    "ninth": 9,
    "tenth": 10,
}
MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
# Words that do not change which answer is given.
FILLERS = set(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "it",
        "its",
        "it's",
        "of",
        "on",
        "in",
        "at",
        "to",
        "be",
        "was",
        "this",
        "that",
        "function",
        "day",
        "month",
        "answer",
        "number",
        "lies",
        "triangle",
        "graph",
        "shape",
        "color",
        "figure",
        "will",
        "day's",
        "quadrant",
    ]
)
CLOCK = re.compile(r"(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?\s*(?:([ap])\.?\s?m\b\.?)?(?:o'clock)?", re.IGNORECASE)
CHOICE = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)(?:\s+is)?:?\s*|答案(?:是|为)?:?\s*|选(?:择|项)?:?\s*)?"
    r"[(\[]?\s*([A-J])\s*(?:选?项)?\s*(?:[)\].:]+(?![A-Za-z]\b)\s*(.*)|)",
    re.DOTALL | re.IGNORECASE,
)


def plain(text: str) -> str:
    """`text` without \\text{} and the like, dollars, spacing commands, and doubled spaces."""
    before = None
    while before != text:
        before, text = text, TEXT_COMMAND.sub(r"\1", text)
    text = re.sub(r"\\[ ,;:!]|\\q?quad(?![a-z])|~|\$", " ", text)
    return " ".join(text.split()).strip().rstrip(".,;。，").strip()


def meaning(text: str) -> str:
    """The meaning that a set phrase has: `true` and `yes` are yes. Empty when it is no set phrase."""
    return MEANING.get("".join(plain(text).lower().split()), "")


def is_words(text: str) -> bool:
    """Whether `text` is compared as text: it has three letters side by side that are no function or Greek letter."""
    text = ascii_spelling(text).strip()
    if re.fullmatch(r"[-\d./%\s]+", number_in_words(text)):
        return False
    if re.search(r"\d\s*[年月日号]", text):  # a date
        return True
    if re.fullmatch(r"\\(?:text|textbf|mathrm)\s*\{\s*[A-Za-z]{2,}\s*\}", text):  # \text{VW}
        return True
    if re.search(r"\\(?:begin|frac|sqrt|mathbb|cup|le|ge|in)(?![A-Za-z])", text) or meaning(text):
        return False
    bare = re.sub(r"\\[A-Za-z]+", " ", plain(text))
    if re.search(r"[\d=<>+*/^_\[\]{}|]", bare):
        return _has_name(bare) and not re.search(r"[=<>+*/^_\[\]{}|]", bare)
    runs = re.findall(r"[^\W\d_]+", bare)
    named = FUNCTIONS | set(NAMES) | GREEK_SYMBOLS | {"or", "and"}
    wordy = [run for run in runs if run not in named and (len(run) >= 3 or not run.isascii())]
    return bool(wordy)


def _has_name(text: str) -> bool:
    """A month or a day of the week, or its first three letters, at the start or behind the day of the month."""
    names = "|".join(rf"{name[:3]}(?:{name[3:]})?" for name in (*MONTHS, *DAYS))
    return bool(re.match(rf"(?:\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?)?(?:{names})\b", text.lower()))


def same_words(answer: str, gold: str) -> bool:
    """Whether two texts have the same words, fillers, case, punctuation, articles and the order of a date aside."""
    given, wanted = _content(answer), _content(gold)
    if given == wanted:
        return bool(given)
    any_order = _has_name(plain(gold)) or ("and" in wanted and "and" in given)
    return any_order and sorted(given) == sorted(wanted)


def _content(text: str) -> list[str]:
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)?", plain(text).lower().replace("-", " "))
    found = []
    for word in words:
        word = re.sub(r"^(\d+)(?:st|nd|rd|th)$", r"\1", word)
        word = next((name for name in (*MONTHS, *DAYS) if len(word) == 3 and name.startswith(word)), word)
        word = str(NUMBER_WORDS[word]) if word in NUMBER_WORDS else word
        if word not in FILLERS:
            found.append(word)
    return found or words


def number_in_words(text: str) -> str:
    """`forty-two` as 42, `two thirds` as 2/3, `five apples` as `5 apples`; the text itself when no number starts it."""
    words = re.split(r"[\s-]+", plain(text).lower()) if len(text) < 100 else []
    total, section, used = 0, 0, 0
    for place, word in enumerate(words):
        if word in NUMBER_WORDS:
            section += NUMBER_WORDS[word]
        elif word in ("hundred", "thousand", "million") and place:
            scale = {"hundred": 100, "thousand": 1000, "million": 10**6}[word]
            total, section = (total, max(section, 1) * 100) if scale == 100 else (total + max(section, 1) * scale, 0)
        elif word.removesuffix("s") in PARTS and (place or (word == "half" and len(words) == 1)):
            return f"{max(total + section, 1)}/{PARTS[word.removesuffix('s')]}" if place + 1 == len(words) else text
        elif word in ("a", "and") and place + 1 < len(words) and (place == 0 or words[place + 1] in NUMBER_WORDS):
            continue
        else:
            break
        used = place + 1
    return " ".join([str(total + section), *words[used:]]) if used else text


def clock(text: str) -> tuple[int, int, int, str] | None:
    """Hour, minute, second and half of the day (a, p or nothing): 3 p.m., 15:00, 4:51:06 PM."""
    text = plain(re.sub(r"\\!", "", text)).replace(" :", ":").replace(": ", ":")
    match = CLOCK.fullmatch(text)
    if match is None or (match[2] is None and match[4] is None):
        return None
    hour, minute, second = int(match[1]), int(match[2] or 0), int(match[3] or 0)
    half = (match[4] or "").lower()
    if hour > 24 or minute > 59 or second > 59:
        return None
    if hour > 12:
        hour, half = hour - 12, "p"
    return hour % 12, minute, second, half


def same_clock(answer: str, gold: str) -> bool | None:
    """None when the gold is no time of day. The half of the day counts where both name it."""
    given, wanted = clock(answer), clock(gold)
    if wanted is None or given is None:
        return None
    return given[:3] == wanted[:3] and (not given[3] or not wanted[3] or given[3] == wanted[3])


def choice_letters(text: str) -> list[str]:
    """Several letters, in the order of the alphabet: `A, C and D`, ACD. Empty when `text` is anything else."""
    bare = re.sub(r"\band\b|[\s,;、和&()]", "", plain(text))
    return sorted(bare.upper()) if re.fullmatch(r"[A-J]{2,10}|[a-j]{2,10}", bare) else []


def choice(text: str) -> tuple[str, str]:
    """Letter and text of a choice: `(B) 12` is ("B", "12"). ("", "") when `text` is none."""
    bare = plain(text).replace("**", "")
    match = CHOICE.fullmatch(bare)
    if match is None or (match[1].islower() and not re.search(r"[()\[\]]", bare)):
        return "", ""
    return match[1].upper(), (match[2] or "").strip()
