"""Facts about what saves memory: the numbers stay the same, and the bytes are those of docs/lora.md."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from r1kit.algo.packing import pack
from r1kit.config import LoraConfig, MemoryConfig, OptimConfig
from r1kit.model.lora import add_adapters
from r1kit.model.transformer import Transformer
from r1kit.sampling.local import LocalSampler
from r1kit.training import learner as learner_module
from r1kit.training import memory as memory_module
from r1kit.training.learner import LocalLearner
from r1kit.training.memory import WaitingModel, blocks_of
from r1kit.types import Prompt, SamplingParams
from tiny import hf_model, make_sequences, nll, perturb, random_tokens, tiny_config, tiny_model, tiny_tokenizer

ELSEWHERE = torch.device("cpu", 0)
"""Another device than torch.device("cpu") to all who ask, with the same memory: weights are copied there and back."""
DTYPES = [torch.float32, torch.bfloat16]


def make(
    memory: MemoryConfig, dtype: torch.dtype = torch.float32, *, seed: int = 0, rank: int = 0,
    with_reference: bool = False,
) -> LocalLearner:  # fmt: skip
    model = tiny_model(seed, dtype, tie=True)
    adapters = add_adapters(model, LoraConfig(rank=rank), seed=0, base="base")
    optim = OptimConfig(weight_decay=0.1)
    return LocalLearner(
        model, tiny_tokenizer(), optim, with_reference=with_reference, memory=memory, adapters=adapters
    )  # fmt: skip


def train_step(learner: LocalLearner, step: int, lr: float = 1e-2) -> list[float]:
    """Two micro-batches."""
    sequences = make_sequences(step)
    losses = [learner.forward_backward(pack(part), nll)["loss"].item() for part in (sequences[:4], sequences[4:])]
    return [*losses, learner.optim_step(lr)]


def weights(learner: LocalLearner) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in learner.model.parameters()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is on one device and CPU memory is another."""
    monkeypatch.setattr(learner_module, "offload_device", lambda memory, device: ELSEWHERE)
    monkeypatch.setattr(learner_module, "waits", lambda memory, device: memory.offload_reference)


# Gradient checkpointing


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_checkpointed_blocks_give_the_same_numbers_with_fewer_bytes(dtype: torch.dtype, rank: int):
    found: list[tuple[list[Tensor], list[float], int]] = []
    for on in (False, True):
        learner = make(MemoryConfig(gradient_checkpointing=on), dtype, rank=rank)
        kept = bytes_kept(learner)
        numbers = [number for step in range(3) for number in train_step(learner, step)]
        found.append((weights(learner), numbers, kept))
    (plain, numbers, much), (checkpointed, other_numbers, little) = found
    assert numbers == other_numbers and same(plain, checkpointed)
    assert little < 0.35 * much, (little, much)


def bytes_kept(learner: LocalLearner) -> int:
    """Bytes of what the forward pass keeps for the gradient, the weights themselves left out."""
    own = {p.untyped_storage().data_ptr() for p in learner.model.parameters()}
    kept: dict[int, int] = {}

    def pack_hook(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
        value = learner.forward_backward(pack(make_sequences()), lambda logprobs, batch: (logprobs.sum() * 0, {}))
    assert value["loss"] == 0
    learner.optimizer.zero_grad()
    return sum(kept.values())


def test_sampling_from_checkpointed_blocks_is_as_it_was():
    completions = []
    for on in (False, True):
        sampler = LocalSampler(tiny_tokenizer())
        sampler.load_weights(make(MemoryConfig(gradient_checkpointing=on)).publish(), version=0)  # type: ignore[arg-type]
        completions.append(sampler.generate([Prompt(tuple(random_tokens(5)), 3)], SamplingParams(max_new_tokens=8), 3))
    assert completions[0] == completions[1]


def test_transformers_models_are_checkpointed_too():
    gradients = []
    for on in (False, True):
        model = hf_model("qwen2")
        if on:
            memory_module.checkpoint_blocks(model)
        model(torch.tensor([random_tokens(9)]), use_cache=False).logits.square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) > 20 and same(*gradients)
    assert len(blocks_of(hf_model("llama"))) == 2


