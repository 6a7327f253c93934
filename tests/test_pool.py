"""Facts about VerdictPool: whatever a verdict does, it ends, leaves nothing behind and hurts no other verdict."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from r1kit.config import RewardConfig
from r1kit.rewards import VerdictPool, score, score_many
from r1kit.rewards.reward import score_completion, score_text
from r1kit.types import Completion, Message, Problem, Score

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")

MARK = "R1KIT_POOL_TEST"
SCORER = (Path(__file__).parent / "hostile_scorer.py").read_text()

UNDECIDED = {
    "sleep": "time limit: 2.8 s by the clock",
    "stop": "time limit: 2.8 s by the clock",
    "spin": "time limit: ",
    "power": "time limit: ",
    "regex": "time limit: ",
    "memory": "MemoryError",
    "nested": "RecursionError",
    "leave": "exit code 3",
    "crash": "SIGSEGV",
    "kill": "SIGKILL",
    "child": "exit code 0",
    "exception": "RuntimeError: xxx",
    "exits": "SystemExit: 5",
    "alarm": "exit code 9",
}
HARMLESS = ("prints", "forks")


def problem(gold: Any, scorer: str = "math") -> Problem:
    return Problem("p", "t", (Message("user", "?"),), gold, scorer)


def hostile(gold: str = "7") -> Problem:
    entry = {"question": "?", "answer": gold, "metadata": {}}
    return problem({"dataset": "hostile", "config": {}, "entry": entry}, "reasoning_gym")


def answer(text: str) -> str:
    return f"<think>a</think><answer>{text}</answer>"


def processes(mark: str) -> set[int]:
    """Every process that has `mark` in its environment, this one left out."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"{MARK}={mark}\0".encode() in (folder / "environ").read_bytes()
            if marked and b"resource_tracker" not in (folder / "cmdline").read_bytes():  # multiprocessing's
                found.add(int(folder.name))
        except OSError:
            continue
    return found - {os.getpid()}


def children() -> dict[int, str]:
    """State of each child of this process, zombies (Z) included."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(parent) == os.getpid():
            found[int(folder.name)] = state
    return found


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Marks what this test starts, and gives it the misbehaving scorer."""
    folder = tmp_path / "reasoning_gym"
    folder.mkdir()
    (folder / "__init__.py").write_text(SCORER)
    monkeypatch.syspath_prepend(str(tmp_path))
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    before = children()
    yield mark
    gc.collect()
    assert eventually(lambda: not processes(mark)), f"left behind: {processes(mark)}"
    assert "Z" not in [state for child, state in children().items() if child not in before]


@pytest.fixture
def pool(mark: str) -> Iterator[VerdictPool]:
    with VerdictPool(workers=2, seconds=0.4, memory_mb=400) as pool:
        yield pool


# Verdicts


@pytest.mark.parametrize(
    ("gold", "scorer", "text"),
    [
        (r"\frac{1}{2}", "math", answer("0.5")),
        (r"\frac{1}{2}", "math", answer("0.6")),
        (r"\frac{", "math", answer("0.6")),
        ("5", "math", "no answer"),
        ("23", "number", answer("23.0")),
        ("Paris", "exact", answer("paris")),
        ({"numbers": [8, 3, 1], "target": 24}, "countdown", answer("8*3*1")),
        (None, "helpful", "<think>a</think>Hello."),
        (None, "number", answer("1")),
        ("\ud800", "exact", answer("\ud800" * 30_000)),
        ("5", "math", answer("\ud800\0é" * 100)),
        ("5", "exact", answer("5" * 3_000_000)),
    ],
)
def test_a_pool_says_what_the_scorer_says(pool: VerdictPool, gold: Any, scorer: str, text: str):
    assert pool.score(problem(gold, scorer), text) == score_text(problem(gold, scorer), text)


def test_scorers_with_bounded_work_start_no_process(mark: str):
    with VerdictPool() as pool:
        pool.score_many([(problem("23", "number"), answer("23"))] * 100)
        assert pool.score(problem("23", "math"), "no answer", RewardConfig()).verdict == "wrong"
        assert not processes(mark)
        assert pool.score(problem("23", "exact"), answer("2" * 30_000)).verdict == "wrong"
        assert len(processes(mark)) == 1


def test_many_scores_keep_their_order_and_use_all_workers(pool: VerdictPool, mark: str):
    pairs = [(hostile(str(n)), answer(str(n - n % 2))) for n in range(100)]
    assert [one.verdict for one in pool.score_many(pairs)] == ["right", "wrong"] * 50
    assert len(processes(mark)) == 2


