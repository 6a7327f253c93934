"""Several stages of a recipe at once, each worker a process of its own: `r1kit run demo --jobs 2`.

A small model does not fill many cores: two stages with one core each take less time than one after the other with both.
A stage waits for its inputs; of those that are ready, the one with the longest way to the end goes first. Each worker
computes on an equal share of the cores, also while nothing runs beside it: results depend on the number of threads, and
two stages with more threads than cores between them are far slower than either. The stages that a recipe names in ALONE
have all the cores, and nothing runs beside them.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from r1kit.graph import Stage, read_recipe, resolve, run_stage, state_of
from r1kit.run import compute_on, cpu_cores

PATIENCE = 60.0
"""Seconds a stage has to end after SIGTERM, before it is killed; nothing but its last steps is lost then."""
DONE = "\0done"
"""What a worker prints, on a line of its own, after each stage."""


def run_stages(
    recipe: str, run: Path, seed: int | None, chosen: Sequence[Stage], stages: Sequence[Stage], jobs: int,
    seconds: Mapping[str, float], alone: Collection[str], on_change: Callable[[set[str]], None],
) -> None:  # fmt: skip
    """Run the chosen stages that are not done, at most `jobs` at a time, and nothing beside those that are `alone`.

    `on_change` gets the names of those that run.

    SystemExit with a worker's status when a stage fails; the others are stopped then, and go on when the command is
    given again.
    """
    ranks = rank(stages, seconds)
    waiting = sorted(chosen, key=lambda stage: -ranks[stage.name])
    ended: queue.Queue[Worker] = queue.Queue()
    idle: list[Worker] = []
    running: list[Worker] = []
    try:
        # Looked at each time: what is made again may turn out as before, and then nothing after it is done again.
        while (waiting := [stage for stage in waiting if state_of(stage, stages) != "done"]) or running:
            for stage in next_stages(waiting, {worker.stage for worker in running}, jobs, alone):
                waiting.remove(stage)
                worker = idle.pop() if idle else Worker(recipe, run, seed, ended)
                running.append(worker)
                worker.begin(stage, cpu_cores() if stage.name in alone else max(1, cpu_cores() // jobs))
            on_change({worker.stage for worker in running})
            worker = ended.get()
            if worker.status is not None:
                print(f"stage {worker.stage} ended with status {worker.status}; see above", file=sys.stderr)
                raise SystemExit(worker.status if worker.status > 0 else 128 - worker.status)
            running.remove(worker)
            idle.append(worker)
    finally:
        stop(running, idle)


def next_stages(waiting: Sequence[Stage], running: set[str], jobs: int, alone: Collection[str]) -> list[Stage]:
    """Which of `waiting`, the longest way to the end first, begin now.

    While the first that is ready is one that runs alone, no other begins: it would have to wait for that.
    """
    undone = {stage.name for stage in waiting} | running
    ready = [stage for stage in waiting if not undone & set(stage.inputs)]
    if not ready or running & set(alone):
        return []
    if ready[0].name in alone:
        return [] if running else ready[:1]
    return [stage for stage in ready if stage.name not in alone][: jobs - len(running)]


class Worker:
    """A process that runs one stage after the other. What it prints is shown line by line, behind the stage's name."""

    def __init__(self, recipe: str, run: Path, seed: int | None, ended: queue.Queue[Worker]) -> None:
        self.stage = ""
        self.status: int | None = None
        """Its exit status; None while it lives."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "r1kit.worker", recipe, str(run), "" if seed is None else str(seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            # A session of its own: Ctrl-C reaches the command, which then ends its workers in order.
            start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._show, args=(ended,), daemon=True).start()

    def begin(self, stage: Stage, cores: int) -> None:
        self.stage = stage.name
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{stage.name} {stage.identity} {cores}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died meanwhile, which its status tells

    def _show(self, ended: queue.Queue[Worker]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.rstrip("\n") == DONE:
                ended.put(self)
            elif line.strip():
                print(f"{self.stage:<18} {line}", end="", flush=True)
        self.status = self.process.wait()
        ended.put(self)


def stop(running: Sequence[Worker], idle: Sequence[Worker]) -> None:
    """Let the stages that run end as after Ctrl-C, and wait for all workers."""
    for worker in running:
        worker.process.terminate()
    for worker in idle:
        assert worker.process.stdin is not None
        worker.process.stdin.close()
    for worker in [*running, *idle]:
        try:
            worker.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


def rank(stages: Sequence[Stage], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds from the start of each stage to the end of the last one that needs it."""
    ranks: dict[str, float] = {}
    for stage in reversed(stages):
        after = [ranks[other.name] for other in stages if stage.name in other.inputs]
        ranks[stage.name] = seconds.get(stage.name, 1.0) + max(after, default=0.0)
    return ranks


def schedule(
    chosen: Sequence[Stage], stages: Sequence[Stage], left: Mapping[str, float], jobs: int,
    seconds: Mapping[str, float], alone: Collection[str],
) -> dict[str, tuple[float, float]]:  # fmt: skip
    """When each of `chosen` would begin and end, at most `jobs` at a time, when each takes `left` of its name.

    Seconds; where `left` does not know a stage, 1.
    """
    ranks = rank(stages, seconds)
    waiting = sorted(chosen, key=lambda stage: -ranks[stage.name])
    running: dict[str, float] = {}
    times: dict[str, tuple[float, float]] = {}
    now = 0.0
    while waiting or running:
        for stage in next_stages(waiting, set(running), jobs, alone):
            waiting.remove(stage)
            running[stage.name] = now + left.get(stage.name, 1.0)
            times[stage.name] = now, running[stage.name]
        name = min(running, key=lambda name: running[name])
        now = running.pop(name)
    return times


def main(recipe: str, run: Path, seed: int | None) -> None:
    """Run the stages whose names, identities and cores come in on stdin, in turn: a worker of `run_stages`.

    ValueError for a stage that the recipe, which may have been edited meanwhile, no longer has like that.
    """
    import torch

    most = torch.get_num_threads()  # what torch itself would take: not the second threads of cores
    names: queue.Queue[str] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_read, args=(sys.stdin.fileno(), names, busy), daemon=True).start()
    stages = {stage.name: stage for stage in resolve(read_recipe(recipe), run, seed)}
    while line := names.get():
        name, identity, cores = line.split()
        if name not in stages or stages[name].identity != identity:
            raise ValueError(f"{recipe}: its stage {name!r} has changed since the command began; give it again")
        compute_on(min(int(cores), most))
        run_stage(stages[name], list(stages.values()))
        busy.clear()
        print(DONE, flush=True)


def _read(pipe: int, names: queue.Queue[str], busy: threading.Event) -> None:
    """Pass on what comes in, and end with whoever sends it: a stage alone in the background helps nobody."""
    text = b""
    while got := os.read(pipe, 4096):
        *whole, text = (text + got).split(b"\n")
        for name in whole:
            busy.set()
            names.put(name.decode())
    if busy.is_set():
        os._exit(143)
    names.put("")
