"""Reward functions of yours: `FILE.py:NAME`, as a scorer (it says what is right) or as `--reward.function` (one more
part of the reward).

    def NAME(prompt, completion, answer): ...      # a number; None: cannot judge

It is called by name, in a worker process with the limits of every verdict (pool.py).
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from r1kit.rewards.format import parse_completion
from r1kit.types import Verdict

ARGUMENTS = ("prompt", "completion", "answer")
RewardFunction = Callable[..., Any]


def is_own(scorer: str) -> bool:
    """Whether a scorer's name is FILE.py:NAME."""
    return ".py:" in scorer


def absolute(spec: str) -> str:
    """The same from any working folder: a worker keeps the one in which it was started."""
    file, _, name = spec.rpartition(":")
    return f"{Path(file).resolve()}:{name}"


def own_function(spec: str) -> RewardFunction:
    """The function that FILE.py:NAME names; a file that has changed is read again.

    FileNotFoundError or ValueError when there is none of that name that takes these arguments. What the file itself
    raises comes through.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{spec}: no such file {file}; give FILE.py:NAME, a function of a file that is there")
    return _load(str(path.resolve()), name, path.stat().st_mtime_ns)


def function_of(file: str | Path, name: str) -> Callable[..., Any]:
    """A function of a Python file, which is run as it is now. ValueError when it has none of that name."""
    module = ModuleType(f"r1kit_{Path(file).stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses look there
    exec(compile(Path(file).read_bytes(), file, "exec"), vars(module))  # no byte code of an older version
    found = vars(module).get(name)
    if not callable(found):
        known = ", ".join(sorted(key for key, value in vars(module).items() if inspect.isfunction(value))) or "none"
        raise ValueError(f"{file} has no function {name!r}; its functions are: {known}")
    return found


@lru_cache(maxsize=32)
def _load(file: str, name: str, changed: int) -> RewardFunction:
    found = function_of(file, name)
    try:
        inspect.signature(found).bind(**dict.fromkeys(ARGUMENTS))
    except TypeError as error:
        raise ValueError(
            f"{file}: {name} cannot be called by its arguments' names ({error}); write def {name}(prompt, completion, "
            f"answer), or with **others for those that it does not use"
        ) from error
    return found


def judge_own(spec: str, prompt: str, completion: str, answer: Any) -> tuple[Verdict, str, str, float | None]:
    """(verdict, reason, answer for the vote, number) by a function: right from 1 on, undecided for what is no number.

    The vote of cons@k is by the content of the answer tag, else by the whole response.
    """
    name = spec.rpartition(":")[2]
    value: Any = own_function(spec)(prompt=prompt, completion=completion, answer=answer)
    number = _number(value)
    if number is None:
        return "undecided", f"{name} returned {value!r}", "", None
    parsed = parse_completion(completion)
    voted = parsed.answer if parsed.answer is not None else parsed.response
    return "right" if number >= 1 else "wrong", f"{name} returned {number:g}", voted.strip(), number


def _number(value: Any) -> float | None:
    """A finite number of any kind (Python's, NumPy's, a tensor); a text is none."""
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
