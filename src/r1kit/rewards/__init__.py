"""Rewards by rule (R1 section 2.2): verdicts that hold, the rewards made of them, and the same for other trainers.

from r1kit.rewards import Problem, VerdictPool, score, trl_reward
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r1kit.rewards.accuracy import SCORERS
    from r1kit.rewards.pool import VerdictPool, score, score_many
    from r1kit.rewards.trainers import trl_reward, verl_compute_score
    from r1kit.types import Problem, Score

__all__ = ["SCORERS", "Problem", "Score", "VerdictPool", "score", "score_many", "trl_reward", "verl_compute_score"]

_HOME = {
    "SCORERS": "r1kit.rewards.accuracy",
    "Problem": "r1kit.types",
    "Score": "r1kit.types",
    "VerdictPool": "r1kit.rewards.pool",
    "score": "r1kit.rewards.pool",
    "score_many": "r1kit.rewards.pool",
    "trl_reward": "r1kit.rewards.trainers",
    "verl_compute_score": "r1kit.rewards.trainers",
}


def __getattr__(name: str) -> Any:
    """Loads on first use: the modules of this package import each other one way only."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
