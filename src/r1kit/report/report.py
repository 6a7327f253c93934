"""One self-contained HTML file that shows whether a run worked, and the same for machines in summary.json.

    r1kit report runs/demo

Everything is computed from the run's files: claims and intervals from evals/*.jsonl, training curves from
metrics.jsonl. The page loads nothing from a network and has no script.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from r1kit.report import claims, figures, paper
from r1kit.report.charts import tick_label
from r1kit.report.claims import Claim, Estimate
from r1kit.report.command import command
from r1kit.report.read import Evaluation, RunRecord, find_run, read_run
from r1kit.report.samples import before_after
from r1kit.run import write_json_atomic, write_text_atomic


def main(run: Path, out: Path | None = None) -> Path:
    """Write the report of a run or pipeline folder to `out` (default: report.html in it), and summary.json in it.

    Raises FileNotFoundError for a folder that is not a run, ValueError for a damaged file.
    """
    record = read_run(find_run(run))
    found = claims.claims(record.evaluations, finished=record.finished) if record.stage == "rl" else []
    out = out or run / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(out, render(record, found, title=run.resolve().name))
    write_json_atomic(run / "summary.json", summary(record, found))
    return out


def render(run: RunRecord, found: Sequence[Claim], title: str) -> str:
    """The page's HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    phases = figures.seconds_by_phase(run)
    return environment.get_template("template.html").render(
        title=title,
        headline=headline(run),
        tiles=_tiles(run, found),
        facts=_facts(run),
        notes=run.notes,
        unfinished="" if run.finished else _progress(run),
        claims=[(claim, verdict(claim, finished=run.finished), _measured(claim)) for claim in found],
        accuracy=figures.accuracy(run) if run.evaluations else [],
        behaviour=figures.behaviour(run),
        signals=figures.signals(run),
        smoothing=figures.window(run),
        timing=figures.timing(run),
        phases=[(name, colour, seconds, duration(seconds)) for name, colour, seconds in phases],
        beside=_beside(run) if run.stage == "rl" else [],
        arxiv=paper.ARXIV,
        pairs=before_after(run.evaluations[0], run.evaluations[-1]) if len(run.evaluations) > 1 else [],
        evaluations=[(_policy(e), [_row(e, task) for task in _tasks(e)]) for e in run.evaluations],
        num_samples=run.evaluations[-1].num_samples if run.evaluations else 0,
        command=command(run.config),
        config=json.dumps(run.config, indent=2, ensure_ascii=False),
    )


def headline(run: RunRecord) -> str:
    """The result in one sentence."""
    if run.stage == "pretrain":
        losses = run.series("loss/nll")
        if not losses:
            return "No training step yet."
        change = f"from {losses[0][1]:.2f} to {losses[-1][1]:.2f} nats per token"
        return f"The loss went {change} in {run.last_step:,} steps{_in_time(run)}."
    if not run.evaluations:
        return f"{run.last_step:,} steps trained{_in_time(run)}; no evaluation yet, so held-out accuracy is unknown."
    first, final = run.evaluations[0], run.evaluations[-1]
    after = claims.pass_at_1(final)
    interval = f"(95% CI {_percent(after.low)} to {_percent(after.high)})"
    where = (
        f"on {len(final.problems)} held-out problems"
        if final.policy.get("split") != "train"
        else "on training problems"
    )
    if first is final:
        return (
            f"pass@1 is {after.value:.1%} {interval} at step {final.step}, {where}; there is no later evaluation yet."
        )
    before = claims.pass_at_1(first)
    verb = "rose" if after.value > before.value else "fell" if after.value < before.value else "stayed:"
    return f"pass@1 {verb} from {before.value:.1%} to {after.value:.1%} {interval} {where}{_in_time(run)}."


def verdict(claim: Claim, *, finished: bool) -> tuple[str, str, str]:
    """(CSS class, verdict, remark) for a claim."""
    if claim.measured is None:
        return "open", "not measured", ""
    if claim.holds:
        return "yes", "holds", "" if claim.conclusive else "but not its whole interval"
    if finished or claim.id == "base":
        return "no", "does not hold", ""
    return "open", "not yet", ""


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
                **_numbers(e, "all"),
                "tasks": {task: _numbers(e, task) for task in e.tasks},
                "policy": e.policy,
            }
            for e in run.evaluations
        ],
    }


