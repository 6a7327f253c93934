r"""Do two answers that were read say the same? An ordered list of comparators, one for each kind of answer.

A comparator returns True or False when the pair is of its kind, None when it is not; the first that knows decides.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from r1kit.rewards.math.normal import by_letter, difference, digits_and_base, is_label, names_of, normal
from r1kit.rewards.math.numbers import TooLargeError, UndefinedError, real
from r1kit.rewards.math.regions import region, variable
from r1kit.rewards.math.tree import Node
from r1kit.rewards.math.units import measure
from r1kit.rewards.math.value import equal, equal_values, letters, proportional, value

MAX_ITEMS = 40
INEQUALITIES = {"<", ">", "le", "ge"}
ZERO = Node("num", (), Fraction(0))
HUNDRED = Node("num", (), Fraction(100))


def same(answer: Node, gold: Node) -> bool:
    """Whether `answer` says what `gold` says. TooLargeError where a value is out of reach."""
    if answer == gold:
        return True
    answer, gold = normal(answer), normal(gold)
    if answer == gold:
        return True
    for comparator in COMPARATORS:
        verdict = comparator(answer, gold)
        if verdict is not None:
            return verdict
    return equal_values(answer, gold)


# Comparators


def _chains(answer: Node, gold: Node) -> bool | None:
    """a = b = c: the answer is the last part, and what is said on the way must not contradict it."""
    if _is_chain(gold):
        return _is_consistent(gold) and any(same(answer, part) for part in gold.args)
    if not _is_chain(answer):
        return None
    if not _is_consistent(answer):
        return False
    first, last = answer.args[0], answer.args[-1]
    if gold.kind == "rel" and gold.value == ("=",) and is_label(first):
        return same(Node("rel", (first, last), ("=",)), gold) or _exact_part(answer, gold.args[1])
    return same(last, gold) or _exact_part(answer, gold)


def _is_consistent(chain: Node) -> bool:
    """Whether the numbers in a chain are one number, approximations aside."""
    numbers = [part for part in chain.args if not letters(_bare(part))]
    signs = chain.value[len(chain.args) - len(numbers) :]
    return all(
        same(number, numbers[0]) or (sign == "approx" and _near(number, numbers[0]))
        for number, sign in zip(numbers[1:], signs, strict=False)
    )


def _is_chain(node: Node) -> bool:
    if node.kind != "rel" or not set(node.value) <= {"=", "approx", "equiv", "sim"}:
        return False
    first, *others = node.args
    return len(others) > 1 or "approx" in node.value or not letters(_bare(first))


def _exact_part(answer: Node, gold: Node) -> bool:
    """sqrt(2) = 1.414 (rounded): the part before the approximation counts too."""
    if "approx" not in answer.value:
        return False
    exact = answer.args[answer.value.index("approx")]
    return _near(answer.args[-1], exact) and same(exact, gold)


def _near(a: Node, b: Node) -> bool:
    try:
        left, right = real(value(_bare(a))), real(value(_bare(b)))
        return bool(abs(left - right) <= abs(right) / 20)
    except UndefinedError:
        return False


def _percents(answer: Node, gold: Node) -> bool | None:
    """50% is 50 where percent is asked for, 0.5 where a share is: the sign on one side only leaves both open."""
    if answer.kind == "percent" and gold.kind == "percent":
        return same(answer.args[0], gold.args[0])
    if answer.kind == "percent" and gold.kind not in ("rel", "list", "unit"):
        return same(answer.args[0], gold) or same(Node("div", (answer.args[0], HUNDRED)), gold)
    if gold.kind == "percent" and answer.kind not in ("rel", "list", "unit"):
        return same(answer, gold.args[0]) or same(answer, Node("div", (gold.args[0], HUNDRED)))
    return None


def _units(answer: Node, gold: Node) -> bool | None:
    """Units of one dimension convert, of two dimensions differ; a unit on one side only is ignored."""
    if (
        "unit" not in (answer.kind, gold.kind)
        or "rel" in (answer.kind, gold.kind)
        or "list" in (answer.kind, gold.kind)
    ):
        return None
    if answer.kind == gold.kind:
        given, wanted = measure(answer.value), measure(gold.value)
        if given and wanted and given != wanted:
            if given[0] != wanted[0]:
                angles = {given[0], wanted[0]} == {(("angle", 1),), (("radian", 1),)}
                return angles and equal(_radians(answer), _radians(gold))
            scaled = Node("mul", (answer.args[0], Node("num", (), given[1] / wanted[1])))
            return same(scaled, gold.args[0])
        return same(answer.args[0], gold.args[0])
    for named, other in ((answer, gold), (gold, answer)):
        if named.kind == "unit" and len(named.value[0]) == 1 and named.value[0] in letters(other):  # 3 t beside 3t
            spelled = Node("mul", (named.args[0], Node("sym", (), named.value[0])))
            return same(spelled, gold) if named is answer else same(answer, spelled)
    bare = same(_bare(answer), _bare(gold))
    degrees = (("degree",), ("degrees",))
    if bare or (answer.value not in degrees and gold.value not in degrees):
        return bare
    return equal(_radians(answer), _radians(gold))


def _bare(node: Node) -> Node:
    return node.args[0] if node.kind in ("unit", "percent") else node


def _radians(node: Node) -> Node:
    if node.kind == "unit":
        return Node("unit", node.args, ("degree",)) if node.value[0].startswith("deg") else node.args[0]
    return node


def _ratios(answer: Node, gold: Node) -> bool | None:
    """3:4 is 6:8 and 3/4."""
    if "ratio" not in (answer.kind, gold.kind) or "rel" in (answer.kind, gold.kind):
        return None
    if answer.kind == gold.kind:
        if len(answer.args) != len(gold.args):
            return False
        if any(same(part, ZERO) for part in (*answer.args, *gold.args)):  # all products are 0 then
            return all(same(a, b) for a, b in zip(answer.args, gold.args, strict=True))
        return all(
            equal(Node("mul", (a, gold.args[0])), Node("mul", (b, answer.args[0])))
            for a, b in zip(answer.args, gold.args, strict=True)
        )
    sides = [
        Node("div", node.args) if node.kind == "ratio" and len(node.args) == 2 else node for node in (answer, gold)
    ]
    return "ratio" not in (sides[0].kind, sides[1].kind) and same(sides[0], sides[1])


def _remainders(answer: Node, gold: Node) -> bool | None:
    """3 mod 7 is 10 mod 7, and 3 where the modulus is left out."""
    if "mod" not in (answer.kind, gold.kind):
        return None
    if answer.kind != gold.kind:
        return same(*(node.args[0] if node.kind == "mod" else node for node in (answer, gold)))
    distance = Node("add", (answer.args[0], Node("neg", (gold.args[0],))))
    turns = Node("div", (distance, gold.args[1]))
    return same(answer.args[1], gold.args[1]) and equal(turns, Node("call", (turns,), "floor"))


def _based(answer: Node, gold: Node) -> bool | None:
    """1010_2: the digits count, and the base where both name it."""
    if "based" not in (answer.kind, gold.kind):
        return None
    given, wanted = (digits_and_base(node) for node in (answer, gold))
    if given is None or wanted is None:
        return False
    return given[0] == wanted[0] and (not given[1] or not wanted[1] or given[1] == wanted[1])


def _regions(answer: Node, gold: Node) -> bool | None:
    """Intervals, unions, inequalities in one letter, as sets of real numbers: x > 3 is (3, oo), x != 2 is R less 2."""
    if not (_is_region(answer) or _is_region(gold)):
        return None
    if answer.kind == "tuple" and gold.kind == "tuple":
        return None
    given, wanted = region(answer), region(gold)
    if given is None or wanted is None:
        return None
    names = variable(answer), variable(gold)
    return given == wanted and (not names[0] or not names[1] or names[0] == names[1])


def _is_region(node: Node) -> bool:
    if node.kind in ("cup", "cap", "setminus"):
        return True
    if node.kind == "list":
        return any(_is_region(item) for item in node.args)
    if node.kind == "rel":
        return bool(set(node.value) & (INEQUALITIES | {"ne", "in"}))
    return node.kind == "sym" and node.value == "mathbbR" or node.kind == "tuple" and node.value in ("(]", "[)")


def _unions(answer: Node, gold: Node) -> bool | None:
    """Unions with letters in their bounds, part by part."""
    if answer.kind == gold.kind == "cup":
        return _matched(_parts(answer), _parts(gold))
    return None


def _parts(node: Node) -> list[Node]:
    return [part for side in node.args for part in _parts(side)] if node.kind == "cup" else [node]


def _lists(answer: Node, gold: Node) -> bool | None:
    """Several answers, in any order. A tuple keeps its order: (1, 2) is `1, 2` and not `2, 1`."""
    kinds = {answer.kind, gold.kind}
    if not kinds & {"list", "set"}:
        return None
    if "tuple" in kinds or "matrix" in kinds:
        other, bare = (answer, gold) if answer.kind in ("tuple", "matrix") else (gold, answer)
        # {1,2} without backslashes is 1,2 in LaTeX: a list.
        if bare.kind == "set" and bare.value != "{" or len(other.args) != len(bare.args):
            return False
        items = by_letter(bare)
        return all(same(a, b) for a, b in zip(other.args, items, strict=True))
    given, wanted = _items(answer), _items(gold)
    if max(len(given), len(wanted)) > MAX_ITEMS:
        raise TooLargeError(f"more than {MAX_ITEMS} answers")
    if len(wanted) == 1 and answer.kind == "list":  # one answer in two spellings: 15 39/40 or 639/40
        return all(same(item, wanted[0]) for item in given)
    if kinds == {"set"}:
        given, wanted = _unique(given), _unique(wanted)
    if all(item.kind == "rel" for item in given) != all(item.kind == "rel" for item in wanted):
        named = names_of(given) or names_of(wanted)
        # x = 1, y = 2 against 1, 2; but x_1 and x_2 are two values of one x
        if named is not None and len({name.partition("_")[0] for name in named}) > 1:
            given, wanted = by_letter(Node("list", tuple(given))), by_letter(Node("list", tuple(wanted)))
            return len(given) == len(wanted) and all(same(a, b) for a, b in zip(given, wanted, strict=True))
    return _matched(given, wanted)


def _items(node: Node) -> list[Node]:
    if node.kind == "rel" and node.args[0].kind == node.args[1].kind == "tuple":  # (x, y) = (2, 3)
        return [Node("rel", pair, ("=",)) for pair in zip(node.args[0].args, node.args[1].args, strict=False)]
    return list(node.args) if node.kind in ("list", "set") else [node]


def _unique(items: list[Node]) -> list[Node]:
    kept: list[Node] = []
    for item in items:
        if not any(same(item, other) for other in kept):
            kept.append(item)
    return kept


def _matched(given: list[Node], wanted: list[Node]) -> bool:
    """Every answer has its gold. `same` is an equivalence, so that the first match is as good as any."""
    if len(given) != len(wanted):
        return False
    left = list(wanted)
    for item in given:
        place = next((place for place, other in enumerate(left) if same(item, other)), None)
        if place is None:
            return False
        left.pop(place)
    return True


def _tuples(answer: Node, gold: Node) -> bool | None:
    """Points, vectors and intervals: order counts; for pairs the brackets do too, (1, 2) is not [1, 2]."""
    if not {answer.kind, gold.kind} & {"tuple", "matrix"}:
        return None
    if "rel" in (answer.kind, gold.kind):
        return None
    given, wanted = _rows(answer), _rows(gold)
    if given is None or wanted is None:
        return False
    if answer.kind == gold.kind == "tuple" and len(answer.args) == 2 and answer.value != gold.value:
        return False
    flat = 1 in given[0] and 1 in wanted[0] and answer.kind != gold.kind  # a vector, as a tuple and as a column
    if not flat and given[0] != wanted[0]:
        return False
    return len(given[1]) == len(wanted[1]) and all(same(a, b) for a, b in zip(given[1], wanted[1], strict=True))


def _rows(node: Node) -> tuple[tuple[int, int], tuple[Node, ...]] | None:
    """Shape and entries; a tuple of tuples is a matrix, a tuple is one row."""
    if node.kind == "matrix":
        return node.value, node.args
    if node.kind != "tuple":
        return None
    widths = {len(row.args) for row in node.args if row.kind == "tuple"}
    if len(widths) == 1 and all(row.kind == "tuple" for row in node.args):
        return (len(node.args), widths.pop()), tuple(entry for row in node.args for entry in row.args)
    return (1, len(node.args)), node.args


def _equations(answer: Node, gold: Node) -> bool | None:
    """x = 5 is 5; two equations say the same when one is a multiple of the other."""
    if answer.kind == gold.kind == "rel":
        if answer.value != ("=",) or gold.value != ("=",):
            return _inequalities(answer, gold)
        (left, right), (wanted_left, wanted_right) = answer.args, gold.args
        if is_label(left) and is_label(wanted_left):
            free = (
                left == wanted_left
                or _is_name(left)
                or _is_name(wanted_left)
                or "apply" in (left.kind, wanted_left.kind)
            )
            return same(right, wanted_right) if free else proportional(difference(answer), difference(gold))
        if is_label(right) and is_label(wanted_left) or is_label(left) and is_label(wanted_right):
            mirrored = Node("rel", (right, left), ("=",))
            if mirrored == gold or _plain(right, wanted_left) and same(left, wanted_right):
                return True
        return proportional(difference(answer), difference(gold))
    if gold.kind == "rel":
        return gold.value == ("=",) and is_label(gold.args[0]) and same(answer, gold.args[1])
    if answer.kind == "rel":
        if answer.value != ("=",):
            return False
        # a + b = 12 answers 12: the question may have asked for a + b. An equation = 0 is no answer.
        asked = is_label(answer.args[0]) or not (letters(_bare(gold)) or same(answer.args[1], ZERO))
        return asked and same(answer.args[1], gold)
    return None


def _plain(a: Node, b: Node) -> bool:
    return a == b


def _inequalities(answer: Node, gold: Node) -> bool:
    """a < b + c is b + c > a is a - b < c: the differences agree up to a positive factor."""
    if len(answer.args) != 2 or len(gold.args) != 2:
        if len(answer.args) != len(gold.args):
            return False
        if answer.value == gold.value:
            return all(same(a, b) for a, b in zip(answer.args, gold.args, strict=True))
        turned = tuple(FLIPPED.get(sign, sign) for sign in reversed(answer.value))
        return turned == gold.value and all(same(a, b) for a, b in zip(reversed(answer.args), gold.args, strict=True))
    if answer.value[0] == gold.value[0] and all(same(a, b) for a, b in zip(answer.args, gold.args, strict=True)):
        return True
    sides = []
    for node in (answer, gold):
        greater = node.value[0] in (">", "ge")
        sides.append((node.value[0] in ("<", ">"), node.args if greater else node.args[::-1], node.value[0]))
    if answer.value[0] not in FLIPPED or gold.value[0] not in FLIPPED:
        return answer.value == gold.value and proportional(difference(answer), difference(gold))
    if sides[0][0] != sides[1][0]:
        return False
    left, right = (Node("add", (high, Node("neg", (low,)))) for _, (high, low), _ in sides)
    return proportional(left, right) and not proportional_negative(left, right)


def proportional_negative(a: Node, b: Node) -> bool:
    """Whether a + |a| and b + |b| are not proportional, as those of a = -b are not."""
    positive = [Node("add", (node, Node("call", (node,), "abs"))) for node in (a, b)]
    return not proportional(positive[0], positive[1])


FLIPPED = {"<": ">", ">": "<", "le": "ge", "ge": "le"}


def _is_name(node: Node) -> bool:
    return node.kind == "sym" and len(node.value) > 3 and node.value.isalpha() and node.value.islower()


COMPARATORS: tuple[Callable[[Node, Node], bool | None], ...] = (
    _chains,
    _percents,
    _units,
    _ratios,
    _based,
    _remainders,
    _regions,
    _unions,
    _lists,
    _equations,
    _tuples,
)
