"""Rows of data sets: a file, a folder, or a name on the Hugging Face hub, read row by row.

    problems.jsonl  pairs.jsonl.gz  data.json  train.parquet  table.csv  table.tsv       one file
    folder                                  all files in it; `train` and `test` in their names are the splits
    gsm8k                                   a set known by name (known.py)
    openai/gsm8k   openai/gsm8k:main@train  the hub: name, configuration, split; needs the package `datasets`

`@train` or `@test` after any of them takes that split alone; a folder and the hub may have splits of other names. Where
R1KIT_DATA names a folder, R1KIT_DATA/org/name (made by `hf download org/name --repo-type dataset --local-dir ...`) is
read in place of the hub.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from r1kit.config.source import ColumnsConfig
from r1kit.data.known import KNOWN
from r1kit.jsonl import json_rows

Split = Literal["train", "heldout", ""]
Fields = dict[str, Any]

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv", ".tsv")
HELDOUT_NAMES = ("heldout", "test", "validation", "valid", "val", "dev", "eval")
SHADOWED = {
    "prompt": ("reward_model", "nums", "quiz"),
    "answer": ("reward_model", "nums", "quiz"),
    "completion": ("messages", "conversations"),
    "messages": ("conversations",),
}
"""Columns that say the same, and are not looked at where the flags name another."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class Row(NamedTuple):
    """One row of a data set."""

    where: str
    """file:row or name@split:row, for errors; rows are counted from 1."""
    split: Split
    """What the source says about it; empty when it says nothing."""
    fields: Fields


@dataclass(frozen=True)
class Part:
    """Rows of one split from one place."""

    name: str
    split: Split
    read: Callable[[Collection[str]], Iterator[tuple[str, Fields]]]
    """(where, fields) of every row. Given names, it may leave out other columns: some are large and of no use."""


def read_rows(
    source: str,
    columns: ColumnsConfig | None = None,
    *,
    first: int = 0,
    in_run: str = "",
    training_only: bool = False,
    names: Collection[str] = (),
) -> Iterator[Row]:
    """The rows of a source, the columns that `columns` names under the names that they have here.

    `first`: so many of each part, 0 is all. `in_run`: the file to read of a folder that has it. `training_only`: no
    held-out parts where there are others. `names`: the columns that will be used. FileNotFoundError when there is no
    such source, ValueError for a row that cannot be read.
    """
    columns = columns or ColumnsConfig()
    wanted = {*names, *columns.names().values()} if names else ()
    parts = parts_of(source, in_run=in_run, header=not any(map(str.isdigit, columns.names().values())), first=first)
    if training_only and any(part.split != "heldout" for part in parts):
        parts = [part for part in parts if part.split != "heldout"]
    for part in parts:
        for where, fields in islice(part.read(wanted), first or None):
            yield Row(where, part.split, renamed(where, fields, columns))


def renamed(where: str, fields: Fields, columns: ColumnsConfig) -> Fields:
    """The row with its columns under the names that they have here; ValueError where one is not there."""
    if not columns.names():
        return fields
    made = dict(fields)
    for name, column in columns.names().items():
        if column not in fields:
            raise ValueError(
                f"{where}: no column {column!r} (--columns.{name}) among {', '.join(sorted(fields)) or 'none'}; "
                f"give the name of one of them{table_hint(where)}"
            )
        for other in SHADOWED.get(name, ()):
            made.pop(other, None)
    return made | {name: fields[column] for name, column in columns.names().items()}


def table_hint(where: str) -> str:
    """What else may be wrong with the columns of a row at file:row, where the file is a table; empty for other files.

    A first line that has no names is taken for names, so that they look like data.
    """
    if not where.rpartition(":")[0].endswith((".csv", ".tsv")):
        return ""
    return "; in a table without a line of names columns are numbers: --columns.prompt 1, and so on"


def is_source(spec: str) -> bool:
    """Whether `spec` looks like a data set rather than a task's name."""
    return spec.partition("@")[0] in KNOWN or "/" in spec or spec.partition("@")[0].endswith(SUFFIXES)


