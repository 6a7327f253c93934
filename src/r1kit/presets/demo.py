"""Presets for two CPU cores: `demo`, which `r1kit run demo` begins from, and `tiny`, to see that everything works.

recipes/demo.py says what it changes for each stage. The values are ours. A model or data argument such as
runs/demo/zero is what that stage of `r1kit run demo` has left.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from r1kit.config import (
    AlgoConfig,
    DistillConfig,
    EvalConfig,
    ModelShape,
    OptimConfig,
    PreferencesConfig,
    PretrainConfig,
    RejectConfig,
    RewardModelConfig,
    RLConfig,
    SFTConfig,
)
from r1kit.presets.algos import grpo

MICROBATCH = 4096
"""Packed tokens of one pass: activations that stay in the cache. 16,384 take a tenth longer, and more memory."""


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
        eval=EvalConfig(num_problems=128, num_samples=16, max_new_tokens=512),
        eval_every=40,
        save_every=10,
        tokens_per_microbatch=MICROBATCH,
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
        steps=1200,
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


def reject_demo() -> RejectConfig:
    """The cold start: R1-Zero's samples, the right and readable ones, rewritten by rules."""
    return RejectConfig(
        run=Path("runs/cold-start"), model="runs/demo/zero", num_problems=768, max_new_tokens=384, rewrite="rules"
    )


def reject_tiny() -> RejectConfig:
    """A few samples of the shipped base model: does everything work?"""
    return RejectConfig(
        run=Path("runs/reject-tiny"), model="demo-base", num_problems=4, num_samples=2, max_new_tokens=64
    )


def sft_demo() -> SFTConfig:
    """The cold start's SFT, from the shipped base model."""
    return SFTConfig(
        run=Path("runs/sft"),
        data=("runs/demo/cold-start",),
        epochs=2,
        batch_size=32,
        max_tokens=1024,
        # Twice this rate forgets arithmetic: half the answers are lost.
        optim=OptimConfig(lr=5e-4, schedule="cosine", final_lr_fraction=0.1),
        tokens_per_microbatch=MICROBATCH,
    )


def sft_tiny() -> SFTConfig:
    """A few steps on the shipped base model: does everything work?"""
    return SFTConfig(
        run=Path("runs/sft-tiny"),
        data=("runs/reject-tiny",),
        epochs=1,
        batch_size=4,
        max_tokens=256,
        optim=OptimConfig(lr=1e-4, schedule="cosine", final_lr_fraction=0.1),
        eval=EvalConfig(num_problems=4, num_samples=2, max_new_tokens=64),
        save_every=2,
    )


def preferences_demo() -> PreferencesConfig:
    """Pairs and safety labels from Dev3's responses, judged by the rules of the demo's small world."""
    return PreferencesConfig(model="runs/demo/dev3")


def preferences_tiny() -> PreferencesConfig:
    """A few prompts: does everything work?"""
    return PreferencesConfig(
        run=Path("runs/preferences-tiny"), model="demo-base", num_prompts=4, num_samples=2, max_new_tokens=32
    )


def reward_model_demo() -> RewardModelConfig:
    """The helpful reward model, from Dev3's weights."""
    return RewardModelConfig(
        model="runs/demo/dev3",
        data=("runs/demo/preferences",),
        batch_size=32,
        max_tokens=512,
        optim=OptimConfig(lr=3e-4),
    )


def reward_model_tiny() -> RewardModelConfig:
    """A few steps on the shipped base model: does everything work?"""
    return RewardModelConfig(
        run=Path("runs/reward-model-tiny"),
        data=("runs/preferences-tiny",),
        batch_size=4,
        max_tokens=256,
        optim=OptimConfig(lr=1e-4),
        save_every=2,
    )


def distill_demo() -> DistillConfig:
    """R1's samples teach the smaller base model."""
    return DistillConfig(
        teacher="runs/demo/r1",
        samples=RejectConfig(
            num_problems=768, num_samples=4, keep_per_problem=4, max_new_tokens=384, temperature=0.6, top_p=0.95
        ),
        sft=replace(sft_demo(), run=Path("runs/distill/student"), model="demo-student", data=()),
    )


def distill_tiny() -> DistillConfig:
    """A few samples and a few steps: does everything work?"""
    return DistillConfig(
        run=Path("runs/distill-tiny"),
        teacher="demo-base",
        samples=replace(reject_tiny(), run=Path("runs/distill-tiny/samples")),
        sft=replace(sft_tiny(), run=Path("runs/distill-tiny/student"), data=()),
    )
