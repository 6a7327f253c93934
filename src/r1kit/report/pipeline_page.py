"""The page and summary of a whole pipeline: the paper's recipe, its checkpoints and its claims."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1kit.report import data, figures, paper, pipeline_figures, samples
from r1kit.report.claims import Claim
from r1kit.report.estimates import pass_at_1, win_rate
from r1kit.report.graph import graph
from r1kit.report.read import GENERAL
from r1kit.report.read_pipeline import PipelineRecord, Stage
from r1kit.report.scores import numbers, policy, scores
from r1kit.report.words import duration, measured, on_cores, percent, with_width_below

KINDS = {
    "pretrain": "pretraining",
    "rl": "RL (GRPO)",
    "sft": "SFT",
    "reject": "sampling, filtering",
    "preferences": "judged responses",
    "reward-model": "reward model",
    "distill": "distillation",
    "evaluate": "evaluation",
}
CURVES = ("pretrain", "rl", "sft", "distill", "reward-model")
"""Kinds whose metrics.jsonl has a row per optimizer step."""
COLUMNS = ("pass@1", "length", "reflection", "consistency", "readable")
PLACES = {"length": ".1f", "reflection": ".2f"}


def context(record: PipelineRecord, found: Sequence[Claim], title: str) -> dict[str, Any]:
    """What pipeline.html shows."""
    zero = record.runs.get("zero")
    evaluations = [*record.evaluations.values(), *record.general.values()]
    return {
        "title": title,
        "headline": headline(record, found),
        "tiles": _tiles(record, found),
        "facts": _facts(record),
        "notes": record.notes,
        "unfinished": "" if record.finished else _progress(record),
        "claims": [(claim, measured(claim)) for claim in found],
        "graph": graph(record.stages, _remarks(record), _weights(record)),
        "stages": [_stage_row(record, stage) for stage in record.stages if stage.kind != "evaluate"],
        "evaluated": _evaluated(record),
        "checkpoints": _checkpoints(record),
        "benchmarks": paper.BENCHMARKS,
        "checkpoint_charts": pipeline_figures.checkpoints(record),
        "accuracy": figures.accuracy(zero) if zero and zero.evaluations else [],
        "behaviour": figures.behaviour(zero) if zero else [],
        "smoothing": figures.window(zero) if zero else 1,
        "language": pipeline_figures.language(record),
        "hacking": pipeline_figures.hacking(record),
        "distillation": pipeline_figures.distillation(record),
        "domains": data.domains(record),
        "funnels": data.funnels(record),
        "preferences": data.preferences(record),
        "reward_models": data.reward_models(record),
        "lineups": [
            ("The recipe's checkpoints", samples.checkpoints(record)),
            ("General prompts", samples.general(record)),
            ("After too long a preference reward", samples.hacked(record)),
            ("Students", samples.students(record)),
        ],
        "time": _time(record),
        "policies": list(dict.fromkeys(policy(evaluation) for evaluation in evaluations)),
        "arxiv": paper.ARXIV,
        "command": command(record),
    }


def headline(record: PipelineRecord, found: Sequence[Claim]) -> str:
    """The result in one sentence or two."""
    done = [name for name in ("r1", "dev3", "dev2", "dev1", "zero") if name in record.evaluations]
    holding, sure = sum(claim.holds for claim in found), sum(claim.conclusive for claim in found)
    total = f"{holding} of {len(found)} claims hold{'' if record.finished else ' so far'}" + (
        f", {sure} of them with their whole interval" if sure < holding else ""
    )
    time = f"; {duration(record.seconds)}{on_cores(record.plan.get('cpu_cores'))}" if record.seconds else ""
    if not done:
        return f"No checkpoint is evaluated yet{time}."
    best = record.evaluations[done[0]]
    score = pass_at_1(best)
    others = [
        f"{'the base' if name == 'base' else paper.NAMES[name]} {pass_at_1(record.evaluations[name]).value:.1%}"
        for name in ("zero", "base")
        if name in record.evaluations and name != done[0]
    ]
    beside = f"; {', '.join(others)}" if others else ""
    interval = f"(95% CI {percent(score.low)} to {percent(score.high)})"
    where = f"{len(best.of('all'))} held-out problems"
    return f"{paper.NAMES[done[0]]} solves {score.value:.1%} {interval} of {where}{beside}. {total}{time}."


def summary(record: PipelineRecord, found: Sequence[Claim]) -> dict[str, Any]:
    """What summary.json holds. Shares are 0 to 1, lengths in tokens, times in seconds."""
    preferred = None
    if {"r1", "dev3"} <= record.general.keys():
        preferred = win_rate(record.general["r1"], record.general["dev3"])
    names = dict.fromkeys([*record.evaluations, *record.general])
    return {
        "claims": [dataclasses.asdict(claim) for claim in found],
        "pipeline": {
            "headline": headline(record, found),
            "recipe": record.plan.get("recipe"),
            "seed": record.plan.get("seed"),
            "finished": record.finished,
            "seconds": record.seconds,
            "cpu_cores": record.plan.get("cpu_cores"),
            "r1kit": record.plan.get("r1kit"),
        },
        "stages": [dataclasses.asdict(stage) for stage in record.stages],
        "checkpoints": {
            name: {
                **({"all": numbers(record.evaluations[name])} if name in record.evaluations else {}),
                **{task: numbers(evaluation, task) for evaluation, task in _tasks(record, name)},
            }
            for name in names
        },
        "win_rate": None if preferred is None else {"r1 over dev3": preferred.value, "se": preferred.se},
        "data": record.counts,
    }


def command(record: PipelineRecord) -> str:
    """The command that makes the same pipeline."""
    seed = f" --seed {record.plan['seed']}" if record.plan.get("seed") is not None else ""
    return f"r1kit run {record.plan.get('recipe', 'demo')} --run {record.folder}{seed}"


def _tasks(record: PipelineRecord, name: str) -> list[tuple[Any, str]]:
    both = [record.evaluations.get(name), record.general.get(name)]
    return [(evaluation, task) for evaluation in both if evaluation for task in evaluation.tasks]


def _progress(record: PipelineRecord) -> str:
    states = Counter(stage.state for stage in record.stages)
    running = ", ".join(stage.name for stage in record.stages if stage.state == "running")
    now = f"; running: {running}" if running else ""
    return f"{states['done']} of {len(record.stages)} stages done{now}"


def _facts(record: PipelineRecord) -> list[tuple[str, str]]:
    plan, states = record.plan, Counter(stage.state for stage in record.stages)
    rl = [run for run in record.runs.values() if run.stage == "rl"]
    return [
        ("Recipe", str(plan.get("recipe", "?"))),
        ("Stages", f"{states['done']} of {len(record.stages)} done"),
        ("Optimizer steps of RL", f"{sum(run.last_step for run in rl):,} in {len(rl)} runs"),
        ("Time", duration(record.seconds) + on_cores(plan.get("cpu_cores"))),
        ("Seed", "the recipe's" if plan.get("seed", "?") is None else str(plan.get("seed", "?"))),
        ("r1kit", str(plan.get("r1kit", "?"))),
    ]


def _tiles(record: PipelineRecord, found: Sequence[Claim]) -> list[tuple[str, str, str]]:
    """The numbers that matter, large: (name, value, remark)."""
    scored, tiles = record.evaluations, []
    chain = [name for name in ("base", "zero", "r1") if name in scored]
    if chain:
        values = " → ".join(f"{100 * pass_at_1(scored[name]).value:.0f}" for name in chain) + "%"
        tiles.append(("pass@1", values, " → ".join(paper.NAMES[name] for name in chain)))
    mixed = [(name, scores(scored[name]).get("consistency")) for name in ("zero", "dev2") if name in scored]
    if known := [(name, value) for name, value in mixed if value]:
        values = " → ".join(f"{100 * value.value:.1f}" for _, value in known) + "%"
        tiles.append(("language consistency", values, " → ".join(paper.NAMES[name] for name, _ in known)))
    by_id = {claim.id: claim for claim in found}
    if (preferred := by_id["C7c"].measured) is not None:
        tiles.append(("R1 preferred over Dev3", percent(preferred), "of comparisons on general prompts"))
    students = [name for name in ("student-rl", "student-distilled") if name in scored]
    if len(students) == 2:
        values = " → ".join(f"{100 * pass_at_1(scored[name]).value:.0f}" for name in students) + "%"
        tiles.append(("student", values, "trained by RL → distilled"))
    if any(claim.measured is not None for claim in found):
        tiles.append(("claims that hold", f"{sum(c.holds for c in found)} of {len(found)}", "table below"))
    return tiles


def _remarks(record: PipelineRecord) -> dict[str, str]:
    """What the drawing says under a stage's name: the accuracy of the model that it makes."""
    return {name: f"{pass_at_1(evaluation).value:.1%}" for name, evaluation in record.evaluations.items()}


