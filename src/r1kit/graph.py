"""A recipe's stages as a graph: what each refers to, whether it is done, and how one is run.

`@zero` in a config stands for the run folder of the stage `zero`. A stage is done when its folder says so under a key
made of its config and of what its inputs hold; a stage that was cut off goes on from its own checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from r1kit.config import (
    DistillConfig,
    EvalConfig,
    PreferencesConfig,
    PretrainConfig,
    RejectConfig,
    RewardModelConfig,
    RLConfig,
    SFTConfig,
    to_dict,
)  # fmt: skip
from r1kit.digest import digest_of, file_digest, folder_digest, folder_files
from r1kit.model.hf import SHIPPED, model_folder
from r1kit.recipes import Recipe, load_recipe
from r1kit.run import flat, is_changeable, write_json_atomic

KINDS: dict[type, str] = {
    PretrainConfig: "pretrain", RLConfig: "rl", SFTConfig: "sft", RejectConfig: "reject",
    PreferencesConfig: "preferences", RewardModelConfig: "reward-model", DistillConfig: "distill",
    EvalConfig: "evaluate",
}  # fmt: skip
MARK = ".stage.json"
"""Key, state, output and seconds of a stage; hidden, because a stage finds its folder empty or its own."""
NOT_OUTPUT = {"README.md", "config.json", "metrics.jsonl", "samples.jsonl", "manifest.json", "state.json", "learner.pt"}


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe in a pipeline folder."""

    name: str
    kind: str
    config: Any
    """With references resolved to folders, and its own run folder set."""
    inputs: tuple[str, ...]
    """Stages that it refers to."""
    folder: Path
    identity: str
    """Hash of the config with references by name: what changes the result, besides the inputs."""
    outside: tuple[str, ...]
    """Texts of the config that may name a file or a model from outside the pipeline."""


def read_recipe(name: str) -> Recipe:
    """The recipe of that name. What is wrong with a value in a recipe's file is said with the line that gives it."""
    try:
        return load_recipe(name)
    except ValueError as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(Path(name).absolute())]
        if not frames:
            raise
        raise ValueError(f"{name}, line {frames[-1].lineno}: {error}") from error


def resolve(recipe: Recipe, run: Path, seed: int | None) -> list[Stage]:
    """The stages in an order in which every input comes before its use (the recipe's, where that is one)."""
    configs = recipe.stages
    waiting = dict(configs)
    stages: list[Stage] = []
    while waiting:
        done = {stage.name for stage in stages}
        ready = [name for name, config in waiting.items() if references(config) <= done]
        ready.sort(
            key=lambda name: not isinstance(waiting[name], EvalConfig)
        )  # a model is scored as soon as it is there
        if not ready:
            name, config = next(iter(waiting.items()))
            missing = sorted(references(config) - done)
            known = "depends on itself" if set(missing) <= configs.keys() else f"the stages are {', '.join(configs)}"
            raise ValueError(f"recipe: stage {name!r} refers to {', '.join('@' + m for m in missing)}; {known}")
        name = ready[0]
        stages.append(_stage(name, waiting.pop(name), run, seed))
    return stages


def references(config: Any) -> set[str]:
    """Names of the stages that a config refers to, as in `model="@zero"`."""
    return {value[1:].partition("/")[0] for value in _strings(config) if value.startswith("@")}


def _stage(name: str, config: Any, run: Path, seed: int | None) -> Stage:
    if type(config) not in KINDS:
        raise ValueError(f"recipe: stage {name!r} is a {type(config).__name__}; give a config of r1kit.config")
    seeded = with_seed(config, seed)
    plain = {key: value for key, value in flat(to_dict(seeded)).items() if not is_changeable(key) and key != "out"}
    identity = hashlib.sha256(json.dumps([KINDS[type(config)], plain], sort_keys=True).encode()).hexdigest()
    folder = run / name
    place = {"out": folder} if isinstance(config, EvalConfig) else {"run": folder}
    resolved = replace(_resolved(seeded, run), **place)
    outside = tuple(text for text in _strings(config) if text and not text.startswith("@"))
    return Stage(name, KINDS[type(config)], resolved, tuple(sorted(references(config))), folder, identity, outside)


def with_seed(config: Any, seed: int | None) -> Any:
    """The config with the pipeline's seed; evaluations keep theirs, so that all are on the same problems.

    None: with its own.
    """
    if seed is None:
        return config
    if isinstance(config, DistillConfig):
        return replace(config, samples=replace(config.samples, seed=seed), sft=replace(config.sft, seed=seed))
    return config if isinstance(config, EvalConfig) else replace(config, seed=seed)


def _resolved(value: Any, run: Path) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _resolved(getattr(value, f.name), run) for f in fields(value)})
    if isinstance(value, tuple):
        return tuple(_resolved(item, run) for item in value)
    return str(run / value[1:]) if isinstance(value, str) and value.startswith("@") else value


def _strings(value: Any) -> list[str]:
    if is_dataclass(value) and not isinstance(value, type):
        named = [f.name for f in fields(value) if f.name not in ("track", "push_to_hub")]  # no inputs
        return [text for name in named for text in _strings(getattr(value, name))]
    if isinstance(value, tuple):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


