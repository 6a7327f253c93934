"""The learner of one process: packed forward and backward, chunked log-probs, fp32 master weights, AdamW.

The model computes in bf16 (or fp32) and is the very module that the local sampler reads, so the two sides cannot drift
apart. Shapes: T packed tokens, N completion tokens, D width, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from r1kit.algo.packing import Batch
from r1kit.config import MemoryConfig, OptimConfig
from r1kit.model.hf import load_model, save_model
from r1kit.model.lora import Adapters
from r1kit.model.transformer import Decoder, PackedAttention
from r1kit.model.unembed import Unembed
from r1kit.training.base import Loss
from r1kit.training.checkpoint import LEARNER
from r1kit.training.memory import WaitingModel, checkpoint_blocks, make_optimizer, offload_device, waits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 4096  # completion tokens whose logits exist at a time
ADAPTER = "adapter"  # a folder of its own: what loads a model folder reads every .safetensors beside config.json
ALL_IN_PLACE = MemoryConfig()
_BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


class _ChunkedLogprobs(torch.autograd.Function):
    """log softmax(logits / temperature)[label] and the entropy, never holding more than CHUNK x V logits."""

    @staticmethod
    def forward(ctx, hidden_ND, labels_N, temperature, weight_VD, bias_V, scale, cap):  # noqa: ANN001, ANN205
        unembed = Unembed(weight_VD, bias_V, scale, cap)
        logprobs, entropies, lses = [], [], []
        for hidden, labels in zip(hidden_ND.split(CHUNK), labels_N.split(CHUNK), strict=True):
            logits = unembed(hidden) / temperature
            lse = logits.logsumexp(-1)
            logprobs.append(logits.gather(-1, labels[:, None]).squeeze(-1) - lse)
            lses.append(lse)
            entropies.append(lse - (logits.sub(lse[:, None]).exp() * logits).sum(-1))
        lse_N, entropy_N = torch.cat(lses), torch.cat(entropies)
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, labels_N, lse_N)
        ctx.temperature, ctx.scale, ctx.cap = temperature, scale, cap
        ctx.mark_non_differentiable(entropy_N)
        return torch.cat(logprobs), entropy_N

    @staticmethod
    def backward(ctx, *grads):  # noqa: ANN001, ANN205
        hidden_ND, weight_VD, bias_V, labels_N, lse_N = ctx.saved_tensors
        unembed = Unembed(weight_VD, bias_V, ctx.scale, ctx.cap)
        grad_hidden = torch.empty_like(hidden_ND)
        grad_weight, grad_bias = (
            torch.zeros_like(of, dtype=torch.float32) if trained else None
            for of, trained in zip((weight_VD, bias_V), ctx.needs_input_grad[3:5], strict=True)
        )
        start = 0
        for hidden, labels, lse, grad in zip(
            hidden_ND.split(CHUNK), labels_N.split(CHUNK), lse_N.split(CHUNK), grads[0].split(CHUNK), strict=True
        ):
            # d logp / d logits = (onehot - softmax) / temperature
            delta = unembed(hidden)
            slope = unembed.slope(delta)
            delta.div_(ctx.temperature).sub_(lse[:, None]).exp_()
            delta.mul_(-grad[:, None])
            delta.scatter_add_(1, labels[:, None], grad[:, None])
            delta.div_(ctx.temperature)
            if slope is not None:
                delta.mul_(slope)
            if grad_bias is not None:
                grad_bias += delta.sum(0)
            delta = delta.to(hidden.dtype)
            grad_hidden[start : start + len(hidden)] = delta @ weight_VD
            if grad_weight is not None:
                grad_weight += delta.T @ hidden
            start += len(hidden)
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight_VD.dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.to(bias_V.dtype)
        return grad_hidden, None, None, grad_weight, grad_bias, None, None


def completion_logprobs(model: Decoder, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs [N] of the batch's labels and entropies [N] of the distributions they were drawn from."""
    attention = PackedAttention(batch.lengths, batch.tokens_T.device)
    hidden_TD = model(batch.tokens_T, attention.positions_T, attention)
    if batch.labels_N.numel() == 0:
        empty = hidden_TD.sum() * torch.zeros(0, device=hidden_TD.device)
        return empty, empty.detach()
    return _ChunkedLogprobs.apply(hidden_TD[batch.predict_N], batch.labels_N, temperature, *model.unembed)  # type: ignore[return-value]