def duration(seconds: float) -> str:
    """41 s, 9 min 12 s or 3 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(number: float) -> str:
    """1,234 or 5.62 M."""
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number:,.0f}"


def _percent(value: float) -> str:
    return f"{min(1.0, max(0.0, value)):.1%}"


def _tasks(evaluation: Evaluation) -> list[str]:
    return ["all", *evaluation.tasks] if len(evaluation.tasks) > 1 else list(evaluation.tasks)


def _estimates(evaluation: Evaluation, task: str) -> dict[str, Estimate]:
    problems, k = evaluation.of(task), evaluation.num_samples
    found = {"pass@1": claims.mean([p.right for p in problems])}
    if task in evaluation.voting_tasks:
        found[f"cons@{k}"] = claims.mean([p.cons for p in problems])
    return found | {
        f"pass@{k}": claims.mean([p.any_right for p in problems]),
        "length": claims.mean([p.length for p in problems]),
        "reflection": claims.mean([p.reflection for p in problems]),
        "truncated": claims.mean([p.truncated for p in problems]),
        "undecided": claims.mean([p.undecided for p in problems]),
    }


def _numbers(evaluation: Evaluation, task: str) -> dict[str, float]:
    numbers: dict[str, float] = {"num_problems": len(evaluation.of(task))}
    for name, estimate in _estimates(evaluation, task).items():
        numbers[name] = estimate.value
        if estimate.n > 1:
            numbers[f"{name}_se"] = estimate.se
    return numbers


def _row(evaluation: Evaluation, task: str) -> dict[str, str]:
    """One line of the page's table of evaluations."""
    k, found = evaluation.num_samples, _estimates(evaluation, task)

    def share(name: str) -> str:
        if name not in found:
            return "–"
        width = f" ± {claims.Z95 * found[name].se:.1%}" if found[name].n > 1 else ""
        return f"{found[name].value:.1%}{width}"

    return {
        "step": str(evaluation.step),
        "task": task,
        "problems": str(found["pass@1"].n),
        "pass@1": share("pass@1"),
        "cons": share(f"cons@{k}"),
        "pass@k": share(f"pass@{k}"),
        "length": f"{found['length'].value:.1f}",
        "reflection": f"{found['reflection'].value:.2f}",
        "truncated": f"{found['truncated'].value:.1%}",
        "undecided": f"{found['undecided'].value:.1%}",
    }


def _policy(evaluation: Evaluation) -> str:
    """The sampling policy in words: a score without it cannot be reproduced."""
    p = evaluation.policy
    cut = f"top-p {p.get('top_p', '?')}, " + (f"top-k {p['top_k']}" if p.get("top_k") else "no top-k")
    return (
        f"{evaluation.num_samples} samples per problem, temperature {p.get('temperature', '?')}, {cut}, "
        f"at most {p.get('max_new_tokens', '?')} new tokens, template {p.get('template', '?')}, "
        f"split {p.get('split', '?')}, seed {p.get('seed', '?')}"
    )


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
    cores = _cores(run)
    return f" in {duration(seconds)}" + (f" on {cores} CPU core{'s' if cores > 1 else ''}" if cores else "")


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
    facts += [
        ("Steps", f"{run.last_step:,} of {config.get('steps', 0):,}{batch}"),
        ("Tokens seen" if run.stage == "pretrain" else "Tokens generated", count(_tokens(run))),
        ("Time", duration(_seconds(run)) + (f", {cores} CPU cores" if (cores := _cores(run)) else "")),
        ("Seed", str(config.get("seed", "?"))),
        ("r1kit", str(config.get("r1kit", "?"))),
    ]
    return facts


def _tiles(run: RunRecord, found: Sequence[Claim]) -> list[tuple[str, str, str]]:
    """The numbers that matter, large: (name, value, remark)."""
    if not run.evaluations:
        return []
    first, final = run.evaluations[0], run.evaluations[-1]
    then, now = _estimates(first, "all"), _estimates(final, "all")
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


def _measured(claim: Claim) -> tuple[str, str]:
    """(number, interval) in the claim's unit."""
    if claim.measured is None:
        return "–", "–"

    def number(value: float) -> str:
        match claim.unit:
            case "share":
                return _percent(value)
            case "points":
                return f"{value * 100:+.1f} points"
            case "ratio":
                return f"{value:.2f}×"
            case "words":
                return f"{value:+.2f} words"

    if claim.low is None or claim.high is None:
        return number(claim.measured), "none, one problem"
    low, high = number(claim.low).split()[0], number(claim.high).split()[0]  # the unit stands beside the number
    return number(claim.measured).replace("-", "−"), f"{low} to {high}".replace("-", "−")


def _beside(run: RunRecord) -> list[tuple[paper.PaperNumber, str]]:
    """The paper's numbers for R1-Zero with this run's."""
    config, ours = run.config, dict[str, str]()
    if len(run.evaluations) > 1:
        first, final = run.evaluations[0], run.evaluations[-1]
        what = f"{' + '.join(final.tasks)}, held-out: "
        ours["pass@1"] = f"{what}{claims.pass_at_1(first).value:.1%} → {claims.pass_at_1(final).value:.1%}"
        reflection = [claims.mean([p.reflection for p in e.problems]).value for e in (first, final)]
        times = f" ({reflection[1] / reflection[0]:.1f}×)" if reflection[0] else ""
        ours["reflection"] = f"{reflection[0]:.2f} → {reflection[1]:.2f} per response{times}"
        for task in [task for task in final.voting_tasks if task != "all"][:1]:
            cons = claims.mean([p.cons for p in final.of(task)]).value
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
    ours["compute"] = duration(_seconds(run)) + (f" on {cores} CPU cores" if (cores := _cores(run)) else "")
    return [(number, ours.get(number.id, "–")) for number in paper.R1_ZERO]
