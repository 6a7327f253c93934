"""Several stages at once: the same results, in an order that saves time, and nothing left behind."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from r1kit import jobs
from r1kit.config import EvalConfig, RejectConfig, SFTConfig
from r1kit.graph import resolve
from r1kit.jobs import _read, next_stages, rank, schedule
from r1kit.recipes import Recipe

SECONDS = {"zero": 10.0, "data": 5.0, "dev1": 5.0, "eval-zero": 4.0, "eval-dev1": 4.0, "other": 20.0}
RECIPE = """
from dataclasses import replace

from r1kit import presets
from r1kit.config import EvalConfig


def stages():
    evaluation = EvalConfig(num_problems=2, num_samples=2, max_new_tokens=24)
    data = replace(presets.reject_tiny(), model="demo-base", num_problems=12, num_samples=4, rewrite="none")
    return {
        "data": data,
        "dev1": replace(presets.sft_tiny(), model="demo-base", data=("@data",), save_every=1),
        "eval-base": replace(evaluation, model="demo-base"),
        "eval-dev1": replace(evaluation, model="@dev1"),
    }
"""
SAMPLE = 'RejectConfig(model="demo-base", num_problems=400, num_samples=16, max_new_tokens=200)'


def small() -> dict:
    evaluate = EvalConfig(model="@zero")
    return {
        "zero": RejectConfig(model="demo-base"),
        "eval-zero": EvalConfig(model="demo-base"),
        "data": RejectConfig(model="@zero"),
        "dev1": SFTConfig(data=("@data",)),
        "eval-dev1": EvalConfig(model="@dev1"),
        "other": RejectConfig(model="demo-base"),
        "eval-other": evaluate,
    }


def run(*arguments: str, **more: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "r1kit", "run", *arguments]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more)  # type: ignore[call-overload]


def outputs(folder: Path) -> dict[str, str]:
    return {path.parent.name: json.loads(path.read_text())["output"] for path in folder.glob("*/.stage.json")}


def alive(folder: Path) -> list[int]:
    """Processes of jobs whose command line names this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if b"r1kit.worker" in words and str(folder).encode() in words:
            found.append(int(path.parent.name))
    return found


def wait_for(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return bool(true)


def test_a_stage_ranks_by_the_longest_way_to_the_end(tmp_path: Path):
    stages = resolve(Recipe(small()), tmp_path, 0)
    ranks = rank(stages, SECONDS)
    assert ranks["eval-dev1"] == 4 and ranks["dev1"] == 9 and ranks["data"] == 14
    assert ranks["zero"] == 24  # through data and dev1, not through an evaluation
    assert ranks["eval-other"] == 1  # not known


def test_the_time_of_the_plan_counts_what_runs_together(tmp_path: Path):
    stages = resolve(Recipe(small()), tmp_path, 0)
    known = SECONDS | {"eval-other": 2.0}
    one = schedule(stages, stages, known, 1, known, ())
    assert max(end for _, end in one.values()) == sum(known.values())
    two = schedule(stages, stages, known, 2, known, ())
    assert (
        two["zero"] == (0, 10) and two["other"] == (0, 20) and two["data"] == (10, 15) and two["eval-dev1"] == (20, 24)
    )
    assert max(end for _, end in two.values()) == 26  # the short evaluations come last
    assert schedule([], stages, known, 2, known, ()) == {}


def test_a_stage_that_runs_alone_has_nothing_beside_it(tmp_path: Path):
    stages = resolve(Recipe(small()), tmp_path, 0)
    known, alone = SECONDS | {"eval-other": 2.0}, ("zero", "dev1")
    times = schedule(stages, stages, known, 2, known, alone)
    assert times["zero"] == (0, 10) and times["data"][0] == times["other"][0] == 10
    # `other` still runs when `data` ends: `dev1` waits for it, and no evaluation takes the place beside it meanwhile.
    assert times["other"] == (10, 30) and times["dev1"] == (30, 35)
    for name in alone:
        begin, end = times[name]
        assert all(last <= begin or first >= end for other, (first, last) in times.items() if other != name)
    ready = [stage for stage in stages if stage.name in ("other", "eval-zero")]
    assert next_stages(ready, {"zero"}, 3, alone) == [] != next_stages(ready, {"zero"}, 3, ())


def test_who_runs_alone_is_the_only_one_with_all_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    begun: list[tuple[str, int]] = []

    class Stub:
        status = None

        def __init__(self, recipe: str, run: Path, seed: int | None, ended: queue.Queue) -> None:
            self.ended = ended

        def begin(self, stage, cores: int) -> None:  # noqa: ANN001
            self.stage = stage.name
            begun.append((stage.name, cores))
            self.ended.put(self)

    stages = resolve(Recipe(small()), tmp_path, 0)
    monkeypatch.setattr(jobs, "Worker", Stub)
    monkeypatch.setattr(jobs, "stop", lambda running, idle: None)
    monkeypatch.setattr(jobs, "cpu_cores", lambda: 8)
    jobs.run_stages("small", tmp_path, 0, stages, stages, 3, SECONDS, ("zero", "dev1"), lambda running: None)
    assert sorted(begun) == sorted((name, 8 if name in ("zero", "dev1") else 2) for name in small())


def test_a_worker_computes_on_the_cores_that_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reading, writing = os.pipe()
    os.write(writing, b"one 1 2\ntwo 2 1\n")
    os.close(writing)
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # back to what it was afterwards
    monkeypatch.setattr(os, "_exit", lambda status: None)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(fileno=lambda: reading))
    stages = [SimpleNamespace(name="one", identity="1"), SimpleNamespace(name="two", identity="2")]
    monkeypatch.setattr(jobs, "read_recipe", lambda recipe: None)
    monkeypatch.setattr(jobs, "resolve", lambda recipe, run, seed: stages)
    seen: list[tuple[str, int, str]] = []

    def run_stage(stage, stages) -> None:  # noqa: ANN001
        seen.append((stage.name, torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]))

    monkeypatch.setattr(jobs, "run_stage", run_stage)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)  # what torch takes by itself
        jobs.main("small", tmp_path, 0)
    finally:
        torch.set_num_threads(before)
        os.close(reading)
    assert seen == [("one", 2, "2"), ("two", 1, "1")]


