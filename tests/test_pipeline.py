"""Facts about pipelines: order, what is skipped, what is done again, what a stop leaves, what is said beforehand.

Most tests put a scripted stage in place of the real ones; one runs real stages.
"""

from __future__ import annotations

import json
import queue
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from r1kit import graph, pipeline, recipes
from r1kit import jobs as jobs_module
from r1kit.config import DistillConfig, EvalConfig, RejectConfig, RLConfig, SFTConfig
from r1kit.graph import MARK, key_of, references, resolve, state_of
from r1kit.pipeline import choose
from r1kit.recipes import Recipe, load_recipe
from r1kit.report import report

CHAIN = {
    "zero": RLConfig(),
    "eval-zero": EvalConfig(model="@zero"),
    "data": RejectConfig(model="@zero"),
    "dev1": SFTConfig(data=("@data",)),
    "eval-dev1": EvalConfig(model="@dev1"),
}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that were executed; a scripted stage writes what its config and inputs say."""
    done: list[str] = []

    def execute(config: Any) -> None:
        folder = config.out if isinstance(config, EvalConfig) else config.run
        assert folder is not None
        done.append(folder.name)
        texts = [repr(replace(config, **{place(config): Path("x")}))]
        inputs = [Path(text) for text in graph._strings(config) if (Path(text) / MARK).exists()]
        texts += [(path / "result.jsonl").read_text() for path in inputs]
        (folder / "result.jsonl").write_text("\n".join(texts))

    def place(config: Any) -> str:
        return "out" if isinstance(config, EvalConfig) else "run"

    monkeypatch.setattr(graph, "execute", execute)
    monkeypatch.setattr(pipeline, "check_stages", lambda chosen, configs: None)
    monkeypatch.setattr(report, "main", lambda run: run / "report.html")
    return done


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    def run(stages: dict[str, Any], **flags: Any) -> None:
        monkeypatch.setattr(graph, "load_recipe", lambda name: Recipe(stages))
        pipeline.main("recipe", tmp_path / "run", flags.pop("seed", 0), **flags)

    return run


def test_a_stage_runs_after_its_inputs_and_a_model_is_scored_at_once(tmp_path: Path):
    shuffled = {name: CHAIN[name] for name in ("eval-dev1", "dev1", "data", "eval-zero", "zero")}
    names = [stage.name for stage in resolve(Recipe(shuffled), tmp_path, 0)]
    assert names == ["zero", "eval-zero", "data", "dev1", "eval-dev1"]


def test_references_become_folders(tmp_path: Path):
    assert references(CHAIN["dev1"]) == {"data"}
    stages = {stage.name: stage for stage in resolve(Recipe(CHAIN), tmp_path, 7)}
    assert stages["dev1"].config.data == (str(tmp_path / "data"),)
    assert stages["dev1"].config.run == tmp_path / "dev1"
    assert stages["dev1"].config.seed == 7
    assert stages["eval-dev1"].config.out == tmp_path / "eval-dev1"
    assert stages["eval-dev1"].config.seed == EvalConfig().seed  # all evaluations are on the same problems


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"dev1": SFTConfig(data=("@cold-start",))}, "'dev1' refers to @cold-start; the stages are dev1"),
        ({"a": EvalConfig(model="@b"), "b": RLConfig(model="@a")}, "'a' refers to @b; depends on itself"),
        ({"a": {"steps": 3}}, "stage 'a' is a dict; give a config"),
    ],
)
def test_recipes_that_cannot_run(stages: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        resolve(Recipe(stages), tmp_path, 0)


def test_done_stages_are_skipped(ran: list[str], go: Callable[..., None], tmp_path: Path):
    go(CHAIN)
    assert ran == ["zero", "eval-zero", "data", "dev1", "eval-dev1"]
    state = json.loads((tmp_path / "run" / "pipeline.json").read_text())
    assert state["finished"] and [row["state"] for row in state["stages"]] == ["done"] * 5
    go(CHAIN)
    assert len(ran) == 5
    go({**CHAIN, "zero": RLConfig(rows=7, tokens_per_microbatch=99)})  # how fast, not what
    assert len(ran) == 5


def test_a_changed_stage_and_what_depends_on_it_run_again(ran: list[str], go: Callable[..., None], tmp_path: Path):
    go(CHAIN)
    ran.clear()
    go({**CHAIN, "data": RejectConfig(model="@zero", num_samples=9)})
    assert ran == ["data", "dev1", "eval-dev1"]
    assert (tmp_path / "run" / "old" / "data-1" / "result.jsonl").exists()  # nothing made is lost
    ran.clear()
    go(CHAIN, seed=1)
    assert len(ran) == 5


@pytest.mark.parametrize("jobs", [1, 2])
def test_inputs_count_by_what_they_hold(ran: list[str], go: Callable[..., None], monkeypatch: pytest.MonkeyPatch, jobs):
    """A stage that runs again and comes out the same changes nothing after it."""
    monkeypatch.setattr(jobs_module, "Worker", InlineWorker)
    monkeypatch.setattr(graph, "output_digest", lambda folder: "same")
    go(CHAIN, jobs=jobs)
    assert len(ran) == 5
    ran.clear()
    go({**CHAIN, "zero": RLConfig(steps=7)}, jobs=jobs)
    assert ran == ["zero"]


class InlineWorker:
    """In place of a worker process: runs a stage at once, here."""

    def __init__(self, recipe: str, run: Path, seed: int | None, ended: queue.Queue[InlineWorker]) -> None:
        self.stages = tuple(resolve(graph.read_recipe(recipe), run, seed))
        self.ended, self.status, self.stage = ended, None, ""
        self.process = subprocess.Popen(["true"], stdin=subprocess.PIPE)

    def begin(self, stage: graph.Stage, cores: int) -> None:
        self.stage = stage.name
        graph.run_stage(stage, self.stages)
        self.ended.put(self)


def test_what_somebody_edits_counts_and_what_is_gone_is_made_again(ran: list[str], go, tmp_path: Path):
    go(CHAIN)
    ran.clear()
    data = tmp_path / "run" / "data" / "result.jsonl"
    data.write_text(data.read_text() + "a row by hand")  # as the paper's authors did with the cold start's
    go(CHAIN)
    assert ran == ["dev1", "eval-dev1"] and data.read_text().endswith("by hand")
    ran.clear()
    go(CHAIN)
    assert ran == []
    (tmp_path / "run" / "data" / "report.html").write_text("not of the stage")
    data.touch()
    go(CHAIN)
    assert ran == []
    data.unlink()
    go(CHAIN)
    assert ran == ["data", "dev1", "eval-dev1"] and "by hand" not in data.read_text()


def test_speed_is_no_part_of_a_distillation_either(tmp_path: Path):
    def identity(config: DistillConfig) -> str:
        return resolve(Recipe({"student": config}), tmp_path, 0)[0].identity

    usual = DistillConfig(teacher="demo-base")
    fast = replace(usual, samples=replace(usual.samples, rows=9), sft=replace(usual.sft, tokens_per_microbatch=99))
    assert identity(fast) == identity(usual)
    assert identity(replace(usual, sft=replace(usual.sft, epochs=9))) != identity(usual)


def test_a_moved_folder_is_still_done(ran: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(graph, "load_recipe", lambda name: Recipe(CHAIN))
    monkeypatch.chdir(tmp_path)
    pipeline.main("recipe", Path("here"), 0)
    ran.clear()
    pipeline.main("recipe", tmp_path / "here", 0)
    Path("here").rename("there")
    pipeline.main("recipe", Path("there"), 0)
    assert ran == []


def test_a_changed_file_of_the_users_runs_its_stage_again(ran: list[str], go: Callable[..., None], tmp_path: Path):
    data = tmp_path / "mine.jsonl"
    data.write_text("one")
    stages = {"sft": SFTConfig(data=(str(data),)), "other": RLConfig()}
    go(stages)
    data.write_text("two")
    ran.clear()
    go(stages)
    assert ran == ["sft"]


def test_a_folder_of_the_users_counts_by_what_it_holds(ran: list[str], go: Callable[..., None], tmp_path: Path):
    data, model, run = tmp_path / "data", tmp_path / "model", tmp_path / "mine"
    weights = run / "checkpoints" / "step-000010" / "model" / "model.safetensors"
    for file in (data / "part" / "samples.jsonl", model / "config.json", model / "model.safetensors", weights):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("one")
    stages = {
        "sft": SFTConfig(data=(str(data),)), "other": RLConfig(),
        "rl": RLConfig(model=str(model)), "score": EvalConfig(model=str(run)),
    }  # fmt: skip
    go(stages)
    for file, again in (
        (data / "part" / "samples.jsonl", ["sft"]),
        (model / "config.json", ["rl"]),
        (model / "model.safetensors", ["rl"]),
        (weights, ["score"]),
        (run / "metrics.jsonl", []),  # what a run says of itself is nothing that a stage reads
    ):
        file.write_text("changed")
        ran.clear()
        go(stages)
        assert ran == again, file


def test_a_stage_that_was_cut_off_goes_on(ran: list[str], go: Callable[..., None], monkeypatch, tmp_path: Path):
    scripted = graph.execute

    def killed(config: Any) -> None:
        if isinstance(config, SFTConfig):
            (config.run / "half").write_text("made")
            raise KeyboardInterrupt
        scripted(config)

    monkeypatch.setattr(graph, "execute", killed)
    with pytest.raises(KeyboardInterrupt):
        go(CHAIN)
    stages = resolve(Recipe(CHAIN), tmp_path / "run", 0)
    said = json.loads((tmp_path / "run" / "pipeline.json").read_text())
    assert [row["state"] for row in said["stages"]].count("running") == 0 and said["wall_seconds"] > 0
    assert {stage.name: state_of(stage, stages) for stage in stages} == {
        "zero": "done", "eval-zero": "done", "data": "done", "dev1": "begun", "eval-dev1": "new",
    }  # fmt: skip
    monkeypatch.setattr(graph, "execute", scripted)
    ran.clear()
    go(CHAIN)
    assert ran == ["dev1", "eval-dev1"]
    assert (tmp_path / "run" / "dev1" / "half").exists()  # it went on in its own folder


def test_choosing_stages(ran: list[str], go: Callable[..., None], tmp_path: Path):
    with pytest.raises(ValueError, match="stage dev1 needs data, not done yet"):
        go(CHAIN, only="dev1")
    assert ran == []
    go(CHAIN, until="data")
    assert ran == ["zero", "eval-zero", "data"]
    go(CHAIN, start="dev1")
    assert ran[3:] == ["dev1", "eval-dev1"]
    stages = resolve(Recipe(CHAIN), tmp_path, 0)
    with pytest.raises(ValueError, match="--until 'dev9' is no stage of this recipe; stages are zero"):
        choose(stages, "", "dev9", "")
    with pytest.raises(ValueError, match="--start dev1 comes after --until zero"):
        choose(stages, "dev1", "zero", "")


def test_a_plan_computes_nothing(ran: list[str], go: Callable[..., None], capsys, tmp_path: Path):
    go(CHAIN, plan=True)
    assert ran == [] and not (tmp_path / "run").exists()
    shown = capsys.readouterr().out
    assert "eval-dev1" in shown and "512 problems" not in shown and "1,024 problems x 4" in shown


def test_a_key_waits_for_the_inputs(tmp_path: Path):
    stages = resolve(Recipe(CHAIN), tmp_path, 0)
    assert key_of(stages[0], stages) and key_of(stages[2], stages) is None


def test_a_stage_that_needs_one_which_is_not_chosen_is_named_before_the_others_run(ran: list[str], go, tmp_path: Path):
    go(CHAIN, until="zero")
    ran.clear()
    with pytest.raises(ValueError, match=r"stage dev1 needs data, not done yet; .*--start data"):
        go({"zero": RLConfig(), "data": CHAIN["data"], "other": RLConfig(), "dev1": CHAIN["dev1"]}, start="other")
    assert ran == []


def test_a_recipe_keeps_its_seeds_unless_one_is_given(ran: list[str], go: Callable[..., None], tmp_path: Path):
    recipe = Recipe({"a": RLConfig(seed=5), "b": RLConfig(), "eval": EvalConfig(model="@a", seed=7)})
    seeds = {seed: [stage.config.seed for stage in resolve(recipe, tmp_path, seed)] for seed in (None, 0, 3)}
    assert seeds == {None: [5, 7, 0], 0: [0, 7, 0], 3: [3, 7, 3]}
    identities = {seed: [s.identity for s in resolve(load_recipe("tiny"), tmp_path, seed)] for seed in (None, 0, 1)}
    assert identities[None] == identities[0] != identities[1]
    go(recipe.stages, seed=None)
    assert json.loads((tmp_path / "run" / "pipeline.json").read_text())["seed"] is None


def test_a_plan_says_what_would_stop_it(go: Callable[..., None], capsys, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="stage sft: nowhere.jsonl: no such file"):
        go({"zero": RLConfig(), "sft": SFTConfig(data=("nowhere.jsonl",))}, plan=True)
    assert "no times known yet" in capsys.readouterr().out  # the plan comes first
    go({"zero": RLConfig(), "sft": SFTConfig(data=("nowhere.jsonl",))}, plan=True, only="zero")
    assert not (tmp_path / "run").exists()


def test_the_plan_of_a_recipe_without_times_says_what_stages_took_before(ran: list[str], go, capsys, tmp_path: Path):
    go(CHAIN, until="data")
    for name, seconds in (("zero", 100.0), ("eval-zero", 30.0), ("data", 50.0)):
        mark = tmp_path / "run" / name / MARK
        mark.write_text(json.dumps(json.loads(mark.read_text()) | {"seconds": seconds}))
    capsys.readouterr()
    go({**CHAIN, "zero": RLConfig(steps=7)}, plan=True)
    shown = capsys.readouterr().out
    assert "to do: about 3:00 and the stages whose time is not known" in shown  # 100 + 30 + 50, one after the other


@pytest.mark.parametrize("name", recipes.names())
def test_the_recipes_that_come_with_r1kit_resolve(name: str, tmp_path: Path):
    stages = resolve(load_recipe(name), tmp_path, 0)
    assert {"zero", "dev1", "dev2", "dev3", "r1", "student-distilled", "student-rl"} <= {s.name for s in stages}
    assert len({stage.identity for stage in stages}) == len(stages)


def test_a_recipe_file(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text("from r1kit.recipes import demo\n\n\ndef stages():\n    return {'zero': demo.stages()['zero']}\n")
    assert list(load_recipe(str(path)).stages) == ["zero"]
    named = path.read_text()
    path.write_text(named + "\n\nALONE = ('zero',)\n")
    assert load_recipe(str(path)).alone == ("zero",)
    path.write_text(named + "\n\nALONE = ('zero')\n")
    with pytest.raises(ValueError, match="ALONE is 'zero'; give a tuple"):
        load_recipe(str(path))
    path.write_text(named + "\n\nALONE = ('zero', 'r1')\n")
    with pytest.raises(ValueError, match="ALONE names 'r1', which is no stage; stages are zero"):
        load_recipe(str(path))
    path.write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"mine.py has no function stages\(\)"):
        load_recipe(str(path))
    path.write_text("def stages():\n    return {'a/b': 1}\n")
    with pytest.raises(ValueError, match="stage name 'a/b' becomes a folder"):
        load_recipe(str(path))
    path.write_text(
        "from r1kit.config import RLConfig\n\n\ndef stages():\n    return {'zero': RLConfig(steps='ten')}\n"
    )
    with pytest.raises(ValueError, match=r"mine.py, line 5: RLConfig.steps is 'ten'; give a whole number"):
        graph.read_recipe(str(path))
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_recipe("nowhere.py")
    with pytest.raises(ValueError, match="no recipe 'dmeo'; recipes are demo"):
        load_recipe("dmeo")
