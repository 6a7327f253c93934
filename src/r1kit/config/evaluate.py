"""Configs of what looks at a finished model: evaluation and chat."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Literal

from r1kit.config.checked import config
from r1kit.config.common import Device, DType, SamplerKind, VllmConfig, require
from r1kit.config.source import ColumnsConfig, FilterConfig

AnswerForm = Literal["r1-zero", "r1", "free"]
"""`RewardConfig.format`: r1-zero and r1 read the answer alike, from its tags or a box after the thought."""
GivenForm = Literal["", "r1-zero", "r1", "free"]
"""The same as a setting; empty where it follows from the model (`training.trained`)."""


def require_sampling(temperature: float, top_p: float, max_new_tokens: int, top_k: int = 0) -> None:
    """ValueError for settings that nothing can be sampled with."""
    require(temperature >= 0, f"--temperature is {temperature}; give 0 (greedy) or more")
    require(0 < top_p <= 1, f"--top-p is {top_p}; give a value above 0 and at most 1")
    require(top_k >= 0, f"--top-k is {top_k}; give 0 (the whole vocabulary) or more")
    require(max_new_tokens > 0, f"--max-new-tokens is {max_new_tokens}; give at least 1")


@config
class EvalConfig:
    """Score a model, while it is trained or as a stage of a recipe."""

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
        require(self.rows > 0, f"--rows is {self.rows}; give at least 1")
        require(len(self.tasks) > 0, "--tasks is empty; give at least one task")
        require_sampling(self.temperature, self.top_p, self.max_new_tokens, self.top_k)


@config
class EvaluateConfig(EvalConfig):
    """Score a model: `r1kit evaluate PATH`."""

    system_prompt: str = ""
    """Put before prompts that have no system message; empty: the run's own, where PATH is of a run. R1's own models
    want none (their model card)."""
    template: str = ""
    """Prompt template: short, r1-zero or r1 (each also -prefilled), or chat or chat-prefilled (the model's own). Empty:
    the run's own, where PATH is of a run, else short."""
    format: GivenForm = ""
    """Form that answers are read in, as --reward.format: r1-zero and r1 want it in <answer> tags or boxed after the
    thought, free takes the one that the response states. Empty: the run's --reward.format, where PATH is of such a run,
    else free with the model's own template (chat) and r1-zero with the others."""

    sampler: SamplerKind = "local"
    """local: r1kit's own. vllm: vLLM, for large models and for architectures that only it has."""
    vllm: VllmConfig = field(default_factory=VllmConfig)


@config
class ChatConfig:
    """Talk to a model in the terminal: `r1kit chat PATH`."""

    model: str = ""
    """Model folder, run folder (its last checkpoint), pipeline folder or Hugging Face name."""
    system_prompt: str = ""
    """System message of the conversation; empty: the run's own, where PATH is of a run, else none. R1's own models want
    none (their model card)."""
    template: str = ""
    """Prompt template: short, r1-zero or r1 (each also -prefilled), or chat or chat-prefilled (the model's own). Empty:
    the run's own, where PATH is of a run, else short."""
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
        require_sampling(self.temperature, self.top_p, self.max_new_tokens)
