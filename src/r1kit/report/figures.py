"""The report's charts: the paper's figures (V1 Fig. 2 and 3, V2 C.2) for a run, its training signals and its timing."""

from __future__ import annotations

from collections.abc import Callable

from r1kit.report.charts import Chart, Series, line_chart, smooth, stacked_chart, thin
from r1kit.report.estimates import over
from r1kit.report.read import Evaluation, ProblemResult, RunRecord

PHASES = (("sample", 1), ("score", 3), ("train", 2), ("other", 5), ("evaluate", 4))


def shown(charts: list[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart is not None]


def window(run: RunRecord) -> int:
    """Steps that a smoothed line averages over; 1 for a short run."""
    return max(1, len(run.training) // 20)


def trained(run: RunRecord, key: str, name: str, colour: int) -> list[Series]:
    """A training signal: every step faintly, and its moving average."""
    points = run.series(key)
    if window(run) == 1:
        return [Series(name, points, colour)]
    return [Series(name, points, colour, style="faint"), Series(name, smooth(points, window(run)), colour)]


def evaluated(
    run: RunRecord,
    name: str,
    field: Callable[[ProblemResult], float | None],
    colour: int,
    *,
    task: str = "all",
    top: float | None = None,
) -> Series:
    """A mean over held-out problems at each evaluation, with its 95% interval as a band."""
    points, band = [], []
    for evaluation in run.evaluations:
        if not (estimate := over(evaluation, field, task)):
            continue
        points.append((evaluation.step, estimate.value))
        if estimate.n > 1:
            high = estimate.high if top is None else min(top, estimate.high)
            band.append((evaluation.step, max(0.0, estimate.low), high))
    return Series(name, points, colour, band, "marked")


def _tasks(evaluations: tuple[Evaluation, ...]) -> list[str]:
    tasks = dict.fromkeys(task for evaluation in evaluations for task in evaluation.tasks)
    return ["all", *tasks] if len(tasks) > 1 else list(tasks)


def accuracy(run: RunRecord) -> list[Chart]:
    """V1 Fig. 2: pass@1 and cons@k over steps, for all problems and for each task."""
    charts = []
    for task in _tasks(run.evaluations):
        lines = [evaluated(run, "pass@1", lambda p: p.right, 1, task=task, top=1.0)]
        final = run.evaluations[-1]
        if task in final.voting_tasks:
            lines.insert(0, evaluated(run, f"cons@{final.num_samples}", lambda p: p.cons, 2, task=task, top=1.0))
        title = "Accuracy, all tasks" if task == "all" else f"Accuracy, {task}"
        charts.append(
            line_chart(title, " and ".join(line.name for line in reversed(lines)), lines, scale="percent", y_max=1.0)
        )
    return shown(charts)


def behaviour(run: RunRecord) -> list[Chart]:
    """V1 Fig. 3: response length over steps; V2 C.2: reflection words; and what over-thinking costs."""
    length = [*trained(run, "length/mean", "training", 1), evaluated(run, "held-out", lambda p: p.length, 2)]
    reflection = [
        *trained(run, "reflection/mean", "training", 1),
        evaluated(run, "held-out", lambda p: p.reflection, 2),
    ]
    truncated = [
        *trained(run, "length/truncated", "training", 1),
        evaluated(run, "held-out", lambda p: p.truncated, 2),
    ]
    return shown(
        [
            line_chart("Response length", "mean tokens", length),
            line_chart("Reflection words", "mean per response", reflection),
            line_chart("Truncated", "share of responses at the length cap", truncated, scale="percent"),
        ]
    )


def signals(run: RunRecord) -> list[Chart]:
    """Small multiples of what the optimizer sees."""
    small = 180

    def chart(title: str, unit: str, *keys: tuple[str, str], percent: bool = False) -> Chart | None:
        lines = [line for i, (key, name) in enumerate(keys, start=1) for line in trained(run, key, name, i)]
        return line_chart(title, unit, lines, scale="percent" if percent else "number", height=small)

    return shown(
        [
            chart(
                "Reward",
                "mean per completion",
                ("reward/mean", "total"),
                ("reward/accuracy", "accuracy"),
                ("reward/format", "format"),
                ("reward/language", "language"),
                ("reward/preference", "preference"),
            ),
            chart("Language consistency", "share of words", ("language/consistency", "consistency"), percent=True),
            chart(
                "Groups",
                "share of groups",
                ("reward/solved_groups", "any right"),
                ("reward/equal_groups", "all rewards equal"),
                percent=True,
            ),
            chart("Entropy", "nats per token", ("entropy", "entropy")),
            chart("KL to the reference", "nats per token, k3", ("kl/reference", "KL")),
            chart("KL learner to sampler", "nats per token, k3", ("kl/sampler", "KL")),
            chart("Clipped", "share of tokens", ("ratio/clipped", "clipped"), percent=True),
            chart("Loss", "policy objective, negated", ("loss/policy", "loss")),
            chart("Loss", "nats per token", ("loss/nll", "loss")),
            chart("Gradient norm", "before clipping", ("grad_norm", "norm")),
            chart("Learning rate", "AdamW", ("lr", "learning rate")),
        ]
    )


def seconds_by_phase(run: RunRecord) -> list[tuple[str, int, float]]:
    """(phase, colour, seconds) over the whole run; "other" is the part of a step that no phase covers."""
    total = {
        phase: sum(row.get(f"seconds/{phase}", 0.0) for row in run.training) for phase in ("sample", "score", "train")
    }
    whole = sum(row.get("seconds/step", 0.0) for row in run.training)
    total["other"] = max(0.0, whole - sum(total.values()))
    total["evaluate"] = sum(run.eval_seconds.values())
    return [(phase, colour, total[phase]) for phase, colour in PHASES if total[phase] > 0]


def timing(run: RunRecord) -> list[Chart]:
    """Seconds of each step by phase, and tokens per second."""
    steps = [row for row in run.training if "seconds/step" in row]
    layers = [
        Series(phase, [(row["step"], row.get(f"seconds/{phase}", 0.0)) for row in steps], colour)
        for phase, colour in PHASES[:3]
        if any(f"seconds/{phase}" in row for row in steps)
    ] or [Series("step", thin([(row["step"], row["seconds/step"]) for row in steps]), 1)]
    speed = line_chart("Throughput", "tokens per second", trained(run, "tokens_per_second", "tokens per second", 1))
    return shown([stacked_chart("Time per step", "seconds", layers), speed])
