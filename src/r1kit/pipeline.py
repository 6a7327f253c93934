"""A recipe as one resumable command: every stage of R1 in order, each skipped when nothing that it depends on changed.

    r1kit run demo                         # base -> R1-Zero -> R1 -> distilled students -> report
    r1kit run my_recipe.py --until dev1    # a recipe of your own

A recipe is a dict of stage names and configs; graph.py says what a stage is and when it is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from r1kit import __version__
from r1kit.graph import Stage, mark_of, read_recipe, resolve, run_stage, state_of, with_seed
from r1kit.recipe_checks import check_stages
from r1kit.run import cpu_cores, write_json_atomic


def main(
    recipe: str, run: Path, seed: int | None, start: str = "", until: str = "", only: str = "", plan: bool = False,
    jobs: int = 1,
) -> None:  # fmt: skip
    """Run the stages of a recipe under `run` that are not done yet, then write `run`/report.html and summary.json.

    `recipe` is a name or the path of a Python file; `seed` that of all its stages, None: their own. `start`, `until`
    and `only` choose stages by name; `plan` only shows what would be done; `jobs` stages run at a time. Before any
    compute: ValueError for an unknown stage, a reference to nothing or a bad config, FileNotFoundError for what is not
    there.
    """
    from r1kit.jobs import run_stages
    from r1kit.plan import show_plan

    if jobs < 1:
        raise ValueError(f"--jobs is {jobs}; give how many stages may run at a time, at least 1")
    made = read_recipe(recipe)
    stages = resolve(made, run, seed)
    chosen = choose(stages, start, until, only)
    show_plan(stages, chosen, made, jobs)
    check_inputs(chosen, stages)
    check_stages([stage.name for stage in chosen], {name: with_seed(made.stages[name], seed) for name in made.stages})
    if plan:
        return
    begun, before = time.perf_counter(), _wall_seconds(run)

    def changed(running: set[str]) -> None:
        write_state(run, recipe, seed, stages, running, before + time.perf_counter() - begun)

    try:
        if jobs > 1:
            run_stages(recipe, run, seed, chosen, stages, jobs, made.seconds, made.alone, changed)
        else:
            for stage in chosen:
                if state_of(stage, stages) != "done":
                    changed({stage.name})
                    run_stage(stage, stages)
    finally:  # also after Ctrl-C: nothing runs, and the time was spent
        changed(set())
    from r1kit.report import report

    page = report.main(run)
    print(f"report: {page}\ntry it: r1kit chat {run}")


def choose(stages: Sequence[Stage], start: str, until: str, only: str) -> list[Stage]:
    """The stages from `start` to `until`, or `only` one; ValueError for a name that is none of them."""
    names = [stage.name for stage in stages]
    for flag, name in (("--start", start), ("--until", until), ("--only", only)):
        if name and name not in names:
            raise ValueError(f"{flag} {name!r} is no stage of this recipe; stages are {', '.join(names)}")
    if only:
        return [stage for stage in stages if stage.name == only]
    first = names.index(start) if start else 0
    last = names.index(until) if until else len(names) - 1
    if first > last:
        raise ValueError(f"--start {start} comes after --until {until}; the order is {', '.join(names)}")
    return list(stages[first : last + 1])


def check_inputs(chosen: Sequence[Stage], stages: Sequence[Stage]) -> None:
    """ValueError where a chosen stage needs one that is neither done nor chosen."""
    names = {stage.name for stage in chosen}
    for stage in chosen:
        waiting = [
            other.name
            for other in stages
            if other.name in stage.inputs and other.name not in names and state_of(other, stages) != "done"
        ]
        if waiting:
            raise ValueError(
                f"stage {stage.name} needs {', '.join(waiting)}, not done yet; run without --start or --only, or from "
                f"there on (--start {waiting[0]})"
            )


def write_state(
    run: Path, recipe: str, seed: int | None, stages: Sequence[Stage], running: set[str], wall_seconds: float
) -> None:
    """`run`/pipeline.json: which stages there are, how far each is, and what all of it took until now."""
    rows = []
    for stage in stages:
        state = "running" if stage.name in running else "done" if state_of(stage, stages) == "done" else "waiting"
        seconds = mark_of(stage).get("seconds")
        rows.append(
            {"name": stage.name, "kind": stage.kind, "inputs": stage.inputs, "state": state, "seconds": seconds}
        )
    run.mkdir(parents=True, exist_ok=True)
    finished = all(row["state"] == "done" for row in rows)
    about = {"recipe": recipe, "seed": seed, "stages": rows, "finished": finished}
    about |= {"r1kit": __version__, "cpu_cores": cpu_cores(), "wall_seconds": wall_seconds}
    write_json_atomic(run / "pipeline.json", about)


def _wall_seconds(run: Path) -> float:
    """What earlier commands spent on this pipeline, by its pipeline.json; 0 without one."""
    path = run / "pipeline.json"
    return json.loads(path.read_text(encoding="utf-8")).get("wall_seconds", 0.0) if path.is_file() else 0.0
