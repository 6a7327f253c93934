"""Rotary position embeddings and their scalings (Llama 3's, linear, YaRN), in transformers' own numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

SCALINGS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
"""The `rope_type`s besides default, and what their parameters must hold. LongRoPE is not among them: its frequencies
change with the length of what is in the batch, and so would a token's log-probs."""


def rope_table(
    theta: float, scaling: Mapping[str, Any] | None, width: int, context: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """cos and sin [context, width / 2] of every position, fp32."""
    half = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    frequencies, factor = 1.0 / theta ** (half / width), 1.0
    if scaling is not None:
        frequencies, factor = _scaled(theta, scaling, width, context)
    angles = torch.outer(torch.arange(context, device=device).float(), frequencies.to(device))
    cos, sin = angles.cos(), angles.sin()
    return (cos, sin) if factor == 1.0 else (cos * factor, sin * factor)


def _scaled(theta: float, scaling: Mapping[str, Any], width: int, context: int) -> tuple[Tensor, float]:
    """Frequencies [width / 2], and what cos and sin are multiplied by (YaRN's attention factor)."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        hidden_size=width,
        num_attention_heads=1,
        head_dim=width,
        max_position_embeddings=context,
        rope_parameters={**scaling, "rope_theta": theta},
    )
    return ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, torch.device("cpu"))
