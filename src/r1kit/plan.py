"""What a recipe would do, and how long it takes: `r1kit run RECIPE --plan`, and before every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from r1kit.config import (
    DistillConfig,
    EvalConfig,
    PreferencesConfig,
    RejectConfig,
    RewardModelConfig,
    RLConfig,
    SFTConfig,
)
from r1kit.graph import Stage, mark_of, state_of
from r1kit.jobs import schedule
from r1kit.recipes import Recipe
from r1kit.run import clock


def show_plan(stages: Sequence[Stage], chosen: Sequence[Stage], recipe: Recipe, jobs: int) -> None:
    """Print the stages, their sizes, what will be done with each, and the time that is left.

    A stage takes what its recipe says, else what it took the last time.
    """
    table = Table(title="plan", box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for column in ("stage", "from", "what", "now", "about"):
        table.add_column(column, overflow="fold", justify="right" if column == "about" else "left")
    left: dict[str, float] = {}
    known: dict[str, float] = {}
    for stage in stages:
        state = state_of(stage, stages)
        action = {"done": "done", "begun": "goes on", "changed": "again", "new": "runs"}[state]
        mark = mark_of(stage)
        if stage.name in recipe.seconds or mark.get("state") == "done":
            known[stage.name] = recipe.seconds.get(stage.name) or mark["seconds"]
        seconds = known.get(stage.name)
        if stage not in chosen:
            action = "done" if state == "done" else "not chosen"
        elif state != "done":
            spent = mark.get("seconds", 0.0) if state == "begun" else 0.0
            left[stage.name] = max(0.0, (seconds or 0.0) - spent)
        table.add_row(
            stage.name, " ".join(stage.inputs), sizes(stage.config), action, clock(seconds) if seconds else "?"
        )
    console = Console(highlight=False)
    console.print(table)
    more = " and the stages whose time is not known" if left.keys() - known.keys() else ""
    todo = [stage for stage in chosen if stage.name in left]
    times = schedule(todo, stages, left, jobs, known, recipe.alone)
    about = clock(max((end for _, end in times.values()), default=0.0))
    where = f" ({recipe.machine})" if recipe.machine else ""
    console.print(f"to do: about {about}{more}{where}" if known else "no times known yet")


def sizes(config: Any) -> str:
    """What a stage does, in a few words with its numbers."""
    match config:
        case RLConfig():
            completions = config.problems_per_step * config.group_size
            return f"RL, {config.steps:,} steps x {completions:,} completions"
        case SFTConfig():
            return f"SFT, {config.epochs} epochs, batch {config.batch_size}"
        case RejectConfig():
            number = len(config.tasks) * config.num_problems
            return f"sample {number:,} problems x {config.num_samples}, keep the good"
        case PreferencesConfig():
            return f"judge, {config.num_prompts:,} prompts x {config.num_samples} responses"
        case RewardModelConfig():
            return f"{config.kind} reward model, {config.epochs} epochs, batch {config.batch_size}"
        case DistillConfig():
            return f"distill, {config.method}"
        case EvalConfig():
            return f"score, {len(config.tasks) * config.num_problems:,} problems x {config.num_samples}"
        case _:
            return f"pretrain, {config.steps:,} steps"
