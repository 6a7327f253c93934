"""Records on disk that are used like a list: data sets may be larger than memory."""

from __future__ import annotations

import os
import pickle
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")

IN_MEMORY = 64 * 2**20
"""Bytes up to which nothing is written to disk."""


class Spool(Sequence[T], Generic[T]):
    """A sequence of records in a file without a name, that is gone with the process; 8 bytes of memory for each.

    The file is in TMPDIR, else in /var/tmp: /tmp is memory on some systems.
    """

    def __init__(self) -> None:
        roomy = "/var/tmp"
        place = None if "TMPDIR" in os.environ or not os.access(roomy, os.W_OK) else roomy
        self._file: Any = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=place)  # noqa: SIM115 - it lives as long as we do
        self._starts = array("q")
        self._end = 0

    def append(self, record: T) -> None:
        raw = pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL)
        self._file.seek(self._end)
        self._file.write(raw)
        self._starts.append(self._end)
        self._end += len(raw)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        self._file.seek(self._starts[index])
        return pickle.load(self._file)  # our own file, which nobody else can open

    def __iter__(self) -> Iterator[T]:
        return (self[place] for place in range(len(self)))
