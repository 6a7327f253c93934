"""The tree that an answer is read into."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any


@dataclass(frozen=True, slots=True)
class Node:
    """One part of an answer. `value` depends on the kind: Fraction of num, name of sym and call, signs of rel."""

    kind: str
    args: tuple[Node, ...] = ()
    value: Any = None


class Decimal(Fraction):
    """A number that was written with a decimal point; `places` digits follow the point."""

    places: int

    def __new__(cls, value: Fraction, places: int) -> Decimal:
        self = super().__new__(cls, value)
        self.places = places
        return self
