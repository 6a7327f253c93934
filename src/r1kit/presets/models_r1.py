"""The rest of R1 for the bases of models.py: from Dev2 over rejection sampling, Dev3 and the reward models to R1.

R1 V2 sections 3.1, 3.2.2 and B.3.3 with public data in place of the paper's, which nobody has: UltraFeedback's
conversations, pairs and prompts (MIT), BeaverTails' labels and prompts (CC BY-NC). docs/presets.md has the reasons.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from r1kit.config import OptimConfig, RejectConfig, RewardModelConfig, RLConfig, SFTConfig
from r1kit.presets.models import (
    EACH,
    MODELS,
    Machine,
    described,
    judge,
    need,
    reject_cold_start_of,
    rl_dev2,
    sft_dev1,
)
from r1kit.presets.paper import reject_rejection_sampling, rl_r1

CONVERSATIONS = "HuggingFaceH4/ultrafeedback_binarized@train_sft"
"""General data: one question each, so that plain templates hold them. Their answers have no thought."""
PAIRS = "HuggingFaceH4/ultrafeedback_binarized@train_prefs"
"""Of the helpful reward model; their prompts are the helpful prompts of the RL."""
LABELS = "PKU-Alignment/BeaverTails@30k_train"
"""The same for safety."""
READ = 2048
"""Longest text of a reward model in its training, tokens."""


def reject_dev2(name: str, machine: Machine) -> RejectConfig:
    """Dev3's data: Dev2's right and readable completions, and the paper's share of general ones (V2 B.3.3, Table 5)."""
    dev2 = rl_dev2(name, machine)
    return replace(
        reject_cold_start_of(name, machine),
        run=Path(f"runs/rejection-sampling-{name}{machine.end}"),
        model=str(dev2.run),
        template=dev2.template,
        num_problems=6000,
        num_samples=8,
        keep_per_problem=4,
        temperature=0.6,
        top_p=0.95,
        general_data=(CONVERSATIONS,),
        general_share=reject_rejection_sampling().general_share,
    )


def sft_dev3(name: str, machine: Machine) -> SFTConfig:
    """Dev3: the base, not Dev2, on those data, twice (V1 2.3.3), in the paper's batches (V2 B.4.2)."""
    return replace(
        sft_dev1(name, machine),
        run=Path(f"runs/r1-dev3-{name}{machine.end}"),
        data=(str(reject_dev2(name, machine).run),),
        batch_size=128,
    )


def reward_model_of(name: str, machine: Machine, kind: Literal["helpful", "safety"]) -> RewardModelConfig:
    """A reward model: rate, batch and one pass are the paper's (V2 3.1), and so is Dev3's backbone where it fits."""
    small = machine.card == 24
    scorer = judge(name, small=small)
    dev3, base = sft_dev3(name, machine), MODELS[scorer]
    offloaded = base.shape.parameters > (1e9 if small else 6e9)
    return RewardModelConfig(
        run=Path(f"runs/r1-{kind}-{name}{machine.end}"),
        kind=kind,
        model=str(dev3.run) if scorer == name else base.hub,
        data=(PAIRS if kind == "helpful" else LABELS,),
        template=base.template,
        heldout_share=0.02,
        epochs=1,
        batch_size=256,
        max_tokens=READ,
        optim=OptimConfig(lr=6e-6),
        memory=replace(dev3.memory, offload_optimizer=offloaded),
        keep_checkpoints=1,
        tokens_per_microbatch=2 * READ if small else 16_384,
    )


def rl_all_scenarios(name: str, machine: Machine) -> RLConfig:
    """R1: reasoning RL goes on from Dev3; general prompts and their reward join for the last 400 / 1,700 (V2 3.2.2)."""
    dev2, paper = rl_dev2(name, machine), rl_r1()
    helpful, safety = (reward_model_of(name, machine, kind) for kind in ("helpful", "safety"))
    cfg = replace(
        dev2,
        run=Path(f"runs/r1-{name}{machine.end}"),
        model=str(sft_dev3(name, machine).run),
        temperature=paper.temperature,
        general_tasks=(PAIRS, LABELS),
        general_share=paper.general_share,
        general_from=round(dev2.steps * 1300 / 1700),
        reward=replace(paper.reward, helpful_model=str(helpful.run), safety_model=str(safety.run)),
    )
    if need(name, cfg).fits(machine.card):
        return cfg
    # The reward models have taken the room: of half the rows, or of AdamW's state.
    if cfg.lora.on:
        return replace(cfg, rows=cfg.rows // 2, eval=replace(cfg.eval, rows=cfg.eval.rows // 2))
    return replace(cfg, memory=replace(cfg.memory, offload_optimizer=True))


def _others(name: str, machine: Machine) -> str:
    """Whose backbone the reward models have, where it is not the policy's."""
    scorer = judge(name, small=machine.card == 24)
    return "" if scorer == name else MODELS[scorer].hub


def _reward_models(name: str, machine: Machine) -> dict[str, tuple[str, RewardModelConfig]]:
    made: dict[str, tuple[str, RewardModelConfig]] = {}
    kinds: tuple[Literal["helpful", "safety"], ...] = ("helpful", "safety")
    other = _others(name, machine)
    for kind in kinds:
        cfg = reward_model_of(name, machine, kind)
        text = described(f"{kind} reward model for", name, machine, cfg, f", made of {other}" if other else "")
        made[f"r1-{kind}-{name}{machine.end}"] = (text, cfg)
    return made


def _r1(name: str, machine: Machine) -> tuple[str, RLConfig]:
    cfg, other = rl_all_scenarios(name, machine), _others(name, machine)
    scored = f" and reward models of {other}" if other else " and its reward models"
    return described("Dev3 to R1 of", name, machine, cfg, scored), cfg


R1_REJECT: dict[str, tuple[str, RejectConfig]] = {
    f"rejection-sampling-{n}{m.end}": (
        described("data of Dev3 from Dev2 of", n, m, reject_dev2(n, m)),
        reject_dev2(n, m),
    )
    for n, m in EACH
}
R1_SFT: dict[str, tuple[str, SFTConfig]] = {
    f"r1-dev3-{n}{m.end}": (described("Dev3's fine-tuning of", n, m, sft_dev3(n, m)), sft_dev3(n, m)) for n, m in EACH
}
R1_REWARD_MODEL: dict[str, tuple[str, RewardModelConfig]] = {
    preset: told for n, m in EACH for preset, told in _reward_models(n, m).items()
}
R1_RL: dict[str, tuple[str, RLConfig]] = {f"r1-{n}{m.end}": _r1(n, m) for n, m in EACH}
