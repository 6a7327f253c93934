"""The accuracy reward for code (R1 section 2.2): does the program pass the tests? Nothing of it runs outside a sandbox.

Expected values and checkers never enter the model's process: its outputs and return values come here as plain data and
are compared on this side, so ending early, patching built-ins or overriding `==` gains nothing. A failure of the
program is wrong; a failure of the sandbox, or of the tests themselves, is undecided.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import threading
import time
from bisect import bisect_right
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from r1kit.rewards.code_tests import CodeTests, Language, code_fault, read_tests
from r1kit.sandbox import Limits, Ran, Sandbox, SandboxUnavailable
from r1kit.sandbox import data as plain
from r1kit.types import Score, Verdict

FENCE = re.compile(r"[ \t]*(```+|~~~+)[ \t]*([\w+#.-]*)")
NAMES: dict[str, tuple[str, ...]] = {
    "python": ("python", "py", "python3"),
    "cpp": ("cpp", "c++", "cc", "cxx"),
    "javascript": ("javascript", "js", "node"),
}
TOOL: dict[str, str] = {"cpp": "g++", "javascript": "node"}
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
MAX_CODE_CHARS = 200_000
SANDBOX_FOLDER = Path(plain.__file__).parent
COMPILE = Limits(seconds=30, wall_seconds=60, memory_mb=1024, file_mb=64)


class CodeVerdict(NamedTuple):
    verdict: Verdict
    reason: str
    passed: int = 0
    total: int = 0


_shared: dict[tuple[int, bool], Sandbox] = {}
_shared_lock = threading.Lock()


def shared_sandbox(*, unsafe: bool = False) -> Sandbox:
    """The sandbox of this process, started on first use; a forked child has its own.

    SandboxUnavailable where there is no isolation, unless `unsafe`.
    """
    with _shared_lock:
        mine = os.getpid(), unsafe
        if mine not in _shared:
            try:
                _shared[mine] = Sandbox()
            except SandboxUnavailable:
                if not unsafe:
                    raise
                _shared[mine] = Sandbox(unsafe=True)
        return _shared[mine]


def _new_lock() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)


def extract_code(text: str, language: Language) -> str | None:
    """The last block in `language` after the thought; else the last block of no language. None: there is none."""
    blocks = _fenced_blocks(text.rpartition("</think>")[2])
    for names in (NAMES[language], ("",)):
        for name, code in reversed(blocks):
            if name in names:
                return code
    return None


def _fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(name, content) of each closed block, in time linear in the text: a search for each fence's end would not be."""
    lines = text.split("\n")
    closings: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        closings.setdefault(line.strip(), []).append(number)
    blocks, at = [], 0
    while at < len(lines):
        opened = FENCE.match(lines[at])
        ends = closings.get(opened[1], []) if opened else []
        place = bisect_right(ends, at)
        if opened and place < len(ends):
            blocks.append((opened[2].lower(), "".join(line + "\n" for line in lines[at + 1 : ends[place]])))
            at = ends[place]
        at += 1
    return blocks


def score_code(text: str, gold: Any, sandbox: Sandbox | None = None, *, share: bool = False) -> Score:
    """Score a completion by the tests in `gold` (see read_tests). The reward is 1 for right, else 0.

    With `share` it is the share of tests passed; the verdict stays right only when all are.
    """
    if fault := code_fault(gold):
        return Score(0.0, "undecided", f"gold {fault}")
    tests = read_tests(gold)
    code = extract_code(text, tests.language)
    if code is None or not code.strip():
        return Score(0.0, "wrong", f"no ```{tests.language} block that is closed")
    judged = grade_code(code, tests, sandbox)
    passed = judged.passed / judged.total if judged.total else 0.0
    reward = float(judged.verdict == "right")
    if share and judged.verdict == "wrong":
        reward = passed
    return Score(reward, judged.verdict, judged.reason, code, {"accuracy": reward, "tests_passed": passed})


