"""Presets: complete configs by name, as Python. `r1kit presets` prints them; every field is also a flag.

algos.py has GRPO and its variants, paper.py the DeepSeek-R1 paper's settings with their sources, demo.py what runs on
two CPU cores, models.py and models_r1.py what to start from on one GPU or a node.
"""

from __future__ import annotations

from r1kit.config import (
    DistillConfig,
    PreferencesConfig,
    PretrainConfig,
    RejectConfig,
    RewardModelConfig,
    RLConfig,
    SFTConfig,
)
from r1kit.presets.algos import ALGOS, dapo, dr_grpo, grpo, gspo
from r1kit.presets.demo import (
    distill_demo,
    distill_tiny,
    preferences_demo,
    preferences_tiny,
    pretrain_demo,
    pretrain_demo_student,
    pretrain_tiny,
    reject_demo,
    reject_tiny,
    reward_model_demo,
    reward_model_tiny,
    rl_demo,
    rl_tiny,
    sft_demo,
    sft_tiny,
)
from r1kit.presets.models import MODEL_REJECT, MODEL_RL, MODEL_SFT, student_hardware
from r1kit.presets.models_r1 import R1_REJECT, R1_REWARD_MODEL, R1_RL, R1_SFT
from r1kit.presets.paper import (
    STUDENTS,
    distill_student,
    preferences_r1,
    reject_cold_start,
    reject_rejection_sampling,
    reward_model_r1_helpful,
    reward_model_r1_safety,
    rl_r1,
    rl_r1_dev2,
    rl_r1_zero,
    rl_r1_zero_qwen_32b,
    sft_r1_dev1,
    sft_r1_dev3,
    sft_student,
)

TINY = "a few steps, to see that everything works; seconds"

RL: dict[str, tuple[str, RLConfig]] = {
    "demo": ("R1-Zero from the shipped base model; 2 CPU cores, minutes", rl_demo()),
    "tiny": (TINY, rl_tiny()),
    "r1-zero": ("the paper's settings on DeepSeek-V3-Base; a cluster", rl_r1_zero()),
    "r1-zero-qwen-32b": ("the paper's settings on Qwen2.5-32B (B.4.1); many GPUs", rl_r1_zero_qwen_32b()),
    "r1-dev2": ("the paper's reasoning RL with the language reward, Dev1 to Dev2; a cluster", rl_r1_dev2()),
    "r1": ("the paper's RL for all scenarios, Dev3 to R1; a cluster", rl_r1()),
    **MODEL_RL,
    **R1_RL,
}
PRETRAIN: dict[str, tuple[str, PretrainConfig]] = {
    "demo": ("remakes the shipped base model; 2 CPU cores", pretrain_demo()),
    "demo-student": ("remakes the smaller base for distillation; 2 CPU cores", pretrain_demo_student()),
    "tiny": (TINY, pretrain_tiny()),
}
REJECT: dict[str, tuple[str, RejectConfig]] = {
    "demo": ("cold-start data from R1-Zero's samples; 2 CPU cores, minutes", reject_demo()),
    "tiny": (TINY, reject_tiny()),
    "cold-start": ("the paper's cold-start data from R1-Zero's samples; a cluster", reject_cold_start()),
    "rejection-sampling": ("the paper's 800k samples from Dev2; a cluster", reject_rejection_sampling()),
    **MODEL_REJECT,
    **R1_REJECT,
}
SFT: dict[str, tuple[str, SFTConfig]] = {
    "demo": ("the cold start's SFT from the shipped base model; 2 CPU cores, minutes", sft_demo()),
    "tiny": (TINY, sft_tiny()),
    "r1-dev1": ("the paper's cold-start SFT of DeepSeek-V3-Base; a cluster", sft_r1_dev1()),
    "r1-dev3": ("the paper's SFT of DeepSeek-V3-Base on the 800k samples; a cluster", sft_r1_dev3()),
    **{
        name: (f"the paper's student: {base} on the 800k samples; {student_hardware(name)}", sft_student(name))
        for name, (base, _) in STUDENTS.items()
    },
    **MODEL_SFT,
    **R1_SFT,
}
PREFERENCES: dict[str, tuple[str, PreferencesConfig]] = {
    "demo": ("judged responses to the demo's general prompts; 2 CPU cores, minutes", preferences_demo()),
    "tiny": (TINY, preferences_tiny()),
    "r1": ("the paper's preference pairs and safety labels; a cluster", preferences_r1()),
}
REWARD_MODEL: dict[str, tuple[str, RewardModelConfig]] = {
    "demo": ("the helpful reward model; 2 CPU cores, minutes", reward_model_demo()),
    "tiny": (TINY, reward_model_tiny()),
    "r1-helpful": ("the paper's helpful reward model, pairwise; a cluster", reward_model_r1_helpful()),
    "r1-safety": ("the paper's safety reward model, point-wise; a cluster", reward_model_r1_safety()),
    **R1_REWARD_MODEL,
}
DISTILL: dict[str, tuple[str, DistillConfig]] = {
    "demo": ("R1's samples teach the smaller base model; 2 CPU cores, minutes", distill_demo()),
    "tiny": (TINY, distill_tiny()),
    **{
        name: (f"the paper's student {base}, from samples of DeepSeek-R1; GPUs", distill_student(name))
        for name, (base, _) in STUDENTS.items()
    },
}
__all__ = [
    "ALGOS", "DISTILL", "MODEL_REJECT", "MODEL_RL", "MODEL_SFT", "PREFERENCES", "PRETRAIN",
    "R1_REJECT", "R1_REWARD_MODEL", "R1_RL", "R1_SFT", "REJECT", "REWARD_MODEL", "RL", "SFT", "STUDENTS", "dapo",
    "distill_demo", "distill_student", "distill_tiny", "dr_grpo", "grpo", "gspo", "preferences_demo",
    "preferences_r1", "preferences_tiny", "pretrain_demo", "pretrain_demo_student", "pretrain_tiny",
    "reject_cold_start", "reject_demo", "reject_rejection_sampling", "reject_tiny", "reward_model_demo",
    "reward_model_r1_helpful", "reward_model_r1_safety", "reward_model_tiny", "rl_demo", "rl_r1", "rl_r1_dev2",
    "rl_r1_zero", "rl_r1_zero_qwen_32b", "rl_tiny", "sft_demo", "sft_r1_dev1", "sft_r1_dev3", "sft_student",
    "sft_tiny",
]  # fmt: skip
