"""Config of pretraining."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path

from r1kit.config.checked import config
from r1kit.config.common import Device, DType, OptimConfig, TrackerName, require
from r1kit.config.evaluate import EvalConfig


@config
class ModelShape:
    """Shape of a decoder made from scratch (Qwen2's architecture)."""

    hidden: int = 256
    """Model width."""
    layers: int = 4
    """Decoder blocks."""
    heads: int = 8
    """Query heads."""
    kv_heads: int = 2
    """Key/value heads."""
    mlp: int = 640
    """Width of the SwiGLU's middle."""
    context: int = 2048
    """Longest sequence, tokens."""

    def __post_init__(self) -> None:
        require(
            self.hidden % self.heads == 0,
            f"--shape.hidden {self.hidden} must be a multiple of --shape.heads {self.heads}",
        )
        require(
            self.heads % self.kv_heads == 0,
            f"--shape.heads {self.heads} must be a multiple of --shape.kv-heads {self.kv_heads}",
        )


@config
class PretrainConfig:
    """Make a base model from scratch on the generated bilingual corpus: `r1kit pretrain PRESET`."""

    run: Path = Path("runs/pretrain")
    """Run folder. The same command with the same folder resumes."""
    seed: int = 0
    """Seed of the weights and of the corpus."""
    shape: ModelShape = field(default_factory=ModelShape)
    steps: int = 2000
    """Optimizer steps."""
    tokens_per_step: int = 16384
    """Tokens in each optimizer step."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=2e-3, weight_decay=0.1, schedule="cosine", warmup_steps=100, final_lr_fraction=0.05
        )
    )
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Held-out evaluation after the last step; its model is this run's."""
    eval_every: int = 0
    """Steps between evaluations; 0 is only after the last step."""
    save_every: int = 200
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Checkpoints kept; older ones are deleted."""
    tokens_per_microbatch: int = 16384
    """Tokens in one forward/backward pass. Changes speed and memory, not the gradient."""
    device: Device = "auto"
    """Where to run."""
    dtype: DType = "auto"
    """Compute type; master weights and optimizer state are always fp32. auto: bf16 where the hardware has it."""
    track: tuple[TrackerName, ...] = ()
    """Also show the rows of metrics.jsonl in these: tensorboard, wandb, trackio (docs/trackers.md)."""
    stop_after: int = 0
    """Stop after this step as if interrupted (the schedule is unchanged); 0 runs to the end."""

    def __post_init__(self) -> None:
        for name in ("steps", "tokens_per_step", "save_every", "keep_checkpoints", "tokens_per_microbatch"):
            value = getattr(self, name)
            require(value > 0, f"--{name.replace('_', '-')} is {value}; give at least 1")
        for name in ("eval_every", "stop_after"):
            value = getattr(self, name)
            require(value >= 0, f"--{name.replace('_', '-')} is {value}; give 0 or more")
