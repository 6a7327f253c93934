"""Facts about drawing a token: the softmax's frequencies, exactly the top k and the nucleus, counter-based uniforms.

B rows, V vocabulary.
"""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from r1kit.sampling.draw import FEW, draw, keep_top
from r1kit.sampling.random import seed_from, uniforms
from r1kit.types import SamplingParams

MASK = (1 << 64) - 1
GOLDEN, C1, C2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

# Powers of 2, so that sums are exact: in order of size they are tokens 3, 1, 4, 0, 2.
PROBS_V = torch.tensor([0.0625, 0.25, 0.046875, 0.5, 0.140625])


def splitmix(x: int) -> int:
    """SplitMix64's finaliser (Steele et al. 2014) on Python's integers."""
    x = (x ^ (x >> 30)) * C1 & MASK
    x = (x ^ (x >> 27)) * C2 & MASK
    return x ^ (x >> 31)


def splitmix_inverse(z: int) -> int:
    def unshift(value: int, bits: int) -> int:
        found = value
        for _ in range(64 // bits + 1):
            found = value ^ (found >> bits)
        return found

    x = unshift(z, 31) * pow(C2, -1, 1 << 64) & MASK
    x = unshift(x, 27) * pow(C1, -1, 1 << 64) & MASK
    return unshift(x, 30)


def signed(value: int) -> int:
    value &= MASK
    return value - (1 << 64) if value >> 63 else value


def seed_whose_bits_are(bits: int, counter: int) -> int:
    """The seed for which the last 64-bit state at this counter is `bits`."""
    return signed(splitmix_inverse((splitmix_inverse(bits) - GOLDEN) & MASK) - (counter + 1) * GOLDEN)


def many_uniforms(count: int, seed: int = 5) -> Tensor:
    return uniforms(torch.full((count,), seed), torch.arange(count))


def chi_square(counts: Tensor, expected: Tensor) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


# Drawing


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_frequencies_match_the_softmax(temperature: float):
    logits_V = torch.randn(8, generator=torch.Generator().manual_seed(0))
    count = 40_000
    tokens_B = draw(logits_V.expand(count, 8), SamplingParams(temperature=temperature), many_uniforms(count))[0]
    expected = count * (logits_V / temperature).softmax(-1)
    # 24.3: exceeded by one seed in a thousand at 7 degrees of freedom.
    assert chi_square(torch.bincount(tokens_B, minlength=8), expected) < 24.3


def test_logprobs_are_at_the_temperature_and_before_the_cut():
    logits_BV = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    params = SamplingParams(temperature=0.7, top_k=3, top_p=0.8)
    tokens_B, logprobs_B = draw(logits_BV, params, many_uniforms(50))
    expected = torch.log_softmax(logits_BV / 0.7, -1).gather(-1, tokens_B[:, None])[:, 0]
    torch.testing.assert_close(logprobs_B, expected)


def test_greedy_takes_the_largest_and_gives_its_logprob_at_temperature_1():
    logits_BV = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    tokens_B, logprobs_B = draw(logits_BV, SamplingParams(temperature=0.0), many_uniforms(50))
    assert torch.equal(tokens_B, logits_BV.argmax(-1))
    torch.testing.assert_close(logprobs_B, logits_BV.log_softmax(-1).amax(-1))


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, {0, 1, 2, 3, 4}),
        (1, 1.0, {3}),
        (2, 1.0, {3, 1}),
        (4, 1.0, {3, 1, 4, 0}),
        (5, 1.0, {0, 1, 2, 3, 4}),
        (9, 1.0, {0, 1, 2, 3, 4}),
        (0, 0.01, {3}),  # at least one stays
        (0, 0.51, {3, 1}),
        (0, 0.8, {3, 1, 4}),
        (0, 0.9, {3, 1, 4, 0}),
        (0, 0.99, {0, 1, 2, 3, 4}),
        (2, 0.66, {3}),  # of the two left, the first has 2/3
        (2, 0.67, {3, 1}),
    ],
)
def test_exactly_the_top_k_and_the_nucleus_are_drawn(top_k: int, top_p: float, kept: set[int]):
    probs_BV = keep_top(PROBS_V.expand(2, 5), top_p, top_k)
    assert all({token for token, prob in enumerate(row.tolist()) if prob > 0} == kept for row in probs_BV)
    assert torch.equal(probs_BV[0][probs_BV[0] > 0], PROBS_V[sorted(kept)]), "what stays keeps its probability"
    grid_B = torch.linspace(0, 1, 1001, dtype=torch.float64).clamp(2.0**-54, 1 - 2.0**-53)
    tokens_B = draw(PROBS_V.log().expand(1001, 5), SamplingParams(top_k=top_k, top_p=top_p), grid_B)[0]
    assert set(tokens_B.tolist()) == kept
    expected = PROBS_V[sorted(kept)] / PROBS_V[sorted(kept)].sum()
    shares = torch.stack([(tokens_B == token).double().mean() for token in sorted(kept)])
    torch.testing.assert_close(shares, expected.double(), rtol=0, atol=2e-3)


