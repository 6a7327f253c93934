"""The commands of docs/your-model.md run: on a tiny Qwen2.5, and on a tiny Gemma that transformers computes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from r1kit.cli import main
from test_docs import ROOT, shell_lines
from tiny import VOCAB, hf_from_config, tiny_tokenizer

PAGE = ROOT / "docs/your-model.md"
NAME = "Qwen/Qwen2.5-0.5B"
SMALL = {"--max-new-tokens": "4", "--eval.max-new-tokens": "4", "--num-problems": "2", "--eval.num-problems": "2"}
ONE_STEP = "--steps 1 --problems-per-step 2 --group-size 2 --save-every 1 --eval.num-samples 1 --algo.overlong-buffer 2"


def save_tiny(kind: str, folder: Path) -> None:
    """A random model with a chat template and a generation config of its own."""
    fields = {"head_dim": 16} if kind == "gemma" else {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    config = AutoConfig.for_model(
        kind, vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=0, pad_token_id=1, **fields,
    )  # fmt: skip
    hf_from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<{{ m.content }}>{% endfor %}")
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [0, 7], "do_sample": False, "temperature": 0.7})
    )


def commands(model: str) -> list[list[str]]:
    """The page's, cut down in size."""
    found = []
    for _, *args in shell_lines(PAGE):
        args = [model if arg == NAME else arg for arg in args]
        for flag, value in SMALL.items():
            if flag in args:
                args[args.index(flag) + 1] = value
        found.append(args + (shlex.split(ONE_STEP) if args[0] == "rl" else []))
    return found


@pytest.mark.parametrize("kind", ["qwen2", "gemma"])
def test_the_pages_commands_run(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):  # noqa: ANN001
    monkeypatch.chdir(tmp_path)
    save_tiny(kind, tmp_path / "base")
    done = []
    for args in commands("base"):
        if args[0] == "chat":
            args += ["--max-new-tokens", "4"]
            monkeypatch.setattr("builtins.input", _ask_once())
        assert main(args) == 0, (args, capsys.readouterr().err)
        done.append(args[0])
    assert done == ["evaluate", "rl", "evaluate", "chat"]
    (folder,) = (tmp_path / "runs/qwen/checkpoints").iterdir()
    opened = AutoModelForCausalLM.from_pretrained(folder)
    assert (opened.config.model_type, opened.generation_config.eos_token_id) == (kind, [0, 7])
    assert AutoTokenizer.from_pretrained(folder).chat_template == "{% for m in messages %}<{{ m.content }}>{% endfor %}"


def _ask_once():  # noqa: ANN202
    questions = iter(["1+1?"])

    def ask(prompt: str = "") -> str:
        try:
            return next(questions)
        except StopIteration:
            raise EOFError from None

    return ask
