"""The paper's settings as complete configs (arXiv 2501.12948; V1 = January 2025, V2 = January 2026 with supplement).

A number has its source beside it; what the paper does not state is marked "ours". docs/paper-presets.md is the table.
The paper's data are not public. Put yours where a preset says problems.jsonl (with answers), helpful.jsonl and
safety.jsonl (prompts) or general.jsonl (conversations). A stage reads what the stages before it left in runs/.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from r1kit.config import (
    DistillConfig,
    EndpointConfig,
    EvalConfig,
    OptimConfig,
    PreferencesConfig,
    ReadableConfig,
    RejectConfig,
    RewardConfig,
    RewardModelConfig,
    RLConfig,
    SFTConfig,
)
from r1kit.presets.algos import grpo

V3_BASE = "deepseek-ai/DeepSeek-V3-Base"
PROBLEMS = ("problems.jsonl",)
SFT_DATA = ("runs/r1-rejection-sampling",)
"""The 800k samples: Dev3 and the six students are trained on the same set (V1 2.3.3, 2.4)."""
STUDENTS: dict[str, tuple[str, float]] = {
    "distill-qwen-1.5b": ("Qwen/Qwen2.5-Math-1.5B", 1e-4),
    "distill-qwen-7b": ("Qwen/Qwen2.5-Math-7B", 8e-5),
    "distill-qwen-14b": ("Qwen/Qwen2.5-14B", 7e-5),
    "distill-qwen-32b": ("Qwen/Qwen2.5-32B", 6e-5),
    "distill-llama-8b": ("meta-llama/Llama-3.1-8B", 5e-5),
    "distill-llama-70b": ("meta-llama/Llama-3.3-70B-Instruct", 2e-5),
}
"""Base checkpoint and first learning rate of each student (V2 B.4.3)."""


def deepseek_v3() -> EndpointConfig:
    """DeepSeek-V3 as rewriter and judge (V2 B.3.2, B.3.3, 3.1.1) on a server of yours.

    The address is a placeholder: `vllm serve deepseek-ai/DeepSeek-V3` listens there.
    """
    return EndpointConfig(url="http://localhost:8000/v1", model="deepseek-ai/DeepSeek-V3")


def _evaluation() -> EvalConfig:
    """16 completions per problem: V2 Fig. 1. Temperature 0.6, top-p 0.95, 32,768 tokens: V1 3, V2 D.1.

    Template and, in RL, tasks are the run's own, so that who changes those of the run changes both.
    """
    return EvalConfig(num_samples=16, temperature=0.6, top_p=0.95, max_new_tokens=32_768)


def rl_r1_zero() -> RLConfig:
    """R1-Zero with the paper's numbers (V2 section 2.1)."""
    return RLConfig(
        run=Path("runs/r1-zero"),
        model=V3_BASE,
        tasks=PROBLEMS,
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
        algo=grpo(),  # KL 0.001, reference every 400 steps: V2 section 2.1; clip 0.2 is ours
        reward=RewardConfig(accuracy_weight=1.0, format_weight=1.0, format="r1-zero"),  # equal: V2 section 2.2
        eval=_evaluation(),
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


def reject_cold_start() -> RejectConfig:
    """The cold start's data (V2 B.3.2): R1-Zero's right and readable samples, refined by DeepSeek-V3.

    The paper has people rewrite some first and check the rest; here the endpoint does all of it.
    """
    return RejectConfig(
        run=Path("runs/r1-cold-start"),
        model="runs/r1-zero",
        tasks=PROBLEMS,
        template="r1-zero",
        num_problems=5_000,  # ours: "thousands" (V2 B.3.2)
        num_samples=8,  # ours: "multiple"
        keep_per_problem=1,  # ours
        temperature=1.0,  # V2 B.3.2
        max_new_tokens=32_768,  # ours: the SFT's context
        # V2 B.3.2 names repetition and language mixing; thresholds are ours. Code and long paragraphs are B.3.3's.
        readable=ReadableConfig(code_blocks=True, max_paragraph_chars=0),
        rewrite="endpoint",
        rewriter=replace(deepseek_v3(), max_new_tokens=32_768),  # ours: as long as what it rewrites
        general_share=0.0,
    )


def _sft_r1() -> SFTConfig:
    """What both of R1's fine-tunings share (V2 B.4.2)."""
    return SFTConfig(
        model=V3_BASE,  # V2 Fig. 2: both start from the base
        template="chat",  # ours; the paper prints V1's |special_token| form only
        epochs=2,  # V2 B.4.2: 2 to 3; V1 2.3.3: 2 on the 800k
        batch_size=128,  # V2 B.4.2
        max_tokens=32_768,  # V2 B.4.2
        optim=OptimConfig(lr=5e-5, schedule="cosine", final_lr_fraction=0.1),  # V2 B.4.2: 5e-5 to 5e-6
        eval=replace(_evaluation(), tasks=PROBLEMS),
        eval_every=2_000,  # ours
        save_every=500,  # ours
        tokens_per_microbatch=32_768,  # ours
    )


def sft_r1_dev1() -> SFTConfig:
    """Dev1: the base model fine-tuned on the cold start's data (V2 B.4.2)."""
    return replace(_sft_r1(), run=Path("runs/r1-dev1"), data=("runs/r1-cold-start",))


def rl_r1_dev2() -> RLConfig:
    """Dev2: reasoning RL with the language reward, from Dev1 (V2 section 3.2.1)."""
    return RLConfig(
        run=Path("runs/r1-dev2"),
        model="runs/r1-dev1",
        tasks=PROBLEMS,
        template="chat",  # ours
        # Ours: the paper says "until convergence" (V1 2.3.2). R1's GPU hours (V2 Table 7) at R1-Zero's pace are about
        # 4,200 steps, of which the second stage has 1,700.
        steps=2_400,
        problems_per_step=32,  # V2 section 3.2.1
        group_size=16,  # V2 section 3.2.1
        minibatches=16,  # V2 section 3.2.1: 8,192 outputs per rollout, 512 per step
        inner_epochs=1,  # V2 section 3.2.1
        temperature=1.0,  # V2 section 3.2.1
        max_new_tokens=32_768,  # V2 section 3.2.1
        optim=OptimConfig(lr=3e-6, schedule="constant"),  # rate: V2 section 3.2.1; constant is ours
        # KL 0.001, reference every 400 steps, epsilon 10: V2 section 3.2.1. Epsilon 10 clips ratios to [-9, 11]: a
        # ratio is never below -9, so only tokens of positive advantage that became 11 times as likely lose their
        # gradient. A smaller epsilon cut off the gradients of many tokens.
        algo=replace(grpo(), clip_low=10.0, clip_high=10.0),
        # Language is "directly summed" to the rest (V2 section 3.2.1), which is R1-Zero's (V2 section 2.2).
        reward=RewardConfig(accuracy_weight=1.0, format_weight=1.0, format="r1", language_weight=1.0),
        eval=_evaluation(),
        eval_every=400,  # ours
        save_every=400,  # ours
        tokens_per_microbatch=32_768 + 1_024,  # ours: one completion at the cap with its prompt
    )


def reject_rejection_sampling() -> RejectConfig:
    """The 800k samples (V2 B.3.3): Dev2's right and readable ones, judged by DeepSeek-V3 where no rule can."""
    return RejectConfig(
        run=Path("runs/r1-rejection-sampling"),
        model="runs/r1-dev2",
        tasks=PROBLEMS,
        template="chat",
        num_problems=80_000,  # V2 Table 4: 26K math, 17K code, 22K STEM, 15K logic
        num_samples=16,  # ours: "multiple"
        keep_per_problem=8,  # ours: 8 of each of 80,000 are the 626,933 reasoning samples of V2 Table 5 and a few more
        temperature=1.0,  # ours: the temperature of Dev2's own RL
        max_new_tokens=32_768,  # ours: the SFT's context
        # V2 B.3.3: no mixed languages, no long paragraphs, no code blocks. All thresholds are ours.
        readable=ReadableConfig(code_blocks=False),
        judge=deepseek_v3(),
        general_data=("general.jsonl",),
        general_share=177_812 / 804_745,  # V2 Table 5
    )


def sft_r1_dev3() -> SFTConfig:
    """Dev3: the base model fine-tuned on the 800k samples (V2 B.4.2; V1 2.3.3), about 12,600 steps."""
    return replace(_sft_r1(), run=Path("runs/r1-dev3"), data=SFT_DATA)


def preferences_r1() -> PreferencesConfig:
    """The reward models' data (V2 section 3.1): 66,000 pairs, and 106,000 prompts with labelled responses."""
    return PreferencesConfig(
        run=Path("runs/r1-preferences"),
        model="runs/r1-dev3",  # ours: the paper does not say whose responses are compared
        tasks=("helpful.jsonl", "safety.jsonl"),
        template="chat",
        num_prompts=106_000,  # V2 section 3.1, for safety; helpful prompts are not counted, only their pairs
        num_samples=4,  # ours
        temperature=1.0,  # ours
        max_new_tokens=8_192,  # ours: what the reward models read
        queries=4,  # V2 section 3.1
        min_margin=1.0,  # V2 section 3.1
        judge=deepseek_v3(),  # V2 section 3.1; the paper's safety labels are people's, by guidelines
    )


def _reward_model() -> RewardModelConfig:
    """What both reward models share (V2 section 3.1)."""
    return RewardModelConfig(
        model="runs/r1-dev3",  # V2 section 3.1: R1's architecture with a scalar head; the weights to start from: ours
        data=("runs/r1-preferences",),
        template="chat",
        heldout_share=0.01,  # ours
        epochs=1,  # V2 section 3.1
        batch_size=256,  # V2 section 3.1
        max_tokens=8_192,  # V2 section 3.1
        optim=OptimConfig(lr=6e-6, schedule="constant"),  # rate: V2 section 3.1; constant is ours
    )


def reward_model_r1_helpful() -> RewardModelConfig:
    """The helpful reward model: pairwise loss, reads the response without its thought (V2 section 3.1)."""
    return replace(_reward_model(), run=Path("runs/r1-helpful"), kind="helpful")


def reward_model_r1_safety() -> RewardModelConfig:
    """The safety reward model: point-wise loss, reads the thought too, trained as the other (V2 section 3.1)."""
    return replace(_reward_model(), run=Path("runs/r1-safety"), kind="safety")


def rl_r1() -> RLConfig:
    """R1: RL for all scenarios, from Dev3, with most settings of the stage before (V2 section 3.2.2)."""
    return replace(
        rl_r1_dev2(),
        run=Path("runs/r1"),
        model="runs/r1-dev3",
        temperature=0.7,  # V2 section 3.2.2
        # V2 section 3.2.2 says 1,700, which is not a multiple of a rollout's 16 steps: 1,696 is the nearest.
        steps=1_696,
        # V2 section 3.2.2: general prompts and the preference reward only in the last 400 steps, which are 25 rollouts.
        general_from=1_296,
        general_tasks=("helpful.jsonl", "safety.jsonl"),
        general_share=66 / (66 + 80),  # ours: the mixture is not stated; these are V2 Table 4's prompts, in thousands
        reward=RewardConfig(
            accuracy_weight=1.0,  # the sums of V2 eq. 8-10 have no weights
            format_weight=1.0,
            format="r1",
            language_weight=1.0,
            preference_weight=1.0,  # ours: how the score is scaled is not stated
            helpful_model="runs/r1-helpful",
            safety_model="runs/r1-safety",
        ),
    )


def sft_student(name: str) -> SFTConfig:
    """A student of STUDENTS fine-tuned on the 800k samples (V2 B.4.3; V1 2.4), about 25,100 steps.

    Qwen2.5-Math's config.json allows 4,096 positions and Llama-3.1-8B has no chat template; docs/paper-presets.md says
    what to do.
    """
    base, lr = STUDENTS[name]
    return SFTConfig(
        run=Path(f"runs/{name}"),
        model=base,
        data=SFT_DATA,
        template="short" if base == "meta-llama/Llama-3.1-8B" else "chat",  # ours
        epochs=2,  # V2 B.4.3: 2 to 3
        batch_size=64,  # V2 B.4.3
        max_tokens=32_768,  # V2 B.4.3
        optim=OptimConfig(lr=lr, schedule="cosine", final_lr_fraction=0.1),  # V2 B.4.3: to a tenth
        eval=replace(_evaluation(), tasks=PROBLEMS),
        eval_every=5_000,  # ours
        save_every=500,  # ours
        tokens_per_microbatch=32_768,  # ours
    )


def distill_student(name: str) -> DistillConfig:
    """The same student from DeepSeek-R1 itself: sampled first, as the paper's 800k are, then fine-tuned on."""
    run = Path(f"runs/{name}-from-r1")
    teacher = "deepseek-ai/DeepSeek-R1"
    return DistillConfig(
        run=run,
        method="sft",
        teacher=teacher,
        samples=replace(
            reject_rejection_sampling(),
            run=run / "samples",
            model=teacher,
            temperature=0.6,  # R1's model card
            top_p=0.95,  # R1's model card
        ),
        sft=replace(sft_student(name), run=run / "student", data=()),
    )
