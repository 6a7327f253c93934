"""Configs of supervised stages: fine-tuning, reward models, distillation."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Literal

from r1kit.config.checked import config
from r1kit.config.common import Device, DType, LoraConfig, MemoryConfig, OptimConfig, TrackerName, require
from r1kit.config.data import RejectConfig
from r1kit.config.evaluate import EvalConfig
from r1kit.config.source import ColumnsConfig, FilterConfig


@config
class SFTConfig:
    """Supervised fine-tuning on conversations: `r1kit sft PRESET` (R1 V2 B.4.2, B.4.3)."""

    run: Path = Path("runs/sft")
    """Run folder. The same command with the same folder resumes."""
    model: str = "demo-base"
    """Model to start from."""
    data: tuple[str, ...] = ()
    """Conversations: files, folders, names on the Hugging Face hub, or run folders of `r1kit reject`."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    system_prompt: str = ""
    """Put before conversations that have no system message. R1's own models want none (their model card)."""
    turns: Literal["all", "last"] = "all"
    """Which of the assistant's turns are learnt. all: each, after what the model sees when it says it."""
    template: str = "short"
    """Prompt template: short, r1-zero or r1 (each also -prefilled), or chat or chat-prefilled (the model's own)."""
    seed: int = 0
    """Order of the data in each epoch."""
    epochs: int = 2
    """Passes over the data (R1: 2 to 3)."""
    batch_size: int = 128
    """Conversations in each optimizer step (R1: 128; its students: 64)."""
    max_tokens: int = 32_768
    """Longest conversation, tokens (R1: 32,768); longer ones are dropped and counted."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-5, schedule="cosine", final_lr_fraction=0.1))
    """R1: cosine from 5e-5 to 5e-6."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Held-out evaluation; its model and template are this run's."""
    eval_every: int = 0
    """Steps between evaluations, and one after the last; 0 is never."""
    heldout_data: tuple[str, ...] = ()
    """Conversations whose loss is measured and that are not trained on; sources as for `data`."""
    heldout_share: float = 0.0
    """Share of the prompts of `data` kept for the held-out loss as well; chosen by the prompt's content."""
    heldout_every: int = 100
    """Steps between measurements of the held-out loss, and one before the first and after the last step."""
    save_every: int = 100
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 1
    """Checkpoints kept; older ones are deleted."""
    tokens_per_microbatch: int = 16_384
    """Tokens in one forward/backward pass. Changes speed and memory, not the gradient."""
    device: Device = "auto"
    """Where to run."""
    dtype: DType = "auto"
    """Compute type; master weights and optimizer state are always fp32. auto: bf16 where the hardware has it."""
    track: tuple[TrackerName, ...] = ()
    """Also show the rows of metrics.jsonl in these: tensorboard, wandb, trackio (docs/trackers.md)."""
    push_to_hub: str = ""
    """When the run is done, put its model on the Hugging Face hub as this, ORG/NAME, private where it is new."""
    stop_after: int = 0
    """Stop after this step as if interrupted (the schedule is unchanged); 0 runs to the end."""

    def __post_init__(self) -> None:
        counts = ("epochs", "batch_size", "max_tokens", "heldout_every", "save_every", "keep_checkpoints")
        for name in (*counts, "tokens_per_microbatch"):
            value = getattr(self, name)
            require(value > 0, f"--{name.replace('_', '-')} is {value}; give at least 1")
        for name in ("eval_every", "stop_after"):
            value = getattr(self, name)
            require(value >= 0, f"--{name.replace('_', '-')} is {value}; give 0 or more")
        require(0 <= self.heldout_share < 1, f"--heldout-share is {self.heldout_share}; give a share from 0, below 1")


