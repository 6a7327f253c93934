"""What makes a class a config: frozen, by keyword, and its values checked against its annotations when it is made.

The command line knows the types of its flags already; a config that is written in Python says the same here.
"""

from __future__ import annotations

import difflib
import types
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

T = TypeVar("T")

NAMES = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", Path: "a pathlib.Path"}


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def config(cls: type[T]) -> type[T]:
    """A frozen dataclass by keyword. Types and choices are checked before its own `__post_init__`, which compares."""
    compare = getattr(cls, "__post_init__", None)

    def __post_init__(self: Any) -> None:
        check_types(self)
        if compare is not None:
            compare(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(cls)


def check_types(made: Any) -> None:
    """ValueError for the first field whose value is not of its annotation; a whole number is a number too."""
    hints = _hints(type(made))
    for one in fields(made):
        value = getattr(made, one.name)
        if wanted := _wanted(hints[one.name], value):
            raise ValueError(f"{type(made).__name__}.{one.name} is {value!r}; give {wanted}")


_hints = cache(get_type_hints)


def _wanted(hint: Any, value: Any) -> str:
    """What to give in place of `value`; empty where it is of the type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "" if value in inner else _one_of(inner, value)
    if origin in (Union, types.UnionType):
        wants = [_wanted(arg, value) for arg in inner]
        return "" if "" in wants else " or ".join(wants)
    if origin is tuple:
        return _wanted_tuple(inner, value)
    if hint is type(None):
        return "" if value is None else "None"
    number = hint is float and isinstance(value, int)
    if (isinstance(value, hint) or number) and (hint is bool or not isinstance(value, bool)):
        return ""
    return NAMES.get(hint, f"{'an' if hint.__name__[0] in 'AEIO' else 'a'} {hint.__name__}")


def _wanted_tuple(inner: tuple[Any, ...], value: Any) -> str:
    if not isinstance(value, tuple):
        made = tuple(value) if isinstance(value, list) else (value,)
        return f"a tuple, such as {made!r}"
    if inner[-1] is Ellipsis:
        inner = inner[:1] * len(value)
    if len(inner) != len(value):
        return f"a tuple of {len(inner)}"
    wants = [
        f"{want} in place of {item!r}" for kind, item in zip(inner, value, strict=True) if (want := _wanted(kind, item))
    ]
    return wants[0] if wants else ""


def _one_of(choices: tuple[Any, ...], value: Any) -> str:
    named = ", ".join(map(repr, choices[:-1])) + f" or {choices[-1]!r}"
    close = difflib.get_close_matches(str(value).lower(), [choice for choice in choices if choice], n=1)
    return named + (f" (did you mean {close[0]!r}?)" if close else "")
