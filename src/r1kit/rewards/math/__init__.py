r"""Equality of mathematical answers: LaTeX and plain text as models write them, English and Chinese.

An answer is cleaned (`math_clean`), compared as text (`math_words`), read into a tree (`math_read`) and compared by
kind (`math_compare`). What this package does not read is left to the math-verify package. Values are computed to 60
digits at points, never simplified, so that nothing runs for long; what is out of reach is undecided.
docs/math-verifier.md has the rules.
"""

from __future__ import annotations

import logging
import re
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from r1kit.rewards.math.clean import clean, strip_marks
from r1kit.rewards.math.final import NUMBER, final_answer
from r1kit.rewards.math.tokens import MalformedError, UnreadableError
from r1kit.rewards.math.words import (
    choice,
    choice_letters,
    clock,
    is_words,
    meaning,
    number_in_words,
    plain,
    same_clock,
    same_words,
)
from r1kit.types import Verdict

if TYPE_CHECKING:
    from r1kit.rewards.math.tree import Node

__all__ = ["final_answer", "gold_fault_math", "judge"]
MAX_TEXT = 100_000
"""Longest answer that is searched for a box."""
MAX_CHARS = 1000
"""Longest answer that is read."""
# A sum or an integral that is still to be worked out restates the problem: no answer, and slow to compute.
UNFINISHED = re.compile(r"\\(?:i*int|oint|sum|prod|lim)(?![A-Za-z])|[∑∫∏]")
# sympy, below math-verify, computes powers and combinations while it parses.
COSTLY = re.compile(r"\^\s*\{?\s*\d{3}|\^.*\^.*\^|\d{6}|!|\\(?:[dt]?binom|gcd|lcm|operatorname|det)", re.DOTALL)
NO_GOLD = {"", "?", "n/a", "nan", "null", "unknown", "tbd", "-", "...", "see solution", "none given"}
PREAMBLE = re.compile(
    r"^(?:\\text\s*\{)?(?:approximately|about|around|roughly|exactly|only|both)\s+\}?(?=[-\d\\$(.])", re.IGNORECASE
)
# Words with a number in front of them that turn it into something else.
HEDGES = re.compile(
    r"\b(?:not|at least|at most|or more|or less|more than|less than|fewer than|between|greater than|unless|except|"
    r"wrong|never|isn't)\b",
    re.I,
)
_one_at_a_time = threading.Lock()
"""mpmath changes its context while it computes."""


def judge(answer: str, gold: str) -> tuple[Verdict, str]:
    """Verdict on `answer`, and the reason: what was compared with what, or why it cannot be judged.

    A gold that cannot be read is undecided, also when the answer is the same text.
    """
    if len(answer) > MAX_TEXT:
        return "undecided", f"answer of {len(answer)} characters, more than {MAX_TEXT}: {answer[:80]!r}"
    compared = f"answered {answer[:80]!r}, gold {gold[:80]!r}"
    if fault := gold_fault_math(gold):
        return "undecided", f"gold {fault}"
    answer, gold = _unboxed(answer), _unboxed(gold)
    if not answer:
        return "wrong", f"no answer; {compared}"
    if _as_text(answer) == _as_text(gold):
        return "right", compared
    if len(answer) > MAX_CHARS:
        return "undecided", f"answer of {len(answer)} characters, more than {MAX_CHARS}: {answer[:80]!r}"
    found = _judge_words(answer, gold)
    if found is None and UNFINISHED.search(gold):
        return "undecided", f"gold is to be worked out: {compared}"
    if found is None and UNFINISHED.search(answer):
        return "wrong", f"answer is to be worked out: {compared}"
    if found is None:
        found = _judge_mathematics(answer, gold)
    if isinstance(found, str):
        return "undecided", f"{found}; {compared}"
    return ("right" if found else "wrong"), compared


@lru_cache(maxsize=4096)
def gold_fault_math(gold: str) -> str:
    """What is wrong with a gold, as "is ...; give ..."; empty when it can be compared with an answer."""
    shown = repr(str(gold)[:80])
    text = _unboxed(str(gold))
    if plain(text).lower() in NO_GOLD:
        return f"is {shown}; give the answer of the problem"
    if len(text) > MAX_CHARS:
        return f"has {len(text)} characters; give the answer alone, at most {MAX_CHARS}"
    if meaning(text) or is_words(text) or choice(text)[0] or clock(text) or UNFINISHED.search(text):
        return ""
    nodes, fault = _readings(text)
    if not nodes:
        known = not isinstance(fault, MalformedError) and _read_by_math_verify(text)
        return "" if known else f"is {shown}, which cannot be read as mathematics ({fault})"
    return "" if any(_has_value(node) for node in nodes) else f"is {shown}, which has no value"


# Steps of judge


def _unboxed(text: str) -> str:
    text = text.strip()
    if "\\boxed" in text or "\\fbox" in text:
        text = final_answer(text) or ""
    return strip_marks(PREAMBLE.sub("", strip_marks(text)))


def _as_text(text: str) -> str:
    bare = re.sub(r"\\(?:left|right|[,!;: ])", "", plain(text))
    # 4 2 is not 42.
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", re.sub(r"\\[dt]frac", r"\\frac", bare))


