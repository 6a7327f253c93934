"""The presets to start from: complete, one after the other, and no larger than their cards by a reckoning that is
right.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from r1kit import presets
from r1kit.algo.packing import pack
from r1kit.cli import main, parse
from r1kit.config import LoraConfig, MemoryConfig, RejectConfig, RLConfig, SFTConfig, VllmConfig
from r1kit.data.known import KNOWN
from r1kit.model.lora import add_adapters
from r1kit.model.transformer import Transformer, TransformerConfig
from r1kit.presets.memory import GIB, Shape, reckon
from r1kit.presets.models import (
    MACHINES,
    MODEL_REJECT,
    MODEL_RL,
    MODEL_SFT,
    MODELS,
    PROMPT,
    STUDENT_SHAPES,
    VLLM_SHARE,
    need,
    student_hardware,
    student_need,
)
from r1kit.sampling.kv_cache import KVCache
from r1kit.training.learner import LocalLearner
from tiny import OPTIM, make_sequences, nll, tiny_tokenizer

TABLES: dict[str, dict[str, tuple[str, Any]]] = {"rl": MODEL_RL, "sft": MODEL_SFT, "reject": MODEL_REJECT}
EVERY = [(command, name) for command, table in TABLES.items() for name in table]
PUBLISHED = {  # parameters of the safetensors files on the hub
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-math-1.5b": 1_543_714_304,
    "qwen2.5-math-7b": 7_615_616_512,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.1-8b": 8_030_261_248,
    "distill-qwen-14b": 14_770_033_664,
    "distill-qwen-32b": 32_763_876_352,
    "distill-llama-70b": 70_553_706_496,
}
CONTEXT = {"qwen2.5-math-1.5b": 4096, "qwen2.5-math-7b": 4096}
"""Positions of those that have few."""
MEASURED = {
    ("r1-zero-qwen2.5-0.5b", 128): (6.53, 9.47, 3.71),
    ("r1-zero-qwen2.5-1.5b", 128): (20.24, 14.06, 6.33),
    ("r1-zero-qwen2.5-1.5b-lora-24gb", 1024): (3.39, 7.78, 6.99),
    ("r1-zero-qwen2.5-3b", 1024): (40.34, 20.72, 9.06),
    ("r1-zero-qwen2.5-3b-lora-24gb", 128): (6.55, 8.32, 4.04),
    ("r1-zero-qwen2.5-7b-lora-24gb", 1024): (15.22, 2.37, 2.87),
    ("r1-zero-llama-3.2-1b", 128): (16.18, 11.55, 6.72),
    ("r1-zero-llama-3.1-8b-lora-24gb", 1024): (15.96, 2.21, 3.82),
}
"""(preset, new tokens) -> GiB standing, for an update, for sampling: `benchmarks/reckoned.py --new N` on an H200."""
TINY = Shape(
    vocab=400, hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=48, tied=False, qkv_bias=True
)  # fmt: skip


def model_of(preset: str) -> str:
    return max((name for name in MODELS if name in preset), key=len)


def config_of(key: tuple[str, str]) -> Any:
    return TABLES[key[0]][key[1]][1]


def tiny_qwen() -> Transformer:
    config = TransformerConfig(
        model_type="qwen2", vocab_size=TINY.vocab, hidden=TINY.hidden, layers=TINY.layers, heads=TINY.heads,
        kv_heads=TINY.kv_heads, head_dim=TINY.head_dim, mlp=TINY.mlp, context=64, qkv_bias=True,
    )  # fmt: skip
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    return model.to(torch.bfloat16)


def test_there_is_a_preset_of_each_stage_for_every_model_and_card():
    for prefix, table in (("r1-zero", MODEL_RL), ("r1-dev2", MODEL_RL), ("r1-dev1", MODEL_SFT)):
        assert {f"{prefix}-{name}{machine.end}" for name in MODELS for machine in MACHINES} <= table.keys()
    assert len(EVERY) == 4 * len(MODELS) * len(MACHINES)
    for command, name in EVERY:
        registry = {"rl": presets.RL, "sft": presets.SFT, "reject": presets.REJECT}[command]
        assert registry[name] is TABLES[command][name]


@pytest.mark.parametrize("key", EVERY, ids=" ".join)
def test_the_command_line_takes_it(key: tuple[str, str]):
    call = parse([*key, "--seed", "3"])
    assert call is not None and call.arguments == (replace(config_of(key), seed=3),)


def test_they_are_listed(capsys: pytest.CaptureFixture[str]):
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out
    assert all(f"  r1kit {command} {name} " in lines for command, name in EVERY)


@pytest.mark.parametrize("key", EVERY, ids=" ".join)
def test_it_fits_its_card_and_says_so(key: tuple[str, str]):
    description, takes = TABLES[key[0]][key[1]][0], need(model_of(key[1]), config_of(key))
    card = 24 if key[1].endswith("-24gb") else 80
    assert takes.fits(card), f"{takes.gpu / GIB:.1f} GiB"
    if key[1].endswith("-node") and key[0] != "sft":
        assert "8 x 80 GB" in description
        assert f"the learner on one ({takes.gpu / GIB:.0f} reckoned)" in description or key[0] == "reject"
        assert f"vLLM on {7 if key[0] == 'rl' else 8} ({takes.vllm / GIB:.0f} for weights and KV cache)" in description
    else:
        assert f"one {card} GB GPU ({takes.gpu / GIB:.0f} reckoned)" in description
    assert f"{takes.cpu / GIB:.0f} GB of CPU memory" in description or not takes.cpu


NODE = [key for key in EVERY if key[1].endswith("-node") and key[0] != "sft"]


@pytest.mark.parametrize("key", NODE, ids=" ".join)
def test_on_a_node_vllm_has_every_gpu_but_the_learners_and_room_for_all_rows(key: tuple[str, str]):
    config, shape = config_of(key), MODELS[model_of(key[1])].shape
    vllm, takes = config.vllm, need(model_of(key[1]), config)
    assert vllm.gpus == tuple(range(1 if key[0] == "rl" else 0, 8))
    assert not vllm.in_process and vllm.engine_args() == {"data_parallel_size": len(vllm.gpus)}
    assert takes.vllm == 2 * shape.parameters + shape.cache_bytes(config.rows * (PROMPT + config.max_new_tokens))
    assert takes.vllm < vllm.memory * 80 * GIB - 5 * GIB, "or there is no room to compute"
    assert vllm.memory == VLLM_SHARE
    assert PROMPT + config.max_new_tokens < vllm.max_len <= CONTEXT.get(model_of(key[1]), 32_768)


@pytest.mark.parametrize("name", MODELS)
def test_on_a_node_the_batch_is_the_papers_and_the_learner_needs_what_it_needs_alone(name: str):
    alone, node = MODEL_RL[f"r1-zero-{name}"][1], MODEL_RL[f"r1-zero-{name}-node"][1]
    assert (node.problems_per_step, node.group_size) == (32, 16)
    assert node.rows * len(node.vllm.gpus) >= node.problems_per_step * node.group_size > (node.rows - 16) * 7
    assert node.max_new_tokens == (3072 if "math" in name else 2 * alone.max_new_tokens)
    takes = need(name, node)
    same = need(name, replace(alone, max_new_tokens=node.max_new_tokens))
    assert (takes.standing, takes.update, takes.sampling) == (same.standing, same.update, 0)
    assert takes.cpu == same.cpu + 4 * MODELS[name].shape.parameters  # the weights twice: a copy and the file


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_shape_has_the_published_number_of_weights(name: str):
    shape = MODELS[name].shape if name in MODELS else STUDENT_SHAPES[name]
    assert shape.parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", ["qwen2.5-0.5b", "qwen2.5-7b", "llama-3.1-8b"])
def test_transformers_counts_the_same_weights(name: str):
    shape, kind = MODELS[name].shape, "llama" if name.startswith("llama") else "qwen2"
    config = AutoConfig.for_model(
        kind, vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(weight.numel() for weight in model.parameters()) == shape.parameters


@pytest.mark.parametrize(("name", "new"), MEASURED)
def test_what_was_measured_is_what_is_reckoned(name: str, new: int):
    config = MODEL_RL[name][1]
    takes = need(model_of(name), replace(config, max_new_tokens=new, eval=replace(config.eval, max_new_tokens=new)))
    standing, update, sampling = MEASURED[name, new]
    assert takes.standing / GIB == pytest.approx(standing, rel=0.02)
    # Measured with prompts of 512 tokens, which have no logits; the reckoning allows for none.
    assert 0.98 * update <= takes.update / GIB <= 1.4 * update
    # Sorting takes less from 256 rows on.
    assert 0.97 * sampling <= takes.sampling / GIB <= 1.6 * sampling


@pytest.mark.parametrize("lora", [LoraConfig(), LoraConfig(rank=4), LoraConfig(rank=2, targets=("q_proj", "up_proj"))])
@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_what_stands_in_a_tiny_learner_is_what_is_reckoned(lora: LoraConfig, kl_coef: float):
    model = tiny_qwen()
    assert sum(weight.numel() for weight in model.parameters()) == TINY.parameters
    adapters = add_adapters(model, lora, seed=0, base="tiny")
    if adapters is not None:
        assert sum(weight.numel() for weight in adapters.parameters()) == TINY.adapter_parameters(lora)
    learner = LocalLearner(model, tiny_tokenizer(), OPTIM, with_reference=kl_coef > 0, adapters=adapters)
    learner.publish()
    learner.forward_backward(pack(make_sequences()), nll)
    learner.optim_step(1e-3)
    learner.publish()
    weights = {id(weight): weight for weight in [*model.parameters(), *learner.params, *learner.masters]}
    bytes_now = sum(weight.nbytes for weight in weights.values())
    bytes_now += sum(m.nbytes for state in learner.optimizer.state.values() for m in state.values() if m.dim())
    if learner.reference is not None:
        bytes_now += sum(weight.nbytes for weight in learner._reference_weights())
    base = RLConfig()
    cfg = replace(base, lora=lora, algo=replace(base.algo, kl_coef=kl_coef))
    bf16_copies = 2 * TINY.adapter_parameters(lora)  # made by `publish`, and counted by nobody above
    assert reckon(cfg, TINY).standing == bytes_now + bf16_copies


def test_the_cache_is_what_is_reckoned():
    cache = KVCache(tiny_qwen().config, rows=3, capacity=50, like=torch.zeros(0, dtype=torch.bfloat16))
    cache.start_step(torch.full((3,), 49), cache.window(49))  # as much as it ever holds
    assert sum(held.nbytes for held in (*cache.keys, *cache.values)) == TINY.cache_bytes(3 * 50)


def test_each_way_to_save_memory_saves_what_docs_say():
    shape, base = MODELS["qwen2.5-1.5b"].shape, RLConfig()
    plain = reckon(base, shape)

    def with_memory(**changes: Any) -> Any:
        return reckon(replace(base, memory=MemoryConfig(**changes)), shape)

    p = shape.parameters
    assert (plain.standing, plain.cpu) == (16 * p, 0)  # weights, masters, moments, the reference
    assert reckon(replace(base, algo=replace(base.algo, kl_coef=0.0)), shape).standing == 14 * p
    assert with_memory(optimizer="adamw8bit").standing == 10 * p
    away = with_memory(offload_optimizer=True, offload_reference=True)
    assert (away.standing, away.cpu) == (2 * p, 18 * p) and plain.update - away.update == 4 * p
    assert with_memory(gradient_checkpointing=True).update < plain.update / 2
    adapted = reckon(replace(base, lora=LoraConfig(rank=16)), shape)
    assert adapted.standing < 2.3 * p and adapted.update < plain.update - 4 * p


def test_more_rows_longer_completions_and_longer_prompts_take_more():
    shape, base = MODELS["llama-3.1-8b"].shape, RLConfig(tokens_per_microbatch=256)
    plain = reckon(base, shape)
    assert reckon(replace(base, rows=512), shape).sampling > plain.sampling
    longer = reckon(replace(base, max_new_tokens=4096), shape)
    assert longer.sampling > plain.sampling and longer.update > plain.update  # one completion is never split
    assert reckon(base, shape, longest_prompt=2048).sampling > plain.sampling
    assert reckon(replace(base, eval=replace(base.eval, max_new_tokens=8192)), shape).sampling > plain.sampling
    assert reckon(SFTConfig(max_tokens=65_536), shape).update > reckon(SFTConfig(max_tokens=16_384), shape).update
    assert reckon(RejectConfig(), shape).standing == 2 * shape.parameters


@pytest.mark.parametrize(
    "vllm",
    [
        VllmConfig(),
        VllmConfig(gpus=(0, 1), args=("data_parallel_size=2",)),
        VllmConfig(gpus=(1, 2), args=("tensor_parallel_size=2",)),
    ],
    ids=["the learner's GPU", "the learner's too", "one model on two"],
)
def test_vllms_memory_is_not_reckoned_otherwise(vllm: VllmConfig):
    with pytest.raises(ValueError, match="sampler vllm: only a copy"):
        reckon(RLConfig(sampler="vllm", vllm=vllm), TINY)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("end", [machine.end for machine in MACHINES])
def test_each_stage_reads_what_the_one_before_wrote(name: str, end: str):
    zero, dev2 = MODEL_RL[f"r1-zero-{name}{end}"][1], MODEL_RL[f"r1-dev2-{name}{end}"][1]
    cold, dev1 = MODEL_REJECT[f"cold-start-{name}{end}"][1], MODEL_SFT[f"r1-dev1-{name}{end}"][1]
    assert zero.model == dev1.model == MODELS[name].hub
    assert (cold.model, cold.template) == (str(zero.run), zero.template)
    assert dev1.data == (str(cold.run),)
    assert (dev2.model, dev2.template) == (str(dev1.run), dev1.template)
    assert (zero.reward.language_weight, dev2.reward.language_weight) == (0, 1)
    assert (zero.reward.format, dev2.reward.format) == ("r1-zero", "r1")
    assert dev1.lora == zero.lora and zero.lora.on == ("lora" in end)
    assert {zero.tasks, dev2.tasks, cold.tasks} == {(MODELS[name].task,)} and MODELS[name].task in KNOWN


@pytest.mark.parametrize("key", EVERY, ids=" ".join)
def test_prompt_and_completion_are_within_the_context(key: tuple[str, str]):
    config, context = config_of(key), CONTEXT.get(model_of(key[1]), 32_768)
    if isinstance(config, SFTConfig):
        assert config.max_tokens <= context
    else:
        assert config.filter.max_prompt_tokens == PROMPT
        assert PROMPT + config.max_new_tokens <= context
        assert config.max_new_tokens >= 1024


def test_no_two_write_the_same_folder():
    runs = [config.run for table in (presets.RL, presets.SFT, presets.REJECT) for _, config in table.values()]
    assert len(set(runs)) == len(runs)


@pytest.mark.parametrize("name", STUDENT_SHAPES)
def test_a_students_hardware_is_the_least_change_that_fits(name: str):
    said = student_hardware(name)
    assert said in presets.SFT[name][0]
    checkpointed = MemoryConfig(gradient_checkpointing=True)
    offloaded = replace(checkpointed, offload_optimizer=True)
    assert not student_need(name, MemoryConfig()).fits(80)
    assert student_need(name, checkpointed).fits(80) == (said.count("gradient checkpointing (") == 1)
    assert student_need(name, offloaded).fits(80) == ("one 80 GB GPU" in said)
    assert ("offloaded" in said) == (name in ("distill-qwen-7b", "distill-qwen-14b", "distill-llama-8b"))
