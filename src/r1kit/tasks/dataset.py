"""Problems of a data set: a file or folder of yours, a set known by name, a name on the Hugging Face hub.

Every row is checked before the first problem is used. In r1kit's own layout, {"prompt", "answer"} with the optional
fields `scorer`, `id`, `task` and `split`, a row that cannot be used is an error with its place; public sets have some
that no scorer can read, and those are left out and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from r1kit.config.source import ColumnsConfig, FilterConfig
from r1kit.data.filters import Evaluated, Seen, Tally
from r1kit.data.known import KNOWN
from r1kit.data.layouts import PROBLEM_COLUMNS, problem_of
from r1kit.data.rows import SUFFIXES, Row, divided, is_source, read_rows, stamp
from r1kit.rewards.accuracy import check_scorer, gold_fault
from r1kit.tasks import Split, is_heldout
from r1kit.types import Problem

PLAIN = ColumnsConfig()
ALL = FilterConfig()


@dataclass(frozen=True)
class _Item:
    where: str
    key: str
    """Hash of the prompt: equal prompts have equal keys, and a problem without an id of its own has its beginning."""
    split: Split | None
    """What the row or its file says."""
    by_row: bool
    """The row itself says it."""
    problem: Problem
    solution: str


def read_problems(
    spec: str | Path, split: Split, columns: ColumnsConfig = PLAIN, filters: FilterConfig = ALL
) -> tuple[tuple[Problem, ...], str]:
    """The problems of one split of a data set in its order, and a line that says what was read and left out.

    ValueError names place, value and what to do; FileNotFoundError when there is no such source.
    """
    spec = str(spec)
    stamps = tuple(stamp(source) for source in (spec, *filters.decontaminate))
    items, tally = _read(spec, columns, filters, stamps)
    problems = tuple(
        item.problem for item in items if (item.split or ("heldout" if is_heldout(item.key) else "train")) == split
    )
    if not problems:
        if split == "train" and (known := KNOWN.get(spec.partition("@")[0])) and not known.train:
            raise ValueError(f"{spec}: {known.about}; take another set for training")
        raise ValueError(f"{spec}: none of its {len(items)} problems is in the {split} split; {_way_out(spec, split)}")
    return problems, tally.text()


def _way_out(spec: str, split: Split) -> str:
    """What to do about a source all of whose problems are in the other split."""
    (name, side), other = divided(spec), "train" if split == "heldout" else "heldout"
    if side and not Path(name).is_file():
        return f"@{side} takes the {other} part alone: leave it out"
    if not Path(name).exists():
        return "read more of it, or take another set"
    every = f"write {name}@{split} if all are, " if Path(name).is_file() else ""
    return f'add "split": "{split}" to the rows meant for it, {every}or give more (all are {other} now)'


def reference_texts(spec: str) -> list[str]:
    """Every held-out question of an evaluation set, and every reference solution: what training must not contain."""
    if not is_source(spec):
        raise ValueError(
            f"--filter.decontaminate {spec}: give a data set (a file, a folder, {', '.join(KNOWN)} or org/name); "
            f"generated tasks keep their held-out problems apart by themselves"
        )
    items, _ = _read(spec, PLAIN, FilterConfig(duplicates="keep"), (stamp(spec),))
    heldout = [item for item in items if item.split == "heldout"]
    # A set without parts is all for evaluation where it is named here.
    chosen = heldout or items
    texts = [text for item in chosen for text in (item.problem.messages[-1].content, item.solution)]
    return [text for text in texts if text.strip()]


def evaluated(filters: FilterConfig) -> Evaluated | None:
    """The 10-grams of the evaluation sets that `filters` names; None where it names none."""
    if not filters.decontaminate:
        return None
    found = Evaluated(filters.ngram)
    for spec in filters.decontaminate:
        found.add(spec, reference_texts(spec))
    return found


@lru_cache(maxsize=8)
def _read(
    spec: str, columns: ColumnsConfig, filters: FilterConfig, stamps: tuple[Any, ...]
) -> tuple[tuple[_Item, ...], Tally]:
    """All problems of a source, both splits. `stamps` changes with the files, so that a change is read again."""
    tally = Tally(spec)
    items: list[_Item] = []
    for row in read_rows(spec, columns, first=filters.first, names=PROBLEM_COLUMNS):
        tally.read += 1
        item, fault = _item(row, columns, task_name(spec))
        if fault:
            tally.drop(fault, row.where)
        else:
            items.append(item)
    if not tally.read:
        raise ValueError(f'{spec}: the file is empty; give one {{"prompt": ..., "answer": ...}} object a line')
    if not items:
        raise ValueError(f"{tally.text()}; is --columns.answer the column with the answers, and is the scorer theirs?")
    _check_ids(items)
    chosen = tuple(_chosen(items, filters, tally))
    if not chosen:
        raise ValueError(
            f"{tally.text()}; loosen --filter. Prompts of one fixed wording all share words with an evaluation set of "
            f"that wording: leave it out of --filter.decontaminate, or raise --filter.ngram"
        )
    return chosen, tally


def task_name(spec: str) -> str:
    """The name under which a data set's results are grouped: the known one, the file's, the hub's without its owner."""
    name = spec.partition("@")[0]
    if name in KNOWN:
        return name
    last = name.rstrip("/").rpartition("/")[2]
    ending = next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if last.endswith(suffix)), "")
    return last.removesuffix(ending).partition(":")[0]


