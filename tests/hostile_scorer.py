"""Stands in for the package reasoning_gym in a worker: its scorer misbehaves as the answer says."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any


def create_dataset(name: str, *, seed: int, size: int, **options: Any) -> Data:
    return Data()


class Data:
    def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
        misbehave(answer)
        return float(answer == entry["answer"])


def misbehave(how: str) -> None:
    match how:
        case "sleep":
            time.sleep(600)
        case "spin":
            while True:
                pass
        case "power":
            print(9**9**9)
        case "regex":
            re.match("(a+)+$", "a" * 60 + "b")
        case "memory":
            print(len([b"x" * (1 << 20) for _ in range(1 << 20)]))
        case "nested":
            misbehave(how)
        case "leave":
            os._exit(3)
        case "crash":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "child":
            subprocess.Popen(["sleep", "600"])
            os._exit(0)
        case "forks":
            if os.fork() == 0:
                time.sleep(600)
        case "exception":
            raise RuntimeError("x" * 10_000_000)
        case "exits":
            sys.exit(5)
        case "prints":
            for number in (0, 1, 2):
                os.write(number, b"x" * 1_000_000)
            print("y" * 1_000_000, flush=True)
        case "alarm":
            signal.signal(signal.SIGALRM, lambda *_: os._exit(9))
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            time.sleep(0.1)
