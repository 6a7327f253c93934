"""pass@1 (the mean over k samples, as in R1), cons@k and pass@k, with standard errors over problems.

Every metric is a mean over problems of a per-problem score, so its standard error is the scores' spread over problems;
samples of one problem are not independent questions.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from r1kit.types import Metrics


@dataclass(frozen=True)
class GradedSample:
    """What scoring needs to know of one completion."""

    right: bool
    undecided: bool
    """The scorer could not judge it; counts as not right, and is reported."""
    answer: str
    """The extracted answer, which votes in cons@k; empty does not vote."""
    tokens: int
    truncated: bool
    reflection: int
    """Reflection words in it."""
    consistency: float | None = None
    """Language consistency of its thought, 0 to 1; None without words."""
    readable: bool = False
    """Its thought passes the readability filters at their default thresholds."""
    quality: float | None = None
    """Helpfulness, 0 to 1, of a response to a general prompt that comes with rules; else None."""


def pass_at_1(samples: Sequence[GradedSample]) -> float:
    """Share of right samples of one problem: R1's pass@1, (1/k) sum_i p_i."""
    return fmean(sample.right for sample in samples)


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Chance that at least one of k samples, drawn without replacement from these, is right.

    1 - C(n-c, k) / C(n, k), unbiased (Chen et al. 2021, eq. 1). ValueError when k is not in 1..num_samples.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(
            f"pass@{k} cannot be estimated from {num_samples} samples; take at least {k} samples, and k of 1 or more"
        )
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def cons_at_k(samples: Sequence[GradedSample]) -> float:
    """Score of the majority answer of one problem's samples, R1's cons@k (k is the number of samples).

    Of answers tied for most votes, one is taken at random: the expected score is returned. Samples without an answer do
    not vote; 0 when none votes.
    """
    votes: dict[str, list[bool]] = defaultdict(list)
    for sample in samples:
        if answer := sample.answer.strip():
            votes[answer].append(sample.right)
    if not votes:
        return 0.0
    most = max(len(rights) for rights in votes.values())
    return fmean(fmean(rights) for rights in votes.values() if len(rights) == most)


def standard_error(scores: Sequence[float]) -> float:
    """Standard error of the mean over P problems: sample standard deviation / sqrt(P). 0 for one problem."""
    return stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0


def confidence_interval(mean: float, se: float) -> tuple[float, float]:
    """Normal 95% interval of a mean, not cut off at 0 or 1."""
    return mean - 1.96 * se, mean + 1.96 * se


def summarise(problems: Sequence[Sequence[GradedSample]]) -> Metrics:
    """The numbers of one task: `problems` holds the k samples of each problem.

    Keys: pass@1, cons@k, pass@k (k written out) with `_se`; length (tokens) and reflection (words) per completion with
    `_se`; consistency and quality with `_se`, over the problems that have them; readable (share of completions) with
    `_se`; truncated and undecided (shares of completions); num_problems; num_samples (k).
    ValueError when there is nothing, or when problems have different numbers of samples.
    """
    counts = sorted({len(samples) for samples in problems})
    if len(counts) != 1 or counts[0] == 0:
        raise ValueError(f"samples per problem are {counts or 'none'}; give every problem the same number, at least 1")
    k = counts[0]
    scores = {
        "pass@1": [pass_at_1(samples) for samples in problems],
        f"cons@{k}": [cons_at_k(samples) for samples in problems],
        f"pass@{k}": [pass_at_k(k, sum(sample.right for sample in samples), k) for samples in problems],
        "length": [fmean(sample.tokens for sample in samples) for samples in problems],
        "reflection": [fmean(sample.reflection for sample in samples) for samples in problems],
        "readable": [fmean(sample.readable for sample in samples) for samples in problems],
        "consistency": _means([[sample.consistency for sample in samples] for samples in problems]),
        "quality": _means([[sample.quality for sample in samples] for samples in problems]),
    }
    results: Metrics = {}
    for name, per_problem in scores.items():
        if per_problem:
            results |= {name: fmean(per_problem), f"{name}_se": standard_error(per_problem)}
    everything = [sample for samples in problems for sample in samples]
    results["truncated"] = fmean(sample.truncated for sample in everything)
    results["undecided"] = fmean(sample.undecided for sample in everything)
    return results | {"num_problems": len(problems), "num_samples": k}


def _means(values: Sequence[Sequence[float | None]]) -> list[float]:
    """The mean of each problem's values, of the problems that have any."""
    present = [[value for value in row if value is not None] for row in values]
    return [fmean(row) for row in present if row]