# Weights in CPU memory


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_offloaded_steps_are_the_same_steps(dtype: torch.dtype, rank: int, monkeypatch: pytest.MonkeyPatch):
    away = make(MemoryConfig(offload_optimizer=True), dtype, rank=rank)
    monkeypatch.undo()
    here = make(MemoryConfig(), dtype, rank=rank)
    assert all(master is not param for master, param in zip(away.masters, away.params, strict=True))
    for step in range(3):
        assert train_step(away, step) == train_step(here, step)
        assert same(weights(away), weights(here))
        assert same([m.detach() for m in away.masters], [m.detach() for m in here.masters])


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_checkpoint_fits_with_and_without_offloading(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    both = MemoryConfig(offload_optimizer=True, offload_reference=True)
    away = make(both, dtype, with_reference=True)
    train_step(away, 0)
    away.save(tmp_path / "away")
    back = make(both, dtype, seed=3, with_reference=True)
    monkeypatch.undo()
    here = make(MemoryConfig(), dtype, seed=4, with_reference=True)
    here.load(tmp_path / "away")
    here.save(tmp_path / "here")
    back.load(tmp_path / "here")
    batch = pack(make_sequences())
    for step in range(1, 4):
        numbers = train_step(away, step)
        for other in (here, back):
            assert train_step(other, step) == numbers
            assert same(weights(other), weights(away))
            assert torch.equal(other.reference_logprobs(batch), away.reference_logprobs(batch))


def test_a_waiting_model_is_elsewhere_one_block_at_a_time():
    learner, batch = make(MemoryConfig()), pack(make_sequences())
    expected = learner.logprobs(batch)
    waiting = WaitingModel(learner.model, ELSEWHERE)
    homes = [p.data_ptr() for p in waiting.model.parameters()]
    away: list[int] = []
    for block in blocks_of(waiting.model):
        block.register_forward_hook(lambda *_: away.append(len(waiting._at_home)), prepend=True)
    per_block = len(list(blocks_of(waiting.model)[0].parameters()))
    with torch.no_grad(), waiting.present() as model:
        outside = len(waiting._at_home)
        found = learner_module.completion_logprobs(model, batch, 1.0)[0]
    assert torch.equal(found, expected)
    assert outside == 2 and away == [outside + per_block] * 2
    assert [p.data_ptr() for p in waiting.model.parameters()] == homes and not waiting._at_home


def test_a_waiting_model_is_home_again_after_an_error():
    waiting = WaitingModel(tiny_model(), ELSEWHERE)
    homes = [p.data_ptr() for p in waiting.model.parameters()]

    def refuse(*arguments: Any) -> Tensor:
        raise FloatingPointError("no")

    with pytest.raises(FloatingPointError), torch.no_grad(), waiting.present() as model:
        model(torch.tensor([1, 2]), torch.tensor([0, 1]), refuse)  # type: ignore[arg-type]
    assert [p.data_ptr() for p in waiting.model.parameters()] == homes


@pytest.mark.usefixtures("split")
def test_a_waiting_reference_is_the_policy_that_was(monkeypatch: pytest.MonkeyPatch):
    away = make(MemoryConfig(offload_reference=True), with_reference=True)
    monkeypatch.undo()
    here, batch = make(MemoryConfig(), with_reference=True), pack(make_sequences())
    assert isinstance(away.reference, WaitingModel)
    for step in range(2):
        for learner in (away, here):
            train_step(learner, step)
        assert torch.equal(away.reference_logprobs(batch), here.reference_logprobs(batch))
        assert not torch.equal(away.reference_logprobs(batch), away.logprobs(batch))
        for learner in (away, here):
            learner.update_reference()


def test_on_the_cpu_offloading_is_said_to_do_nothing_once(capsys: pytest.CaptureFixture[str]):
    memory_module.note.cache_clear()
    for _ in range(2):
        learner = make(MemoryConfig(offload_optimizer=True, offload_reference=True), with_reference=True)
    assert learner.masters is learner.params and not isinstance(learner.reference, WaitingModel)
    errors = capsys.readouterr().err
    assert errors.count("--memory.offload-optimizer does nothing here") == 1
    assert errors.count("--memory.offload-reference does nothing here") == 1


# 8-bit moments


@pytest.mark.parametrize("kind", ["adamw8bit", "paged-adamw8bit"])
def test_a_missing_library_is_said_before_any_compute(kind: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModuleNotFoundError, match=f"{kind} needs bitsandbytes: pip install 'r1kit.memory.'"):
        make(MemoryConfig(optimizer=kind))


@pytest.mark.parametrize("dtype", DTYPES)
def test_8_bit_moments_train_like_fp32_ones_and_survive_a_checkpoint(dtype: torch.dtype, tmp_path: Path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install bitsandbytes")
    small, plain = make(MemoryConfig(optimizer="adamw8bit"), dtype), make(MemoryConfig(), dtype)
    first = weights(small)
    for step in range(8):
        losses = train_step(small, step, lr=1e-3)
        assert losses[0] == pytest.approx(train_step(plain, step, lr=1e-3)[0], rel=0.05)
    moved = sum(float((a - b).abs().sum()) for a, b in zip(weights(small), first, strict=True))
    apart = sum(float((a - b).abs().sum()) for a, b in zip(weights(small), weights(plain), strict=True))
    assert moved > 0 and apart < 0.3 * moved, (apart, moved)
    types = {s["state1"].dtype for p, s in small.optimizer.state.items() if p.numel() >= 4096}
    assert types == {torch.uint8}
    small.save(tmp_path)
    again = make(MemoryConfig(optimizer="adamw8bit"), dtype, seed=5)
    train_step(again, 3)
    again.load(tmp_path)
    for step in range(8, 11):
        assert train_step(again, step) == train_step(small, step)
        assert same(weights(again), weights(small))


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="--memory.offload-optimizer keeps .* --memory.optimizer adamw8bit on"):
        MemoryConfig(offload_optimizer=True, optimizer="adamw8bit")


# Bytes


@dataclass(frozen=True)
class Bytes:
    """Per weight of the model, after a gradient and before its step."""

    device: float
    cpu: float


def measure(learner: LocalLearner, away: set[str]) -> Bytes:
    """`away`: which of masters (with gradients and moments) and reference are in CPU memory in this set-up."""
    parts: dict[str, list[Tensor]] = {"model": list(learner.model.parameters())}
    parts["masters"] = list(learner.masters) if learner.apart else []
    parts["masters"] += [m.grad for m in learner.masters if m.grad is not None]
    parts["masters"] += [
        value
        for state in learner.optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor) and value.dim() > 0
    ]
    parts["reference"] = [] if learner.reference is None else learner._reference_weights()
    count = sum(p.numel() for p in learner.model.parameters())
    # One table of 8-bit values serves all tensors.
    once = {name: {t.data_ptr(): t.nbytes for t in tensors} for name, tensors in parts.items()}
    sizes = {name: sum(found.values()) / count for name, found in once.items()}
    gone = sum(size for name, size in sizes.items() if name in away)
    return Bytes(sum(sizes.values()) - gone, gone)


