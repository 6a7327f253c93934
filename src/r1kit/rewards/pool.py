"""Verdicts from worker processes, with limits that hold: time, memory, crashes. One interface, from anywhere.

`score(problem, text)` may be called from threads, from forked and spawned processes and, as `ascore`, from asyncio. No
signal handler is used. A worker that is over a limit is killed and replaced; the verdict is then undecided. Scorers
whose work is bounded by the length of a short answer are run in this process, programs in their own sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from r1kit.config import RewardConfig
from r1kit.rewards.accuracy import ANY_FORM, Judgement, check_scorer, score_answer
from r1kit.rewards.own import absolute, is_own
from r1kit.rewards.reward import FREE, score_completion, score_text
from r1kit.rewards.start import start_worker
from r1kit.rewards.worker import OUT_OF_MEMORY
from r1kit.sandbox import frames
from r1kit.types import Completion, Problem, Score

LOCAL_SCORERS = ("exact", "number", "choice", "countdown", "knights", "helpful", "safety")
"""Judged in this process, unless the answer is longer than MAX_LOCAL_CHARS: their work is bounded by its length."""
MAX_LOCAL_CHARS = 20_000
MOST_WORKERS = 8
START_SECONDS = 120.0
"""How long a worker may take to import what it needs, on a busy machine."""
FAULTS = (OSError, EOFError, ValueError)
"""Of a worker that is gone, or late (TimeoutError is an OSError)."""


class VerdictPool:
    """Worker processes that judge answers. They are started when first needed and kept warm.

    `seconds` is the processor time that one verdict may take; by the clock it may take 2 s + twice as long, so that a
    busy machine does not turn right answers undecided. `memory_mb` is what one worker may map. A worker is replaced
    after `verdicts_per_worker` verdicts, and when half of its memory is in use. By default there are as many `workers`
    as processors for this process, but at most 8.

    Close it, use it in a `with`, or let go of it: its workers end with it, and with the process, however that ends.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        seconds: float = 5.0,
        memory_mb: int = 1024,
        verdicts_per_worker: int = 5000,
    ) -> None:
        self.workers = workers if workers is not None else min(_processors(), MOST_WORKERS)
        self.seconds, self.memory_mb, self.verdicts_per_worker = seconds, memory_mb, verdicts_per_worker
        for name in ("workers", "seconds", "memory_mb", "verdicts_per_worker"):
            if (value := self.__dict__[name]) <= 0:
                raise ValueError(f"{name} is {value}; give a number above 0")
        self._idle: list[_Worker] = []
        self._closed = False
        self._begin()
        self._finalizer = weakref.finalize(self, _end_all, self._idle)  # also at the end of the process
        _pools.add(self)

    def _begin(self) -> None:
        """What a forked child needs anew: its own locks and threads, and no workers."""
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(self.workers)
        self._threads: ThreadPoolExecutor | None = None
        self._scorers: set[str] = set()
        for worker in self._idle:
            worker.abandon()
        self._idle.clear()

    def score(self, problem: Problem, text: str, cfg: RewardConfig = FREE, num_tokens: int | None = None) -> Score:
        """Score `text`, a completion with the prefilled tail of its prompt, as `score_text` does.

        By default the reward is the accuracy and the text may have any form. Undecided, with the reason, when a limit
        is hit. ModuleNotFoundError and SandboxUnavailable say what to install; ValueError: unknown scorer, closed pool.
        """
        return score_text(problem, text, cfg, num_tokens, self.judge)

    def score_many(
        self, pairs: Sequence[tuple[Problem, str]], cfg: RewardConfig = FREE, num_tokens: Sequence[int] | None = None
    ) -> list[Score]:
        """One score for each (problem, text), in their order; all workers take part."""
        lengths = [None] * len(pairs) if num_tokens is None else num_tokens
        free = cfg.format == "free"
        return self._each(
            [
                (
                    _is_local(problem.scorer, free) and not cfg.function,
                    functools.partial(self.score, problem, text, cfg, length),
                )
                for (problem, text), length in zip(pairs, lengths, strict=True)
            ]
        )

    def score_completions(self, items: Sequence[tuple[Problem, Completion, str]], cfg: RewardConfig) -> list[Score]:
        """One score for each (problem, completion, prefill), in their order, as `score_completion` gives it."""
        free = cfg.format == "free"
        return self._each(
            [
                (
                    _is_local(problem.scorer, free) and not cfg.function,
                    functools.partial(score_completion, problem, completion, prefill, cfg, self.judge),
                )
                for problem, completion, prefill in items
            ]
        )

    async def ascore(
        self, problem: Problem, text: str, cfg: RewardConfig = FREE, num_tokens: int | None = None
    ) -> Score:
        """`score` without blocking the event loop."""
        return await asyncio.wrap_future(self._submit(functools.partial(self.score, problem, text, cfg, num_tokens)))

    def judge(
        self,
        scorer: str,
        answer: str | None,
        gold: Any,
        *,
        free: bool = False,
        unsafe_code: bool = False,
        prompt: str = "",
    ) -> Judgement:
        """`score_answer` within the limits."""
        check_scorer(scorer)
        local = scorer == "code" or not answer or (_is_local(scorer, free) and len(answer) <= MAX_LOCAL_CHARS)
        if local and not is_own(scorer):
            return score_answer(scorer, answer, gold, free=free, unsafe_code=unsafe_code)
        try:
            json.dumps(gold)
        except (TypeError, ValueError, RecursionError) as error:
            fault = f"gold is no JSON ({str(error)[:200]}); give texts, numbers, lists or objects"
            return Judgement("undecided", fault, "")
        scorer = absolute(scorer) if is_own(scorer) else scorer
        request = {"scorer": scorer, "answer": answer, "gold": gold, "free": free, "prompt": prompt}
        with self._slots:
            return self._ask(request)

    def close(self) -> None:
        """End the workers. Verdicts that are under way are finished; new ones are refused."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=True)
        self._finalizer()

    def __enter__(self) -> VerdictPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A pool that is sent to another process is one with the same limits there."""
        names = ("workers", "seconds", "memory_mb", "verdicts_per_worker")
        return functools.partial(VerdictPool, **{name: self.__dict__[name] for name in names}), ()

    def _each(self, jobs: Sequence[tuple[bool, functools.partial[Score]]]) -> list[Score]:
        """Results in order: the jobs that are local are done on this thread, while the others wait for workers."""
        pending = [None if local else self._submit(job) for local, job in jobs]
        try:
            done = [job() if future is None else None for future, (_, job) in zip(pending, jobs, strict=True)]
            return [score or future.result() for score, future in zip(done, pending, strict=True)]  # type: ignore[union-attr]
        except BaseException:
            for future in pending:
                if future is not None:
                    future.cancel()
            raise

    def _submit(self, job: functools.partial[Score]) -> Future[Score]:
        with self._lock:
            self._check_open()
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self.workers, "r1kit-score")
            return self._threads.submit(job)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("this VerdictPool is closed; make another one")

    def _ask(self, request: dict[str, Any]) -> Judgement:
        """A verdict from a worker. The caller holds a slot, so there is a worker for it or room for one more."""
        self._scorers.add(request["scorer"])
        fault = ""
        for _ in range(2):  # a worker may have died while it was idle: that is not the verdict's fault
            try:
                worker = self._take()
            except OSError as error:
                fault = f"no worker could be started: {error}"
                continue
            began = False
            try:
                worker.begin(request)
                began = True
                reply = worker.answer(self._clock)
            except FAULTS as error:
                self._replace(worker)
                fault = worker.fault(error, self)
                if began:
                    break
                continue
            except BaseException:  # Ctrl-C: this answer must not be taken for that of the next request
                worker.end()
                raise
            if reply["retire"]:
                self._replace(worker)
            else:
                self._give_back(worker)
            if "missing" in reply:
                raise ModuleNotFoundError(reply["missing"])
            return Judgement(*reply["judgement"])
        return Judgement("undecided", fault, "")

    @property
    def _clock(self) -> float:
        return 2 * self.seconds + 2

    def _take(self) -> _Worker:
        with self._lock:
            self._check_open()
            while self._idle:
                worker = self._idle.pop()
                if worker.alive():
                    return worker
                worker.end()
        return _Worker(self)

    def _give_back(self, worker: _Worker, at: int | None = None) -> None:
        with self._lock:
            if not self._closed:
                self._idle.insert(len(self._idle) if at is None else at, worker)
                return
        worker.end()

    def _replace(self, worker: _Worker) -> None:
        """End it and start another, which imports what it needs while the others work: it is the last to be taken."""
        worker.end()
        with contextlib.suppress(OSError):  # then the next verdict tries, and says what is wrong
            self._give_back(_Worker(self), 0)


