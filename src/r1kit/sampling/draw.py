"""One token per row, drawn from its logits.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r1kit.types import SamplingParams

FEW = 64
"""Tokens that are looked at before all of the vocabulary is sorted."""


def draw(logits_BV: Tensor, params: SamplingParams, uniforms_B: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row and its log-prob at the temperature, before top-k and top-p (greedy: at temperature 1)."""
    if params.temperature == 0:
        tokens_B = logits_BV.argmax(-1)
        return tokens_B, logits_BV.log_softmax(-1).gather(-1, tokens_B[:, None]).squeeze(-1)
    logprobs_BV = (logits_BV / params.temperature).log_softmax(-1)
    probs_BV = keep_top(logprobs_BV.exp(), params.top_p, params.top_k)
    # In float64, u x total stays below total, so the first entry above it always has a probability above 0.
    cumulative_BV = probs_BV.cumsum(-1, dtype=torch.float64)
    tokens_B = torch.searchsorted(cumulative_BV, uniforms_B[:, None] * cumulative_BV[:, -1:], right=True).squeeze(-1)
    return tokens_B, logprobs_BV.gather(-1, tokens_B[:, None]).squeeze(-1)


def keep_top(probs_BV: Tensor, top_p: float, top_k: int) -> Tensor:
    """Probabilities with all but the top k, then the nucleus of mass top_p, set to 0. At least one token stays;
    tokens tied at rank k all stay."""
    if 0 < top_k < probs_BV.shape[-1]:
        least = probs_BV.topk(top_k, dim=-1).values[:, -1:]
        probs_BV = probs_BV.masked_fill(probs_BV < least, 0.0)
    return nucleus(probs_BV, top_p) if top_p < 1 else probs_BV


def nucleus(probs_BV: Tensor, top_p: float) -> Tensor:
    """Probabilities with all but the most likely tokens that together reach `top_p` of a row set to 0."""
    share_BV = probs_BV / probs_BV.sum(-1, keepdim=True)
    # Sorting the vocabulary takes longer on CPU than a small model's step, and most nuclei have a few tokens. (A GPU
    # sorts fast, and asking it whether there are more would break recorded graphs.)
    if probs_BV.device.type == "cpu" and probs_BV.shape[-1] > 2 * FEW:
        ordered, order = share_BV.topk(FEW)
        reached = ordered.cumsum(-1)
        kept_BV = torch.zeros_like(probs_BV).scatter(
            -1, order, probs_BV.gather(-1, order).masked_fill(reached - ordered >= top_p, 0.0)
        )
        if (more := reached[:, -1] < top_p).any():
            kept_BV[more] = _by_sorting(probs_BV[more], share_BV[more], top_p)
        return kept_BV
    return _by_sorting(probs_BV, share_BV, top_p)


def _by_sorting(probs_BV: Tensor, share_BV: Tensor, top_p: float) -> Tensor:
    ordered, order = share_BV.sort(dim=-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return probs_BV.masked_fill(outside.scatter(-1, order, outside), 0.0)