def check_source(source: str, in_run: str = "") -> None:
    """FileNotFoundError or ValueError for a local source that is not there. The hub is not asked."""
    name = divided(source)[0]
    if source not in KNOWN and not (HUB_NAME.fullmatch(name.partition(":")[0]) and not Path(name).exists()):
        parts_of(source, in_run=in_run)


def stamp(source: str) -> tuple[Any, ...]:
    """Changes when the files of a local source do; a key for what was read of it."""
    path = Path(divided(source)[0])
    files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.is_file() else []
    about = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file()]
    return (os.environ.get("R1KIT_DATA", ""), *about)


def parts_of(source: str, *, in_run: str = "", header: bool = True, first: int = 0) -> list[Part]:
    """Where the rows of a source are."""
    name, wanted = divided(source)
    if name in KNOWN and not Path(name).exists():
        known, side = KNOWN[name], _side(source, wanted)
        sides: list[tuple[Split, str]] = [("train", known.train), ("heldout", known.heldout)]
        chosen = [(split, at) for split, at in sides if at and side in ("", split)]
        if not chosen:
            raise ValueError(f"{source}: {known.about}, has no such split; leave out @{wanted}")
        only = not known.heldout  # then one row in ten is held out
        return [
            replace(part, split="" if only else split)
            for split, at in chosen
            for part in parts_of(at, header=header, first=first)
        ]
    path = Path(name)
    if path.is_file():
        return [Part(name, _side(source, wanted), partial(_file_rows, path, header=header))]
    if path.is_dir():
        if in_run and (path / in_run).is_file():
            return [Part(name, _side(source, wanted), partial(_file_rows, path / in_run))]
        if in_run and (path / "config.json").is_file():
            raise FileNotFoundError(f"{path} has no {in_run}; give a finished run, or a folder of data files")
        return _folder_parts(path, wanted, header=header, in_run=in_run)
    hub, _, configuration = name.partition(":")
    if not HUB_NAME.fullmatch(hub) or hub.endswith(SUFFIXES):
        raise FileNotFoundError(
            f"{name}: no such file or folder; give a file ({', '.join(SUFFIXES)}), a folder, a set known by name "
            f"({', '.join(KNOWN)}) or a name on the Hugging Face hub (org/name)"
        )
    if copies := os.environ.get("R1KIT_DATA"):
        copy = Path(copies) / hub
        if copy.is_dir():
            inside = copy / configuration if configuration and (copy / configuration).is_dir() else copy
            return _folder_parts(inside, wanted, header=header)
    return _hub_parts(hub, configuration, wanted, streaming=first > 0)


def divided(source: str) -> tuple[str, str]:
    """(name, split) of NAME@SPLIT; a path that has an @ in it stays whole."""
    name, at, split = source.rpartition("@")
    return (name, split) if at and not Path(source).exists() else (source, "")


def _split_of(name: str) -> Split:
    return "train" if name == "train" else "heldout" if name in HELDOUT_NAMES else ""


def _side(source: str, wanted: str) -> Split:
    """The split of a source that has no names of its own for them; ValueError for a word that is no split's."""
    split = _split_of(wanted)
    if wanted and not split:
        raise ValueError(
            f"{source}: no split is called {wanted!r}; write @train, or @test for the held-out one "
            f"({', '.join(HELDOUT_NAMES)} mean the same), or leave out @{wanted}"
        )
    return split


def _folder_parts(folder: Path, wanted: str, *, header: bool, in_run: str = "") -> list[Part]:
    """The data files of a folder; a file's split is in its name or in the name of a folder on the way to it."""
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name.endswith(SUFFIXES) and not file.relative_to(folder).as_posix().startswith(".")
    ]
    if not files:
        finished = f"has no {in_run}; give a finished run, or a folder with" if in_run else "has no data files; give"
        raise FileNotFoundError(f"{folder} {finished} files of {', '.join(SUFFIXES)}")
    words = {file: re.split(r"[\W_]+", file.relative_to(folder).as_posix().lower())[::-1] for file in files}
    sought = set(re.split(r"[\W_]+", wanted.lower()))
    if wanted:
        files = [file for file in files if sought <= set(words[file])]
        if not files:
            raise FileNotFoundError(f"{folder}: no file has {wanted!r} in its name; leave out @{wanted} to read all")
    splits: dict[Path, Split] = {file: next(filter(None, map(_split_of, words[file])), "") for file in files}
    if len(sought) > 1:  # such as train_prefs, whose name says nothing on the hub either
        splits = dict.fromkeys(files, "")
    return _as_parts([(str(file), splits[file], partial(_file_rows, file, header=header)) for file in files], wanted)