class LocalLearner:
    """`Learner` in this process, on one device. With bf16 compute, gradients and updates are kept in fp32.

    With `adapters` (of this model), they alone are trained, and the reference is the model with those that it had. A
    saved model ends its completions with `stops`, besides its own end tokens.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: PreTrainedTokenizerBase,
        optim: OptimConfig,
        *,
        temperature: float = 1.0,
        with_reference: bool = False,
        memory: MemoryConfig = ALL_IN_PLACE,
        adapters: Adapters | None = None,
        stops: Sequence[int] = (),
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.stops = stops
        self.temperature = temperature
        self.grad_clip = optim.grad_clip
        self.adapters = adapters
        self._checksum: list[int] | None = None
        self.params = list(model.parameters()) if adapters is None else list(adapters.parameters())
        # Before the policy gets its hooks: a copy must not have them.
        self.reference = _reference(model, adapters, memory) if with_reference else None
        self.mixed = self.params[0].dtype != torch.float32
        home = offload_device(memory, self.device)
        # fp32 weights that stay where they are need no second copy: they are their own masters.
        self.apart = self.mixed or home != self.device
        self.masters = self.params
        if self.apart:
            self.masters = [p.detach().to(home, torch.float32, copy=True).requires_grad_() for p in self.params]
            for param, master in zip(self.params, self.masters, strict=True):
                param.register_post_accumulate_grad_hook(lambda p, master=master: _move_grad(p, master))
        if memory.gradient_checkpointing:
            checkpoint_blocks(model)
        self.optimizer = make_optimizer(self.masters, optim, memory)

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
        if self.adapters is not None:
            self.adapters.changed()
        self.optimizer.zero_grad(set_to_none=True)
        if self.apart:
            with torch.no_grad():
                _copy(self.params, self.masters)
        return norm

    @torch.no_grad()
    def logprobs(self, batch: Batch) -> Tensor:
        return completion_logprobs(self.model, batch, self.temperature)[0]

    @torch.no_grad()
    def reference_logprobs(self, batch: Batch) -> Tensor:
        match self.reference:
            case None:
                raise AssertionError("made without with_reference")
            case WaitingModel():
                with self.reference.present() as model:
                    return completion_logprobs(model, batch, self.temperature)[0]
            case Decoder():
                return completion_logprobs(self.reference, batch, self.temperature)[0]
        now = [param.clone() for param in self.params]
        try:
            _copy(self.params, self.reference)
            return self.logprobs(batch)
        finally:
            _copy(self.params, now)

    @torch.no_grad()
    def update_reference(self) -> None:
        _copy(self._reference_weights(), self.params)

    def _reference_weights(self) -> list[Tensor]:
        match self.reference:
            case None:
                raise AssertionError("made without with_reference")
            case WaitingModel():
                return list(self.reference.model.parameters())
            case Decoder():
                return list(self.reference.parameters())
        return self.reference

    def publish(self) -> Decoder:
        """The module itself: a sampler in this process reads the weights where they are, and uses the adapters."""
        if self.adapters is not None:
            self.adapters.prepare()
        return self.model

    def save(self, folder: Path) -> None:
        """A model folder and learner.pt; with adapters, the model is the merged one, and adapter/ has PEFT's files."""
        with nullcontext() if self.adapters is None else self.adapters.merged():
            save_model(self.model, self.tokenizer, folder, stops=self.stops)
        if self.adapters is not None:
            self.adapters.save(folder / ADAPTER)
        state = {
            "masters": [m.detach() for m in self.masters] if self.mixed else None,
            "optimizer": self.optimizer.state_dict(),
            "reference": None if self.reference is None else [w.detach() for w in self._reference_weights()],
            "base": self._base_checksum(),
        }
        torch.save(state, folder / LEARNER)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        state = torch.load(folder / LEARNER, map_location="cpu", weights_only=True)
        if (state["masters"] is not None) != self.mixed:
            saved_in, now = ("fp32", "bf16") if self.mixed else ("bf16", "fp32")
            raise ValueError(
                f"{folder} was saved computing in {saved_in}, this run computes in {now}: --dtype {saved_in}"
            )
        self._load_weights(folder, state)
        if self.apart:
            _copy(self.masters, state["masters"] or self.params)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.reference is not None:
            _copy(self._reference_weights(), state["reference"])

    def _load_weights(self, folder: Path, state: dict[str, Any]) -> None:
        if self.adapters is None:
            _copy(self.params, list(self._saved_model(folder).parameters()))
            return
        if state["base"] != self._base_checksum():
            raise ValueError(
                f"{folder} has adapters for other weights than those of {self.adapters.base} now; give the --model and "
                f"--dtype that the run was begun with, or use another --run"
            )
        self.adapters.load(folder / ADAPTER)

    def _saved_model(self, folder: Path) -> Decoder:
        """A model as `model`, with the weights that `save` wrote."""
        return load_model(folder, self.params[0].dtype, self.device)

    def _base_checksum(self) -> list[int] | None:
        """A number for each of the frozen weights, that another base would not have; None where all are trained."""
        if self.adapters is None:
            return None
        if self._checksum is None:
            frozen = (p.detach() for p in self.model.parameters() if not p.requires_grad)
            self._checksum = [int(p.view(_BITS[p.dtype]).sum(dtype=torch.int64)) for p in frozen]
        return self._checksum


def _reference(
    model: Decoder, adapters: Adapters | None, memory: MemoryConfig
) -> Decoder | WaitingModel | list[Tensor]:
    """The policy as it is now: a copy of the model, or, where adapters alone are trained, of these."""
    if adapters is not None:
        return [parameter.detach().clone() for parameter in adapters.parameters()]
    frozen = copy.deepcopy(model).requires_grad_(False)
    device = model.embed.weight.device
    return WaitingModel(frozen, device) if waits(memory, device) else frozen


def _move_grad(param: Tensor, master: Tensor) -> None:
    """Add a gradient to its fp32 master at once, wherever that is, so that micro-batches add up in fp32."""
    grad = param.grad.to(master.device)  # type: ignore[union-attr]
    if master.grad is None:
        master.grad = grad.float()
    else:
        master.grad += grad
    param.grad = None


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
