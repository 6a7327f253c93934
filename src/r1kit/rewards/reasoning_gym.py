"""Answers judged by reasoning-gym's own scorers, and the form in which one of its entries is stored as gold.

Their scorers compare tuples and look up whole-number keys, which plain JSON loses, so the stored form marks both.
Some of their scorers run `sympy.parse_expr`, which is `eval`, on the answer: answers that look like code are refused.
"""

from __future__ import annotations

import json
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from r1kit.types import Verdict

MAX_CHARS = 20_000
# No way to Python's insides, no calls of what can touch files or processes, no power towers.
CODE = re.compile(
    r"__|\blambda\b|\b(?:eval|exec|open|compile|input|exit|quit|breakpoint|globals|locals|vars|[gs]etattr|delattr)\s*\("
    r"|\*\*\s*-?\d+\s*\*\*|\*\*\s*\([^()]*\*\*|\*\*\s*\(?\s*\d{5}|\d{6}\s*!"
)


def judge(answer: str, gold: dict[str, Any]) -> tuple[Verdict, str]:
    """Right when their score is exactly 1; the partial score is in the reason. Undecided when their scorer fails."""
    name = gold["dataset"]
    if len(answer) > MAX_CHARS or CODE.search(answer):
        return "undecided", "answer is too long, or looks like code, so their scorer was not run on it"
    dataset = _dataset(name, json.dumps(gold.get("config", {}), sort_keys=True))
    entry = decode(gold["entry"])
    try:
        score = float(dataset.score_answer(answer, entry=entry))
    # A model's text reaches over a hundred scorers here, and some fail on malformed answers, each with its own error.
    except Exception as error:
        return "undecided", f"{name}'s scorer failed with {type(error).__name__}: {str(error)[:80]}"
    return ("right" if score == 1.0 else "wrong"), f"{name} score {score:.4g}, reference {str(entry['answer'])[:80]!r}"


@lru_cache(maxsize=256)
def _dataset(name: str, config: str) -> Any:
    """Their scorers are methods of a data set; the one here is as small as can be, they judge by the entry."""
    return create_dataset(name, seed=0, size=1, options=json.loads(config))


def create_dataset(name: str, *, seed: int, size: int, options: dict[str, Any]) -> Any:
    """reasoning-gym's data set `name`. Their complaints about options (assertions, mostly) become a ValueError."""
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("tasks `reasoning_gym:NAME` need: pip install reasoning-gym") from error
    try:
        return reasoning_gym.create_dataset(name, seed=seed, size=size, **options)
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"reasoning_gym:{name} cannot be made with {options or 'its defaults'}: {error}") from error


def encode(value: Any) -> Any:
    """`value` as JSON without loss: tuples, fractions, and dicts whose keys are not text, are marked.

    TypeError for a type that reasoning-gym's entries are not known to hold.
    """
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return {"__tuple__": [encode(item) for item in value]}
    if isinstance(value, Fraction):
        return {"__fraction__": str(value)}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: encode(item) for key, item in value.items()}
        return {"__items__": [[encode(key), encode(item)] for key, item in value.items()]}
    raise TypeError(f"a {type(value).__name__} cannot be stored as JSON")


def decode(value: Any) -> Any:
    """Inverse of `encode`."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"__tuple__"}:
        return tuple(decode(item) for item in value["__tuple__"])
    if value.keys() == {"__fraction__"}:
        return Fraction(value["__fraction__"])
    if value.keys() == {"__items__"}:
        return {decode(key): decode(item) for key, item in value["__items__"]}
    return {key: decode(item) for key, item in value.items()}
