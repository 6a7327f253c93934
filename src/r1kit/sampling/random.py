"""Counter-based random numbers: what a completion draws depends on its seed and the position, not on its neighbours."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def seed_from(*parts: object) -> int:
    """A 63-bit seed from any printable parts, the same in every process."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's >> keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniforms(seeds_B: Tensor, counters_B: Tensor) -> Tensor:
    """One float64 in (0, 1) for each (seed, counter), by SplitMix64's finaliser applied twice."""
    x = seeds_B
    for value in (counters_B, torch.zeros_like(counters_B)):
        x = x + (value + 1) * _signed(0x9E3779B97F4A7C15)
        x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
        x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
        x = x ^ _shift(x, 31)
    # 52 bits and a half are exact in float64; 53 would round up to 1 at the top.
    return (_shift(x, 12).double() + 0.5) * 2.0**-52
