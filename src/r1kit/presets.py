"""Presets: complete configs by name, as Python. `r1kit presets` prints them; every field is also a flag.

Numbers come from the DeepSeek-R1 paper (arXiv 2501.12948; V1 = January 2025, V2 = January 2026 with supplement) where
it states them; what it does not state is marked "ours".
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from r1kit.config import AlgoConfig, EvalConfig, ModelShape, OptimConfig, PretrainConfig, RLConfig


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


def rl_demo() -> RLConfig:
    """R1-Zero from the shipped base model on two CPU cores.

    The values are ours: the paper's are for a model 200,000 times as large. docs/decisions/0005-staying-up.md has the
    reasons.
    """
    return RLConfig(
        run=Path("runs/zero"),
        steps=160,
        problems_per_step=16,
        group_size=16,  # the paper's
        max_new_tokens=384,
        optim=OptimConfig(lr=2e-4, schedule="linear"),
        # No KL term: a reference forward would take a fifth of the time, and equal groups could not be skipped.
        algo=replace(grpo(), kl_coef=0.0, reference_every=0, overlong_buffer=128),
        eval=EvalConfig(num_problems=128, num_samples=16, max_new_tokens=384),
        eval_every=40,
        save_every=10,
    )


def rl_tiny() -> RLConfig:
    """A few steps on the shipped base model: does everything work?"""
    return RLConfig(
        run=Path("runs/tiny"),
        steps=4,
        problems_per_step=4,
        group_size=4,
        max_new_tokens=64,
        optim=OptimConfig(lr=1e-4),
        algo=AlgoConfig(reference_every=2),
        eval=EvalConfig(num_problems=4, num_samples=2, max_new_tokens=64),
        eval_every=2,
        save_every=2,
    )


def rl_r1_zero() -> RLConfig:
    """R1-Zero with the paper's numbers (V2 section 2.1)."""
    tasks = ("problems.jsonl",)  # the paper's problems are not public: put yours here
    return RLConfig(
        run=Path("runs/r1-zero"),
        model="deepseek-ai/DeepSeek-V3-Base",
        tasks=tasks,
        template="r1-zero",  # V1 Table 1
        steps=10_400,  # V2 section 2.1; 650 rollouts
        problems_per_step=32,  # V2 section 2.1
        group_size=16,  # V2 section 2.1
        minibatches=16,  # V2 section 2.1: 8,192 outputs per rollout, 512 per step
        inner_epochs=1,  # V2 section 2.1
        temperature=1.0,  # V2 section 2.1
        max_new_tokens=32_768,  # V2 section 2.1
        # V2 section 2.1 says "8.2k". A cap changes between rollouts of 16 steps: 8,192 = 512 rollouts is one of the two
        # multiples of 16 nearest to 8,200 (the other is 8,208).
        raise_cap_at=8_192,
        raised_cap=65_536,  # V2 section 2.1
        optim=OptimConfig(lr=3e-6, schedule="constant"),  # rate: V2 section 2.1; constant is ours
        algo=grpo(),
        # 16 completions per problem: V2 Fig. 1. Temperature 0.6, top-p 0.95: V1 section 3.
        eval=EvalConfig(
            tasks=tasks, template="r1-zero", num_samples=16, temperature=0.6, top_p=0.95, max_new_tokens=32_768
        ),
        eval_every=400,  # ours
        save_every=400,  # ours
        tokens_per_microbatch=65_536 + 1_024,  # ours: one completion at the raised cap with its prompt
    )


def rl_r1_zero_qwen_32b() -> RLConfig:
    """R1-Zero's recipe on Qwen2.5-32B (V2 B.4.1): learning rate 2e-6, "over 10K" steps, no raised cap."""
    return replace(
        rl_r1_zero(),
        run=Path("runs/r1-zero-qwen-32b"),
        model="Qwen/Qwen2.5-32B",
        steps=10_000,
        raise_cap_at=0,
        raised_cap=0,
        optim=OptimConfig(lr=2e-6, schedule="constant"),
        tokens_per_microbatch=32_768 + 1_024,  # ours
    )


def pretrain_demo() -> PretrainConfig:
    """Remakes the base model that r1kit ships: 21M tokens of the generated corpus, about 20 minutes."""
    return PretrainConfig(
        steps=2600,
        tokens_per_step=8_192,
        optim=OptimConfig(lr=2.5e-3, weight_decay=0.1, schedule="cosine", warmup_steps=100, final_lr_fraction=0.02),
        save_every=200,
    )


def pretrain_demo_student() -> PretrainConfig:
    """Remakes the smaller base that the demo's distillation starts from: a third of the size, the same corpus."""
    return replace(
        pretrain_demo(),
        run=Path("runs/pretrain-student"),
        shape=ModelShape(hidden=128, layers=4, heads=4, kv_heads=2, mlp=384, context=2048),
        steps=1600,
    )


def pretrain_tiny() -> PretrainConfig:
    """A few steps with a very small decoder: does everything work?"""
    return PretrainConfig(
        run=Path("runs/pretrain-tiny"),
        shape=ModelShape(hidden=64, layers=2, heads=4, kv_heads=2, mlp=128, context=512),
        steps=4,
        tokens_per_step=2048,
        tokens_per_microbatch=2048,
        optim=OptimConfig(lr=2e-3, weight_decay=0.1, schedule="cosine", warmup_steps=1, final_lr_fraction=0.05),
        eval=EvalConfig(num_problems=2, num_samples=2, max_new_tokens=32),
        save_every=2,
    )


RL: dict[str, tuple[str, RLConfig]] = {
    "demo": ("R1-Zero from the shipped base model; 2 CPU cores, minutes", rl_demo()),
    "tiny": ("a few steps, to see that everything works; seconds", rl_tiny()),
    "r1-zero": ("the paper's settings on DeepSeek-V3-Base; a cluster", rl_r1_zero()),
    "r1-zero-qwen-32b": ("the paper's settings on Qwen2.5-32B (B.4.1); many GPUs", rl_r1_zero_qwen_32b()),
}
PRETRAIN: dict[str, tuple[str, PretrainConfig]] = {
    "demo": ("remakes the shipped base model; 2 CPU cores", pretrain_demo()),
    "demo-student": ("remakes the smaller base for distillation; 2 CPU cores", pretrain_demo_student()),
    "tiny": ("a few steps, to see that everything works; seconds", pretrain_tiny()),
}
PIPELINES: dict[str, str] = {"demo": "base model -> R1-Zero -> evaluation -> report, offline; 2 CPU cores, minutes"}
