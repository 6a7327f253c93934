"""Optimizer steps of supervised training: the likelihood of given tokens, and a teacher's distributions.

Both are means over the completion tokens of the whole step, so that micro-batches change nothing. Shapes: N completion
tokens of a micro-batch, D width.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from r1kit.algo.distill import reverse_kl_of_hidden
from r1kit.algo.losses import nll_loss
from r1kit.algo.packing import Batch, Packable, microbatches, pack
from r1kit.config import MemoryConfig, OptimConfig
from r1kit.model.lora import Adapters
from r1kit.model.transformer import Decoder, PackedAttention
from r1kit.training.base import Learner, Loss
from r1kit.training.learner import ALL_IN_PLACE, LocalLearner
from r1kit.types import Metrics

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def batch_of_step(count: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Which of `count` items a step trains on: every epoch is a shuffle of its own, a function of (seed, epoch).

    An epoch has ceil(count / batch_size) steps; its last one may be smaller.
    """
    epoch, part = divmod(step, steps_per_epoch(count, batch_size))
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order[part * batch_size : (part + 1) * batch_size]


def steps_per_epoch(count: int, batch_size: int) -> int:
    """ceil(count / batch_size)."""
    return -(-count // batch_size)


def pack_step(sequences: Sequence[Packable], tokens_per_microbatch: int, device: torch.device) -> list[Batch]:
    """The micro-batches of one step."""
    plan = microbatches([len(sequence.tokens) for sequence in sequences], tokens_per_microbatch)
    return [pack([sequences[i] for i in part], device) for part in plan]


def nll_step(learner: Learner, batches: Sequence[Batch], lr: float) -> Metrics:
    """One optimizer step on the likelihood of the batches' labels: "loss/nll", "grad_norm", "lr".

    Raises FloatingPointError if its gradient is not finite.
    """
    num_tokens = sum(batch.labels_N.numel() for batch in batches)

    def loss(logprobs_N: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        del batch
        return nll_loss(logprobs_N, num_tokens)

    return _step(learner, batches, loss, "loss/nll", lr)


class DistillationLearner(LocalLearner):
    """`LocalLearner` whose losses see KL(student || teacher) [N] at a batch's labels in place of log-probs.

    The teacher has the student's tokenizer and may have another size; its weights stay as they are.
    """

    def __init__(
        self, student: Decoder, teacher: Decoder, tokenizer: PreTrainedTokenizerBase, optim: OptimConfig,
        *, temperature: float = 1.0, memory: MemoryConfig = ALL_IN_PLACE, adapters: Adapters | None = None,
        stops: Sequence[int] = (),
    ) -> None:  # fmt: skip
        super().__init__(
            student, tokenizer, optim, temperature=temperature, memory=memory, adapters=adapters, stops=stops
        )
        self.teacher = teacher
        teacher.requires_grad_(False)

    def forward_backward(self, batch: Batch, loss: Loss) -> dict[str, Tensor]:
        hidden_ND = _hidden(self.model, batch)
        with torch.no_grad():
            teacher_hidden_NE = _hidden(self.teacher, batch)
        # Models of one family pad the rows of their vocabulary to different numbers.
        rows = min(len(self.model.lm_head), len(self.teacher.lm_head))
        # The head's gradient adds up over the chunks in fp32; each product is in the model's type.
        student, teacher = self.model.unembed.first(rows).master(), self.teacher.unembed.first(rows)
        kl_N = reverse_kl_of_hidden(hidden_ND, student, teacher_hidden_NE, teacher, self.temperature)
        value, metrics = loss(kl_N, batch)
        value.backward()
        return metrics


def _hidden(model: Decoder, batch: Batch) -> Tensor:
    """Hidden states [N, D] that predict the batch's labels. A token beyond the model's vocabulary is its last one."""
    attention = PackedAttention(batch.lengths, batch.tokens_T.device)
    tokens_T = batch.tokens_T.clamp(max=model.config.vocab_size - 1)
    return model(tokens_T, attention.positions_T, attention)[batch.predict_N]


def distillation_step(learner: DistillationLearner, batches: Sequence[Batch], lr: float) -> Metrics:
    """One optimizer step towards the teacher: "kl/teacher" (nats per token), "grad_norm", "lr".

    Raises FloatingPointError if its gradient is not finite.
    """
    num_tokens = sum(batch.labels_N.numel() for batch in batches)

    def loss(kl_N: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        del batch
        value = kl_N.sum() / max(num_tokens, 1)
        return value, {"kl/teacher": value.detach()}

    return _step(learner, batches, loss, "kl/teacher", lr)


def _step(learner: Learner, batches: Sequence[Batch], loss: Loss, metric: str, lr: float) -> Metrics:
    value = sum(learner.forward_backward(batch, loss)[metric].item() for batch in batches)
    return {metric: value, "grad_norm": learner.optim_step(lr), "lr": lr}
