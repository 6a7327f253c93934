"""Facts about a recipe's checks: what would stop a stage is said, with its name, before the first one runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from r1kit.config import (
    DistillConfig,
    EndpointConfig,
    EvalConfig,
    FilterConfig,
    PreferencesConfig,
    PretrainConfig,
    RejectConfig,
    RewardConfig,
    RewardModelConfig,
    RLConfig,
    SFTConfig,
)
from r1kit.recipe_checks import check_stages
from r1kit.recipes import demo, tiny

SERVER = EndpointConfig(url="https://api.deepseek.com/v1", model="deepseek-chat")
MODELS = {"zero": RLConfig(), "data": RejectConfig(model="@zero"), "preferences": PreferencesConfig(model="@zero")}


def check(**stages: Any) -> None:
    check_stages(list(stages), MODELS | stages)


@pytest.mark.parametrize("recipe", [demo, tiny])
def test_the_recipes_that_come_with_r1kit_pass(recipe: Any):
    check_stages(list(recipe.stages()), recipe.stages())


@pytest.mark.parametrize(
    "stage",
    [
        RejectConfig(model="demo-base", judge=SERVER),
        RejectConfig(model="demo-base", teacher=SERVER),
        RejectConfig(model="demo-base", rewrite="endpoint", rewriter=SERVER),
        PreferencesConfig(model="@zero", judge=SERVER),
    ],
)
def test_a_server_knows_its_own_models(stage: Any):
    check(stage=stage)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (SFTConfig(data=("nowhere.jsonl",)), "stage mine: nowhere.jsonl: no such file"),
        (SFTConfig(), "stage mine: data is empty"),
        (SFTConfig(data=("@data",), heldout_data=("nowhere.jsonl",)), "nowhere.jsonl: no such file"),
        (SFTConfig(data=("@data",), template="shrot"), "no template 'shrot'; templates are short, "),
        (RLConfig(tasks=("count",)), "no task 'count' .did you mean countdown"),
        (RLConfig(model="./nowhere"), "nowhere"),
        (RejectConfig(), "no model is named"),
        (EvalConfig(), "no model is named"),
    ],
)
def test_what_is_missing_is_found(stage: Any, message: str):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check(mine=stage)


@pytest.mark.parametrize("kind", ["helpful", "safety"])
def test_a_reward_model_that_is_missing_or_of_the_other_kind_is_found(kind: str, tmp_path: Path):
    def judged_by(folder: Path) -> RLConfig:
        reward = RewardConfig(preference_weight=1.0, helpful_model=str(folder), safety_model=str(folder))
        reward = replace(reward, **{f"{'safety' if kind == 'helpful' else 'helpful'}_model": ""})
        return RLConfig(tasks=("general",), reward=reward)

    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        check(mine=judged_by(tmp_path / "nowhere"))
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(FileNotFoundError, match="not a reward model"):
        check(mine=judged_by(tmp_path))
    other = "safety" if kind == "helpful" else "helpful"
    (tmp_path / "reward_model.json").write_text(json.dumps({"kind": other, "mean": 0.0}))
    with pytest.raises(ValueError, match=f"--reward.{kind}-model .* is a {other} reward model; train one with --kind"):
        check(mine=judged_by(tmp_path))


@pytest.fixture
def twenty(tmp_path: Path) -> str:
    rows = [
        {"prompt": f"What is {n} + 1?" + " Please." * n, "answer": str(n + 1), "split": "heldout" if n < 5 else "train"}
        for n in range(20)
    ]
    path = tmp_path / "twenty.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_more_problems_than_a_file_has(twenty: str):
    few = EvalConfig(tasks=(twenty,), num_problems=5)
    many = EvalConfig(tasks=(twenty,), num_problems=6)
    sft = SFTConfig(data=("@data",), eval_every=1)
    check(
        a=RejectConfig(model="@zero", tasks=(twenty,), num_problems=15), b=RLConfig(tasks=(twenty,), eval=few),
        c=replace(few, model="@zero"), d=replace(sft, eval=few), e=replace(sft, eval=many, eval_every=0),
        f=RLConfig(tasks=(twenty,), eval=many, eval_every=0),
    )  # fmt: skip
    for stage, asked in (
        (RejectConfig(model="@zero", tasks=(twenty,), num_problems=16), "16 train problems asked for, it has 15"),
        (RLConfig(tasks=(twenty,), eval=many), "6 heldout problems asked for, it has 5"),
        (replace(many, model="@zero"), "6 heldout problems asked for, it has 5"),
        (replace(sft, eval=many), "6 heldout problems asked for, it has 5"),
        (PretrainConfig(eval=many), "6 heldout problems asked for, it has 5"),
        (DistillConfig(teacher="@zero", samples=RejectConfig(tasks=(twenty,), num_problems=16)), "16 train problems"),
    ):
        with pytest.raises(ValueError, match=f"stage mine: .*{asked}"):
            check(mine=stage)


def test_prompts_that_are_too_long_do_not_count_where_the_tokenizer_is_known(twenty: str):
    """It is that of the model that the stages before began with."""
    stage = RejectConfig(model="@zero", tasks=(twenty,), num_problems=15, filter=FilterConfig(max_prompt_tokens=60))
    with pytest.raises(ValueError, match="15 train problems asked for, it has [0-9]+; ask for at most"):
        check(mine=stage)
    with pytest.raises(ValueError, match="all 15 train prompts are longer than 3 tokens"):
        check(mine=replace(stage, filter=FilterConfig(max_prompt_tokens=3)))
    check(mine=replace(stage, filter=FilterConfig(max_prompt_tokens=3), model="@far"), far=RLConfig(model="org/name"))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (RLConfig(model="@data"), "model is @data, a stage that leaves conversations; give one .* a model .@zero.$"),
        (
            EvalConfig(model="@rm"),
            "model is @rm, a stage that leaves a safety reward model; give one that leaves a model",
        ),
        (DistillConfig(teacher="@data"), "teacher is @data, a stage that leaves conversations"),
        (SFTConfig(data=("@zero",)), "data is @zero, a stage that leaves a model; give one .* conversations .@data.$"),
        (SFTConfig(data=("@preferences",)), "data is @preferences, a stage that leaves preferences"),
        (SFTConfig(data=("@data",), heldout_data=("@zero",)), "heldout_data is @zero"),
        (RewardModelConfig(data=("@data",)), "data is @data, .* give one that leaves preferences .@preferences.$"),
        (
            RLConfig(reward=RewardConfig(helpful_model="@rm")),
            "helpful_model is @rm, a stage that leaves a safety reward model; give one .* a helpful reward model$",
        ),
        (RejectConfig(model="@zero", general_data=("@zero",)), "general_data is @zero"),
    ],
)
def test_a_reference_to_a_stage_of_the_wrong_kind(stage: Any, message: str):
    with pytest.raises(ValueError, match=f"stage mine: {message}"):
        check_stages(
            ["mine"], {**MODELS, "rm": RewardModelConfig(data=("@preferences",), kind="safety"), "mine": stage}
        )


def test_references_of_the_right_kind_pass():
    check(
        rm=RewardModelConfig(model="@zero", data=("@preferences",), kind="safety"),
        sft=SFTConfig(data=("@data", "@data/sft.jsonl"), model="@zero/checkpoints/step-000020"),
        distilled=DistillConfig(teacher="@sft", sft=SFTConfig(model="demo-student")),
        rl=RLConfig(model="@distilled", tasks=("general",), eval_every=0, reward=RewardConfig(safety_model="@rm")),
    )