def _weights(record: PipelineRecord) -> dict[str, str]:
    """Stage -> the stage whose weights it starts from."""
    models = {name: Path(str(run.config.get("model", ""))).name for name, run in record.runs.items()}
    return {name: model for name, model in models.items() if record.stage(model)}


def _stage_row(record: PipelineRecord, stage: Stage) -> dict[str, str]:
    return {
        "name": stage.name,
        "kind": KINDS.get(stage.kind, stage.kind),
        "inputs": ", ".join(stage.inputs) or "–",
        "state": stage.state,
        "chip": {"done": "yes", "running": "open"}.get(stage.state, "plain"),
        "time": duration(stage.seconds) if stage.seconds else "–",
        "result": _result(record, stage) or ("–" if stage.done else "not yet"),
    }


def _result(record: PipelineRecord, stage: Stage) -> str:
    """What came out of a stage, as far as its files say."""
    parts: list[str] = []
    if run := record.runs.get(stage.name):
        if run.training and stage.kind in CURVES:
            parts.append(f"{run.last_step:,} steps")
        if losses := run.series("loss/nll"):
            parts.append(f"loss {losses[0][1]:.2f} → {losses[-1][1]:.2f}")
        if "eval/accuracy" in run.results:
            parts.append(f"{run.results['eval/accuracy']:.1%} right on held-out data")
        if pairs := run.series("pairs/kept"):
            parts.append(f"{pairs[-1][1]:,.0f} pairs")
    if evaluation := record.evaluations.get(stage.name):
        parts.append(f"pass@1 {pass_at_1(evaluation).value:.1%}")
    if rows := record.counts.get(stage.name, {}).get("rows"):
        parts.append(f"{rows:,} conversations")
    return ", ".join(parts)


