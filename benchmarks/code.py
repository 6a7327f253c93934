"""Test runs a minute in the sandbox, and agreement on HumanEval and MBPP: `python benchmarks/code.py --json`.

    python benchmarks/code.py [--seconds 3] [--threads 2] [--walls bwrap] [--data ../shared/data/code]

A run is one program on one test in namespaces of its own. Reference solutions must be right; for HumanEval, the
prompt with `pass` for a body must be wrong. Files that are absent are left out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from r1kit.rewards.code import grade_code
from r1kit.rewards.code_tests import read_tests
from r1kit.sandbox import Limits, Sandbox

PYTHON = "a, b = map(int, input().split())\nprint(a + b)\n"
CPP = '#include <cstdio>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a + b); }\n'
JAVASCRIPT = "const [a, b] = require('fs').readFileSync(0, 'utf8').split(' ').map(Number)\nconsole.log(a + b)\n"


def runs_a_minute(sandbox: Sandbox, kind: str, seconds: float, threads: int) -> float:
    """Every thread runs the same program again and again for `seconds`."""
    limits = Limits(address_space=kind != "javascript", stack_mb=8)
    files: dict[str, str | bytes] = {"main.py": PYTHON, "main.cpp": CPP, "main.js": JAVASCRIPT}
    command = {"python": ["python", "main.py"], "new python": ["python3", "main.py"], "cpp": ["./main"]}
    command["javascript"] = ["node", "main.js"]
    if kind == "cpp":
        built = sandbox.run(["g++", "-O2", "-o", "main", "main.cpp"], files, fetch=["main"])
        files = {"main": built.files["main"]}
    done = [0] * threads
    ready = threading.Barrier(threads + 1)
    end = time.monotonic()

    def work(number: int) -> None:
        sandbox.run(command[kind], files, "20 22", limits=limits)
        ready.wait()
        while time.monotonic() < end:
            ran = sandbox.run(command[kind], files, "20 22", limits=limits)
            assert ran.stdout == "42\n", ran
            done[number] += 1

    pool = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    end += 3600
    for thread in pool:
        thread.start()
    ready.wait()
    start = time.monotonic()
    end = start + seconds
    for thread in pool:
        thread.join()
    return 60 * sum(done) / (time.monotonic() - start)


def humaneval(sandbox: Sandbox, path: Path, threads: int) -> dict[str, float]:
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines]

    def verdicts(row: dict) -> tuple[str, str]:
        prompt = row["prompt"]
        tests = read_tests({"asserts": row["test"], "entry_point": row["entry_point"], "setup": prompt + "    pass\n"})
        return (
            grade_code(prompt + row["canonical_solution"], tests, sandbox).verdict,
            grade_code(prompt + "    pass\n", tests, sandbox).verdict,
        )

    start = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        pairs = list(pool.map(verdicts, rows))
    found: dict[str, float] = {"problems": len(rows), "reference right": sum(good == "right" for good, _ in pairs)}
    found["stub wrong"] = sum(bad == "wrong" for _, bad in pairs)
    return found | {"programs a minute": round(60 * 2 * len(rows) / (time.monotonic() - start))}


def mbpp(sandbox: Sandbox, path: Path, threads: int) -> dict[str, float]:
    with path.open() as lines:
        rows = [json.loads(line) for line in lines]

    def verdict(row: dict) -> str:
        tests = read_tests({"asserts": row["test_list"], "setup": row["test_setup_code"]})
        return grade_code(row["code"], tests, sandbox).verdict

    start = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        right = sum(verdict == "right" for verdict in pool.map(verdict, rows))
    rate = round(60 * len(rows) / (time.monotonic() - start))
    return {"problems": len(rows), "reference right": right, "programs a minute": rate}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--walls", choices=["bwrap", "namespaces"], default=None)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "code")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    kinds = ["python", "new python"]
    kinds += ["cpp"] if shutil.which("g++") else []
    kinds += ["javascript"] if shutil.which("node") else []
    with Sandbox(walls=args.walls) as sandbox:
        found: dict[str, object] = {"walls": sandbox.walls, "cores": len(os.sched_getaffinity(0))}
        found["threads"] = args.threads
        found["runs a minute"] = {
            kind: round(runs_a_minute(sandbox, kind, args.seconds, args.threads)) for kind in kinds
        }
        if (path := args.data / "HumanEval.jsonl.gz").exists():
            found["HumanEval"] = humaneval(sandbox, path, args.threads)
        if (path := args.data / "mbpp.jsonl").exists():
            found["MBPP"] = mbpp(sandbox, path, args.threads)
    print(json.dumps(found) if args.json else json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
