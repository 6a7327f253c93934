"""The pipeline's charts: scores by checkpoint, the language reward's ablation, reward hacking, distillation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from r1kit.report.charts import Bar, Chart, Series, bar_chart, line_chart
from r1kit.report.estimates import Estimate, over
from r1kit.report.figures import evaluated, shown, trained
from r1kit.report.read import GENERAL, Evaluation, ProblemResult, RunRecord
from r1kit.report.read_pipeline import PipelineRecord
from r1kit.report.scores import FIELDS

SHORT = {"base": "Base", "zero": "Zero", "dev1": "Dev1", "dev2": "Dev2", "dev3": "Dev3", "r1": "R1"}
STUDENTS = {
    "student-base": ("its base", 5),
    "student-rl": ("RL", 2),
    "student-distilled": ("distilled", 1),
    "student-on-policy": ("on-policy", 3),
    "r1": ("R1, teacher", 4),
}


def checkpoints(record: PipelineRecord) -> list[Chart]:
    """One number in each chart, a bar for each checkpoint of the recipe."""
    return shown(
        [
            _bars("Accuracy", "pass@1, held-out", record.evaluations, "pass@1", 1),
            _bars("Response length", "mean tokens", record.evaluations, "length", 2, percent=False),
            _bars(
                "Language consistency", "share of words in the prompt's language", record.evaluations, "consistency", 3
            ),
            _bars("Readable", "share of completions", record.evaluations, "readable", 4),
            _bars("Reflection words", "mean per response", record.evaluations, "reflection", 6, percent=False),
            _bars("General prompts", "mean quality", record.general, "quality", 2, task=GENERAL),
        ]
    )


def language(record: PipelineRecord) -> list[Chart]:
    """V2 Fig. 7: consistency and accuracy in reasoning RL, with the language reward and without."""
    runs = {"with language reward": record.runs.get("dev2"), "without": record.runs.get("dev2-no-language")}
    both = [(name, run, colour) for (name, run), colour in zip(runs.items(), (1, 2), strict=True) if run]

    def lines(keys: Sequence[str], field: Callable[[ProblemResult], float | None]) -> list[Series]:
        found: list[Series] = []
        for name, run, colour in both:
            key = next((key for key in keys if run.series(key)), keys[0])
            found += trained(run, key, name, colour)
            found.append(evaluated(run, f"{name}, held-out", field, colour, top=1.0))
        return found

    accuracy = lines(("reward/accuracy",), FIELDS["pass@1"])
    consistency = lines(("language/consistency", "reward/language"), FIELDS["consistency"])
    lowest = min((y for line in consistency for _, y in line.points), default=0.0)
    floor = 0.8 if lowest > 0.8 else 0.5 if lowest > 0.5 else 0.0
    unit = "training" + (f"; the axis begins at {floor:.0%}" if floor else "")
    return shown(
        [
            line_chart("Language consistency", unit, consistency, scale="percent", y_min=floor, y_max=1.0),
            line_chart("Accuracy", "training", accuracy, scale="percent", y_max=1.0),
        ]
    )


def hacking(record: PipelineRecord) -> list[Chart]:
    """V2 Fig. 6: the reward model's score rises, what it stands for falls."""
    if (run := record.runs.get("hacking")) is None:
        return []
    quality = evaluated(run, "true quality, held-out", FIELDS["quality"], 1, task=GENERAL, top=1.0)
    accuracy = _where_right(run)
    return shown(
        [
            line_chart(
                "Preference reward", "mean reward-model score, training",
                trained(run, "reward/preference", "reward model", 2),
            ),
            line_chart("True quality", "held-out general prompts, judged by rules", [quality], scale="percent"),
            line_chart("Response length", "mean tokens, training", trained(run, "length/mean", "length", 3)),
            line_chart("Accuracy", "pass@1, held-out", [accuracy], scale="percent", y_max=1.0),
        ]
    )  # fmt: skip


def distillation(record: PipelineRecord) -> list[Chart]:
    """V1 Table 6: the student distilled, and the same student trained by RL; and its teacher."""
    found = []
    tasks = dict.fromkeys(
        task for name in STUDENTS if name in record.evaluations for task in record.evaluations[name].tasks
    )
    for task in ["all", *tasks] if len(tasks) > 1 else list(tasks):
        bars = []
        for name, (short, colour) in STUDENTS.items():
            if name in record.evaluations and (score := over(record.evaluations[name], FIELDS["pass@1"], task)):
                bars.append(_bar(short, score, colour))
        title = "Student, all tasks" if task == "all" else f"Student, {task}"
        found.append(bar_chart(title, "pass@1, held-out", bars, scale="percent", y_max=1.0))
    return shown(found) if {"student-distilled", "student-rl"} & record.evaluations.keys() else []


def _bar(name: str, score: Estimate, colour: int) -> Bar:
    return Bar(name, score.value, (score.low, score.high) if score.n > 1 else None, colour)


def _bars(
    title: str,
    unit: str,
    scored: dict[str, Evaluation],
    field: str,
    colour: int,
    *,
    task: str = "all",
    percent: bool = True,
) -> Chart | None:
    bars = []
    for name, short in SHORT.items():
        if name in scored and (score := over(scored[name], FIELDS[field], task)):
            bars.append(_bar(short, score, colour))
    return bar_chart(title, unit, bars, scale="percent" if percent else "number", y_max=1.0 if percent else None)


def _where_right(run: RunRecord) -> Series:
    """pass@1 at the evaluations that hold problems with a right answer."""
    return evaluated(run, "pass@1", lambda p: None if p.general else p.right, 4, top=1.0)
