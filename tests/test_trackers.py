"""Trackers get the rows of metrics.jsonl, go on with the same run, and never stop training. No network.

TensorBoard's tests read real event files where `tensorboard` is installed; wandb and trackio are small modules that
record what is called.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from r1kit import graph
from r1kit.config import DistillConfig, RewardModelConfig, RLConfig, SFTConfig, from_dict, to_dict
from r1kit.presets import DISTILL, PRETRAIN, RL
from r1kit.recipe_checks import check_stages
from r1kit.recipes import Recipe
from r1kit.run import Run
from r1kit.stages import distill, pretrain, reward_model, rl, sft
from r1kit.trackers import Trackers, check_trackers


class Calls(list[tuple[Any, ...]]):
    """What a fake tracker was asked, in order; a call named in `failing` raises instead."""

    failing: tuple[str, ...] = ()

    def note(self, call: str, *arguments: Any) -> None:
        if call in self.failing:
            raise ConnectionError(f"{call}: no route to host")
        self.append((call, *arguments))

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call for call in self if call[0] == name]


class FakeRun:
    """The part of wandb's and trackio's Run that is used."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self._calls.note("define_metric", name, step_metric)

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._calls.note("log", dict(metrics), step)

    def finish(self) -> None:
        self._calls.note("finish")


