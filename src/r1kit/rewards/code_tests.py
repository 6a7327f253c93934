"""What a program is graded by: the gold of a code problem, read and checked.

One of three forms. `{"stdio": [{"input": ..., "output": ...}], "checker": source?}`;
`{"calls": [{"args": [...], "output": ...}], "entry_point": name}`; `{"asserts": test code, "entry_point": name?,
"setup": trusted code?}` (HumanEval's `check(candidate)` or MBPP's asserts). The lists of APPS and LiveCodeBench
(`{"inputs", "outputs", "fn_name"?}`) are read too.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

Language = Literal["python", "cpp", "javascript"]
LANGUAGES: tuple[str, ...] = get_args(Language)
FORMS = "stdio, calls with entry_point, asserts, or inputs with outputs"


@dataclass(frozen=True)
class CodeTests:
    """Exactly one of `stdio`, `calls` and `asserts` is not empty."""

    language: Language = "python"
    stdio: tuple[tuple[str, str], ...] = ()
    """(standard input, expected standard output)"""
    checker: str = ""
    """A Python program that judges an output instead of the comparison; "" compares."""
    calls: tuple[tuple[list[Any], Any], ...] = ()
    """(arguments, expected return value)"""
    asserts: str = ""
    """Python test code. It never meets the program's process: see r1kit.sandbox.checker."""
    entry_point: str = ""
    """Name of the function that `calls` or `asserts` call."""
    setup: str = ""
    """Python code of the data set that the tests need; what it defines is not the model's to redefine."""
    tolerance: float = 1e-6
    """Of decimal numbers, absolute below 1 and relative above."""
    seconds: float = 6.0
    """Processor seconds of one test; the limit by the clock is 2 s + twice as long."""
    total_seconds: float = 60.0
    memory_mb: int = 512

    @property
    def count(self) -> int:
        return len(self.stdio) or len(self.calls) or max(1, self.asserts.count("\nassert ") + 1)


def code_fault(gold: Any) -> str:
    """What keeps `gold` from being used, as "is ..., give ..."; empty when nothing does."""
    try:
        read_tests(gold)
    except ValueError as error:
        return str(error)
    return ""


def read_tests(gold: Any) -> CodeTests:
    """ValueError: what is wrong with `gold`, in the words of `code_fault`."""
    if isinstance(gold, str):
        try:
            gold = json.loads(gold)
        except ValueError as error:
            raise ValueError(f"is {gold[:80]!r}; give a JSON object with {FORMS}") from error
    if not isinstance(gold, dict):
        raise ValueError(f"is {str(gold)[:80]!r}; give an object with {FORMS}")
    language = gold.get("language", "python")
    if language not in LANGUAGES:
        raise ValueError(f"has language {language!r}; give {', '.join(LANGUAGES)}")
    common = {"language": language}
    common |= {
        key: _above_0(gold, key) for key in ("seconds", "total_seconds", "memory_mb", "tolerance") if key in gold
    }
    gold = _from_apps(gold)
    forms = [key for key in ("stdio", "calls", "asserts") if gold.get(key)]
    if len(forms) != 1:
        raise ValueError(f"has {' and '.join(forms) or 'no tests'}; give one of {FORMS}")
    if forms == ["stdio"]:
        checker = gold.get("checker", "")
        _parses(checker, "checker")
        return CodeTests(**common, stdio=tuple(_pair(test) for test in gold["stdio"]), checker=checker)
    if language != "python":
        raise ValueError(f"has {forms[0]} and language {language!r}; give stdio tests, or Python")
    entry = gold.get("entry_point", "")
    if entry and not (isinstance(entry, str) and entry.isidentifier()):
        raise ValueError(f"has entry_point {entry!r}; give the name of a function")
    if forms == ["calls"]:
        if not entry:
            raise ValueError("has calls without entry_point; give the name of the function")
        return CodeTests(**common, calls=tuple(_call(test) for test in gold["calls"]), entry_point=entry)
    asserts, setup = gold["asserts"], gold.get("setup", "")
    asserts = "\n".join(asserts) if isinstance(asserts, list) else asserts
    _parses(asserts, "asserts")
    _parses(setup, "setup")
    return CodeTests(**common, asserts=asserts, entry_point=entry, setup=setup)


def _from_apps(gold: dict[str, Any]) -> dict[str, Any]:
    """The two parallel lists of APPS and LiveCodeBench as a list of tests."""
    if "inputs" not in gold:
        return gold
    inputs, outputs = gold["inputs"], gold.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise ValueError("has inputs and outputs that are not lists of one length; give an output for each input")
    pairs = zip(inputs, outputs, strict=True)
    name = gold.get("fn_name") or gold.get("entry_point")
    if name:
        return {**gold, "entry_point": name, "calls": [{"args": given, "output": made} for given, made in pairs]}
    texts = [["\n".join(map(str, side)) if isinstance(side, list) else side for side in pair] for pair in pairs]
    return {**gold, "stdio": [{"input": given, "output": made} for given, made in texts]}


def _pair(test: Any) -> tuple[str, str]:
    given, expected = (test.get("input", ""), test.get("output")) if isinstance(test, dict) else (None, None)
    if not isinstance(given, str) or not isinstance(expected, str):
        raise ValueError(f'has the test {str(test)[:80]!r}; give {{"input": text, "output": text}}')
    return given, expected


def _call(test: Any) -> tuple[list[Any], Any]:
    if not isinstance(test, dict) or not isinstance(test.get("args"), list) or "output" not in test:
        raise ValueError(f'has the call {str(test)[:80]!r}; give {{"args": [...], "output": value}}')
    return test["args"], test["output"]


def _above_0(gold: dict[str, Any], key: str) -> float:
    value = gold[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise ValueError(f"has {key} {value!r}; give a number above 0")
    return value


def _parses(source: Any, name: str) -> None:
    if not isinstance(source, str):
        raise ValueError(f"has {name} {str(source)[:80]!r}; give Python source")
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f"has {name} that cannot be parsed ({error}); give Python source") from error
