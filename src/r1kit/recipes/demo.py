"""The whole of R1 on two CPU cores, offline: base -> R1-Zero -> Dev1 -> Dev2 -> Dev3 -> R1 -> students -> report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from r1kit import presets
from r1kit.config import EvalConfig, OptimConfig, ReadableConfig, RewardConfig

SECONDS = {
    "eval-base": 6, "eval-student-base": 4, "zero": 300, "eval-zero": 51, "general-zero": 5, "cold-start": 11,
    "dev1": 57, "eval-dev1": 37, "dev2": 560, "eval-dev2": 38, "dev2-no-language": 535, "eval-dev2-no-language": 37,
    "rejection-sampling": 75, "dev3": 140, "eval-dev3": 35, "general-dev3": 4, "preferences": 9, "helpful-rm": 9,
    "safety-rm": 4, "r1": 235, "eval-r1": 65, "general-r1": 4, "hacking": 290, "r1-samples": 75,
    "student-distilled": 80, "eval-student-distilled": 21, "student-rl": 39, "eval-student-rl": 11,
}  # fmt: skip
"""What each stage took with `--jobs 2`, for the plan."""
MACHINE = "measured on 2 CPU cores with AVX512-BF16"
ALONE = ("zero", "rejection-sampling", "dev3", "preferences", "helpful-rm", "safety-rm", "r1")
"""The main line where nothing long could run beside it: with --jobs these have all the cores."""


def stages() -> dict[str, Any]:
    """The stages of R1 V2 Fig. 2, the students of V1 2.4, and what the report compares them with."""
    zero = replace(presets.rl_demo(), steps=64, eval_every=32, save_every=8)
    evaluation = zero.eval
    zero = replace(zero, eval=replace(evaluation, num_problems=32, num_samples=4))  # a curve; eval-* measure
    rl = replace(
        zero,
        steps=60,
        eval_every=0,
        reward=RewardConfig(format="r1", language_weight=1.0),
        optim=OptimConfig(lr=3e-4, schedule="linear", warmup_steps=4),
    )
    everything = RewardConfig(
        format="r1", language_weight=1.0, preference_weight=1.0, helpful_model="@helpful-rm", safety_model="@safety-rm"
    )
    sample, sft = presets.reject_demo(), presets.sft_demo()
    judge, student = presets.reward_model_demo(), "demo-student"
    recipe = {
        "zero": zero,
        # Little data, seen often, as the paper's thousands are: the form is learnt, and accuracy is left to win back.
        "cold-start": replace(sample, model="@zero", num_problems=128),
        "dev1": replace(sft, data=("@cold-start",), epochs=12),
        "dev2": replace(rl, model="@dev1"),
        "dev2-no-language": replace(rl, model="@dev1", reward=RewardConfig(format="r1")),
        "rejection-sampling": replace(
            sample, model="@dev2", rewrite="none", num_problems=1024, keep_per_problem=4,
            general_data=("general",), temperature=0.6, top_p=0.95,
            # A search that goes in circles teaches to run into the length cap.
            readable=ReadableConfig(max_repetition=0.1),
        ),
        # Four times the cold start's data bears a higher rate, once it is warmed up.
        "dev3": replace(sft, data=("@rejection-sampling",), optim=replace(sft.optim, lr=8e-4, warmup_steps=10)),
        "preferences": replace(presets.preferences_demo(), model="@dev3"),
        "helpful-rm": replace(judge, model="@dev3", data=("@preferences",)),
        "safety-rm": replace(judge, model="@dev3", data=("@preferences",), kind="safety"),
        "r1": replace(
            rl, model="@dev3", steps=48, general_tasks=("general",), general_share=0.375, general_from=32,
            temperature=0.7, max_new_tokens=512, reward=everything, optim=replace(rl.optim, lr=1e-4),
        ),
        "hacking": replace(
            rl, model="@r1", tasks=(), general_tasks=("general",), general_share=1.0, temperature=0.7, steps=80,
            problems_per_step=8, optim=OptimConfig(lr=3.5e-4, warmup_steps=4), reward=everything, max_new_tokens=192,
            eval_every=40,
            eval=replace(rl.eval, tasks=("general", *rl.tasks), num_problems=90, num_samples=4),
        ),
        "r1-samples": replace(
            sample, model="@r1", rewrite="none", keep_per_problem=4, temperature=0.6, top_p=0.95,
        ),
        "student-distilled": replace(sft, model=student, data=("@r1-samples",)),
        "student-rl": replace(zero, model=student, steps=24, eval_every=0, save_every=12),
    }  # fmt: skip
    models = {name: f"@{name}" for name in ("zero", "dev1", "dev2", "dev2-no-language", "dev3", "r1")}
    models |= {"base": "demo-base", "student-base": student}
    models |= {name: f"@{name}" for name in ("student-distilled", "student-rl")}
    recipe |= {f"eval-{name}": replace(evaluation, model=model, num_samples=8) for name, model in models.items()}
    for name in ("zero", "r1"):  # cons@16, and the claims of small differences
        recipe[f"eval-{name}"] = replace(evaluation, model=models[name], num_samples=16)
    for name in ("zero", "dev3", "r1"):
        recipe[f"general-{name}"] = EvalConfig(
            model=f"@{name}", tasks=("general",), num_problems=90, num_samples=8, max_new_tokens=192
        )
    return recipe
