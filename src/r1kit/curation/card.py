"""The card of a data set, README.md beside sft.jsonl: what is in it, how it was made, and what was left out.

The table by domain is the paper's (R1 V2 Table 5): samples, rounds, tokens. Hugging Face reads the front matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from r1kit.curation.select import STAGES, Row, Tally

UNSHOWN = {"run", "device", "rows", "api_key_env", "concurrency", "requests_per_minute", "retries", "timeout", "cache"}
"""Settings that say where and how fast it was made, not what."""


def domain_numbers(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """domain -> samples, mean rounds (the user's turns), mean tokens of the last turn; then "total" over all rows."""
    by_domain: dict[str, list[Row]] = {}
    for row in rows:
        by_domain.setdefault(row["domain"], []).append(row)
    reasoning = sorted(by_domain.keys() - {"general"})
    ordered = {domain: by_domain[domain] for domain in [*reasoning, "general"] if domain in by_domain}
    return {
        domain: {
            "samples": len(members),
            "rounds": fmean(sum(turn["role"] == "user" for turn in row["messages"]) for row in members),
            "tokens": fmean(row["tokens"] for row in members),
        }
        for domain, members in {**ordered, "total": list(rows)}.items()
    }


def language_counts(rows: Sequence[Row]) -> dict[str, int]:
    """language -> samples, most frequent first."""
    counts = Counter(row["language"] for row in rows)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def data_counts(rows: Sequence[Row], tally: Tally, *, wanted: int, joined: int) -> dict[str, Any]:
    """What counts.json holds. `wanted` and `joined` are numbers of general rows."""
    return {
        "rows": len(rows),
        "domains": domain_numbers(rows),
        "languages": language_counts(rows),
        "general": {"wanted": wanted, "joined": joined},
        **tally.as_json(),
    }


def data_card(counts: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Markdown from counts.json and the config."""
    languages, general = counts["languages"], counts["general"]
    sampled = sum(numbers["sampled"] for numbers in counts["tasks"].values())
    short = general["wanted"] - general["joined"]
    sampled_model = settings["teacher"]["model"] or settings["model"]
    return "\n".join(
        [
            "---",
            f"language: [{', '.join(languages)}]",
            "task_categories: [text-generation]",
            "configs:",
            "- config_name: default",
            "  data_files: sft.jsonl",
            "---",
            "# Fine-tuning data made by rejection sampling",
            "",
            f"{counts['rows']:,} conversations in `sft.jsonl`, made by `r1kit reject` from {sampled:,} completions of "
            f"`{sampled_model}`: a row has `id`, `messages` (the last turn is to be learnt), `domain`, `language` "
            "and `tokens`.",
            "",
            *_table(["domain", "samples", "avg rounds", "avg tokens"], _domain_cells(counts["domains"])),
            "",
            f"Tokens are those of the last turn, in the tokenizer of `{settings['model']}`. The columns are those of "
            "R1 V2, Table 5.",
            "",
            f"General data: {general['joined']:,} rows, {general['joined'] / max(counts['rows'], 1):.1%} of the whole"
            + (f"; {short:,} fewer than asked for, because there are no more." if short else "."),
            "",
            *_table(["language", "samples"], [[name, f"{count:,}"] for name, count in languages.items()]),
            "",
            "## What became of the completions",
            "",
            *_table(["task", *STAGES], _task_cells(counts["tasks"])),
            "",
            "Right: by the task's rule, or by the judge where there is none. Readable: within the thresholds below. "
            "`problems` counts problems, the other columns completions.",
            "",
            *_table(["dropped because", "completions"], [[why, f"{n:,}"] for why, n in counts["dropped"].items()]),
            "",
            *endpoint_lines(counts.get("calls", {})),
            "## Settings",
            "",
            *_table(["setting", "value"], [[f"`{name}`", f"`{value}`"] for name, value in _flat(settings)]),
            "",
        ]
    )


def endpoint_lines(calls: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A section with what each endpoint took, and what that costs where its prices are known; nothing without one."""
    if not calls:
        return []
    names = ("calls", "failed", "prompt_tokens", "completion_tokens")
    rows = [
        [endpoint, *(f"{used[name]:,.0f}" for name in names), f"{used['cost']:,.4g}" if "cost" in used else "unknown"]
        for endpoint, used in calls.items()
    ]
    return ["## Calls", "", *_table(["endpoint", *(name.replace("_", " ") for name in names), "cost"], rows), ""]


def _domain_cells(domains: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    return [
        [name, f"{numbers['samples']:,}", f"{numbers['rounds']:.1f}", f"{numbers['tokens']:,.1f}"]
        for name, numbers in domains.items()
    ]


def _task_cells(tasks: Mapping[str, Mapping[str, int]]) -> list[list[str]]:
    return [[task, *(f"{numbers[stage]:,}" for stage in STAGES)] for task, numbers in tasks.items()]


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [titles, *rows]]
    return [lines[0], "|" + "---|" * len(titles), *lines[1:]]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Settings by their flag's name; those of an endpoint that is not used are left out."""
    found: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            if value.get("url", "unset"):
                found += _flat(value, f"{prefix}{name}.")
        elif name not in UNSHOWN:
            shown = " ".join(map(str, value)) if isinstance(value, list) else value
            found.append((prefix + name, shown))
    return found
