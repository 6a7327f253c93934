"""Facts about config.json: real models' files give their sizes, and what no decoder computes or cannot be is named.

The files are those of the models' cards, without fields that nothing reads.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from r1kit.model.config_json import block_size, read_config, unsupported
from r1kit.model.deepseek_v3 import DeepseekConfig, DeepseekV3
from r1kit.model.hf import to_hf
from r1kit.model.transformer import Transformer

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
YARN = {
    "type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
}  # fmt: skip
QWEN25 = {"model_type": "qwen2", "rope_theta": 1000000.0, "sliding_window": 32768, "use_sliding_window": False}
REAL: dict[str, dict[str, Any]] = {
    "Qwen2.5-0.5B": QWEN25 | {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "max_position_embeddings": 32768, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "Qwen2.5-1.5B": QWEN25 | {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "max_position_embeddings": 131072, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "Qwen2.5-Math-7B": QWEN25 | {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "max_position_embeddings": 4096, "vocab_size": 152064, "rope_theta": 10000,
        "tie_word_embeddings": False,
    },
    "Qwen3-0.6B": {
        "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960,
        "vocab_size": 151936, "rope_theta": 1000000, "rope_scaling": None, "sliding_window": None,
        "use_sliding_window": False, "attention_bias": False, "tie_word_embeddings": True,
    },
    "Llama-3.1-8B": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072, "vocab_size": 128256,
        "rope_theta": 500000.0, "rope_scaling": LLAMA3, "rms_norm_eps": 1e-5, "attention_bias": False,
        "mlp_bias": False, "tie_word_embeddings": False,
    },
    "Llama-3.2-1B": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072,
        "vocab_size": 128256, "rope_theta": 500000.0, "rope_scaling": LLAMA3 | {"factor": 32.0}, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    "DeepSeek-V3": {
        "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
        "num_hidden_layers": 61, "num_nextn_predict_layers": 1, "num_attention_heads": 128, "num_key_value_heads": 128,
        "n_shared_experts": 1, "n_routed_experts": 256, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4,
        "routed_scaling_factor": 2.5, "norm_topk_prob": True, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
        "first_k_dense_replace": 3, "moe_layer_freq": 1, "kv_lora_rank": 512, "q_lora_rank": 1536,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "max_position_embeddings": 163840,
        "rope_theta": 10000, "rope_scaling": YARN, "vocab_size": 129280, "tie_word_embeddings": False,
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    },
}  # fmt: skip
PARAMETERS = {
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-Math-7B": 7_615_616_512,
    "Qwen3-0.6B": 596_049_920,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.2-1B": 1_235_814_400,
}
"""As the models' pages on the hub count them."""


def write(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", REAL)
def test_a_real_config_gives_the_models_parameters(name: str, tmp_path: Path):
    """Number and names; the routing bias of DeepSeek's is no parameter."""
    config = read_config(write(tmp_path, REAL[name]))
    with torch.device("meta"):
        ours = DeepseekV3(config) if isinstance(config, DeepseekConfig) else Transformer(config)
        fields = {key: value for key, value in REAL[name].items() if key != "quantization_config"}
        theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**copy.deepcopy(fields)))
    count = sum(parameter.numel() for parameter in ours.parameters())
    assert count == sum(parameter.numel() for parameter in theirs.parameters()) == PARAMETERS.get(name, count)
    weights = to_hf(ours)
    assert {"model.embed_tokens.weight", "model.layers.0.self_attn.o_proj.weight"} <= weights.keys()
    assert ("lm_head.weight" in weights) is not REAL[name]["tie_word_embeddings"]


def test_deepseeks_latent_cache_is_small(tmp_path: Path):
    """V2 section 2.1.2: 512 + 64 numbers a token and layer; values are the first 512 of them."""
    config = read_config(write(tmp_path, REAL["DeepSeek-V3"]))
    assert config.cached == (1, 576, 512, True)