def install(name: str, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A module `name` with `init`."""
    calls = Calls()

    def init(**named: Any) -> FakeRun:
        calls.note("init", named)
        return FakeRun(calls)

    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    return calls


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Calls:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return install("wandb", monkeypatch)


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> Calls:
    monkeypatch.delenv("TRACKIO_PROJECT", raising=False)
    return install("trackio", monkeypatch)


def config(*track: str, **changes: Any) -> dict[str, Any]:
    return {**to_dict(RLConfig()), "track": list(track), **changes}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_wandb_gets_every_row_with_its_step_as_the_x_axis(tmp_path: Path, wandb: Calls):
    folder = tmp_path / "demo" / "zero"
    with Run.open(folder, config("wandb"), "rl") as run:
        run.log(0, {"eval/all/pass@1": 0.25})
        run.log(1, {"loss": 0.5, "kl": math.nan, "lr": math.inf})
    (init,) = wandb.named("init")
    identity = json.loads((folder / "trackers.json").read_text())["id"]
    assert init[1]["id"] == identity and init[1]["resume"] == "allow" and init[1]["dir"] == str(folder)
    assert init[1]["name"] == "demo-zero" and init[1]["project"] == "r1kit" and init[1]["allow_val_change"]
    assert init[1]["config"]["stage"] == "rl" and init[1]["config"]["algo"]["kl_coef"] == 0.001
    # No step= argument: W&B would drop what comes again after a rewind.
    logged = [({"step": 0, "eval/all/pass@1": 0.25}, None), ({"step": 1, "loss": 0.5}, None)]
    assert wandb.named("log") == [("log", *arguments) for arguments in logged]
    assert wandb.named("define_metric") == [("define_metric", "step", None), ("define_metric", "*", "step")]
    assert wandb[-1] == ("finish",)


def test_trackio_gets_every_row_at_its_step(tmp_path: Path, trackio: Calls):
    with Run.open(tmp_path / "zero", config("trackio"), "rl") as run:
        run.log(7, {"loss": 0.5})
    (init,) = trackio.named("init")
    identity = json.loads((tmp_path / "zero" / "trackers.json").read_text())["id"]
    assert init[1]["name"] == f"{tmp_path.name}-zero-{identity}" and init[1]["resume"] == "allow"
    assert trackio[1:] == [("log", {"loss": 0.5}, 7), ("finish",)]


def test_a_run_that_goes_on_is_the_same_run_and_shows_rewound_steps_again(tmp_path: Path, wandb: Calls, trackio: Calls):
    for steps in ((1, 2, 3), (3, 4)):  # killed after 3, its last checkpoint was at 2
        with Run.open(tmp_path, config("wandb", "trackio"), "rl") as run:
            run.rewind(2 if steps[0] > 1 else None)
            for step in steps:
                run.log(step, {"loss": step / 10})
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4]
    assert [call[1]["step"] for call in wandb.named("log")] == [1, 2, 3, 3, 4]
    assert [call[2] for call in trackio.named("log")] == [1, 2, 3, 3, 4]
    for calls, key in ((wandb, "id"), (trackio, "name")):
        first, second = calls.named("init")
        assert first[1][key] == second[1][key]
    with Run.open(tmp_path / "other", config("wandb"), "rl"):
        pass
    assert wandb.named("init")[-1][1]["id"] != wandb.named("init")[0][1]["id"]


def test_projects_are_named_by_the_environment(
    tmp_path: Path, wandb: Calls, trackio: Calls, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("TRACKIO_PROJECT", "ours")
    with Run.open(tmp_path, config("wandb", "trackio"), "rl"):
        pass
    assert wandb.named("init")[0][1]["project"] == "mine" and trackio.named("init")[0][1]["project"] == "ours"


def test_a_tracker_that_fails_is_reported_once_and_training_goes_on(
    tmp_path: Path, wandb: Calls, trackio: Calls, capsys: pytest.CaptureFixture[str]
):
    with Run.open(tmp_path, config("wandb", "trackio"), "rl") as run:
        run.log(1, {"loss": 0.1})
        wandb.failing = ("log",)
        run.log(2, {"loss": 0.2})
        wandb.failing = ()
        run.log(3, {"loss": 0.3})
    err = capsys.readouterr().err
    assert err.count("--track wandb failed at step 2") == 1 and "no route to host" in err
    assert [call[1]["loss"] for call in wandb.named("log")] == [0.1] and not wandb.named("finish")
    assert [call[1]["loss"] for call in trackio.named("log")] == [0.1, 0.2, 0.3] and trackio.named("finish")
    assert [row["loss"] for row in rows(tmp_path)] == [0.1, 0.2, 0.3]


def test_a_tracker_that_cannot_end_does_not_fail_the_run(
    tmp_path: Path, wandb: Calls, capsys: pytest.CaptureFixture[str]
):
    wandb.failing = ("finish",)
    with Run.open(tmp_path, config("wandb"), "rl") as run:
        run.log(1, {"loss": 0.1})
    assert "--track wandb failed as it ended" in capsys.readouterr().err
    with Run.open(tmp_path, config(), "rl"):  # the lock is free
        pass


def test_a_tracker_that_does_not_start_stops_the_run_and_ends_the_others(tmp_path: Path, wandb: Calls, trackio: Calls):
    wandb.failing = ("init",)
    with pytest.raises(ValueError, match=r"--track wandb did not start \(ConnectionError: init: no route"):
        Run.open(tmp_path, config("trackio", "wandb"), "rl")
    assert trackio.named("finish")
    with Run.open(tmp_path, config(), "rl"):  # the lock is free, and trackers may change
        pass


def test_an_interrupt_is_not_a_trackers_failure(tmp_path: Path):
    class Interrupted:
        def log(self, step: int, metrics: dict[str, float]) -> None:
            raise KeyboardInterrupt

        def finish(self) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        Trackers({"wandb": Interrupted()}).log(1, {})


def test_without_trackers_nothing_is_written_or_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("wandb", "trackio", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with Run.open(tmp_path, config(), "rl") as run:
        run.log(1, {"loss": 0.1})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "config.json", "metrics.jsonl"]


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("r1kit.trackers.find_spec", lambda name: None)
    yield


def test_a_missing_package_is_named_with_its_install_command(nothing_installed: None):
    with pytest.raises(ModuleNotFoundError, match="--track trackio needs trackio: pip install trackio"):
        check_trackers(("trackio",))
    check_trackers(())


@pytest.mark.parametrize("stage", ["rl", "sft", "pretrain", "reward-model", "distill"])
def test_every_stage_misses_a_package_before_it_does_anything(stage: str, tmp_path: Path, nothing_installed: None):
    run, nowhere = tmp_path / "run", str(tmp_path / "nowhere")
    student = SFTConfig(model=nowhere, data=(nowhere,), track=("wandb",))
    calls = {
        "rl": lambda: rl.main(replace(RL["tiny"][1], run=run, model=nowhere, track=("wandb",))),
        "sft": lambda: sft.main(replace(student, run=run)),
        "pretrain": lambda: pretrain.main(replace(PRETRAIN["tiny"][1], run=run, track=("wandb",))),
        "reward-model": lambda: reward_model.main(RewardModelConfig(run=run, model=nowhere, track=("wandb",))),
        "distill": lambda: distill.main(replace(DISTILL["tiny"][1], run=run, teacher=nowhere, sft=student)),
    }
    with pytest.raises(ModuleNotFoundError, match="--track wandb needs wandb: pip install wandb"):
        calls[stage]()
    assert not run.exists()


def test_a_stage_feeds_its_tracker(tmp_path: Path, wandb: Calls):
    cfg = replace(RL["tiny"][1], run=tmp_path / "run", steps=2, eval_every=0, track=("wandb",))
    rl.main(cfg)
    rl.main(cfg)  # done already: the same run, and no row
    shown = [call[1] for call in wandb.named("log")]
    written = [{k: v for k, v in row.items() if k != "time" and v is not None} for row in rows(tmp_path / "run")]
    assert shown == written and [row["step"] for row in shown] == [1, 2] and "reward/mean" in shown[0]
    assert len(wandb.named("init")) == 2 == len(wandb.named("finish"))


def test_in_a_recipe_they_change_no_result(tmp_path: Path, nothing_installed: None):
    plain = SFTConfig(data=("rows.jsonl",))
    shown = replace(plain, track=("wandb",), push_to_hub="org/name")
    made = [
        graph.resolve(Recipe({"a": one, "b": DistillConfig(teacher="@a", sft=one)}), tmp_path, 0)
        for one in (plain, shown)
    ]
    assert [len(stages) for stages in made] == [2, 2]
    for before, after in zip(*made, strict=True):
        assert (before.identity, before.outside) == (after.identity, after.outside)
    with pytest.raises(ModuleNotFoundError, match="pip install wandb"):
        check_stages(["a"], {"a": replace(RL["tiny"][1], track=("wandb",))})


def test_the_flag_is_kept_in_config_json_and_read_again():
    made = DistillConfig(teacher="demo-base", sft=SFTConfig(track=("wandb", "tensorboard")))
    assert from_dict(DistillConfig, json.loads(json.dumps(to_dict(made)))) == made


def event_values(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every tag, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-not-found]

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {tag: [(e.step, round(e.value, 4)) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_shows_each_step_once_whatever_was_rewound(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install tensorboard")
    with Run.open(tmp_path, config("tensorboard"), "rl") as run:
        for step in (1, 2, 3):
            run.log(step, {"loss": step / 10, "kl": math.nan})
        run.log(3, {"eval/all/pass@1": 0.5})
    with Run.open(tmp_path, config("tensorboard"), "rl") as run:
        run.rewind(2)
        run.log(3, {"loss": 0.9})
        run.log(4, {"loss": 0.8})
    assert event_values(tmp_path) == {"loss": [(1, 0.1), (2, 0.2), (3, 0.9), (4, 0.8)], "eval/all/pass@1": []}


def test_tensorboard_shows_a_row_as_soon_as_it_is_logged(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install tensorboard")
    with Run.open(tmp_path, config("tensorboard"), "rl") as run:
        run.log(1, {"loss": 0.5})
        assert event_values(tmp_path) == {"loss": [(1, 0.5)]}
