"""What changes with the step: learning rate, length cap and reference policy. No torch.

`step` is the number of optimizer steps already taken, so the first step is 0.
"""

from __future__ import annotations

import math
from typing import assert_never

from r1kit.config import OptimConfig


def learning_rate(optim: OptimConfig, step: int, num_steps: int) -> float:
    """Learning rate of the optimizer step after `step` others, of `num_steps`.

    Warm-up step k (k = 1, 2, ...) uses k / warmup_steps of the peak: it climbs from 0 without wasting a step at 0.
    Then the schedule falls from the peak to `final_lr_fraction` of it, reached at the last step (R1's SFT: cosine,
    5e-5 to 5e-6). Raises ValueError for a step outside the run.
    """
    if not 0 <= step < num_steps:
        raise ValueError(f"step {step} is outside a run of {num_steps} steps; give 0 to {num_steps - 1}")
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    peak_step = max(optim.warmup_steps - 1, 0)
    progress = (step - peak_step) / max(num_steps - 1 - peak_step, 1)
    match optim.schedule:
        case "constant":
            remaining = 1.0
        case "linear":
            remaining = 1 - progress
        case "cosine":
            remaining = (1 + math.cos(math.pi * progress)) / 2
        case _:
            assert_never(optim.schedule)
    return optim.lr * (optim.final_lr_fraction + (1 - optim.final_lr_fraction) * remaining)


def length_cap(step: int, cap: int, raise_at: int, raised_cap: int) -> int:
    """Most new tokens of a completion sampled at `step` (R1-Zero: 32,768, then 65,536 from step 8,200).

    raise_at=0 never raises it.
    """
    return raised_cap if 0 < raise_at <= step else cap


def reference_is_due(step: int, every: int) -> bool:
    """Whether the reference policy becomes the current one after `step` steps (R1-Zero: every 400). every=0: never.

    Doing so twice at the same step changes nothing, so a resumed run may ask again.
    """
    return every > 0 and step > 0 and step % every == 0