def wide_model(dtype: torch.dtype) -> Transformer:
    """Every matrix is large enough for 8-bit moments."""
    model = Transformer(replace(tiny_config(), hidden=64, head_dim=16, mlp=96))
    model.init_weights(torch.Generator().manual_seed(0))
    return model.to(dtype)


ROWS: list[tuple[str, MemoryConfig, torch.dtype]] = [
    ("bf16", MemoryConfig(), torch.bfloat16),
    ("fp32", MemoryConfig(), torch.float32),
    ("8-bit moments", MemoryConfig(optimizer="adamw8bit"), torch.bfloat16),
    ("`--memory.offload-reference`", MemoryConfig(offload_reference=True), torch.bfloat16),
    ("`--memory.offload-optimizer`", MemoryConfig(offload_optimizer=True), torch.bfloat16),
    ("both", MemoryConfig(offload_reference=True, offload_optimizer=True), torch.bfloat16),
]


def documented() -> dict[str, Bytes]:
    """The table of docs/lora.md: name -> the two totals at the end of its row."""
    text = (Path(__file__).parents[1] / "docs" / "lora.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \|(?: [^|]+ \|){5} ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    return {name: Bytes(float(device), float(cpu)) for name, device, cpu in rows}


@pytest.mark.parametrize(("name", "memory", "dtype"), ROWS, ids=[name for name, _, _ in ROWS])
@pytest.mark.usefixtures("split")
def test_the_bytes_per_weight_are_those_of_the_documentation(
    name: str, memory: MemoryConfig, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    if memory.optimizer != "adamw":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install bitsandbytes")
    if not memory.offload_optimizer:
        monkeypatch.setattr(learner_module, "offload_device", lambda memory, device: device)
    learner = LocalLearner(wide_model(dtype), tiny_tokenizer(), OptimConfig(), with_reference=True, memory=memory)
    train_step(learner, 0)
    learner.forward_backward(pack(make_sequences()), nll)
    away = {"masters"} if memory.offload_optimizer else set()
    found = measure(learner, away | ({"reference"} if memory.offload_reference else set()))
    expected = documented()[name]
    scales = 0.1 if memory.optimizer != "adamw" else 1e-9  # and the moments of norms, which stay in fp32
    assert found.device == pytest.approx(expected.device, abs=scales) and found.cpu == pytest.approx(expected.cpu)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bytes_of_adapters(dtype: torch.dtype):
    """Those of the base; and for each number of the adapters 4 of itself, gradient and reference each, 8 of moments."""
    learner = make(MemoryConfig(), dtype, rank=4, with_reference=True)
    perturb(learner.model, scale=0.01)
    train_step(learner, 0)
    learner.forward_backward(pack(make_sequences()), nll)
    assert learner.adapters is not None
    adapters = sum(p.numel() for p in learner.adapters.parameters())
    count = sum(p.numel() for p in learner.model.parameters())
    base = 2 if dtype == torch.bfloat16 else 4
    found = measure(learner, set())
    assert found.device * count == pytest.approx(base * (count - adapters) + 20 * adapters)
