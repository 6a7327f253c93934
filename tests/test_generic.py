"""Facts about models that run through transformers: its logits, gradients and greedy tokens, and a line that says so.

T tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from r1kit.algo.packing import Packable, pack
from r1kit.model import generic
from r1kit.model.generic import GenericModel
from r1kit.model.hf import load_model, save_model
from r1kit.model.transformer import PackedAttention
from r1kit.sampling.local import LocalSampler
from r1kit.training.learner import LocalLearner, completion_logprobs
from r1kit.training.reward_model import add_head
from r1kit.types import Prompt, SamplingParams
from tiny import OPTIM, VOCAB, hf_from_config, nll, packed_hidden, random_tokens, tiny_tokenizer

LENGTHS = (23, 14, 14, 9, 1)
SEQUENCES = [random_tokens(length, seed) for seed, length in enumerate(LENGTHS)]
PROMPTS = [Prompt(tuple(random_tokens(length, seed)), seed=100 + seed) for seed, length in enumerate((1, 7, 33, 12))]
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": None, "eos_token_id": None,
    "pad_token_id": None,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {},
    "mistral": {"sliding_window": 6},
    "qwen2": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8},
    "gpt2": {},
}


def hf_model(kind: str, **changes: Any) -> PreTrainedModel:
    if kind == "gpt2":
        fields = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
        fields |= {"bos_token_id": None, "eos_token_id": None}
    else:
        fields = SIZES | MODELS.get(kind, {})
    return hf_from_config(AutoConfig.for_model(kind, **copy.deepcopy(fields | changes)))


def both(kind: str, folder: Path) -> tuple[PreTrainedModel, GenericModel]:
    theirs = hf_model(kind)
    theirs.save_pretrained(folder)
    ours = load_model(folder, torch.float32)
    assert isinstance(ours, GenericModel)
    return theirs, ours


def sampler_of(model: GenericModel, rows: int = 256) -> LocalSampler:
    sampler = LocalSampler(tiny_tokenizer(), rows=rows)
    sampler.load_weights(model, version=3)
    return sampler


@pytest.mark.parametrize("kind", MODELS)
def test_logits_of_a_packed_batch_equal_transformers(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In one padded chunk and in several."""
    theirs, ours = both(kind, tmp_path)
    with torch.no_grad():
        for area in (1 << 21, 450):
            monkeypatch.setattr(PackedAttention, "CHUNK_AREA", area)
            logits_TV = packed_hidden(ours, SEQUENCES) @ ours.lm_head.T
            for sequence, logits in zip(SEQUENCES, logits_TV.split(LENGTHS), strict=True):
                expected = theirs(torch.tensor([sequence])).logits[0]
                torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert (ours.config.context, ours.config.vocab_size, ours.config.hidden) == (128, VOCAB, 32)


@pytest.mark.parametrize("kind", ["gemma", "mistral"])
def test_gradients_equal_transformers(kind: str, tmp_path: Path):
    theirs, ours = both(kind, tmp_path)
    (packed_hidden(ours, SEQUENCES) @ ours.lm_head.T).logsumexp(-1).sum().backward()
    for sequence in SEQUENCES:
        theirs(torch.tensor([sequence])).logits.logsumexp(-1).sum().backward()
    mine = dict(ours.hf.named_parameters())
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(mine[name].grad, parameter.grad, rtol=1e-3, atol=1e-3)
    assert len(list(ours.parameters())) == len(list(theirs.parameters())), "nothing is counted twice"


@pytest.mark.parametrize("kind", MODELS)
def test_greedy_completions_equal_generate_of_transformers(kind: str, tmp_path: Path):
    theirs, ours = both(kind, tmp_path)
    params = SamplingParams(temperature=0.0, max_new_tokens=10)
    groups = sampler_of(ours, rows=3).generate(PROMPTS, params, 2)
    stop = groups[0][0].tokens[4]
    ended = sampler_of(ours).generate(
        PROMPTS, SamplingParams(temperature=0.0, max_new_tokens=10, stop_tokens=(stop,)), 1
    )
    for prompt, group, (one,) in zip(PROMPTS, groups, ended, strict=True):
        output = theirs.generate(  # type: ignore[operator]
            torch.tensor([prompt.tokens]), attention_mask=torch.ones(1, len(prompt.tokens), dtype=torch.long),
            max_new_tokens=10, do_sample=False, pad_token_id=0,
        )  # fmt: skip
        expected = tuple(output[0, len(prompt.tokens) :].tolist())
        assert [sample.tokens for sample in group] == [expected] * 2
        end = expected.index(stop) + 1 if stop in expected else 10
        assert one.tokens == expected[:end] and one.finish_reason == ("stop" if stop in expected else "length")


