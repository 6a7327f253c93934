"""Adapters for tests: as after some training, and the logits of the models that they are on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from r1kit.config import LoraConfig
from r1kit.model.lora import Adapters, add_adapters
from r1kit.model.transformer import Decoder
from tiny import packed_hidden, random_tokens

RANK = 3
LORA = LoraConfig(rank=RANK, alpha=5.0)
SEQUENCES = [random_tokens(length, seed) for seed, length in enumerate((20, 9, 3))]


def adapt(model: Decoder, config: LoraConfig = LORA, *, seed: int = 0, trained: bool = True) -> Adapters:
    """Adapters as after some training: none of their numbers is 0."""
    adapters = add_adapters(model, config, seed=seed, base="the-base")
    assert adapters is not None
    if trained:
        shake(adapters, seed)
    return adapters


@torch.no_grad()
def shake(adapters: Adapters, seed: int = 0, scale: float = 0.2) -> None:
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in adapters.parameters():
        parameter += scale * torch.empty(parameter.shape).normal_(generator=generator)


@torch.no_grad()
def logits(model: Decoder) -> Tensor:
    """Of SEQUENCES, packed, [T, V]."""
    return model.unembed(packed_hidden(model, SEQUENCES))


@torch.no_grad()
def logits_of_hf(model: Any) -> Tensor:
    """The same from transformers' or PEFT's model, one sequence after the other."""
    return torch.cat([model(torch.tensor([sequence])).logits[0] for sequence in SEQUENCES])
