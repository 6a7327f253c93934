"""A worker process of VerdictPool: reads answers from a socket, judges them, writes verdicts back.

    python -m r1kit.rewards.worker '{"channel": 3, "parent": 1234, ...}'

Nothing it judges can outlive or outgrow it: the kernel ends it when a verdict takes too much processor time, when its
parent dies, or gives it no more memory. What it prints goes nowhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
from typing import Any

from r1kit.rewards.accuracy import MAX_REASON_CHARS, score_answer
from r1kit.rewards.own import is_own, own_function
from r1kit.sandbox import frames

OUT_OF_MEMORY = 77
"""Exit code where not even the request could be read."""


def main(settings: dict[str, Any]) -> None:
    die_with(settings["parent"])
    channel = socket.socket(fileno=settings["channel"])
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    memory = settings["memory_mb"] << 20
    with contextlib.suppress(ValueError, OSError):  # where the system has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    loaded: set[str] = set()
    for scorer in settings["scorers"]:
        load(scorer, loaded)
    served = 0
    while True:
        try:
            request, _ = frames.receive(channel)
        except (EOFError, OSError):
            return
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        load(request["scorer"], loaded)
        frames.send(channel, {"started": True})  # from here on the time is the verdict's
        signal.setitimer(signal.ITIMER_PROF, settings["seconds"])
        reply = judged(request, settings["memory_mb"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        served += 1
        reply["retire"] = served >= settings["verdicts"] or resident_bytes() > memory // 2
        frames.send(channel, reply)


def die_with(parent: int) -> None:
    """End when the thread that started this process does, even inside a computation that Python cannot interrupt."""
    if sys.platform != "linux":
        return
    from r1kit.sandbox import kernel

    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        os._exit(1)


def load(scorer: str, loaded: set[str]) -> None:
    """Import what `scorer` needs, so that no verdict is charged for it; if that fails, the verdict says so."""
    if scorer in loaded:
        return
    if is_own(scorer):
        with contextlib.suppress(Exception):  # a file of the user's may raise anything
            own_function(scorer)
    with contextlib.suppress(ImportError):
        match scorer:
            case "math":
                score_answer("math", r"\frac{1}{2}x + 1", "x/2 - 1")
            case "reasoning_gym":
                import reasoning_gym  # noqa: F401
            case "ifeval":
                import r1kit.rewards.ifeval  # noqa: F401
    loaded.add(scorer)


def judged(request: dict[str, Any], memory_mb: int) -> dict[str, Any]:
    scorer = request["scorer"]
    try:
        judgement = score_answer(
            scorer, request["answer"], request["gold"], free=request["free"], prompt=request["prompt"]
        )
        return {"judgement": list(judgement)}
    except ModuleNotFoundError as error:
        return {"missing": str(error)}
    except MemoryError:
        return {"judgement": ["undecided", f"memory limit: {memory_mb} MB", ""]}
    # A model's text reaches math-verify, sympy and a hundred scorers of reasoning-gym: any error becomes the reason.
    except (Exception, SystemExit) as error:
        return {
            "judgement": ["undecided", f"{scorer} failed with {type(error).__name__}: {error}"[:MAX_REASON_CHARS], ""]
        }


def resident_bytes() -> int:
    """Memory in use now; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
