"""Facts about the decoder: transformers' logits, and sequences that do not see each other however they are packed.

T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from r1kit.model.transformer import PackedAttention, Transformer
from tiny import ARCHITECTURES, both_models, gradients, packed_hidden, random_tokens, tiny_config, tiny_model

LENGTHS = (14, 14, 9, 9, 5, 1, 23)  # equal and unequal neighbours, one token, one longer than those before it
SEQUENCES = [random_tokens(length, seed) for seed, length in enumerate(LENGTHS)]


@pytest.fixture(params=("matmul", "sdpa"))
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute attention on CPU."""
    monkeypatch.setattr(PackedAttention, "MATMUL_LIMIT", 1024 if request.param == "matmul" else 0)
    return request.param


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_of_a_packed_batch_equal_transformers(name: str, path: str, tmp_path: Path):
    theirs, ours = both_models(name, tmp_path)
    with torch.no_grad():
        logits_TV = packed_hidden(ours, SEQUENCES) @ ours.lm_head.T
        for sequence, logits in zip(SEQUENCES, logits_TV.split(LENGTHS), strict=True):
            expected = theirs(torch.tensor([sequence])).logits[0]
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert logits_TV.std() > 0.5, "logits are too flat for this test to mean anything"


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_biases_and_head_norms_matter_to_these_logits(name: str, tmp_path: Path):
    """The test above would not notice their absence otherwise."""
    model = both_models(name, tmp_path)[1]
    with torch.no_grad():
        before = packed_hidden(model, SEQUENCES)
        for weight_name, weight in model.named_parameters():
            if weight_name.endswith("qkv.bias"):
                weight.zero_()
            elif weight_name.endswith(("q_norm.weight", "k_norm.weight")):
                weight.fill_(1.0)
        assert (packed_hidden(model, SEQUENCES) - before).abs().max() > 0.01


def test_a_packed_sequence_has_the_hidden_states_and_gradients_it_has_alone(path: str):
    model = tiny_model(tie=True)
    probe_TD = torch.randn(sum(LENGTHS), model.config.hidden, generator=torch.Generator().manual_seed(0))
    together = packed_hidden(model, SEQUENCES)
    alone = torch.cat([packed_hidden(model, [sequence]) for sequence in SEQUENCES])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    expected = gradients(model, (alone * probe_TD).sum())
    for name, gradient in gradients(model, (together * probe_TD).sum()).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_both_attention_paths_agree_in_value_and_gradient(monkeypatch: pytest.MonkeyPatch):
    """All of it, and a limit in the middle, where long sequences go one way and short ones the other."""
    model = tiny_model(tie=True)
    monkeypatch.setattr(PackedAttention, "CHUNK_AREA", 300)
    calls = []
    sdpa = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *args, **kwargs: (calls.append(args[0].shape[2]), sdpa(*args, **kwargs))[1],
    )
    results = []
    for limit in (1024, 0, 9):
        monkeypatch.setattr(PackedAttention, "MATMUL_LIMIT", limit)
        calls.clear()
        hidden = packed_hidden(model, SEQUENCES)
        assert all(length > limit for length in calls) and bool(calls) == (limit < 1024)
        results.append((hidden, gradients(model, hidden.pow(2).mean())))
    (matmul, matmul_gradients), *others = results
    for hidden, other_gradients in others:
        torch.testing.assert_close(hidden, matmul, rtol=1e-4, atol=1e-5)
        for name, gradient in other_gradients.items():
            torch.testing.assert_close(gradient, matmul_gradients[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("area", "shortest"), [(1, 0), (200, 0), (450, 0), (1 << 30, 0.75)])
def test_chunks_of_attention_change_nothing(area: int, shortest: float, path: str, monkeypatch: pytest.MonkeyPatch):
    model = tiny_model(tie=True)
    monkeypatch.setattr(PackedAttention, "CHUNK_AREA", 1 << 30)
    monkeypatch.setattr(PackedAttention, "SHORTEST", 0)
    assert len(PackedAttention(LENGTHS, "cpu").chunks) == 1
    whole = packed_hidden(model, SEQUENCES)
    expected = gradients(model, whole.pow(2).mean())
    monkeypatch.setattr(PackedAttention, "CHUNK_AREA", area)
    monkeypatch.setattr(PackedAttention, "SHORTEST", shortest)
    chunks = PackedAttention(LENGTHS, "cpu").chunks
    assert len(chunks) > 2
    assert all(shortest * batch * longest <= end - start for start, end, batch, longest, _ in chunks)
    assert all(batch == 1 or batch * longest**2 <= area for _, _, batch, longest, _ in chunks)
    hidden = packed_hidden(model, SEQUENCES)
    torch.testing.assert_close(hidden, whole, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients(model, hidden.pow(2).mean()).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_a_token_is_not_seen_by_the_tokens_before_it(path: str):
    model = tiny_model()
    changed = [list(sequence) for sequence in SEQUENCES]
    changed[0][8] = (changed[0][8] + 1) % model.config.vocab_size
    with torch.no_grad():
        difference_T = (packed_hidden(model, changed) - packed_hidden(model, SEQUENCES)).abs().amax(-1)
    seen = torch.zeros(sum(LENGTHS), dtype=torch.bool)
    seen[8 : LENGTHS[0]] = True
    assert torch.equal(difference_T > 1e-6, seen)


def test_positions_count_from_0_in_every_sequence():
    assert PackedAttention([3, 1, 2], "cpu").positions_T.tolist() == [0, 1, 2, 0, 0, 1]


def test_positions_matter_only_by_their_distance():
    """Rotary embedding: a whole sequence moved along gives the same hidden states."""
    model = tiny_model()
    attention = PackedAttention([14], "cpu")
    tokens = torch.tensor(SEQUENCES[0])
    with torch.no_grad():
        here = model(tokens, attention.positions_T, attention)
        moved = model(tokens, attention.positions_T + 90, attention)
        stretched = model(tokens, attention.positions_T * 3, attention)
    torch.testing.assert_close(moved, here, rtol=1e-3, atol=1e-4)
    assert (stretched - here).abs().max() > 0.01


def test_a_model_turned_to_bf16_after_use_computes_in_bf16():
    model = tiny_model()
    with torch.no_grad():
        exact = packed_hidden(model, SEQUENCES)
        rough = packed_hidden(model.to(torch.bfloat16), SEQUENCES)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_initial_weights_are_a_function_of_the_generator():
    models = [Transformer(tiny_config(tie=False)) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        model.init_weights(torch.Generator().manual_seed(seed))
    same, other, different = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(same[name], other[name]) for name in same)
    assert not torch.equal(same["embed.weight"], different["embed.weight"])
    assert all(bool((weight == 1).all()) for name, weight in same.items() if "norm" in name)
    assert same["embed.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    # Two outputs a block go into the residual stream, from each of two layers: scaled by 1 / sqrt(4).
    assert same["blocks.0.down.weight"].std().item() == pytest.approx(0.01, rel=0.1)


def test_tied_embeddings_are_one_matrix():
    tied, untied = tiny_model(tie=True), tiny_model(tie=False)
    assert tied.lm_head is tied.embed.weight and len(list(untied.parameters())) == len(list(tied.parameters())) + 1
