"""A model that does as it is told: the next token depends on the last one only, by a table of probabilities.

Its one block adds nothing, its embeddings are the unit vectors, and its head holds the log-probabilities. So a test
knows what it will say, and how often.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from r1kit.model.hf import save_model
from r1kit.model.transformer import Transformer, TransformerConfig
from r1kit.training.checkpoint import save_checkpoint
from tiny import tiny_tokenizer

Table = Mapping[str, Mapping[str, float]]

ANSWERS: Table = {
    ":": {"<think>": 1.0},
    "<think>": {"1": 1.0},
    "1": {"1": 0.5, "</think>": 0.5},
    "</think>": {"<answer>": 1.0},
    "<answer>": {"23": 0.7, "24": 0.3},
    "23": {"</answer>": 1.0},
    "24": {"</answer>": 1.0},
}
"""After the template's colon: <think>11...1</think><answer>23</answer>, seven times in ten, or 24. Then the end."""


@torch.no_grad()
def save_scripted_model(folder: Path, table: Table, *, context: int = 256, chat_template: str | None = None) -> None:
    """A model folder. After a token that is not in `table`, the completion ends."""
    tokenizer = tiny_tokenizer()
    size = len(tokenizer)
    config = TransformerConfig(
        model_type="llama", vocab_size=size, hidden=size, layers=1, heads=1, kv_heads=1, head_dim=8, mlp=8,
        context=context,
    )  # fmt: skip
    model = Transformer(config)
    for weight in model.parameters():
        weight.zero_()
    model.norm.weight.fill_(1.0)
    model.embed.weight.copy_(torch.eye(size))
    logprobs_VV = torch.full((size, size), -40.0)
    logprobs_VV[:, tokenizer.eos_token_id] = 0.0  # type: ignore[index]
    for last, following in table.items():
        row = torch.full((size,), -40.0)
        for text, probability in following.items():
            row[token_id(text)] = math.log(probability)
        logprobs_VV[token_id(last)] = row
    assert model.head is not None
    # A unit vector comes out of the norm as long as sqrt(size).
    model.head.weight.copy_(logprobs_VV.T / math.sqrt(size))
    save_model(model, tokenizer, folder)
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)


def save_scripted_run(run: Path, step: int, table: Table) -> None:
    """A run folder with one checkpoint."""
    save_checkpoint(run, step, lambda folder: save_scripted_model(folder, table), {}, keep=1)


def token_id(text: str) -> int:
    ids = tiny_tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == 1, f"{text!r} is not one token: {ids}"  # type: ignore[arg-type]
    return ids[0]  # type: ignore[index]