def _item(row: Row, columns: ColumnsConfig, task: str) -> tuple[_Item, str]:
    """The problem of a row, and why it cannot be used (only for layouts of public sets)."""
    given = problem_of(row.where, row.fields, mapped=bool(columns.names()), scorer=columns.scorer)
    scorer = given.scorer or "math"
    try:
        check_scorer(scorer)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{row.where}: {error}") from error
    by_row = row.fields.get("split") if given.own else None
    if by_row not in (None, "train", "heldout"):
        raise ValueError(f'{row.where}: split is {by_row!r}; give "train" or "heldout", or leave it out')
    fault = gold_fault(scorer, given.gold)
    if fault and given.own:
        raise ValueError(f"{row.where}: answer {fault}")
    turns = "\n".join(f"{message.role}:{' '.join(message.content.split())}" for message in given.messages)
    key = hashlib.sha256(turns.encode()).hexdigest()
    own = row.fields if given.own else {}
    problem = Problem(
        id=str(own.get("id") or key[:16]), task=str(own.get("task") or task), messages=given.messages, gold=given.gold,
        scorer=scorer,
    )  # fmt: skip
    split = by_row or row.split or None
    return _Item(row.where, key, split, by_row is not None, problem, given.solution), fault and "have no usable answer"


def _check_ids(items: Sequence[_Item]) -> None:
    """ValueError when two prompts have one id."""
    seen: dict[str, _Item] = {}
    for item in items:
        first = seen.setdefault(item.problem.id, item)
        if first.key != item.key:
            raise ValueError(
                f"{item.where}: id {item.problem.id!r} is that of another prompt in line "
                f"{first.where.rpartition(':')[2]}; give each its own"
            )


def _chosen(items: Sequence[_Item], filters: FilterConfig, tally: Tally) -> list[_Item]:
    """The rows that pass the filters. Held-out ones go first: of equal prompts on both sides, training's is dropped."""
    splits: dict[str, _Item] = {}
    for item in items:
        if item.by_row and (first := splits.setdefault(item.key, item)).split != item.split:
            raise ValueError(
                f"{item.where}: this prompt is {item.split}, the same one in line {first.where.rpartition(':')[2]} is "
                f"{first.split}; keep one of them"
            )
    known = evaluated(filters)
    seen = Seen(near=filters.duplicates == "near")
    golds: dict[str, Any] = {}
    kept: list[tuple[int, _Item]] = []
    for number in sorted(range(len(items)), key=lambda number: items[number].split != "heldout"):
        item = items[number]
        text = "\n".join(message.content for message in item.problem.messages)
        if filters.duplicates != "keep" and (item.key in golds or seen.again(text)):
            other = golds.get(item.key, item.problem.gold) != item.problem.gold
            tally.drop("repeat a prompt with another answer" if other else "repeat a prompt", item.where)
            continue
        golds.setdefault(item.key, item.problem.gold)
        if known and item.split != "heldout" and (name := known.shared_with([text, item.solution])):
            tally.drop(f"share {filters.ngram} words on end with {name}", item.where)
            continue
        asked = splits.get(item.key, item)
        kept.append((number, replace(item, split=asked.split)))
    return [item for _, item in sorted(kept, key=lambda pair: pair[0])]
