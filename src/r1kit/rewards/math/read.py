r"""A cleaned answer -> a tree: numbers, expressions, relations, tuples, sets, intervals, matrices, lists, units.

A recursive-descent reader of LaTeX and plain-text mathematics as models write it. It computes nothing, so its time is
bounded by the length of the text; what it does not know raises UnreadableError and is left to math-verify.
"""

from __future__ import annotations

import re
from fractions import Fraction

from r1kit.rewards.math.expression import Expressions
from r1kit.rewards.math.tokens import MalformedError, UnreadableError, tokenize
from r1kit.rewards.math.tree import Node
from r1kit.rewards.math.units import Measure, is_unit, measure

MAX_TOKENS = 600
RELATIONS = {"=", "<", ">", "le", "ge", "ne", "approx", "equiv", "in", "notin", "sim", "cong"}
OPENED = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "langle": "rangle"}
CLOSED = {")", "]", "}", "\\}", "rangle", "rfloor", "rceil"}
MONEY = {"\\$": "dollars", "$": "dollars", "€": "euros", "£": "gbp", "¥": "yuan", "¢": "cents"}
# A numeral with its base; letters are digits too: A5_{11}.
BASED = re.compile(r"(-?)\(?((?:\d[\dA-Fa-f]*|[A-F]+\d[\dA-F]*)(?:\.\d+)?)\)?_\s*\{?\s*(\d+|[a-z]{3,7})\s*\}?")


