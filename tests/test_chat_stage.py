"""`r1kit chat`: questions come from the keyboard or a pipe, the reply is a thought and an answer, Ctrl-C stops one."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from r1kit.config import ChatConfig
from r1kit.sampling.local import LocalSampler
from r1kit.stages.chat import answer, main, split_thought
from r1kit.training.models import open_model
from r1kit.types import Message
from scripted import ANSWERS, Table, save_scripted_model, save_scripted_run

SRC = str(Path(__file__).parents[1] / "src")
ONE_ANSWER: Table = {**ANSWERS, "1": {"</think>": 1.0}, "<answer>": {"23": 1.0}}
ENDLESS: Table = {":": {"1": 1.0}, "1": {"1": 1.0}}
CONVERSATION = (
    "{% for m in messages %}{{ m.role }} {{ m.content }}.{% endfor %}"
    "{% if messages | length == 3 and messages[1].content == '23' and messages[2].content == 'again' %}2"
    "{% else %}:{% endif %}"
)
"""A chat template whose last token tells whether the model sees the question and the answer before this one."""


def chat(monkeypatch: pytest.MonkeyPatch, questions: str, cfg: ChatConfig) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(questions))
    main(cfg)


def config(folder: Path, **changes: object) -> ChatConfig:
    return ChatConfig(**{"model": str(folder), "device": "cpu", "dtype": "fp32", "max_new_tokens": 20, **changes})  # type: ignore[arg-type]


def test_a_pipe_of_questions_through_the_command_line(tmp_path: Path):
    save_scripted_run(tmp_path / "pipeline" / "zero", 4, ONE_ANSWER)
    command = [sys.executable, "-m", "r1kit", "chat", str(tmp_path / "pipeline"), "--device", "cpu", "--dtype", "fp32"]
    done = subprocess.run(
        command, input="Make 23 from 8, 3, 1.\n\n  用8、3、1算出23。\n", env={**os.environ, "PYTHONPATH": SRC},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    head, *replies = done.stdout.split("\n> ")
    assert "step-000004" in head and "Make 24 from 8, 3, 1." in head
    assert [reply.splitlines()[:3] for reply in replies] == [
        ["Make 23 from 8, 3, 1.", "  1", "23"],
        ["用8、3、1算出23。", "  1", "23"],
    ]
    assert "(7 tokens, " in replies[0] and "cap" not in replies[0]


@pytest.mark.parametrize("ending", ["exit\nnever asked\n", " Quit \nnever asked\n", ""])
def test_exit_and_the_end_of_the_input_quit(tmp_path, monkeypatch, capsys, ending):
    save_scripted_model(tmp_path, ONE_ANSWER)
    chat(monkeypatch, "first\n" + ending, config(tmp_path))
    printed = capsys.readouterr().out
    assert printed.count("\n> ") == 1 and "> first\n  1\n23\n" in printed


class Interrupted(io.StringIO):
    """Half a second after each line is read, the process is interrupted."""

    def readline(self, *args: int) -> str:  # type: ignore[override]
        line = super().readline(*args)
        signal.setitimer(signal.ITIMER_REAL, 0.5 if line else 0)
        return line


@pytest.mark.parametrize("reason", [(), ("SIGTERM",)])
def test_ctrl_c_stops_the_answer_and_sigterm_the_chat(tmp_path, monkeypatch, capsys, reason):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt(*reason)

    save_scripted_model(tmp_path, ENDLESS, context=200_000)
    monkeypatch.setattr(sys, "stdin", Interrupted("one\ntwo\n"))
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        if reason:
            with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
                main(config(tmp_path, max_new_tokens=100_000))
        else:
            main(config(tmp_path, max_new_tokens=100_000))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert capsys.readouterr().out.count("(stopped)") == (0 if reason else 2)


def test_an_answer_at_the_cap_says_so(tmp_path, monkeypatch, capsys):
    save_scripted_model(tmp_path, ENDLESS)
    chat(monkeypatch, "q\n", config(tmp_path, max_new_tokens=5))
    assert "\n11111\n(5 tokens, " in (printed := capsys.readouterr().out)
    assert "stopped at the cap of 5 tokens" in printed


def test_a_question_longer_than_the_context_is_refused_and_the_next_one_answered(tmp_path, monkeypatch, capsys):
    save_scripted_model(tmp_path, ONE_ANSWER, context=40)
    chat(monkeypatch, f"{'long ' * 40}\nq\n", config(tmp_path))
    printed = capsys.readouterr().out
    assert "too long for the model's context of 40 tokens" in printed and printed.count("\n  1\n23\n") == 1


@pytest.mark.parametrize(("template", "answers"), [("chat", ["23", "99"]), ("short", ["23", "23"])])
def test_only_the_chat_template_remembers(tmp_path, monkeypatch, capsys, template, answers):
    table = {**ONE_ANSWER, "2": {"99": 1.0}}
    save_scripted_model(tmp_path, table, chat_template=CONVERSATION)
    chat(monkeypatch, "once\nagain\n", config(tmp_path, template=template))
    _, *replies = capsys.readouterr().out.split("\n> ")
    assert [reply.splitlines()[-2] for reply in replies[:1]] + [replies[1].strip().splitlines()[-2]] == answers


@pytest.mark.parametrize(("table", "expected"), [(ONE_ANSWER, ("1", "23")), (ENDLESS, ("111", ""))])
def test_a_prefilled_thought_is_a_thought_finished_or_not(tmp_path, table, expected):
    save_scripted_model(tmp_path, {**table, "<think>": {"1": 1.0}})
    cfg = config(tmp_path, template="short-prefilled", max_new_tokens=6 if table is ONE_ANSWER else 3)
    model, tokenizer = open_model(cfg.model, cfg.device, cfg.dtype)
    sampler = LocalSampler(tokenizer, rows=1)
    sampler.load_weights(model, version=0)
    reply = answer(sampler, model, tokenizer, cfg, [Message("user", "q")], 1)
    assert reply is not None and (reply.thought, reply.answer) == expected


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        (" <think>a [b]</think>\n<answer>c</answer>", "a [b]", "c"),
        ("<think>a</think>so \\boxed{c}.", "a", "so \\boxed{c}."),
        ("<think>never closed", "never closed", ""),
        ("<think>a</think> no <think>b</think> c", "a</think> no <think>b", "c"),
        ("just text", "", "just text"),
        ("<answer>c", "", "c"),
    ],
)
def test_the_thought_and_what_follows_it(text, thought, answer):
    assert split_thought(text) == (thought, answer)


def test_what_is_wrong_is_said_before_the_weights_load(tmp_path):
    save_scripted_model(tmp_path, ONE_ANSWER)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="no chat template"):
        main(config(tmp_path, template="chat"))
    with pytest.raises(FileNotFoundError, match="give a folder"):
        main(config(tmp_path / "nowhere"))
