"""What would stop a recipe at some later stage, found before the first one computes.

Of each stage: what it refers to leaves what it needs; models, reward models, data, tasks, templates and trackers are
there; tasks have as many problems as are asked for. What is only on the Hugging Face hub is not asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.config import (
    DistillConfig,
    EndpointConfig,
    EvalConfig,
    PreferencesConfig,
    PretrainConfig,
    RejectConfig,
    RewardModelConfig,
    RLConfig,
    SFTConfig,
)
from r1kit.trackers import check_trackers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenizerOf = Callable[[str], "PreTrainedTokenizerBase | None"]

LEAVES = {
    PretrainConfig: "a model", RLConfig: "a model", SFTConfig: "a model", DistillConfig: "a model",
    RejectConfig: "conversations", PreferencesConfig: "preferences", EvalConfig: "scores",
}  # fmt: skip


def check_stages(chosen: Sequence[str], configs: Mapping[str, Any]) -> None:
    """ValueError or FileNotFoundError, with the stage's name, for the first of the stages that could not run.

    `configs`: all stages of the recipe, their references as they are written.
    """
    for name in chosen:
        config = configs[name]
        try:
            check_references(config, configs)
            check_settings(config)
            check_problems(config, partial(_tokenizer, configs=configs) if _counts_tokens(config) else lambda _: None)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"stage {name}: {error}") from error
        except ValueError as error:
            raise ValueError(f"stage {name}: {error}") from error


def check_references(config: Any, configs: Mapping[str, Any]) -> None:
    """ValueError for `@name` of a stage that leaves something else than the setting needs."""
    for owner, setting, value in settings(config):
        for text in value if isinstance(value, tuple) else (value,):
            if not isinstance(text, str) or not text.startswith("@") or "/" in text:
                continue  # something in a stage's folder may be anything
            needed, found = _needed(owner, setting), _leaves(configs[text[1:]])
            if needed and needed != found:
                fitting = [name for name, other in configs.items() if other is not config and _leaves(other) == needed]
                raise ValueError(
                    f"{setting} is {text}, a stage that leaves {found}; give one that leaves {needed}"
                    + (f" ({', '.join('@' + name for name in fitting)})" if fitting else "")
                )


def settings(config: Any) -> Iterator[tuple[Any, str, Any]]:
    """(owner, name, value) of every setting, those of its parts too."""
    for one in fields(config):
        value = getattr(config, one.name)
        if is_dataclass(value):
            yield from settings(value)
        else:
            yield config, one.name, value


def _needed(owner: Any, setting: str) -> str:
    """What a stage has to leave to be named here; empty where anything will do."""
    match owner, setting:
        case EndpointConfig(), _:
            return ""
        case _, "model" | "teacher":
            return "a model"
        case _, "helpful_model" | "safety_model":
            return f"a {setting.removesuffix('_model')} reward model"
        case RewardModelConfig(), "data":
            return "preferences"
        case _, "data" | "heldout_data" | "general_data":
            return "conversations"
        case _:
            return ""


def _leaves(config: Any) -> str:
    return f"a {config.kind} reward model" if isinstance(config, RewardModelConfig) else LEAVES[type(config)]


def check_settings(config: Any) -> None:
    """ValueError or FileNotFoundError for a model, data, a template, a reward or a tracker that is not there."""
    from r1kit.curation.pairs import PAIRS, SAFETY
    from r1kit.data.rows import check_source
    from r1kit.model.chat import check_template
    from r1kit.rewards.accuracy import check_scorer
    from r1kit.training.conversations import IN_RUN
    from r1kit.training.models import resolve_model
    from r1kit.training.reward_model import find_reward_model, require_kind

    for owner, setting, value in settings(config):
        match setting:
            case "function" if value:
                check_scorer(value)
            case "track":
                check_trackers(value)
            case "template" if value:
                check_template(value)
            case "model" | "teacher" if not isinstance(owner, EndpointConfig):
                if _local(value) or (not value and owner is config and setting == "model"):
                    resolve_model(value)
            case "helpful_model" | "safety_model" if value and not value.startswith("@"):
                require_kind(value, find_reward_model(value)[1]["kind"], setting.removesuffix("_model"))
            case "data" | "heldout_data" | "general_data":
                if owner is config and setting == "data" and not value:
                    raise ValueError("data is empty; give files, folders, hub names or stages that leave data")
                in_run = IN_RUN
                if isinstance(owner, RewardModelConfig):
                    in_run = PAIRS if owner.kind == "helpful" else SAFETY
                for source in value:
                    if not source.startswith("@") and (setting, source) != ("general_data", "general"):
                        check_source(source, in_run)


def check_problems(config: Any, tokenizer_of: TokenizerOf) -> None:
    """ValueError or FileNotFoundError for a task that is not there, or has fewer problems than are asked for.

    `tokenizer_of` gives a model's tokenizer; None where it is not known before the model is there: then prompts that
    `--filter.max-prompt-tokens` will drop are still counted.
    """
    from r1kit.stages import distill, preferences, reject, rl, sft
    from r1kit.training.evaluation import evaluation_sets

    match config:
        case RLConfig():
            rl.read_problems(config, tokenizer_of(config.model))
        case SFTConfig():
            sft.check_eval(config, tokenizer_of(config.model))
        case RejectConfig():
            reject.read_problems(config, tokenizer_of(config.model))
        case PreferencesConfig():
            preferences.general_problems(config, defaultdict(float))
        case DistillConfig():
            sft.check_eval(distill.student_config(config), tokenizer_of(config.sft.model))
            if config.method == "on-policy":
                distill.read_problems(config)
            elif not config.sft.data:
                reject.read_problems(replace(config.samples, model=config.teacher), tokenizer_of(config.teacher))
        case EvalConfig():
            evaluation_sets(config, tokenizer_of(config.model))
        case PretrainConfig():
            evaluation_sets(config.eval)


def _counts_tokens(config: Any) -> bool:
    return any(setting == "max_prompt_tokens" and value for _, setting, value in settings(config))


def _tokenizer(model: str, configs: Mapping[str, Any]) -> PreTrainedTokenizerBase | None:
    """The tokenizer that a model has from the model that its stages began with, where that one is on this machine."""
    from r1kit.model.tokenizer import load_tokenizer
    from r1kit.training.models import resolve_model

    while model.startswith("@"):
        match configs[model[1:].partition("/")[0]]:
            case PretrainConfig():
                return None  # it makes its own
            case DistillConfig(sft=student):
                model = student.model
            case made:
                model = made.model
    return load_tokenizer(resolve_model(model)) if _local(model) else None


def _local(model: str) -> bool:
    """Whether a model is something on this machine: no stage of the recipe and no Hugging Face name."""
    if not model or model.startswith("@"):
        return False
    return model.startswith((".", "/")) or model.count("/") != 1 or Path(model).is_dir()
