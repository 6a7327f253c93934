"""What several configs share: checks, compute types, the optimizer, and configs to and from JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from r1kit.config.checked import config

T = TypeVar("T")

Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "bf16", "fp32"]


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition`."""
    if not condition:
        raise ValueError(message)


@config
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
        require(self.lr >= 0, f"--optim.lr is {self.lr}; give 0 or more")
        require(self.grad_clip > 0, f"--optim.grad-clip is {self.grad_clip}; give a value above 0")
        require(self.warmup_steps >= 0, f"--optim.warmup-steps is {self.warmup_steps}; give 0 or more")
        require(
            0 <= self.final_lr_fraction <= 1,
            f"--optim.final-lr-fraction is {self.final_lr_fraction}; give a value from 0 to 1",
        )


ALL_LINEAR = "all-linear"
"""Of `LoraConfig.targets`, as in PEFT: every linear layer of the model but its head."""


@config
class LoraConfig:
    """Low-rank adapters (LoRA, arXiv 2106.09685) are trained and the model's own weights stay as they are.

    y = W x + alpha / rank * B A x, without dropout. A learning rate about ten times that of all weights suits them.
    """

    rank: int = 0
    """Rank of the adapters; 0 trains all weights, without adapters."""
    alpha: float = 32.0
    """Scale of the adapters, divided by the rank."""
    targets: tuple[str, ...] = (ALL_LINEAR,)
    """Linear layers with an adapter, by the last part of their names in Hugging Face's models, such as q_proj;
    all-linear: all but the head."""
    adapter: str = ""
    """Adapter to start from: a folder with adapter_config.json, of r1kit or PEFT; its rank, alpha and targets hold."""

    def __post_init__(self) -> None:
        require(self.rank >= 0, f"--lora.rank is {self.rank}; give 0 (all weights) or more")
        require(self.alpha > 0, f"--lora.alpha is {self.alpha}; give a value above 0")
        require(len(self.targets) > 0, "--lora.targets is empty; give at least one linear layer, such as q_proj")
        require(len(set(self.targets)) == len(self.targets), f"--lora.targets names {self.targets}; give each once")

    @property
    def on(self) -> bool:
        return self.rank > 0 or bool(self.adapter)


@config
class MemoryConfig:
    """What to trade for memory. docs/lora.md has the bytes per parameter of each choice."""

    gradient_checkpointing: bool = False
    """Keep only the input of every block and compute it again for the gradient: the same numbers, a third slower."""
    optimizer: Literal["adamw", "adamw8bit", "paged-adamw8bit"] = "adamw"
    """AdamW's two moments in fp32 (8 bytes a weight), or in 8 bits (2 bytes), or in 8 bits in pages that leave the GPU
    when it is full. 8 bits need bitsandbytes."""
    offload_optimizer: bool = False
    """Keep fp32 weights, gradients and AdamW's moments in CPU memory, and take the steps there. For CUDA."""
    offload_reference: bool = False
    """Keep the reference policy in CPU memory and bring it to the GPU block by block. For CUDA."""

    def __post_init__(self) -> None:
        require(
            not self.offload_optimizer or self.optimizer == "adamw",
            f"--memory.offload-optimizer keeps AdamW's moments in CPU memory, --memory.optimizer {self.optimizer} on "
            f"the GPU; give one of the two",
        )


SamplerKind = Literal["local", "vllm"]
TrackerName = Literal["tensorboard", "wandb", "trackio"]


