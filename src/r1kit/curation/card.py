"""The card of a data set, README.md beside sft.jsonl: what is in it, how it was made, and what was left out.

The table by domain is the paper's (R1 V2 Table 5): samples, rounds, tokens. Hugging Face reads the front matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from r1kit.config import PreferencesConfig
from r1kit.curation.pairs import PAIRS, SAFETY
from r1kit.curation.select import STAGES, Row, Tally
from r1kit.types import Metrics

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


PAIR_TABLES = {
    "Prompts": ("prompts", "helpful", "safety", "undecided", "not_general"),
    "Completions": ("completions", "model", "writers", "truncated", "failed", "no_response"),
    "Pairs": ("pairs", "judged", "undecided", "no_margin", "unbalanced", "kept"),
    "Labelled responses": ("safety", "safe", "unsafe", "undecided"),
}
"""Tables of the card of preference data: title -> (prefix of the metric, its names)."""
PAIR_COUNTS = {
    "prompts/undecided": "neither rules nor an endpoint to judge them",
    "prompts/not_general": "with a rule of their own, left out",
    "completions/writers": "by the writers of the corpus, in place of other models",
    "completions/truncated": "at the length cap; judged all the same",
    "completions/no_response": "thought not closed, or nothing after it; in no pair",
    "pairs/undecided": "no readable verdict, or none with one of the two first",
    "pairs/no_margin": "dropped: too close",
    "pairs/unbalanced": "dropped: for comparable lengths",
}
"""What some of its counts mean."""


def preferences_card(cfg: PreferencesConfig, metrics: Metrics) -> str:
    """README.md of preference data: how they were made, and how many of what."""
    judge, verdict = "rules (`r1kit.rewards.general`)", "verdict"
    if cfg.judge.url:
        judge = f"{cfg.judge.model} at {cfg.judge.url}"
        verdict = f"mean verdict over {cfg.queries} queries, each response first in half of them,"
    lines = [
        "# Preference data",
        "",
        f"Responses of `{cfg.model}` to {cfg.num_prompts:,} training prompts per task ({', '.join(cfg.tasks)}), "
        f"{cfg.num_samples} per prompt (temperature {cfg.temperature}, at most {cfg.max_new_tokens} tokens, "
        f"template {cfg.template}, seed {cfg.seed}), judged by {judge}.",
        "",
        f"`{PAIRS}` is for the helpful reward model: two responses without their thoughts, whose {verdict} is above "
        f"{cfg.min_margin:g} of 2. `{SAFETY}` is for the safety reward model: whole completions with a label (R1 V2 "
        "section 3.1).",
    ]
    for title, (prefix, *names) in PAIR_TABLES.items():
        lines += ["", f"## {title}", "", "| | |", "|---|---|"]
        for name in names:
            key = f"{prefix}/{name}"
            meaning = f" ({PAIR_COUNTS[key]})" if key in PAIR_COUNTS else ""
            lines.append(f"| {name.replace('_', ' ')}{meaning} | {metrics.get(key, 0):,.0f} |")
    languages = ", ".join(
        f"{name.removeprefix('language/')} {n:,.0f}" for name, n in metrics.items() if "language/" in name
    )
    lines += [
        "",
        "## Lengths",
        "",
        f"Pairs: chosen {metrics['pairs/chosen_chars']:.1f}, rejected {metrics['pairs/rejected_chars']:.1f} "
        f"characters on average; the chosen is longer by {metrics['pairs/bias']:+.1%} of the longer one "
        f"({metrics['pairs/bias_before']:+.1%} before balancing; at most {cfg.max_length_bias:.1%} asked for). "
        f"In {metrics['pairs/chosen_longer']:.1%} of the pairs the chosen is the longer one: only the means are "
        "balanced, so a reward model can do that well by length alone.",
        "",
        f"Labelled responses: safe {metrics['safety/safe_chars']:.1f}, unsafe {metrics['safety/unsafe_chars']:.1f} "
        "characters on average.",
        "",
        f"Rows by language: {languages or 'none'}.",
        "",
    ]
    used = {name.removeprefix("judge/"): number for name, number in metrics.items() if name.startswith("judge/")}
    lines += endpoint_lines({"judge": used} if used else {})
    return "\n".join(lines)
