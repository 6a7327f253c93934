"""The GRPO objective and its variants against the formulas as the papers print them; test_loss_parts.py has its parts.

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

from r1kit.algo.losses import Aggregation, Ratio, grpo_loss, token_weights
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


def test_sampler_mismatch_is_the_k3_of_learner_against_sampler():
    # learner / sampler = 2 on one of two tokens: (2 - ln 2 - 1) / 2 = 0.153426, with or without importance weights.
    logprobs_N = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    sampler_N = torch.tensor([0.25, 0.5], dtype=torch.float64).log()
    batch = Batch(logprobs_N, logprobs_N, logprobs_N, sampler_N, torch.tensor([1.0]), torch.tensor([2]))
    for aggregation in get_args(Aggregation):
        _, metrics = step_loss(batch, AlgoConfig(aggregation=aggregation, kl_coef=0))
        assert metrics["kl/sampler"].item() == pytest.approx(0.153426, abs=1e-6)


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
