"""Packing: samples laid end to end without padding, cut into micro-batches by a token budget.

Shapes: T packed tokens, N completion tokens (those that are trained on), S sequences of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Batch:
    """One micro-batch of whole sequences. Position `predict_N[n]` of the packed tokens predicts `labels_N[n]`."""

    lengths: list[int]
    """Tokens of each sequence; they lie end to end in this order."""
    tokens_T: Tensor
    predict_N: Tensor
    labels_N: Tensor
    sequence_N: Tensor
    """Which sequence of this micro-batch each completion token belongs to."""
    advantages_N: Tensor
    weights_N: Tensor
    """Share of each token in the step's loss (`losses.token_weights`): global, so a split changes nothing."""
    sampler_logprobs_N: Tensor
    old_logprobs_N: Tensor | None = None
    """pi_old; None when the policy being trained is the one that sampled."""
    ref_logprobs_N: Tensor | None = None

    @property
    def num_sequences(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True)
class Packable:
    """One sequence to train on: `tokens[prompt_length:]` are its completion, or those of them that `mask` has."""

    tokens: tuple[int, ...]
    prompt_length: int
    advantage: float = 1.0
    weight: float = 1.0
    sampler_logprobs: tuple[float, ...] = ()
    mask: tuple[int, ...] = ()
    """1 for each token that has a loss, 0 for the others; empty: all after the prompt."""


def microbatches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of the sequences of each micro-batch, at most `budget` tokens each, longest first.

    Sorted by length, so that sequences of similar length share a chunk of attention. A sequence over the budget gets
    a micro-batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    room = 0
    for i in order:
        if not batches or lengths[i] > room:
            batches.append([])
            room = budget
        batches[-1].append(i)
        room -= lengths[i]
    return batches


def pack(sequences: Sequence[Packable], device: torch.device | str = "cpu") -> Batch:
    """The micro-batch of these sequences, in this order. Sequences without completion tokens contribute none."""
    tokens: list[int] = []
    predict: list[int] = []
    labels: list[int] = []
    owners: list[int] = []
    advantages: list[float] = []
    weights: list[float] = []
    sampler_logprobs: list[float] = []
    for row, sequence in enumerate(sequences):
        # The first token of a sequence is predicted by nothing, so it is never trained on.
        first = max(sequence.prompt_length, 1)
        places = range(first, len(sequence.tokens))
        trained = [place for place in places if sequence.mask[place]] if sequence.mask else places
        count = len(trained)
        predict.extend(len(tokens) + place - 1 for place in trained)
        tokens.extend(sequence.tokens)
        labels.extend(sequence.tokens[place] for place in trained)
        owners.extend([row] * count)
        advantages.extend([sequence.advantage] * count)
        weights.extend([sequence.weight] * count)
        sampler_logprobs.extend(sequence.sampler_logprobs or [0.0] * count)
    assert len(sampler_logprobs) == len(labels), (len(sampler_logprobs), len(labels))
    return Batch(
        lengths=[len(sequence.tokens) for sequence in sequences],
        tokens_T=torch.tensor(tokens, device=device),
        predict_N=torch.tensor(predict, dtype=torch.long, device=device),
        labels_N=torch.tensor(labels, dtype=torch.long, device=device),
        sequence_N=torch.tensor(owners, dtype=torch.long, device=device),
        advantages_N=torch.tensor(advantages, dtype=torch.float32, device=device),
        weights_N=torch.tensor(weights, dtype=torch.float32, device=device),
        sampler_logprobs_N=torch.tensor(sampler_logprobs, dtype=torch.float32, device=device),
    )
