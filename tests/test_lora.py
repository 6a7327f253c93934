"""Facts about adapters: the function they are, what they leave alone, the policy that samples.

N completion tokens, R rank.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapted import LORA, RANK, adapt, logits, logits_of_hf, shake
from r1kit.algo.packing import pack
from r1kit.config import ALL_LINEAR, LoraConfig, OptimConfig
from r1kit.model.hf import load_model, save_model, to_hf
from r1kit.model.lora import LoraLinear
from r1kit.model.transformer import Transformer
from r1kit.sampling.local import LocalSampler
from r1kit.training.learner import LocalLearner
from r1kit.types import Prompt, SamplingParams
from tiny import (
    ARCHITECTURES,
    both_models,
    make_sequences,
    nll,
    perturb,
    random_tokens,
    tiny_model,
    tiny_tokenizer,
)

SUBSETS = [(ALL_LINEAR,), ("q_proj", "v_proj"), ("k_proj",), ("up_proj", "down_proj"), ("gate_proj", "o_proj")]


def make_lora_learner(
    dtype: torch.dtype = torch.float32, *, lora: LoraConfig = LORA, seed: int = 0, with_reference: bool = False,
    trained: bool = False,
) -> LocalLearner:  # fmt: skip
    model = tiny_model(0, dtype, tie=True)
    adapters = adapt(model, lora, seed=seed, trained=trained)
    optim = OptimConfig(weight_decay=0.1)
    return LocalLearner(model, tiny_tokenizer(), optim, with_reference=with_reference, adapters=adapters)


def train_step(learner: LocalLearner, step: int, lr: float = 1e-2) -> None:
    learner.forward_backward(pack(make_sequences(step)), nll)
    learner.optim_step(lr)


# The function


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", SUBSETS)
def test_new_adapters_change_nothing(dtype: torch.dtype, targets: Any):
    model = tiny_model(0, dtype)
    before = logits(model)
    adapt(model, replace(LORA, targets=targets), trained=False)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("adapted", [("a", "b", "c"), ("b",), ("a", "c"), ("c",)])
@pytest.mark.parametrize("bias", [True, False])
def test_each_part_of_a_fused_matrix_has_its_own_product(adapted: tuple[str, ...], bias: bool):
    linear = nn.Linear(7, 12, bias=bias)
    layer = LoraLinear(linear, [("a", 4), ("b", 6), ("c", 2)], adapted, RANK)
    layer.scale = 1.7
    with torch.no_grad():
        perturb(layer, seed=3)
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    factors = {name: (a, b) for name, a, b in layer.factors()}
    assert tuple(factors) == adapted
    expected = linear(x).split([4, 6, 2], -1)
    expected = torch.cat(
        [
            part if name not in factors else part + 1.7 * (x @ factors[name][0].T) @ factors[name][1].T
            for name, part in zip("abc", expected, strict=True)
        ],
        -1,
    )
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(x @ layer.weight.T + (linear.bias if bias else 0), expected)
    with torch.no_grad():
        layer.prepare()
        torch.testing.assert_close(layer(x), expected.detach())


def test_first_weights_are_a_function_of_the_seed():
    found = [adapt(tiny_model(), seed=seed, trained=False).weights() for seed in (0, 0, 1)]
    for name, weight in found[0].items():
        assert torch.equal(weight, found[1][name])
        if "lora_B" in name:
            assert not weight.any()
        else:
            assert not torch.equal(weight, found[2][name])
            assert 0.7 * weight.shape[1] ** -0.5 < weight.abs().max() <= weight.shape[1] ** -0.5


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_merged_model_is_the_same_in_transformers(name: str, tmp_path: Path):
    _, model = both_models(name, tmp_path)
    adapters = adapt(model)
    adapted = logits(model)
    with adapters.merged():
        save_model(model, tiny_tokenizer(), tmp_path / "merged")
    from transformers import AutoModelForCausalLM

    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits_of_hf(opened), adapted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(load_model(tmp_path / "merged", torch.float32)), adapted, rtol=1e-4, atol=1e-4)
    assert (adapted - logits(load_model(tmp_path, torch.float32))).abs().max() > 0.1, "or the case shows nothing"


def test_merging_leaves_the_base_as_it_was():
    model = tiny_model(0, torch.bfloat16)
    adapters = adapt(model)
    before, bases = logits(model), [layer.base.clone() for layer in adapters.layers.values()]
    assert isinstance(model, Transformer)
    outside = to_hf(model)
    with adapters.merged():
        inside = to_hf(model)
        assert all(torch.equal(inside[name], weight) for name, weight in outside.items())
        assert torch.equal(logits(model), before), "the policy is the same while it is exported"
    assert all(torch.equal(a, layer.base) for a, layer in zip(bases, adapters.layers.values(), strict=True))
    shake(adapters)
    assert any(not torch.equal(to_hf(model)[name], weight) for name, weight in outside.items())


# Training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_adapters_are_trained_and_they_are_fp32(dtype: torch.dtype):
    learner = make_lora_learner(dtype)
    adapters = learner.adapters
    assert adapters is not None and {p.dtype for p in adapters.parameters()} == {torch.float32}
    base = {name: p.clone() for name, p in learner.model.named_parameters() if "lora_" not in name}
    assert {p.dtype for p in base.values()} == {dtype}
    before = [p.detach().clone() for p in adapters.parameters()]
    losses = []
    for _ in range(12):
        batch = pack(make_sequences())
        losses.append(learner.forward_backward(batch, nll)["loss"].item())
        assert all(p.grad is None for n, p in learner.model.named_parameters() if "lora_" not in n)
        learner.optim_step(2e-2)
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(p, base[name]) for name, p in learner.model.named_parameters() if name in base)
    assert all(not torch.equal(p, old) for p, old in zip(adapters.parameters(), before, strict=True))


def test_their_gradient_is_that_of_the_merged_weights():
    """dL/dB = scale dL/dW A^T and dL/dA = scale B^T dL/dW, with dL/dW from the merged model trained as a whole."""
    learner = make_lora_learner(trained=True)
    assert learner.adapters is not None
    with learner.adapters.merged():
        merged = tiny_model(0, tie=True)
        for name, weight in to_hf(learner.model).items():  # type: ignore[arg-type]
            to_hf(merged)[name].data.copy_(weight)
    whole = LocalLearner(merged, tiny_tokenizer(), OptimConfig())
    for one in (learner, whole):
        one.forward_backward(pack(make_sequences()), nll)
    for path, layer in learner.adapters.layers.items():
        gradient = merged.get_submodule(path).weight.grad
        assert gradient is not None and layer.lora_a.grad is not None and layer.lora_b.grad is not None
        parts = zip(
            layer.factors(), gradient.split(layer.rows), layer.lora_a.grad.split(RANK),  # type: ignore[union-attr]
            layer.lora_b.grad.split(layer.rows), strict=True,
        )  # fmt: skip
        for (_, a, b), dw, da, db in parts:
            torch.testing.assert_close(db, layer.scale * dw @ a.T, rtol=1e-3, atol=1e-6)
            torch.testing.assert_close(da, layer.scale * b.T @ dw, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sampler_draws_from_the_policy_that_is_trained(dtype: torch.dtype):
    """After every step: log-probs of the sampler and the learner agree, whatever was prepared before."""
    learner, sampler = make_lora_learner(dtype), LocalSampler(tiny_tokenizer())
    prompt, params = tuple(random_tokens(6)), SamplingParams(max_new_tokens=12)
    policies = []
    for step in range(3):
        sampler.load_weights(learner.publish(), version=step)  # type: ignore[arg-type]
        [[completion]] = sampler.generate([Prompt(prompt, 7)], params, 1)
        sequence = replace(make_sequences()[0], tokens=prompt + completion.tokens, prompt_length=len(prompt))
        sampled_N = torch.tensor(completion.sampler_logprobs)
        tolerance = 1e-4 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(learner.logprobs(pack([sequence])), sampled_N, rtol=0, atol=tolerance)
        policies.append(learner.logprobs(pack(make_sequences())))
        train_step(learner, step, lr=5e-2)
        now = learner.logprobs(pack(make_sequences()))
        assert (now - policies[-1]).abs().max() > 0.5, "a step is seen at once, without a new publish"
    assert learner.adapters is not None
    learner.publish()
    assert all(layer._ready is not None for layer in learner.adapters.layers.values()), "decoding is prepared"
    prepared = learner.logprobs(pack(make_sequences()))
    learner.adapters.changed()
    torch.testing.assert_close(learner.logprobs(pack(make_sequences())), prepared, rtol=0, atol=tolerance / 10)


def test_writing_an_adapter_ends_what_was_prepared():
    model = tiny_model()
    adapters = adapt(model)
    adapters.prepare()
    before = logits(model)
    shake(adapters, seed=5)
    assert (logits(model) - before).abs().max() > 0.1
    prepared = logits(model)
    adapters.prepare()
    torch.testing.assert_close(logits(model), prepared, rtol=1e-4, atol=1e-4)


def test_the_reference_is_the_base_until_it_is_updated():
    learner, batch = make_lora_learner(with_reference=True), pack(make_sequences())
    base = LocalLearner(tiny_model(0, tie=True), tiny_tokenizer(), OptimConfig()).logprobs(batch)
    train_step(learner, 0)
    policy = learner.logprobs(batch)
    assert torch.equal(learner.reference_logprobs(batch), base)
    assert torch.equal(learner.logprobs(batch), policy) and (policy - base).abs().max() > 1e-2
    learner.update_reference()
    assert torch.equal(learner.reference_logprobs(batch), policy)
    train_step(learner, 1)
    assert torch.equal(learner.reference_logprobs(batch), policy)
    assert not torch.equal(learner.logprobs(batch), policy)


def test_a_run_that_starts_from_an_adapter_has_it_as_reference(tmp_path: Path):
    adapt(tiny_model(0, tie=True)).save(tmp_path)
    learner = make_lora_learner(lora=LoraConfig(adapter=str(tmp_path)), with_reference=True)
    batch = pack(make_sequences())
    first = learner.logprobs(batch)
    train_step(learner, 0)
    assert torch.equal(learner.reference_logprobs(batch), first)


def state_of(learner: LocalLearner) -> list[Tensor]:
    moments = [value for p in learner.params for value in learner.optimizer.state[p].values()]
    return [tensor.detach().clone() for tensor in (*learner.model.parameters(), *moments)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_goes_on_after_a_load_as_if_never_interrupted(dtype: torch.dtype, tmp_path: Path):
    whole = make_lora_learner(dtype, with_reference=True)
    for step in range(3):
        train_step(whole, step)
        if step == 1:
            whole.update_reference()
    whole.save(tmp_path)
    resumed = make_lora_learner(dtype, seed=9, with_reference=True)
    train_step(resumed, 5)  # what it held before must not matter
    resumed.publish()
    resumed.load(tmp_path)
    batch = pack(make_sequences())
    for step in range(3, 6):
        assert all(torch.equal(a, b) for a, b in zip(state_of(resumed), state_of(whole), strict=True)), step
        assert torch.equal(resumed.logprobs(batch), whole.logprobs(batch))
        assert torch.equal(resumed.reference_logprobs(batch), whole.reference_logprobs(batch))
        for learner in (whole, resumed):
            train_step(learner, step)


def test_a_checkpoint_has_the_merged_model_and_the_adapter(tmp_path: Path):
    learner, batch = make_lora_learner(), pack(make_sequences())
    train_step(learner, 0)
    learner.save(tmp_path)
    merged = LocalLearner(load_model(tmp_path, torch.float32), tiny_tokenizer(), OptimConfig())
    torch.testing.assert_close(merged.logprobs(batch), learner.logprobs(batch), rtol=1e-4, atol=1e-4)
    from_adapter = make_lora_learner(lora=LoraConfig(adapter=str(tmp_path / "adapter")))
    assert torch.equal(from_adapter.logprobs(batch), learner.logprobs(batch))


def test_another_base_on_resume_is_refused(tmp_path: Path):
    learner = make_lora_learner()
    learner.save(tmp_path)
    other = make_lora_learner()
    with torch.no_grad():
        other.model.embed.weight[3, 3] += 0.5
    with pytest.raises(ValueError, match="adapters for other weights than those of the-base now; give the --model"):
        other.load(tmp_path)
