"""Facts about adapters on DeepSeek-V3 and on models that run through transformers: the same as on the fast decoder.

T tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from adapted import LORA, RANK, SEQUENCES, adapt, logits, logits_of_hf, shake
from r1kit.algo.packing import Packable, pack
from r1kit.config import LoraConfig, MemoryConfig
from r1kit.model.hf import load_model, save_model, to_hf
from r1kit.model.lora import LoraLinear, add_adapters
from r1kit.model.shards import locate
from r1kit.model.transformer import Decoder
from r1kit.sampling.handover import named_weights
from r1kit.sampling.local import LocalSampler
from r1kit.training.learner import LocalLearner
from r1kit.types import Prompt, SamplingParams
from tiny import DEEPSEEKS, OPTIM, VOCAB, hf_deepseek, hf_from_config, nll, random_tokens, tiny_tokenizer

BATCH = [Packable(tuple(tokens), 2, advantage=1.0) for tokens in SEQUENCES]
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GENERIC: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 16},
    "phi3": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "qwen3_moe": {"head_dim": 8, **EXPERTS},
    "qwen2_moe": {"shared_expert_intermediate_size": 20, "mlp_only_layers": [0], **EXPERTS},
}
KINDS = [*DEEPSEEKS, *GENERIC]
SOME = ["as V3", "as Moonlight", "gemma", "qwen2_moe"]
MLP = ["gate_proj", "up_proj", "down_proj"]
LATENT = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]
LAYERS = {
    "as V3": [*LATENT, *MLP],
    "as Moonlight": ["q_proj", *LATENT[2:], *MLP],
    "gemma": ["q_proj", "k_proj", "v_proj", "o_proj", *MLP],
    "phi3": ["o_proj", "qkv_proj", "gate_up_proj", "down_proj"],
    "qwen3_moe": ["q_proj", "k_proj", "v_proj", "o_proj"],
}
"""All linear layers, in the model's order."""