def key_of(stage: Stage, stages: Sequence[Stage]) -> str | None:
    """Hash of all that the stage's result depends on; None while an input is not done."""
    by_name = {other.name: other for other in stages}
    inputs = {}
    for name in stage.inputs:
        if state_of(by_name[name], stages) != "done":
            return None
        inputs[name] = output_of(by_name[name])
    outside = {text: _outside(text) for text in stage.outside}
    return hashlib.sha256(json.dumps([stage.identity, inputs, outside], sort_keys=True).encode()).hexdigest()


def state_of(stage: Stage, stages: Sequence[Stage]) -> str:
    """done, begun (it goes on where it stopped), changed (its config or inputs are not what they were) or new.

    Files that somebody has edited leave it done, and change what depends on it; without one of them it is changed.
    """
    mark = mark_of(stage)
    if not mark:
        return "new"
    if mark["key"] != key_of(stage, stages):
        return "changed"
    if mark["state"] != "done":
        return "begun"
    return "done" if output_of(stage) is not None else "changed"


def run_stage(stage: Stage, stages: Sequence[Stage]) -> None:
    """Run one stage to its end. What a changed one had made before is moved aside, not deleted."""
    key = key_of(stage, stages)
    if key is None:
        raise ValueError(f"stage {stage.name}: an input is no longer done, its files have changed; run it again")
    mark = mark_of(stage)
    if mark and mark["key"] != key:
        print(f"{stage.name}: its settings or inputs have changed; the old one is kept in {_set_aside(stage.folder)}")
        mark = {}
    stage.folder.mkdir(parents=True, exist_ok=True)
    before = mark.get("seconds", 0.0)
    write_json_atomic(stage.folder / MARK, {"key": key, "state": "begun", "seconds": before})
    print(f"\n== {stage.name}: {stage.kind} ==", flush=True)
    start = time.perf_counter()
    seconds = before
    try:
        execute(stage.config)
    finally:
        seconds += time.perf_counter() - start
        write_json_atomic(stage.folder / MARK, {"key": key, "state": "begun", "seconds": seconds})
    root = output_root(stage.folder)
    files = _signs(root, folder_files(root, NOT_OUTPUT))
    done = {"key": key, "state": "done", "seconds": seconds, "output": output_digest(stage.folder), "files": files}
    write_json_atomic(stage.folder / MARK, done)


def execute(config: Any) -> None:
    """Run the stage that this config is for."""
    match config:
        case PretrainConfig():
            from r1kit.stages import pretrain as stage
        case RLConfig():
            from r1kit.stages import rl as stage
        case SFTConfig():
            from r1kit.stages import sft as stage
        case RejectConfig():
            from r1kit.stages import reject as stage
        case PreferencesConfig():
            from r1kit.stages import preferences as stage
        case RewardModelConfig():
            from r1kit.stages import reward_model as stage
        case DistillConfig():
            from r1kit.stages import distill as stage
        case EvalConfig():
            from r1kit.stages import evaluate as stage
        case _:
            raise ValueError(f"no stage runs a {type(config).__name__}")
    stage.main(config)  # type: ignore[attr-defined]


def output_of(stage: Stage) -> str | None:
    """Hash of what a stage that is done holds now; None where a file of it is gone.

    While sizes and times are those of its end, the hash is that one: weights are large, and a plan asks often.
    """
    mark, root = mark_of(stage), output_root(stage.folder)
    files = mark.get("files", {})
    if any(not (root / name).is_file() for name in files):
        return None
    return mark["output"] if _signs(root, files) == files else digest_of(root, list(files))


def output_digest(folder: Path) -> str:
    """Hash of what a folder holds: its last checkpoint's model where it has one, else its files without times."""
    return folder_digest(output_root(folder), NOT_OUTPUT)


def output_root(folder: Path) -> Path:
    """The last checkpoint in a stage's folder; the folder where it has none."""
    checkpoints = sorted(folder.glob("checkpoints/step-*")) or sorted(folder.glob("student/checkpoints/step-*"))
    return checkpoints[-1] if checkpoints else folder


def _signs(folder: Path, names: Collection[str]) -> dict[str, list[int]]:
    """Size in bytes and time in ns of each file."""
    about = {name: (folder / name).stat() for name in names}
    return {name: [one.st_size, one.st_mtime_ns] for name, one in about.items()}


def _outside(text: str) -> list[str]:
    """Hashes of the files that a config's text names: a data file, a reward function's file, or what is in a folder.

    Of a run folder what a stage takes from it: its last model, or its data. Empty for a text that names no file.
    """
    if len(text) > 1000:
        return []
    if text in SHIPPED:
        return [file_digest(file) for file in sorted(model_folder(text).glob("*.safetensors"))]
    file, function, _ = text.partition(".py:")
    path = Path(f"{file}.py" if function else text)
    if path.is_dir():
        run = (path / "checkpoints").is_dir() or (path / "metrics.jsonl").is_file()
        return [output_digest(path) if run else folder_digest(path)]
    return [file_digest(path)] if path.is_file() else []


def mark_of(stage: Stage) -> dict[str, Any]:
    """What the stage's folder says of it; empty where it has not begun."""
    path = stage.folder / MARK
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _set_aside(folder: Path) -> Path:
    number = 1
    while (aside := folder.parent / "old" / f"{folder.name}-{number}").exists():
        number += 1
    aside.parent.mkdir(exist_ok=True)
    folder.rename(aside)
    return aside
