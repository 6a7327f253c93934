"""Sets of real numbers as intervals: what unions, inequalities in one letter, and `x != 2` have in common."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cmp_to_key
from typing import Any

from r1kit.rewards.math.numbers import MP, UndefinedError, close, real
from r1kit.rewards.math.tree import Node
from r1kit.rewards.math.value import letters, value

MAX_PARTS = 50
MIRRORED = {"<": ">", ">": "<", "le": "ge", "ge": "le"}


@dataclass(frozen=True)
class Interval:
    """Real numbers between two bounds; a point is an interval of two equal closed ones."""

    low: Any
    high: Any
    low_closed: bool
    high_closed: bool

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Interval)
            and (self.low_closed, self.high_closed) == (other.low_closed, other.high_closed)
            and close(self.low, other.low)
            and close(self.high, other.high)
        )


WHOLE = Interval(-MP.inf, MP.inf, False, False)


def region(node: Node) -> list[Interval] | None:
    """`node` as sorted intervals that do not touch. None when it is no set of real numbers with known bounds."""
    try:
        found = _region(node)
    except (UndefinedError, TypeError):  # TypeError: complex bounds have no order
        return None
    return None if found is None or len(found) > MAX_PARTS else _merged(found)


def variable(node: Node) -> str:
    """The letter that an inequality is about; empty when there is none."""
    if node.kind == "rel":
        return next(
            (part.value for part in node.args if part.kind == "sym" and part.value not in ("mathbbR", "infty")), ""
        )
    if node.kind == "list":
        return next((name for item in node.args if (name := variable(item))), "")
    return ""


def _region(node: Node) -> list[Interval] | None:
    match node.kind:
        case "tuple" if len(node.args) == 2:
            low, high = value(node.args[0]), value(node.args[1])
            # [3, oo] is a slip for [3, oo)
            return [
                Interval(low, high, node.value[0] == "[" and low != -MP.inf, node.value[1] == "]" and high != MP.inf)
            ]
        case "sym" if node.value == "mathbbR":
            return [WHOLE]
        case "sym" if node.value == "emptyset":
            return []
        case "set":
            return [Interval(point, point, True, True) for point in map(value, node.args)]
        case "cup":
            left, right = map(_region, node.args)
            return None if left is None or right is None else left + right
        case "cap" | "setminus":
            left, right = map(_region, node.args)
            if left is None or right is None:
                return None
            return _intersection(left, right if node.kind == "cap" else _complement(_merged(right)))
        case "rel":
            return _relation(node)
        case "list":
            return _list(node)
    return None


def _list(node: Node) -> list[Interval] | None:
    """`or` unites, `and` intersects; a comma does what leaves something."""
    regions = [_region(item) for item in node.args]
    if any(found is None for found in regions) or len({variable(item) for item in node.args if variable(item)}) > 1:
        return None
    united = [interval for found in regions for interval in found or []]
    common = [WHOLE]
    for found in regions:
        common = _intersection(common, found or [])
    if node.value == "or":
        return united
    return (
        common
        if node.value == "and" and common or (common and any(item.kind == "rel" for item in node.args))
        else united
    )


def _relation(node: Node) -> list[Interval] | None:
    names = {name for part in node.args for name in letters(part)}
    if len(node.args) == 2 and node.value == ("in",):
        return _region(node.args[1])
    if len(names) != 1:
        return None
    common = [WHOLE]
    for left, sign, right in zip(node.args, node.value, node.args[1:], strict=False):
        if left.kind == "call" and left.value == "abs" and not letters(right):
            bound = _within(left.args[0], sign, value(right))
        elif left.kind == "sym" and not letters(right):
            bound = _bounded(sign, value(right))
        elif right.kind == "sym" and not letters(left):
            bound = _bounded(str(MIRRORED.get(sign, sign)), value(left))
        else:
            return None
        if bound is None:
            return None
        common = _intersection(common, bound)
    return common


def _within(inside: Node, sign: str, radius: Any) -> list[Interval] | None:
    """Where |x| or |x + c| `sign` radius holds."""
    shift: Any = 0
    if inside.kind == "add" and inside.args[0].kind == "sym" and not letters(inside.args[1]):
        shift, inside = value(inside.args[1]), inside.args[0]
    if inside.kind != "sym" or not _less(0, radius) or sign not in ("<", "le", ">", "ge"):
        return None
    closed = sign in ("le", ">")  # of the part within: |x| > 3 is what [-3, 3] leaves
    low, high = real(-radius) - real(shift), real(radius) - real(shift)
    within = [Interval(low, high, closed, closed)]
    return within if sign in ("<", "le") else _complement(within)


def _bounded(sign: str, bound: Any) -> list[Interval] | None:
    """Where x `sign` bound holds."""
    match sign:
        case "<" | "le":
            return [Interval(-MP.inf, bound, False, sign == "le" and bound != MP.inf)]
        case ">" | "ge":
            return [Interval(bound, MP.inf, sign == "ge" and bound != -MP.inf, False)]
        case "ne":
            return _complement([Interval(bound, bound, True, True)])
        case "=":
            return [Interval(bound, bound, True, True)]
    return None


def _complement(intervals: list[Interval]) -> list[Interval]:
    low, closed, found = -MP.inf, False, []
    for interval in intervals:
        found.append(Interval(low, interval.low, closed, not interval.low_closed))
        low, closed = interval.high, not interval.high_closed
    return [part for part in [*found, Interval(low, MP.inf, closed, False)] if not _is_empty(part)]


def _intersection(a: list[Interval], b: list[Interval]) -> list[Interval]:
    found = []
    for x in a:
        for y in b:
            low, low_closed = max((x.low, not x.low_closed), (y.low, not y.low_closed), key=cmp_to_key(_order))
            high, high_closed = min((x.high, x.high_closed), (y.high, y.high_closed), key=cmp_to_key(_order))
            found.append(Interval(low, high, not low_closed, high_closed))
    return [part for part in found if not _is_empty(part)]


def _order(a: tuple[Any, bool], b: tuple[Any, bool]) -> int:
    if close(a[0], b[0]):
        return (a[1] > b[1]) - (a[1] < b[1])
    return -1 if _less(a[0], b[0]) else 1


def _less(a: Any, b: Any) -> bool:
    return bool(real(a) < real(b))


def _is_empty(part: Interval) -> bool:
    if close(part.low, part.high):
        return not (part.low_closed and part.high_closed) or part.low in (MP.inf, -MP.inf)
    return _less(part.high, part.low)


def _merged(intervals: list[Interval]) -> list[Interval]:
    """Sorted, united where they overlap or touch in a point that belongs to one of them."""
    parts = sorted(
        (part for part in intervals if not _is_empty(part)),
        key=cmp_to_key(lambda x, y: _order((x.low, not x.low_closed), (y.low, not y.low_closed))),
    )
    merged: list[Interval] = []
    for part in parts:
        last = merged[-1] if merged else None
        if (
            last is None
            or _less(last.high, part.low)
            and not close(last.high, part.low)
            or close(last.high, part.low)
            and not (last.high_closed or part.low_closed)
        ):
            merged.append(part)
        else:
            high, closed = max((last.high, last.high_closed), (part.high, part.high_closed), key=cmp_to_key(_order))
            merged[-1] = Interval(last.low, high, last.low_closed, closed)
    return merged
