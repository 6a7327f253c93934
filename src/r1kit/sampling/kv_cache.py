"""Keys and values of the rows being decoded. Active rows are always the first ones, so every step works on plain views.

Shapes: L layers, R rows, G key/value heads, C capacity in tokens, K head width, H query heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from r1kit.model.transformer import PackedAttention, TransformerConfig


class KVCache:
    """Attention of one new token per row over that row's past (an `Attend`)."""

    caches = True
    # The attended length grows in these steps, so that the matrix kernels (or recorded graphs) see few shapes.
    LENGTH_STEP = {"cpu": 32, "cuda": 256}

    def __init__(self, config: TransformerConfig, rows: int, capacity: int, like: Tensor) -> None:
        shape, place = config.cached, (config.layers, rows, config.cached.heads, capacity)
        self.keys = torch.zeros(*place, shape.key, dtype=like.dtype, device=like.device)
        # What is written to shared values is what their keys hold already.
        self.values = self.keys[..., : shape.value] if shape.shared else self.keys.new_zeros(*place, shape.value)
        self.device, self.max_rows, self.capacity = like.device, rows, capacity
        self.scale = shape.key**-0.5

    def rows(self, active: int) -> int:
        """How many rows to decode: the active ones; on a GPU, where a few more cost nothing, the next power of two."""
        return active if self.device.type == "cpu" else min(self.max_rows, 1 << (active - 1).bit_length())

    def window(self, longest: int) -> int:
        """How many positions to attend to when the longest row has `longest` tokens and one is added."""
        step = self.LENGTH_STEP.get(self.device.type, 32)
        return min(self.capacity, -(-(longest + 1) // step) * step)

    def start_step(self, lengths_B: Tensor, window: int) -> None:
        """The next forward pass appends one token to each of the first B rows, at position `lengths_B`."""
        self.lengths_B = lengths_B
        self.rows_B = torch.arange(len(lengths_B), device=lengths_B.device)
        self.width = window
        past = torch.arange(window, device=lengths_B.device)[None] <= lengths_B[:, None]
        self.mask_B11W = torch.where(past, 0.0, float("-inf")).to(self.keys.dtype)[:, None, None]

    def __call__(self, layer: int, q_BHK: Tensor, k_BGK: Tensor, v_BGK: Tensor) -> Tensor:
        rows, heads, width = q_BHK.shape
        keys, values = self.keys[layer], self.values[layer]
        keys[self.rows_B, :, self.lengths_B] = k_BGK
        values[self.rows_B, :, self.lengths_B] = v_BGK
        groups = keys.shape[1]
        # The query heads that share a key head are the rows of one small product.
        q = (q_BHK * self.scale).view(rows, groups, heads // groups, width)
        scores = q @ keys[:rows, :, : self.width].transpose(-1, -2) + self.mask_B11W
        return (scores.softmax(-1) @ values[:rows, :, : self.width]).view(rows, heads, -1)

    def write_prompt(self, rows: Sequence[int], keys_LTGK: Tensor, values_LTGK: Tensor) -> None:
        """Copy one prompt's keys and values into several rows."""
        length = keys_LTGK.shape[1]
        for row in rows:
            self.keys[:, row, :, :length] = keys_LTGK.transpose(1, 2)
            self.values[:, row, :, :length] = values_LTGK.transpose(1, 2)

    def move(self, source: Tensor, target: Tensor, longest: int) -> None:
        """Rows `source` replace rows `target`."""
        self.keys[:, target, :, :longest] = self.keys[:, source, :, :longest]
        self.values[:, target, :, :longest] = self.values[:, source, :, :longest]


class RecordingAttention(PackedAttention):
    """Packed attention that keeps every layer's keys and values: the prefill."""

    caches = True

    def __init__(self, lengths: Sequence[int], device: torch.device | str) -> None:
        super().__init__(lengths, device)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        self.keys.append(k_TGK)
        self.values.append(v_TGK)
        return super().__call__(layer, q_THK, k_TGK, v_TGK)
