# ruff: noqa: E501 (programs, one a line)
"""Programs are right when they pass their tests, wrong when they do not, undecided when we could not tell."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from r1kit.rewards import code as module
from r1kit.rewards.code import extract_code, grade_code, same_output, score_code
from r1kit.rewards.code_tests import CodeTests, code_fault, read_tests
from r1kit.sandbox import Ran, Sandbox, SandboxUnavailable

DATA = Path(__file__).parents[2] / "shared" / "data" / "code"


@pytest.fixture(scope="module")
def sandbox():
    try:
        with Sandbox() as sandbox:
            yield sandbox
    except SandboxUnavailable as error:
        pytest.skip(str(error))


SUMS = {"stdio": [{"input": "1 2\n", "output": "3\n"}, {"input": "4 5\n", "output": "9\n"}]}
SOLUTION = "print(sum(map(int, input().split())))"


def test_standard_output(sandbox):
    score = score_code(f"<think>hm</think>Here:\n```python\n{SOLUTION}\n```\nDone.", SUMS, sandbox)
    assert (score.reward, score.verdict, score.reason) == (1.0, "right", "2/2 tests passed")
    assert score.extracted.strip() == SOLUTION
    half = "print(3)"
    assert score_code(f"```python\n{half}\n```", SUMS, sandbox).reward == 0
    shared = score_code(f"```python\n{half}\n```", SUMS, sandbox, share=True)
    assert (shared.reward, shared.verdict, shared.parts["tests_passed"]) == (0.5, "wrong", 0.5)
    assert shared.reason == "1/2 tests passed; test 2: printed '3', expected '9'"


@pytest.mark.parametrize(
    ("text", "language", "code"),
    [
        ("```python\na\n```\ntext\n```python\nb\n```", "python", "b\n"),
        ("```python\na\n```\n```\nnot this\n```", "python", "a\n"),
        ("```\na\n```", "python", "a\n"),
        ("```Py title=x\na\n```", "python", "a\n"),
        ("  ```python\n  a\n  ```", "python", "  a\n"),
        ("~~~python\na\n~~~", "python", "a\n"),
        ("````python\na = '''\n```\n'''\n````", "python", "a = '''\n```\n'''\n"),
        ("```c++\na\n```\n```python\nb\n```", "cpp", "a\n"),
        ("```js\na\n```", "javascript", "a\n"),
        ("<think>```python\na\n```</think>none", "python", None),
        ("```python\na", "python", None),
        ("```java\na\n```", "python", None),
        ("print(1)", "python", None),
        ("", "python", None),
    ],
)
def test_extracted_code(text, language, code):
    assert extract_code(text, language) == code


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("1 2\n3", "1 2 3", True),
        ("  a\r\n b \n\n", "a\nb", True),
        ("0.3333333", "0.33333333", True),
        ("0.34", "0.33333333", False),
        ("1e3", "1000.0", True),
        ("1000000.5", "1000001.0", True),
        ("3", "3.0", True),
        ("3.0", "3", False),
        ("nan", "1.0", False),
        ("inf", "1.0", False),
        ("1_0", "10.0", False),
        ("Yes", "YES", False),
        ("1 2", "1", False),
        ("", "", True),
        ("", "1", False),
    ],
)
def test_output_comparison(printed, expected, same):
    assert same_output(printed, expected, 1e-6) is same


def test_checker_programs(sandbox):
    checker = (
        "import sys\nn = int(open('input.txt').read())\na, b = map(int, open('output.txt').read().split())\n"
        "sys.exit(0 if a * b == n and a > 1 and b > 1 else 1)"
    )
    gold = {"stdio": [{"input": "15", "output": ""}], "checker": checker}
    tests = read_tests(gold)
    assert grade_code("print(5, 3)", tests, sandbox).verdict == "right"
    assert grade_code("print(3, 5)", tests, sandbox).verdict == "right"
    assert grade_code("print(1, 15)", tests, sandbox).verdict == "wrong"
    broken = read_tests({**gold, "checker": "import sys; sys.exit(9)"})
    assert grade_code("print(5, 3)", broken, sandbox).verdict == "undecided"


CALLS = {
    "entry_point": "two_sum",
    "calls": [{"args": [[2, 7, 11], 9], "output": [0, 1]}, {"args": [[3, 3], 6], "output": [0, 1]}],
}
TWO_SUM = "    def two_sum(self, xs: List[int], t: int) -> List[int]:\n        seen = {}\n        for i, x in enumerate(xs):\n            if t - x in seen: return [seen[t - x], i]\n            seen[x] = i\n"


def test_calls_of_a_function_and_of_a_solution_class(sandbox):
    tests = read_tests(CALLS)
    assert grade_code("class Solution:\n" + TWO_SUM, tests, sandbox).reason == "2/2 tests passed"
    function = "def two_sum(xs, t):\n    print('noise')\n    return next((i, j) for j in range(len(xs)) for i in range(j) if xs[i] + xs[j] == t)"
    assert grade_code(function, tests, sandbox).verdict == "right"
    judged = grade_code("def two_sum(xs, t): return [0, 2]", tests, sandbox)
    assert judged.reason == "0/2 tests passed; call 1: returned [0, 2], expected [0, 1]"
    judged = grade_code("def two_sum(xs, t):\n    if t == 6: raise KeyError('no')\n    return [0, 1]", tests, sandbox)
    assert (judged.passed, judged.verdict) == (1, "wrong") and "KeyError" in judged.reason


@pytest.mark.parametrize(
    ("returned", "expected", "verdict"),
    [
        ("0.1 + 0.2", 0.3, "right"),
        ("(1, [2, (3,)])", [1, [2, [3]]], "right"),
        ("{1: 'a'}", {"1": "a"}, "right"),
        ("1", True, "wrong"),
        ("True", 1, "wrong"),
        ("1.0", 1, "right"),
        ("'1'", 1, "wrong"),
        ("{1, 2}", [1, 2], "wrong"),
        ("None", None, "right"),
        ("None", 0, "wrong"),
        ("10 ** 6000", 10, "wrong"),
        ("float('inf')", 1.0, "wrong"),
        ("'\\ud800'", "x", "wrong"),
        ("__import__('collections').Counter('aab')", {"a": 2, "b": 1}, "right"),
        ("object()", 1, "wrong"),
        ("range(3)", [0, 1, 2], "wrong"),
    ],
)
def test_returned_values(sandbox, returned, expected, verdict):
    tests = CodeTests(entry_point="f", calls=(([], expected),))
    assert grade_code(f"def f(): return {returned}", tests, sandbox).verdict == verdict


def test_asserts(sandbox):
    tests = read_tests({"asserts": ["assert f(2) == 4", "assert f(3) == 9", "assert g is not None"]})
    assert grade_code("def f(x): return x * x\ng = 1", tests, sandbox).reason == "3/3 tests passed"
    judged = grade_code("def f(x): return 4", tests, sandbox)
    assert (judged.verdict, judged.passed, judged.total) == ("wrong", 2, 3)
    assert "assert f(3) == 9: AssertionError" in judged.reason


def test_asserts_see_the_programs_errors_and_objects(sandbox):
    asserts = (
        "try:\n    f(-1)\n    raise SystemExit\nexcept ValueError:\n    pass\n"
        "node = Node(1)\nnode.next = Node(2)\nassert total(node) == 3\nassert list(count(3)) == [0, 1, 2]\n"
        "assert convert('7', int) == 7"
    )
    solution = (
        "def f(x):\n    raise ValueError('negative')\nclass Node:\n    def __init__(self, v): self.v, self.next = v, None\n"
        "def total(n): return n.v + (total(n.next) if n.next else 0)\ndef count(n): yield from range(n)\n"
        "def convert(x, kind): return kind(x)\n"
    )
    judged = grade_code(solution, read_tests({"asserts": asserts}), sandbox)
    assert judged.verdict == "right", judged


def test_setup_is_not_the_models_to_redefine(sandbox):
    gold = {"setup": "def near(a, b): return abs(a - b) < 1", "asserts": "assert near(f(), 5)", "entry_point": "f"}
    assert grade_code("def f(): return 5.5", read_tests(gold), sandbox).verdict == "right"
    assert grade_code("def near(a, b): return True\ndef f(): return 50", read_tests(gold), sandbox).verdict == "wrong"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import time\ntime.sleep(99)", "test 1: time limit"),
        ("while True: pass", "test 1: time limit"),
        ("a = bytearray(1 << 32)", "test 1: memory limit"),
        ("while True: print(1)", "test 1: output limit"),
        ("print(", "exit code 1: SyntaxError"),
    ],
)
def test_failures_of_the_program_are_wrong(sandbox, code, reason):
    tests = CodeTests(stdio=(("1 2", "3"),), seconds=0.5, total_seconds=5)
    judged = grade_code(code, tests, sandbox)
    assert judged.verdict == "wrong" and reason in judged.reason


def test_total_limit(sandbox):
    tests = CodeTests(stdio=(("", "1"),) * 50, seconds=5, total_seconds=0.3)
    judged = grade_code("import time; time.sleep(.2); print(1)", tests, sandbox)
    assert judged.verdict == "wrong" and judged.passed < 50 and "total time limit of 0.3 s" in judged.reason


def test_a_failed_sandbox_is_undecided(sandbox, monkeypatch):
    refused = Ran("refused", -1, "", "", 0.0, reason="no memory for a worker")
    monkeypatch.setattr(sandbox, "run", lambda *_, **__: refused)
    judged = grade_code(SOLUTION, read_tests(SUMS), sandbox)
    assert (judged.verdict, judged.reason) == ("undecided", "sandbox: no memory for a worker")


def test_a_failed_program_sandbox_is_undecided(sandbox, monkeypatch):
    start = sandbox.start

    def fail_driver(command, *rest, **more):
        running = start(command, *rest, **more)
        if command[1] == "driver.py":
            running._worker.end()
        return running

    monkeypatch.setattr(sandbox, "start", fail_driver)
    assert grade_code("class Solution:\n" + TWO_SUM, read_tests(CALLS), sandbox).verdict == "undecided"


def test_tests_that_are_broken_are_undecided(sandbox):
    tests = read_tests({"asserts": "assert f() == 1", "setup": "import no_such_module"})
    assert grade_code("def f(): return 1", tests, sandbox).verdict == "undecided"


@pytest.mark.parametrize(
    ("gold", "fault"),
    [
        (7, "is '7'"),
        ("not json", "is 'not json'"),
        ({}, "has no tests"),
        ({**SUMS, "asserts": "assert 1"}, "has stdio and asserts"),
        ({"stdio": [{"input": 1, "output": "2"}]}, "has the test"),
        ({"stdio": [{"input": "1"}]}, "has the test"),
        ({"calls": [{"args": [1], "output": 2}]}, "without entry_point"),
        ({"calls": [{"args": 1, "output": 2}], "entry_point": "f"}, "has the call"),
        ({"asserts": "assert f( == 1"}, "cannot be parsed"),
        ({"asserts": "assert f() == 1", "language": "cpp"}, "give stdio tests, or Python"),
        ({**SUMS, "language": "cobol"}, "has language 'cobol'"),
        ({**SUMS, "seconds": 0}, "has seconds 0"),
        ({**SUMS, "checker": "def"}, "has checker that cannot be parsed"),
        ({"inputs": ["1"], "outputs": []}, "not lists of one length"),
    ],
)
def test_bad_gold_is_named_and_undecided(gold, fault):
    assert fault in code_fault(gold)
    score = score_code("```python\nprint(1)\n```", gold)
    assert (score.verdict, score.reward) == ("undecided", 0.0) and fault in score.reason


def test_lists_of_apps(sandbox):
    tests = read_tests({"inputs": ["1 2", ["3", "4"]], "outputs": ["3", ["7"]]})
    assert tests.stdio == (("1 2", "3"), ("3\n4", "7"))
    tests = read_tests(json.dumps({"inputs": [[[1, 2], 3]], "outputs": [6], "fn_name": "f"}))
    assert grade_code("def f(xs, y): return sum(xs) + y", tests, sandbox).verdict == "right"


def test_cpp(sandbox):
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    tests = read_tests({**SUMS, "language": "cpp"})
    good = "#include <iostream>\nint main() { long a, b; std::cin >> a >> b; std::cout << a + b << std::endl; }"
    assert grade_code(good, tests, sandbox).verdict == "right"
    assert grade_code(good.replace("+ b", "- b"), tests, sandbox).verdict == "wrong"
    assert "does not compile" in grade_code("int main() { return x; }", tests, sandbox).reason
    assert grade_code('#include "/etc/passwd"\nint main() {}', tests, sandbox).verdict == "wrong"
    overflow = "#include <cstdlib>\nint main() { int *p = 0; return *p; }"
    assert "exit code -11" in grade_code(overflow, tests, sandbox).reason


def test_javascript(sandbox):
    if shutil.which("node") is None:
        pytest.skip("no node")
    tests = read_tests({**SUMS, "language": "javascript"})
    good = "const x = require('fs').readFileSync(0, 'utf8').split(' ').map(Number); console.log(x[0] + x[1])"
    assert grade_code(good, tests, sandbox).verdict == "right"
    assert grade_code("console.log(3)", tests, sandbox).passed == 1
    bomb = read_tests({"stdio": SUMS["stdio"][:1], "language": "javascript", "memory_mb": 256, "seconds": 3})
    assert grade_code("const a = []; while (true) a.push(new Array(1e6).fill(1.5))", bomb, sandbox).verdict == "wrong"
    child = "console.log(require('child_process').execSync('cat /etc/passwd').length)"
    assert grade_code(child, tests, sandbox).verdict == "wrong"


def test_a_missing_toolchain_is_undecided(sandbox, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    judged = grade_code("int main() {}", read_tests({**SUMS, "language": "cpp"}), sandbox)
    assert (judged.verdict, judged.reason) == ("undecided", "cpp needs g++, which is not installed")


@pytest.mark.slow
def test_humaneval_solutions_are_right_and_stubs_wrong(sandbox):
    path = DATA / "HumanEval.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with gzip.open(path, "rt") as lines:
        for row in map(json.loads, lines):
            gold = {"asserts": row["test"], "entry_point": row["entry_point"], "setup": row["prompt"] + "    pass\n"}
            tests = read_tests(gold)
            judged = grade_code(row["prompt"] + row["canonical_solution"], tests, sandbox)
            assert judged.verdict == "right", (row["task_id"], judged)
            assert grade_code(row["prompt"] + "    pass\n", tests, sandbox).verdict == "wrong", row["task_id"]


@pytest.mark.slow
def test_mbpp_solutions_are_right(sandbox):
    path = DATA / "mbpp.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with path.open() as lines:
        for row in map(json.loads, lines):
            tests = read_tests({"asserts": row["test_list"], "setup": row["test_setup_code"]})
            judged = grade_code(row["code"], tests, sandbox)
            assert judged.verdict == "right", (row["task_id"], judged)
