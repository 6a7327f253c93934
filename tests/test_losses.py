"""The GRPO objective and its variants against hand-computed numbers and against the formulas as the papers print them.

N tokens, S completions, B completions x T tokens of the padded formulas that the packed ones are compared with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import get_args

import pytest
import torch
from torch import Tensor

from r1kit.algo.losses import (
    Aggregation,
    Ratio,
    grpo_loss,
    importance_ratios,
    kl_k3,
    nll_loss,
    policy_loss,
    token_weights,
    truncated_is_weights,
)
from r1kit.config import AlgoConfig

CAP = 10


@dataclass(frozen=True)
class Batch:
    """Packed random completions of one step, in float64 so that sums in another order agree closely."""

    logprobs_N: Tensor
    old_N: Tensor
    ref_N: Tensor
    sampler_N: Tensor
    advantages_S: Tensor
    lengths_S: Tensor

    @property
    def sequence_N(self) -> Tensor:
        return torch.repeat_interleave(torch.arange(len(self.lengths_S)), self.lengths_S)

    def completions(self, start: int, end: int) -> Batch:
        """Completions start..end as a micro-batch of their own."""
        tokens = (self.sequence_N >= start) & (self.sequence_N < end)
        return Batch(
            logprobs_N=self.logprobs_N[tokens],
            old_N=self.old_N[tokens],
            ref_N=self.ref_N[tokens],
            sampler_N=self.sampler_N[tokens],
            advantages_S=self.advantages_S[start:end],
            lengths_S=self.lengths_S[start:end],
        )


def random_batch(lengths: tuple[int, ...] = (3, 1, 5, 2), seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def noise(size: int, scale: float) -> Tensor:
        return scale * torch.randn(size, generator=generator, dtype=torch.float64)

    num_tokens = sum(lengths)
    logprobs_N = -noise(num_tokens, 1.0).abs() - 0.1
    return Batch(
        logprobs_N=logprobs_N.requires_grad_(),
        old_N=logprobs_N.detach() + noise(num_tokens, 0.3),
        ref_N=logprobs_N.detach() + noise(num_tokens, 0.5),
        sampler_N=logprobs_N.detach() + noise(num_tokens, 0.3),
        advantages_S=noise(len(lengths), 1.0),
        lengths_S=torch.tensor(lengths),
    )


def step_loss(batch: Batch, algo: AlgoConfig, step: Batch | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """grpo_loss of a micro-batch of `step` (by default the whole step), as the learner calls it."""
    step = step or batch
    num_tokens = int(step.lengths_S.sum())
    weights_S = token_weights(
        batch.lengths_S,
        algo.aggregation,
        num_sequences=len(step.lengths_S),
        num_tokens=num_tokens,
        length_cap=CAP,
    )
    return grpo_loss(
        batch.logprobs_N,
        batch.old_N,
        batch.ref_N if algo.kl_coef > 0 else None,
        batch.advantages_S[batch.sequence_N],
        weights_S[batch.sequence_N],
        batch.sequence_N,
        len(batch.lengths_S),
        algo,
        batch.sampler_N,
        num_tokens=num_tokens,
    )


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


# --- weights -------------------------------------------------------------------------------------------------------


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
    weights_S = token_weights(torch.tensor([0, 0]), aggregation, num_sequences=2, num_tokens=0, length_cap=CAP)
    assert weights_S.isfinite().all()


# --- ratio and clipping --------------------------------------------------------------------------------------------


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


# --- the objective against the papers' formulas --------------------------------------------------------------------


def test_grpo_equals_deepseekmath_eq_3_written_out():
    batch = random_batch()
    loss, _ = step_loss(batch, AlgoConfig(kl_coef=0.04, clip_low=0.2, clip_high=0.2))
    total = 0.0
    for i, logprobs_T in enumerate(batch.logprobs_N.split(batch.lengths_S.tolist())):
        tokens = batch.sequence_N == i
        advantage, mean_over_tokens = batch.advantages_S[i].item(), 0.0
        for new, old, ref in torch.stack([logprobs_T, batch.old_N[tokens], batch.ref_N[tokens]], -1).tolist():
            rho, r = math.exp(new - old), math.exp(ref - new)
            surrogate = min(rho * advantage, min(max(rho, 0.8), 1.2) * advantage)
            mean_over_tokens += (surrogate - 0.04 * (r - math.log(r) - 1)) / len(logprobs_T)
        total += mean_over_tokens / len(batch.lengths_S)
    assert loss.item() == pytest.approx(-total, rel=1e-6)


def test_on_policy_gradient_is_reinforce():
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 7, requires_grad=True)  # 3 completions, 5 tokens, vocabulary 7
    tokens_BT1 = torch.randint(7, (3, 5, 1))
    logprobs_BT = logits.log_softmax(-1).gather(-1, tokens_BT1).squeeze(-1)
    advantages_B = torch.tensor([1.0, -2.0, 0.5])
    sequence_N = torch.arange(3).repeat_interleave(5)
    now_N = logprobs_BT.detach().flatten()
    weights_N = torch.full((15,), 1 / 15)
    loss, metrics = grpo_loss(
        logprobs_BT.flatten(),
        now_N,
        now_N,
        advantages_B[sequence_N],
        weights_N,
        sequence_N,
        3,
        AlgoConfig(kl_coef=0.1),
        now_N,
        num_tokens=15,
    )
    reinforce = -(logprobs_BT * advantages_B[:, None]).mean()
    torch.testing.assert_close(
        torch.autograd.grad(loss, logits, retain_graph=True), torch.autograd.grad(reinforce, logits)
    )
    # The loss itself is -mean(A) whatever the policy; ratios are 1 and there is no KL yet.
    assert metrics["loss/policy"].item() == pytest.approx(-(1 - 2 + 0.5) / 3, abs=1e-6)
    values = {name: metrics[name].item() for name in ("ratio/mean", "ratio/clipped", "kl/reference", "kl/sampler")}
    assert values == pytest.approx({"ratio/mean": 1, "ratio/clipped": 0, "kl/reference": 0, "kl/sampler": 0})


@pytest.mark.parametrize("clip", [0.01, 0.2, 10.0])
def test_gspo_equals_its_sequence_objective_in_value_and_gradient(clip):
    batch = random_batch()
    algo = AlgoConfig(ratio="sequence", aggregation="sequence", clip_low=clip, clip_high=clip, kl_coef=0)
    loss, _ = step_loss(batch, algo)
    # GSPO eq. 5: 1/G sum_i min(s_i A_i, clip(s_i) A_i), s_i = (pi(y_i) / pi_old(y_i)) ^ (1 / |y_i|).
    lengths = batch.lengths_S.tolist()
    logprob_S = torch.stack([x.sum() for x in batch.logprobs_N.split(lengths)])
    old_S = torch.stack([x.sum() for x in batch.old_N.split(lengths)])
    ratio_S = (logprob_S.exp() / old_S.exp()) ** (1 / batch.lengths_S)
    clipped_S = ratio_S.clamp(1 - clip, 1 + clip)
    direct = -torch.minimum(ratio_S * batch.advantages_S, clipped_S * batch.advantages_S).mean()
    torch.testing.assert_close(loss, direct, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(loss, batch.logprobs_N), torch.autograd.grad(direct, batch.logprobs_N), rtol=1e-6, atol=1e-9
    )


def test_dapo_weighs_every_token_alike_and_dr_grpo_ignores_the_own_length():
    # On policy with A = 1 and -1, completions of 1 and 3 tokens; every token's surrogate is its A.
    # GRPO: -(1 - 1) / 2 = 0. DAPO: -(1 - 3) / 4 = 0.5. Dr.GRPO, cap 10: -(1 - 3) / (2 * 10) = 0.1.
    logprobs_N = torch.full((4,), -1.0, dtype=torch.float64)
    batch = Batch(logprobs_N, logprobs_N, logprobs_N, logprobs_N, torch.tensor([1.0, -1.0]), torch.tensor([1, 3]))
    losses = {
        aggregation: step_loss(batch, AlgoConfig(aggregation=aggregation, kl_coef=0))[0].item()
        for aggregation in get_args(Aggregation)
    }
    assert losses == pytest.approx({"sequence": 0.0, "token": 0.5, "constant": 0.1}, abs=1e-6)


@pytest.mark.parametrize("truncated_is", [0.0, 1.1])
@pytest.mark.parametrize("ratio", get_args(Ratio))
@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_any_split_into_microbatches_adds_up_to_the_step(aggregation, ratio, truncated_is):
    step = random_batch()
    algo = AlgoConfig(aggregation=aggregation, ratio=ratio, kl_coef=0.1, truncated_is=truncated_is)
    loss, metrics = step_loss(step, algo)
    (gradient_N,) = torch.autograd.grad(loss, step.logprobs_N, retain_graph=True)
    for bounds in ([0, 1, 4], [0, 2, 3, 4], [0, 1, 2, 3, 4]):
        parts = [step_loss(step.completions(a, b), algo, step) for a, b in pairwise(bounds)]
        split_loss = torch.stack([part_loss for part_loss, _ in parts]).sum()
        (split_gradient_N,) = torch.autograd.grad(split_loss, step.logprobs_N, retain_graph=True)
        torch.testing.assert_close(split_loss, loss)
        torch.testing.assert_close(split_gradient_N, gradient_N)
        for name, value in metrics.items():
            split_value = torch.stack([part_metrics[name] for _, part_metrics in parts]).sum()
            torch.testing.assert_close(split_value, value, msg=f"{name}: {split_value} != {value}")


# --- KL and importance weights -------------------------------------------------------------------------------------


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


def test_a_kl_without_a_reference_is_an_error_and_not_a_silent_zero():
    batch = random_batch()
    with pytest.raises(ValueError, match="no reference log-probs"):
        grpo_loss(
            batch.logprobs_N,
            batch.old_N,
            None,
            batch.advantages_S[batch.sequence_N],
            torch.ones(11),
            batch.sequence_N,
            4,
            AlgoConfig(kl_coef=0.1),
            batch.sampler_N,
            num_tokens=11,
        )


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


def test_sampler_mismatch_is_the_k3_of_learner_against_sampler():
    # learner / sampler = 2 on one of two tokens: (2 - ln 2 - 1) / 2 = 0.153426, with or without importance weights.
    logprobs_N = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    sampler_N = torch.tensor([0.25, 0.5], dtype=torch.float64).log()
    batch = Batch(logprobs_N, logprobs_N, logprobs_N, sampler_N, torch.tensor([1.0]), torch.tensor([2]))
    for aggregation in get_args(Aggregation):
        _, metrics = step_loss(batch, AlgoConfig(aggregation=aggregation, kl_coef=0))
        assert metrics["kl/sampler"].item() == pytest.approx(0.153426, abs=1e-6)


# --- edges ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", get_args(Ratio))
def test_an_empty_microbatch_has_a_zero_loss(ratio):
    empty = random_batch().completions(0, 0)
    loss, metrics = step_loss(empty, AlgoConfig(ratio=ratio, kl_coef=0.1), random_batch())
    assert loss.item() == 0
    assert {name: value.item() for name, value in metrics.items()} == dict.fromkeys(metrics, 0.0)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize(
    ("name", "algo"),
    [
        ("logprobs_N", AlgoConfig(kl_coef=0)),
        ("old_N", AlgoConfig(kl_coef=0)),
        ("ref_N", AlgoConfig(kl_coef=0.1)),
        ("sampler_N", AlgoConfig(kl_coef=0, truncated_is=2.0)),
    ],
)
def test_a_log_prob_that_is_not_finite_reaches_the_loss(name, algo, advantage, bad):
    # Clipping and capping alone would make some of these finite: min(inf A, 1.2 A), min(0 A, 0.8 A), min(inf, 2).
    batch = random_batch()
    broken_N = getattr(batch, name).detach().clone()
    broken_N[4] = bad
    batch = replace(batch, advantages_S=torch.full((4,), advantage, dtype=torch.float64), **{name: broken_N})
    assert not step_loss(batch, algo)[0].isfinite()


def test_metrics_carry_no_gradient():
    for value in step_loss(random_batch(), AlgoConfig(kl_coef=0.1))[1].values():
        assert not value.requires_grad and value.shape == ()


def test_nll_is_the_mean_over_the_steps_tokens():
    # Two micro-batches of a 4-token step: (1 + 2 + 3) / 4 + 4 / 4 = 1.5 + 1 = 2.5 nats per token.
    first, metrics = nll_loss(torch.tensor([-1.0, -2.0, -3.0]), num_tokens=4)
    second, _ = nll_loss(torch.tensor([-4.0]), num_tokens=4)
    assert (first + second).item() == pytest.approx(2.5)
    assert metrics["loss/nll"].item() == pytest.approx(1.5)
