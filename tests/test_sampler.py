"""Facts about the local sampler: transformers' greedy tokens, draws that ignore their neighbours, and no wasted work.

B rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from r1kit.algo.packing import Packable, pack
from r1kit.model.transformer import Transformer
from r1kit.sampling import local
from r1kit.sampling.draw import draw
from r1kit.sampling.kv_cache import KVCache, RecordingAttention
from r1kit.sampling.local import LocalSampler
from r1kit.sampling.random import seed_from, uniforms
from r1kit.training.learner import completion_logprobs
from r1kit.types import Completion, Prompt, SamplingParams
from tiny import both_models, packed_hidden, random_tokens, tiny_model, tiny_tokenizer

# One token, many, lengths on both sides of the cache's window step of 32, and two equal ones.
LENGTHS = (1, 2, 7, 33, 1, 31, 12, 12)
PROMPTS = [Prompt(tuple(random_tokens(length, seed)), seed=100 + seed) for seed, length in enumerate(LENGTHS)]
PARAMS = SamplingParams(max_new_tokens=16)


def sampler_of(model: Transformer, rows: int = 256) -> LocalSampler:
    sampler = LocalSampler(tiny_tokenizer(), rows=rows)
    sampler.load_weights(model, version=0)
    return sampler


def tokens_of(groups: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.tokens for completion in group] for group in groups]


def a_stop_token(groups: list[list[Completion]]) -> int:
    """A token that ends some of these completions early, at as many places as possible, and leaves others alone."""
    flat = [tokens for group in tokens_of(groups) for tokens in group]

    def ends(token: int) -> set[int | None]:
        return {tokens.index(token) if token in tokens else None for tokens in flat}

    candidates = [token for token in sorted({t for tokens in flat for t in tokens}) if None in ends(token)]
    best = max(candidates, key=lambda token: len(ends(token)))
    assert len(ends(best)) > 3, "choose other weights"
    return best


@dataclass
class Passes:
    """What went through the model: rows of each decoding step, and the lengths of the prefilled prompts."""

    decoded: list[int]
    prefilled: list[int]


def watch(model: Transformer) -> Passes:
    passes = Passes([], [])

    def record(module: torch.nn.Module, args: tuple) -> None:
        tokens, _, attention = args
        if isinstance(attention, RecordingAttention):
            passes.prefilled.extend(attention.lengths)
        else:
            passes.decoded.append(len(tokens))

    model.register_forward_pre_hook(record)
    return passes


@pytest.mark.parametrize("name", ["qwen2", "llama-untied", "qwen3"])
def test_greedy_completions_equal_generate_of_transformers(name: str, tmp_path: Path):
    theirs, ours = both_models(name, tmp_path)
    params = replace(PARAMS, temperature=0.0)
    stop = a_stop_token(sampler_of(ours).generate(PROMPTS, params, 1))
    for stops in ((), (stop,)):
        # Five rows for 24 completions: rows end at different times, are moved and filled again.
        groups = sampler_of(ours, rows=5).generate(PROMPTS, replace(params, stop_tokens=stops), 3)
        for prompt, group in zip(PROMPTS, tokens_of(groups), strict=True):
            output = theirs.generate(  # type: ignore[operator]
                torch.tensor([prompt.tokens]), attention_mask=torch.ones(1, len(prompt.tokens), dtype=torch.long),
                max_new_tokens=16, do_sample=False, eos_token_id=list(stops) or None, pad_token_id=0,
            )  # fmt: skip
            assert group == [tuple(output[0, len(prompt.tokens) :].tolist())] * 3


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tokens_do_not_depend_on_rows_order_or_neighbours(temperature: float):
    params = replace(PARAMS, temperature=temperature)
    model = tiny_model()
    params = replace(params, stop_tokens=(a_stop_token(sampler_of(model).generate(PROMPTS, params, 3)),))
    expected = tokens_of(sampler_of(model).generate(PROMPTS, params, 3))
    assert len({len(tokens) for group in expected for tokens in group}) > 3
    for rows in (1, 2, 5, 9, 24):
        assert tokens_of(sampler_of(model, rows).generate(PROMPTS, params, 3)) == expected, rows
    assert tokens_of(sampler_of(model, 5).generate(PROMPTS[::-1], params, 3)) == expected[::-1]
    assert tokens_of(sampler_of(model).generate([PROMPTS[3]], params, 3)) == [expected[3]]
    more = tokens_of(sampler_of(model, 7).generate(PROMPTS, params, 5))
    assert [group[:3] for group in more] == expected


def test_prompts_prefilled_in_several_passes_give_the_same_tokens(monkeypatch: pytest.MonkeyPatch):
    expected = tokens_of(sampler_of(tiny_model()).generate(PROMPTS, PARAMS, 2))
    monkeypatch.setattr(local, "PREFILL_TOKENS", 20)
    assert tokens_of(sampler_of(tiny_model()).generate(PROMPTS, PARAMS, 2)) == expected


def test_rows_keep_what_they_hold_when_the_memory_grows_and_shrinks():
    model = tiny_model()
    shape = model.config.cached
    cache = KVCache(model.config, rows=3, capacity=200, like=model.embed.weight)
    first, second = (torch.randn(model.config.layers, n, shape.heads, shape.key) for n in (20, 70))

    def held(row: int, tokens: int) -> Tensor:
        return torch.stack([keys[row, :, :tokens].transpose(0, 1) for keys in cache.keys])

    cache.write_prompt(0, 2, first, -first)
    cache.write_prompt(2, 3, second, -second)  # longer than what the others need
    assert torch.equal(held(0, 20), first) and torch.equal(held(1, 20), first) and torch.equal(held(2, 70), second)
    for longest in (70, 120, 199, 45, 20):  # the row of 70 has left when the window is below it
        rows = 3 if longest >= 70 else 2
        cache.start_step(torch.full((rows,), longest), cache.window(longest))
        # The products read all of the memory: a part of a larger one would be copied at each step.
        assert all(held.shape[2] == cache.window(longest) for held in (*cache.keys, *cache.values))
        for row in range(rows):
            tokens, expected = (70, second) if row == 2 else (20, first)
            assert torch.equal(held(row, tokens), expected)
            values = torch.stack([values[row, :, :tokens].transpose(0, 1) for values in cache.values])
            assert torch.equal(values, -expected) and not cache.keys[0][row, :, tokens:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_call_twice_is_identical_to_the_bit(dtype: torch.dtype):
    sampler = sampler_of(tiny_model(dtype=dtype), rows=5)
    assert sampler.generate(PROMPTS, PARAMS, 3) == sampler.generate(PROMPTS, PARAMS, 3)


def test_samples_of_a_group_and_seeds_of_a_prompt_differ():
    sampler = sampler_of(tiny_model())
    prompt = PROMPTS[2]
    (group,) = tokens_of(sampler.generate([prompt], PARAMS, 8))
    assert len(set(group)) == 8
    groups = tokens_of(sampler.generate([replace(prompt, seed=seed) for seed in range(8)], PARAMS, 1))
    assert len({tokens for group in groups for tokens in group}) == 8


def test_each_token_is_the_draw_of_its_seed_and_position():
    """The whole sampler against its definition: one packed forward pass over what it generated."""
    model = tiny_model()
    params = replace(PARAMS, temperature=0.9, top_k=50, top_p=0.95)
    groups = sampler_of(model, rows=5).generate(PROMPTS, params, 2)
    pairs = [(p, i, c) for p, group in zip(PROMPTS, groups, strict=True) for i, c in enumerate(group)]
    batch = pack([Packable(prompt.tokens + c.tokens, len(prompt.tokens)) for prompt, _, c in pairs])
    sequences = [list(prompt.tokens + c.tokens) for prompt, _, c in pairs]
    with torch.no_grad():
        logits_NV = packed_hidden(model, sequences)[batch.predict_N] @ model.lm_head.T
    seeds_N = torch.tensor([seed_from(prompt.seed, i) for prompt, i, c in pairs for _ in c.tokens])
    positions_N = torch.cat([torch.arange(len(c.tokens)) for _, _, c in pairs])
    assert torch.equal(draw(logits_NV, params, uniforms(seeds_N, positions_N))[0], batch.labels_N)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_sampler_logprobs_equal_the_learners(temperature: float):
    """Greedy tokens have their log-probs at temperature 1, since at 0 they are all 0."""
    model = tiny_model()
    params = replace(PARAMS, temperature=temperature, top_p=0.9 if temperature == 0.7 else 1.0)
    groups = sampler_of(model, rows=5).generate(PROMPTS, params, 2)
    sequences = [
        Packable(prompt.tokens + completion.tokens, len(prompt.tokens), sampler_logprobs=completion.sampler_logprobs)
        for prompt, group in zip(PROMPTS, groups, strict=True)
        for completion in group
    ]
    batch = pack(sequences)
    with torch.no_grad():
        logprobs_N = completion_logprobs(model, batch, temperature or 1.0)[0]
    assert logprobs_N.shape == (sum(len(c.tokens) for group in groups for c in group),)
    torch.testing.assert_close(batch.sampler_logprobs_N, logprobs_N, rtol=0, atol=1e-5)


def test_a_stop_token_is_the_last_token_and_not_in_the_text():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    free = sampler_of(model).generate(PROMPTS, PARAMS, 3)
    stop = a_stop_token(free)
    stopped = sampler_of(model, rows=5).generate(PROMPTS, replace(PARAMS, stop_tokens=(stop, 399)), 3)
    reasons = set()
    for before, after in zip(sum(free, []), sum(stopped, []), strict=True):
        ends = [i for i, token in enumerate(before.tokens) if token in (stop, 399)]
        reasons.add(after.finish_reason)
        if ends:
            assert after.finish_reason == "stop"
            assert after.tokens == before.tokens[: ends[0] + 1]
            assert after.text == tokenizer.decode(list(after.tokens[:-1]))
        else:
            assert after.finish_reason == "length"
            assert after.tokens == before.tokens and len(after.tokens) == PARAMS.max_new_tokens
            assert after.text == tokenizer.decode(list(after.tokens))
        assert len(after.sampler_logprobs) == len(after.tokens)
    assert reasons == {"stop", "length"}


def test_a_completion_that_stops_at_once_is_empty_text():
    params = SamplingParams(max_new_tokens=4, stop_tokens=tuple(range(400)))
    (group,) = sampler_of(tiny_model()).generate(PROMPTS[:1], params, 3)
    assert all((len(c.tokens), c.text, c.finish_reason) == (1, "", "stop") for c in group)


def test_a_stop_token_at_the_cap_counts_as_stop():
    free = sampler_of(tiny_model()).generate(PROMPTS[:1], PARAMS, 1)[0][0]
    first = free.tokens.index(free.tokens[5])
    params = replace(PARAMS, max_new_tokens=first + 1, stop_tokens=(free.tokens[5],))
    assert sampler_of(tiny_model()).generate(PROMPTS[:1], params, 1)[0][0].finish_reason == "stop"


def test_a_prompt_is_prefilled_once_for_its_group():
    """Its last token is the first decoding step of each row, so one-token prompts need no prefill."""
    for rows in (3, 256):
        model = tiny_model()
        passes = watch(model)
        sampler_of(model, rows).generate(PROMPTS, PARAMS, 4)
        assert sorted(passes.prefilled) == sorted(length - 1 for length in LENGTHS if length > 1), rows


def test_finished_rows_leave_at_once():
    model = tiny_model()
    stop = a_stop_token(sampler_of(model).generate(PROMPTS, PARAMS, 3))
    passes = watch(model)
    groups = sampler_of(model).generate(PROMPTS, replace(PARAMS, stop_tokens=(stop,)), 3)
    lengths = [len(completion.tokens) for group in groups for completion in group]
    assert passes.decoded == [sum(length > step for length in lengths) for step in range(max(lengths))]
    assert passes.decoded[0] == 24 > passes.decoded[-1]


def test_waiting_completions_take_the_places_of_finished_ones():
    model = tiny_model()
    stop = a_stop_token(sampler_of(model).generate(PROMPTS, PARAMS, 3))
    passes = watch(model)
    groups = sampler_of(model, rows=5).generate(PROMPTS, replace(PARAMS, stop_tokens=(stop,)), 3)
    assert sum(passes.decoded) == sum(len(completion.tokens) for group in groups for completion in group)
    # Never more rows than allowed, and full until nobody waits: after that rows only leave.
    assert passes.decoded == sorted(passes.decoded, reverse=True) and passes.decoded[0] == 5


def test_completions_carry_the_policy_version_and_progress_is_told():
    sampler = LocalSampler(tiny_tokenizer(), rows=5)
    sampler.load_weights(tiny_model(), version=7)
    told: list[tuple[int, int]] = []
    groups = sampler.generate(PROMPTS, PARAMS, 3, lambda finished, total: told.append((finished, total)))
    assert {completion.policy_version for group in groups for completion in group} == {7}
    assert told == sorted(set(told)) and told[-1] == (24, 24) and len(told) > 3
    assert sampler.generate([], PARAMS, 3) == []


def test_what_cannot_be_sampled_is_refused():
    sampler = sampler_of(tiny_model())
    with pytest.raises(ValueError, match="longest prompt 33 .*max-new-tokens 96 .*context 128; lower .* to 95 or less"):
        sampler.generate(PROMPTS, replace(PARAMS, max_new_tokens=96), 1)
    assert len(sampler.generate(PROMPTS[3:4], replace(PARAMS, max_new_tokens=95), 1)[0][0].tokens) == 95
    long = [Prompt((5,) * 200, seed=1)]
    for new, limit in ((28, " 100$"), (128, ", and lower --max-new-tokens$")):
        with pytest.raises(ValueError, match=f"prompt 200 .*prompt alone is too long: .*max-prompt-tokens{limit}"):
            sampler.generate(long, replace(PARAMS, max_new_tokens=new), 1)
    with pytest.raises(ValueError, match="a prompt has no tokens"):
        sampler.generate([PROMPTS[0], Prompt((), seed=0)], PARAMS, 1)
    with pytest.raises(ValueError, match="--rows is 0; give at least 1"):
        LocalSampler(tiny_tokenizer(), rows=0)


def test_the_model_is_left_trainable():
    """What the sampler caches in the module must not keep gradients from flowing."""
    model: Transformer = tiny_model()
    sampler_of(model).generate(PROMPTS, PARAMS, 1)
    logprobs_N: Tensor = completion_logprobs(model, pack([Packable(tuple(random_tokens(9)), 2)]), 1.0)[0]
    logprobs_N.sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())
