"""Facts about DeepSeek-V3: transformers' logits and gradients, its routing, its latent cache, and whole folders.

T tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from r1kit.algo.packing import Packable, pack
from r1kit.model.deepseek_v3 import DeepseekBlock, DeepseekConfig, DeepseekV3, Experts, Router
from r1kit.model.hf import load_model, save_model, to_hf
from r1kit.model.shards import multiply_out
from r1kit.model.transformer import PackedAttention
from r1kit.sampling.kv_cache import KVCache, RecordingAttention
from r1kit.sampling.local import LocalSampler
from r1kit.training.learner import LocalLearner, completion_logprobs
from r1kit.types import Prompt, SamplingParams
from tiny import DEEPSEEKS, OPTIM, VOCAB, hf_deepseek, nll, packed_hidden, random_tokens, tiny_tokenizer

LENGTHS = (14, 9, 9, 1, 23)
SEQUENCES = [random_tokens(length, seed) for seed, length in enumerate(LENGTHS)]
PROMPTS = [Prompt(tuple(random_tokens(length, seed)), seed=100 + seed) for seed, length in enumerate((1, 7, 33, 12))]


def both(name: str, folder: Path) -> tuple[PreTrainedModel, DeepseekV3]:
    theirs = hf_deepseek(name)
    theirs.save_pretrained(folder)
    ours = load_model(folder, torch.float32)
    assert isinstance(ours, DeepseekV3)
    return theirs, ours


def sampler_of(model: DeepseekV3, rows: int = 256) -> LocalSampler:
    sampler = LocalSampler(tiny_tokenizer(), rows=rows)
    sampler.load_weights(model, version=0)
    return sampler


@pytest.mark.parametrize("name", DEEPSEEKS)
@pytest.mark.parametrize("path", ["matmul", "sdpa"])
def test_logits_of_a_packed_batch_equal_transformers(
    name: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(PackedAttention, "MATMUL_LIMIT", 1024 if path == "matmul" else 0)
    theirs, ours = both(name, tmp_path)
    with torch.no_grad():
        logits_TV = packed_hidden(ours, SEQUENCES) @ ours.lm_head.T
        for sequence, logits in zip(SEQUENCES, logits_TV.split(LENGTHS), strict=True):
            expected = theirs(torch.tensor([sequence])).logits[0]
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert logits_TV.std() > 0.5, "logits are too flat for this test to mean anything"


@pytest.mark.parametrize("name", DEEPSEEKS)
def test_gradients_equal_transformers(name: str, tmp_path: Path):
    theirs, ours = both(name, tmp_path)
    sequence = torch.tensor(SEQUENCES[-1])
    theirs(sequence[None]).logits.logsumexp(-1).sum().backward()
    (packed_hidden(ours, [SEQUENCES[-1]]) @ ours.lm_head.T).logsumexp(-1).sum().backward()
    other = dict(theirs.named_parameters())
    for layer, block in enumerate(cast("list[DeepseekBlock]", ours.blocks)):
        prefix = f"model.layers.{layer}."
        attention = block.attention
        pairs = {
            "self_attn.kv_b_proj.weight": attention.kv.weight,
            "self_attn.kv_a_layernorm.weight": attention.kv_norm.weight,
            "self_attn.kv_a_proj_with_mqa.weight": attention.kv_down.weight,
            "self_attn.o_proj.weight": attention.out.weight,
        }
        if isinstance(block.mlp, Experts):
            pairs |= {
                "mlp.gate.weight": block.mlp.router.weight,
                "mlp.experts.gate_up_proj": block.mlp.gate_up,
                "mlp.experts.down_proj": block.mlp.down,
                "mlp.shared_experts.down_proj.weight": block.mlp.shared.down.weight,
            }
        for key, weight in pairs.items():
            expected = cast(torch.Tensor, other[prefix + key].grad)
            torch.testing.assert_close(weight.grad, expected, rtol=1e-3, atol=1e-3, msg=lambda m, k=key: f"{k}: {m}")
            assert expected.abs().max() > 1e-3, key


@pytest.mark.parametrize("name", DEEPSEEKS)
def test_the_latent_cache_gives_the_same_hidden_states(name: str, tmp_path: Path):
    """Prefill and one decoding step, keys and values kept as latent vectors, against the packed pass."""
    ours = both(name, tmp_path)[1]
    sequence = SEQUENCES[-1]
    with torch.no_grad():
        expected = packed_hidden(ours, [sequence])
        prefill = RecordingAttention([len(sequence) - 1], "cpu")
        hidden = ours(torch.tensor(sequence[:-1]), prefill.positions_T, prefill)
        torch.testing.assert_close(hidden, expected[:-1], rtol=1e-4, atol=1e-4)
        cache = KVCache(ours.config, rows=2, capacity=64, like=ours.embed.weight)
        cache.write_prompt(0, 2, torch.stack(prefill.keys), torch.stack(prefill.values))
        lengths = torch.tensor([len(sequence) - 1] * 2)
        cache.start_step(lengths, cache.window(int(lengths.max())))
        last = ours(torch.tensor([sequence[-1]] * 2), lengths, cache)
    torch.testing.assert_close(last, expected[-1].expand(2, -1), rtol=1e-4, atol=1e-4)
    assert [keys.shape for keys in cache.keys] == [(2, 1, 32, 24)] * 3
    assert [v.untyped_storage().nbytes() for v in cache.values] == [keys.nbytes for keys in cache.keys]


@pytest.mark.parametrize("name", ["as V3", "as Moonlight"])
def test_greedy_completions_equal_generate_of_transformers(name: str, tmp_path: Path):
    theirs, ours = both(name, tmp_path)
    params = SamplingParams(temperature=0.0, max_new_tokens=12)
    groups = sampler_of(ours, rows=3).generate(PROMPTS, params, 2)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        output = theirs.generate(  # type: ignore[operator]
            torch.tensor([prompt.tokens]), attention_mask=torch.ones(1, len(prompt.tokens), dtype=torch.long),
            max_new_tokens=12, do_sample=False, pad_token_id=0,
        )  # fmt: skip
        assert [one.tokens for one in group] == [tuple(output[0, len(prompt.tokens) :].tolist())] * 2


def test_the_samplers_log_probs_are_the_learners(tmp_path: Path):
    ours = both("as V3", tmp_path)[1]
    groups = sampler_of(ours, rows=3).generate(PROMPTS, SamplingParams(max_new_tokens=10), 3)
    samples = [(prompt, one) for prompt, group in zip(PROMPTS, groups, strict=True) for one in group]
    batch = pack([Packable(prompt.tokens + one.tokens, len(prompt.tokens)) for prompt, one in samples])
    with torch.no_grad():
        logprobs, _ = completion_logprobs(ours, batch, 1.0)
    expected = torch.tensor([value for _, one in samples for value in one.sampler_logprobs])
    torch.testing.assert_close(logprobs, expected, rtol=1e-4, atol=1e-4)


CONFIG = DeepseekConfig(
    model_type="deepseek_v3", vocab_size=VOCAB, hidden=32, layers=1, heads=4, kv_heads=4, head_dim=20, mlp=48,
    context=64, q_rank=None, kv_rank=16, nope_dim=12, rotated_dim=8, value_dim=10, experts=8, shared_experts=1,
    experts_per_token=2, groups=4, groups_per_token=2, normalise_weights=True, weight_scale=2.5, expert_mlp=20,
    dense_layers=0,
)  # fmt: skip


def router(**changes: Any) -> Router:
    made = Router(replace(CONFIG, **changes))
    with torch.no_grad():
        made.weight.normal_(generator=torch.Generator().manual_seed(0))
    return made


X_TD = torch.empty(40, 32).normal_(generator=torch.Generator().manual_seed(1))


def test_the_bias_decides_who_is_chosen_and_not_the_weights():
    """V3 equation 16."""
    made = router(groups=1, groups_per_token=1)
    before, chosen = made(X_TD)
    scores = torch.sigmoid(X_TD @ made.weight.T)
    torch.testing.assert_close(before, 2.5 * scores.gather(1, chosen) / scores.gather(1, chosen).sum(1, keepdim=True))
    made.bias[3] = 10.0
    weights, chosen = made(X_TD)
    assert (chosen == 3).any(1).all(), "the expert with the bias has every token"
    torch.testing.assert_close(weights, 2.5 * scores.gather(1, chosen) / scores.gather(1, chosen).sum(1, keepdim=True))


def test_a_tokens_experts_are_in_few_groups():
    """The groups with the highest sum of their best two experts (V3 section 2.1.2, node-limited routing)."""
    made = router(experts_per_token=4)
    _, chosen = made(X_TD)
    scores = torch.sigmoid(X_TD @ made.weight.T).unflatten(1, (4, 2))
    best = scores.sum(-1).topk(2).indices.sort().values
    assert torch.equal((chosen // 2).sort(1).values[:, ::2], best)
    assert len({tuple(row) for row in best.tolist()}) > 3
    free = router(experts_per_token=4, groups=1, groups_per_token=1)(X_TD)[1]
    assert not torch.equal(free.sort(1).values, chosen.sort(1).values), "without groups others are chosen"


def test_the_bias_stays_in_fp32():
    made = router()
    made.bias += 1e-4 * torch.arange(8)
    before = made.bias.clone()
    assert torch.equal(made.to(torch.bfloat16).bias, before) and made.weight.dtype == torch.bfloat16
    assert torch.equal(copy.deepcopy(made).bias, before)
    with torch.device("meta"):
        empty = Router(CONFIG)
    assert empty.to(torch.bfloat16).to_empty(device="cpu").bias.dtype == torch.float32


def with_prediction_layer(folder: Path) -> dict[str, torch.Tensor]:
    """Add a multi-token-prediction layer to a saved folder, named as DeepSeek's."""
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    layer = {
        name.replace("layers.2.", "layers.3."): torch.empty(weight.shape).normal_(generator=generator)
        for name, weight in weights.items()
        if "layers.2." in name
    }
    for name, shape in (("eh_proj", (32, 64)), ("enorm", (32,)), ("shared_head.head", (VOCAB, 32))):
        layer[f"model.layers.3.{name}.weight"] = torch.empty(shape).normal_(generator=generator).to(torch.bfloat16)
    save_file(weights | layer, folder / "model.safetensors", metadata={"format": "pt"})
    return layer