def theirs_of(kind: str) -> PreTrainedModel:
    if kind in DEEPSEEKS:
        return hf_deepseek(kind)
    fields = {
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": None,
        "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    return hf_from_config(AutoConfig.for_model(kind, **copy.deepcopy(fields | GENERIC[kind])))


def model_of(kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    if not (folder / "config.json").exists():
        theirs_of(kind).save_pretrained(folder)
    return load_model(folder, dtype)


def learner_of(
    kind: str, folder: Path, dtype: torch.dtype = torch.float32, *, seed: int = 0, memory: MemoryConfig | None = None
) -> LocalLearner:
    model = model_of(kind, folder, dtype)
    adapters = adapt(model, seed=seed, trained=False)
    return LocalLearner(
        model, tiny_tokenizer(), OPTIM, with_reference=True, memory=memory or MemoryConfig(), adapters=adapters
    )


def train_step(learner: LocalLearner, lr: float = 2e-2) -> float:
    loss = learner.forward_backward(pack(BATCH), nll)["loss"].item()
    learner.optim_step(lr)
    return loss


# The function


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_new_adapters_change_nothing(kind: str, dtype: torch.dtype, tmp_path: Path):
    model = model_of(kind, tmp_path, dtype)
    before = logits(model)
    adapters = adapt(model, trained=False)
    assert torch.equal(logits(model), before)
    shake(adapters)
    assert (logits(model) - before).abs().max() > 0.1


@pytest.mark.parametrize("kind", LAYERS)
def test_they_are_on_all_linear_layers_but_the_head_the_router_and_routed_experts(kind: str, tmp_path: Path):
    model = model_of(kind, tmp_path)
    adapters = adapt(model)
    assert list(adapters.config.targets) == LAYERS[kind]
    adapted = {name.removeprefix("base_model.model.").rsplit(".", 2)[0] for name in adapters.weights()}
    linear = {name for name, module in theirs_of(kind).named_modules() if isinstance(module, torch.nn.Linear)}
    assert adapted == linear - {"lm_head"}
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    assert {name for name, _ in model.named_parameters()} - set(frozen) == {
        f"{path}.lora_{factor}" for path in adapters.layers for factor in "ab"
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_model_is_the_same_in_transformers_and_here(kind: str, tmp_path: Path):
    model = model_of(kind, tmp_path)
    before = {name: weight.clone() for name, weight in to_hf(model).items()}
    adapters = adapt(model)
    adapted = logits(model)
    with adapters.merged():
        save_model(model, tiny_tokenizer(), tmp_path / "merged")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits_of_hf(opened), adapted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(load_model(tmp_path / "merged", torch.float32)), adapted, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model), adapted), "exporting changes nothing"
    handed = named_weights(model)  # to vLLM: merged, under the names of the model without adapters
    assert handed.keys() == before.keys()
    if kind in GENERIC:  # where weights are tied, as in Gemma, there is one of them
        assert handed.keys() == locate(tmp_path).keys()
    names = {name.removeprefix("base_model.model.").rsplit(".", 2)[0] + ".weight" for name in adapters.weights()}
    assert {name for name, weight in handed.items() if not torch.equal(weight, before[name])} == names


@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_what_is_saved_and_what_it_saves_again_is_read(kind: str, tmp_path: Path):
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install peft")
    model = model_of(kind, tmp_path)
    adapters = adapt(model)
    adapters.save(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(theirs_of(kind), tmp_path / "adapter")
    torch.testing.assert_close(logits_of_hf(loaded), logits(model), rtol=1e-4, atol=1e-4)
    loaded.save_pretrained(tmp_path / "again")
    other = model_of(kind, tmp_path)
    read = add_adapters(other, LoraConfig(adapter=str(tmp_path / "again")), seed=9, base="x")
    assert read is not None and read.config.targets == adapters.config.targets
    assert torch.equal(logits(other), logits(model))


@pytest.mark.parametrize("kind", ["as V3", "gemma", "qwen3_moe"])
def test_an_adapter_that_peft_made_is_read(kind: str, tmp_path: Path):
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install peft")
    targets = ["q_a_proj", "kv_b_proj", "o_proj"] if kind == "as V3" else ["q_proj", "v_proj"]
    model = model_of(kind, tmp_path)
    before = logits(model)
    made = peft.get_peft_model(
        theirs_of(kind), peft.LoraConfig(r=RANK, lora_alpha=7, target_modules=targets, task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for key, weight in made.named_parameters():
            if "lora_B" in key:
                weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(len(key)))
    made.save_pretrained(tmp_path / "adapter")
    adapters = add_adapters(model, LoraConfig(adapter=str(tmp_path / "adapter")), seed=0, base="x")
    assert adapters is not None and list(adapters.config.targets) == targets
    torch.testing.assert_close(logits(model), logits_of_hf(made.eval()), rtol=1e-4, atol=1e-4)
    assert (logits(model) - before).abs().max() > 0.1, "or the case shows nothing"


def test_dense_and_shared_layers_are_named_so_that_peft_does_not_take_them_for_experts(tmp_path: Path):
    adapt(model_of("as V3", tmp_path)).save(tmp_path / "adapter")
    about = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert about["target_modules"] == LATENT
    assert about["target_parameters"] == [f"{of}.{name}.weight" for of in ("mlp", "shared_experts") for name in MLP]
    again = add_adapters(model_of("as V3", tmp_path), LoraConfig(adapter=str(tmp_path / "adapter")), seed=0, base="y")
    assert again is not None and list(again.config.targets) == LAYERS["as V3"]


@pytest.mark.parametrize(("kind", "layer"), [("as V3", "q_proj"), ("gemma", "kv_b_proj"), ("qwen3_moe", "gate_proj")])
def test_a_layer_of_another_model_is_refused_with_the_names_of_its_own(kind: str, layer: str, tmp_path: Path):
    wanted = replace(LORA, targets=("o_proj", layer))
    with pytest.raises(ValueError, match=f"--lora.targets {layer} is no linear layer of the-base .* these do: q_"):
        adapt(model_of(kind, tmp_path), wanted)


def test_a_model_without_linear_layers_is_refused(tmp_path: Path):
    fields = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": None, "eos_token_id": None}
    hf_from_config(AutoConfig.for_model("gpt2", **fields)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the-base: it has no nn.Linear that an adapter could be on"):
        adapt(load_model(tmp_path, torch.float32))


# Training


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", SOME)
def test_only_the_adapters_are_trained(kind: str, checkpointing: bool, tmp_path: Path):
    learner = learner_of(kind, tmp_path, memory=MemoryConfig(gradient_checkpointing=checkpointing))
    before = {name: weight.detach().clone() for name, weight in learner.model.named_parameters()}
    losses = [train_step(learner) for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]
    changed = {name for name, weight in learner.model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if ".lora_" in name}
    other = learner_of(kind, tmp_path, memory=MemoryConfig(gradient_checkpointing=not checkpointing))
    assert [train_step(other) for _ in range(8)] == losses, "checkpointed blocks give the same numbers"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", SOME)
def test_the_sampler_draws_from_the_policy_that_is_trained(kind: str, dtype: torch.dtype, tmp_path: Path):
    learner, sampler = learner_of(kind, tmp_path, dtype), LocalSampler(tiny_tokenizer())
    params = SamplingParams(max_new_tokens=12)
    tolerance = 2e-4 if dtype == torch.float32 else 0.15
    for step in range(3):
        sampler.load_weights(learner.publish(), version=step)
        [[completion]] = sampler.generate([Prompt(tuple(random_tokens(6)), 7)], params, 1)
        sequence = Packable(tuple(random_tokens(6)) + completion.tokens, 6)
        sampled_N = torch.tensor(completion.sampler_logprobs)
        before = learner.logprobs(pack([sequence]))
        torch.testing.assert_close(before, sampled_N, rtol=0, atol=tolerance)
        train_step(learner, lr=5e-2)
        assert (learner.logprobs(pack([sequence])) - before).abs().max() > 2 * tolerance, "or the case shows nothing"
    assert learner.adapters is not None
    kept = [path for path, layer in learner.adapters.layers.items() if layer.decodes_by_weight]
    assert len(kept) == (3 if kind in DEEPSEEKS else 0), "MLA's keys and values are read from the merged weight"


def test_a_kept_merged_weight_ends_with_the_adapters_change():
    layer = LoraLinear(torch.nn.Linear(7, 4, bias=False), [("a", 4)], ["a"], RANK)
    layer.decodes_by_weight = True
    for round_ in range(2):
        with torch.no_grad():
            layer.lora_b.add_(1.0)
            layer.lora_a.add_(0.5)
            expected = layer.base + layer.lora_b @ layer.lora_a
            torch.testing.assert_close(layer.weight, expected, msg=f"before it is prepared, round {round_}")
            layer.prepare()
            torch.testing.assert_close(layer.weight, expected)
            assert layer.weight is layer.weight, "made once"


@pytest.mark.parametrize("kind", SOME)
def test_training_goes_on_after_a_load_as_if_never_interrupted(kind: str, tmp_path: Path):
    whole = learner_of(kind, tmp_path, torch.bfloat16)
    for _ in range(2):
        train_step(whole)
    whole.update_reference()
    train_step(whole)
    whole.save(tmp_path / "saved")
    resumed = learner_of(kind, tmp_path, torch.bfloat16, seed=9)
    resumed.load(tmp_path / "saved")
    assert torch.equal(resumed.reference_logprobs(pack(BATCH)), whole.reference_logprobs(pack(BATCH)))
    for _ in range(3):
        assert train_step(resumed) == train_step(whole)
    now = dict(resumed.model.named_parameters())
    assert all(torch.equal(now[name], weight) for name, weight in whole.model.named_parameters())
    adapter = load_file(tmp_path / "saved" / "adapter" / "adapter_model.safetensors")
    assert {weight.dtype for weight in adapter.values()} == {torch.float32}
