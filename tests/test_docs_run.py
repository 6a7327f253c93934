"""Every command of the pages that start from something of yours is run, in the page's order, on the files that the page
shows: your-data, your-reward, lora. tests/test_your_model.py and tests/test_vllm_docs.py run the other two pages.

What is not there is stood in for by something small: models by one that says what a table says, hub sets by copies.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from chat_templates import CHATML
from r1kit import cli
from r1kit.model.tokenizer import load_tokenizer
from scripted import ANSWERS, save_scripted_model
from test_docs import ROOT, blocks, python_files, shell_lines

PAGES = {"your-data": ["problems.jsonl", "chats.jsonl"], "your-reward": ["problems.jsonl"], "lora": []}
"""Page -> the files that its blocks of rows are, in their order. Python files are named on the page."""
MODELS = ("demo-base", "Qwen/Qwen2.5-0.5B-Instruct", "PATH")
"""A tiny one stands in for them."""
SMALL = {
    "rl": "--steps 1 --problems-per-step 2 --group-size 2 --max-new-tokens 8 --algo.overlong-buffer 0 "
    "--algo.dynamic-sampling 0 --save-every 1 --eval.num-samples 1 --eval.max-new-tokens 4 --eval.num-problems 1",
    "evaluate": "--num-samples 1 --max-new-tokens 8",
    "sft": "--epochs 1 --batch-size 4 --eval-every 0",
    "data": "",
    "score": "--workers 1",
}
COMPUTES = ("rl", "evaluate", "sft")
GENERATED = ("sums.py", "reasoning_gym:")
"""Problems that are made, not read."""
NEEDS = {"adamw8bit": "bitsandbytes"}
"""Value of a flag -> the package without which the command stops, with the command that installs it."""


def page(name: str) -> Path:
    return ROOT / "docs" / f"{name}.md"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model and the files that the pages' commands name and do not show."""
    (tmp_path / "table.csv").write_text("ask,result\n1+1?,2\n2+2?,4\n")
    (tmp_path / "mgsm.tsv").write_text("1+1?\t2\n2+2?\t4\n")
    (tmp_path / "outputs.jsonl").write_text(json.dumps({"gold": 42, "completion": "<think>40+2</think>42"}))
    talks = [{"prompt": f"{number}+1?", "completion": f"{number + 1}"} for number in range(40)]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    (tmp_path / "test.jsonl").write_text(json.dumps({"prompt": "90+1?", "completion": "91"}))
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


def write_files(name: str, folder: Path) -> None:
    """What the page shows of files."""
    files = dict(zip(PAGES[name], blocks(page(name), "jsonl"), strict=True)) | python_files(page(name))
    for file, text in files.items():
        (folder / file).write_text(text)


def made_small(words: list[str], number: int) -> list[str]:
    """The command with a tiny model, few steps, and a run folder of its own where it names none."""
    args = ["model" if word in MODELS else word for word in words]
    small = SMALL[args[0]].split()
    if args[0] in COMPUTES:
        small += ["--device", "cpu", "--dtype", "fp32"]
    if args[0] in ("rl", "sft"):
        small += [] if "--model" in args else ["--model", "model"]
        small += [] if "--run" in args else ["--run", f"runs/{number}"]
    return [*args, *small]


def has(package: str) -> bool:
    try:
        __import__(package)
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_commands_run(name: str, here: Path, capsys: pytest.CaptureFixture[str]):
    write_files(name, here)
    commands = [words[1:] for words in shell_lines(page(name))]
    assert commands
    for number, words in enumerate(commands):
        args = made_small(words, number)
        needed = next((NEEDS[word] for word in words if word in NEEDS), "")
        if needed and not has(needed):
            with pytest.raises(ModuleNotFoundError, match=rf"needs {needed}.*: pip install"):
                cli.main(args)
            continue
        assert cli.main(args) == 0, (args, capsys.readouterr().err)
        printed = capsys.readouterr()
        if name == "your-data" and not any(word.startswith(GENERATED) for word in words):
            assert "rows read" in printed.out + printed.err, f"{args}: what was read is not printed"


def test_what_the_commands_of_the_reward_page_leave(here: Path):
    """The parts that the functions return are the reward's, and evaluation counts their verdicts."""
    write_files("your-reward", here)
    for number, words in enumerate(words[1:] for words in shell_lines(page("your-reward"))):
        assert cli.main(made_small(words, number)) == 0
    near, brief, alone = (
        json.loads((here / "runs" / run / "metrics.jsonl").read_text().splitlines()[-2 if run != "alone" else -1])
        for run in ("near", "brief", "alone")
    )
    assert 0 < near["reward/accuracy"] <= 1 and "reward/function" not in near
    assert -1 <= brief["reward/function"] < 0
    assert brief["reward/mean"] == pytest.approx(
        brief["reward/accuracy"] + brief["reward/format"] + 0.2 * brief["reward/function"]
    )
    assert alone["reward/mean"] == pytest.approx(alone["reward/function"]) and "reward/format" not in alone
    verdict = json.loads((here / "outputs.verdicts.jsonl").read_text())
    assert (verdict["verdict"], verdict["reason"]) == ("right", "near returned 1")
    [evaluation] = (here / "runs" / "near" / "evaluations").rglob("*.jsonl")
    [completion] = json.loads(evaluation.read_text())["completions"]
    assert "near returned" in completion["reason"]


def test_what_the_page_shows_of_a_mask_is_what_is_printed(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    write_files("your-data", here)
    tokenizer = load_tokenizer("model")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})  # type: ignore[arg-type]
    tokenizer.save_pretrained("model")
    config = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(json.dumps({**config, "vocab_size": len(tokenizer)}))
    assert cli.main(["data", "chats.jsonl", "--read-as", "conversations", "--model", "model", "--rows", "1"]) == 0
    shown = next(body for body in blocks(page("your-data"), "") if body.startswith("chats.jsonl:1"))
    printed = capsys.readouterr().out
    said = [line.replace(" tokens  ", "|").split("|", 1) for line in shown.splitlines()[1:]]
    lines = [line.replace(" tokens  ", "|").split("|", 1) for line in printed.splitlines() if " tokens  " in line]
    assert [(kind.split()[0], text) for kind, text in lines] == [(kind.split()[0], text) for kind, text in said]


def test_peft_opens_the_adapter_of_a_checkpoint_as_the_page_says(here: Path):
    pytest.importorskip("peft", reason="peft is not installed: pip install peft")
    [code] = blocks(page("lora"), "py")
    first = next(words[1:] for words in shell_lines(page("lora")))
    assert cli.main(made_small(first, 0)) == 0
    [step] = os.listdir("runs/mine/checkpoints")
    names: dict = {}
    exec(code.replace('"PATH"', '"model"').replace("step-000100", step), names)
    assert names["model"].peft_config["default"].r == 16
