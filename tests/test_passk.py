"""Facts about pass@1, pass@k and cons@k: by hand, against counting, and against published numbers."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from statistics import fmean

import pytest

from r1kit.scoring.passk import (
    GradedSample,
    confidence_interval,
    cons_at_k,
    pass_at_1,
    pass_at_k,
    standard_error,
    summarise,
)

DATA = Path(__file__).parents[2] / "shared" / "data"


def graded(*answers: str, gold: str = "23") -> list[GradedSample]:
    return [GradedSample(answer == gold, False, answer, 10, False, 0) for answer in answers]


def test_pass_at_k_equals_counting_all_subsets():
    for n, right in itertools.product(range(1, 7), range(7)):
        if right > n:
            continue
        for k in range(1, n + 1):
            subsets = list(itertools.combinations([i < right for i in range(n)], k))
            assert pass_at_k(n, right, k) == pytest.approx(fmean(any(subset) for subset in subsets))


def test_pass_at_k_needs_k_samples():
    with pytest.raises(ValueError, match="pass@8 cannot be estimated from 4 samples"):
        pass_at_k(4, 1, 8)
    with pytest.raises(ValueError, match="k of 1 or more"):
        pass_at_k(4, 1, 0)


def test_majority_by_hand():
    assert cons_at_k(graded("23", "23", "5", "7")) == 1
    assert cons_at_k(graded("23", "5", "5", "7")) == 0
    assert cons_at_k(graded("23", "23", "5", "5")) == 0.5
    assert cons_at_k(graded("23", "5", "7")) == pytest.approx(1 / 3)
    assert cons_at_k(graded("23", "", " ", "")) == 1  # no answer does not vote
    assert cons_at_k(graded("", "")) == 0


def test_standard_error_by_hand():
    # Scores 0, 1, 1, 0: sample variance 4 x 0.25 / 3 = 1/3, so the error is sqrt(1/3) / 2.
    assert standard_error([0, 1, 1, 0]) == pytest.approx(math.sqrt(1 / 3) / 2)
    assert standard_error([0.5]) == 0
    assert confidence_interval(0.5, 0.1) == pytest.approx((0.304, 0.696))


def test_summary_by_hand():
    first = [
        GradedSample(True, False, "23", 10, False, 1),
        GradedSample(True, False, "23", 20, False, 3),
        GradedSample(False, False, "5", 30, False, 0),
        GradedSample(False, False, "", 40, True, 0),
    ]
    second = [GradedSample(False, True, "x", 50, False, 2)] * 4
    assert summarise([first, second]) == pytest.approx(
        {
            "pass@1": 0.25,
            "pass@1_se": 0.25,
            "cons@4": 0.5,
            "cons@4_se": 0.5,
            "pass@4": 0.5,
            "pass@4_se": 0.5,
            "length": 37.5,
            "length_se": 12.5,
            "reflection": 1.5,
            "reflection_se": 0.5,
            "readable": 0.0,
            "readable_se": 0.0,
            "truncated": 1 / 8,
            "undecided": 4 / 8,
            "num_problems": 2,
            "num_samples": 4,
        }
    )


def test_optional_values_are_means_over_the_problems_that_have_them():
    def of(consistency: float | None, quality: float | None, readable: bool) -> GradedSample:
        return GradedSample(True, False, "1", 1, False, 0, consistency, readable, quality)

    problems = [
        [of(1.0, None, True), of(0.5, None, False)],
        [of(None, None, True), of(0.25, None, True)],
        [of(None, 0.5, False), of(None, 0.7, False)],
    ]
    found = summarise(problems)
    assert found["consistency"] == pytest.approx((0.75 + 0.25) / 2)
    assert found["quality"] == pytest.approx(0.6) and found["quality_se"] == 0
    assert found["readable"] == pytest.approx((0.5 + 1 + 0) / 3)


def test_summary_refuses_uneven_problems():
    with pytest.raises(ValueError, match=r"samples per problem are \[1, 2\]"):
        summarise([graded("1"), graded("1", "2")])
    with pytest.raises(ValueError, match="none"):
        summarise([])


def test_published_pass_at_k():
    """800 problems x 10 samples with the published pass@1 and pass@5 (CRUXEval, CodeLlama-7B)."""
    file = DATA / "passk" / "cruxeval_codellama7b_t0.2_output_scored.json"
    if not file.exists():
        pytest.skip(f"no {file}")
    published = json.loads(file.read_text())
    flags = list(published["raw_scored_generations"].values())
    assert len(flags) == 800
    assert 100 * fmean(pass_at_k(len(f), sum(f), 5) for f in flags) == pytest.approx(published["pass_at_5"])
    problems = [[GradedSample(right, False, "", 0, False, 0) for right in f] for f in flags]
    assert 100 * fmean(pass_at_1(samples) for samples in problems) == pytest.approx(published["pass_at_1"])
    assert 100 * summarise(problems)["pass@1"] == pytest.approx(published["pass_at_1"])
