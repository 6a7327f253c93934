"""From rewards to advantages (R1 eq. 3), and what DAPO adds: which groups teach something.

P problems of a step, G completions of each.
"""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from torch import Tensor

STD_EPS = 1e-6
"""Keeps a nearly constant group finite; the papers print none."""


def group_advantages(rewards_PG: Tensor, scale: Literal["group-std", "group-mean"]) -> Tensor:
    """Advantage of each completion against its group, [P, G].

    "group-std": (r - mean) / std (R1 eq. 3; population std, the paper does not say which). "group-mean": r - mean
    (Dr.GRPO, which drops the std because it weighs very easy and very hard problems more).
    A group of equal rewards gets exactly 0: only the KL acts on it.
    """
    centered_PG = rewards_PG - rewards_PG.mean(-1, keepdim=True)
    match scale:
        case "group-std":
            advantages_PG = centered_PG / (rewards_PG.std(-1, keepdim=True, correction=0) + STD_EPS)
        case "group-mean":
            advantages_PG = centered_PG
        case _:
            assert_never(scale)
    # The mean of equal numbers can be off by a rounding error, which the division would blow up.
    return torch.where(informative_groups(rewards_PG)[:, None], advantages_PG, torch.zeros_like(advantages_PG))


def informative_groups(rewards_PG: Tensor) -> Tensor:
    """Whether each group's rewards differ, bool [P]: DAPO's dynamic sampling keeps only these (eq. 11).

    DAPO counts right answers; with rewards of several parts, a group that differs in any part teaches and is kept.
    A group with a NaN reward counts as informative, so that the NaN reaches the loss instead of being hidden.
    """
    return (rewards_PG != rewards_PG[:, :1]).any(-1)
