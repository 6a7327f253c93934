"""Typed, frozen configs. A config checks itself when it is made, before any compute, and is saved in the run folder.

The string under a field is its documentation and its `--help`. No torch here.
"""

from __future__ import annotations

import dataclasses
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "bf16", "fp32"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and the learning-rate schedule."""

    lr: float = 3e-6
    """Peak learning rate. The paper's R1-Zero: 3e-6."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's betas (the paper does not state them; ours)."""
    weight_decay: float = 0.0
    """Decoupled weight decay on matrices (not stated by the paper; ours)."""
    grad_clip: float = 1.0
    """Largest global gradient norm (not stated by the paper; ours)."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Shape of the decay after warm-up."""
    warmup_steps: int = 0
    """Steps of linear warm-up from 0."""
    final_lr_fraction: float = 0.1
    """Learning rate at the last step, as a fraction of the peak (linear and cosine)."""

    def __post_init__(self) -> None:
        _require(self.lr >= 0, f"--optim.lr is {self.lr}; give 0 or more")
        _require(self.grad_clip > 0, f"--optim.grad-clip is {self.grad_clip}; give a value above 0")
        _require(self.warmup_steps >= 0, f"--optim.warmup-steps is {self.warmup_steps}; give 0 or more")
        _require(
            0 <= self.final_lr_fraction <= 1,
            f"--optim.final-lr-fraction is {self.final_lr_fraction}; give a value from 0 to 1",
        )


