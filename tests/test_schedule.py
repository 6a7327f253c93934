"""Learning rate, length cap and reference replacement at the steps where they change."""

from __future__ import annotations

import pytest

from r1kit.algo.schedule import learning_rate, length_cap, reference_is_due
from r1kit.config import OptimConfig


def rates(optim: OptimConfig, num_steps: int) -> list[float]:
    return [learning_rate(optim, step, num_steps) for step in range(num_steps)]


def test_constant_is_constant_to_the_last_step():
    assert rates(OptimConfig(lr=3e-6, schedule="constant"), 5) == [3e-6] * 5


def test_warmup_climbs_to_the_peak_and_never_wastes_a_step():
    # 4 warm-up steps: 1/4, 2/4, 3/4, 4/4 of the peak, then constant.
    optim = OptimConfig(lr=4.0, warmup_steps=4, schedule="constant")
    assert rates(optim, 6) == [1.0, 2.0, 3.0, 4.0, 4.0, 4.0]


def test_linear_goes_from_the_peak_to_the_final_fraction_at_the_last_step():
    # peak at step 0, 5 steps: 1, 0.8, 0.6, 0.4, 0.2 with a final fraction of 0.2.
    optim = OptimConfig(lr=1.0, schedule="linear", final_lr_fraction=0.2)
    assert rates(optim, 5) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_cosine_with_warmup_by_hand():
    # Peak 1 at step 1 (the second of two warm-up steps), then a quarter of half a cosine each step, down to 0.1:
    # cos(45), cos(90), cos(135), cos(180) = 0.70711, 0, -0.70711, -1 -> (1 + cos) / 2 = 0.85355, 0.5, 0.14645, 0
    # -> 0.1 + 0.9 x = 0.868198, 0.55, 0.231802, 0.1.
    optim = OptimConfig(lr=1.0, schedule="cosine", warmup_steps=2, final_lr_fraction=0.1)
    assert rates(optim, 6) == pytest.approx([0.5, 1.0, 0.868198, 0.55, 0.231802, 0.1], abs=1e-6)


def test_the_papers_sft_schedule_ends_at_a_tenth():
    optim = OptimConfig(lr=5e-5, schedule="cosine", final_lr_fraction=0.1)
    assert learning_rate(optim, 0, 1000) == pytest.approx(5e-5)
    assert learning_rate(optim, 999, 1000) == pytest.approx(5e-6)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_runs_no_longer_than_their_warmup(schedule):
    optim = OptimConfig(lr=1.0, warmup_steps=4, schedule=schedule)
    assert rates(optim, 4) == [0.25, 0.5, 0.75, 1.0]
    assert rates(optim, 2) == [0.25, 0.5]
    assert rates(OptimConfig(lr=1.0, schedule=schedule), 1) == [1.0]


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_run_is_an_error(step):
    with pytest.raises(ValueError, match="outside a run of 10 steps"):
        learning_rate(OptimConfig(), step, 10)


def test_the_length_cap_of_r1_zero_rises_at_step_8200():
    caps = [length_cap(step, 32_768, 8_200, 65_536) for step in (0, 8_199, 8_200, 10_399)]
    assert caps == [32_768, 32_768, 65_536, 65_536]


def test_a_length_cap_that_is_never_raised():
    assert [length_cap(step, 512, 0, 0) for step in (0, 1, 10_000)] == [512, 512, 512]


def test_the_reference_is_replaced_every_400_steps_but_not_before_the_first():
    assert [step for step in range(1201) if reference_is_due(step, 400)] == [400, 800, 1200]


def test_reference_every_0_keeps_the_first_reference():
    assert not any(reference_is_due(step, 0) for step in range(10))