def test_tokens_do_not_depend_on_rows_and_their_log_probs_are_the_learners(tmp_path: Path):
    ours = both("gemma", tmp_path)[1]
    seen: list[tuple[int, int]] = []
    params = SamplingParams(max_new_tokens=10)
    groups = sampler_of(ours).generate(PROMPTS, params, 3, lambda done, total: seen.append((done, total)))
    assert seen == [(12, 12)] and {one.policy_version for group in groups for one in group} == {3}
    for rows in (1, 5):
        again = sampler_of(ours, rows).generate(PROMPTS, params, 3)
        assert [[one.tokens for one in group] for group in again] == [[one.tokens for one in group] for group in groups]
    samples = [(prompt, one) for prompt, group in zip(PROMPTS, groups, strict=True) for one in group]
    assert len({one.tokens for _, one in samples}) == 12
    batch = pack([Packable(prompt.tokens + one.tokens, len(prompt.tokens)) for prompt, one in samples])
    with torch.no_grad():
        logprobs, _ = completion_logprobs(ours, batch, 1.0)
    expected = torch.tensor([value for _, one in samples for value in one.sampler_logprobs])
    torch.testing.assert_close(logprobs, expected, rtol=1e-4, atol=1e-4)


def test_one_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    generic._say.cache_clear()
    hf_model("gemma").save_pretrained(tmp_path)
    capsys.readouterr()
    for _ in range(2):
        load_model(tmp_path, torch.float32)
    lines = [line for line in capsys.readouterr().err.splitlines() if "slower" in line]
    assert len(lines) == 1 and lines[0].startswith("gemma runs through transformers' own forward pass"), lines
    assert "model_type is 'gemma'" in lines[0]


def test_weights_that_will_be_lost_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    hf_model("gemma").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors") | {"vision.weight": torch.zeros(3)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    load_model(tmp_path, torch.float32)
    assert "; 1 weights are not used and will not be saved, first vision.weight" in capsys.readouterr().err


@pytest.mark.parametrize("kind", MODELS)
def test_a_folder_survives_the_round_trip_bit_for_bit(kind: str, tmp_path: Path):
    theirs, ours = both(kind, tmp_path / "theirs")
    save_model(ours, tiny_tokenizer(), tmp_path / "ours", max_shard_size="30KB")
    assert (tmp_path / "ours/model.safetensors.index.json").is_file()
    before = load_file(tmp_path / "theirs/model.safetensors")
    after = {name: t for file in (tmp_path / "ours").glob("*.safetensors") for name, t in load_file(file).items()}
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    config = [json.loads((tmp_path / side / "config.json").read_text()) for side in ("theirs", "ours")]
    assert config[1] == config[0] | {"eos_token_id": 0}
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).state_dict()
    assert all(torch.equal(opened[name], weight) for name, weight in theirs.state_dict().items())


def test_a_learner_trains_it_and_its_checkpoint_goes_on(tmp_path: Path):
    ours = both("gemma", tmp_path / "model")[1]
    learner = LocalLearner(ours, tiny_tokenizer(), OPTIM, with_reference=True)
    batch = pack([Packable(tuple(sequence), 2) for sequence in SEQUENCES[:4]])
    losses = []
    for _ in range(4):
        losses.append(learner.forward_backward(batch, nll)["loss"].item())
        learner.optim_step(1e-2)
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.9 * losses[0]
    assert not torch.equal(learner.reference_logprobs(batch), learner.logprobs(batch))
    learner.save(tmp_path / "saved")
    other = LocalLearner(both("gemma", tmp_path / "model")[1], tiny_tokenizer(), OPTIM, with_reference=True)
    other.load(tmp_path / "saved")
    assert torch.equal(other.logprobs(batch), learner.logprobs(batch))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("gemma2", {"head_dim": 16, "final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ("cohere", {"logit_scale": 0.25}, "logit_scale is 0.25"),
        ("phi", {}, "logits of phi models are not hidden states times the head"),  # its head has a bias
    ],
)
def test_models_that_change_their_logits_are_refused(kind: str, changes: dict[str, Any], message: str, tmp_path: Path):
    hf_model(kind, **changes).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path, torch.float32)


def edit_config(folder: Path, changes: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt9"}, "model_type is 'gpt9'; the decoders read .* nor does the installed transformers"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised by 'gptq' cannot be trained"),
        ({"intermediate_size": 50}, "6 mismatched keys, first .*mlp"),
    ],
)
def test_what_cannot_be_opened_is_named(changes: dict[str, Any], message: str, tmp_path: Path):
    hf_model("gemma").save_pretrained(tmp_path)
    edit_config(tmp_path, changes)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path, torch.float32)


def test_a_missing_weight_is_named(tmp_path: Path):
    hf_model("gemma").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.self_attn.k_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 missing keys, first model\.layers\.1\.self_attn\.k_proj\.weight"):
        load_model(tmp_path, torch.float32)


def test_a_reward_model_is_not_made_of_it(tmp_path: Path):
    with pytest.raises(ValueError, match="not of gemma"):
        add_head(both("gemma", tmp_path)[1], torch.zeros(1, 32))