def _judge_words(answer: str, gold: str) -> bool | None:
    """Comparators that work on the text; None where they leave it to mathematics."""
    meanings = meaning(answer), meaning(gold)
    if meanings[1] and meanings[0]:
        return meanings[0] == meanings[1]
    if (times := same_clock(answer, gold)) is not None:
        return times
    letter, said = choice(gold)
    if letter:
        given, text = choice(answer if len(answer) > 1 else answer.upper())
        if given:
            return given == letter
        return bool(said) and judge(answer, said)[0] == "right"
    if (letters := choice_letters(gold)) and re.search(r"[,;、]|and", plain(gold)):
        return choice_letters(answer) == letters
    if is_words(gold):
        return same_words(answer, gold)
    if meanings[1] in ("yes", "no"):
        first = re.match(r"(?:\*\*)?(yes|no|true|false|是|否|不是)\b", plain(answer).lower())
        return bool(first) and meaning(first[1]) == meanings[1]
    given, text = choice(answer)
    if given and text:  # B. 12 against the gold 12
        return judge(text, gold)[0] == "right"
    return None


def _judge_mathematics(answer: str, gold: str) -> bool | str:
    """Whether they are equal, or why that cannot be told."""
    from r1kit.rewards.math.compare import same
    from r1kit.rewards.math.numbers import TooLargeError

    wanted, given = _readings(gold), _readings(answer)
    if not given.nodes and (stated := _in_a_sentence(answer)):
        answer, given = stated, _readings(stated)
    fault = ""
    for gold_node in wanted.nodes:
        for node in given.nodes:
            try:
                with _one_at_a_time:
                    if same(node, gold_node):
                        return True
            except (TooLargeError, RecursionError) as error:
                fault = str(error) or "nested too deep"
    if wanted.nodes and given.nodes:
        return fault or False
    # The gold is a set phrase or the answer is words or no mathematics at all: it is some other answer.
    if (not wanted.nodes and given.nodes) or is_words(answer) or isinstance(given.error, MalformedError):
        return False
    return _verified(answer, gold)


class Readings(NamedTuple):
    nodes: tuple[Node, ...]
    """The trees that a text can stand for: a comma may group digits or part two numbers."""
    error: Exception | None
    """Why there is none."""


@lru_cache(maxsize=4096)
def _readings(text: str) -> Readings:
    from r1kit.rewards.math.read import read

    nodes, fault = [], None
    text = number_in_words(text)
    spellings = [clean(text)]
    if not re.search(r",0\d\d(?!\d)", text):  # nobody lists 000
        spellings.append(clean(text, thousands=False))
    if re.fullmatch(r"-?\d+,\d{1,2}|-?0,\d+", text):
        spellings.append(text.replace(",", "."))  # a decimal comma
    for spelling in dict.fromkeys(spellings):
        try:
            nodes.append(read(spelling))
        except (UnreadableError, RecursionError) as error:
            fault = fault or error
    return Readings(tuple(nodes), fault)


NOT_PROSE = re.compile(r'[()<>=\\_"{}\[\]]|\bnot\b')
"""What no sentence about a number has: code, tags, commands, a denial."""


def _in_a_sentence(answer: str) -> str:
    """An answer tag may hold a whole sentence: what it states, else its only number, unless it is hedged."""
    answer = plain(answer)
    if HEDGES.search(answer) or not re.search(r"[A-Za-z]{3}|[\u4e00-\u9fff]", answer):
        return ""
    stated = final_answer(answer) or ""
    numbers = NUMBER.findall(answer)
    if stated == answer and len(numbers) == 1:
        return "" if NOT_PROSE.search(answer) else numbers[0]  # print(42) states nothing, nor does not 42
    return stated


def _has_value(node) -> bool:
    """False for 1/0 and other constants without a value."""
    from r1kit.rewards.math.numbers import UndefinedError
    from r1kit.rewards.math.value import letters, value

    if node.kind not in ("num", "add", "mul", "div", "pow", "call", "percent") or letters(node):
        return True
    try:
        with _one_at_a_time:
            value(node)
    except UndefinedError:
        return False
    except ValueError:
        return True  # too large to compute, and still equal to the same text
    return True


# What this package does not read


def _verified(answer: str, gold: str) -> bool | str:
    """math-verify's verdict; its own time limit uses SIGALRM and is off, so costly input is turned down."""
    expected, given = _read_by_math_verify(gold), _read_by_math_verify(answer)
    if not given or not expected:
        return f"{'gold' if given else 'answer'} cannot be read as mathematics"
    _, verify = _math_verify()
    try:
        return bool(verify(expected, given, timeout_seconds=None, raise_on_error=True))
    # A model's text reaches all of sympy here, whose errors have no common base; the error becomes the reason.
    except Exception as error:
        return f"math-verify failed with {type(error).__name__}: {str(error)[:80]}"


def _read_by_math_verify(text: str) -> list:
    """Expressions that math-verify finds in all of `text`; its fallback to the text itself does not count."""
    if COSTLY.search(text) or len(text) > 200 or _depth(text) > 6:
        return []
    parse, _ = _math_verify()
    from math_verify import LatexExtractionConfig

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    try:
        parsed = parse(f"\\boxed{{{text}}}", config, parsing_timeout=None)  # type: ignore[arg-type]
    except Exception:  # as above
        return []
    return [expression for expression in parsed if not isinstance(expression, str)]


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


@lru_cache(maxsize=1)
def _math_verify():
    try:
        from math_verify import parse, verify
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the scorer math needs: pip install math-verify") from error
    # math-verify warns that no time limit is set; that is on purpose here.
    for name in ("math_verify.parser", "math_verify.grader", "math_verify.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return parse, verify
