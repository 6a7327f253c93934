"""Runs inside the sandbox, in the model's process: loads solution.py and answers calls on descriptor 3.

It never sees an expected value, so there is nothing in this process worth reading or patching.
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any

import data  # type: ignore[import-not-found]

COMMON = (
    "import bisect, collections, functools, heapq, itertools, math, operator, random, re, string, sys\n"
    "from typing import *\nfrom collections import *\nfrom functools import *\nfrom itertools import *\n"
    "from heapq import *\nfrom bisect import *\nfrom math import inf, gcd, sqrt, ceil, floor, comb, factorial\n"
)
"""What LeetCode offers without an import."""
MOST_ITEMS = 1_000_000


def main() -> None:
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    objects: list[Any] = []
    with open(3, "wb", buffering=0) as channel:
        reader = open(3, "rb", closefd=False)  # noqa: SIM115
        error = load(module)
        for line in reader:
            try:
                if error:
                    raise RuntimeError(error)
                answer = {"value": act(module, objects, data.loads(line, objects.__getitem__))}
            except BaseException as fault:
                answer = {"error": type(fault).__name__, "text": str(fault)[:500]}
            try:
                reply = data.dumps(answer, lambda value: (objects.append(value), len(objects) - 1)[1])
            except BaseException as fault:
                reply = data.dumps({"error": type(fault).__name__, "text": str(fault)[:500]})
            rest = memoryview(reply)
            while rest:
                rest = rest[channel.write(rest) :]
    os._exit(0)


def load(module: types.ModuleType) -> str:
    """Empty, or why solution.py could not be loaded."""
    try:
        with open("solution.py", encoding="utf-8", errors="surrogateescape") as file:
            source = file.read()
        exec(COMMON, module.__dict__)
        exec(compile(source, "solution.py", "exec", dont_inherit=True), module.__dict__)
    except BaseException as fault:
        return f"the program cannot be loaded: {type(fault).__name__}: {str(fault)[:300]}"
    return ""


def act(module: types.ModuleType, objects: list[Any], request: dict[str, Any]) -> Any:
    if request["do"] == "call":
        return find(module, request["name"])(*request["args"], **request["kwargs"])
    if request["do"] == "name":
        return find(module, request["name"])
    target = objects[request["object"]]
    match request["do"]:
        case "call_object":
            return target(*request["args"], **request["kwargs"])
        case "get":
            return getattr(target, request["name"])
        case "set":
            return setattr(target, request["name"], request["value"])
        case "items":
            return [item for item, _ in zip(target, range(MOST_ITEMS), strict=False)]
    raise ValueError(request["do"])


def find(module: types.ModuleType, name: str) -> Any:
    """A function of the program, or a method of its class Solution as on LeetCode."""
    if name in module.__dict__:
        return module.__dict__[name]
    solution = module.__dict__.get("Solution")
    if solution is not None and hasattr(solution, name):
        return getattr(solution(), name)
    raise NameError(f"the program defines no {name}")


if __name__ == "__main__":
    main()
