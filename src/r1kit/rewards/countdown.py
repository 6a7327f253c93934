"""Countdown's rule: an expression that uses each given number exactly once and has the target as its value.

A recursive-descent parser on exact fractions: nothing of the model's text is ever evaluated as Python.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

MAX_CHARS = 200
MAX_DEPTH = 40  # nested brackets and signs; keeps the recursion shallow
SYMBOLS = {"×": "*", "÷": "/", "−": "-", "\\times": "*", "\\cdot": "*", "\\div": "/", "$": ""}
TOKEN = re.compile(r"[0-9]+|[-+*/()]")


def normalise(text: str) -> str:
    """The expression without white space and with ASCII digits and operators: `８ × 3 －1` becomes `8*3-1`."""
    text = unicodedata.normalize("NFKC", text)
    for symbol, plain in SYMBOLS.items():
        text = text.replace(symbol, plain)
    return "".join(text.split())


def evaluate(expression: str) -> tuple[Fraction, list[int]]:
    """Value of an expression of whole numbers, + - * / and brackets, and the numbers in it, in order.

    ValueError says what is wrong with it, division by zero included.
    """
    if len(expression) > MAX_CHARS:
        raise ValueError(f"longer than {MAX_CHARS} characters")
    tokens = TOKEN.findall(expression)
    if "".join(tokens) != expression:
        raise ValueError("not an expression of whole numbers, + - * / and brackets")
    value, end = _sum(tokens, 0, 0)
    if end != len(tokens):
        raise ValueError(f"{tokens[end]!r} is out of place")
    return value, [int(token) for token in tokens if token.isdigit()]


def judge(answer: str, numbers: list[int], target: int) -> tuple[bool, str, str]:
    """Whether `answer` reaches the target, why, and the normalised expression. `8*3*1=24` is read as `8*3*1`."""
    if len(answer) > 2 * MAX_CHARS:
        return False, f"answer longer than {2 * MAX_CHARS} characters", answer[:MAX_CHARS]
    expression = normalise(answer)
    left, equals, right = expression.partition("=")
    if equals and right == str(target):
        expression = left
    try:
        value, used = evaluate(expression)
    except ValueError as error:
        return False, str(error), expression
    if sorted(used) != sorted(numbers):
        return False, f"uses {sorted(used)}, given {sorted(numbers)}", expression
    return value == target, f"value {value}, target {target}", expression


def _sum(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    value, at = _product(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "+-":
        operand, end = _product(tokens, at + 1, depth)
        value, at = (value + operand if tokens[at] == "+" else value - operand), end
    return value, at


def _product(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    value, at = _factor(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "*/":
        operand, end = _factor(tokens, at + 1, depth)
        if tokens[at] == "/" and operand == 0:
            raise ValueError("divides by zero")
        value, at = (value * operand if tokens[at] == "*" else value / operand), end
    return value, at


def _factor(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    if at == len(tokens):
        raise ValueError("ends too early")
    if depth > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} brackets deep")
    if tokens[at].isdigit():
        return Fraction(tokens[at]), at + 1
    if tokens[at] == "-":
        value, at = _factor(tokens, at + 1, depth + 1)
        return -value, at
    if tokens[at] != "(":
        raise ValueError(f"{tokens[at]!r} is out of place")
    value, at = _sum(tokens, at + 1, depth + 1)
    if at == len(tokens) or tokens[at] != ")":
        raise ValueError("a bracket is not closed")
    return value, at + 1
