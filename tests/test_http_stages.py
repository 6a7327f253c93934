"""Endpoints in stages that are cut off and go on: what was answered is not asked again, and the card counts it once."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from fake_endpoint import Answer, Received, echo, fake_endpoint
from r1kit.config import EndpointConfig, PreferencesConfig, RejectConfig
from r1kit.sampling.http import Endpoint, Reply
from r1kit.stages import preferences, reject
from scripted import save_scripted_model

TALK = {
    ":": {"<think>": 1.0},
    "<think>": {"1": 1.0},
    "1": {"</think>": 1.0},
    "</think>": {"23": 0.5, "24": 0.5},
}


def asked(received: list[Received]) -> Counter[str]:
    return Counter(json.dumps(request.body, sort_keys=True) for request in received)


class CutOff:
    """Ends the program, as Ctrl-C does, when an endpoint has answered for the `at`-th time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self._left, self._count = at, Endpoint._count
        monkeypatch.setattr(Endpoint, "_count", lambda endpoint, reply, **rest: self(endpoint, reply, **rest))

    def __call__(self, endpoint: Endpoint, reply: Reply, *, shared: bool = False) -> None:
        self._count(endpoint, reply, shared=shared)
        self._left -= not reply.cached
        if self._left == 0:
            raise KeyboardInterrupt


def test_a_killed_program_asks_nothing_twice_but_what_was_on_its_way(tmp_path: Path):
    received: list[Received] = []
    processes: list[subprocess.Popen[bytes]] = []

    def answer(messages: list[dict[str, str]]) -> Answer:
        if len(received) == 21 and len(processes) == 1:
            processes[0].send_signal(signal.SIGKILL)
        return echo(messages)

    with fake_endpoint(answer, received) as url:
        code = f"""
import sys
from pathlib import Path
from r1kit.config import EndpointConfig
from r1kit.sampling.http import Endpoint
from r1kit.types import Message
endpoint = Endpoint(EndpointConfig(url={url!r}, model="m", concurrency=4), Path({str(tmp_path / "cache")!r}))
sys.stdin.readline()
replies = endpoint.chat([[Message("user", f"a{{i}}")] for i in range(40)])
print(" ".join(reply.text for reply in replies), endpoint.totals.calls, endpoint.totals.from_disk)
"""
        outputs = []
        for _ in range(2):
            process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            processes.append(process)
            outputs.append(process.communicate(b"go\n", timeout=100)[0].decode())
    assert [process.returncode for process in processes] == [-signal.SIGKILL, 0]
    times = asked(received)
    assert len(times) == 40
    assert sum(times.values()) <= 40 + 4 and max(times.values()) <= 2
    *texts, calls, from_disk = outputs[1].split()
    assert texts == [f"A{i}" for i in range(40)]
    assert int(calls) + int(from_disk) == 40
    assert int(from_disk) >= 21 - 4


def settings_of(url: str, role: str) -> EndpointConfig:
    return EndpointConfig(url=url, model=role, concurrency=1, retries=0, prompt_price=2.0, completion_price=10.0)


def card_row(run: Path, role: str) -> list[str]:
    (row,) = [line for line in (run / "README.md").read_text().splitlines() if line.startswith(f"| {role} |")]
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def totals(received: list[Received], words: int) -> list[str]:
    """The card's cells for calls that all were answered: 7 prompt tokens each, `words` tokens in all answers."""
    calls = len(received)
    return [f"{calls:,}", "0", f"{7 * calls:,}", f"{words:,}", f"{(14 * calls + 10 * words) / 1e6:,.4g}"]


def test_preferences_pay_each_verdict_once_and_the_card_says_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def judge(messages: list[dict[str, str]]) -> str:
        shown = re.findall(r"--- response [AB] \w+ ---\n(.*?)\n--- end", messages[-1]["content"], re.DOTALL)
        if not shown:
            return '{"verdict": "safe"}'
        return "[[A>>B]]" if shown[0] > shown[1] else "[[B>>A]]"

    save_scripted_model(tmp_path / "model", TALK)
    received: list[Received] = []
    with fake_endpoint(judge, received) as url:
        cfg = PreferencesConfig(
            run=tmp_path / "cut", model=str(tmp_path / "model"), num_prompts=6, num_samples=2, max_new_tokens=8,
            max_length_bias=1.0, device="cpu", judge=settings_of(url, "m"),
        )  # fmt: skip
        with monkeypatch.context() as patched:
            CutOff(patched, at=5)
            with pytest.raises(KeyboardInterrupt):
                preferences.main(cfg)
        assert len(received) == 5
        # With other limits: they say how fast it goes, not what comes of it.
        preferences.main(replace(cfg, judge=replace(cfg.judge, concurrency=3, retries=1)))
    times = asked(received)
    assert len(times) > 20 and set(times.values()) == {1}
    words = sum(len(judge(request.body["messages"]).split()) for request in received)
    assert card_row(cfg.run, "judge") == totals(received, words)
    (metrics,) = [json.loads(line) for line in (cfg.run / "metrics.jsonl").read_text().splitlines()]
    assert metrics["judge/calls"] == len(received) and metrics["judge/failed"] == 0
    assert metrics["judge/cost"] == pytest.approx((14 * len(received) + 10 * words) / 1e6)


