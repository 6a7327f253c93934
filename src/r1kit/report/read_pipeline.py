"""Reads a pipeline folder for the report: pipeline.json (the plan), the stages' run folders, and the evaluations.

A stage that is not done may hold what another configuration left behind, so its evaluation counts only when it is done,
and one that the plan does not have not at all; an RL stage that is still running shows the curves it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1kit.report.read import Evaluation, RunRecord, parse, read_evaluations, read_run

PLAN = "pipeline.json"


@dataclass(frozen=True)
class Stage:
    """One stage of the plan."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    """Stages, models and data that it is made from."""
    state: str
    """done, running or waiting"""
    seconds: float

    @property
    def done(self) -> bool:
        return self.state == "done"


@dataclass(frozen=True)
class PipelineRecord:
    """Everything the report needs of one pipeline folder."""

    folder: Path
    plan: dict[str, Any]
    """pipeline.json"""
    stages: tuple[Stage, ...]
    runs: dict[str, RunRecord]
    """Stage name -> its run folder, for the stages that have begun; evaluations have none."""
    evaluations: dict[str, Evaluation]
    """Checkpoint -> its evaluation on problems with right answers, of eval-CHECKPOINT."""
    general: dict[str, Evaluation]
    """Checkpoint -> its evaluation on general prompts, of general-CHECKPOINT."""
    counts: dict[str, dict[str, Any]]
    """Stage name -> its counts.json: what `r1kit reject` made."""
    notes: tuple[str, ...] = field(default=())

    @property
    def finished(self) -> bool:
        return bool(self.plan.get("finished"))

    @property
    def seconds(self) -> float:
        """What the commands took that made it, by the clock; of a pipeline that does not say so, its stages' sum."""
        return self.plan.get("wall_seconds") or sum(stage.seconds for stage in self.stages)

    def stage(self, name: str) -> Stage | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    def done(self, name: str) -> bool:
        """Whether the stage is in the plan and done."""
        return (stage := self.stage(name)) is not None and stage.done


def is_pipeline(folder: Path) -> bool:
    """Whether the folder is a pipeline's with a plan."""
    return (folder / PLAN).is_file()


def read_pipeline(folder: Path) -> PipelineRecord:
    """Read a pipeline folder. Missing pieces are left out, some with a note; a damaged file raises ValueError."""
    plan = parse(folder / PLAN)
    stages = tuple(_stage(row) for row in plan.get("stages", ()))
    notes: list[str] = []
    begun = [s.name for s in stages if (folder / s.name / "config.json").is_file()]
    runs = {name: read_run(folder / name) for name in begun}
    for name, run in runs.items():
        notes += [f"{name}: {note}" for note in run.notes if run.training or run.evaluations]
    counts = {s.name: parse(path) for s in stages if (path := folder / s.name / "counts.json").is_file()}
    return PipelineRecord(
        folder=folder,
        plan=plan,
        stages=stages,
        runs=runs,
        evaluations=_scored(folder, "eval-", stages, notes),
        general=_scored(folder, "general-", stages, notes),
        counts=counts,
        notes=tuple(notes),
    )


def _stage(row: dict[str, Any]) -> Stage:
    return Stage(
        name=str(row["name"]),
        kind=str(row.get("kind", "")),
        inputs=tuple(str(name).removeprefix("@") for name in row.get("inputs", ())),
        state=str(row.get("state", "waiting")),
        seconds=float(row.get("seconds") or 0.0),
    )


def _scored(folder: Path, prefix: str, stages: Sequence[Stage], notes: list[str]) -> dict[str, Evaluation]:
    """The last evaluation of every folder PREFIXname of a stage that is done.

    A folder that is in no plan is of a stage that the recipe no longer has; where the plan names no stages, all count.
    """
    done = {stage.name for stage in stages if stage.done}
    found = {}
    for path in sorted(folder.glob(f"{prefix}*")):
        if (stages and path.name not in done) or not path.is_dir():
            continue
        if evaluations := list(read_evaluations(path, notes)):
            found[path.name.removeprefix(prefix)] = evaluations[-1]
    return found