def _as_parts(found: list[tuple[str, Split, Any]], wanted: str) -> list[Part]:
    """Where no part is held out, one row in ten will be: then `train` in a name says nothing."""
    alone = not wanted and not any(split == "heldout" for _, split, _ in found)
    return [Part(name, "" if alone else split, read) for name, split, read in found]


def _hub_parts(name: str, configuration: str, wanted: str, *, streaming: bool) -> list[Part]:
    try:
        import datasets  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} is no file or folder here; to read it from the Hugging Face hub: pip install 'r1kit[data]'"
        ) from error

    def unread(error: Exception) -> FileNotFoundError:
        return FileNotFoundError(
            f"{name}: no such file, and no data set of that name could be read from the Hugging Face hub ({error}); "
            f"check the name (org/name:config@split) and the network, or name a folder of copies with R1KIT_DATA"
        )

    def read(split: str, names: Collection[str]) -> Iterator[tuple[str, Fields]]:
        try:
            rows = datasets.load_dataset(name, configuration or None, split=split, streaming=streaming)
        except (OSError, ValueError) as error:
            raise unread(error) from error
        present = [column for column in rows.column_names or () if column in names]
        for number, row in enumerate(rows.select_columns(present) if present else rows, start=1):
            yield f"{name}@{split}:{number}", dict(row)

    try:
        splits = [wanted] if wanted else datasets.get_dataset_split_names(name, configuration or None)
    except (OSError, ValueError) as error:  # the hub's own errors derive from these
        raise unread(error) from error
    return _as_parts([(f"{name}@{split}", _split_of(split), partial(read, split)) for split in splits], wanted)


def _file_rows(path: Path, names: Collection[str], *, header: bool = True) -> Iterator[tuple[str, Fields]]:
    match path.suffix:
        case ".parquet":
            yield from _parquet_rows(path, names)
        case ".csv" | ".tsv":
            yield from _table_rows(path, header=header)
        case ".json":
            yield from _json_rows(path)
        case _:
            yield from json_rows(path)


def _parquet_rows(path: Path, names: Collection[str]) -> Iterator[tuple[str, Fields]]:
    try:
        import pyarrow  # type: ignore[import-not-found]
        import pyarrow.parquet as parquet  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path} is a Parquet file; to read it: pip install 'r1kit[data]'") from error
    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: not a whole Parquet file ({error}); fetch it again") from error
    with file:
        kept = [name for name in file.schema_arrow.names if name in names]
        number = 0
        for batch in file.iter_batches(batch_size=256, columns=kept or None):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}:{number}", row


def _table_rows(path: Path, *, header: bool) -> Iterator[tuple[str, Fields]]:
    """Without a line of names the columns are "1", "2" and so on."""
    csv.field_size_limit(2**31 - 1)
    with path.open(newline="", encoding="utf-8-sig") as file:
        quoting = csv.QUOTE_NONE if path.suffix == ".tsv" else csv.QUOTE_MINIMAL
        lines = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",", quoting=quoting)
        names: list[str] = []
        for number, values in enumerate(lines, start=1):
            if header and not names:
                names = values
                continue
            if not values:
                continue
            named = names if header else [str(column) for column in range(1, len(values) + 1)]
            if len(values) != len(named):
                raise ValueError(
                    f"{path}:{number}: {len(values)} columns, the first line has {len(named)}; is it a "
                    f"{path.suffix} file?"
                )
            yield f"{path}:{number}", dict(zip(named, values, strict=True))


def _json_rows(path: Path) -> Iterator[tuple[str, Fields]]:
    """One array of objects; a file that begins otherwise has an object a line."""
    with path.open("rb") as file:
        beginning = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not beginning.startswith(b"["):
        yield from json_rows(path)
        return
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg}, column {error.colno})") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: {str(row)[:60]!r} is not an object; give an array of objects")
        yield f"{path}:{number}", row