@config
class RewardModelConfig:
    """Train a reward model, the policy's backbone with a scalar head: `r1kit reward-model PRESET` (R1 V2 3.1)."""

    run: Path = Path("runs/reward-model")
    """Run folder. The same command with the same folder resumes."""
    kind: Literal["helpful", "safety"] = "helpful"
    """helpful: pairwise loss, reads the response without its thought. safety: point-wise loss, reads all of it."""
    model: str = "demo-base"
    """Model whose weights the backbone starts from."""
    data: tuple[str, ...] = ()
    """Files, folders or hub names (helpful: prompt or messages, chosen, rejected; safety: prompt or messages, response,
    safe), or run folders of `r1kit preferences`."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    template: str = "short"
    """Prompt template: short, r1-zero or r1 (each also -prefilled), or chat or chat-prefilled (the model's own)."""
    heldout_share: float = 0.1
    """Share of the prompts kept for the accuracy that is reported; chosen by the prompt's content."""
    seed: int = 0
    """Order of the data, and the head's first weights."""
    epochs: int = 1
    """Passes over the data (R1 V2 3.1: 1)."""
    batch_size: int = 256
    """Pairs or responses in each optimizer step (R1 V2 3.1: 256)."""
    max_tokens: int = 8192
    """Longest prompt with response, tokens; longer ones are dropped and counted."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=6e-6))
    """R1 V2 3.1: learning rate 6e-6."""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    save_every: int = 100
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 1
    """Checkpoints kept; older ones are deleted."""
    tokens_per_microbatch: int = 16_384
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
        for name in ("epochs", "batch_size", "max_tokens", "save_every", "keep_checkpoints", "tokens_per_microbatch"):
            value = getattr(self, name)
            require(value > 0, f"--{name.replace('_', '-')} is {value}; give at least 1")
        require(self.stop_after >= 0, f"--stop-after is {self.stop_after}; give 0 or more")
        require(0 < self.heldout_share < 1, f"--heldout-share is {self.heldout_share}; give a share between 0 and 1")


@config
class OnPolicyConfig:
    """On-policy distillation: the student samples, the teacher corrects every token (reverse KL)."""

    tasks: tuple[str, ...] = ("countdown", "remainder")
    """Tasks whose training problems the student answers."""
    steps: int = 40
    """Optimizer steps."""
    problems_per_step: int = 32
    """Problems in each optimizer step."""
    group_size: int = 4
    """Completions per problem."""
    max_new_tokens: int = 512
    """Length cap, tokens."""
    temperature: float = 1.0
    """Sampling temperature, and that of both distributions."""

    def __post_init__(self) -> None:
        require(len(self.tasks) > 0, "--on-policy.tasks is empty; give at least one task")
        for name in ("steps", "problems_per_step", "group_size", "max_new_tokens"):
            value = getattr(self, name)
            require(value > 0, f"--on-policy.{name.replace('_', '-')} is {value}; give at least 1")
        require(
            self.temperature > 0,
            f"--on-policy.temperature is {self.temperature}; give a value above 0: a greedy student samples the same "
            f"completion again and again",
        )


@config
class DistillConfig:
    """Make a student of a teacher: `r1kit distill PRESET` (R1 V1 2.4, V2 B.4.3).

    sft: fine-tune on the teacher's curated samples (`--sft.data`, or sampled here from `--teacher`). on-policy: reverse
    KL on the student's own samples; teacher and student share a tokenizer.
    """

    run: Path = Path("runs/distill")
    """Run folder: samples/ (the teacher's), student/ (the trained student)."""
    method: Literal["sft", "on-policy"] = "sft"
    """How the student learns."""
    teacher: str = ""
    """The teacher's model: folder, run folder or Hugging Face name. Not needed where `--sft.data` is given."""
    samples: RejectConfig = field(default_factory=RejectConfig)
    """How the teacher is sampled; its model and run are set here."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """The student's base, training and evaluation; its run is set here."""
    on_policy: OnPolicyConfig = field(default_factory=OnPolicyConfig)
    """Only for on-policy: what the student answers, and how long. Optimizer, saving and evaluation are `--sft`'s."""

    def __post_init__(self) -> None:
        require(
            bool(self.teacher) or (self.method == "sft" and bool(self.sft.data)),
            "--teacher is empty; name the teacher's model, or give its samples with --sft.data",
        )
