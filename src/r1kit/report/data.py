"""The data that a pipeline made, as tables: what its reject, preferences and reward-model stages counted."""

from __future__ import annotations

from r1kit.report.estimates import Z95
from r1kit.report.read_pipeline import PipelineRecord

FUNNEL = ("problems", "sampled", "right", "readable", "kept")
MOST_REASONS = 3


def domains(record: PipelineRecord) -> list[tuple[str, list[list[str]]]]:
    """(stage, rows of domain, samples, share, rounds, tokens): the columns of R1 V2 Table 5 and the share."""
    found = []
    for name, counts in record.counts.items():
        by_domain = counts.get("domains", {})
        total = by_domain.get("total", {}).get("samples", 0)
        rows = [
            [
                domain,
                f"{numbers['samples']:,}",
                f"{numbers['samples'] / total:.0%}" if total else "–",
                f"{numbers['rounds']:.1f}",
                f"{numbers['tokens']:,.1f}",
            ]
            for domain, numbers in by_domain.items()
        ]
        if rows:
            found.append((name, rows))
    return found


def funnels(record: PipelineRecord) -> list[list[str]]:
    """One row per stage: problems, completions sampled, right, readable, kept; and why most were dropped."""
    found = []
    for name, counts in record.counts.items():
        tasks = counts.get("tasks", {}).values()
        totals = [f"{sum(task.get(column, 0) for task in tasks):,}" for column in FUNNEL]
        dropped = sorted(counts.get("dropped", {}).items(), key=lambda item: -item[1])[:MOST_REASONS]
        found.append([name, *totals, "; ".join(f"{reason} {number:,}" for reason, number in dropped) or "–"])
    return found


def preferences(record: PipelineRecord) -> list[list[str]]:
    """One row per stage: pairs judged, kept, characters of chosen and rejected, safe and unsafe responses."""
    found = []
    for name, run in record.runs.items():
        numbers = run.training[-1] if run.training else {}
        if "pairs/kept" in numbers:
            keys = (
                "pairs/judged",
                "pairs/kept",
                "pairs/chosen_chars",
                "pairs/rejected_chars",
                "safety/safe",
                "safety/unsafe",
            )
            found.append([name, *(f"{numbers[key]:,.0f}" if key in numbers else "–" for key in keys)])
    return found


def reward_models(record: PipelineRecord) -> list[list[str]]:
    """One row per reward model: kind, held-out rows, accuracy with its interval, and what it has to beat."""
    found = []
    for name, run in record.runs.items():
        numbers = run.results
        if "eval/accuracy" not in numbers:
            continue
        width = f" ± {Z95 * numbers['eval/accuracy_se']:.1%}" if "eval/accuracy_se" in numbers else ""
        baselines = [
            (key, text)
            for key, text in (("eval/longer", "the longer one"), ("eval/majority", "the commoner label"))
            if key in numbers
        ]
        found.append(
            [
                name,
                str(run.config.get("kind", "–")),
                f"{numbers['eval/rows']:,.0f}" if "eval/rows" in numbers else "–",
                f"{numbers['eval/accuracy']:.1%}{width}",
                "; ".join(f"{text} {numbers[key]:.1%}" for key, text in baselines) or "–",
            ]
        )
    return found
