"""What several configs share: checks, compute types, the optimizer, and configs to and from JSON."""

from __future__ import annotations

import dataclasses
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "bf16", "fp32"]


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition`."""
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
        require(self.lr >= 0, f"--optim.lr is {self.lr}; give 0 or more")
        require(self.grad_clip > 0, f"--optim.grad-clip is {self.grad_clip}; give a value above 0")
        require(self.warmup_steps >= 0, f"--optim.warmup-steps is {self.warmup_steps}; give 0 or more")
        require(
            0 <= self.final_lr_fraction <= 1,
            f"--optim.final-lr-fraction is {self.final_lr_fraction}; give a value from 0 to 1",
        )


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
