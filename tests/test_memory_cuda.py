"""Facts about less memory that only a GPU shows; skipped without one.

python -m pytest tests/test_memory_cuda.py -q
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from r1kit.algo.packing import Packable, pack
from r1kit.config import LoraConfig, MemoryConfig, OptimConfig
from r1kit.model.lora import add_adapters
from r1kit.model.transformer import Transformer, TransformerConfig
from r1kit.sampling.local import LocalSampler
from r1kit.training.learner import LocalLearner
from r1kit.training.memory import WaitingModel
from r1kit.types import Prompt, SamplingParams
from tiny import nll, random_tokens, tiny_tokenizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")
VOCAB = 2000


def make(
    memory: MemoryConfig, dtype: torch.dtype = torch.bfloat16, *, rank: int = 0, with_reference: bool = False
) -> LocalLearner:
    """36 million weights."""
    config = TransformerConfig(
        model_type="llama", vocab_size=VOCAB, hidden=512, layers=12, heads=8, kv_heads=4, head_dim=64, mlp=1536,
        context=512, tie_embeddings=True,
    )  # fmt: skip
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    model = model.to(dtype).to("cuda")
    adapters = add_adapters(model, LoraConfig(rank=rank), seed=0, base="base")
    return LocalLearner(
        model, tiny_tokenizer(), OptimConfig(), with_reference=with_reference, memory=memory, adapters=adapters
    )  # fmt: skip


def batch(seed: int = 0, count: int = 8) -> Any:
    return pack([Packable(tuple(random_tokens(200 - i, 100 * seed + i)), 5) for i in range(count)], "cuda")


def train(learner: LocalLearner, steps: int = 4, count: int = 8) -> list[float]:
    numbers = []
    for step in range(steps):
        numbers.append(learner.forward_backward(batch(step, count), nll)["loss"].item())
        numbers.append(learner.optim_step(1e-4))
    return numbers


def peak(learner: LocalLearner, count: int) -> int:
    """Bytes in a step after the first, on `count` sequences."""
    train(learner, 1, count)
    gc.collect()  # of learners before this one
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    train(learner, 1, count)
    return torch.cuda.max_memory_allocated()


def size(learner: LocalLearner) -> int:
    return sum(p.nbytes for p in learner.model.parameters())


@pytest.mark.parametrize("rank", [0, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory", [MemoryConfig(offload_optimizer=True), MemoryConfig(gradient_checkpointing=True)])
def test_training_goes_the_same_way(memory: MemoryConfig, dtype: torch.dtype, rank: int):
    plain = train(make(MemoryConfig(), dtype, rank=rank))
    assert train(make(memory, dtype, rank=rank)) == pytest.approx(plain, rel=1e-2 if dtype == torch.bfloat16 else 1e-4)
    assert plain[-2] < plain[0]


def test_offloading_and_checkpointing_leave_less_on_the_gpu():
    plain = peak(make(MemoryConfig()), 1)
    learner = make(MemoryConfig(offload_optimizer=True))
    assert {m.device.type for m in learner.masters} == {"cpu"}
    # Of 18 bytes a weight, 2 stay, and a matrix's gradient until it has been sent.
    assert peak(learner, 1) < plain - 5 * size(learner)
    assert {m.device.type for s in learner.optimizer.state.values() for m in s.values()} == {"cpu"}
    del learner
    assert peak(make(MemoryConfig(gradient_checkpointing=True)), 32) < 0.7 * peak(make(MemoryConfig()), 32)


def test_a_waiting_reference_gives_the_same_log_probs_and_its_memory_back():
    here = make(MemoryConfig(), with_reference=True)
    expected = here.reference_logprobs(batch())
    del here
    away = make(MemoryConfig(offload_reference=True), with_reference=True)
    assert isinstance(away.reference, WaitingModel)
    assert all(p.device.type == "cpu" and p.is_pinned() for p in away.reference.model.parameters())
    train(away, 1)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    assert torch.equal(away.reference_logprobs(batch()), expected)
    assert torch.cuda.memory_allocated() - before < 2**20
    away.update_reference()
    assert torch.equal(away.reference_logprobs(batch()), away.logprobs(batch()))


def test_a_checkpoint_of_an_offloaded_run_goes_on_without(tmp_path: Path):
    away = make(MemoryConfig(offload_optimizer=True, offload_reference=True), with_reference=True)
    train(away, 2)
    away.save(tmp_path)
    for memory in (MemoryConfig(), MemoryConfig(offload_optimizer=True, offload_reference=True)):
        other = make(memory, with_reference=True)
        other.load(tmp_path)
        assert torch.equal(other.logprobs(batch()), away.logprobs(batch()))
        assert torch.equal(other.reference_logprobs(batch()), away.reference_logprobs(batch()))
        assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(other.masters, away.masters, strict=True))
        moments = [[v.cpu() for m in one.masters for v in one.optimizer.state[m].values()] for one in (other, away)]
        assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))


@pytest.mark.parametrize("kind", ["adamw8bit", "paged-adamw8bit"])
def test_8_bit_moments_train_and_take_less(kind: Any, tmp_path: Path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install bitsandbytes")
    plain, small = make(MemoryConfig()), make(MemoryConfig(optimizer=kind))
    assert train(small, 6) == pytest.approx(train(plain, 6), rel=0.05)
    small.save(tmp_path)
    again = make(MemoryConfig(optimizer=kind))
    again.load(tmp_path)
    assert train(again, 1) == pytest.approx(train(small, 1), rel=1e-3)
    saved = 5 * size(plain) // 2  # of the 6 bytes a weight
    del again, small, plain
    assert peak(make(MemoryConfig(optimizer=kind)), 1) < peak(make(MemoryConfig()), 1) - saved


def test_the_sampler_draws_from_the_adapted_policy():
    learner, sampler = make(MemoryConfig(), rank=8), LocalSampler(tiny_tokenizer())
    train(learner)
    sampler.load_weights(learner.publish(), version=1)
    prompt = tuple(random_tokens(9))
    [completions] = sampler.generate([Prompt(prompt, 1)], SamplingParams(max_new_tokens=32), 4)
    sequences = [Packable(prompt + one.tokens, len(prompt)) for one in completions]
    sampled = torch.tensor([logprob for one in completions for logprob in one.sampler_logprobs], device="cuda")
    assert (learner.logprobs(pack(sequences, "cuda")) - sampled).abs().mean() < 0.05


def test_saving_adapters_takes_no_second_model_on_the_gpu(tmp_path: Path):
    learner = make(MemoryConfig(), rank=8)
    train(learner, 1)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    learner.save(tmp_path)
    assert torch.cuda.max_memory_allocated() - before < 0.35 * size(learner)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
