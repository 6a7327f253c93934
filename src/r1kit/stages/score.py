"""Grade finished outputs, whoever made them: `r1kit score TASK FILE.jsonl`.

The file is read twice: once to find what is wrong with its rows before anything is graded, once to grade it, a few
thousand rows at a time. FILE.verdicts.jsonl appears when it is whole; its lines are in the order of the rows.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from r1kit.config import RewardConfig, ScoreConfig
from r1kit.jsonl import json_rows
from r1kit.rewards import SCORERS, VerdictPool
from r1kit.rewards.accuracy import check_scorer
from r1kit.rewards.own import is_own
from r1kit.tasks import load_problems, task_names
from r1kit.types import Problem, Score

BATCH = 2048
"""Rows graded, and held in memory, at a time."""
BATCH_CHARS = 64_000_000
SHOWN_REASONS = 5
SHOWN_LINES = 5
VARIABLE = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|(?<![A-Za-z])\d+(?:\.\d+)?")
"""What differs between reasons that are the same: quotations and numbers."""
NO_COMPLETION = Score(0.0, "undecided", "no completion: it is null")


class Row(NamedTuple):
    line: int
    id: Any
    """None when the row has none."""
    gold: Any
    completion: str | None
    """None where a call failed: undecided."""


@dataclass
class Counts:
    """What is printed of the verdicts."""

    verdicts: Counter[str] = field(default_factory=Counter)
    ids: set[str] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)
    """Of undecided verdicts, without quotations and numbers."""
    first: dict[str, int] = field(default_factory=dict)
    """Reason to the first line that has it."""
    bad_golds: list[int] = field(default_factory=list)

    def add(self, row: Row, score: Score) -> None:
        self.verdicts[score.verdict] += 1
        self.ids.add(json.dumps(row.id) if row.id is not None else f"line {row.line}")
        if score.verdict != "undecided":
            return
        reason = VARIABLE.sub("…", score.reason)[:100]
        self.reasons[reason] += 1
        self.first.setdefault(reason, row.line)
        if score.reason.startswith("gold "):
            self.bad_golds.append(row.line)


def main(cfg: ScoreConfig) -> Path:
    """Grade the file; returns the file of verdicts. What is wrong with the rows is found before the first is graded."""
    scorer = scorer_of(cfg.task)
    out = cfg.out or verdicts_file(cfg.file)
    if out.resolve() == cfg.file.resolve():
        raise ValueError(f"--out {out} is the file that is read; name another one")
    total = sum(1 for _ in read_rows(cfg))
    if total == 0:
        raise ValueError(f"{cfg.file}: the file is empty; give one {_form(cfg)} object a line")
    if scorer == "code":
        _check_sandbox(cfg)
    reward, counts = RewardConfig(format="free", unsafe_code=cfg.unsafe_code), Counts()
    terminal = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        VerdictPool(workers=cfg.workers or None, seconds=cfg.seconds) as pool,
        _replacing(out) as file,
        Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress,
    ):
        graded = progress.add_task("verdicts", total=total)
        for rows in _batches(read_rows(cfg)):
            pairs = [(Problem(f"line {row.line}", cfg.task, (), row.gold, scorer), row.completion) for row in rows]
            scores = iter(pool.score_many([(problem, text) for problem, text in pairs if text is not None], reward))
            for row in rows:
                score = NO_COMPLETION if row.completion is None else next(scores)
                file.write(_line(row, score))
                counts.add(row, score)
            progress.advance(graded, len(rows))
    _show(cfg, scorer, counts, out)
    return out


def _check_sandbox(cfg: ScoreConfig) -> None:
    from r1kit.rewards.code import shared_sandbox
    from r1kit.sandbox import SandboxUnavailable

    try:
        shared_sandbox(unsafe=cfg.unsafe_code)
    except SandboxUnavailable as error:
        raise ValueError(str(error)) from error


def scorer_of(task: str) -> str:
    """The scorer that `task` is, or whose problems have it. ValueError when there is no such name."""
    if task in SCORERS or is_own(task):
        check_scorer(task)
        return task
    if task.startswith("reasoning_gym:"):
        return "reasoning_gym"
    if task in task_names():
        return load_problems(task, "train", seed=0).first(1)[0].scorer
    raise ValueError(f"no scorer or task {task!r}; give one of {', '.join(dict.fromkeys([*SCORERS, *task_names()]))}")


def verdicts_file(path: Path) -> Path:
    """outputs.jsonl -> outputs.verdicts.jsonl, in the same folder."""
    return path.with_name(f"{path.name.removesuffix('.gz').removesuffix('.jsonl')}.verdicts.jsonl")


def read_rows(cfg: ScoreConfig) -> Iterator[Row]:
    """The rows of the file, each checked. ValueError names file, line and what to write instead."""
    if not cfg.file.is_file():
        raise FileNotFoundError(f"{cfg.file}: no such file; give the path of a .jsonl file of {_form(cfg)} objects")
    for where, row in json_rows(cfg.file, f"write {_form(cfg)}"):
        for name, flag in ((cfg.gold_field, "--gold-field"), (cfg.completion_field, "--completion-field")):
            if name not in row:
                raise ValueError(f"{where}: no field {name!r} among {sorted(row)}; name the right one with {flag}")
        completion = row[cfg.completion_field]
        if completion is not None and not isinstance(completion, str):
            raise ValueError(
                f"{where}: {cfg.completion_field} is {str(completion)[:60]!r} ({type(completion).__name__}); "
                f"give the model's output as one text"
            )
        yield Row(int(where.rpartition(":")[2]), row.get("id"), row[cfg.gold_field], completion)


def interval(right: int, total: int, problems: int) -> tuple[float, float]:
    """Wilson's 95% interval of the share right / total, each 0 to 1.

    Completions of one problem are not independent, so the number of `problems` counts: on the safe side.
    """
    z, share = 1.96, right / total
    centre = share + z * z / (2 * problems)
    half = z * math.sqrt(share * (1 - share) / problems + (z / (2 * problems)) ** 2)
    scale = 1 + z * z / problems
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _form(cfg: ScoreConfig) -> str:
    return f'{{"{cfg.gold_field}": ..., "{cfg.completion_field}": "..."}}'


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Lists of at most BATCH rows, fewer where they are long."""
    batch, chars = [], 0
    for row in rows:
        batch.append(row)
        chars += len(row.completion or "")
        if len(batch) == BATCH or chars > BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


@contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    """A file to write that takes the place of `path` at the end of the block, and is removed when the block fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = temporary.open("w", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}); name another file with --out") from error
    try:
        with opened as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _line(row: Row, score: Score) -> str:
    named = {"line": row.line} if row.id is None else {"line": row.line, "id": row.id}
    found = {**named, "verdict": score.verdict, "extracted": score.extracted, "reason": score.reason}
    text = json.dumps(found, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which UTF-8 does not have
        text = json.dumps(found)
    return text + "\n"


def _show(cfg: ScoreConfig, scorer: str, counts: Counts, out: Path) -> None:
    right, total, problems = counts.verdicts["right"], counts.verdicts.total(), len(counts.ids)
    low, high = interval(right, total, problems)
    console = Console(highlight=False, soft_wrap=True)

    def say(text: str) -> None:
        console.print(text, markup=False)

    of = f" of {problems:,} problems" if problems < total else ""
    say(f"{cfg.file}: {total:,} completions{of}, scorer {scorer}")
    width = len(f"{total:,}")
    for verdict in ("right", "wrong", "undecided"):
        count = counts.verdicts[verdict]
        share = f"{100 * count / total:6.2f}%"
        more = f"  (95% interval {100 * low:.2f}% to {100 * high:.2f}%)" if verdict == "right" else ""
        say(f"  {verdict:<9}  {count:>{width},}  {share}{more}")
    for reason, count in counts.reasons.most_common(SHOWN_REASONS):
        say(f"    {count:,} x {reason} (first in line {counts.first[reason]})")
    say(f"{out}")
    if lines := counts.bad_golds:
        more = f" and {len(lines) - SHOWN_LINES:,} more" if len(lines) > SHOWN_LINES else ""
        shown = ", ".join(map(str, lines[:SHOWN_LINES]))
        print(
            f"warning: the gold of {len(lines):,} of {total:,} rows cannot be used, so they are undecided, not wrong: "
            f"line{'s' if len(lines) > 1 else ''} {shown}{more}; the file of verdicts says why",
            file=sys.stderr,
        )
