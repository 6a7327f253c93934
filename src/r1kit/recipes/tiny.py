"""The demo's recipe with a few steps and samples a stage: does everything work? Half a minute."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from r1kit.config import EvalConfig, PreferencesConfig, RejectConfig, RewardModelConfig, RLConfig, SFTConfig
from r1kit.recipes import demo

ALONE = demo.ALONE


def stages() -> dict[str, Any]:
    """The demo's stages, each as small as it can be."""
    return {name: _small(config) for name, config in demo.stages().items()}


def _small(config: Any) -> Any:
    evaluation = EvalConfig(num_problems=4, num_samples=2, max_new_tokens=64)
    match config:
        case RLConfig():
            return replace(
                config, steps=4, problems_per_step=4, group_size=4, max_new_tokens=64, eval=evaluation, save_every=2,
                eval_every=2 if config.eval_every else 0, general_from=2 if config.general_from else 0,
                algo=replace(config.algo, overlong_buffer=16),
            )  # fmt: skip
        case SFTConfig():
            return replace(config, epochs=1, batch_size=8)
        case RejectConfig():
            return replace(config, num_problems=24, num_samples=4, max_new_tokens=128)
        case PreferencesConfig():
            return replace(config, num_prompts=40, num_samples=3, max_new_tokens=48)
        case RewardModelConfig():
            return replace(config, batch_size=8, heldout_share=0.3)
        case EvalConfig():
            return replace(config, num_problems=4, num_samples=2, max_new_tokens=64)
        case _:
            return config
