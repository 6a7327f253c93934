"""Facts about models that run through transformers: its logits, gradients and greedy tokens, and a line that says so.

T tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GemmaForCausalLM, GemmaModel, PreTrainedModel

from r1kit.algo.distill import reverse_kl
from r1kit.algo.packing import Batch, Packable, pack
from r1kit.algo.preference import pairwise_loss
from r1kit.model import generic
from r1kit.model.generic import GenericModel
from r1kit.model.hf import load_model, save_model
from r1kit.model.transformer import PackedAttention
from r1kit.sampling.local import LocalSampler
from r1kit.sampling.vllm import text_logprobs
from r1kit.training import learner as learner_module
from r1kit.training.learner import LocalLearner, completion_logprobs
from r1kit.training.reward_model import RewardModelLearner, add_head, first_head
from r1kit.training.supervised import DistillationLearner
from r1kit.types import Prompt, SamplingParams
from tiny import OPTIM, VOCAB, hf_deepseek, hf_from_config, nll, packed_hidden, random_tokens, tiny_tokenizer

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
    "gemma2": {"head_dim": 16, "sliding_window": 6, "final_logit_softcapping": 2.0},
    "granite": {"logits_scaling": 3.0, "embedding_multiplier": 2.0},
    "hyperclovax": {"logits_scaling": 0.3},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25, "sliding_window": 6},
    "phi": {},  # a bias on its head
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 4,
        "mamba_chunk_size": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "shared_intermediate_size": 24,
        "logits_scaling": 3.0,
    },
    "recurrent_gemma": {
        "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 16, "head_dim": 8, "num_key_value_heads": 1,
        "block_types": ["recurrent", "recurrent", "attention"],
    },
}  # fmt: skip
UNLIKE = ["gemma2", "granite", "hyperclovax", "cohere", "cohere2", "phi", "recurrent_gemma"]
"""Those whose logits are more than hidden states times the head."""
STATES = ["mamba", "mamba2"]
OTHERS: dict[str, dict[str, Any]] = {"rwkv": {"rescale_every": 1, "attention_hidden_size": 32}}


def hf_model(kind: str, **changes: Any) -> PreTrainedModel:
    if kind == "gpt2":
        fields = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
        fields |= {"bos_token_id": None, "eos_token_id": None}
    else:
        fields = SIZES | (MODELS | OTHERS)[kind]
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
            logits_TV = ours.unembed(packed_hidden(ours, SEQUENCES))
            for sequence, logits in zip(SEQUENCES, logits_TV.split(LENGTHS), strict=True):
                expected = theirs(torch.tensor([sequence])).logits[0]
                torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert (ours.config.context, ours.config.vocab_size, ours.config.hidden) == (128, VOCAB, 32)
    plain = packed_hidden(ours, SEQUENCES) @ ours.lm_head.T
    assert torch.allclose(plain, logits_TV, atol=1e-3) == (kind not in UNLIKE + ["granitemoehybrid"])


@pytest.mark.parametrize("kind", ["gemma", "mistral", *UNLIKE, *STATES])
def test_the_gradient_of_an_update_equals_autograds_through_the_logits_of_transformers(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of log-probs in chunks, weighted as advantages weight them, at a temperature."""
    monkeypatch.setattr(learner_module, "CHUNK", 7)
    theirs, ours = both(kind, tmp_path)
    learner = LocalLearner(ours, tiny_tokenizer(), OPTIM, temperature=0.7)
    batch = pack([Packable(tuple(sequence), 2) for sequence in SEQUENCES[:4]])
    weights_N = torch.randn(batch.labels_N.numel(), generator=torch.Generator().manual_seed(0))
    value = learner.forward_backward(batch, lambda logprobs_N, _: ((logprobs_N * weights_N).sum(), {}))["loss"]
    logits_TV = torch.cat([theirs(tokens_T[None]).logits[0] for tokens_T in batch.tokens_T.split(batch.lengths)])
    logprobs_NV = (logits_TV[batch.predict_N] / 0.7).log_softmax(-1)
    expected = (logprobs_NV.gather(-1, batch.labels_N[:, None]).squeeze(-1) * weights_N).sum()
    expected.backward()
    torch.testing.assert_close(value, expected.detach(), rtol=1e-4, atol=1e-3)
    mine = dict(ours.hf.named_parameters())
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(mine[name].grad, parameter.grad, rtol=1e-3, atol=1e-3)
    assert len(list(ours.parameters())) == len(list(theirs.parameters())), "nothing is counted twice"