class _Worker:
    """One worker process and the socket to it; used by one thread at a time. OSError when it cannot be started."""

    def __init__(self, pool: VerdictPool) -> None:
        ours, theirs = socket.socketpair()
        try:
            settings = {
                "channel": theirs.fileno(),
                "parent": os.getpid(),
                "seconds": pool.seconds,
                "memory_mb": pool.memory_mb,
                "verdicts": pool.verdicts_per_worker,
                "scorers": sorted(pool._scorers),
            }
            self.process = start_worker(settings)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.socket = ours

    def begin(self, request: dict[str, Any]) -> None:
        """Hand over the request; returns when work on it begins."""
        self.socket.settimeout(START_SECONDS)
        frames.send(self.socket, request)
        frames.receive(self.socket)

    def answer(self, seconds: float) -> dict[str, Any]:
        self.socket.settimeout(seconds)
        return frames.receive(self.socket)[0]

    def fault(self, error: Exception, pool: VerdictPool) -> str:
        """Why there is no answer. The worker has been ended."""
        code = self.process.returncode
        if isinstance(error, TimeoutError):
            return f"time limit: {pool._clock:g} s by the clock"
        if code == -signal.SIGPROF:
            return f"time limit: {pool.seconds:g} s of processor time"
        if code == OUT_OF_MEMORY:
            return f"memory limit: {pool.memory_mb} MB"
        said = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"the worker ended with {said}"

    def alive(self) -> bool:
        """Whether it still holds its end of the socket. An idle worker says nothing."""
        self.socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            self.socket.recv(1)
            return False
        return True

    def end(self) -> None:
        """Kill it and what it started, and wait, so that no zombie is left.

        One that has ended itself is a zombie until the wait, so its number is no other process's, and keeps its code.
        """
        self.socket.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def abandon(self) -> None:
        """Forget it, in a forked child whose parent goes on using it."""
        self.socket.close()
        self.process.returncode = 0  # so that its end is not waited for


