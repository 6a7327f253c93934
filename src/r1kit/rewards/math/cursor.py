"""A place among the tokens of an answer, and the reading of what holds no other part: numbers and indices."""

from __future__ import annotations

from fractions import Fraction

from r1kit.rewards.math.tokens import MalformedError, Token, UnreadableError
from r1kit.rewards.math.tree import Decimal, Node

MAX_DEPTH = 40


class Cursor:
    """`now` is the token to read next; `take` moves on."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.place = 0
        self.depth = 0
        self.bars = 0
        """Absolute values that are open: a bar now closes."""
        self.outward = tokens[0].text == "]" or (len(tokens) > 1 and tokens[-2].text == "[")
        """French brackets, ]a, b[."""

    @property
    def now(self) -> Token:
        return self.tokens[self.place]

    @property
    def following(self) -> Token:
        return self.tokens[min(self.place + 1, len(self.tokens) - 1)]

    def take(self) -> Token:
        token = self.now
        self.place = min(self.place + 1, len(self.tokens) - 1)
        return token

    def skip(self, *texts: str) -> bool:
        if self.now.kind in ("op", "cmd") and self.now.text in texts:
            self.take()
            return True
        return False

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError(f"nested deeper than {MAX_DEPTH}")

    def expect(self, text: str) -> None:
        if not self.skip(text):
            raise MalformedError(f"{text!r} is missing before {self.now.text!r}")

    def flat(self) -> str:
        """An index, as text: {\\max} is max, {i,j} is i,j."""
        if not self.skip("{"):
            return self.take().text
        texts, depth = [], 1
        while depth:
            token = self.take()
            if token.kind == "end":
                raise MalformedError("{ is not closed")
            depth += {"{": 1, "}": -1}.get(token.text, 0)
            texts.append(token.text)
        return "".join(texts[:-1])

    def number(self) -> Node:
        text = self.take().text
        if len(text) > 1000:
            raise UnreadableError("a number of more than 1000 digits")
        if self.now.text in ("overline", "dot") and "." in text:
            self.take()
            return Node("num", (), _repeating(text, self.flat()))
        if self.now.text == "(" and text.endswith(".") and self.following.kind == "num":  # 2.(3)
            self.take()
            period = self.take().text
            self.expect(")")
            return Node("num", (), _repeating(text, period))
        if self.now.text == "ldots" and "." in text and len(set(text[-3:])) == 1 and len(text) > 4:
            self.take()
            return Node("num", (), _repeating(text, text[-1]))
        if self.now.text == "_":
            self.take()
            return Node("based", (), (text, self.flat()))
        value = Fraction(text.rstrip(".") if "e" not in text.lower() else plain_exponent(text))
        if value.denominator == 1 and "." not in text and (part := self.proper_fraction()) is not None:
            return Node("num", (), value + part)
        return Node("num", (), value if "." not in text else Decimal(value, len(text.rstrip(".").partition(".")[2])))

    def proper_fraction(self) -> Fraction | None:
        """The 1/2 of the mixed number 3 1/2, taken."""
        texts = [token.text for token in self.tokens[self.place : self.place + 7]]
        kinds = [token.kind for token in self.tokens[self.place : self.place + 7]]
        above = below = ""
        if (
            texts[:2] == ["frac", "{"]
            and texts[3:5] == ["}", "{"]
            and texts[6:] == ["}"]
            and kinds[2] == kinds[5] == "num"
        ):
            above, below, length = texts[2], texts[5], 7
        elif texts[:1] == ["frac"] and kinds[1:2] == ["num"] and len(texts[1]) == 2:  # \frac12
            above, below, length = texts[1][0], texts[1][1], 2
        elif texts[:1] == ["frac"] and kinds[1:3] == ["num", "num"] and len(texts[1]) == 1:
            above, below, length = texts[1], texts[2], 3
        elif kinds[:1] == ["num"] and texts[1:2] == ["/"] and kinds[2:3] == ["num"] and self.now.spaced:
            above, below, length = texts[0], texts[2], 3
        else:
            return None
        if not (above.isdigit() and below.isdigit() and 0 < int(above) < int(below)):
            return None
        self.place += length
        return Fraction(int(above), int(below))


def _repeating(text: str, period: str) -> Fraction:
    whole, _, decimals = text.partition(".")
    if not period.isdigit() or len(period) + len(decimals) > 300:
        raise UnreadableError("a period that is no digits")
    scale = 10 ** len(decimals)
    return Fraction(int(whole + decimals or "0"), scale) + Fraction(int(period), scale * (10 ** len(period) - 1))


def plain_exponent(text: str) -> str:
    """Guard: 1e999999999 would be written out."""
    _, _, exponent = text.lower().partition("e")
    if exponent and abs(int(exponent[:9])) > 5000:
        raise UnreadableError("an exponent above 5000")
    return text.rstrip(".")
