"""Equality of mathematical answers (numbers, expressions, sets, equations in LaTeX), by the math-verify package.

math-verify's own time limit uses SIGALRM, which works on the main thread only: elsewhere it fails, and inside a broad
`except` every answer turns wrong. Here it is off, and what can run for minutes (powers of powers, huge factorials) is
left undecided before it starts.
"""

from __future__ import annotations

import logging
import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from r1kit.rewards.format import last_boxed
from r1kit.types import Verdict

if TYPE_CHECKING:
    import sympy

MAX_CHARS = 500
MAX_DIGITS = 500_000
"""Numbers with more decimal digits than this are not computed."""
MAX_TERMS = 5_000
"""sympy expands powers of sums; those with more terms take too long."""
# sympy computes these already while it parses
COSTLY = re.compile(r"\\(?:[dt]?binom|gcd|lcm|operatorname).*(?:\d{5}|\^)", re.DOTALL)
# A sum or an integral that is still to be worked out restates the problem: no answer, and slow to compute.
UNFINISHED = re.compile(r"\\(?:i*int|oint|sum|prod|lim)(?![A-Za-z])")
# "Paris" would be the product P*a*r*i*s, equal to every reordering of its letters.
WORDS = re.compile(r"[^\W\d_]{3,}")
LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}")


def judge(answer: str, gold: str) -> tuple[Verdict, str]:
    """Verdict and reason.

    A gold that is words (`Paris`, `\\text{even}`) is compared as text; one that cannot be read is undecided.
    """
    try:
        from math_verify import LatexExtractionConfig, parse, verify
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the scorer math needs: pip install math-verify") from error
    _quiet()
    compared = f"answered {answer[:80]!r}, gold {gold[:80]!r}"
    if _text(answer) == _text(gold):
        return "right", compared
    if _is_words(gold):
        return "wrong", compared
    for name, text in (("answer", answer), ("gold", gold)):
        if len(text) > MAX_CHARS or COSTLY.search(text):
            return "undecided", f"{name} is too long or too costly to judge: {text[:80]!r}"
    if UNFINISHED.search(gold):
        return "undecided", f"gold is to be worked out: {compared}"
    if UNFINISHED.search(answer):
        return "wrong", f"answer is to be worked out: {compared}"
    latex = [LatexExtractionConfig(boxed_match_priority=0)]
    try:
        expected = parse(_marked(gold), latex, parsing_timeout=None)  # type: ignore[arg-type]
        given = parse(_marked(answer), latex, parsing_timeout=None)  # type: ignore[arg-type]
        if not _is_read(expected):
            return "undecided", f"gold {gold[:80]!r} cannot be read as mathematics"
        if any(_digits(expression) > MAX_DIGITS for expression in (*expected, *given)):
            return "undecided", f"too costly to judge: {compared}"
        right = verify(expected, given, timeout_seconds=None, raise_on_error=True)
    # A model's text reaches all of sympy here, whose errors have no common base; the error becomes the reason.
    except Exception as error:
        return "undecided", f"math-verify failed with {type(error).__name__}: {str(error)[:80]}; {compared}"
    return ("right" if right else "wrong"), compared


@lru_cache(maxsize=1)
def _quiet() -> None:
    """math-verify warns once that no time limit is set; that is on purpose here."""
    for name in ("math_verify.parser", "math_verify.grader", "math_verify.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _text(latex: str) -> str:
    """For equality as text: without dollars, \\boxed, \\text, spacing and full stop."""
    latex = (last_boxed(latex) or latex).strip().strip("$")
    return "".join(LATEX_TEXT.sub(r"\1", latex).split()).rstrip(".")


def _is_words(gold: str) -> bool:
    plain = re.sub(r"\\[A-Za-z]+", "", LATEX_TEXT.sub(r"\1", gold))
    return bool(WORDS.search(plain)) and not re.search(r"\d", plain)


def _marked(text: str) -> str:
    """math-verify reads mathematics from a marked place; an answer is all mathematics unless it marks a part itself."""
    text = text.strip().strip("$")
    return text if "\\boxed" in text else f"${text}$" if "$" in text else f"\\boxed{{{text}}}"


def _is_read(parsed: list[Any]) -> bool:
    """math-verify falls back to the text itself when it finds no expression."""
    return any(not isinstance(expression, str) for expression in parsed)


def _digits(expression: sympy.Basic | str | Any) -> float:
    """Upper bound on the decimal digits of any number in `expression`, computed; infinite where nobody should try."""
    import sympy

    if isinstance(expression, sympy.MatrixBase):
        return max((_digits(entry) for entry in expression.flat()), default=0.0)
    if not isinstance(expression, sympy.Basic):
        return 0.0
    if isinstance(expression, sympy.Rational):
        return math.log10(max(abs(int(expression.p)), int(expression.q), 2))
    digits = sum(_digits(part) for part in expression.args) if expression.args else 1.0
    if isinstance(expression, (sympy.Pow, sympy.factorial, sympy.factorial2)):
        power = expression.args[-1]
        size = _digits(power)
        if size > 8:
            return math.inf
        if power.is_Rational:
            exponent = abs(float(power))  # type: ignore[arg-type]
            symbols = len(expression.free_symbols)
            if symbols and expression.args[0].is_Add and math.comb(int(exponent) + symbols, symbols) > MAX_TERMS:
                return math.inf
            return max(digits, _digits(expression.args[0]) * max(exponent, 1.0))
        if power.is_number:
            return max(digits, _digits(expression.args[0]) * 10**size)
    return digits
