"""Configs check themselves and survive config.json; presets hold the paper's numbers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from r1kit import config, presets
from r1kit.config import (
    AlgoConfig,
    ChatConfig,
    EvalConfig,
    EvaluateConfig,
    ModelShape,
    OnPolicyConfig,
    OptimConfig,
    PreferencesConfig,
    PretrainConfig,
    ReadableConfig,
    RejectConfig,
    RewardConfig,
    RewardModelConfig,
    RLConfig,
    SFTConfig,
    from_dict,
    to_dict,
)

CONFIGS = {
    **{f"rl {name}": config for name, (_, config) in presets.RL.items()},
    **{f"pretrain {name}": config for name, (_, config) in presets.PRETRAIN.items()},
    **{f"algo {name}": config for name, config in presets.ALGOS.items()},
    "evaluation": EvalConfig(model="m", out=Path("somewhere")),
    "evaluate": EvaluateConfig(model="m", format="free"),
    "reject": RejectConfig(model="m", format="r1"),
    "chat": ChatConfig(model="m"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_survives_json(name):
    config = CONFIGS[name]
    assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("table", [presets.RL, presets.PRETRAIN])
def test_presets_are_described_and_write_apart(table):
    assert all(description for description, _ in table.values())
    runs = [config.run for _, config in table.values()]
    assert len(set(runs)) == len(runs)


def test_unknown_field_is_named():
    with pytest.raises(ValueError, match=r"OptimConfig has no field \['speed'\]"):
        from_dict(OptimConfig, {"speed": 1})


def test_r1_zero_has_the_papers_numbers():
    _, config = presets.RL["r1-zero"]
    outputs_per_rollout = config.problems_per_step * config.group_size * config.minibatches
    assert outputs_per_rollout == 8192
    assert config.problems_per_step * config.group_size == 512
    assert (config.optim.lr, config.algo.kl_coef, config.algo.reference_every) == (3e-6, 0.001, 400)
    assert (config.steps, config.inner_epochs, config.temperature) == (10_400, 1, 1.0)
    assert (config.max_new_tokens, config.raised_cap) == (32_768, 65_536)
    nearest_rollouts = {8_192, 8_208}  # to the paper's "8.2k", in steps of 16
    assert config.raise_cap_at in nearest_rollouts
    _, qwen = presets.RL["r1-zero-qwen-32b"]
    assert (qwen.optim.lr, qwen.algo.kl_coef, qwen.group_size, qwen.max_new_tokens) == (2e-6, 0.001, 16, 32_768)
    assert qwen.raise_cap_at == 0


def test_variants_differ_from_grpo_where_their_papers_do():
    grpo, gspo, dapo, dr_grpo = (presets.ALGOS[name] for name in ("grpo", "gspo", "dapo", "dr-grpo"))
    assert (grpo.advantage, grpo.ratio, grpo.aggregation) == ("group-std", "token", "sequence")
    assert (gspo.ratio, gspo.clip_low, gspo.clip_high) == ("sequence", 3e-4, 4e-4)
    assert (dapo.aggregation, dapo.clip_low, dapo.clip_high) == ("token", 0.2, 0.28)
    assert dapo.dynamic_sampling > 0
    assert (dr_grpo.advantage, dr_grpo.aggregation) == ("group-mean", "constant")
    assert gspo.kl_coef == dapo.kl_coef == dr_grpo.kl_coef == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimConfig(lr=-1), "--optim.lr is -1"),
        (lambda: AlgoConfig(kl_coef=-0.1), "--algo.kl-coef is -0.1"),
        (lambda: EvalConfig(num_samples=0), "--num-samples is 0"),
        (lambda: EvalConfig(top_k=-1), "--top-k is -1"),
        (lambda: RLConfig(temperature=0.0), "--temperature is 0; give a value above 0: .* greedy"),
        (lambda: RLConfig(group_size=1), "--group-size is 1"),
        (lambda: RLConfig(steps=10, minibatches=4), "--steps 10 must be a multiple"),
        (lambda: replace(presets.rl_r1_zero(), save_every=100), "--save-every 100 must be a multiple"),
        (lambda: RLConfig(raise_cap_at=10, raised_cap=100), "--raised-cap 100 must be above"),
        (lambda: ModelShape(hidden=100, heads=8), "--shape.hidden 100"),
        (lambda: ChatConfig(top_p=0), "--top-p is 0"),
        (lambda: OnPolicyConfig(tasks=()), "--on-policy.tasks is empty"),
        (lambda: OnPolicyConfig(steps=0), "--on-policy.steps is 0"),
        (lambda: OnPolicyConfig(problems_per_step=0), "--on-policy.problems-per-step is 0"),
        (lambda: OnPolicyConfig(group_size=-1), "--on-policy.group-size is -1"),
        (lambda: OnPolicyConfig(max_new_tokens=0), "--on-policy.max-new-tokens is 0"),
        (lambda: OnPolicyConfig(temperature=0.0), "--on-policy.temperature is 0.0"),
        (lambda: ReadableConfig(min_consistency=97), "--readable.min-consistency is 97"),
        (lambda: ReadableConfig(max_repetition=-0.1), "--readable.max-repetition is -0.1"),
        (lambda: ReadableConfig(max_paragraph_chars=-1), "--readable.max-paragraph-chars is -1"),
        (lambda: ReadableConfig(min_tokens=-1), "--readable.min-tokens is -1"),
        (lambda: ReadableConfig(max_tokens=-1), "--readable.max-tokens is -1"),
        (lambda: ReadableConfig(min_tokens=5, max_tokens=4), "--readable.max-tokens 4 is below"),
        (
            lambda: RLConfig(steps=8, general_tasks=("general",), general_from=8),
            "--general-from 8 is not below --steps 8",
        ),
        (lambda: RLConfig(general_share=0.5), "--general-share is 0.5 and there are no general prompts"),
        (lambda: RLConfig(general_from=5), "--general-from is 5 and there are no general prompts"),
        (lambda: RejectConfig(general_share=0.5), "--general-share is 0.5 and there are no general data"),
        (lambda: PreferencesConfig(max_length_bias=-1.0), "--max-length-bias is -1.0"),
        (lambda: RewardConfig(language_weight=-1.0), "--reward.language-weight is -1.0"),
        (lambda: RewardConfig(preference_weight=-1.0), "--reward.preference-weight is -1.0"),
        (lambda: AlgoConfig(overlong_penalty=-1.0), "--algo.overlong-penalty is -1.0"),
        (lambda: RLConfig(tokens_per_microbatch=0), "--tokens-per-microbatch is 0"),
        (lambda: SFTConfig(tokens_per_microbatch=0), "--tokens-per-microbatch is 0"),
        (lambda: RewardModelConfig(tokens_per_microbatch=0), "--tokens-per-microbatch is 0"),
        (lambda: PretrainConfig(tokens_per_microbatch=0), "--tokens-per-microbatch is 0"),
        (lambda: RLConfig(rows=0), "--rows is 0"),
        (lambda: EvalConfig(rows=0), "--rows is 0"),
        (lambda: RLConfig(eval_every=-1), "--eval-every is -1"),
        (lambda: SFTConfig(stop_after=-1), "--stop-after is -1"),
    ],
)
def test_a_wrong_value_is_named_with_its_flag(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (
            RejectConfig,
            {"rewrite": "rule"},
            r"rewrite is 'rule'; give 'none', 'rules' or 'endpoint' \(did you mean 'rules",
        ),
        (
            RewardModelConfig,
            {"kind": "Helpful"},
            "kind is 'Helpful'; give 'helpful' or 'safety' .did you mean 'helpful'",
        ),
        (OptimConfig, {"schedule": "cosinus"}, "schedule is 'cosinus'; give 'constant', .* .did you mean 'cosine'"),
        (AlgoConfig, {"advantage": "groupmean"}, "advantage is 'groupmean'; .* .did you mean 'group-mean'"),
        (RewardConfig, {"format": "r1zero"}, "format is 'r1zero'; .* .did you mean 'r1-zero'"),
        (RLConfig, {"track": ("tensorbord",)}, "track is .* .did you mean 'tensorboard'.. in place of 'tensorbord'"),
        (RLConfig, {"steps": "ten"}, "steps is 'ten'; give a whole number"),
        (RLConfig, {"steps": 10.0}, "steps is 10.0; give a whole number"),
        (RLConfig, {"steps": True}, "steps is True; give a whole number"),
        (RLConfig, {"model": None}, "model is None; give a text"),
        (RLConfig, {"tasks": "countdown"}, r"tasks is 'countdown'; give a tuple, such as \('countdown',\)"),
        (RLConfig, {"tasks": ["countdown"]}, r"tasks is \['countdown'\]; give a tuple, such as \('countdown',\)"),
        (RLConfig, {"optim": {"lr": 1}}, "optim is {'lr': 1}; give an OptimConfig"),
        (OptimConfig, {"betas": (0.9,)}, r"betas is \(0.9,\); give a tuple of 2"),
        (OptimConfig, {"lr": "1e-4"}, "lr is '1e-4'; give a number"),
        (AlgoConfig, {"mask_truncated": 1}, "mask_truncated is 1; give True or False"),
        (EvalConfig, {"out": "here"}, "out is 'here'; give a pathlib.Path or None"),
        (EvaluateConfig, {"format": "R1"}, "format is 'R1'"),
    ],
)
def test_a_value_of_another_type_is_named_with_what_to_give(make: Callable[..., object], values: dict, message: str):
    with pytest.raises(ValueError, match=f"^{make.__name__}.{message}"):
        make(**values)
    if make is not EvaluateConfig:
        with pytest.raises(ValueError, match=f"^{make.__name__}.{message}"):
            replace(make(), **values)  # type: ignore[type-var]


def test_values_of_the_right_type():
    assert OptimConfig(lr=1).lr == 1  # a whole number is a number too
    assert EvalConfig(out=None).out is None and EvalConfig(out=Path("x")).out == Path("x")
    assert RLConfig(track=("wandb",)).track == ("wandb",)
    with pytest.raises(ValueError, match="OptimConfig.schedule is 'cosinus'"):
        from_dict(OptimConfig, {"schedule": "cosinus"})


def test_every_config_is_checked():
    configs = [value for value in vars(config).values() if isinstance(value, type)]
    assert len(configs) > 20
    for cls in configs:
        assert cls.__post_init__.__qualname__.startswith("config."), f"{cls.__name__} is not made by checked.config"


@pytest.mark.parametrize("make", [EvalConfig, RejectConfig, RLConfig])
@pytest.mark.parametrize(("name", "value"), [("temperature", -1), ("top_p", 0), ("top_p", 1.5), ("max_new_tokens", 0)])
def test_settings_that_nothing_can_be_sampled_with(make: Callable[..., object], name: str, value: float):
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is {value}; give "):
        make(**{name: value})


def test_the_ends_of_a_range_are_in_it():
    EvalConfig(temperature=0, top_p=1, top_k=0, max_new_tokens=1)
    RejectConfig(temperature=0, top_p=0.01, max_new_tokens=1)
    RLConfig(temperature=0.01, top_p=0.01, top_k=1, max_new_tokens=1)
    OnPolicyConfig(steps=1, problems_per_step=1, group_size=1, max_new_tokens=1, temperature=0.01)
    ReadableConfig(min_consistency=0, max_repetition=0, max_paragraph_chars=0, min_tokens=0, max_tokens=0)
    ReadableConfig(min_consistency=1, max_repetition=1, min_tokens=4, max_tokens=4)
    RLConfig(steps=8, general_tasks=("general",), general_from=7, general_share=1.0)
    RejectConfig(general_share=0.0)
    PreferencesConfig(max_length_bias=0.0)
    RewardConfig(accuracy_weight=0.0, function_weight=-1.0)  # a function may return what is bad
