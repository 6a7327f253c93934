"""What is done to both answers before they are compared: signs +- written out, labels shared."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from r1kit.rewards.math.tree import Node
from r1kit.rewards.math.value import letters

MAX_CHOICES = 16
BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
         "ten": "10", "sixteen": "16"}  # fmt: skip


def normal(node: Node) -> Node:
    """Signs +- written out; `x = 2, 3` as `x = 2, x = 3`; lists inside lists flat."""
    if node.kind in ("list", "set"):
        items: list[Node] = []
        for item in _labelled(node.args):
            alternatives = _choices(item)
            for alternative in alternatives:
                items += alternative.args if alternative.kind == "list" else [alternative]
        items = [item for item in items if not _is_condition(item)] or items
        return items[0] if len(items) == 1 and node.kind == "list" else Node(node.kind, tuple(items), node.value)
    if node.kind == "rel" and len(node.args) == 2 and node.value == ("in",) and node.args[1].kind == "set":
        return Node("list", node.args[1].args, "or")  # x in {1, 2}
    if node.kind == "rel" and node.value == ("=",) and is_label(node.args[1]) and not letters(node.args[0]):
        node = Node("rel", node.args[::-1], ("=",))  # 5 = x
    choices = _choices(node)
    return choices[0] if len(choices) == 1 else Node("list", tuple(choices), "or")


def _is_condition(node: Node) -> bool:
    """k in Z, behind an answer with a free k."""
    return node.kind == "rel" and node.value == ("in",) and node.args[1].value in ("mathbbZ", "mathbbN", "mathbbQ")


def _labelled(items: tuple[Node, ...]) -> tuple[Node, ...]:
    """The label of the first item holds for those behind it that have none."""
    label, found = None, []
    for item in items:
        if item.kind == "rel" and item.value == ("=",) and is_label(item.args[0]):
            label = item.args[0]
        elif item.kind != "rel" and label is not None:
            item = Node("rel", (label, item), ("=",))
        found.append(item)
    return tuple(found)


def _choices(node: Node) -> list[Node]:
    """Every choice of signs: +- independently of each other, unless there is a -+, which goes against all of them."""
    count = _count(node)
    if count == 0:
        return [node]
    tied = _count(node, "mp") > 0
    if not tied and 2**count > MAX_CHOICES:
        return [node]
    found: list[Node] = []
    for signs in [(sign,) * count for sign in (1, -1)] if tied else product((1, -1), repeat=count):
        chosen = _choose(node, iter(signs))
        if chosen not in found:
            found.append(chosen)
    return found


def _count(node: Node, sign: str = "") -> int:
    return (node.kind == "pm" and sign in ("", node.value)) + sum(_count(part, sign) for part in node.args)


def _choose(node: Node, signs: Iterator[int]) -> Node:
    if node.kind == "pm":
        left, sign, right = _choose(node.args[0], signs), next(signs), _choose(node.args[1], signs)
        right = right if (sign > 0) == (node.value == "pm") else Node("neg", (right,))
        zero = left.kind == "num" and left.value == 0
        return right if zero else Node("add", (left, right))
    return Node(node.kind, tuple(_choose(part, signs) for part in node.args), node.value)


def is_label(node: Node) -> bool:
    """What an answer may be called: x, a_n, f(x), AB, area."""
    if node.kind == "mul":
        return all(part.kind == "sym" or is_label(part) for part in node.args) and _capitals(node)
    if node.kind in ("apply", "tuple"):
        plain = all(part.kind in ("sym", "num") for part in node.args)
        return plain and (node.kind == "apply" or all(part.kind == "sym" for part in node.args))
    return node.kind == "sym" and node.value not in ("pi", "infty", "emptyset")


def _capitals(node: Node) -> bool:
    return node.value[:1].isupper() if node.kind == "sym" else all(_capitals(part) for part in node.args)


def names_of(items: list[Node]) -> set[str] | None:
    if not all(item.kind == "rel" and item.value == ("=",) and is_label(item.args[0]) for item in items):
        return None
    return {str(item.args[0].value) for item in items}


def by_letter(node: Node) -> list[Node]:
    """x = 1, y = 2 as the values of x and y, in the order of the letters."""
    items = list(node.args)
    if names_of(items) is None or len(names_of(items) or ()) < 2:
        return items
    return [item.args[1] for item in sorted(items, key=lambda item: str(item.args[0].value))]


def difference(node: Node) -> Node:
    return Node("add", (node.args[0], Node("neg", (node.args[1],))))


def digits_and_base(node: Node) -> tuple[str, str] | None:
    """The digits of a numeral, and its base where one is named: 1010_2."""
    if node.kind == "neg":
        inner = digits_and_base(node.args[0])
        return ("-" + inner[0], inner[1]) if inner else None
    if node.kind == "based":
        digits, base = node.value
        return digits, str(BASES.get(base, base))
    if node.kind == "num" and node.value.denominator == 1:
        return str(node.value), ""
    return None