def grade_code(code: str, tests: CodeTests, sandbox: Sandbox | None = None) -> CodeVerdict:
    """Run `code` against `tests`. Safe to call from many threads."""
    if len(code) > MAX_CODE_CHARS:
        return CodeVerdict("wrong", f"the program is longer than {MAX_CODE_CHARS} characters", 0, tests.count)
    tool = TOOL.get(tests.language)
    if tool is not None and shutil.which(tool) is None:
        return CodeVerdict("undecided", f"{tests.language} needs {tool}, which is not installed", 0, tests.count)
    sandbox = sandbox or shared_sandbox()
    if tests.asserts or tests.calls:
        return _by_calls(code, tests, sandbox)
    return _by_output(code, tests, sandbox)


def _clock(seconds: float) -> float:
    """The limit by the clock that goes with one of processor time: room for a busy machine."""
    return 2 * seconds + 2


def _limits(tests: CodeTests, seconds: float) -> Limits:
    limits = Limits(seconds=seconds, wall_seconds=_clock(seconds), memory_mb=tests.memory_mb)
    # V8 reserves gigabytes of addresses, and its threads' stacks follow the limit of the main one.
    return replace(limits, address_space=False, stack_mb=8) if tests.language == "javascript" else limits


def _fault(ran: Ran) -> str:
    """Why a run that did not end well did not."""
    last = (ran.stderr.strip().splitlines() or [""])[-1][:200]
    if ran.status == "error":
        return f"exit code {ran.returncode}{': ' if last else ''}{last}"
    return {"timeout": "time limit", "memory": "memory limit", "output": "output limit"}.get(ran.status, ran.reason)


def _by_output(code: str, tests: CodeTests, sandbox: Sandbox) -> CodeVerdict:
    """Each test is a run of its own: standard input in, standard output compared here."""
    total, passed, first = tests.count, 0, ""
    deadline = time.monotonic() + tests.total_seconds
    built = _build(code, tests, sandbox)
    if isinstance(built, CodeVerdict):
        return built
    command, files = built
    for number, (given, expected) in enumerate(tests.stdio, 1):
        if time.monotonic() > deadline:
            first = first or f"test {number}: total time limit of {tests.total_seconds:g} s"
            break
        ran = sandbox.run(command, files, given, limits=_limits(tests, tests.seconds))
        if ran.status == "refused":
            return CodeVerdict("undecided", f"sandbox: {ran.reason}", passed, total)
        fault = _fault(ran) if ran.status != "ok" else ""
        if not fault and tests.checker:
            fault, broken = _ask_checker(tests, given, expected, ran.stdout, sandbox)
            if broken:
                return CodeVerdict("undecided", broken, passed, total)
        elif not fault and not same_output(ran.stdout, expected, tests.tolerance):
            fault = f"printed {_short(ran.stdout)}, expected {_short(expected)}"
        passed += not fault
        first = first or (f"test {number}: {fault}" if fault else "")
    return _counted(passed, total, first)


def _build(code: str, tests: CodeTests, sandbox: Sandbox) -> tuple[list[str], dict[str, str | bytes]] | CodeVerdict:
    if tests.language == "python":
        return ["python", "main.py"], {"main.py": code}
    if tests.language == "javascript":
        return ["node", "main.js"], {"main.js": code}
    command = ["g++", "-O2", "-std=c++17", "-o", "main", "main.cpp"]
    ran = sandbox.run(command, {"main.cpp": code}, fetch=["main"], limits=COMPILE)
    if ran.status == "refused":
        return CodeVerdict("undecided", f"sandbox: {ran.reason}", 0, tests.count)
    if "main" not in ran.files or ran.status != "ok":
        error = next((line for line in ran.stderr.splitlines() if "error" in line), _fault(ran))
        return CodeVerdict("wrong", f"does not compile: {error[:200]}", 0, tests.count)
    return ["./main"], {"main": ran.files["main"]}


def same_output(printed: str, expected: str, tolerance: float) -> bool:
    """Token by token; tokens are equal as text, or as numbers within `tolerance` where the expected one is decimal."""
    given, wanted = printed.split(), expected.split()
    if len(given) != len(wanted):
        return False
    return all(a == b or _close(a, b, tolerance) for a, b in zip(given, wanted, strict=True))


