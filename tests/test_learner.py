"""Facts about the learner: one gradient whatever the split, fp32 masters, exact resume.

N completion tokens, S completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from r1kit.algo.losses import Aggregation, Ratio, grpo_loss, token_weights
from r1kit.algo.packing import Batch, Packable, microbatches, pack
from r1kit.config import AlgoConfig, OptimConfig
from r1kit.training.base import Loss
from r1kit.training.learner import LocalLearner
from tiny import HIDDEN, SHAPES, make_learner, make_sequences, nll, perturb

DTYPES = [torch.float32, torch.bfloat16]


def train_step(learner: LocalLearner, step: int, lr: float = 1e-3) -> None:
    learner.forward_backward(pack(make_sequences(step)), nll)
    learner.optim_step(lr)


def everything(learner: LocalLearner) -> list[Tensor]:
    """Weights, masters, optimizer state and reference."""
    state = [value for m in learner.masters for value in learner.optimizer.state[m].values()]
    assert learner.reference is None or isinstance(learner.reference, torch.nn.Module)
    reference = [] if learner.reference is None else list(learner.reference.parameters())
    return [tensor.detach().clone() for tensor in (*learner.params, *learner.masters, *state, *reference)]


def all_equal(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# Gradients


@pytest.mark.parametrize(
    ("aggregation", "ratio"),
    [("sequence", "token"), ("token", "token"), ("constant", "token"), ("sequence", "sequence")],
)
def test_any_split_into_microbatches_gives_the_same_gradient(aggregation: Aggregation, ratio: Ratio):
    algo = AlgoConfig(aggregation=aggregation, ratio=ratio, kl_coef=0.1, clip_high=0.28, truncated_is=2.0)
    learner = make_learner(with_reference=True, temperature=0.8)
    perturb(learner.model, seed=1, scale=0.02)  # away from the reference
    lengths_S = torch.tensor([completion - (prompt == 0) for prompt, completion in SHAPES])
    num_tokens = int(lengths_S.sum())
    weights = token_weights(
        lengths_S, aggregation, num_sequences=len(SHAPES), num_tokens=num_tokens, length_cap=32
    ).tolist()
    sequences = []
    for row, (sequence, weight) in enumerate(zip(make_sequences(), weights, strict=True)):
        logprobs_N = learner.logprobs(pack([sequence]))
        # Off-policy in every token and, for the sequence's ratio, in their mean.
        noise_N = 0.3 * torch.randn(len(logprobs_N), generator=torch.Generator().manual_seed(row)) + 0.4 * (-1) ** row
        sequences.append(replace(sequence, weight=weight, sampler_logprobs=tuple((logprobs_N + noise_N).tolist())))

    def loss(logprobs_N: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return grpo_loss(
            logprobs_N, batch.sampler_logprobs_N, batch.ref_logprobs_N, batch.advantages_N, batch.weights_N,
            batch.sequence_N, batch.num_sequences, algo, batch.sampler_logprobs_N + 0.1, num_tokens=num_tokens,
        )  # fmt: skip

    lengths = [len(sequence.tokens) for sequence in sequences]
    splits = [[list(range(len(lengths)))], microbatches(lengths, 40), [[row] for row in range(len(lengths))]]
    assert 2 < len(splits[1]) < len(lengths)
    results = [step_gradient(learner, [[sequences[i] for i in part] for part in split], loss) for split in splits]
    (whole, metrics), *others = results
    assert metrics["kl/reference"] > 1e-3 and 0 < metrics["ratio/clipped"] < 1
    for gradient, other_metrics in others:
        for found, expected in zip(gradient, whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
        for name, value in other_metrics.items():
            torch.testing.assert_close(value, metrics[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def step_gradient(
    learner: LocalLearner, parts: Sequence[Sequence[Packable]], loss: Loss
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The masters' gradient and the summed metrics of one step in these micro-batches; no update."""
    sums: dict[str, Tensor] = {}
    for part in parts:
        batch = pack(part)
        batch.ref_logprobs_N = learner.reference_logprobs(batch)
        for name, value in learner.forward_backward(batch, loss).items():
            sums[name] = sums.get(name, torch.zeros(())) + value
    gradient = [master.grad.clone() for master in learner.masters if master.grad is not None]
    assert len(gradient) == len(learner.masters)
    learner.optimizer.zero_grad()
    return gradient, sums


def test_bf16_gradients_add_up_in_fp32():
    """300 equal gradients: a bf16 sum stops growing when the next one is below half its last digit."""
    learner = make_learner(torch.bfloat16)
    batch = pack(make_sequences()[:2])
    learner.forward_backward(batch, nll)
    once = [master.grad.clone() for master in learner.masters if master.grad is not None]
    for _ in range(299):
        learner.forward_backward(batch, nll)
    stuck = torch.zeros_like(once[0], dtype=torch.bfloat16)
    for _ in range(300):
        stuck += once[0].bfloat16()
    assert (stuck.float() - 300 * once[0]).norm() > 0.05 * 300 * once[0].norm()
    for master, first in zip(learner.masters, once, strict=True):
        assert master.grad is not None and master.grad.dtype == torch.float32
        torch.testing.assert_close(master.grad, 300 * first, rtol=1e-4, atol=1e-6)
    assert all(param.grad is None for param in learner.params)


# Updates