@config
class VllmConfig:
    """vLLM for `--sampler vllm`. docs/vllm.md has the ways to run it."""

    mode: Literal["in-process", "server"] = "in-process"
    """in-process: `vllm.LLM` in this program. server: behind HTTP, in an environment or on a machine of its own, as
    with `url` or `python`."""
    url: str = ""
    """A server that runs already, such as http://127.0.0.1:8000; empty: the run starts one and ends it."""
    python: str = ""
    """Python that has vLLM, for the server that the run starts; empty: this one."""
    gpus: tuple[int, ...] = ()
    """GPUs of the server that the run starts, numbered as this program sees them; empty: all. The learner is on 0.
    `args` says how they are shared: data_parallel_size=7 is seven copies, tensor_parallel_size=2 one model on two."""
    memory: float = 0.5
    """Share of the GPU's memory that vLLM takes, weights and KV cache together; the learner needs the rest."""
    cache_gib: float = 0.0
    """KV cache, GiB; 0: what `memory` leaves (on a CPU: 1)."""
    max_len: int = 0
    """Longest prompt and completion together, tokens; 0 is the model's context."""
    transfer: Literal["auto", "file", "ipc"] = "auto"
    """How weights are handed over: by a file in memory or on disk, or by CUDA IPC where vLLM has the learner's GPU."""
    folder: Path | None = None
    """Folder of that file; default: /dev/shm, or where temporary files go. Another machine needs a shared one."""
    tolerance: float = 0.0
    """Largest mean difference between sampler's and learner's log-probs of the probe, nats; 0: 0.005 in fp32, 0.2 in
    bf16."""
    truncated_is: float = 2.0
    """Cap of the importance weights that correct what sampler and learner compute differently, where
    `algo.truncated_is` is 0 (RL). 0 is off."""
    timeout: float = 3600.0
    """Longest wait for vLLM's start, and for a group of completions, seconds."""
    args: tuple[str, ...] = ()
    """Further arguments of vLLM's engine, NAME=VALUE, such as tensor_parallel_size=2."""

    def __post_init__(self) -> None:
        require(not (self.url and self.python), "--vllm.url is of a server that runs; leave out --vllm.python")
        require(
            not self.url or self.url.startswith(("http://", "https://")),
            f"--vllm.url is {self.url!r}; give an address such as http://127.0.0.1:8000",
        )
        require(0 < self.memory <= 1, f"--vllm.memory is {self.memory}; give a share above 0, at most 1")
        for name in ("cache_gib", "max_len", "tolerance", "truncated_is"):
            value = getattr(self, name)
            require(value >= 0, f"--vllm.{name.replace('_', '-')} is {value}; give 0 or more")
        for argument in self.args:
            require("=" in argument, f"--vllm.args has {argument!r}; give NAME=VALUE, such as tensor_parallel_size=2")
        self._check_gpus()

    @property
    def in_process(self) -> bool:
        return self.mode == "in-process" and not self.url and not self.python and not self.gpus

    def _check_gpus(self) -> None:
        require(not (self.url and self.gpus), "--vllm.url is of a server that runs; leave out --vllm.gpus")
        require(
            len(set(self.gpus)) == len(self.gpus) and all(gpu >= 0 for gpu in self.gpus),
            f"--vllm.gpus is {' '.join(map(str, self.gpus))}; give each GPU once, counted from 0",
        )
        names = ("data_parallel_size", "tensor_parallel_size", "pipeline_parallel_size")
        used = math.prod(int(self.engine_args().get(name, 1)) for name in names)
        require(
            not self.gpus or used == len(self.gpus),
            f"--vllm.gpus names {len(self.gpus)} GPUs and --vllm.args uses {used}; say how they are shared, with "
            f"--vllm.args data_parallel_size={len(self.gpus)} (a copy of the model each) or tensor_parallel_size",
        )

    def engine_args(self) -> dict[str, Any]:
        """`args` with their values: JSON where they are, else text."""
        pairs = (argument.split("=", 1) for argument in self.args)
        return {name.strip("-").replace("-", "_"): json_or_text(value) for name, value in pairs}


def json_or_text(value: str) -> Any:
    """What a flag's NAME=VALUE means by its value."""
    try:
        return json.loads(value.lower() if value in ("True", "False") else value)
    except ValueError:
        return value


LATER = {"later": True}
"""Metadata of a field that came after runs had begun without it: at its default it is in no config.json, and they go
on."""


def to_dict(config: Any, *, every: bool = False) -> dict[str, Any]:
    """A config as JSON values (paths as strings, tuples as lists); `every`: with all fields that are LATER."""

    def left_out(field: dataclasses.Field[Any], value: Any) -> bool:
        return not every and field.metadata == LATER and value == field.default

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            found = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
            return {field.name: plain(inner) for field, inner in found if not left_out(field, inner)}
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