def _close(given: str, wanted: str, tolerance: float) -> bool:
    if wanted.lstrip("+-").isdigit() or len(given) > 400:
        return False
    if NUMBER.fullmatch(given) is None or NUMBER.fullmatch(wanted) is None:
        return False
    return plain.same_number(float(given), float(wanted), tolerance)


def _ask_checker(tests: CodeTests, given: str, expected: str, printed: str, sandbox: Sandbox) -> tuple[str, str]:
    """What the checker says against the output, and what is wrong with the checker itself; both empty: accepted.

    A checker is a Python program run as `checker.py input.txt output.txt expected.txt`: exit code 0 accepts, 1 and 2
    reject (testlib), any other code is its own failure.
    """
    files = {"checker.py": tests.checker, "input.txt": given, "output.txt": printed, "expected.txt": expected}
    command = ["python", "checker.py", "input.txt", "output.txt", "expected.txt"]
    ran = sandbox.run(command, files, limits=_limits(tests, tests.seconds))
    if ran.status == "ok":
        return "", ""
    # A traceback ends with code 1 too: it is the checker's failure, not its verdict.
    if ran.status == "error" and ran.returncode in (1, 2) and "Traceback (most recent call last)" not in ran.stderr:
        return f"the checker rejects {_short(printed)}: {_short(ran.stderr or ran.stdout)}", ""
    return "", f"checker: {_fault(ran)}"


def _source(name: str) -> str:
    return (SANDBOX_FOLDER / name).read_text(encoding="utf-8")


def _by_calls(code: str, tests: CodeTests, sandbox: Sandbox) -> CodeVerdict:
    """Two sandboxes joined by a socket: the checker with the tests in one, the program in the other.

    The program gets arguments and gives values; what it sends is read and compared under the checker's limits.
    """
    theirs, ours = socket.socketpair()
    problem = {"entry_point": tests.entry_point, "setup": tests.setup, "tests": tests.asserts, "calls": tests.calls}
    problem |= {"tolerance": tests.tolerance, "patience": _clock(tests.seconds)}
    limits = _limits(tests, tests.total_seconds)
    program_files = {"solution.py": code} | {name: _source(name) for name in ("driver.py", "data.py")}
    checker_files = {name: _source(name) for name in ("checker.py", "data.py")}
    with ours, theirs:
        program = sandbox.start(["python", "driver.py"], program_files, limits=limits, channel=theirs)
        checker = sandbox.start(
            ["python", "checker.py"], checker_files, json.dumps(problem), limits=limits, channel=ours
        )
    checked = checker.wait()
    ran = program.stop()
    if checked.status == "refused":
        return CodeVerdict("undecided", f"sandbox: {checked.reason}", 0, tests.count)
    if checked.status in ("timeout", "memory"):  # it spends both on what the program sends
        return CodeVerdict("wrong", _fault(checked), 0, tests.count)
    if checked.status != "ok":
        return CodeVerdict("undecided", f"the tests failed to run: {_fault(checked)}", 0, tests.count)
    report = json.loads(checked.stdout.strip().splitlines()[-1])
    if report["broken"]:
        return CodeVerdict("undecided", f"the tests are broken: {report['broken']}", 0, tests.count)
    fault = report["fault"]
    if report["gone"]:
        if ran.status == "refused" and not ran.stopped:
            return CodeVerdict("undecided", f"sandbox: {ran.reason}", 0, report["total"])
        fault = f"{fault} ({_fault(ran) or 'exit code 0'})"
    return _counted(report["passed"], max(report["total"], 1), fault)


def _counted(passed: int, total: int, first: str) -> CodeVerdict:
    if passed == total and not first:
        return CodeVerdict("right", f"{passed}/{total} tests passed", passed, total)
    return CodeVerdict("wrong", f"{passed}/{total} tests passed; {first}", passed, total)


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 80 else text[:77] + "...")
