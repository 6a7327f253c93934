"""The hand-over of weights between two real processes, a plain module in place of vLLM's model.

By CUDA IPC and by file on a GPU, where vLLM is not needed; by file on a CPU, where test_vllm_real.py has vLLM itself.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from fake_vllm import OtherProcess, other_process
from r1kit.config import VllmConfig
from r1kit.model.transformer import Transformer
from r1kit.sampling.handover import named_weights
from r1kit.sampling.vllm import VllmSampler, text_logprobs
from r1kit.sampling.vllm_worker import Fingerprint
from tiny import tiny_model, tiny_tokenizer

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DTYPE = torch.bfloat16


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=cuda)])
def process(request: pytest.FixtureRequest) -> Iterator[tuple[str, OtherProcess]]:
    """Device, and a process for workers on it."""
    with other_process(request.param, DTYPE) as opened:
        yield request.param, opened


@pytest.fixture(params=["file-untied", "file-tied", "ipc-untied", "ipc-tied"])
def pair(request: pytest.FixtureRequest, process: tuple[str, OtherProcess], tmp_path: Path) -> Pair:
    """A learner and a worker with other weights, which are handed over by file or as `--vllm.transfer auto` chooses."""
    (transfer, tie), (device, engine) = request.param.split("-"), process
    if transfer == "ipc" and device == "cpu":
        pytest.skip("CUDA IPC needs a GPU")
    engine.ask("start", tie == "tied")
    engine.sources.clear()
    cfg = VllmConfig(transfer="file" if transfer == "file" else "auto", folder=tmp_path)
    learner = tiny_model(seed=1, dtype=DTYPE, tie=tie == "tied").to(device)
    return Pair(learner, engine, VllmSampler(engine, tiny_tokenizer(), cfg), transfer)


class Pair(NamedTuple):
    learner: Transformer
    engine: OtherProcess
    sampler: VllmSampler
    transfer: str


@torch.no_grad()
def step(learner: Transformer, scale: float = 0.05) -> None:
    """As an optimizer does: other numbers in the same memory."""
    generator = torch.Generator().manual_seed(3)
    for weight in learner.parameters():
        weight += (scale * torch.empty(weight.shape).normal_(generator=generator)).to(weight)
    if learner.embed.weight.is_cuda:
        torch.cuda.synchronize()


def fingerprint(learner: Transformer) -> str:
    return str(Fingerprint(named_weights(learner).values()))


def test_each_hand_over_gives_the_other_process_the_weights_of_now(pair: Pair, tmp_path: Path):
    learner, engine, sampler, transfer = pair
    for version in (1, 2, 3):
        handed = fingerprint(learner)
        assert engine.ask("fingerprint") != handed
        assert sampler.load_weights(learner, version)["probe/difference"] < 1e-3
        assert engine.ask("fingerprint") == handed
        step(learner)
        assert engine.ask("fingerprint") == handed, "it looks at the learner's memory after the hand-over"
    assert engine.sources == [transfer] * 3
    assert list(tmp_path.iterdir()) == []


def test_weights_that_change_while_they_are_read_are_noticed(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    learner, engine, sampler, transfer = pair
    call = engine.call

    def call_late(method: str, *arguments: Any) -> list[dict[str, Any]]:
        if method == "r1kit_load":
            step(learner)
        return call(method, *arguments)

    monkeypatch.setattr(engine, "call", call_late)
    # A file is a copy: it arrives as it was, and the learner has moved on.
    noticed = {"ipc": "vLLM read other weights than the learner", "file": "the log-probs of a fixed text differ"}
    with pytest.raises(RuntimeError, match=f"version 1: {noticed[transfer]}"):
        sampler.load_weights(learner, 1)


def test_a_worker_that_goes_on_with_older_weights_is_noticed(pair: Pair):
    learner, engine, sampler, _ = pair
    sampler.load_weights(learner, 1)
    engine.ask("go_on_with_old_weights")
    step(learner, scale=1e-2)
    with pytest.raises(RuntimeError, match="version 2: vLLM read the new weights but computes with older ones"):
        sampler.load_weights(learner, 2)


def test_a_worker_that_never_took_weights_is_noticed(pair: Pair):
    pair.engine.ask("go_on_with_old_weights")
    with pytest.raises(RuntimeError, match="version 1: the log-probs of a fixed text differ"):
        pair.sampler.load_weights(pair.learner, 1)


@cuda
def test_memory_that_was_handed_over_is_free_when_the_learner_is_gone():
    with other_process("cuda", DTYPE) as engine:
        engine.ask("start", False)
        text_logprobs(tiny_model(dtype=DTYPE).to("cuda"), [5, 6, 7])  # workspaces of the first products stay
        before = torch.cuda.memory_allocated()
        learner = tiny_model(seed=1, dtype=DTYPE).to("cuda")
        held = torch.cuda.memory_allocated()
        sampler = VllmSampler(engine, tiny_tokenizer(), VllmConfig(transfer="ipc"))
        for version in (1, 2, 3):
            sampler.load_weights(learner, version)
        del learner
        gc.collect()
        torch.cuda.ipc_collect()
        assert held > before == torch.cuda.memory_allocated()