@pytest.mark.parametrize(
    ("scaling", "positions", "expected"),
    [
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 32768, 131072),  # Qwen's cards
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072, 131072),
        ({"rope_type": "yarn", "original_max_position_embeddings": 32768}, 131072, 131072),
        ({"type": "linear", "factor": 4.0}, 16384, 16384),
        (LLAMA3, 131072, 131072),
        ({"type": "dynamic", "factor": 2.0}, 4096, 4096),
        (None, 4096, 4096),
    ],
)
def test_the_context_reaches_as_far_as_the_scaling(scaling: Any, positions: int, expected: int, tmp_path: Path):
    changes = {"rope_scaling": scaling, "max_position_embeddings": positions}
    assert read_config(write(tmp_path, REAL["Qwen2.5-0.5B"] | changes)).context == expected


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("Llama-3.1-8B", {"model_type": "gpt2"}, "model_type is 'gpt2'; the decoders read qwen2, qwen3, llama"),
        ("Llama-3.1-8B", {"model_type": None}, "model_type is None"),
        ("Llama-3.1-8B", {"rope_scaling": {"type": "longrope"}}, "RoPE scaling 'longrope'"),
        ("Qwen2.5-0.5B", {"use_sliding_window": True}, "sliding-window"),
        ("Qwen2.5-0.5B", {"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
        ("Llama-3.1-8B", {"model_type": "mistral", "sliding_window": 4096}, "sliding-window"),
        ("Llama-3.1-8B", {"model_type": "mistral"}, "sliding-window"),  # transformers' default is 4096
        ("Llama-3.1-8B", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("Qwen3-0.6B", {"attention_bias": True}, "attention_bias/mlp_bias in a qwen3 model"),
        ("DeepSeek-V3", {"scoring_func": "softmax"}, "scoring_func is 'softmax'; the decoder has 'sigmoid'"),
        ("DeepSeek-V3", {"topk_method": "greedy"}, "topk_method is 'greedy'"),
        ("DeepSeek-V3", {"moe_layer_freq": 2}, "moe_layer_freq is 2"),
    ],
)
def test_what_the_decoders_do_not_compute_is_named(name: str, changes: dict[str, Any], reason: str, tmp_path: Path):
    assert unsupported(REAL[name]) == ""
    assert reason in unsupported(REAL[name] | changes)
    with pytest.raises(ValueError, match=tmp_path.name):
        read_config(write(tmp_path, REAL[name] | changes))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("Llama-3.1-8B", {"num_key_value_heads": 5}, "32 num_attention_heads are no multiple of 5 num_key_value_heads"),
        (
            "Qwen2.5-0.5B",
            {"hidden_size": 900},
            "hidden_size 900 is no multiple of 14 num_attention_heads: give head_dim",
        ),
        ("Llama-3.1-8B", {"head_dim": 65}, "65 rotated numbers, an odd count"),
        (
            "Llama-3.1-8B",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
            "rope_theta is 500000.0 and, with the RoPE's parameters, 10000.0",
        ),
        ("Llama-3.1-8B", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "has no low_freq_factor, high_freq"),
        ("Llama-3.1-8B", {"rope_scaling": {"type": "linear"}}, "RoPE scaling linear has no factor"),
        ("DeepSeek-V3", {"n_group": 7}, "256 n_routed_experts in 7 n_group, topk_group 4"),
        ("DeepSeek-V3", {"topk_group": 9}, "in 8 n_group, topk_group 9"),
        ("DeepSeek-V3", {"num_experts_per_tok": 129}, "num_experts_per_tok is 129, but topk_group leaves 128 experts"),
        ("DeepSeek-V3", {"num_key_value_heads": 8}, "num_key_value_heads is 8; MLA has one for each of 128 heads"),
    ],
)
def test_what_contradicts_itself_is_named(name: str, changes: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(ValueError) as error:
        read_config(write(tmp_path, REAL[name] | changes))
    assert message in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("field", ["hidden_size", "vocab_size", "max_position_embeddings", "kv_lora_rank"])
def test_a_missing_field_is_named(field: str, tmp_path: Path):
    config = dict(REAL["DeepSeek-V3"])
    del config[field]
    with pytest.raises(ValueError, match=f"config.json has no {field}; is it a deepseek_v3 model's"):
        read_config(write(tmp_path, config))


def test_only_fp8_in_blocks_is_multiplied_out():
    assert block_size(REAL["DeepSeek-V3"]) == (128, 128) and block_size(REAL["Qwen2.5-0.5B"]) is None
    for other in ({"quant_method": "gptq", "bits": 4}, {"quant_method": "fp8"}):
        with pytest.raises(ValueError, match=f"quantised by '{other['quant_method']}' are not read.*bf16"):
            block_size({"quantization_config": other})
