"""The reward of general prompts: each belongs to the helpful or the safety set and gets that reward model's score.

R1 V2 eq. 10. A prompt's set is its scorer, `helpful` or `safety`.
"""

from __future__ import annotations

from collections.abc import Sequence

from r1kit.config import Device, DType, RewardConfig
from r1kit.training.reward_model import load_reward_model, require_kind
from r1kit.training.rollout import Preference
from r1kit.types import Problem


def load_preference(cfg: RewardConfig, device: Device, dtype: DType) -> Preference:
    """Both reward models as one function. ValueError for a prompt whose set has no reward model."""
    folders = {"helpful": cfg.helpful_model, "safety": cfg.safety_model}
    scorers = {kind: load_reward_model(folder, device, dtype) for kind, folder in folders.items() if folder}
    for kind, scorer in scorers.items():
        require_kind(folders[kind], scorer.kind, kind)

    def score(items: Sequence[tuple[Problem, str]]) -> list[float]:
        scores = [0.0] * len(items)
        for kind in sorted({problem.scorer for problem, _ in items}):
            if kind not in scorers:
                raise ValueError(
                    f"prompts of scorer {kind!r} have no reward model; give --reward.{kind}-model, or no such task"
                )
            mine = [i for i, (problem, _) in enumerate(items) if problem.scorer == kind]
            for i, value in zip(mine, scorers[kind].score([items[i] for i in mine]), strict=True):
                scores[i] = value
        return scores

    return score
