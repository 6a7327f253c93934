"""Any task of reasoning-gym: `reasoning_gym:NAME`, or with options `reasoning_gym:chain_sum?min_terms=2&max_terms=3`.

Their generators make the problems and their scorers judge the answers (`r1kit.rewards.reasoning_gym`): no copies.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import random
import warnings
from typing import Any
from urllib.parse import unquote

from r1kit.rewards.reasoning_gym import create_dataset, encode
from r1kit.tasks import MakeProblem
from r1kit.types import Message, Problem

POOL = 1_000_000
"""Problems in a task's pool; train and held-out are drawn from it by content."""
SMALL_POOLS = {"acre": 5_000, "word_ladder": 20_000}
"""acre makes its whole pool at once (0.2 ms each), word_ladder allows no larger one."""
HASH_SEEDED = ("isomorphic_strings", "polynomial_multiplication", "ransom_note")
"""Their generators iterate over sets (reasoning-gym 0.1.25), so the problems depend on PYTHONHASHSEED."""
UNSEEDED = ("codeio", "list_functions")
"""A few in a hundred of their problems draw from a source that has no seed (reasoning-gym 0.1.25)."""


def problem_maker(spec: str) -> MakeProblem:
    """`make_problem(rng)` for a spec `reasoning_gym:NAME?option=value&...`, values in JSON.

    ValueError for an unknown name (with close ones), an unknown option or a bad value.
    """
    name, _, query = spec.removeprefix("reasoning_gym:").partition("?")
    options = _options(name, query)
    pool = SMALL_POOLS.get(name, POOL)
    dataset = create_dataset(name, seed=0, size=pool, options=options)
    if name in HASH_SEEDED and os.environ.get("PYTHONHASHSEED", "random") == "random":
        warnings.warn(
            f"{spec}: its problems differ between processes; set PYTHONHASHSEED=0 to repeat a run", stacklevel=2
        )
    if name in UNSEEDED:
        warnings.warn(f"{spec}: some of its problems differ between processes, a run cannot be repeated", stacklevel=2)

    def make_problem(rng: random.Random) -> Problem:
        entry = dataset[rng.randrange(pool)]
        question = str(entry["question"])
        return Problem(
            # Without the options: the same question is on the same side of the split under all of them.
            id=f"{name}:{hashlib.sha256(question.encode()).hexdigest()[:16]}",
            task=spec,
            messages=(Message("user", question),),
            gold={"dataset": name, "config": options, "entry": encode({**entry, "question": question})},
            scorer="reasoning_gym",
        )

    return make_problem


def dataset_names() -> list[str]:
    """The data sets that the installed reasoning-gym has."""
    return sorted(_datasets())


def _datasets() -> dict[str, Any]:
    try:
        from reasoning_gym.factory import DATASETS
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("tasks `reasoning_gym:NAME` need: pip install reasoning-gym") from error
    return DATASETS


def _options(name: str, query: str) -> dict[str, Any]:
    datasets = _datasets()
    if name not in datasets:
        close = difflib.get_close_matches(name, datasets, n=5, cutoff=0.4)
        raise ValueError(f"reasoning-gym has no data set {name!r}; close names are {', '.join(close) or 'none'}")
    known = sorted({field.name for field in dataclasses.fields(datasets[name][1])} - {"seed", "size"})
    options: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        option, _, value = part.partition("=")
        if option not in known:
            raise ValueError(f"reasoning_gym:{name} has no option {option!r}; options are {', '.join(known)}")
        try:
            options[option] = json.loads(unquote(value))
        except json.JSONDecodeError as error:
            raise ValueError(
                f'reasoning_gym:{name}: {option}={value} is not JSON; write 3, true, [1, 2] or "text"'
            ) from error
    return options
