"""How a learner does with less memory: checkpointed blocks, 8-bit moments, weights that wait in CPU memory.

None of it changes a loss or, 8-bit moments apart, an update. docs/lora.md has the bytes per parameter of each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, assert_never

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from r1kit.config import MemoryConfig, OptimConfig

if TYPE_CHECKING:
    from r1kit.model.transformer import Decoder


def make_optimizer(masters: Sequence[Tensor], optim: OptimConfig, memory: MemoryConfig) -> torch.optim.Optimizer:
    """AdamW on the fp32 weights, weight decay on matrices only, with its moments in fp32 or in 8 bits.

    8-bit moments (arXiv 2110.02861) are bitsandbytes': a scale for every 256 weights; tensors of fewer than 4,096
    weights keep theirs in fp32. Raises ModuleNotFoundError, with the install command, without it.
    """
    groups: list[dict[str, Any]] = [
        {"params": [m for m in masters if m.dim() >= 2], "weight_decay": optim.weight_decay},
        {"params": [m for m in masters if m.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    match memory.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=1e-8, fused=True)
        case "adamw8bit":
            return _bitsandbytes(memory).AdamW8bit(groups, lr=optim.lr, betas=optim.betas, eps=1e-8)
        case "paged-adamw8bit":
            if masters[0].device.type == "cpu":
                note("--memory.optimizer paged-adamw8bit: pages are CUDA's; on the CPU it is adamw8bit")
                return _bitsandbytes(memory).AdamW8bit(groups, lr=optim.lr, betas=optim.betas, eps=1e-8)
            return _bitsandbytes(memory).PagedAdamW8bit(groups, lr=optim.lr, betas=optim.betas, eps=1e-8)
        case _:
            assert_never(memory.optimizer)


def _bitsandbytes(memory: MemoryConfig) -> Any:
    try:
        from bitsandbytes import optim  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"--memory.optimizer {memory.optimizer} needs bitsandbytes: pip install 'r1kit[memory]', or give "
            f"--memory.optimizer adamw"
        ) from error
    return optim


def offload_device(memory: MemoryConfig, device: torch.device) -> torch.device:
    """Where fp32 weights, gradients and moments are: CPU memory with `offload_optimizer`, else the model's device."""
    if memory.offload_optimizer and device.type == "cpu":
        note("--memory.offload-optimizer does nothing here: the model is in CPU memory already")
    return torch.device("cpu") if memory.offload_optimizer else device


def waits(memory: MemoryConfig, device: torch.device) -> bool:
    """Whether the reference policy is to wait in CPU memory."""
    if memory.offload_reference and device.type == "cpu":
        note("--memory.offload-reference does nothing here: the reference is in CPU memory already")
        return False
    return memory.offload_reference


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a decoder, ours or transformers': its longest list of modules."""
    return list(max((module for module in model.modules() if isinstance(module, nn.ModuleList)), key=len))


def checkpoint_blocks(model: nn.Module) -> None:
    """From now on each block keeps only its input for the gradient, and its forward pass is made again there."""
    for block in blocks_of(model):
        block.forward = partial(_checkpointed, block.forward)


def _checkpointed(forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **named)
    # Nothing in a block is random, so there is no generator's state to keep.
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **named)


class WaitingModel:
    """A frozen decoder whose weights wait in CPU memory; each block is on `device` for its own forward pass only."""

    def __init__(self, model: Decoder, device: torch.device) -> None:
        self.model, self.device = model.to("cpu"), device
        self._at_home: dict[nn.Parameter, Tensor] = {}
        if device.type == "cuda":  # from pinned memory, a copy neither stops the CPU nor goes through a buffer
            for parameter in model.parameters():
                parameter.data = parameter.data.pin_memory()
        blocks = blocks_of(model)
        inside = {parameter for block in blocks for parameter in block.parameters()}
        self._outside = [parameter for parameter in model.parameters() if parameter not in inside]
        for block in blocks:
            block.register_forward_pre_hook(lambda block, _: self._bring(block.parameters()))
            block.register_forward_hook(lambda block, *_: self._return(block.parameters()))

    @contextmanager
    def present(self) -> Iterator[Decoder]:
        """The model, ready to run: embeddings, last norm and head are on the device while this is open."""
        self._bring(self._outside)
        try:
            yield self.model
        finally:
            self._return(list(self._at_home))

    def _bring(self, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            self._at_home[parameter] = parameter.data
            parameter.data = parameter.data.to(self.device, non_blocking=True, copy=True)

    def _return(self, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            parameter.data = self._at_home.pop(parameter)


@cache
def note(text: str) -> None:
    """A warning on stderr, once."""
    print(f"warning: {text}", file=sys.stderr)
