"""Rows of .jsonl files: one object a line, read line by line, every fault with its place."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def json_rows(path: Path, form: str = "write one object a line") -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of every line that is not blank; where is "file:line". A file named .gz is decompressed.

    ValueError for a line that is no JSON object, which ends with `form`, what to write instead; for bytes that are not
    UTF-8, and for a gzip file that is damaged.
    """
    read = 0
    for number, raw in enumerate(_lines(path), start=1):
        where = f"{path}:{number}"
        try:
            line = raw.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: byte {read + error.start} is not UTF-8; save the file as UTF-8") from error
        read += len(raw)
        if number == 1:
            line = line.removeprefix("\ufeff")
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where}: not JSON ({error.msg}, column {error.colno}); write one object a line"
            ) from error
        if not isinstance(row, dict):
            raise ValueError(f"{where}: {line.strip()[:60]!r} is not an object; {form}")
        yield where, row


def _lines(path: Path) -> Iterator[bytes]:
    """Lines end with a line feed: U+2028 inside a string ends none."""
    if path.suffix != ".gz":
        with path.open("rb") as file:
            yield from file
        return
    try:
        with gzip.open(path) as file:
            yield from file
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error}); fetch it again") from error
