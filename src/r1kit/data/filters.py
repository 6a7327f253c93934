"""What is left out of a data set, and why: repeated rows, and rows that share ten words on end with an evaluation set.

Decontamination is the paper's (R1 V2 D.1): any text that shares a 10-gram with an evaluation question or its reference
solution is dropped. Paraphrases are not caught. What a word is, is ours: letters or digits on end, one Chinese or
Japanese character, all in lower case.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
TOKEN = re.compile(WORD.pattern + r"|\S")
"""Words and signs: 2+3 is not 2-3."""
NEAR_WORDS = 5
NEAR_SHARE = 0.7


@dataclass
class Tally:
    """How many rows were read, and how many left out for which reason."""

    name: str
    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    """Where each reason came up first."""

    def drop(self, reason: str, where: str) -> None:
        self.dropped[reason] += 1
        self.first.setdefault(reason, where)

    @property
    def kept(self) -> int:
        return self.read - self.dropped.total()

    def text(self) -> str:
        """One line: rows read, kept, dropped and why, with the place of the first of each kind."""
        reasons = "; ".join(
            f"{count:,} that {reason} (first: {self.first[reason].rpartition('/')[2]})"
            for reason, count in self.dropped.most_common()
        )
        return f"{self.name}: {self.read:,} rows read, {self.kept:,} kept" + (f"; dropped {reasons}" if reasons else "")


def words(text: str) -> list[str]:
    """The words of a text, for comparison: without case, punctuation and white space."""
    return WORD.findall(text.casefold())


def grams(found: Sequence[str], size: int) -> Iterator[int]:
    """Hashes of all `size` words on end; fewer words are one gram."""
    for start in range(max(1, len(found) - size + 1)):
        yield hash(tuple(found[start : start + size]))


class Evaluated:
    """The 10-grams of evaluation sets. A text of fewer words is one gram: only a row that is the same has it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._sets: dict[int, str] = {}

    def add(self, name: str, texts: Iterable[str]) -> None:
        for text in texts:
            for gram in grams(words(text), self.size):
                self._sets.setdefault(gram, name)

    def shared_with(self, texts: Iterable[str]) -> str:
        """The name of the evaluation set that one of the texts shares a gram with; empty for none."""
        shared = (self._sets.get(gram, "") for text in texts if text for gram in grams(words(text), self.size))
        return next(filter(None, shared), "")


class Seen:
    """Texts met so far, to find those that come again: a hash of each, and with `near` one of each 5 words."""

    def __init__(self, *, near: bool = False) -> None:
        self.near = near
        self._texts: set[int] = set()
        self._grams: dict[int, int] = {}

    def again(self, text: str) -> bool:
        """Whether this text, or with `near` one much like it, was given before. It is remembered."""
        tokens = TOKEN.findall(text.casefold())
        key = hash(tuple(tokens))
        if key in self._texts:
            return True
        self._texts.add(key)
        if not self.near:
            return False
        mine = set(grams(tokens, NEAR_WORDS))
        shared = Counter(self._grams[gram] for gram in mine if gram in self._grams)
        if shared and max(shared.values()) >= NEAR_SHARE * len(mine):
            return True
        number = len(self._texts)
        for gram in mine:
            self._grams.setdefault(gram, number)
        return False
