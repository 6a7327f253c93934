"""Every command of docs/your-data.md runs, on the rows that the page shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chat_templates import CHATML
from r1kit import cli
from r1kit.model.tokenizer import load_tokenizer
from scripted import ANSWERS, save_scripted_model
from test_docs import ROOT, blocks, shell_lines

PAGE = ROOT / "docs" / "your-data.md"
FILES = ("problems.jsonl", "chats.jsonl")
"""What the page's rows are called in its commands."""
MODELS = ("demo-base", "Qwen/Qwen2.5-0.5B-Instruct")
"""A tiny one stands in for them."""
SMALL = {
    "rl": "--steps 1 --problems-per-step 1 --group-size 2 --max-new-tokens 8 --algo.overlong-buffer 0 --eval-every 0 "
    "--algo.dynamic-sampling 0 --save-every 1",
    "evaluate": "--num-samples 1 --max-new-tokens 8",
    "sft": "--epochs 1 --batch-size 4 --eval-every 0",
    "data": "",
}
COMMANDS = [words[1:] for words in shell_lines(PAGE)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model and the files that the page's commands name."""
    for name, body in zip(FILES, blocks(PAGE, "jsonl"), strict=True):
        (tmp_path / name).write_text(body)
    (tmp_path / "table.csv").write_text("ask,result\n1+1?,2\n2+2?,4\n")
    (tmp_path / "mgsm.tsv").write_text("1+1?\t2\n2+2?\t4\n")
    for number, split in enumerate(("train", "test")):
        folder = tmp_path / "copies" / "openai" / "gsm8k" / "main"
        folder.mkdir(parents=True, exist_ok=True)
        row = {"question": f"What is {number}+1?", "answer": f"It is\n#### {number + 1}"}
        (folder / f"{split}.jsonl").write_text(json.dumps(row))
    math500 = tmp_path / "copies" / "HuggingFaceH4" / "MATH-500"
    math500.mkdir(parents=True)
    (math500 / "test.jsonl").write_text(json.dumps({"problem": "p", "solution": "s", "answer": "1"}))
    save_scripted_model(tmp_path / "model", ANSWERS, context=2000, chat_template=CHATML)
    monkeypatch.setenv("R1KIT_DATA", str(tmp_path / "copies"))
    monkeypatch.setenv("R1KIT_DEBUG", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:60])
def test_a_command_of_the_page_runs(words: list[str], here: Path, capsys: pytest.CaptureFixture[str]):
    args = ["model" if word in MODELS else word for word in words]
    small = SMALL[args[0]].split()
    if args[0] != "data":
        small += ["--device", "cpu", "--dtype", "fp32"]
    if args[0] in ("rl", "sft"):
        small += ["--model", "model"]
    assert cli.main([*args, *small]) == 0
    printed = capsys.readouterr()
    assert "rows read" in printed.out + printed.err, "what was read is printed"


def test_the_page_has_commands_for_each_stage():
    assert {words[0] for words in COMMANDS} == SMALL.keys()


def test_what_the_page_shows_of_a_mask_is_what_is_printed(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    tokenizer = load_tokenizer("model")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})  # type: ignore[arg-type]
    tokenizer.save_pretrained("model")
    assert cli.main(["data", "chats.jsonl", "--read-as", "conversations", "--model", "model", "--rows", "1"]) == 0
    shown = next(body for body in blocks(PAGE, "") if body.startswith("chats.jsonl:1"))
    printed = capsys.readouterr().out
    said = [line.replace(" tokens  ", "|").split("|", 1) for line in shown.splitlines()[1:]]
    lines = [line.replace(" tokens  ", "|").split("|", 1) for line in printed.splitlines() if " tokens  " in line]
    assert [(kind.split()[0], text) for kind, text in lines] == [(kind.split()[0], text) for kind, text in said]
