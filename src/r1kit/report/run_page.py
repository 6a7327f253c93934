"""The page and summary of one run folder: an RL stage's, a pretraining's, a fine-tuning's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from r1kit.report import claims, figures, paper
from r1kit.report.charts import tick_label
from r1kit.report.claims import Claim
from r1kit.report.command import command
from r1kit.report.estimates import mean, pass_at_1
from r1kit.report.read import RunRecord, rows
from r1kit.report.samples import before_after
from r1kit.report.scores import numbers, policy, row, scores, tasks
from r1kit.report.words import count, duration, measured, on_cores, percent

DATA_FILES = {"reject": "sft.jsonl", "preferences": "pairs.jsonl"}
"""Stage -> the file of the data that it makes."""


def run_claims(run: RunRecord) -> list[Claim]:
    """The claims of an R1-Zero run; none for any other run."""
    return claims.claims(run.evaluations, finished=run.finished) if _is_zero(run) else []


def context(run: RunRecord, found: Sequence[Claim], title: str) -> dict[str, Any]:
    """What run.html shows."""
    phases = figures.seconds_by_phase(run)
    return dict(
        title=title,
        headline=headline(run),
        tiles=_tiles(run, found),
        facts=_facts(run),
        notes=run.notes,
        unfinished="" if run.finished else _progress(run),
        claims=[(claim, measured(claim)) for claim in found],
        accuracy=figures.accuracy(run) if run.evaluations else [],
        behaviour=figures.behaviour(run),
        signals=figures.signals(run),
        smoothing=figures.window(run),
        timing=figures.timing(run),
        phases=[(name, colour, seconds, duration(seconds)) for name, colour, seconds in phases],
        beside=_beside(run) if _is_zero(run) else [],
        arxiv=paper.ARXIV,
        pairs=before_after(run.evaluations[0], run.evaluations[-1]) if len(run.evaluations) > 1 else [],
        evaluations=[(policy(e), [row(e, task) for task in tasks(e)]) for e in run.evaluations],
        num_samples=run.evaluations[-1].num_samples if run.evaluations else 0,
        command=command(run.config),
        config=json.dumps(run.config, indent=2, ensure_ascii=False),
    )


def headline(run: RunRecord) -> str:
    """The result in one sentence."""
    if name := DATA_FILES.get(run.stage):
        path = run.folder / name
        made = sum(1 for _ in rows(path, [])) if path.is_file() else 0
        return f"{made:,} rows of {name} made." if made else f"No {name} yet."
    if run.stage != "rl" and (losses := run.series("loss/nll")):
        change = f"from {losses[0][1]:.2f} to {losses[-1][1]:.2f} nats per token"
        return f"The loss went {change} in {run.last_step:,} steps{_in_time(run)}."
    if run.stage != "rl" and not run.evaluations:
        return f"{run.last_step:,} steps trained{_in_time(run)}." if run.training else "No training step yet."
    if not run.evaluations:
        return f"{run.last_step:,} steps trained{_in_time(run)}; no evaluation yet, so held-out accuracy is unknown."
    first, final = run.evaluations[0], run.evaluations[-1]
    after = pass_at_1(final)
    interval = f"(95% CI {percent(after.low)} to {percent(after.high)})"
    where = (
        f"on {len(final.of('all'))} held-out problems"
        if final.policy.get("split") != "train"
        else "on training problems"
    )
    if first is final:
        return (
            f"pass@1 is {after.value:.1%} {interval} at step {final.step}, {where}; there is no later evaluation yet."
        )
    before = pass_at_1(first)
    verb = "rose" if after.value > before.value else "fell" if after.value < before.value else "stayed:"
    return f"pass@1 {verb} from {before.value:.1%} to {after.value:.1%} {interval} {where}{_in_time(run)}."


def summary(run: RunRecord, found: Sequence[Claim]) -> dict[str, Any]:
    """What summary.json holds. Shares are 0 to 1, lengths in tokens, times in seconds."""
    config = run.config
    return {
        "claims": [dataclasses.asdict(claim) for claim in found],
        "run": {
            "stage": run.stage,
            "headline": headline(run),
            "model": config.get("model"),
            "tasks": config.get("tasks"),
            "algorithm": _algorithm(config),
            "seed": config.get("seed"),
            "steps": config.get("steps"),
            "last_step": run.last_step,
            "finished": run.finished,
            "tokens": _tokens(run),
            "seconds": _seconds(run),
            "seconds_by_phase": {name: seconds for name, _, seconds in figures.seconds_by_phase(run)},
            "cpu_cores": _cores(run),
            "r1kit": config.get("r1kit"),
        },
        "evals": [
            {
                "step": e.step,
                **numbers(e, "all"),
                "tasks": {task: numbers(e, task) for task in e.tasks},
                "policy": e.policy,
            }
            for e in run.evaluations
        ],
    }


def _is_zero(run: RunRecord) -> bool:
    """Whether the run is R1-Zero's: rule-based rewards for accuracy and R1-Zero's format, and nothing else."""
    reward = run.config.get("reward", {})
    plain = not reward.get("language_weight") and reward.get("format", "r1-zero") == "r1-zero"
    return run.stage == "rl" and plain and not run.config.get("general_tasks")


def _progress(run: RunRecord) -> str:
    evaluated = f", last evaluation at step {run.evaluations[-1].step}" if run.evaluations else ""
    return f"step {run.last_step} of {run.config.get('steps', '?')}{evaluated}"


def _seconds(run: RunRecord) -> float:
    """Time in steps and evaluations; pauses between an interruption and its resumption do not count."""
    return sum(row.get("seconds/step", 0.0) for row in run.training) + sum(run.eval_seconds.values())


def _cores(run: RunRecord) -> int | None:
    """CPU cores the run used, when its config.json says."""
    return run.config.get("cpu_cores")


def _in_time(run: RunRecord) -> str:
    if not (seconds := _seconds(run)):
        return ""
    return f" in {duration(seconds)}{on_cores(_cores(run))}"


def _tokens(run: RunRecord) -> int:
    """Tokens generated for training and evaluation; for pretraining, tokens seen."""
    config = run.config
    if run.stage == "pretrain":
        return int(run.training[-1].get("tokens_seen", 0)) if run.training else 0
    per_step = config.get("problems_per_step", 0) * config.get("group_size", 0) / config.get("inner_epochs", 1)
    trained = sum(length for _, length in run.series("length/mean")) * per_step
    return round(trained + sum(p.length * p.num_samples for e in run.evaluations for p in e.problems))


def _algorithm(config: dict[str, Any]) -> str | None:
    """The algorithm by the name of its paper, as its options make it."""
    if not (algo := config.get("algo")):
        return None
    if algo["ratio"] == "sequence":
        return "GSPO"
    if algo["advantage"] == "group-mean":
        return "Dr.GRPO"
    return "DAPO" if algo["aggregation"] == "token" and algo["clip_high"] > algo["clip_low"] else "GRPO"


def _facts(run: RunRecord) -> list[tuple[str, str]]:
    config = run.config
    facts = [("Model", str(config.get("model", "from scratch")))]
    if config.get("tasks"):
        facts.append(("Tasks", ", ".join(config["tasks"])))
    if algo := config.get("algo"):
        clip = f"clip −{algo['clip_low']:g}/+{algo['clip_high']:g}"
        facts.append(
            (
                "Algorithm",
                f"{_algorithm(config)}, {clip}, KL {algo['kl_coef']:g}, lr {tick_label(config['optim']['lr'])}",
            )
        )
    batch = (
        f", {config['problems_per_step']} problems × {config['group_size']} completions each"
        if "group_size" in config
        else ""
    )
    if run.training or "steps" in config:
        of = f" of {config['steps']:,}" if "steps" in config else ""
        facts.append(("Steps", f"{run.last_step:,}{of}{batch}"))
    if tokens := _tokens(run):
        facts.append(("Tokens seen" if run.stage == "pretrain" else "Tokens generated", count(tokens)))
    facts += [
        ("Time", duration(_seconds(run)) + on_cores(_cores(run))),
        ("Seed", str(config.get("seed", "?"))),
        ("r1kit", str(config.get("r1kit", "?"))),
    ]
    return facts


def _tiles(run: RunRecord, found: Sequence[Claim]) -> list[tuple[str, str, str]]:
    """The numbers that matter, large: (name, value, remark)."""
    if not run.evaluations:
        return []
    first, final = run.evaluations[0], run.evaluations[-1]
    then, now = scores(first, "all"), scores(final, "all")
    tiles = [
        (
            "pass@1",
            f"{then['pass@1'].value:.1%} → {now['pass@1'].value:.1%}",
            f"held-out, step {first.step} → {final.step}",
        )
    ]
    if first is final:
        tiles = [("pass@1", f"{now['pass@1'].value:.1%}", f"held-out, step {final.step}")]
        return tiles + [("response length", f"{now['length'].value:.0f} tokens", "mean, held-out")]
    for name, key, form, unit in (
        ("response length", "length", ".0f", " tokens"),
        ("reflection words", "reflection", ".1f", " per response"),
    ):
        before, after = then[key].value, now[key].value
        remark = f"{after / before:.1f}×" if before else "from none"
        tiles.append(
            (
                name,
                f"{before:{form}} → {after:{form}}",
                remark + unit.replace(" tokens", ", mean tokens").replace(" per", ", per"),
            )
        )
    if found:
        tiles.append(("claims that hold", f"{sum(c.holds for c in found)} of {len(found)}", "table below"))
    return tiles


def _beside(run: RunRecord) -> list[tuple[paper.PaperNumber, str]]:
    """The paper's numbers for R1-Zero with this run's."""
    config, ours = run.config, dict[str, str]()
    if len(run.evaluations) > 1:
        first, final = run.evaluations[0], run.evaluations[-1]
        what = f"{' + '.join(final.tasks)}, held-out: "
        ours["pass@1"] = f"{what}{pass_at_1(first).value:.1%} → {pass_at_1(final).value:.1%}"
        reflection = [mean([p.reflection for p in e.of("all")]).value for e in (first, final)]
        times = f" ({reflection[1] / reflection[0]:.1f}×)" if reflection[0] else ""
        ours["reflection"] = f"{reflection[0]:.2f} → {reflection[1]:.2f} per response{times}"
        for task in [task for task in final.voting_tasks if task != "all"][:1]:
            cons = mean([p.cons for p in final.of(task)]).value
            ours["cons"] = f"{task}: {cons:.1%} (cons@{final.num_samples})"
    if lengths := run.series("length/mean"):
        edge = max(1, min(5, len(lengths) // 4))
        start, end = (sum(y for _, y in part) / edge for part in (lengths[:edge], lengths[-edge:]))
        ours["length"] = f"{start:.0f} → {end:.0f} tokens (first and last {edge} steps)"
    ours["model"] = str(config.get("model", "?"))
    ours["steps"] = f"{run.last_step:,}"
    ours["batch"] = f"{config.get('problems_per_step', '?')} × {config.get('group_size', '?')}"
    raised = f", from step {config['raise_cap_at']:,} on {config['raised_cap']:,}" if config.get("raise_cap_at") else ""
    ours["cap"] = f"{config.get('max_new_tokens', 0):,}{raised} tokens"
    ours["compute"] = duration(_seconds(run)) + on_cores(_cores(run))
    return [(number, ours.get(number.id, "–")) for number in paper.R1_ZERO]