@pytest.mark.slow
def test_two_jobs_make_what_one_makes_and_say_whose_line_it_is(tmp_path: Path):
    (tmp_path / "small.py").write_text(RECIPE)
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    serial = run(str(tmp_path / "small.py"), "--run", str(tmp_path / "serial"), env=one)
    text, _ = serial.communicate()
    assert serial.returncode == 0, text
    parallel = run(str(tmp_path / "small.py"), "--run", str(tmp_path / "parallel"), "--jobs", "2", env=one)
    text, _ = parallel.communicate()
    assert parallel.returncode == 0, text
    assert outputs(tmp_path / "parallel") == outputs(tmp_path / "serial") and len(outputs(tmp_path / "serial")) == 4
    assert any(line.startswith("eval-base ") and "demo-base, step 0" in line for line in text.splitlines())
    state = json.loads((tmp_path / "parallel" / "pipeline.json").read_text())
    assert state["finished"] and state["wall_seconds"] > 0
    assert (tmp_path / "parallel" / "report.html").is_file()


def test_a_stage_that_fails_stops_the_others_and_the_status_says_so(tmp_path: Path):
    (tmp_path / "fails.py").write_text(
        "from r1kit.config import EvalConfig, RejectConfig, SFTConfig\n\n\ndef stages():\n"
        f'    return {{"data": {SAMPLE}, "none": SFTConfig(data=({str(tmp_path / "rows.jsonl")!r},), max_tokens=2)}}\n'
    )
    (tmp_path / "rows.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    )
    process = run(str(tmp_path / "fails.py"), "--run", str(tmp_path / "run"), "--jobs", "2")
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 2, text
    assert any(line.startswith("none ") and "error: " in line for line in text.splitlines()), text
    assert "stage none ended with status 2" in text
    assert alive(tmp_path / "run") == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_stage_outlives_the_command(tmp_path: Path, how: signal.Signals):
    (tmp_path / "long.py").write_text(
        f'from r1kit.config import RejectConfig\n\n\ndef stages():\n    return {{"one": {SAMPLE}, "two": {SAMPLE}}}\n'
    )
    process = run(str(tmp_path / "long.py"), "--run", str(tmp_path / "run"), "--jobs", "2")
    assert wait_for(lambda: len(alive(tmp_path / "run")) == 2, 60)
    process.send_signal(how)
    process.communicate(timeout=90)
    assert process.returncode == (143 if how == signal.SIGTERM else -9)
    assert wait_for(lambda: not alive(tmp_path / "run"), 10)


def test_no_jobs_are_a_mistake(tmp_path: Path):
    process = run("tiny", "--run", str(tmp_path / "run"), "--jobs", "0")
    text, _ = process.communicate()
    assert process.returncode == 2 and "--jobs is 0; give how many stages" in text


@pytest.mark.parametrize(("sent", "status", "then"), [(b"zero\n", [143], "zero"), (b"", [], "")])
def test_a_worker_ends_at_once_with_whoever_started_it(monkeypatch: pytest.MonkeyPatch, sent: bytes, status, then: str):
    reading, writing = os.pipe()
    os.write(writing, sent)
    os.close(writing)
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    names: queue.Queue[str] = queue.Queue()
    _read(reading, names, threading.Event())
    os.close(reading)
    assert ended == status and names.get() == then  # busy: at once; idle: its loop ends


def test_a_worker_refuses_a_stage_that_was_edited_meanwhile(tmp_path: Path):
    (tmp_path / "small.py").write_text(RECIPE)
    command = [sys.executable, "-m", "r1kit.worker", str(tmp_path / "small.py"), str(tmp_path / "run"), "0"]
    process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin and process.stderr
    process.stdin.write("data 0123 1\n")
    process.stdin.flush()
    try:
        status = process.wait(timeout=60)
    finally:
        process.kill()  # one that took the stage would wait for the next
    said = process.stderr.read()
    assert status == 2, said
    assert "its stage 'data' has changed since the command began; give it again" in said
    assert not (tmp_path / "run" / "data").exists()