def read(text: str) -> Node:
    """The tree of a cleaned text. UnreadableError says what stands in the way."""
    if match := BASED.fullmatch(re.sub(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}", r"\1", text)):
        return Node("based", (), (match[1] + match[2].upper(), match[3]))
    tokens = tokenize(text)
    if len(tokens) > MAX_TOKENS:
        raise UnreadableError(f"{len(tokens)} tokens, more than {MAX_TOKENS}")
    reader = Reader(tokens)
    node = reader.answers()
    if reader.now.kind != "end":
        raise MalformedError(f"{reader.now.text!r} is out of place")
    return node


class Reader(Expressions):
    """Reads whole answers: lists of relations, unions, ratios, and expressions with units; and what brackets hold."""

    def answers(self) -> Node:
        """Items joined by commas, semicolons, `and` and `or`."""
        items, joints = [self.item()], []
        while self.joins():
            joint = ""
            while self.joins():
                token = self.take()
                joint = token.kind if token.kind in ("or", "and") else joint or token.text
            if self.now.kind == "end":
                break
            items.append(self.item())
            joints.append(joint)
        if len(items) == 1:
            return items[0]
        return Node("list", tuple(items), next((joint for joint in ("or", "and") if joint in joints), joints[0]))

    def joins(self) -> bool:
        return self.now.kind in ("or", "and") or self.now.text in (",", ";", "&")

    def item(self) -> Node:
        self.skip("approx", "=", "sim", "therefore", "because", "forall")
        parts, signs = [self.union()], []
        while True:
            if self.now.text in RELATIONS and self.now.kind in ("op", "cmd"):
                signs.append(self.take().text)
                if signs[-1] in ("<", ">") and self.skip("="):
                    signs[-1] = {"<": "le", ">": "ge"}[signs[-1]]
                parts.append(self.union())
            elif self.skip("Rightarrow", "to"):  # what follows is what was derived
                parts, signs = [self.union()], []
            else:
                break
        if self.skip("pmod"):
            return Node("mod", (parts[-1], self.argument(whole=True)))
        return Node("rel", tuple(parts), tuple(signs)) if signs else parts[0]

    def union(self) -> Node:
        node = self.ratio()
        while self.now.text in ("cup", "cap", "setminus") and self.now.kind == "cmd":
            kind = self.take().text
            node = Node(kind, (node, self.ratio()))
        return node

    def ratio(self) -> Node:
        parts = [self.quantity()]
        while self.now.text == ":" and self.now.kind == "op":
            self.take()
            parts.append(self.quantity())
        return Node("ratio", tuple(parts)) if len(parts) > 1 else parts[0]

    def quantity(self) -> Node:
        """An expression with the unit around it: 5 cm^2, \\$5, 5 miles per hour."""
        negative = self.now.text == "-" and self.following.text in MONEY and bool(self.take())
        money = MONEY[self.take().text] if self.now.text in MONEY and self.now.kind == "op" else ""
        if self.now.kind == "word" and is_unit(self.now.text) and self.following.kind == "num":  # USD 18
            money = self.take().text
        node = self.sum()
        words = (money, *self.unit()) if money else self.unit()
        while words and (smaller := self.smaller(measure(words))) is not None:
            ratio, rest, words = smaller
            node = Node("add", (Node("mul", (node, Node("num", (), ratio))), rest))
        node = Node("neg", (node,)) if negative else node
        if words and words[0].lower() in ("percent", "pct", "percentage"):
            return Node("percent", (node,))
        return Node("unit", (node,), words) if words else node

    def smaller(self, larger: Measure | None) -> tuple[Fraction, Node, tuple[str, ...]] | None:
        """The 30 minutes of 1 hour 30 minutes: how many make one of the larger unit, how many there are, their unit."""
        place = self.place
        if self.now.kind == "and":
            self.take()
        if larger is not None and self.now.kind == "num":
            node = self.number()
            words = self.unit()
            found = measure(words)
            if found is not None and found[0] == larger[0] and found[1] < larger[1]:
                return larger[1] / found[1], node, words
        self.place = place
        return None

    def unit(self) -> tuple[str, ...]:
        words: list[str] = []
        while True:
            token = self.now
            if token.kind == "word":
                words.append(self.take().text)
            elif token.text in MONEY and token.kind == "op":
                words.append(MONEY[self.take().text])
            elif words and token.text == "^":
                self.take()
                words.append("^" + self.flat())
            elif (
                words
                and token.text in ("/", "cdot")
                and (self.following.kind == "word" or is_unit(self.following.text))
            ):
                words.append("/" if self.take().text == "/" else "*")
                words.append(self.take().text)
            elif (
                words
                and token.kind == "sym"
                and is_unit(token.text)
                or words
                and token.kind == "and"
                and self.following.kind == "word"
            ):
                words.append(self.take().text)
            elif (words and token.text in ("(", "'", "-", ".")) or (
                token.text == "(" and self.following.kind in ("word", "or")
            ):
                # A remark behind the unit: 5 cm (long). It is read so that it must close, and dropped.
                if self.take().text == "(":
                    while not self.skip(")"):
                        if self.take().kind == "end":
                            raise MalformedError("( is not closed")
            else:
                return tuple(words)

    def bracket(self) -> Node:
        self.enter()
        opened = self.take().text
        bars, self.bars = self.bars, 0
        items: list[Node] = []
        while not (self.now.text in CLOSED and self.now.kind in ("op", "cmd")) and not (
            self.outward and self.now.text == "["
        ):
            if self.now.kind == "end":
                raise MalformedError(f"{opened!r} is not closed")
            if opened in ("\\{", "{") and not items and (length := self.builder()):  # {x | x > 3}
                self.place += length
                inside = self.answers()
                self.expect(OPENED[opened])
                self.bars, self.depth = bars, self.depth - 1
                return inside
            items.append(self.item())
            if not self.skip(",", ";") and self.now.kind in ("and", "or"):
                self.take()
        closed = self.take().text
        self.bars = bars
        self.depth -= 1
        return _bracketed(opened, closed, items)

    def builder(self) -> int:
        """Tokens up to the bar of {x | x > 3} or {x in R : x > 3}; 0 when there is none."""
        texts = [token.text for token in self.tokens[self.place : self.place + 7]]
        length = 6 if texts[1:3] == ["in", "mathbb"] else 1
        return length + 1 if self.now.kind == "sym" and texts[length : length + 1] in (["|"], [":"]) else 0


def _bracketed(opened: str, closed: str, items: list[Node]) -> Node:
    if opened in ("\\{", "{"):
        if closed != OPENED[opened]:
            raise MalformedError(f"{opened!r} is closed by {closed!r}")
        if opened == "{" and len(items) == 1:
            return items[0]
        return Node("set", tuple(items), opened) if items else Node("sym", (), "emptyset")
    if closed in ("}", "\\}"):
        raise MalformedError(f"{opened!r} is closed by {closed!r}")
    if len(items) == 1 and OPENED.get(opened) == closed and opened != "langle":
        return items[0]
    if not items:
        raise MalformedError("empty brackets")
    left = "[" if opened == "[" else "("
    right = "]" if closed == "]" else ")"
    return Node("tuple", tuple(items), left + right)