def test_completions_of_a_rollout_are_scored_as_one_by_one(pool: VerdictPool):
    cfg = RewardConfig(language_weight=1.0, repetition_weight=0.5)
    texts = [answer("5"), "hm</think><answer>5</answer>", answer("6"), "<think>5", ""]
    made = [Completion((1, 2), (), text, "stop") for text in texts] + [Completion((), (), "", "error", error="gone")]
    items = [
        (problem(gold, scorer), completion, prefill)
        for gold, scorer in (("5", "math"), ("5", "number"), (r"\frac{", "math"), (None, "helpful"))
        for completion in made
        for prefill in ("", "<think>\n")
    ]
    assert pool.score_completions(items, cfg) == [score_completion(*item, cfg) for item in items]


def test_an_unknown_scorer_and_a_closed_pool_are_the_callers_mistakes(mark: str):
    pool = VerdictPool(workers=1)
    with pytest.raises(ValueError, match="scorer 'maths' does not exist"):
        pool.score(problem("1", "maths"), answer("1"))
    pool.close()
    with pytest.raises(ValueError, match="this VerdictPool is closed"):
        pool.score(hostile(), answer("7"))
    with pytest.raises(ValueError, match="workers is 0; give a number above 0"):
        VerdictPool(workers=0)


def test_a_missing_library_is_an_error_and_no_verdict(tmp_path: Path, mark: str):
    (tmp_path / "reasoning_gym" / "__init__.py").write_text("raise ModuleNotFoundError('none here')")
    with VerdictPool(workers=1) as pool, pytest.raises(ModuleNotFoundError, match="pip install reasoning-gym"):
        pool.score(hostile(), answer("7"))


# Limits


def test_a_text_that_does_not_fit_into_a_worker_is_undecided(mark: str):
    with VerdictPool(workers=1, memory_mb=120) as pool:
        found = pool.score(problem("5", "exact"), answer("5" * 40_000_000))
        assert (found.verdict, found.reason) == ("undecided", "memory limit: 120 MB")


@pytest.mark.parametrize("behaviour", UNDECIDED)
def test_a_verdict_that_misbehaves_is_undecided(mark: str, behaviour: str):
    # Where another limit or an error is expected, time must not come first on a slow machine.
    seconds = 0.4 if "time limit" in UNDECIDED[behaviour] else 20
    with VerdictPool(workers=2, seconds=seconds, memory_mb=400) as pool:
        found = pool.score(hostile(), answer(behaviour))
        assert found.verdict == "undecided" and found.reward == 0
        assert UNDECIDED[behaviour] in found.reason and len(found.reason) <= 1000
        assert [pool.score(hostile(), answer(text)).verdict for text in ("7", "8")] == ["right", "wrong"]


def test_the_limit_is_of_processor_time(mark: str):
    with VerdictPool(workers=1, seconds=0.1) as pool:
        pool.score(hostile(), answer("7"))
        assert pool.score(hostile(), answer("power")).reason == "time limit: 0.1 s of processor time"


@pytest.mark.parametrize("behaviour", HARMLESS)
def test_output_and_children_of_a_scorer_harm_nothing(pool: VerdictPool, behaviour: str):
    for _ in range(3):
        assert pool.score(hostile(), answer(behaviour)).verdict == "wrong"
    assert pool.score(hostile(), answer("7")).verdict == "right"


def test_a_crowd_of_hostile_answers(mark: str):
    """From 8 threads at once; every fair answer among them gets its verdict."""
    rng = random.Random(0)
    kinds = [*sorted(UNDECIDED.keys() - {"sleep", "stop", "memory"}), "7", "8", "7", "8"] * 5
    rng.shuffle(kinds)
    expected = [{"7": "right", "8": "wrong"}.get(kind, "undecided") for kind in kinds]
    with VerdictPool(workers=3, seconds=0.2, memory_mb=400) as pool, ThreadPoolExecutor(8) as threads:
        most = 0
        for future in [threads.submit(pool.score, hostile(), answer(kind)) for kind in kinds]:
            future.result()
            most = max(most, len(children()))
        assert most <= 3 + len(children().keys() - processes(mark))
        assert [one.verdict for one in pool.score_many([(hostile(), answer(kind)) for kind in kinds])] == expected
        assert "Z" not in children().values()


def test_a_worker_that_was_killed_while_idle_is_no_verdicts_fault(pool: VerdictPool, mark: str):
    pool.score_many([(hostile(), answer("7"))] * 20)
    for process in processes(mark):
        os.kill(process, signal.SIGKILL)
    assert pool.score(hostile(), answer("7")).verdict == "right"


def test_workers_are_replaced_after_their_verdicts(mark: str):
    with VerdictPool(workers=1, verdicts_per_worker=3) as pool:
        pool.score(hostile(), answer("7"))
        first = processes(mark)
        assert pool.score(hostile(), answer("7")).verdict == "right" and processes(mark) == first
        pool.score(hostile(), answer("7"))
        assert eventually(lambda: len(processes(mark)) == 1 and processes(mark) != first)


