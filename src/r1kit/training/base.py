"""The learner's seam: anything that turns batches into better weights (this process, FSDP2, Ray actors)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from r1kit.algo.packing import Batch

Loss = Callable[[Tensor, Batch], tuple[Tensor, dict[str, Tensor]]]
"""(log-probs [N] of the batch's labels, batch) -> (scalar loss, metrics that add up over micro-batches)."""


class Learner(Protocol):
    """Holds the trained weights, the optimizer state and the reference policy."""

    @property
    def device(self) -> torch.device:
        """Where batches must be."""
        ...

    def forward_backward(self, batch: Batch, loss: Loss) -> dict[str, Tensor]:
        """Add the gradient of one micro-batch. Returns the loss's metrics, `loss` and the sum of `entropy`."""
        ...

    def optim_step(self, lr: float) -> float:
        """Clip, update, clear the gradient; returns the gradient norm before clipping. Raises FloatingPointError
        and changes nothing when the gradient is not finite."""
        ...

    def logprobs(self, batch: Batch) -> Tensor:
        """Log-probs [N] of the batch's labels under the current weights, at the training temperature."""
        ...

    def reference_logprobs(self, batch: Batch) -> Tensor:
        """The same under the reference policy."""
        ...

    def update_reference(self) -> None:
        """The reference policy becomes a copy of the current one."""
        ...

    def publish(self) -> Any:
        """The current weights, in whatever form `Sampler.load_weights` of this set-up takes."""
        ...

    def save(self, folder: Path) -> None:
        """Write a Hugging Face model folder and all that resuming needs."""
        ...

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote."""
        ...
