"""Kill a pipeline at random moments, run it again each time, and compare the end with an undisturbed run's.

    python benchmarks/kill.py [--recipe tiny] [--seed 0] [--jobs 1] [--kills 10] [--moments 0] [--folder RUNS]

Prints what each kill hit, and exits with 1 unless it was killed that often and every stage's output and every claim are
the same. `--seed` is the recipe's, `--moments` that of the random moments. A finished RUNS/calm is not made again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

START = 3.0
"""Seconds that a process takes before it computes; with --jobs there are two in a row, the command and its worker.

What a kill destroys comes on top, so a run outlasts its kills."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="stages that run at a time")
    parser.add_argument("--moments", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="keep the runs here; default: a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        start = time.perf_counter()
        recipe = [args.recipe, "--seed", str(args.seed), "--jobs", str(args.jobs)]
        command(recipe, folder / "calm", log=folder / "calm.log").wait()
        took = max(time.perf_counter() - start, stage_seconds(folder / "calm"))  # the run may have been there
        expected = outcome(folder / "calm")
        print(f"undisturbed: {took:.0f} s, {len(expected['outputs'])} stages")
        log = folder / "killed.log"
        begin = START if args.jobs == 1 else 2 * START
        killed = kill_and_resume(recipe, folder / "killed", args.kills, took, args.moments, log, begin)
        different = differences(expected, outcome(folder / "killed"))
    print(f"{killed} kills; " + ("the same end" if not different else "different: " + ", ".join(different)))
    return 1 if different or not expected["outputs"] or killed < args.kills else 0


def command(recipe: Sequence[str], run: Path, log: Path) -> subprocess.Popen[bytes]:
    """`r1kit run` in a process group of its own."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "r1kit", "run", *recipe, "--run", str(run)],
            stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


def kill_and_resume(
    recipe: Sequence[str], run: Path, kills: int, seconds: float, seed: int, log: Path, start: float = START
) -> int:
    """Run a recipe, SIGKILL it `kills` times at random moments and start it again each time; then let it end.

    The moments are spread over `seconds`, the time that a whole run takes. Returns how often it was killed.
    """
    rng = random.Random(seed)
    moments = sorted(rng.uniform(0, seconds) for _ in range(kills))
    killed = 0
    for before, moment in zip([0.0, *moments], moments, strict=False):
        process = command(recipe, run, log)
        try:
            status = process.wait(timeout=moment - before + start)
        except subprocess.TimeoutExpired:
            kill_all(process)
            killed += 1
            print(f"kill {killed}: {doing(run)}", flush=True)
        else:
            if status != 0:
                raise SystemExit(f"the start after kill {killed} ended with status {status}; see {log}")
            break
    if (status := command(recipe, run, log).wait()) != 0:
        raise SystemExit(f"the last start ended with status {status}; see {log}")
    return killed


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and all below it: workers of --jobs have sessions of their own."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in (line.split() for line in listed.splitlines())}
    doomed = [process.pid]
    for pid in doomed:  # grows while it is gone through
        doomed += [child for child, parent in parents.items() if parent == pid]
    for pid in doomed:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, signal.SIGKILL)
    process.wait()


def doing(run: Path) -> str:
    """What the pipeline was at."""
    path = run / "pipeline.json"
    if not path.exists():
        return "before the first stage"
    rows = json.loads(path.read_text())["stages"]
    done = sum(row["state"] == "done" for row in rows)
    return f"{done} stages done, in {[row['name'] for row in rows if row['state'] == 'running']}"


def stage_seconds(run: Path) -> float:
    """What a pipeline took by the clock."""
    return json.loads((run / "pipeline.json").read_text())["wall_seconds"]


def outcome(run: Path) -> dict[str, Any]:
    """What a pipeline made: the hash of every stage's output, and the claims."""
    marks = {path.parent.name: json.loads(path.read_text()) for path in run.glob("*/.stage.json")}
    claims = json.loads((run / "summary.json").read_text())["claims"]
    return {"outputs": {name: mark.get("output") for name, mark in marks.items()}, "claims": claims}


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Names of what is not the same."""
    names = sorted(expected["outputs"].keys() | found["outputs"].keys())
    different = [name for name in names if expected["outputs"].get(name) != found["outputs"].get(name)]
    return different + (["claims"] if expected["claims"] != found["claims"] else [])


if __name__ == "__main__":
    sys.exit(main())
