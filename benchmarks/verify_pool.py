"""Hostile answers against VerdictPool: does every verdict come, in time, with nothing left behind?

    python benchmarks/verify_pool.py --inputs 10000

One in 25 makes the scorer itself misbehave (tests/hostile_scorer.py: endless loops, memory bombs, crashes, floods of
output, children); the others are texts made to hang, crash or fool the scorers, and fair answers between them. Every
fair answer must get its verdict. Counts and figures are printed; the exit code is 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HOSTILE_SCORER = Path(__file__).parents[1] / "tests" / "hostile_scorer.py"
MARK = "R1KIT_VERIFY_POOL"
SLOW = ("sleep", "stop")
"""Ended by the clock, which they wait for."""
MISBEHAVIOUR = (
    "spin", "power", "regex", "memory", "nested", "leave", "crash", "kill", "child", "forks", "exception", "exits",
    "prints", "alarm",
)  # fmt: skip
TEXTS = (
    "9^{9^{9^{9}}}", "9**9**9", "9" * 5_000, "100000000!", r"\binom{100000000}{50000000}", "(x+y+z)^{5000}",
    "(" * 5_000, "(" * 900 + "1" + ")" * 900,
    r"\frac{1}{" * 400 + "1" + "}" * 400, r"\sqrt{" * 1_000 + "2" + "}" * 1_000,
    r"\boxed{" * 20_000, "<think>" * 20_000, "<answer>" * 20_000, "</think><think>" * 10_000, "$" * 50_000,
    "a" * 1_000_000, "1+" * 50_000 + "1", "\\" * 50_000, "{" * 50_000, " " * 300_000 + "1", "\u200b" * 50_000,
    "\ud800\udfff", "１" * 3_000, "①②③", "∞-∞", "1/0", r"\frac{0}{0}", "0^{-1}", "10^{-99999999}", "1e999999999",
    r"\int_0^\infty e^{-x^2} dx", r"\sum_{n=1}^{10^9} n", r"\lim_{x\to0} \frac{1}{x}", "x" * 400 + "=1", "1,2," * 5_000,
    "2^{2^{30}}", r"\left(" * 2_000, r"\text{" * 2_000, "A or B or C or D", "~~~a\n" * 20_000, "<" + "a " * 50_000,
    "The answer is " * 5_000, "答案是" * 10_000, "import os; os._exit(0)", "().__class__.__bases__", "\0" * 10_000,
)  # fmt: skip
FAIR = (
    ("math", r"\frac{1}{2}", "0.5", "right"), ("math", "x^2+1", "1+x^2", "right"), ("math", "5", "6", "wrong"),
    ("number", "23", "23.0", "right"), ("exact", "Paris", "Rome", "wrong"), ("choice", "B", "B", "right"),
    ("countdown", {"numbers": [8, 3, 1], "target": 24}, "8*3*1", "right"),
)  # fmt: skip
GOLDS: dict[str, Any] = {"math": "5", "number": "23", "exact": "Paris", "choice": "B", "countdown": FAIR[-1][1]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.5, help="processor time a verdict")
    parser.add_argument("--memory-mb", type=int, default=512)
    args = parser.parse_args()
    os.environ[MARK] = "1"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "reasoning_gym").mkdir()
        shutil.copy(HOSTILE_SCORER, Path(folder) / "reasoning_gym" / "__init__.py")
        sys.path.insert(0, folder)  # workers look for packages where this process does
        fair_speed(args.workers)
        return hostile(args)


def hostile(args: argparse.Namespace) -> int:
    from r1kit.rewards import VerdictPool

    rng = random.Random(0)
    made = [make_input(rng) for _ in range(args.inputs)]
    before, slowest, start = rss_mb(os.getpid()), 0.0, time.perf_counter()
    verdicts: Counter[str] = Counter()
    faults: list[str] = []
    largest = 0.0
    with VerdictPool(workers=args.workers, seconds=args.seconds, memory_mb=args.memory_mb) as pool:
        for first in range(0, len(made), 100):
            began, batch = time.perf_counter(), made[first : first + 100]
            scores = pool.score_many([(problem, text) for problem, text, _ in batch])
            slowest = max(slowest, time.perf_counter() - began)
            verdicts.update(score.verdict for score in scores)
            for score, (problem, text, expected) in zip(scores, batch, strict=True):
                if expected and score.verdict != expected:
                    faults.append(f"{problem.scorer} {text[:60]!r}: {score.verdict}, not {expected} ({score.reason})")
            largest = max([largest, *(rss_mb(process) for process in started())])
    seconds = time.perf_counter() - start
    zombies = [process for process, state in children() if state == "Z"]
    print(f"hostile: {len(made)} inputs in {seconds:.0f} s, {len(made) / seconds:.0f} verdicts a second; ", end="")
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())))
    print(f"fair answers among them with another verdict: {len(faults)}; slowest 100 inputs: {slowest:.1f} s")
    print(f"left behind: {len(started())} processes, {len(zombies)} zombies")
    after = rss_mb(os.getpid())
    print(
        f"memory: largest worker {largest:.0f} MB; this process {before:.0f} MB before, {after:.0f} MB after, ", end=""
    )
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    print(*faults[:20], sep="\n")
    return int(bool(faults or started() or zombies or sum(verdicts.values()) != len(made)))


def make_input(rng: random.Random) -> tuple[Any, str, str]:
    """A problem, a text, and the verdict that it must get; "" where only its coming counts."""
    from r1kit.rewards import Problem

    if rng.random() < 0.04:
        how = rng.choice(SLOW) if rng.random() < 0.05 else rng.choice(MISBEHAVIOUR)
        entry = {"question": "?", "answer": "7", "metadata": {}}
        gold = {"dataset": "hostile", "config": {}, "entry": entry}
        expected = "wrong" if how in ("prints", "forks") else "undecided"
        return Problem("p", "t", (), gold, "reasoning_gym"), f"<answer>{how}</answer>", expected
    if rng.random() < 0.5:
        scorer, gold, answer, verdict = rng.choice(FAIR)
        return Problem("p", "t", (), gold, scorer), f"<think>a</think><answer>{answer}</answer>", verdict
    scorer, text = rng.choice(list(GOLDS)), rng.choice(TEXTS)
    form = rng.choice(("{}", "<think>a</think><answer>{}</answer>", "So it is $\\boxed{{{}}}$.", "<think>{}"))
    return Problem("p", "t", (), GOLDS[scorer], scorer), form.format(text), ""


def fair_speed(workers: int) -> None:
    """Fair mathematics through the pool, and in this process without limits."""
    from r1kit.rewards import Problem, VerdictPool
    from r1kit.rewards.reward import score_text

    pairs = [
        (Problem("p", "t", (), rf"\frac{{{n}}}{{2}}", "math"), f"<think>a</think><answer>{n / 2 + n % 2}</answer>")
        for n in range(2_000)
    ]
    with VerdictPool(workers=workers) as pool:
        pool.score_many(pairs[:50])
        start = time.perf_counter()
        inside = pool.score_many(pairs)
        pooled = time.perf_counter() - start
    start = time.perf_counter()
    assert [score_text(*pair) for pair in pairs] == inside
    alone = time.perf_counter() - start
    print(f"fair mathematics: {len(pairs) / pooled:.0f} verdicts a second with {workers} workers, ", end="")
    print(f"{len(pairs) / alone:.0f} in one process without limits")


def rss_mb(process: int) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * resource.getpagesize() / (1 << 20)


def started() -> list[int]:
    """Processes that this one has started, and what those started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"{MARK}=1\0".encode() in (folder / "environ").read_bytes()
        except OSError:
            continue
        if marked and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def children() -> list[tuple[int, str]]:
    """Number and state of each child."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(parent) == os.getpid():
            found.append((int(folder.name), state))
    return found


if __name__ == "__main__":
    sys.exit(main())