def _evaluated(record: PipelineRecord) -> tuple[int, int, str]:
    """(evaluations done, all of them, their time)"""
    stages = [stage for stage in record.stages if stage.kind == "evaluate"]
    return sum(stage.done for stage in stages), len(stages), duration(sum(stage.seconds for stage in stages))


def _time(record: PipelineRecord) -> list[tuple[str, float, str]]:
    """(stage, seconds, in words), evaluations together; the longest first."""
    spent: Counter[str] = Counter()
    for stage in record.stages:
        spent["evaluations" if stage.kind == "evaluate" else stage.name] += stage.seconds  # type: ignore[assignment]
    return [(name, seconds, duration(seconds)) for name, seconds in spent.most_common() if seconds > 0]


def _checkpoints(record: PipelineRecord) -> list[dict[str, Any]]:
    """The table of checkpoints: this run's numbers and the paper's."""
    planned = {stage.name for stage in record.stages}
    table = []
    others = {name: name for name in (*record.evaluations, *record.general) if name not in paper.NAMES}
    for name, label in {**paper.NAMES, **others}.items():
        known = name in record.evaluations or name in record.general
        if not known and f"eval-{name}" not in planned:
            continue
        found = scores(record.evaluations[name]) if name in record.evaluations else {}
        quality = scores(record.general[name], GENERAL).get("quality") if name in record.general else None
        table.append(
            {
                "label": label,
                "ours": [
                    *(with_width_below(found.get(field), PLACES.get(field, ".1%")) for field in COLUMNS),
                    with_width_below(quality),
                ],
                "paper": [paper.TABLE_3.get(name, {}).get(benchmark, "–") for benchmark in paper.BENCHMARKS],
                "measured": known,
            }
        )
    return table
