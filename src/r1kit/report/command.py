"""The command that repeats a run: the nearest preset, and a flag for every field in which the run differs from it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from r1kit.config import to_dict
from r1kit.presets import DISTILL, PREFERENCES, PRETRAIN, REJECT, REWARD_MODEL, RL, SFT

PRESETS: dict[str, Mapping[str, tuple[str, Any]]] = {
    "pretrain": PRETRAIN,
    "rl": RL,
    "sft": SFT,
    "reject": REJECT,
    "preferences": PREFERENCES,
    "reward-model": REWARD_MODEL,
    "distill": DISTILL,
}


def command(config: Mapping[str, Any]) -> str:
    """`r1kit rl demo --seed 3 --optim.lr 0.0001` for a run's config.json; fields unknown to this r1kit are left out.

    Empty for a stage without presets.
    """
    stage = str(config.get("stage", "rl"))
    presets = {name: flat(to_dict(preset, every=True)) for name, (_, preset) in PRESETS.get(stage, {}).items()}
    if not presets:
        return ""
    ours = flat(config)
    changes = {
        name: {field: ours[field] for field, value in preset.items() if field in ours and ours[field] != value}
        for name, preset in presets.items()
    }
    nearest = min(changes, key=lambda name: len(changes[name]))
    flags = [word for field, value in changes[nearest].items() for word in _flag(field, value)]
    return shlex.join(["r1kit", stage, nearest, *flags])


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 1}} as {"optim.lr": 1}."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def _flag(field: str, value: Any) -> list[str]:
    name = field.replace("_", "-")
    if isinstance(value, bool):
        group, _, last = name.rpartition(".")
        return [f"--{name}"] if value else [f"--{group}.no-{last}" if group else f"--no-{last}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", str(value)]
