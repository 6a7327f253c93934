"""A run's model is asked and scored as it was trained: template, system prompt, and the form of its answers."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from r1kit.config import ChatConfig, EndpointConfig, EvalConfig, EvaluateConfig, FilterConfig, RejectConfig, to_dict
from r1kit.rewards.reward import score_text
from r1kit.stages import chat, evaluate, reject
from r1kit.training.trained import answer_form, prompt_settings, trained_as
from r1kit.types import Message, Problem
from scripted import ANSWERS, Table, save_scripted_model, save_scripted_run

PLAIN: Table = {":": {"23": 1.0}, ".": {"23": 1.0}, "\n": {"23": 1.0}}
"""Says 23 and nothing else: right, and in no tags."""
CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }}{% endfor %}:"


def write_problems(file: Path, count: int = 4, long: int = 0, split: str = "heldout") -> str:
    rows = [{"prompt": f"Problem {i}", "answer": "23", "scorer": "number", "split": split} for i in range(count)]
    rows += [{**rows[0], "prompt": "word " * 60 + str(i)} for i in range(long)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def save_run(folder: Path, table: Table, **settings: Any) -> str:
    save_scripted_run(folder, 3, table)
    (folder / "config.json").write_text(json.dumps({"stage": "rl", **settings}))
    return str(folder)


@pytest.fixture
def cfg(tmp_path: Path) -> EvaluateConfig:
    tasks = (write_problems(tmp_path / "sums.jsonl"),)
    return EvaluateConfig(tasks=tasks, num_problems=4, num_samples=2, max_new_tokens=9, device="cpu", dtype="fp32")


def scored(cfg: EvalConfig) -> tuple[float, dict[str, Any]]:
    made = json.loads(evaluate.main(cfg).read_text())
    return made["results"]["sums"]["pass@1"], made["policy"]


@pytest.mark.parametrize(
    ("own", "given", "form", "pass_at_1", "why"),
    [
        ("free", "", "free", 1.0, "the run's --reward.format"),
        ("free", "r1-zero", "r1-zero", 0.0, "as given"),
        ("r1", "", "r1", 0.0, "the run's --reward.format"),
        ("r1-zero", "free", "free", 1.0, "as given"),
    ],
)
def test_a_run_is_scored_in_the_form_that_it_was_rewarded_for(
    cfg: EvaluateConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], own, given, form, pass_at_1, why
):
    run = save_run(tmp_path / "run", PLAIN, template="short", reward={"format": own})
    found, policy = scored(replace(cfg, model=run, format=given))
    assert (found, policy["format"]) == (pass_at_1, form)
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == f"{run}: template short, answers read as {form} ({why})"
    assert f"answers read as {form}" in " ".join(printed.split("\n\n")[-1].split())


def test_an_evaluation_of_a_recipe_takes_the_runs_form_too(cfg: EvaluateConfig, tmp_path: Path):
    run = save_run(tmp_path / "run", PLAIN, template="short", reward={"format": "free"})
    stage = EvalConfig(model=run, tasks=cfg.tasks, num_problems=4, num_samples=2, max_new_tokens=9, device="cpu")
    assert scored(stage)[0] == 1.0


@pytest.mark.parametrize(("template", "form", "pass_at_1"), [("chat", "free", 1.0), ("", "r1-zero", 0.0)])
def test_a_model_of_no_run_is_scored_in_the_form_of_its_template(
    cfg: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template, form, pass_at_1
):
    monkeypatch.chdir(tmp_path)
    save_scripted_model(tmp_path / "model", PLAIN, chat_template=CHAT_TEMPLATE)
    found, policy = scored(replace(cfg, model="model", template=template))
    assert (found, policy["format"], policy["template"]) == (pass_at_1, form, template or "short")


@pytest.mark.parametrize("text", ["<think>a</think><answer>72</answer>", "<think>a</think>So \\boxed{72}.", "72", ""])
def test_r1_and_r1_zero_read_the_answer_alike(text: str):
    from r1kit.config import RewardConfig

    problem = Problem("1", "sums", (Message("user", "70 + 2?"),), "72", "number")
    zero, r1 = (score_text(problem, text, RewardConfig(format=form)) for form in ("r1-zero", "r1"))
    assert (zero.verdict, zero.extracted, zero.parts["accuracy"]) == (r1.verdict, r1.extracted, r1.parts["accuracy"])


def test_a_run_is_asked_in_its_own_template_and_with_its_system_prompt(
    cfg: EvaluateConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    table = {**ANSWERS, "<think>": {"1": 1.0}}
    run = save_run(tmp_path / "run", table, template="short-prefilled", system_prompt="Be brief.")
    _, policy = scored(replace(cfg, model=run))
    assert (policy["template"], policy["system_prompt"]) == ("short-prefilled", "Be brief.")
    assert capsys.readouterr().err.count("warning") == 0
    _, policy = scored(replace(cfg, model=run, template="short", system_prompt="Be long."))
    assert (policy["template"], policy["system_prompt"]) == ("short", "Be long.")
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 2 and "--template is 'short'" in warnings[0] and "'short-prefilled'" in warnings[0]
    assert "--system-prompt is 'Be long.'" in warnings[1] and "'Be brief.'" in warnings[1]


def test_chat_talks_to_a_run_in_its_own_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run = save_run(
        tmp_path / "run", {**PLAIN, "<think>": {"1": 1.0}, "1": {"</think>": 1.0}}, template="short-prefilled"
    )
    asked = ChatConfig(model=run, device="cpu", dtype="fp32", max_new_tokens=9)
    monkeypatch.setattr(sys, "stdin", io.StringIO("q\n"))
    chat.main(asked)
    said = capsys.readouterr()
    assert "template short-prefilled" in said.out and "\n  1\n" in said.out and said.err == ""
    monkeypatch.setattr(sys, "stdin", io.StringIO("q\n"))
    chat.main(replace(asked, template="short"))
    said = capsys.readouterr()
    assert "template short," in said.out and "\n23\n" in said.out and said.err.count("--template is 'short'") == 1


def test_only_a_checkpoint_in_a_run_folder_was_trained_somehow(tmp_path: Path):
    save_run(tmp_path / "run", PLAIN, template="chat")
    found = trained_as(tmp_path / "run" / "checkpoints" / "step-000003")
    assert found is not None and (found.template, found.system_prompt, found.format) == ("chat", "", None)
    assert answer_form("", found, "chat")[0] == "free" and prompt_settings("", "", found) == ("chat", "")
    save_scripted_model(tmp_path / "model", PLAIN)
    save_scripted_run(tmp_path / "bare", 1, PLAIN)
    for folder in (tmp_path / "model", tmp_path / "bare" / "checkpoints" / "step-000001"):
        assert trained_as(folder) is None
    assert prompt_settings("", "", None) == ("short", "") and prompt_settings("r1", "x", None) == ("r1", "x")


def test_long_prompts_are_left_out_of_an_evaluation_and_counted(
    cfg: EvaluateConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = save_run(tmp_path / "run", ANSWERS, template="short")
    tasks = (write_problems(tmp_path / "long.jsonl", count=3, long=2),)
    shorter = FilterConfig(max_prompt_tokens=40)
    path = evaluate.main(replace(cfg, model=model, tasks=tasks, num_problems=3, filter=shorter))
    assert "2 heldout prompts longer than 40 tokens dropped" in capsys.readouterr().err
    assert all("word" not in json.loads(line)["prompt"] for line in path.with_suffix(".jsonl").read_text().splitlines())
    assert json.loads(path.read_text())["policy"]["max_prompt_tokens"] == 40
    with pytest.raises(ValueError, match="4 heldout problems asked for, it has 3"):
        evaluate.main(replace(cfg, model=model, tasks=tasks, num_problems=4, filter=shorter))


# reject

THOUGHT: Table = {":": {"<think>": 1.0}, "<think>": {"1": 1.0}, "1": {"</think>": 1.0}, "</think>": {"23": 1.0}}
"""<think>1</think>23: the right answer without tags."""


def reject_config(tmp_path: Path, model: str, **changes: Any) -> RejectConfig:
    tasks = (write_problems(tmp_path / "sums.jsonl", count=6, split="train"),)
    made = RejectConfig(
        run=tmp_path / "data", model=model, tasks=tasks, num_problems=6, num_samples=1, max_new_tokens=9, device="cpu",
        dtype="fp32",
    )  # fmt: skip
    return replace(made, **changes)


def test_reject_keeps_what_the_run_was_rewarded_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = save_run(tmp_path / "run", THOUGHT, template="short", reward={"format": "free"})
    assert len(reject.main(reject_config(tmp_path, model)).read_text().splitlines()) == 6
    assert "answers are read as free (the run's --reward.format)" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"0 are right.*--format"):
        reject.main(reject_config(tmp_path, model, run=tmp_path / "other", format="r1-zero"))


def test_a_teacher_is_read_in_any_form(tmp_path: Path):
    save_scripted_model(tmp_path / "model", THOUGHT)
    cfg = reject_config(tmp_path, str(tmp_path / "model"))
    assert reject.form_of(cfg, tmp_path / "model")[0] == "r1-zero"
    taught = replace(cfg, teacher=EndpointConfig(url="http://localhost:1/v1", model="m"))
    assert reject.form_of(taught, tmp_path / "model")[0] == "free"


def test_reject_leaves_long_prompts_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = save_run(tmp_path / "run", ANSWERS, template="short")
    tasks = (write_problems(tmp_path / "long.jsonl", count=6, long=2, split="train"),)
    cfg = reject_config(tmp_path, model, tasks=tasks, filter=FilterConfig(max_prompt_tokens=40))
    rows = reject.main(cfg).read_text()
    assert "word" not in rows and "2 train prompts longer than 40 tokens dropped" in capsys.readouterr().out
    with pytest.raises(ValueError, match="7 train problems asked for, it has 6"):
        reject.main(replace(cfg, run=tmp_path / "more", num_problems=7))


def test_folders_that_were_begun_before_there_was_a_format_go_on(tmp_path: Path):
    model = save_run(tmp_path / "run", ANSWERS, template="short")
    cfg = reject_config(tmp_path, model)
    data = reject.main(cfg).read_bytes()
    assert "format" not in json.loads((cfg.run / "config.json").read_text())
    assert reject.main(cfg).read_bytes() == data
    with pytest.raises(ValueError, match=r'format: \(absent\) in the folder, "free" now'):
        reject.main(replace(cfg, format="free"))
    # The evaluation of a run is in its config.json, where an unknown field is another setting: it has no new one.
    assert set(to_dict(EvalConfig())) == {
        "model", "tasks", "columns", "filter", "system_prompt", "template", "split", "num_problems", "num_samples",
        "temperature", "top_p", "top_k", "max_new_tokens", "seed", "rows", "unsafe_code", "device", "dtype", "out",
    }  # fmt: skip
    assert EvalConfig().template == "short"