def test_the_nucleus_ends_where_its_mass_is_reached():
    """Exactly: the first has 0.5, the first two have 0.75."""
    for top_p, kept in ((0.5, [3]), (0.75, [1, 3])):
        assert keep_top(PROBS_V[None], top_p, 0)[0].nonzero().flatten().tolist() == kept


def test_rows_are_cut_each_by_its_own_order():
    probs_BV = keep_top(torch.stack([PROBS_V, PROBS_V.flip(0)]), 0.8, 0)
    assert [(row > 0).nonzero().flatten().tolist() for row in probs_BV] == [[1, 3, 4], [0, 1, 3]]


def test_an_impossible_token_is_not_drawn_at_the_ends_of_the_range():
    """Tokens of probability 0 stand first, between and last."""
    logits_V = torch.tensor([float("-inf"), 0.0, float("-inf"), 1.0, -200.0, float("-inf")])
    extremes_B = torch.tensor([2.0**-54, 1 - 2.0**-53, 0.2689, 0.26895], dtype=torch.float64)
    tokens_B = draw(logits_V.expand(4, 6), SamplingParams(), extremes_B)[0]
    assert tokens_B.tolist() == [1, 3, 1, 3]


# Uniforms


def test_uniforms_are_splitmix64_of_seed_then_counter():
    rng = random.Random(0)
    seeds = [0, 1, -1, (1 << 63) - 1, -(1 << 63), *(rng.getrandbits(63) for _ in range(100))]
    counters = [rng.randrange(40_000) for _ in seeds]
    found = uniforms(torch.tensor(seeds), torch.tensor(counters)).tolist()
    for value, seed, counter in zip(found, seeds, counters, strict=True):
        bits = splitmix((splitmix((seed + (counter + 1) * GOLDEN) & MASK) + GOLDEN) & MASK)
        assert value == pytest.approx(bits / 2**64, abs=2.0**-51)


@pytest.mark.parametrize("counter", [0, 1, 511])
def test_uniforms_are_never_0_or_1(counter: int):
    """The seeds whose last state is all zeros and all ones, and their neighbours: 1 would draw past the vocabulary."""
    states = [0, 1, (1 << 11) - 1, MASK, MASK - 1, MASK - (1 << 11), MASK >> 1, 1 << 63]
    seeds = torch.tensor([seed_whose_bits_are(state, counter) for state in states])
    values_B = uniforms(seeds, torch.full_like(seeds, counter))
    assert (values_B > 0).all() and (values_B < 1).all()
    assert values_B.tolist() == pytest.approx([state / 2**64 for state in states], abs=2.0**-51)
    tokens_B = draw(torch.zeros(len(states), 5), SamplingParams(), values_B)[0]
    assert tokens_B.tolist() == [min(4, int(5 * state / 2**64)) for state in states]


@pytest.mark.parametrize("over", ["counters", "seeds", "hashed seeds"])
def test_uniforms_are_uniform_over_counters_and_over_seeds(over: str):
    count = 20_000
    if over == "counters":
        values = many_uniforms(count)
    else:
        seeds = [seed_from(seed, 0) if over == "hashed seeds" else seed for seed in range(count)]
        values = uniforms(torch.tensor(seeds), torch.zeros(count, dtype=torch.long))
    counts = torch.histc(values.float(), bins=32, min=0, max=1)
    assert chi_square(counts, torch.full((32,), count / 32)) < 61.1  # 31 degrees of freedom, one in a thousand
    pairs = torch.corrcoef(torch.stack([values[:-1], values[1:]]))
    assert abs(pairs[0, 1]) < 4 / count**0.5
    assert len(values.unique()) == count


def test_a_seed_is_the_same_in_every_process_and_fits_in_63_bits():
    assert seed_from("prompt", 3) == seed_from("prompt", 3) == 8086308294172419436
    seeds = {seed_from(seed, index) for seed in range(100) for index in range(16)}
    assert len(seeds) == 1600 and all(0 <= seed < 1 << 63 for seed in seeds)
    assert seed_from(1, 23) != seed_from(12, 3)


@pytest.mark.parametrize("sharpness", [6.0, 2.0, 0.1])
def test_the_nucleus_of_a_large_vocabulary_is_that_of_a_full_sort(sharpness: float):
    """A few likely tokens, or more than are looked at first, or some of both among the rows."""
    generator = torch.Generator().manual_seed(0)
    probs_BV = (torch.randn(32, 4 * FEW, generator=generator) * sharpness).softmax(-1)
    probs_BV[::4] = torch.randn(8, 4 * FEW, generator=generator).mul(12).softmax(-1)
    for top_p in (0.3, 0.95):
        kept_BV = keep_top(probs_BV, top_p, 0)
        for row, kept in zip(probs_BV.tolist(), kept_BV.tolist(), strict=True):
            total, expected = 0.0, set()
            for token in sorted(range(len(row)), key=lambda token: -row[token]):
                if total >= top_p:
                    break
                total += row[token]
                expected.add(token)
            assert {token for token, value in enumerate(kept) if value} == expected
            assert all(kept[token] == row[token] for token in expected)
    sizes = (keep_top(probs_BV, 0.95, 0) > 0).sum(-1)
    assert sizes.min() < FEW and (sharpness > 2 or sizes.max() > FEW)
