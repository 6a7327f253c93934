"""Sampling from models that run through transformers: rows of one batch, padded at the front, until the last has ended.

A completion draws the same random numbers as in the local sampler, from (prompt seed, index, position).

Shapes: B rows, P tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from r1kit.model.generic import GenericModel
from r1kit.sampling.draw import draw
from r1kit.sampling.random import seed_from, uniforms
from r1kit.types import Prompt, SamplingParams


@torch.no_grad()
def generate_padded(
    model: GenericModel, prompts: Sequence[Prompt], samples: Sequence[int], params: SamplingParams
) -> list[tuple[list[int], list[float]]]:
    """Tokens and their log-probs for each (prompt, index of the sample), the stop token included."""
    device = model.embed.weight.device
    longest = max(len(prompt.tokens) for prompt in prompts)
    padding = [longest - len(prompt.tokens) for prompt in prompts]
    ids = torch.tensor([[0] * pad + list(p.tokens) for pad, p in zip(padding, prompts, strict=True)], device=device)
    mask_BP = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding], device=device)
    seeds = [seed_from(prompt.seed, sample) for prompt, sample in zip(prompts, samples, strict=True)]
    seeds_B = torch.tensor(seeds, device=device)
    stops = torch.tensor(params.stop_tokens or (-1,), device=device)
    running_B = torch.ones(len(prompts), dtype=torch.bool, device=device)
    past, drawn = None, []
    for count in range(params.max_new_tokens):
        hidden_BD, past = model.step(ids, mask_BP, past)
        logits_BV = model.unembed(hidden_BD)
        tokens_B, logprobs_B = draw(logits_BV, params, uniforms(seeds_B, torch.full_like(seeds_B, count)))
        drawn.append((tokens_B, logprobs_B, running_B))
        running_B = running_B & ~torch.isin(tokens_B, stops)
        if not running_B.any():
            break
        ids = tokens_B[:, None]
        mask_BP = torch.cat((mask_BP, torch.ones_like(ids)), dim=1)
    tokens_BN, logprobs_BN, running_BN = (torch.stack(column, dim=1) for column in zip(*drawn, strict=True))
    lengths = running_BN.sum(1).tolist()
    return [
        (tokens[:length], logprobs[:length])
        for tokens, logprobs, length in zip(tokens_BN.tolist(), logprobs_BN.tolist(), lengths, strict=True)
    ]
