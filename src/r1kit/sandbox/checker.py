"""Runs inside a sandbox of its own, away from the model's program: test code whose calls go out on descriptor 3.

Reads {"entry_point", "calls"} or {"entry_point", "setup", "tests"} from standard input; its last line of output is
the report. What comes back
from the model's program is plain data, compared here; an object of the model's is a Remote, which cannot be compared.
"""

from __future__ import annotations

import ast
import builtins
import json
import select
import sys
import types
from typing import Any

import data  # type: ignore[import-not-found]

CHANNEL = open(3, "wb", buffering=0)  # noqa: SIM115
READER = open(3, "rb", closefd=False)  # noqa: SIM115
PATIENCE = [60.0]
"""Seconds to wait for an answer."""
GONE = "the program ended before it answered"


class ProgramFault(Exception):
    """The model's program is gone, or what it sent is no answer."""


def ask(request: dict[str, Any]) -> Any:
    rest = memoryview(data.dumps(request, _number))
    try:
        while rest:
            rest = rest[CHANNEL.write(rest) :]
        if not select.select([3], [], [], PATIENCE[0])[0]:
            raise ProgramFault("time limit")
        line = READER.readline(data.MAX_LINE)
    except OSError as error:
        raise ProgramFault(GONE) from error
    if not line.endswith(b"\n"):
        raise ProgramFault(GONE if not line else "the answer is too long")
    try:
        answer = data.loads(line, Remote)
        if "error" not in answer:
            return answer["value"]
        name, text = str(answer["error"]), str(answer.get("text", ""))
    except (ValueError, TypeError, LookupError) as error:
        raise ProgramFault(f"the answer is no data: {str(error)[:80]}") from error
    kind: Any = builtins.__dict__.get(name)
    is_exception = isinstance(kind, type) and issubclass(kind, Exception) and kind is not AssertionError
    try:
        fault = kind(text) if is_exception else RuntimeError(f"{name}: {text}")
    except TypeError:  # UnicodeDecodeError and the like want more
        fault = RuntimeError(f"{name}: {text}")
    raise fault


class Remote:
    """An object or a name of the model's program. It can be called and looked into."""

    __slots__ = ("_at",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, at: int | str) -> None:
        object.__setattr__(self, "_at", at)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self._at, str):
            return ask({"do": "call", "name": self._at, "args": args, "kwargs": kwargs})
        return ask({"do": "call_object", "object": self._at, "args": args, "kwargs": kwargs})

    def __getattr__(self, name: str) -> Any:
        return ask({"do": "get", "object": self._number(), "name": name})

    def __setattr__(self, name: str, value: Any) -> None:
        ask({"do": "set", "object": self._number(), "name": name, "value": value})

    def __iter__(self) -> Any:
        return iter(ask({"do": "items", "object": self._number()}))

    def __eq__(self, other: object) -> bool:
        raise TypeError("the program returned an object that is no data")

    def __ne__(self, other: object) -> bool:
        raise TypeError("the program returned an object that is no data")

    def __bool__(self) -> bool:
        raise TypeError("the program returned an object that is no data")

    def _number(self) -> int:
        if isinstance(self._at, str):
            found = ask({"do": "name", "name": self._at})
            object.__setattr__(self, "_at", found._at if isinstance(found, Remote) else -1)
        return self._at  # type: ignore[return-value]


def _number(value: Any) -> int:
    if isinstance(value, Remote):
        return value._number()
    raise TypeError(f"the test passes a {type(value).__name__}, which is no plain data")


def main() -> None:
    problem = json.load(sys.stdin)
    PATIENCE[0] = problem["patience"]
    report = by_calls(problem) if problem["calls"] else by_asserts(problem)
    report["gone"] = GONE in report["fault"]
    sys.stdout.write("\n" + json.dumps(report) + "\n")


def by_calls(problem: dict[str, Any]) -> dict[str, Any]:
    passed, fault = 0, ""
    entry = Remote(problem["entry_point"])
    for number, (arguments, expected) in enumerate(problem["calls"], 1):
        try:
            value = entry(*arguments)
            if data.same_value(value, expected, problem["tolerance"]):
                passed += 1
            else:
                fault = fault or f"call {number}: returned {short(value)}, expected {short(expected)}"
        except Exception as error:
            fault = fault or f"call {number}: {type(error).__name__}: {str(error)[:200]}"
            if isinstance(error, ProgramFault):
                break
    return {"passed": passed, "total": len(problem["calls"]), "fault": fault, "broken": ""}


def short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of too many digits, or brackets too deep
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def by_asserts(problem: dict[str, Any]) -> dict[str, Any]:
    """Every statement of the tests' top level is one test, definitions and imports apart."""
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    names: dict[str, Any] = module.__dict__
    try:
        bind(names, ast.parse(problem["setup"]), "")
        exec(compile(problem["setup"], "setup.py", "exec", dont_inherit=True), names)
        tree = ast.parse(problem["tests"])
        entry = problem["entry_point"] or called_built_in(tree, names)
        bind(names, tree, entry)
        if entry and any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body):
            tree.body += ast.parse(f"check({entry})").body
    except ProgramFault as error:
        return {"passed": 0, "total": 1, "fault": f"setup: {error}", "broken": ""}
    except BaseException as error:
        return {"passed": 0, "total": 1, "fault": "", "broken": f"{type(error).__name__}: {error}"[:300]}
    passed, total, fault = 0, sum(is_test(node) for node in tree.body), ""
    for node in tree.body:
        try:
            exec(compile(ast.Module([node], []), "tests.py", "exec", dont_inherit=True), names)
            passed += is_test(node)
        except BaseException as error:
            fault = fault or f"{ast.unparse(node)[:120]}: {type(error).__name__}: {str(error)[:120]}"
            if isinstance(error, ProgramFault):
                break
    return {"passed": passed, "total": total, "fault": fault, "broken": ""}


def is_test(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Assert, ast.Expr, ast.For, ast.While, ast.With, ast.Try, ast.If))


def bind(names: dict[str, Any], tree: ast.Module, entry: str) -> None:
    """Names that the tests use and nobody on this side defines are the program's. Built-in names never are."""
    made = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    made |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    made |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            made |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - made
    for name in used - names.keys() - builtins.__dict__.keys():
        names[name] = Remote(name)
    if entry:
        names[entry] = Remote(entry)


def called_built_in(tree: ast.Module, names: dict[str, Any]) -> str:
    """Tests may name no function but a built-in, which the program then redefines: MBPP 126 asks for a `sum`."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if used - names.keys() - builtins.__dict__.keys():
        return ""
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return next((func.id for func in calls if isinstance(func, ast.Name)), "")


if __name__ == "__main__":
    main()