def test_a_student_comes_closer_to_a_teacher_of_another_family_by_the_logits_of_both(tmp_path: Path):
    """One soft-caps its logits, the other's head has a bias."""
    student, ours = both("gemma2", tmp_path / "student")
    teacher, theirs = both("phi", tmp_path / "teacher")
    learner = DistillationLearner(ours, theirs, tiny_tokenizer(), OPTIM, temperature=0.7)
    batch = pack([Packable(tuple(SEQUENCES[0]), 2)])
    found = learner.forward_backward(batch, lambda kl_N, _: (kl_N.sum(), {"kl": kl_N.detach().sum()}))["kl"]
    ids = torch.tensor([SEQUENCES[0]])
    expected = reverse_kl(student(ids).logits[0, 1:-1], teacher(ids).logits[0, 1:-1].detach(), 0.7).sum()
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-4)
    expected.backward()
    mine = dict(ours.hf.named_parameters())
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(mine[name].grad, parameter.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["gemma2", "granite"])
def test_log_probs_of_a_text_are_those_of_its_logits(kind: str, tmp_path: Path):
    """What a vLLM server's log-probs are compared with."""
    theirs, ours = both(kind, tmp_path)
    with torch.no_grad():
        logprobs_TV = theirs(torch.tensor([SEQUENCES[0]])).logits[0, :-1].log_softmax(-1)
    expected = logprobs_TV.gather(-1, torch.tensor(SEQUENCES[0][1:])[:, None]).squeeze(-1).double()
    torch.testing.assert_close(text_logprobs(ours, SEQUENCES[0]), expected, rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize("kind", ["gemma", "gemma2", "phi", "mamba", "recurrent_gemma"])
def test_tokens_do_not_depend_on_rows_and_their_log_probs_are_the_learners(kind: str, tmp_path: Path):
    ours = both(kind, tmp_path)[1]
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
    assert load_model(tmp_path, torch.float32).cache == "past_key_values"  # type: ignore[union-attr]
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


@pytest.mark.parametrize("kind", ["gemma2", "granite", "recurrent_gemma"])
def test_logits_that_are_made_in_an_unknown_way_are_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """RecurrentGemma's cap of 30 changes these small logits by a hundredth."""
    monkeypatch.setattr(generic, "CAPS", ())
    monkeypatch.setattr(generic, "SCALES", {})
    hf_model(kind).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"logits of {kind} models are not hidden states times the head; they cannot"):
        load_model(tmp_path, torch.float32)


def test_a_field_that_does_not_explain_the_logits_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(generic, "SCALES", {"logits_scaling": (2,)})
    hf_model("granite").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="times the head, also with logits_scaling 3; they cannot"):
        load_model(tmp_path, torch.float32)


def test_a_model_without_a_linear_head_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hf_model("gemma").save_pretrained(tmp_path)
    monkeypatch.setattr(GemmaForCausalLM, "get_output_embeddings", lambda _: None)
    with pytest.raises(ValueError, match="gemma models have no linear layer that makes logits; use another model"):
        load_model(tmp_path, torch.float32)


def test_a_model_without_a_cache_that_pads_is_sampled_token_by_token_anew_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """RecurrentGemma gives none back; a Gemma whose cache forgot the mask would draw other tokens."""
    generic._say.cache_clear()
    assert both("recurrent_gemma", tmp_path / "none")[1].cache is None
    theirs, ours = both("gemma", tmp_path / "gemma")
    expected = sampler_of(ours).generate(PROMPTS, SamplingParams(max_new_tokens=6), 1)

    def forgetful(self: GemmaModel, attention_mask: Any = None, **inputs: Any) -> Any:
        return forward(self, **inputs)

    forward = GemmaModel.forward
    monkeypatch.setattr(GemmaModel, "forward", forgetful)
    monkeypatch.setattr(forgetful, "__signature__", inspect.signature(forward), raising=False)
    anew = load_model(tmp_path / "gemma", torch.float32)
    assert isinstance(anew, GenericModel) and anew.cache is None
    again = sampler_of(anew).generate(PROMPTS, SamplingParams(max_new_tokens=6), 1)
    assert [one.tokens for [one] in again] == [one.tokens for [one] in expected]
    lines = [line for line in capsys.readouterr().err.splitlines() if "each sampled token is a pass over all" in line]
    assert [line.split()[0] for line in lines] == ["recurrent_gemma", "gemma"]


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


@pytest.mark.parametrize("kind", ["gemma2", "mamba", "deepseek_v3"])
def test_a_reward_model_of_it_scores_by_the_last_hidden_state_and_learns(kind: str, tmp_path: Path):
    theirs = hf_deepseek() if kind == "deepseek_v3" else hf_model(kind)
    theirs.save_pretrained(tmp_path / "model")
    ours = load_model(tmp_path / "model", torch.float32)
    head_1D = first_head(32, seed=1)
    learner = RewardModelLearner(add_head(ours, head_1D), tiny_tokenizer(), OPTIM)
    batch = pack([Packable(tuple(sequence), len(sequence)) for sequence in SEQUENCES])
    with torch.no_grad():
        hidden = [theirs.base_model(torch.tensor([sequence])).last_hidden_state[0, -1] for sequence in SEQUENCES]
        torch.testing.assert_close(learner.model.scores(batch), (torch.stack(hidden) @ head_1D.T)[:, 0])
    for _ in range(8):
        metrics = learner.forward_backward(batch, prefer_even_rows)
        learner.optim_step(1e-2)
    assert metrics["accuracy"] == 1.0 and metrics["loss"] < 0.1
    learner.save(tmp_path / "saved")
    model = load_model(tmp_path / "model", torch.float32)
    other = RewardModelLearner(add_head(model, torch.zeros(1, 32)), tiny_tokenizer(), OPTIM)
    other.load(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(other.model.scores(batch), learner.model.scores(batch))
    AutoModelForCausalLM.from_pretrained(tmp_path / "saved")


def prefer_even_rows(scores_S: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    del batch
    loss, metrics = pairwise_loss(scores_S[0:4:2], scores_S[1:4:2], num_pairs=2)
    return loss, metrics | {"loss": loss.detach()}


def test_weights_of_rwkv_are_not_divided_when_it_computes(tmp_path: Path):
    theirs, ours = both("rwkv", tmp_path)
    assert all(torch.equal(ours.hf.state_dict()[name], weight) for name, weight in theirs.state_dict().items())
    logits_TV = ours.unembed(packed_hidden(ours, SEQUENCES[:1]))
    torch.testing.assert_close(logits_TV, theirs(torch.tensor(SEQUENCES[:1])).logits[0], rtol=1e-4, atol=1e-4)
