"""The learner of one process: packed forward and backward, chunked log-probs, fp32 master weights, AdamW.

The model computes in bf16 (or fp32) and is the very module that the local sampler reads, so the two sides cannot drift
apart. Shapes: T packed tokens, N completion tokens, D width, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from r1kit.algo.packing import Batch
from r1kit.config import OptimConfig
from r1kit.model.hf import save_model
from r1kit.model.transformer import PackedAttention, Transformer
from r1kit.training.base import Loss

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 4096  # completion tokens whose logits exist at a time


class _ChunkedLogprobs(torch.autograd.Function):
    """log softmax(h W^T / temperature)[label] and the entropy, never holding more than CHUNK x V logits."""

    @staticmethod
    def forward(ctx, hidden_ND, head_VD, labels_N, temperature):  # noqa: ANN001, ANN205
        logprobs, entropies, lses = [], [], []
        for hidden, labels in zip(hidden_ND.split(CHUNK), labels_N.split(CHUNK), strict=True):
            logits = (hidden @ head_VD.T).float() / temperature
            lse = logits.logsumexp(-1)
            logprobs.append(logits.gather(-1, labels[:, None]).squeeze(-1) - lse)
            lses.append(lse)
            entropies.append(lse - (logits.sub(lse[:, None]).exp() * logits).sum(-1))
        lse_N, entropy_N = torch.cat(lses), torch.cat(entropies)
        ctx.save_for_backward(hidden_ND, head_VD, labels_N, lse_N)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_N)
        return torch.cat(logprobs), entropy_N

    @staticmethod
    def backward(ctx, *grads):  # noqa: ANN001, ANN205
        hidden_ND, head_VD, labels_N, lse_N = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden_ND)
        grad_head = torch.zeros(head_VD.shape, dtype=torch.float32, device=head_VD.device)
        start = 0
        for hidden, labels, lse, grad in zip(
            hidden_ND.split(CHUNK), labels_N.split(CHUNK), lse_N.split(CHUNK), grads[0].split(CHUNK), strict=True
        ):
            # d logp / d logits = (onehot - softmax) / temperature
            delta = ((hidden @ head_VD.T).float() / ctx.temperature).sub_(lse[:, None]).exp_()
            delta.mul_(-grad[:, None])
            delta.scatter_add_(1, labels[:, None], grad[:, None])
            delta = delta.div_(ctx.temperature).to(hidden.dtype)
            grad_hidden[start : start + len(hidden)] = delta @ head_VD
            grad_head += delta.T @ hidden
            start += len(hidden)
        return grad_hidden, grad_head.to(head_VD.dtype), None, None


def completion_logprobs(model: Transformer, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs [N] of the batch's labels and entropies [N] of the distributions they were drawn from."""
    attention = PackedAttention(batch.lengths, batch.tokens_T.device)
    hidden_TD = model(batch.tokens_T, attention.positions_T, attention)
    if batch.labels_N.numel() == 0:
        empty = hidden_TD.sum() * torch.zeros(0, device=hidden_TD.device)
        return empty, empty.detach()
    return _ChunkedLogprobs.apply(hidden_TD[batch.predict_N], model.lm_head, batch.labels_N, temperature)  # type: ignore[return-value]


class LocalLearner:
    """`Learner` in this process, on one device. With bf16 compute, gradients and updates are kept in fp32."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: PreTrainedTokenizerBase,
        optim: OptimConfig,
        *,
        temperature: float = 1.0,
        with_reference: bool = False,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.temperature = temperature
        self.grad_clip = optim.grad_clip
        self.params = list(model.parameters())
        # fp32 compute needs no second copy: the weights are their own masters.
        self.mixed = self.params[0].dtype != torch.float32
        self.masters = [p.detach().float().requires_grad_() for p in self.params] if self.mixed else self.params
        if self.mixed:
            for param, master in zip(self.params, self.masters, strict=True):
                param.register_post_accumulate_grad_hook(lambda p, master=master: _move_grad(p, master))
        groups = [
            {"params": [m for m in self.masters if m.dim() >= 2], "weight_decay": optim.weight_decay},
            {"params": [m for m in self.masters if m.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=1e-8, fused=True)
        self.reference: Transformer | None = None
        if with_reference:
            self.update_reference()

    @property
    def device(self) -> torch.device:
        return self.params[0].device

    def forward_backward(self, batch: Batch, loss: Loss) -> dict[str, Tensor]:
        logprobs_N, entropy_N = completion_logprobs(self.model, batch, self.temperature)
        value, metrics = loss(logprobs_N, batch)
        value.backward()
        return metrics | {"loss": value.detach(), "entropy": entropy_N.sum()}

    def optim_step(self, lr: float) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self.masters, self.grad_clip).item()
        if norm != norm or norm == float("inf"):
            self.optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(f"gradient norm is {norm}")
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.mixed:
            with torch.no_grad():
                _copy(self.params, self.masters)
        return norm

    @torch.no_grad()
    def logprobs(self, batch: Batch) -> Tensor:
        return completion_logprobs(self.model, batch, self.temperature)[0]

    @torch.no_grad()
    def reference_logprobs(self, batch: Batch) -> Tensor:
        assert self.reference is not None, "made without with_reference"
        return completion_logprobs(self.reference, batch, self.temperature)[0]

    @torch.no_grad()
    def update_reference(self) -> None:
        if self.reference is None:
            # The hooks that move gradients stay with the policy: copy weights, not the module with its hooks.
            self.reference = Transformer(self.model.config).to(self.params[0].dtype).to(self.device)
            self.reference.requires_grad_(False)
        _copy(list(self.reference.parameters()), self.params)

    def publish(self) -> Transformer:
        """The module itself: a sampler in this process reads the weights where they are."""
        return self.model

    def save(self, folder: Path) -> None:
        save_model(self.model, self.tokenizer, folder)
        state = {
            "masters": [m.detach() for m in self.masters] if self.mixed else None,
            "optimizer": self.optimizer.state_dict(),
            "reference": None if self.reference is None else [p.detach() for p in self.reference.parameters()],
        }
        torch.save(state, folder / "learner.pt")

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        from r1kit.model.hf import load_model

        state = torch.load(folder / "learner.pt", map_location=self.device, weights_only=True)
        if (state["masters"] is not None) != self.mixed:
            saved_in, now = ("fp32", "bf16") if self.mixed else ("bf16", "fp32")
            raise ValueError(
                f"{folder} was saved computing in {saved_in}, this run computes in {now}: --dtype {saved_in}"
            )
        saved = load_model(folder, self.params[0].dtype, self.device)
        _copy(self.params, list(saved.parameters()))
        if self.mixed:
            _copy(self.masters, state["masters"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        if self.reference is not None:
            _copy(list(self.reference.parameters()), state["reference"])


def _move_grad(param: Tensor, master: Tensor) -> None:
    """Add a bf16 gradient to its fp32 master at once, so that micro-batches add up in fp32."""
    if master.grad is None:
        master.grad = param.grad.float()  # type: ignore[union-attr]
    else:
        master.grad += param.grad  # type: ignore[operator]
    param.grad = None


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
