"""Facts about recorded decoding steps; skipped without a GPU.

python -m pytest tests/test_cuda_graphs.py -q
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from r1kit.config import LoraConfig
from r1kit.model.lora import add_adapters
from r1kit.model.transformer import Transformer
from r1kit.sampling import local
from r1kit.sampling.cuda_graphs import GraphedStep, Step
from r1kit.sampling.kv_cache import KVCache
from r1kit.sampling.local import LocalSampler
from r1kit.types import Completion, Prompt, SamplingParams
from tiny import random_tokens, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")
PROMPTS = [Prompt(tuple(random_tokens(5 + 3 * i, i)), seed=i) for i in range(8)]
PARAMS = SamplingParams(max_new_tokens=40)


def sample(model: Transformer, params: SamplingParams = PARAMS, rows: int = 13) -> list[list[Completion]]:
    sampler = LocalSampler(tiny_tokenizer(), rows=rows)
    sampler.load_weights(model, 0)
    return sampler.generate(PROMPTS, params, 3)


def a_stop_token(groups: list[list[Completion]]) -> int:
    """A token that ends these completions at as many different places as possible."""
    flat = [completion.tokens for group in groups for completion in group]
    ends = {token: {tokens.index(token) for tokens in flat if token in tokens} for tokens in flat for token in tokens}
    return max(sorted(ends), key=lambda token: len(ends[token]))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[GraphedStep]:
    """Windows of 8 tokens, and every `GraphedStep` that the sampler makes."""
    made: list[GraphedStep] = []

    def make(step: Step) -> GraphedStep:
        made.append(GraphedStep(step))
        return made[-1]

    monkeypatch.setattr(local, "GraphedStep", make)
    monkeypatch.setattr(KVCache, "LENGTH_STEP", {"cuda": 8})
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "params", [PARAMS, replace(PARAMS, temperature=0.0), replace(PARAMS, temperature=0.7, top_p=0.9, top_k=20)]
)
def test_replayed_steps_give_the_bits_of_steps_as_they_are(
    dtype: torch.dtype, params: SamplingParams, recorded: list[GraphedStep], monkeypatch: pytest.MonkeyPatch
):
    model = tiny_model().to("cuda", dtype)
    params = replace(params, stop_tokens=(a_stop_token(sample(model, params)),))
    graphed = sample(model, params)
    shapes = [shape for shape, graph in recorded[-1].graphs.items() if graph is not None]
    assert len({rows for rows, _ in shapes}) > 1 and len({window for _, window in shapes}) > 3
    assert len({len(completion.tokens) for group in graphed for completion in group}) > 3
    monkeypatch.setattr(local, "GraphedStep", lambda step: step)
    assert sample(model, params) == graphed


def test_recorded_steps_give_the_tokens_of_the_cpu(recorded: list[GraphedStep]):
    expected = sample(tiny_model())
    found = sample(tiny_model().to("cuda"))
    assert recorded
    assert [[c.tokens for c in group] for group in found] == [[c.tokens for c in group] for group in expected]


def test_weights_that_an_update_changed_in_place_are_sampled_from(recorded: list[GraphedStep]):
    model = tiny_model().to("cuda")
    sampler = LocalSampler(tiny_tokenizer())
    sampler.load_weights(model, 0)
    before = sampler.generate(PROMPTS, PARAMS, 3)
    with torch.no_grad():
        model.embed.weight.mul_(torch.linspace(0.5, 1.5, model.config.hidden, device="cuda"))
    sampler.load_weights(model, 1)
    after = sampler.generate(PROMPTS, PARAMS, 3)
    assert len(recorded) == 2 and after != before
    assert [[c.tokens for c in group] for group in after] == [[c.tokens for c in g] for g in sample(model, rows=256)]


def test_a_model_with_adapters_is_recorded_too(recorded: list[GraphedStep], monkeypatch: pytest.MonkeyPatch):
    model = tiny_model()
    add_adapters(model, LoraConfig(rank=4), seed=0, base="base")
    model = model.to("cuda")
    graphed = sample(model)
    assert any(recorded[-1].graphs.values())
    monkeypatch.setattr(local, "GraphedStep", lambda step: step)
    assert sample(model) == graphed
