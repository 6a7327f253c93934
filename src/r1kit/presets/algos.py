"""GRPO and its variants with their papers' numbers: `--algo NAME` takes one, `--algo.FIELD` changes a number of it."""

from __future__ import annotations

from r1kit.config import AlgoConfig


def grpo() -> AlgoConfig:
    """GRPO as R1-Zero used it: DeepSeekMath (arXiv 2402.03300) eq. 3, R1 V2 section 2.1.

    KL coefficient 0.001 in the loss, reference replaced every 400 steps. The paper states no clip range for R1-Zero;
    0.2 is ours.
    """
    return AlgoConfig(kl_coef=0.001, reference_every=400, clip_low=0.2, clip_high=0.2)


def dr_grpo() -> AlgoConfig:
    """Dr.GRPO (arXiv 2503.20783, section 3.2): no division by the group's std or by each completion's length, no KL."""
    return AlgoConfig(advantage="group-mean", aggregation="constant", kl_coef=0.0, reference_every=0)


def dapo() -> AlgoConfig:
    """DAPO (arXiv 2503.14476, section 3): clip-higher 0.2/0.28, token-level loss, dynamic sampling, no KL.

    DAPO samples until every group is mixed; 2 more rounds at most is ours. Its overlong shaping depends on the length
    cap: set `--algo.overlong-buffer` (the paper: 4,096 tokens under a cap of 20,480).
    """
    return AlgoConfig(
        aggregation="token", clip_low=0.2, clip_high=0.28, kl_coef=0.0, reference_every=0, dynamic_sampling=2
    )


def gspo() -> AlgoConfig:
    """GSPO (arXiv 2507.18071, eq. 5-7; clip range 3e-4/4e-4 from section 5.1): one ratio per completion, no KL."""
    return AlgoConfig(ratio="sequence", clip_low=3e-4, clip_high=4e-4, kl_coef=0.0, reference_every=0)


ALGOS: dict[str, AlgoConfig] = {"grpo": grpo(), "dr-grpo": dr_grpo(), "dapo": dapo(), "gspo": gspo()}
"""`--algo NAME` takes one of these; `--algo.FIELD` changes a number of it."""