ROLES = ("teacher", "judge", "rewriter")


def say(role: str, messages: list[dict[str, str]]) -> str:
    text = messages[-1]["content"]
    match role:
        case "teacher":
            return f"<think>\nI think of {text.split()[-1]} and count it twice.\n</think>\n\nIt is {text.split()[-1]}."
        case "judge":
            return '{"analysis": "so", "correctness": "%s"}' % ("incorrect" if "thing3" in text else "correct")
    return "I count it." if "<notes>" in text else "It is so."


@pytest.fixture
def servers() -> Iterator[tuple[dict[str, str], dict[str, list[Received]]]]:
    """Role -> URL, and what was asked there."""
    received: dict[str, list[Received]] = {role: [] for role in ROLES}
    with ExitStack() as stack:
        yield (
            {
                role: stack.enter_context(
                    fake_endpoint(lambda messages, role=role: say(role, messages), received[role])
                )
                for role in ROLES
            },
            received,
        )


@pytest.fixture
def taught(tmp_path: Path, servers: tuple[dict[str, str], dict[str, list[Received]]]) -> RejectConfig:
    """A teacher, a judge and a rewriter, all behind endpoints."""
    save_scripted_model(tmp_path / "model", TALK)
    rows = [{"prompt": f"Name thing{i}", "answer": "x", "scorer": "helpful", "split": "train"} for i in range(6)]
    (tmp_path / "open.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    teacher, judge, rewriter = (settings_of(servers[0][role], role) for role in ROLES)
    return RejectConfig(
        run=tmp_path / "cut", model=str(tmp_path / "model"), tasks=(str(tmp_path / "open.jsonl"),), num_problems=6,
        num_samples=2, temperature=0.6, rewrite="endpoint", max_new_tokens=64, device="cpu",
        teacher=teacher, judge=judge, rewriter=rewriter,
    )  # fmt: skip


@pytest.mark.parametrize("at", [1, 7, 15, 20])
def test_teacher_judge_and_rewriter_are_asked_once_for_each_thing(
    taught: RejectConfig, servers: tuple[dict[str, str], dict[str, list[Received]]], at: int,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    received = servers[1]
    monkeypatch.setattr(reject, "BATCH", 8)  # 4 problems
    with monkeypatch.context() as patched:
        CutOff(patched, at)
        with pytest.raises(KeyboardInterrupt):
            reject.main(taught)
    assert sum(map(len, received.values())) == at
    rows = [json.loads(line) for line in reject.main(taught).read_text().splitlines()]
    assert len(rows) == 5, "thing3 was judged wrong"
    # A teacher's two samples of a problem are the same request.
    assert set(asked(received["teacher"]).values()) == {2}
    assert {request.body["temperature"] for request in received["teacher"]} == {0.6}
    assert all(set(asked(received[role]).values()) == {1} for role in ("judge", "rewriter"))
    for role in ROLES:
        words = sum(len(say(role, request.body["messages"]).split()) for request in received[role])
        assert card_row(taught.run, role) == totals(received[role], words)
    straight = replace(taught, run=taught.run.with_name("straight"))
    reject.main(straight)
    for name in ("sft.jsonl", "counts.json"):
        assert (straight.run / name).read_bytes() == (taught.run / name).read_bytes()


def test_a_teacher_that_is_down_stops_the_run(taught: RejectConfig):
    down = replace(taught, teacher=replace(taught.teacher, url="http://127.0.0.1:9/v1"))
    with pytest.raises(ValueError, match="the teacher at http://127.0.0.1:9/v1 answered none of 12 calls"):
        reject.main(down)
