"""The parts of the GRPO objective by hand: weights, ratios and clipping, the KL, importance weights; the likelihood.

N tokens, S completions, V vocabulary.
"""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from r1kit.algo.losses import (
    Aggregation,
    grpo_loss,
    importance_ratios,
    kl_k3,
    nll_loss,
    policy_loss,
    token_weights,
    truncated_is_weights,
)
from r1kit.config import AlgoConfig


def one_completion_loss(ratios: list[float], advantage: float, clip_low: float, clip_high: float):
    """policy_loss of one completion with these token ratios, weight 1/|o|; with the gradient in the log-probs."""
    logprobs_N = torch.tensor(ratios).log().requires_grad_()
    num_tokens = len(ratios)
    loss, metrics = policy_loss(
        logprobs_N,
        torch.zeros(num_tokens),
        torch.full((num_tokens,), advantage),
        torch.full((num_tokens,), 1 / num_tokens),
        torch.zeros(num_tokens, dtype=torch.int64),
        1,
        ratio="token",
        clip_low=clip_low,
        clip_high=clip_high,
        num_tokens=num_tokens,
    )
    (gradient_N,) = torch.autograd.grad(loss, logprobs_N)
    return loss.item(), gradient_N.tolist(), {name: value.item() for name, value in metrics.items()}


def test_token_weights_by_hand():
    # A step of 4 completions and 20 tokens, cap 10; this micro-batch holds completions of 2 and 5 tokens.
    counts = dict(num_sequences=4, num_tokens=20, length_cap=10)
    lengths_S = torch.tensor([2, 5])
    # 1 / (4 * 2) and 1 / (4 * 5)
    assert token_weights(lengths_S, "sequence", **counts).tolist() == pytest.approx([0.125, 0.05])
    # 1 / 20
    assert token_weights(lengths_S, "token", **counts).tolist() == pytest.approx([0.05, 0.05])
    # 1 / (4 * 10)
    assert token_weights(lengths_S, "constant", **counts).tolist() == pytest.approx([0.025, 0.025])


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_weights_of_empty_completions_are_finite(aggregation):
    weights_S = token_weights(torch.tensor([0, 0]), aggregation, num_sequences=2, num_tokens=0, length_cap=10)
    assert weights_S.isfinite().all()


def test_importance_ratios_by_hand():
    # Completion 0: token ratios 2 and 8, geometric mean sqrt(16) = 4. Completion 1: 0.5. Completion 2 has no tokens.
    logprobs_N, sequence_N = torch.tensor([2.0, 8.0, 0.5]).log(), torch.tensor([0, 0, 1])
    old_N = torch.zeros(3)
    assert importance_ratios(logprobs_N, old_N, sequence_N, 3, "token").tolist() == pytest.approx([2.0, 8.0, 0.5])
    assert importance_ratios(logprobs_N, old_N, sequence_N, 3, "sequence").tolist() == pytest.approx([4.0, 4.0, 0.5])


def test_good_tokens_are_clipped_above_only():
    # A = 2, clip 0.2: ratio 0.5 stays 0.5 * 2 = 1, ratio 1 gives 2, ratio 3 is cut to 1.2 * 2 = 2.4.
    # Loss -(1 + 2 + 2.4) / 3 = -1.8. Gradient in log pi is -ratio A / 3, and 0 where clipped.
    loss, gradient, metrics = one_completion_loss([0.5, 1.0, 3.0], 2.0, clip_low=0.2, clip_high=0.2)
    assert loss == pytest.approx(-1.8)
    assert gradient == pytest.approx([-1 / 3, -2 / 3, 0.0])
    assert metrics == pytest.approx({"ratio/clipped": 1 / 3, "ratio/mean": 1.5})


def test_bad_tokens_are_clipped_below_only():
    # A = -2, clip 0.2: ratio 0.5 is cut to 0.8 * -2 = -1.6, ratio 1 gives -2, ratio 3 stays 3 * -2 = -6.
    # Loss (1.6 + 2 + 6) / 3 = 3.2.
    loss, gradient, metrics = one_completion_loss([0.5, 1.0, 3.0], -2.0, clip_low=0.2, clip_high=0.2)
    assert loss == pytest.approx(3.2)
    assert gradient == pytest.approx([0.0, 2 / 3, 2.0])
    assert metrics["ratio/clipped"] == pytest.approx(1 / 3)


def test_clip_higher_moves_the_upper_bound_only():
    # DAPO: low 0.2, high 0.28. Ratio 1.25 is inside for A = 1 (it would be cut at 1.2), ratio 1.5 is cut to 1.28.
    loss, gradient, _ = one_completion_loss([1.25, 1.5], 1.0, clip_low=0.2, clip_high=0.28)
    assert loss == pytest.approx(-(1.25 + 1.28) / 2)
    assert gradient == pytest.approx([-0.625, 0.0])
    # The lower bound is still 0.8 for A = -1: ratio 0.75 is cut.
    loss, gradient, _ = one_completion_loss([0.75], -1.0, clip_low=0.2, clip_high=0.28)
    assert (loss, gradient) == (pytest.approx(0.8), [0.0])


