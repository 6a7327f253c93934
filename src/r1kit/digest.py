"""Hashes of what files hold: by them a pipeline knows that an input has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path


def folder_digest(folder: Path, leave_out: Collection[str] = ()) -> str:
    """Hash of a folder's files and of those below it, with their names; hidden ones and `leave_out` do not count."""
    return digest_of(folder, folder_files(folder, leave_out))


def folder_files(folder: Path, leave_out: Collection[str] = ()) -> list[str]:
    """Names of those files, as they are below the folder."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in leave_out and not p.name.startswith("."))
    return [str(path.relative_to(folder)) for path in sorted(files)]


def digest_of(folder: Path, names: Sequence[str]) -> str:
    """Hash of some files below a folder, with their names. FileNotFoundError where one is gone."""
    named = [[name, file_digest(folder / name)] for name in names]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Hash of a file's content."""
    about = path.stat()
    return _content(path, about.st_ino, about.st_size, about.st_mtime_ns)


@cache
def _content(path: Path, _number: int, _size: int, _changed: int) -> str:
    """Read once while the file stays as it is: a pipeline asks often, and weights are large."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