def test_bf16_weights_move_by_updates_that_bf16_alone_would_lose():
    """60 updates of 1e-4 on norm weights of 1, where bf16 numbers lie 0.0039 to 0.0078 apart."""
    learner = make_learner(torch.bfloat16, optim=OptimConfig(weight_decay=0.0))
    norms = [i for i, param in enumerate(learner.params) if param.dim() == 1]
    with torch.no_grad():
        for i in norms:
            learner.params[i].fill_(1.0)
            learner.masters[i].fill_(1.0)
    plain = [learner.params[i].detach().clone().requires_grad_() for i in norms]
    assert {p.dtype for p in plain} == {torch.bfloat16} and {m.dtype for m in learner.masters} == {torch.float32}
    optimizer = torch.optim.AdamW(plain, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(60):
        for weight in (*plain, *learner.masters):
            weight.grad = torch.ones_like(weight)
        optimizer.step()
        learner.optim_step(1e-4)
    assert all(bool((weight == 1).all()) for weight in plain), "bf16 alone has lost every one"
    for i in norms:
        torch.testing.assert_close(learner.masters[i], torch.full((HIDDEN,), 0.994), rtol=0, atol=1e-5)
        assert torch.equal(learner.params[i], learner.masters[i].bfloat16()) and bool((learner.params[i] < 1).all())


def test_fp32_weights_are_their_own_masters():
    learner = make_learner()
    assert all(master is param for master, param in zip(learner.masters, learner.params, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("clip", "clips"), [(0.01, True), (1e6, False)])
def test_the_gradient_is_clipped_to_the_norm_and_the_norm_before_is_returned(
    dtype: torch.dtype, clip: float, clips: bool
):
    learner = make_learner(dtype, optim=OptimConfig(grad_clip=clip))
    learner.forward_backward(pack(make_sequences()), nll)
    norm = float(sum(m.grad.double().pow(2).sum() for m in learner.masters if m.grad is not None)) ** 0.5
    assert norm > 0.1
    assert learner.optim_step(1e-3) == pytest.approx(norm, rel=1e-4)
    # After the first step, Adam's mean of gradients is (1 - beta1) x the gradient that reached it.
    means = [learner.optimizer.state[master]["exp_avg"] for master in learner.masters]
    reached = float(sum(mean.double().pow(2).sum() for mean in means)) ** 0.5 / 0.1
    assert reached == pytest.approx(clip if clips else norm, rel=1e-3)


def test_weight_decay_is_for_matrices_only():
    learner = make_learner(optim=OptimConfig(weight_decay=0.5))
    before = [param.detach().clone() for param in learner.params]
    for param in learner.params:
        param.grad = torch.zeros_like(param)
    learner.optim_step(0.1)
    for param, old in zip(learner.params, before, strict=True):
        torch.testing.assert_close(param.detach(), old * (0.95 if param.dim() == 2 else 1.0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_before_the_weights(dtype: torch.dtype, bad: float):
    learner, twin = make_learner(dtype), make_learner(dtype)
    train_step(learner, 0)
    train_step(twin, 0)
    before = everything(learner)
    learner.forward_backward(pack(make_sequences()), nll)
    grad = learner.masters[3].grad
    assert grad is not None
    grad.view(-1)[5] = bad
    with pytest.raises(FloatingPointError, match=f"gradient norm is {bad}"):
        learner.optim_step(1e-3)
    assert all_equal(everything(learner), before)
    train_step(learner, 1)
    train_step(twin, 1)
    assert all_equal(everything(learner), everything(twin)), "nothing of it stays for the next step"


@pytest.mark.parametrize("dtype", DTYPES)
def test_training_lowers_the_loss(dtype: torch.dtype):
    learner, batch = make_learner(dtype), pack(make_sequences())
    losses = [(learner.forward_backward(batch, nll)["loss"].item(), learner.optim_step(1e-2))[0] for _ in range(10)]
    assert losses[-1] < 0.7 * losses[0]


# Reference, publishing, saving


def test_the_reference_is_a_frozen_copy_until_it_is_updated():
    learner, batch = make_learner(with_reference=True), pack(make_sequences())
    first = learner.reference_logprobs(batch)
    assert torch.equal(first, learner.logprobs(batch))
    train_step(learner, 0, lr=1e-2)
    assert torch.equal(learner.reference_logprobs(batch), first)
    assert (learner.logprobs(batch) - first).abs().max() > 1e-3
    learner.update_reference()
    assert torch.equal(learner.reference_logprobs(batch), learner.logprobs(batch))
    assert isinstance(learner.reference, torch.nn.Module) and not any(
        p.requires_grad for p in learner.reference.parameters()
    )
    train_step(learner, 1, lr=1e-2)
    assert not torch.equal(learner.reference_logprobs(batch), learner.logprobs(batch))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_published_weights_are_the_very_module_that_trains(dtype: torch.dtype):
    learner = make_learner(dtype)
    published = learner.publish()
    assert published is learner.model
    before = published.embed.weight.detach().clone()
    train_step(learner, 0)
    assert not torch.equal(published.embed.weight, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_training_goes_on_after_a_load_as_if_never_interrupted(dtype: torch.dtype, tmp_path: Path):
    whole = make_learner(dtype, with_reference=True)
    for step in range(3):
        train_step(whole, step, lr=1e-3 * (step + 1))
        if step == 1:
            whole.update_reference()
    whole.save(tmp_path)
    resumed = make_learner(dtype, seed=9, with_reference=True)
    train_step(resumed, 5)  # what it held before must not matter
    resumed.load(tmp_path)
    assert all_equal(everything(resumed), everything(whole))
    for step in range(3, 6):
        for learner in (whole, resumed):
            train_step(learner, step)
        assert all_equal(everything(resumed), everything(whole)), step
