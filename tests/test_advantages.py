"""Advantages and DAPO's group filter against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from r1kit.algo.advantages import group_advantages, informative_groups


def test_group_std_by_hand():
    # [1, 0, 0, 1]: mean 0.5, population std 0.5 -> +-1.  [2, 0, 0, 0]: mean 0.5, variance (2.25 + 3 * 0.25) / 4 = 0.75,
    # std 0.866025 -> 1.5 / 0.866025 = 1.732051 and -0.5 / 0.866025 = -0.577350.
    rewards_PG = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 0.0, 0.0, 0.0]])
    expected_PG = torch.tensor([[1.0, -1.0, -1.0, 1.0], [1.732051, -0.577350, -0.577350, -0.577350]])
    torch.testing.assert_close(group_advantages(rewards_PG, "group-std"), expected_PG, atol=1e-5, rtol=0)


def test_group_mean_is_dr_grpo_and_keeps_the_scale_of_the_rewards():
    rewards_PG = torch.tensor([[2.0, 0.0, 0.0, 0.0]])
    expected_PG = torch.tensor([[1.5, -0.5, -0.5, -0.5]])
    torch.testing.assert_close(group_advantages(rewards_PG, "group-mean"), expected_PG, atol=0, rtol=0)


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1.1, 1e-3, 12345.678])
@pytest.mark.parametrize("scale", ["group-std", "group-mean"])
def test_an_equal_group_gets_exactly_zero_whatever_the_rounding_of_its_mean(reward, scale):
    rewards_PG = torch.full((1, 7), reward)
    assert group_advantages(rewards_PG, scale).tolist() == [[0.0] * 7]


def test_a_difference_of_rounding_size_is_not_blown_up_to_one():
    # Half the difference is 5e-10 = std: 5e-10 / (5e-10 + 1e-6) = 5e-4 instead of 1.
    rewards_PG = torch.tensor([[1.0, 1.0 + 1e-9]], dtype=torch.float64)
    assert group_advantages(rewards_PG, "group-std")[0].tolist() == pytest.approx([-5e-4, 5e-4], rel=1e-2)


def test_a_group_does_not_see_its_neighbours():
    rewards_PG = torch.tensor([[1.0, 0.0, 2.0], [5.0, 5.0, 9.0]])
    alone_PG = torch.cat([group_advantages(rewards_PG[:1], "group-std"), group_advantages(rewards_PG[1:], "group-std")])
    torch.testing.assert_close(group_advantages(rewards_PG, "group-std"), alone_PG)


def test_dynamic_sampling_keeps_groups_whose_rewards_differ():
    rewards_PG = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 2.0]])
    assert informative_groups(rewards_PG).tolist() == [False, False, True, True]


def test_a_nan_reward_is_not_hidden():
    rewards_PG = torch.tensor([[1.0, float("nan"), 0.0]])
    assert informative_groups(rewards_PG).tolist() == [True]
    assert group_advantages(rewards_PG, "group-std").isnan().all()
