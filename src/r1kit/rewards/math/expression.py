"""Expressions: sums, products, powers, functions and what LaTeX has commands for, read by recursive descent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction

from r1kit.rewards.math.cursor import Cursor, plain_exponent
from r1kit.rewards.math.tokens import FUNCTIONS, MalformedError, Token, UnreadableError
from r1kit.rewards.math.tree import Node

CONSTANTS = {"pi", "infty", "emptyset", "ldots"}
PRIMARIES = {"frac", "binom", "overline", "bar", "mathbb", "lfloor", "lceil", "begin", "langle"}


class Expressions(Cursor, ABC):
    """Reads what has one value; methods go from the loosest binding (`sum`) to the tightest (`primary`)."""

    @abstractmethod
    def bracket(self) -> Node:
        """Brackets hold lists and relations too; the reader of those defines it."""

    def sum(self) -> Node:
        self.enter()
        sign = self.take().text if self.now.text in ("+", "-", "pm", "mp") and self.now.kind in ("op", "cmd") else "+"
        node = self.term()
        if sign == "-" and node.kind == "unit":  # -30 degrees
            node = Node("unit", (Node("neg", node.args),), node.value)
        elif sign != "+":
            node = Node("neg", (node,)) if sign == "-" else Node("pm", (Node("num", (), Fraction(0)), node), sign)
        while self.now.text in ("+", "-", "pm", "mp") and self.now.kind in ("op", "cmd"):
            sign = self.take().text
            term = self.term()
            if sign in ("pm", "mp"):
                node = Node("pm", (node, term), sign)
            else:
                node = Node("add", (node, term if sign == "+" else Node("neg", (term,))))
        self.depth -= 1
        return node

    def term(self) -> Node:
        node = self.signed()
        while True:
            if self.skip("*", "cdot", "times"):
                node = Node("mul", (node, self.signed()))
            elif self.now.text == "/" and self.now.kind == "op" or self.now.text == "div":
                self.take()
                node = Node("div", (node, self.signed()))
            elif self.starts_factor():
                if self.now.kind == "num" and self.tokens[self.place - 1].kind == "num":
                    raise MalformedError("two numbers side by side")
                node = Node("mul", (node, self.power()))
            else:
                return node

    def signed(self) -> Node:
        if self.skip("-"):
            return Node("neg", (self.signed(),))
        if self.skip("+"):
            return self.signed()
        return self.power()

    def starts_factor(self) -> bool:
        token = self.now
        if token.kind in ("num", "sym"):
            return True
        if token.kind == "cmd":
            return token.text in FUNCTIONS | CONSTANTS or token.text in PRIMARIES
        if token.text == "(" and self.following.kind in ("word", "or"):  # a remark: 5 (since 2 + 3 = 5)
            return False
        return (
            token.text in ("(", "{", "\\{")
            or (token.text == "[" and not self.outward)
            or (token.text == "|" and not self.bars)
        )

    def power(self) -> Node:
        node = self.postfix(self.primary())
        if self.now.text != "^" or self.now.kind != "op":
            return node
        self.take()
        if self.now.text == "circ" or (self.now.text == "{" and self.following.text == "circ"):
            braced = self.skip("{")
            self.take()
            if braced:
                self.expect("}")
            scale = self.now.text in ("C", "F") and {"C": "celsius", "F": "fahrenheit"}[self.take().text]
            return self.postfix(Node("unit", (node,), ("degree",) if not scale else (scale,)))
        if self.now.text == "'" or (self.now.text == "{" and self.following.text in ("'", "}")) or self.ordinal():
            mark = self.flat()
            return Node("sym", (), node.value + mark) if "'" in mark and node.kind == "sym" else node
        exponent = self.exponent()
        if node.kind == "sym" and self.skip("_"):  # v^2_0
            node = Node("sym", (), f"{node.value}_{self.flat()}")
        return self.postfix(Node("pow", (node, exponent)))

    def exponent(self) -> Node:
        """2^3^2 is 2^(3^2)."""
        node = Node("neg", (self.argument(whole=True),)) if self.skip("-") else self.argument(whole=True)
        if not self.skip("^"):
            return node
        self.enter()
        node = Node("pow", (node, self.exponent()))
        self.depth -= 1
        return node

    def ordinal(self) -> bool:
        token = self.tokens[min(self.place + 1, len(self.tokens) - 1)] if self.now.text == "{" else self.now
        return token.kind == "word" and token.text in ("th", "st", "nd", "rd")

    def postfix(self, node: Node) -> Node:
        while True:
            if self.now.text == "!" and self.now.kind == "op":
                self.take()
                node = Node("call", (node,), "factorial2" if self.skip("!") else "factorial")
            elif self.skip("%", "\\%"):
                node = Node("percent", (node,))
            else:
                return node

    def primary(self) -> Node:
        token = self.now
        if token.kind == "num":
            return self.number()
        if token.kind == "sym":
            return self.symbol()
        if token.kind == "word" and self.following.text in ("=", "approx"):  # Area = 5
            return Node("sym", (), self.take().text.lower())
        if token.kind == "cmd" and token.text in FUNCTIONS and token.text != "sqrt":
            return self.function()
        if token.text in ("(", "[", "{", "\\{", "langle", "]") and token.kind in ("op", "cmd"):
            return self.bracket()
        if token.text == "|" and token.kind == "op":
            self.take()
            self.bars += 1
            inside = self.sum()
            self.bars -= 1
            self.expect("|")
            return Node("call", (inside,), "abs")
        if token.kind == "cmd":
            return self.command()
        raise MalformedError(f"{token.text!r} is out of place" if token.text else "it ends early")

    def symbol(self) -> Node:
        name = self.take().text
        if self.now.text == "_" and self.now.kind == "op":
            self.take()
            name += "_" + self.flat()
        while self.now.text == "'" and self.now.kind == "op":
            name += self.take().text
        if [token.text for token in self.tokens[self.place : self.place + 6]] == ["^", "{", "-", "1", "}", "("]:
            self.place += 5  # an inverse function
            name += "^-1"
        if self.now.text == "(" and self.now.kind == "op" and name not in ("e", "i"):
            before, spaced = self.place, self.now.spaced
            inside = self.bracket()
            arguments = inside.args if inside.kind == "tuple" else (inside,)
            if inside.kind == "tuple" or (not spaced and inside.kind not in ("set", "matrix", "rel", "list")):
                return Node("apply", arguments, name)
            self.place = before
        return Node("sym", (), name)

    def function(self) -> Node:
        name = self.take().text
        exponent = base = None
        for _ in range(2):
            if self.now.text == "^" and self.now.kind == "op":
                self.take()
                exponent = self.argument(whole=True)
            elif self.now.text == "_" and self.now.kind == "op":
                self.take()
                base = self.argument(whole=True)
        if name in ("gcd", "lcm", "max", "min", "det", "dim", "arg", "mod"):
            raise UnreadableError(f"{name} is not computed")
        node = self.function_argument()
        arguments = node.args if node.kind == "tuple" else (node,)
        if name == "log" and len(arguments) == 2:  # log(8, 2)
            arguments, base = arguments[:1], arguments[1]
        if len(arguments) != 1:
            raise UnreadableError(f"{name} of {len(arguments)} arguments")
        if exponent == Node("neg", (Node("num", (), Fraction(1)),)) and name in (
            "sin",
            "cos",
            "tan",
            "cot",
            "sec",
            "csc",
        ):
            return Node("call", arguments, f"arc{name}")
        call = Node("call", (*arguments, base) if base is not None else arguments, name)
        return Node("pow", (call, exponent)) if exponent is not None else call

    def function_argument(self) -> Node:
        """sin(x) y is sin(x) times y; sin 2x is sin(2x); sin x cos x is a product of two."""
        if self.now.text in ("(", "[", "{") and self.now.kind == "op":
            node = self.bracket()
            return self.postfix(node)
        if self.skip("-"):
            return Node("neg", (self.function_argument(),))
        node = self.power()
        while self.starts_factor() and self.now.text not in FUNCTIONS and self.now.text not in ("(", "["):
            node = Node("mul", (node, self.power()))
        if self.now.text == "/" and self.following.kind == "num" and node.kind in ("sym", "num", "mul"):  # sin x/2
            self.take()
            node = Node("div", (node, self.power()))
        return node

    def argument(self, *, whole: bool = False) -> Node:
        r"""What a command takes: a group, or one character: \frac12. `whole` takes a number of several digits."""
        if self.now.text == "{" and self.now.kind == "op":
            self.take()
            node = self.sum() if self.now.text != "}" else Node("num", (), Fraction(0))
            self.expect("}")
            return node
        if self.now.kind == "num" and len(self.now.text) > 1 and not whole:
            digits = self.now
            self.tokens[self.place] = Token("num", digits.text[1:])
            return Node("num", (), Fraction(digits.text[0])) if digits.text[0].isdigit() else self.number()
        if self.now.kind == "num":
            return Node("num", (), Fraction(plain_exponent(self.take().text)))
        if self.now.kind == "sym":
            return Node("sym", (), self.take().text)
        return self.primary()

    def command(self) -> Node:
        name = self.take().text
        if name in CONSTANTS:
            return Node("sym", (), name)
        match name:
            case "frac":
                if self.now.text == "(":  # frac(1, 2) in plain text
                    inside = self.bracket()
                    if inside.kind == "tuple" and len(inside.args) == 2:
                        return Node("div", inside.args)
                    return Node("div", (inside, self.argument()))
                return Node("div", (self.argument(), self.argument()))
            case "binom":
                return Node("call", (self.argument(), self.argument()), "binom")
            case "sqrt":
                index = self.bracket() if self.now.text == "[" else None
                inside = self.bracket() if self.now.text == "(" else self.argument(whole=True)
                return Node("call", (inside, index) if index is not None else (inside,), "root")
            case "overline" | "bar":
                inside = self.argument()
                return Node("sym", (), f"bar {inside.value}") if inside.kind == "sym" else inside
            case "mathbb":
                return Node("sym", (), f"mathbb{self.flat()}")
            case "lfloor" | "lceil":
                inside = self.sum()
                self.expect("rfloor" if name == "lfloor" else "rceil")
                return Node("call", (inside,), "floor" if name == "lfloor" else "ceil")
            case "begin":
                return self.matrix()
        raise UnreadableError(f"\\{name} is not read")

    def matrix(self) -> Node:
        kind = self.flat()
        if kind == "array" and self.now.text == "{":
            self.flat()
        if kind not in ("pmatrix", "bmatrix", "matrix", "array", "Bmatrix", "smallmatrix"):
            raise UnreadableError(f"\\begin{{{kind}}} is not read")
        rows: list[list[Node]] = [[]]
        while not self.skip("end"):
            if self.skip("\\\\"):
                rows.append([])
            elif not self.skip("&", "hline"):
                rows[-1].append(self.sum())
        self.flat()
        rows = [row for row in rows if row]
        if not rows or len({len(row) for row in rows}) != 1:
            raise MalformedError("rows of different length")
        return Node("matrix", tuple(cell for row in rows for cell in row), (len(rows), len(rows[0])))
