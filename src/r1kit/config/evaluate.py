"""Configs of what looks at a finished model: evaluation and chat."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from r1kit.config.common import Device, DType, SamplerKind, VllmConfig, require
from r1kit.config.source import ColumnsConfig, FilterConfig


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Score a model: `r1kit evaluate PATH`."""

    model: str = ""
    """Model folder, run folder (its last checkpoint) or Hugging Face name."""
    tasks: tuple[str, ...] = ("countdown", "remainder")
    """Tasks to score on: names of `r1kit.tasks`, Python files with `make_problem`, `reasoning_gym:NAME`, or data sets
    (a file, a folder, gsm8k, org/name)."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    system_prompt: str = ""
    """Put before prompts that have no system message. R1's own models want none (their model card)."""
    template: str = "short"
    """Prompt template: short, r1-zero or r1 (each also -prefilled), or chat or chat-prefilled (the model's own)."""
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
    unsafe_code: bool = False
    """Run model-written programs (scorer `code`) without a sandbox, where the machine offers none."""
    device: Device = "auto"
    """Where to run."""
    dtype: DType = "auto"
    """auto: bf16 where the hardware has it, else fp32."""
    out: Path | None = None
    """Folder for the results; default: evaluations/POLICY in the run, or runs/evaluations/MODEL/POLICY without one."""

    def __post_init__(self) -> None:
        require(self.num_problems > 0, f"--num-problems is {self.num_problems}; give at least 1")
        require(self.num_samples > 0, f"--num-samples is {self.num_samples}; give at least 1")
        require(len(self.tasks) > 0, "--tasks is empty; give at least one task")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(EvalConfig):
    """Score a model: `r1kit evaluate PATH`."""

    sampler: SamplerKind = "local"
    """local: r1kit's own. vllm: vLLM, for large models and for architectures that only it has."""
    vllm: VllmConfig = field(default_factory=VllmConfig)


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """Talk to a model in the terminal: `r1kit chat PATH`."""

    model: str = ""
    """Model folder, run folder (its last checkpoint), pipeline folder or Hugging Face name."""
    system_prompt: str = ""
    """System message of the conversation; empty is none. R1's own models want none (their model card)."""
    template: str = "short"
    """Prompt template: short, r1-zero or r1 (each also -prefilled), or chat or chat-prefilled (the model's own)."""
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
        require(self.temperature >= 0, f"--temperature is {self.temperature}; give 0 (greedy) or more")
        require(0 < self.top_p <= 1, f"--top-p is {self.top_p}; give a value above 0 and at most 1")
        require(self.max_new_tokens > 0, f"--max-new-tokens is {self.max_new_tokens}; give at least 1")