def test_epsilon_10_of_r1_binds_only_above_11_for_good_tokens():
    # R1's RL stage 1: clip range [-9, 11]. A = 1: ratio 10 passes, ratio 12 is cut to 11. A = -1: nothing is ever cut.
    loss, gradient, metrics = one_completion_loss([10.0, 12.0], 1.0, clip_low=10, clip_high=10)
    assert loss == pytest.approx(-(10 + 11) / 2)
    assert gradient == pytest.approx([-5.0, 0.0])
    assert metrics["ratio/clipped"] == pytest.approx(0.5)
    loss, gradient, metrics = one_completion_loss([0.001, 12.0], -1.0, clip_low=10, clip_high=10)
    assert loss == pytest.approx((0.001 + 12) / 2)
    assert gradient == pytest.approx([0.0005, 6.0])
    assert metrics["ratio/clipped"] == 0


def test_k3_by_hand():
    # r = pi_ref / pi = 2: 2 - ln 2 - 1 = 0.306853.  r = 0.5: 0.5 + ln 2 - 1 = 0.193147.  r = 1: 0.
    kl_N = kl_k3(torch.zeros(3), torch.tensor([2.0, 0.5, 1.0]).log())
    assert kl_N.tolist() == pytest.approx([0.306853, 0.193147, 0.0], abs=1e-6)


def test_k3_is_never_negative_and_exact_for_close_policies():
    torch.manual_seed(0)
    assert (kl_k3(torch.randn(1000), torch.randn(1000)) >= 0).all()
    # log r = 1e-4: k3 = 1e-8 / 2 to first order; exp(x) - x - 1 in fp32 would give 0 or 1.2e-7.
    assert kl_k3(torch.zeros(1), torch.full((1,), 1e-4)).item() == pytest.approx(5e-9, rel=1e-2)


def test_k3_is_unbiased():
    # sum over the vocabulary of pi(v) k3(v) is the exact KL.
    torch.manual_seed(0)
    policy_V, ref_V = torch.randn(20).log_softmax(-1), torch.randn(20).log_softmax(-1)
    exact = (policy_V.exp() * (policy_V - ref_V)).sum()
    torch.testing.assert_close((policy_V.exp() * kl_k3(policy_V, ref_V)).sum(), exact)


def test_the_kl_to_the_reference_pulls_the_policy_back():
    # Without advantages only the KL acts: d k3 / d log pi = 1 - r, r = pi_ref / pi: descending raises pi where r > 1.
    logprobs_N = torch.tensor([0.5, 0.25]).log().requires_grad_()
    ref_N, old_N = torch.tensor([0.25, 0.5]).log(), logprobs_N.detach()
    loss, metrics = grpo_loss(
        logprobs_N,
        old_N,
        ref_N,
        torch.zeros(2),
        torch.full((2,), 0.5),
        torch.tensor([0, 1]),
        2,
        AlgoConfig(kl_coef=0.1),
        old_N,
        num_tokens=2,
    )
    # r = 0.5 and 2: mean k3 (0.193147 + 0.306853) / 2 = 0.25; gradient 0.1 * 0.5 * (1 - r) = 0.025 and -0.05.
    assert metrics["kl/reference"].item() == pytest.approx(0.25)
    assert loss.item() == pytest.approx(0.025)
    assert torch.autograd.grad(loss, logprobs_N)[0].tolist() == pytest.approx([0.025, -0.05])


def test_truncated_importance_weights_by_hand():
    # learner / sampler = 0.5, 1, 3 with a cap of 2; no gradient even when the learner's log-probs have one.
    learner_N = torch.tensor([0.25, 0.5, 0.75]).log().requires_grad_()
    weights_N = truncated_is_weights(learner_N, torch.tensor([0.5, 0.5, 0.25]).log(), cap=2.0)
    assert weights_N.tolist() == pytest.approx([0.5, 1.0, 2.0])
    assert not weights_N.requires_grad


def test_truncated_is_weighs_the_policy_term_by_old_learner_over_sampler_but_not_the_kl():
    # One token, A = 1, pi / pi_old = 0.88 / 0.8 = 1.1: gradient -1.1 without correction. The learner's old policy over
    # the sampler's is 0.8 / 0.5 = 1.6 (the current one's would be 1.76): -1.1 x 1.6 = -1.76; under a cap of 1.5 -1.65.
    # KL: 0.1 x (1 - 0.44 / 0.88) = 0.05, not multiplied.
    old_N, sampler_N, ref_N = torch.tensor([0.8]).log(), torch.tensor([0.5]).log(), torch.tensor([0.44]).log()
    expected = {(0.0, 0.0): -1.1, (2.0, 0.0): -1.76, (1.5, 0.0): -1.65, (2.0, 0.1): -1.71}
    for (truncated_is, kl_coef), expected_gradient in expected.items():
        logprobs_N = torch.tensor([0.88]).log().requires_grad_()
        loss, _ = grpo_loss(
            logprobs_N,
            old_N,
            ref_N,
            torch.ones(1),
            torch.ones(1),
            torch.zeros(1, dtype=torch.int64),
            1,
            AlgoConfig(truncated_is=truncated_is, kl_coef=kl_coef),
            sampler_N,
            num_tokens=1,
        )
        assert torch.autograd.grad(loss, logprobs_N)[0].item() == pytest.approx(expected_gradient)


def test_nll_is_the_mean_over_the_steps_tokens():
    # Two micro-batches of a 4-token step: (1 + 2 + 3) / 4 + 4 / 4 = 1.5 + 1 = 2.5 nats per token.
    first, metrics = nll_loss(torch.tensor([-1.0, -2.0, -3.0]), num_tokens=4)
    second, _ = nll_loss(torch.tensor([-4.0]), num_tokens=4)
    assert (first + second).item() == pytest.approx(2.5)
    assert metrics["loss/nll"].item() == pytest.approx(1.5)