def test_a_worker_that_has_grown_is_replaced(tmp_path: Path, mark: str):
    (tmp_path / "reasoning_gym" / "__init__.py").write_text(
        SCORER.replace("misbehave(answer)", "KEPT.append(b'x' * (40 << 20))") + "\nKEPT = []\n"
    )
    seen = set()
    with VerdictPool(workers=1, memory_mb=400) as pool:
        for _ in range(12):
            assert pool.score(hostile(), answer("7")).verdict == "right"
            seen |= processes(mark)
    assert len(seen) > 1


def test_an_interrupted_verdict_is_not_taken_for_the_next_one(pool: VerdictPool):
    """Ctrl-C while the main thread waits."""
    pool.score(hostile(), answer("8"))
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))  # type: ignore[arg-type]
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        pool.score(hostile("sleep"), answer("sleep"))
    assert pool.score(hostile(), answer("8")).verdict == "wrong"


# From anywhere


def test_from_asyncio(pool: VerdictPool):
    async def main() -> list[Score]:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.01)

        beating = asyncio.create_task(beat())
        scores = await asyncio.gather(*(pool.ascore(hostile(), answer(text)) for text in ("7", "spin", "8", "7")))
        beating.cancel()
        assert beats > 5, "the event loop was blocked"
        return scores

    assert [one.verdict for one in asyncio.run(main())] == ["right", "undecided", "wrong", "right"]


def test_workers_outlive_the_thread_that_asked_first(pool: VerdictPool, mark: str):
    """The kernel ties a process to the thread that started it."""
    thread = threading.Thread(target=pool.score, args=(hostile(), answer("7")))
    thread.start()
    thread.join()
    first = processes(mark)
    time.sleep(0.2)
    assert processes(mark) == first and len(first) == 1
    assert pool.score(hostile(), answer("7")).verdict == "right" and processes(mark) == first


def test_signal_handlers_are_left_alone(pool: VerdictPool):
    before = [signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGPROF, signal.SIGCHLD, signal.SIGINT)]
    pool.score(hostile(), answer("spin"))
    assert before == [
        signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGPROF, signal.SIGCHLD, signal.SIGINT)
    ]


def test_a_forked_child_has_workers_of_its_own(pool: VerdictPool, mark: str):
    pool.score_many([(hostile(), answer("7"))] * 20)
    before = processes(mark)
    child = os.fork()
    if child == 0:
        try:
            verdicts = [one.verdict for one in pool.score_many([(hostile(), answer(a)) for a in ("7", "spin", "8")])]
            own = processes(mark) - before - {os.getpid(), os.getppid()}
            os._exit(0 if verdicts == ["right", "undecided", "wrong"] and own else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert eventually(lambda: processes(mark) == before), "the child's workers end with it, and only those"
    assert pool.score(hostile(), answer("7")).verdict == "right"


def test_a_forked_child_that_ends_leaves_its_parents_workers(pool: VerdictPool, mark: str):
    pool.score(hostile(), answer("7"))
    before = processes(mark)
    child = os.fork()
    if child == 0:
        try:
            pool.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert pool.score(hostile(), answer("7")).verdict == "right" and processes(mark) == before


def scored_elsewhere(pool: VerdictPool) -> list[str]:
    pairs = [(hostile(), answer("7")), (hostile(), answer("spin"))]
    return [one.verdict for one in (*pool.score_many(pairs), *score_many(pairs[:1]))]


def test_a_pool_can_be_sent_to_a_spawned_process(pool: VerdictPool):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert executor.submit(scored_elsewhere, pool).result(60) == ["right", "undecided", "right"]


def test_workers_end_with_a_parent_that_is_killed(mark: str):
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
from test_pool import VerdictPool, hostile, answer
pool = VerdictPool(workers=2, seconds=60)
pool.score(hostile(), answer("7"))
print("ready", flush=True)
pool.score_many([(hostile(), answer("power")), (hostile(), answer("sleep"))])
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        assert eventually(lambda: len(processes(mark)) == 3)
        time.sleep(0.3)
        parent.kill()
    assert eventually(lambda: not processes(mark))


def test_workers_end_with_a_pool_that_is_let_go(mark: str):
    pool = VerdictPool(workers=1)
    pool.score(hostile(), answer("7"))
    assert processes(mark)
    del pool
    gc.collect()
    assert not processes(mark)


def test_the_shared_pool_ends_with_the_process(mark: str):
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
from test_pool import answer, hostile, score
print(score(hostile(), answer("7")).verdict)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("right\n", "")
    assert not processes(mark)


def test_the_package_offers_its_interface():
    import r1kit.rewards as rewards

    assert all(getattr(rewards, name) is not None for name in rewards.__all__)
    assert rewards.score is score
    with pytest.raises(AttributeError, match="no attribute 'scores'"):
        rewards.scores  # noqa: B018