@dataclass(frozen=True, kw_only=True)
class AlgoConfig:
    """GRPO (DeepSeekMath eq. 3, R1 eq. 1-3) and its variants, each a change of one number or word.

    `r1kit.presets.ALGOS` has them by name: grpo, dr-grpo, dapo, gspo.
    """

    advantage: Literal["group-std", "group-mean"] = "group-std"
    """group-std: (r - mean) / std of the group (GRPO). group-mean: r - mean (Dr.GRPO)."""
    ratio: Literal["token", "sequence"] = "token"
    """Importance ratio per token (DeepSeekMath eq. 3) or per sequence, length-normalised (GSPO eq. 7)."""
    aggregation: Literal["sequence", "token", "constant"] = "sequence"
    """sequence: mean over a completion's tokens, then over completions (GRPO). token: mean over all tokens of the step
    (DAPO). constant: sum over tokens divided by completions x the length cap (Dr.GRPO)."""
    clip_low: float = 0.2
    """Ratios below 1 - clip_low are clipped (the paper does not state epsilon for R1-Zero; 0.2 is PPO's)."""
    clip_high: float = 0.2
    """Ratios above 1 + clip_high are clipped. DAPO's clip-higher: 0.28. R1's RL stage 1: 10."""
    kl_coef: float = 0.001
    """Weight of the k3 KL to the reference policy. The paper's R1-Zero: 0.001. 0 needs no reference."""
    reference_every: int = 400
    """The reference becomes the current policy every N steps (paper: 400). 0 keeps the first one."""
    dynamic_sampling: int = 0
    """DAPO: sample up to N more rounds of problems to replace groups whose rewards are all equal. 0 keeps them."""
    overlong_buffer: int = 0
    """DAPO eq. 13: the last N tokens under the length cap cost up to `overlong_penalty`, linearly. 0 is off."""
    overlong_penalty: float = 1.0
    """Reward taken from a completion that reaches the cap, when overlong_buffer > 0."""
    mask_truncated: bool = False
    """Leave completions that hit the length cap out of the loss (DAPO's overlong filtering)."""
    truncated_is: float = 0.0
    """Weigh each token by min(pi_learner / pi_sampler, C), against sampler/learner mismatch. 0 is off; 2 is usual."""

    def __post_init__(self) -> None:
        _require(self.clip_low >= 0, f"--algo.clip-low is {self.clip_low}; give 0 or more")
        _require(self.clip_high >= 0, f"--algo.clip-high is {self.clip_high}; give 0 or more")
        _require(self.kl_coef >= 0, f"--algo.kl-coef is {self.kl_coef}; give 0 or more")
        _require(self.reference_every >= 0, f"--algo.reference-every is {self.reference_every}; give 0 or more")
        _require(self.dynamic_sampling >= 0, f"--algo.dynamic-sampling is {self.dynamic_sampling}; give 0 or more")
        _require(self.overlong_buffer >= 0, f"--algo.overlong-buffer is {self.overlong_buffer}; give 0 or more")
        _require(self.truncated_is >= 0, f"--algo.truncated-is is {self.truncated_is}; give 0 (off) or a cap above 0")


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Reward = accuracy_weight x accuracy + format_weight x format (R1 section 2.2: equal weights)."""

    accuracy_weight: float = 1.0
    """Weight of the accuracy reward (1 for a right answer, else 0)."""
    format_weight: float = 1.0
    """Weight of the format reward (1 for <think>...</think> then <answer>...</answer>, else 0)."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Score a model: `r1kit evaluate PATH`."""

    model: str = ""
    """Model folder, run folder (its last checkpoint) or Hugging Face name."""
    tasks: tuple[str, ...] = ("countdown", "remainder")
    """Tasks to score on: names of `r1kit.tasks`, `reasoning_gym:NAME`, or a path to a .jsonl file."""
    template: str = "short"
    """Prompt template: short, short-prefilled, r1-zero, r1-zero-prefilled, or chat (the model's own)."""
    split: Literal["train", "heldout"] = "heldout"
    """Which problems. Train and held-out never overlap."""
    num_problems: int = 128
    """Problems per task."""
    num_samples: int = 16
    """Completions per problem (k): pass@1 is their mean, cons@k their majority."""
    temperature: float = 1.0
    """Sampling temperature; 0 is greedy, and then one sample is enough."""
    top_p: float = 1.0
    """Nucleus sampling threshold."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    max_new_tokens: int = 512
    """Length cap per completion, tokens."""
    seed: int = 1234
    """Seed of the problems and of the sampling."""
    rows: int = 256
    """Completions decoded at a time."""
    device: Device = "auto"
    """Where to run."""
    dtype: DType = "auto"
    """auto: bf16 where the hardware has it, else fp32."""
    out: Path | None = None
    """Folder for the results; default: evaluations/POLICY in the run, or runs/evaluations/MODEL/POLICY without one."""

    def __post_init__(self) -> None:
        _require(self.num_problems > 0, f"--num-problems is {self.num_problems}; give at least 1")
        _require(self.num_samples > 0, f"--num-samples is {self.num_samples}; give at least 1")
        _require(len(self.tasks) > 0, "--tasks is empty; give at least one task")


@dataclass(frozen=True, kw_only=True)
class RLConfig:
    """R1-Zero: pure RL on a base model with GRPO: `r1kit rl PRESET`."""

    run: Path = Path("runs/zero")
    """Run folder. The same command with the same folder resumes."""
    model: str = "demo-base"
    """Base model: a folder, a Hugging Face name, or demo-base (shipped with r1kit)."""
    tasks: tuple[str, ...] = ("countdown", "remainder")
    """Training tasks, mixed evenly."""
    template: str = "short"
    """Prompt template: short, short-prefilled, r1-zero, r1-zero-prefilled, or chat (the model's own)."""
    seed: int = 0
    """Everything random is a function of (seed, step)."""
    steps: int = 100
    """Optimizer steps."""
    problems_per_step: int = 32
    """Problems in each optimizer step (paper: 32)."""
    group_size: int = 16
    """Completions per problem, G (paper: 16)."""
    minibatches: int = 1
    """Optimizer steps that one rollout is split into (paper: 16, so that 8,192 outputs make 16 batches of 512)."""
    inner_epochs: int = 1
    """Passes over each rollout (paper: 1)."""
    temperature: float = 1.0
    """Rollout temperature (paper: 1.0)."""
    top_p: float = 1.0
    """Rollout nucleus threshold; below 1 biases the gradient."""
    top_k: int = 0
    """Rollout top-k; 0 keeps the whole vocabulary."""
    max_new_tokens: int = 512
    """Length cap, tokens (paper: 32,768)."""
    raise_cap_at: int = 0
    """Step at which the cap becomes `raised_cap` (paper: 8,200). 0 is never."""
    raised_cap: int = 0
    """The later cap (paper: 65,536)."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    algo: AlgoConfig = field(default_factory=AlgoConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Held-out evaluation before the first step, every `eval_every` steps and after the last; its model, tasks and
    template are this run's."""
    eval_every: int = 20
    """Steps between evaluations; 0 is never."""
    save_every: int = 20
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Checkpoints kept; older ones are deleted."""
    tokens_per_microbatch: int = 16384
    """Tokens in one forward/backward pass. Changes speed and memory, not the gradient."""
    rows: int = 256
    """Completions decoded at a time by the local sampler."""
    device: Device = "auto"
    """Where to run."""
    dtype: DType = "auto"
    """Compute type; master weights and optimizer state are always fp32. auto: bf16 where the hardware has it."""
    stop_after: int = 0
    """Stop after this step as if interrupted (the schedule is unchanged); 0 runs to the end."""

    def __post_init__(self) -> None:
        for name in ("steps", "problems_per_step", "minibatches", "inner_epochs", "save_every", "keep_checkpoints"):
            value = getattr(self, name)
            _require(value > 0, f"--{name.replace('_', '-')} is {value}; give at least 1")
        _require(self.group_size > 1, f"--group-size is {self.group_size}; GRPO compares completions, give at least 2")
        _require(len(self.tasks) > 0, "--tasks is empty; give at least one task")
        _require(
            self.steps % self.steps_per_rollout == 0,
            f"--steps {self.steps} must be a multiple of --minibatches x --inner-epochs = {self.steps_per_rollout}",
        )
        for name in ("save_every", "eval_every", "raise_cap_at"):
            value = getattr(self, name)
            _require(
                value % self.steps_per_rollout == 0,
                f"--{name.replace('_', '-')} {value} must be a multiple of --minibatches x --inner-epochs = "
                f"{self.steps_per_rollout}, because checkpoints fall between rollouts",
            )
        _require(
            not self.raise_cap_at or self.raised_cap > self.max_new_tokens,
            f"--raised-cap {self.raised_cap} must be above --max-new-tokens {self.max_new_tokens} "
            f"when --raise-cap-at is set",
        )
        _require(
            self.algo.overlong_buffer < self.max_new_tokens,
            f"--algo.overlong-buffer {self.algo.overlong_buffer} must be below --max-new-tokens {self.max_new_tokens}",
        )

    @property
    def steps_per_rollout(self) -> int:
        return self.minibatches * self.inner_epochs


@dataclass(frozen=True, kw_only=True)
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
        _require(
            self.hidden % self.heads == 0,
            f"--shape.hidden {self.hidden} must be a multiple of --shape.heads {self.heads}",
        )
        _require(
            self.heads % self.kv_heads == 0,
            f"--shape.heads {self.heads} must be a multiple of --shape.kv-heads {self.kv_heads}",
        )


@dataclass(frozen=True, kw_only=True)
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
    stop_after: int = 0
    """Stop after this step as if interrupted (the schedule is unchanged); 0 runs to the end."""

    def __post_init__(self) -> None:
        for name in ("steps", "tokens_per_step", "save_every", "keep_checkpoints"):
            value = getattr(self, name)
            _require(value > 0, f"--{name.replace('_', '-')} is {value}; give at least 1")


def to_dict(config: Any) -> dict[str, Any]:
    """A config as JSON values (paths as strings, tuples as lists)."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    return plain(config)


def from_dict(cls: type[T], data: dict[str, Any]) -> T:
    """Rebuild a config from config.json. Raises ValueError for an unknown field."""
    hints = get_type_hints(cls)
    if unknown := data.keys() - hints.keys():
        raise ValueError(f"{cls.__name__} has no field {sorted(unknown)}; fields are {sorted(hints)}")
    return cls(**{name: _coerce(hints[name], value) for name, value in data.items()})


def _coerce(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value)
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        return _coerce(next(arg for arg in get_args(hint) if arg is not type(None)), value)
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        return tuple(_coerce(inner, item) for item in value)
    return Path(value) if hint is Path else value


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """Talk to a model in the terminal: `r1kit chat PATH`."""

    model: str = ""
    """Model folder, run folder (its last checkpoint), pipeline folder or Hugging Face name."""
    template: str = "short"
    """Prompt template: short, short-prefilled, r1-zero, r1-zero-prefilled, or chat (the model's own)."""
    temperature: float = 0.6
    """Sampling temperature (DeepSeek-R1's model card: 0.5 to 0.7); 0 is greedy."""
    top_p: float = 0.95
    """Nucleus sampling threshold (DeepSeek-R1's model card: 0.95)."""
    max_new_tokens: int = 512
    """Length cap per answer, tokens."""
    seed: int = 0
    """Seed of the sampling."""
    device: Device = "auto"
    """Where to run."""
    dtype: DType = "auto"
    """auto: bf16 where the hardware has it, else fp32."""

    def __post_init__(self) -> None:
        _require(self.temperature >= 0, f"--temperature is {self.temperature}; give 0 (greedy) or more")
        _require(0 < self.top_p <= 1, f"--top-p is {self.top_p}; give a value above 0 and at most 1")
        _require(self.max_new_tokens > 0, f"--max-new-tokens is {self.max_new_tokens}; give at least 1")
