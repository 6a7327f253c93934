"""A user's own problems: one JSON object a line, `{"prompt": "...", "answer": "...", "scorer": "math"}`.

Optional fields: `id`, `task` (the name in results; default: the file's), `split` ("train" or "heldout"; default: by the
prompt's content, one in ten is held out). The file is checked as a whole before the first problem is used.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1kit.jsonl import json_rows
from r1kit.rewards.accuracy import SCORERS, gold_fault
from r1kit.tasks import Split, is_heldout
from r1kit.types import Message, Problem

FIELDS = ("prompt", "answer", "scorer", "id", "task", "split")
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class _Row:
    line: int
    key: str
    """Hash of the prompt: equal prompts have equal keys."""
    split: Split | None
    problem: Problem


def read_problems(file: str | Path, split: Split) -> list[Problem]:
    """The problems of one split of a JSONL file, in the file's order.

    Lines that repeat a prompt are dropped with a warning that counts them. ValueError names file, line, value and what
    to do; FileNotFoundError when there is no file.
    """
    path = Path(file)
    rows = _read_rows(path)
    kept, splits = _without_repeats(path, rows)
    problems = []
    for row in kept:
        chosen = splits.get(row.key) or ("heldout" if is_heldout(row.key) else "train")
        if chosen == split:
            problems.append(row.problem)
    if not problems:
        raise ValueError(
            f"{path}: none of its {len(kept)} problems is in the {split} split; "
            f'add "split": "{split}" to the lines meant for it, or give more problems'
        )
    return problems


def _read_rows(path: Path) -> list[_Row]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a .jsonl file of problems")
    form = 'write {"prompt": ..., "answer": ...}'
    rows = [_read_row(where, row, path.stem) for where, row in json_rows(path, form)]
    if not rows:
        raise ValueError(f'{path}: the file is empty; give one {{"prompt": ..., "answer": ...}} object a line')
    seen: dict[str, int] = {}
    keys = {}
    for row in rows:
        first = seen.setdefault(row.problem.id, row.line)
        if keys.setdefault(row.problem.id, row.key) != row.key:
            raise ValueError(
                f"{path}:{row.line}: id {row.problem.id!r} is that of another prompt in line {first}; give each its own"
            )
    return rows


def _read_row(where: str, row: dict[str, Any], task: str) -> _Row:
    for name in ("prompt", "answer"):
        if name not in row:
            raise ValueError(f"{where}: no field {name!r} among {sorted(row)}; the fields are {', '.join(FIELDS)}")
    scorer, split = row.get("scorer", "math"), row.get("split")
    if scorer not in SCORERS:
        raise ValueError(f"{where}: scorer {scorer!r} does not exist; scorers are {', '.join(SCORERS)}")
    if split not in (None, "train", "heldout"):
        raise ValueError(f'{where}: split is {split!r}; give "train" or "heldout", or leave it out')
    if fault := gold_fault(scorer, row["answer"]):
        raise ValueError(f"{where}: answer {fault}")
    messages = _messages(where, row["prompt"])
    key = hashlib.sha256("\n".join(f"{m.role}:{' '.join(m.content.split())}" for m in messages).encode()).hexdigest()
    problem = Problem(
        id=str(row.get("id", key[:16])),
        task=str(row.get("task", task)),
        messages=messages,
        gold=row["answer"],
        scorer=scorer,
    )
    return _Row(int(where.rpartition(":")[2]), key, split, problem)


def _messages(where: str, prompt: Any) -> tuple[Message, ...]:
    if isinstance(prompt, str) and prompt.strip():
        return (Message("user", prompt),)
    if not isinstance(prompt, list) or not prompt:
        raise ValueError(f"{where}: prompt is {str(prompt)[:60]!r}; give a text or a list of messages")
    messages = []
    for turn in prompt:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(
                f'{where}: message {str(turn)[:60]!r} needs "role" (one of {", ".join(ROLES)}) and "content" (a text)'
            )
        messages.append(Message(role, content))
    if messages[-1].role != "user":
        raise ValueError(f"{where}: the last message is of role {messages[-1].role!r}; end the prompt with the user's")
    return tuple(messages)


def _without_repeats(path: Path, rows: list[_Row]) -> tuple[list[_Row], dict[str, Split]]:
    """The first row of every prompt, and the splits that rows ask for, by key."""
    first: dict[str, _Row] = {}
    splits: dict[str, Split] = {}
    asked: dict[str, int] = {}
    conflicts = []
    for row in rows:
        kept = first.setdefault(row.key, row)
        if kept.problem.gold != row.problem.gold:
            conflicts.append(row.line)
        if row.split is None:
            continue
        if splits.setdefault(row.key, row.split) != row.split:
            raise ValueError(
                f"{path}:{row.line}: this prompt is {row.split}, the same one in line {asked[row.key]} is "
                f"{splits[row.key]}; keep one of them"
            )
        asked.setdefault(row.key, row.line)
    if repeats := len(rows) - len(first):
        other = f" ({len(conflicts)} of them with another answer, first in line {conflicts[0]})" if conflicts else ""
        warnings.warn(
            f"{path}: dropped {repeats} lines that repeat a prompt{other}; the first of each is kept", stacklevel=3
        )
    return list(first.values()), splits
