"""Plain data as JSON text, for what crosses between a model's program and those who judge it.

Only built-in types come out of `decode`, whatever wrote the text: no class of the model's, so no method of it either.
Standard library only: a copy of this file goes into the sandbox.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

MAX_LINE = 32 << 20
TYPES = {kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)}
SEQUENCES = {"tuple": tuple, "set": set, "frozenset": frozenset}


def dumps(value: Any, refer: Callable[[Any], int] | None = None) -> bytes:
    """One line. What is no plain data becomes a reference when there is `refer`, else TypeError."""
    return json.dumps(_encode(value, refer)).encode() + b"\n"


def loads(line: bytes, resolve: Callable[[int], Any] | None = None) -> Any:
    """ValueError for anything that `dumps` does not write."""
    try:
        return _decode(json.loads(line), resolve)
    except (TypeError, LookupError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def same_number(given: float, wanted: float, tolerance: float) -> bool:
    """`tolerance` is absolute below 1 and relative above."""
    return given == wanted or abs(given - wanted) <= tolerance * max(1.0, abs(wanted)) < math.inf


def same_value(given: Any, expected: Any, tolerance: float) -> bool:
    """Equality of plain data. JSON has no tuples and no keys but text, so those of an answer count as such."""
    if isinstance(expected, bool) or isinstance(given, bool):
        return given is expected
    if isinstance(expected, (int, float)) and isinstance(given, (int, float)):
        if isinstance(expected, int) and isinstance(given, int):
            return given == expected
        try:
            return same_number(float(given), float(expected), tolerance)
        except OverflowError:
            return False
    if isinstance(expected, (list, tuple)) and isinstance(given, (list, tuple)):
        pairs = zip(given, expected, strict=False)
        return len(given) == len(expected) and all(same_value(a, b, tolerance) for a, b in pairs)
    if isinstance(expected, dict) and isinstance(given, dict):
        named = {str(key): value for key, value in given.items()}
        wanted = {str(key): value for key, value in expected.items()}
        if len(named) != len(given) or named.keys() != wanted.keys():
            return False
        return all(same_value(named[key], wanted[key], tolerance) for key in wanted)
    return type(given) is type(expected) and bool(given == expected)


def _encode(value: Any, refer: Callable[[Any], int] | None) -> Any:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__index__(value)
        # Python reads no decimal numbers of more than 4,300 digits.
        return number if abs(number) < 1 << 63 else {"int": hex(number)}
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, complex):
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, list):
        return [_encode(part, refer) for part in list.__iter__(value)]
    if isinstance(value, dict):
        return {"dict": [[_encode(key, refer), _encode(part, refer)] for key, part in dict.items(value)]}
    for name, kind in SEQUENCES.items():
        if isinstance(value, kind):
            return {name: [_encode(part, refer) for part in kind.__iter__(value)]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, type) and value in TYPES.values():
        return {"type": value.__name__}
    if type(value).__module__ == "numpy":
        return _encode(value.tolist(), refer)
    if refer is None:
        raise TypeError(f"{type(value).__name__} is no plain data")
    return {"ref": refer(value)}


def _decode(value: Any, resolve: Callable[[int], Any] | None) -> Any:
    if isinstance(value, list):
        return [_decode(part, resolve) for part in value]
    if not isinstance(value, dict):
        return value
    name: str
    inside: Any
    (name, inside), *_ = value.items() or [("", None)]
    match name:
        case "int":
            return int(inside, 16)
        case "float":
            return float.fromhex(inside)
        case "complex":
            return complex(float.fromhex(inside[0]), float.fromhex(inside[1]))
        case "bytes":
            return bytes.fromhex(inside)
        case "dict":
            return {_decode(key, resolve): _decode(part, resolve) for key, part in inside}
        case "tuple" | "set" | "frozenset":
            return SEQUENCES[name](_decode(part, resolve) for part in inside)
        case "range":
            return range(*map(int, inside))
        case "type":
            return TYPES[inside]
        case "ref" if resolve is not None and type(inside) is int:
            return resolve(inside)
    raise ValueError(f"{name!r} is no kind of data")
