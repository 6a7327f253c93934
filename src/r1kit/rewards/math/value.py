"""Are two expressions equal? By value: exact where rational, else to 60 digits, at points drawn for the letters.

Testing an identity at random points needs no simplification, so its time is bounded; two different expressions of
school mathematics do not agree at eight points to 30 digits. Numbers too large to compute raise TooLargeError.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from r1kit.rewards.math.numbers import (
    MAX_BITS,
    MP,
    TOLERANCE,
    ZERO,
    Number,
    TooLargeError,
    UndefinedError,
    call,
    close,
    inverse,
    limited,
    plus,
    power,
    real,
    rounds_to,
    small,
    times,
)
from r1kit.rewards.math.tree import Decimal, Node

POINTS = 4
MAX_WORK = 20_000_000
"""Squared 64-bit words of fractions that one comparison may handle: a fraction of a second."""


def equal(a: Node, b: Node) -> bool:
    """Whether `a` and `b` have the same value for all letters in them.

    False where one has no value anywhere. TooLargeError where a value is out of reach.
    """
    return any(_equal_under(a, b, reading) for reading in _readings(a, b))


def is_huge(node: Node) -> bool:
    """Whether `node` is a power or a factorial whose value is above every number that is computed here."""
    if node.kind == "call" and node.value == "factorial" and not letters(node):
        return _exceeds(node.args[0], MAX_BITS)
    if node.kind != "pow" or letters(node) or not _exceeds(node.args[0], 2):
        return False
    return _exceeds(node.args[1], MAX_BITS)


def _exceeds(node: Node, bound: int) -> bool:
    if is_huge(node):
        return True
    try:
        found = value(node)
    except ValueError:
        return False
    return isinstance(found, Fraction) and found >= bound


def proportional(a: Node, b: Node) -> bool:
    """Whether a = c b for one constant c that is not 0: as equations, a = 0 and b = 0 then say the same."""
    for reading in _readings(a, b):
        ratio = None
        for scope in _scopes(a, b, reading):
            left, right = _at(a, scope), _at(b, scope)
            if left is None or right is None:
                continue
            if close(right, ZERO) or close(left, ZERO):
                if close(left, right):
                    continue
                break
            if ratio is not None and not close(left / right, ratio):
                break
            ratio = left / right
        else:
            if ratio is not None:
                return True
    return False


def value(node: Node) -> Number:
    """The value of an expression without letters. UndefinedError when it has letters or no value."""
    found = _at(node, Scope())
    if found is None:
        raise UndefinedError("no value")
    return found


def letters(node: Node) -> set[str]:
    """Names that stand for unknowns."""
    found = {node.value} if node.kind == "sym" and node.value not in ("pi", "e", "i", "infty") else set()
    if node.kind == "apply":
        found |= {node.value}
    for part in node.args:
        found |= letters(part)
    return found


def _equal_under(a: Node, b: Node, reading: str) -> bool:
    agreed = 0
    for scope in _scopes(a, b, reading):
        left, right = _at(a, scope), _at(b, scope)
        if left is None or right is None:
            continue
        on_line = not isinstance(left, MP.mpc) and not isinstance(right, MP.mpc)
        if not close(left, right):
            # Roots and logarithms of negative numbers have branches; identities hold where everything is real.
            if on_line or all(number > 0 for number in scope.point.values()):
                return False
            continue
        agreed += 1
    return agreed > 0


def _readings(a: Node, b: Node) -> Iterator[str]:
    """f(x) is a function of x, or f times x where f also stands alone; log is natural, or to base 10."""
    alone = {letter for node in (a, b) for letter in _alone(node)}
    applied = {letter for node in (a, b) for letter in _applied(node)}
    functions = "".join(sorted(f"{letter} " for letter in applied - alone))
    yield functions
    if _has_log(a) or _has_log(b):
        yield f"{functions}log10"


def _alone(node: Node) -> set[str]:
    found = {node.value} if node.kind == "sym" else set()
    return found.union(*(_alone(part) for part in node.args))


def _applied(node: Node) -> set[str]:
    found = {node.value} if node.kind == "apply" else set()
    return found.union(*(_applied(part) for part in node.args))


def _has_log(node: Node) -> bool:
    return (node.kind == "call" and node.value == "log" and len(node.args) == 1) or any(map(_has_log, node.args))


@dataclass
class Scope:
    """What an expression is evaluated under."""

    point: Mapping[str, Number] = field(default_factory=dict)
    """Values of the letters."""
    reading: str = ""
    """Letters that are functions, each followed by a space; log10 when log is to base 10."""
    spent: list[int] = field(default_factory=lambda: [0])
    """Work done in all scopes of a comparison: fractions cost the square of their size."""

    def spend(self, number: Number) -> Number:
        number = limited(number)
        if isinstance(number, Fraction):
            words = (number.numerator.bit_length() + number.denominator.bit_length()) // 64 + 1
            self.spent[0] += words * words
            if self.spent[0] > MAX_WORK:
                raise TooLargeError("too much arithmetic with large numbers")
        return number


def _scopes(a: Node, b: Node, reading: str) -> Iterator[Scope]:
    """Points at which both are compared: a letter has one value in both. Positive values first."""
    names = sorted(letters(a) | letters(b))
    if not names:
        yield Scope({}, reading)
        return
    spent = [0]
    for index in range(2 * POINTS):
        point: dict[str, Number] = {}
        for name in names:
            drawn = zlib.crc32(f"{name}/{index}".encode())
            number = Fraction(drawn % 9973 + 100, 2003)
            point[name] = number if index < POINTS or drawn % 3 else -number
        yield Scope(point, reading, spent)


def _at(node: Node, scope: Scope) -> Number | None:
    try:
        found = evaluate(node, scope)
    except UndefinedError:
        return None
    # mpmath raises these for arguments outside a function's domain (the floor of a complex number).
    except (TypeError, ZeroDivisionError, OverflowError):
        return None
    if isinstance(found, MP.mpc) and abs(found.imag) <= TOLERANCE * abs(found.real):
        return found.real
    return found


def evaluate(node: Node, scope: Scope) -> Number:
    """Value of `node` where letters have the values of the scope."""
    match node.kind:
        case "num":
            return Fraction(node.value)
        case "sym":
            return _symbol(node.value, scope.point)
        case "unit" if node.value == ("degree",):
            return real(evaluate(node.args[0], scope)) * MP.pi / 180
        case "unit":
            raise UndefinedError("a unit inside an expression")
        case "pm" | "list" | "tuple" | "set" | "matrix" | "rel" | "ratio" | "based" | "cup" | "cap" | "setminus":
            raise UndefinedError(f"{node.kind} is not one number")
        case "apply":
            return _apply(node, scope)
    values = [evaluate(part, scope) for part in node.args]
    match node.kind:
        case "add":
            return scope.spend(plus(values[0], values[1]))
        case "neg":
            return -values[0]
        case "mul":
            return scope.spend(times(values[0], values[1]))
        case "div":
            return scope.spend(times(values[0], inverse(values[1])))
        case "percent":
            return times(values[0], Fraction(1, 100))
        case "pow":
            return scope.spend(power(values[0], values[1]))
        case "call":
            return call(node.value, values, scope.reading)
    raise UndefinedError(f"{node.kind} is not one number")


def _symbol(name: str, point: Mapping[str, Number]) -> Number:
    if name in point:
        return point[name]
    match name:
        case "pi":
            return +MP.pi
        case "e":
            return +MP.e
        case "i":
            return MP.mpc(0, 1)
        case "infty":
            return MP.inf
    raise UndefinedError(f"{name} is unknown")


def _apply(node: Node, scope: Scope) -> Number:
    """An unknown function is any smooth function that differs from letter to letter; else it is a product."""
    values = [evaluate(part, scope) for part in node.args]
    if f"{node.value} " not in scope.reading:
        factor = _symbol(node.value, scope.point)
        if len(values) != 1:
            raise UndefinedError("a product with several numbers")
        return times(factor, values[0])
    seed = zlib.crc32(node.value.encode()) % 97 + 2
    total = MP.mpf(seed)
    for place, part in enumerate(values):
        total += MP.sin(small(part) * (seed + place)) + small(part) / (place + 3)
    return total


def equal_values(answer: Node, gold: Node) -> bool:
    """Expressions, by value."""
    try:
        if equal(answer, gold):
            return True
    except TooLargeError:
        # 10^10^10^10 is not 10^10; of two such numbers, or a sum with one, nothing is known.
        if any(is_huge(a) and isinstance(_number(b), Fraction) for a, b in ((answer, gold), (gold, answer))):
            return False
        raise
    if any(_rounded(written, exact) for written, exact in ((answer, gold), (gold, answer))):
        return True
    # The constant of an integral: x^2 + C answers x^2 (not the other way round), and C may be any letter.
    stripped = _constant(answer), _constant(gold)
    if stripped[0] and (stripped[1] or not letters(gold) & set("CcKk")) and letters(gold):
        return equal(stripped[0], stripped[1] or gold)
    return False


def _rounded(written: Node, exact: Node) -> bool:
    """Whether `written` is a decimal that rounds the value of `exact`."""
    number = written.args[0] if written.kind == "neg" else written
    found = _number(exact)
    if number.kind != "num" or not isinstance(number.value, Decimal) or found is None:
        return False
    return rounds_to(-found if written.kind == "neg" else found, number.value)


def _number(node: Node) -> Number | None:
    try:
        return value(node)
    except ValueError:
        return None


def _constant(node: Node) -> Node | None:
    if node.kind == "add" and node.args[1].kind == "sym" and node.args[1].value in ("C", "c", "K", "k"):
        return node.args[0] if node.args[1].value not in letters(node.args[0]) else None
    return None