@pytest.mark.parametrize("name", DEEPSEEKS)
def test_a_folder_survives_the_round_trip_bit_for_bit(name: str, tmp_path: Path):
    theirs = hf_deepseek(name)
    theirs.save_pretrained(tmp_path / "theirs")
    prediction = with_prediction_layer(tmp_path / "theirs")
    ours = cast(DeepseekV3, load_model(tmp_path / "theirs", torch.float32))
    save_model(ours, tiny_tokenizer(), tmp_path / "ours", max_shard_size="30KB")
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 3
    before = load_file(tmp_path / "theirs/model.safetensors")
    after = {name: t for file in (tmp_path / "ours").glob("*.safetensors") for name, t in load_file(file).items()}
    assert before.keys() == after.keys() and prediction.keys() <= after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype and torch.equal(tensor, after[key]), key
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).state_dict()
    assert all(torch.equal(opened[key], value) for key, value in theirs.state_dict().items())
    config = [json.loads((tmp_path / side / "config.json").read_text()) for side in ("theirs", "ours")]
    assert config[1] == config[0] | {"eos_token_id": 0}


def test_fp8_weights_are_multiplied_by_their_blocks_scales(tmp_path: Path):
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    scale = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    expected = weight.float()
    for row in range(5):
        for column in range(7):
            expected[row, column] *= scale[row // 3, column // 3]
    assert torch.equal(multiply_out(weight, scale, (3, 3)), expected.to(torch.bfloat16))
    with pytest.raises(ValueError, match=r"\[5, 7\] has scales \[2, 3\], not \[2, 2\]"):
        multiply_out(weight, scale, (3, 4))


@pytest.mark.parametrize("apart", [False, True], ids=["one file", "scales in another file"])
def test_deepseeks_own_fp8_folder_is_opened_and_saved_in_bf16(apart: bool, tmp_path: Path):
    hf_deepseek().save_pretrained(tmp_path / "fp8")
    with_prediction_layer(tmp_path / "fp8")
    weights = load_file(tmp_path / "fp8/model.safetensors")
    scales, exact = {}, {}
    for name, weight in list(weights.items()):
        if not name.endswith("proj.weight") or "eh_proj" in name:
            continue
        rows, columns = (-(-size // 16) for size in weight.shape)
        scale = 0.5 + torch.arange(rows * columns).view(rows, columns) / 7
        spread = scale.repeat_interleave(16, 0)[: weight.shape[0]].repeat_interleave(16, 1)[:, : weight.shape[1]]
        weights[name] = (weight / spread).to(torch.float8_e4m3fn)
        scales[name + "_scale_inv"] = scale
        exact[name] = multiply_out(weights[name], scale, (16, 16))
        assert (exact[name] - weight).abs().max() < 0.07 * weight.abs().max() and exact[name].dtype == torch.bfloat16
    save_file(weights | ({} if apart else scales), tmp_path / "fp8/model.safetensors", metadata={"format": "pt"})
    if apart:
        save_file(scales, tmp_path / "fp8/scales.safetensors", metadata={"format": "pt"})
        places = dict.fromkeys(weights, "model.safetensors") | dict.fromkeys(scales, "scales.safetensors")
        (tmp_path / "fp8/model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    path = tmp_path / "fp8/config.json"
    quantisation = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 16]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": quantisation}))
    model = cast(DeepseekV3, load_model(tmp_path / "fp8", torch.bfloat16))
    held = to_hf(model) | model.kept
    assert all(torch.equal(held[name], weight) for name, weight in exact.items())
    assert any("layers.3." in name for name in exact) and not any("scale" in name for name in held)
    save_model(model, tiny_tokenizer(), tmp_path / "bf16")
    assert "quantization_config" not in json.loads((tmp_path / "bf16/config.json").read_text())
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "bf16").state_dict()
    assert torch.equal(opened["model.layers.1.self_attn.o_proj.weight"], held["model.layers.1.self_attn.o_proj.weight"])
    again = load_model(tmp_path / "bf16", torch.bfloat16).state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in model.state_dict().items())


def test_fp8_without_scales_is_named(tmp_path: Path):
    hf_deepseek().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.self_attn.o_proj.weight"
    save_file(weights | {name: weights[name].to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"{name} is fp8 without"):
        load_model(tmp_path, torch.float32)


def test_a_learner_trains_it_and_its_checkpoint_goes_on(tmp_path: Path):
    ours = both("as V3", tmp_path / "model")[1]
    learner = LocalLearner(ours, tiny_tokenizer(), OPTIM, with_reference=True)
    batch = pack([Packable(tuple(sequence), 2) for sequence in SEQUENCES])
    bias = cast(Experts, cast(DeepseekBlock, ours.blocks[1]).mlp).router.bias.clone()
    losses = []
    for _ in range(4):
        losses.append(learner.forward_backward(batch, nll)["loss"].item())
        learner.optim_step(1e-2)
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.9 * losses[0]
    assert torch.equal(cast(Experts, cast(DeepseekBlock, ours.blocks[1]).mlp).router.bias, bias)
    assert not torch.equal(learner.reference_logprobs(batch), learner.logprobs(batch))
    learner.save(tmp_path / "saved")
    other = LocalLearner(both("as V3", tmp_path / "model")[1], tiny_tokenizer(), OPTIM, with_reference=True)
    other.load(tmp_path / "saved")
    assert torch.equal(other.logprobs(batch), learner.logprobs(batch))
    assert torch.equal(other.reference_logprobs(batch), learner.reference_logprobs(batch))
