"""Starts the worker processes of VerdictPool, each in a session of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

Job = tuple[Future[subprocess.Popen[bytes]], dict[str, Any]]


def start_worker(settings: dict[str, Any]) -> subprocess.Popen[bytes]:
    """A process that runs `rewards.worker` with these settings; it inherits `settings["channel"]`. OSError: none."""
    return _starter.start(settings)


class _Starter:
    """Starts processes on a thread that lives as long as this process.

    The kernel ends a worker when the thread that started it does (PR_SET_PDEATHSIG), and callers' threads come and go.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Job] | None = None

    def start(self, settings: dict[str, Any]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._queue is None:
                self._queue = SimpleQueue()
                threading.Thread(target=self._serve, args=(self._queue,), name="r1kit-workers", daemon=True).start()
        started: Future[subprocess.Popen[bytes]] = Future()
        self._queue.put((started, settings))
        return started.result()

    def _serve(self, queue: SimpleQueue[Job]) -> None:
        while True:
            started, settings = queue.get()
            try:
                started.set_result(_start(settings))
            except OSError as error:
                started.set_exception(error)


def _start(settings: dict[str, Any]) -> subprocess.Popen[bytes]:
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment |= {"PYTHONHASHSEED": "0"}  # sympy's order of terms depends on it
    environment |= {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)
    }  # it finds what this process finds
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "r1kit.rewards.worker", json.dumps(settings)],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[settings["channel"]],
        start_new_session=True,
    )


_starter = _Starter()


def _after_fork() -> None:
    """A child has no such thread."""
    global _starter
    _starter = _Starter()


os.register_at_fork(after_in_child=_after_fork)
