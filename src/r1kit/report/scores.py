"""The numbers of one evaluation, for summary.json and for tables."""

from __future__ import annotations

from collections.abc import Callable

from r1kit.report.estimates import Estimate, over
from r1kit.report.read import Evaluation, ProblemResult
from r1kit.report.words import with_width

FIELDS: dict[str, Callable[[ProblemResult], float | None]] = {
    "pass@1": lambda p: p.right,
    "length": lambda p: p.length,
    "reflection": lambda p: p.reflection,
    "truncated": lambda p: p.truncated,
    "undecided": lambda p: p.undecided,
    "consistency": lambda p: p.consistency,
    "readable": lambda p: p.readable,
    "quality": lambda p: p.quality,
    "summary": lambda p: p.summary,
}


def tasks(evaluation: Evaluation) -> list[str]:
    """ "all" and each task; only the task where there is one."""
    return ["all", *evaluation.tasks] if len(evaluation.tasks) > 1 else list(evaluation.tasks)


def scores(evaluation: Evaluation, task: str = "all") -> dict[str, Estimate]:
    """Every number that the evaluation has for a task, over its problems."""
    k = evaluation.num_samples
    wanted = {"pass@1": FIELDS["pass@1"]}
    if task in evaluation.voting_tasks:
        wanted[f"cons@{k}"] = lambda p: p.cons
    wanted[f"pass@{k}"] = lambda p: p.any_right
    found = {name: over(evaluation, field, task) for name, field in (wanted | FIELDS).items()}
    return {name: estimate for name, estimate in found.items() if estimate}


def numbers(evaluation: Evaluation, task: str = "all") -> dict[str, float]:
    """The same as plain numbers, each with its standard error `_se` (absent for one problem)."""
    found: dict[str, float] = {"num_problems": len(evaluation.of(task))}
    for name, estimate in scores(evaluation, task).items():
        found[name] = estimate.value
        if estimate.n > 1:
            found[f"{name}_se"] = estimate.se
    return found


def row(evaluation: Evaluation, task: str) -> dict[str, str]:
    """One line of a page's table of evaluations."""
    k, found = evaluation.num_samples, scores(evaluation, task)
    return {
        "step": str(evaluation.step),
        "task": task,
        "problems": str(found["pass@1"].n),
        "pass@1": with_width(found["pass@1"]),
        "cons": with_width(found.get(f"cons@{k}")),
        "pass@k": with_width(found[f"pass@{k}"]),
        "length": f"{found['length'].value:.1f}",
        "reflection": f"{found['reflection'].value:.2f}",
        "truncated": f"{found['truncated'].value:.1%}",
        "undecided": f"{found['undecided'].value:.1%}",
    }


def policy(evaluation: Evaluation) -> str:
    """The sampling policy in words: a score without it cannot be reproduced."""
    p = evaluation.policy
    cut = f"top-p {p.get('top_p', '?')}, " + (f"top-k {p['top_k']}" if p.get("top_k") else "no top-k")
    return (
        f"{evaluation.num_samples} samples per problem, temperature {p.get('temperature', '?')}, {cut}, "
        f"at most {p.get('max_new_tokens', '?')} new tokens, template {p.get('template', '?')}, "
        f"split {p.get('split', '?')}, seed {p.get('seed', '?')}"
    )
