"""Keys and values of the rows being decoded. Active rows are always the first ones, so every step works on plain views.

Shapes: L layers, R rows, G key/value heads, K head width, H query heads.
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
        self.shape, self.like = config.cached, like
        self.device, self.max_rows, self.capacity = like.device, rows, capacity
        self.scale = self.shape.key**-0.5
        on_cpu = self.device.type == "cpu"
        memory = [self._memory(*((0, 0) if on_cpu else (capacity, rows))) for _ in range(config.layers)]
        self.keys, self.values = [keys for keys, _ in memory], [values for _, values in memory]

    def _memory(self, positions: int, active: int) -> tuple[Tensor, Tensor]:
        """Keys and values [R, G, positions, K] of a layer; zeros in the active rows, where what is masked must be
        finite."""
        place = (self.max_rows, self.shape.heads, positions)
        keys = self.like.new_empty(*place, self.shape.key)
        # What is written to shared values is what their keys hold already.
        values = keys[..., : self.shape.value] if self.shape.shared else keys.new_empty(*place, self.shape.value)
        keys[:active], values[:active] = 0, 0
        return keys, values

    def _resize(self, positions: int, active: int) -> None:
        """Other memory, with what the first `active` rows hold.

        On CPU the memory is the window: the matrix products would copy a part of a larger one at each step. On a GPU
        it stays where it is, as recorded graphs ask.
        """
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            kept = min(positions, keys.shape[2])
            self.keys[layer], self.values[layer] = self._memory(positions, active)
            self.keys[layer][:active, :, :kept] = keys[:active, :, :kept]
            self.values[layer][:active, :, :kept] = values[:active, :, :kept]

    def rows(self, active: int) -> int:
        """How many rows to decode: the active ones; on a GPU, where a few more cost nothing, the next power of two."""
        return active if self.device.type == "cpu" else min(self.max_rows, 1 << (active - 1).bit_length())

    def window(self, longest: int) -> int:
        """How many positions to attend to when the longest row has `longest` tokens and one is added."""
        step = self.LENGTH_STEP.get(self.device.type, 32)
        return min(self.capacity, -(-(longest + 1) // step) * step)

    def start_step(self, lengths_B: Tensor, window: int) -> None:
        """The next forward pass appends one token to each of the first B rows, at position `lengths_B`."""
        if self.device.type == "cpu" and window != self.keys[0].shape[2]:
            self._resize(window, len(lengths_B))
        self.lengths_B = lengths_B
        self.rows_B = torch.arange(len(lengths_B), device=lengths_B.device)
        self.width = window
        past = torch.arange(window, device=lengths_B.device)[None] <= lengths_B[:, None]
        self.mask_B11W = torch.where(past, 0.0, float("-inf")).to(self.like.dtype)[:, None, None]

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

    def write_prompt(self, first: int, end: int, keys_LTGK: Tensor | None, values_LTGK: Tensor | None) -> None:
        """Begin rows `first` to `end` with one prompt's keys and values; None: with nothing."""
        length = 0 if keys_LTGK is None else keys_LTGK.shape[1]
        if length > self.keys[0].shape[2]:
            self._resize(self.window(length), first)
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            keys[first:end], values[first:end] = 0, 0
            if keys_LTGK is not None and values_LTGK is not None:
                keys[first:end, :, :length] = keys_LTGK[layer].transpose(0, 1)
                values[first:end, :, :length] = values_LTGK[layer].transpose(0, 1)

    def move(self, source: Tensor, target: Tensor, longest: int) -> None:
        """Rows `source` replace rows `target`."""
        for held in (*self.keys, *self.values):
            held[target, :, :longest] = held[source, :, :longest]


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