def _end_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().end()


def _is_local(scorer: str, free: bool) -> bool:
    """Whether short answers are judged in this process. What is free is searched for the final answer first."""
    return scorer in LOCAL_SCORERS and (not free or scorer in ANY_FORM)


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


_pools: weakref.WeakSet[VerdictPool] = weakref.WeakSet()
_shared: list[VerdictPool] = []
_shared_lock = threading.Lock()


def shared_pool() -> VerdictPool:
    """The pool of this process, with the default limits."""
    with _shared_lock:
        if not _shared:
            _shared.append(VerdictPool())
        return _shared[0]


def score(problem: Problem, text: str, cfg: RewardConfig = FREE, num_tokens: int | None = None) -> Score:
    """`VerdictPool.score` of the shared pool."""
    return shared_pool().score(problem, text, cfg, num_tokens)


def score_many(
    pairs: Sequence[tuple[Problem, str]], cfg: RewardConfig = FREE, num_tokens: Sequence[int] | None = None
) -> list[Score]:
    """`VerdictPool.score_many` of the shared pool."""
    return shared_pool().score_many(pairs, cfg, num_tokens)


def _after_fork() -> None:
    """A child has no workers and none of its parent's threads; its parent's workers are not its own."""
    global _shared_lock
    _shared_lock = threading.Lock()
    for pool in list(_pools):
        pool._begin()


os.register_at_fork(after_in_child=_after_fork)
