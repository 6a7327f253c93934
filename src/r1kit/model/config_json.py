"""config.json and generation_config.json: read into a decoder's config, and written again as they were.

What a field contradicts or what the decoders do not compute is named when the folder is opened, before any weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from r1kit.model.deepseek_v3 import DeepseekConfig
from r1kit.model.rope import SCALINGS
from r1kit.model.transformer import DecoderConfig, TransformerConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ARCHITECTURES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
}
"""model_type -> class; others run through transformers (`model/generic.py`)."""
DEEPSEEK_NAMES = {
    "q_rank": "q_lora_rank",
    "kv_rank": "kv_lora_rank",
    "nope_dim": "qk_nope_head_dim",
    "rotated_dim": "qk_rope_head_dim",
    "value_dim": "v_head_dim",
    "experts": "n_routed_experts",
    "shared_experts": "n_shared_experts",
    "experts_per_token": "num_experts_per_tok",
    "groups": "n_group",
    "groups_per_token": "topk_group",
    "normalise_weights": "norm_topk_prob",
    "weight_scale": "routed_scaling_factor",
    "expert_mlp": "moe_intermediate_size",
    "dense_layers": "first_k_dense_replace",
}
NOT_SAVED = ("quantization_config", "auto_map", "_name_or_path", "_from_model_config")
"""Fields that would be wrong in what is saved: its weights are not quantised, no code lies beside it, and its
generation config has end tokens of its own."""


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file. ValueError when it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object; download it again")
    return value


def read_generation(folder: Path) -> dict[str, Any]:
    """generation_config.json; {} where there is none."""
    path = folder / "generation_config.json"
    return read_json(path) if path.is_file() else {}


def read_config(folder: Path) -> TransformerConfig:
    """The decoder's config from config.json. ValueError for what no decoder here computes, and for contradictions."""
    raw = read_json(folder / "config.json")
    if reason := unsupported(raw):
        raise ValueError(f"{folder}: {reason}")
    try:
        fields: dict[str, Any] = _common(raw) | {"source": raw, "generation": read_generation(folder)}
        config = _deepseek(raw, fields) if raw["model_type"] == "deepseek_v3" else TransformerConfig(**fields)
    except KeyError as error:
        raise ValueError(
            f"{folder}: config.json has no {error.args[0]}; is it a {raw['model_type']} model's?"
        ) from error
    if faults := _contradictions(raw, config):
        raise ValueError(f"{folder}: in config.json, {'; '.join(faults)}")
    return config


def unsupported(raw: Mapping[str, Any]) -> str:
    """Why the decoders here cannot compute the model of a config.json; "" when they can."""
    kind = raw.get("model_type")
    if kind not in ARCHITECTURES:
        return f"model_type is {kind!r}; the decoders read {', '.join(ARCHITECTURES)}"
    rope_type = _rope(raw).get("rope_type", "default")
    if rope_type not in ("default", "dynamic", *SCALINGS):
        return f"RoPE scaling {rope_type!r}; the decoders have {', '.join(SCALINGS)}"
    if "sliding_attention" in (raw.get("layer_types") or ()) or (
        raw.get("sliding_window", 4096) if kind == "mistral" else raw.get("use_sliding_window")
    ):
        return "sliding-window attention"
    if raw.get("hidden_act", "silu") != "silu":
        return f"hidden_act is {raw['hidden_act']!r}; the decoders have silu only"
    if kind != "llama" and (raw.get("attention_bias") or raw.get("mlp_bias")):
        return f"attention_bias/mlp_bias in a {kind} model"
    plain = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1}
    if kind == "deepseek_v3" and (odd := [name for name, value in plain.items() if raw.get(name, value) != value]):
        return f"{odd[0]} is {raw[odd[0]]!r}; the decoder has {plain[odd[0]]!r}"
    return ""


def _rope(raw: Mapping[str, Any]) -> dict[str, Any]:
    """rope_parameters, under its newer names; the files have had three layouts."""
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    kind = rope.pop("type", "default")
    rope.setdefault("rope_type", kind)
    return rope


def _common(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `TransformerConfig`."""
    kind, heads, rope = raw["model_type"], raw["num_attention_heads"], _rope(raw)
    context = raw["max_position_embeddings"]
    theta = rope.pop("rope_theta", None) or raw.get("rope_theta") or 10000.0
    rope.pop("partial_rotary_factor", None)
    if rope["rope_type"] in ("llama3", "yarn"):
        rope.setdefault("original_max_position_embeddings", context)
    if rope["rope_type"] == "yarn":  # Qwen's cards add the scaling and leave max_position_embeddings as it was
        rope["factor"] = rope.get("factor") or context / rope["original_max_position_embeddings"]
        context = max(context, int(rope["factor"] * rope["original_max_position_embeddings"]))
    return {
        "model_type": kind,
        "vocab_size": raw["vocab_size"],
        "hidden": raw["hidden_size"],
        "layers": raw["num_hidden_layers"],
        "heads": heads,
        "kv_heads": raw.get("num_key_value_heads") or heads,
        "head_dim": raw.get("head_dim") or raw["hidden_size"] // heads,
        "mlp": raw["intermediate_size"],
        "context": context,
        "rope_theta": theta,
        # Dynamic scaling changes nothing up to max_position_embeddings, and that is where our context ends.
        "rope_scaling": rope if rope["rope_type"] in SCALINGS else None,
        "norm_eps": raw.get("rms_norm_eps", 1e-6),
        "tie_embeddings": raw.get("tie_word_embeddings", False),
        "qkv_bias": kind == "qwen2" or bool(raw.get("attention_bias")),
        "out_bias": bool(raw.get("attention_bias")),
        "mlp_bias": bool(raw.get("mlp_bias")),
        "qk_norm": kind == "qwen3",
    }


def _deepseek(raw: Mapping[str, Any], fields: dict[str, Any]) -> DeepseekConfig:
    own: dict[str, Any] = {name: raw[theirs] for name, theirs in DEEPSEEK_NAMES.items()}
    own["interleaved"] = raw.get("rope_interleave", True)
    head_dim = own["nope_dim"] + own["rotated_dim"]
    return DeepseekConfig(**fields | own | {"head_dim": head_dim})


def _contradictions(raw: Mapping[str, Any], config: TransformerConfig) -> list[str]:
    """What cannot be true of one model, with the values."""
    faults, rope = [], config.rope_scaling or {}
    if config.heads % config.kv_heads:
        faults.append(f"{config.heads} num_attention_heads are no multiple of {config.kv_heads} num_key_value_heads")
    if not raw.get("head_dim") and not isinstance(config, DeepseekConfig) and config.hidden % config.heads:
        faults.append(
            f"hidden_size {config.hidden} is no multiple of {config.heads} num_attention_heads: give head_dim"
        )
    if config.rope_dim % 2:
        faults.append(f"a head has {config.rope_dim} rotated numbers, an odd count")
    inner, outer = _rope(raw).get("rope_theta"), raw.get("rope_theta")
    if inner and outer and inner != outer:
        faults.append(f"rope_theta is {outer} and, with the RoPE's parameters, {inner}")
    missing = [name for name in SCALINGS.get(str(rope.get("rope_type")), ()) if name not in rope]
    if missing:
        faults.append(f"RoPE scaling {rope['rope_type']} has no {', '.join(missing)}")
    if isinstance(config, DeepseekConfig):
        if config.experts % config.groups or config.groups_per_token > config.groups:
            faults.append(
                f"{config.experts} n_routed_experts in {config.groups} n_group, topk_group {config.groups_per_token}"
            )
        elif config.experts_per_token > (reach := config.experts // config.groups * config.groups_per_token):
            faults.append(f"num_experts_per_tok is {config.experts_per_token}, but topk_group leaves {reach} experts")
        if config.kv_heads != config.heads:
            faults.append(f"num_key_value_heads is {config.kv_heads}; MLA has one for each of {config.heads} heads")
    return faults


def block_size(raw: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns that share a scale in fp8 weights, as DeepSeek-V3's are; None for weights as they are.

    ValueError for any other quantisation.
    """
    quantisation = raw.get("quantization_config")
    if not quantisation:
        return None
    if quantisation.get("quant_method") != "fp8" or len(quantisation.get("weight_block_size") or ()) != 2:
        raise ValueError(
            f"weights quantised by {quantisation.get('quant_method')!r} are not read, only DeepSeek's fp8 in blocks; "
            f"use the model's bf16 folder"
        )
    return tuple(quantisation["weight_block_size"])


def config_json(config: DecoderConfig, dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What to save as config.json: the source's own fields with the type of the weights, else all of ours."""
    name = str(dtype).removeprefix("torch.")
    if config.source:
        saved = {field: value for field, value in config.source.items() if field not in NOT_SAVED}
        saved["torch_dtype" if "torch_dtype" in saved and "dtype" not in saved else "dtype"] = name
        if "eos_token_id" in saved:
            saved["eos_token_id"] = _with_ends(saved["eos_token_id"], _own_end(tokenizer))
        return saved
    assert isinstance(config, TransformerConfig)
    return {
        "architectures": [ARCHITECTURES[config.model_type]],
        "model_type": config.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "use_cache": True,
        **_token_ids(tokenizer),
        "dtype": name,
    }


def generation_json(
    config: DecoderConfig, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int] = ()
) -> dict[str, Any]:
    """What to save as generation_config.json: the source's own, in which the tokenizer's end and `stops` end, too."""
    saved = {name: value for name, value in config.generation.items() if name not in NOT_SAVED}
    for name, value in _token_ids(tokenizer).items():
        own = config.source.get(name)
        saved.setdefault(name, value if own is None else own)
    return saved | {"eos_token_id": _with_ends(saved["eos_token_id"], [*_own_end(tokenizer), *stops])}


def _token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _own_end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [cast(int, tokenizer.eos_token_id)]


def _with_ends(ids: int | list[int] | None, ends: Sequence[int]) -> int | list[int]:
    """The source's end tokens and those of `ends` that are not among them: an id where there is one, else a list."""
    known = ids if isinstance(ids, list) else [] if ids is None else [ids]
    every = [*known, *dict.fromkeys(end for end in ends if end not in known)]
    return ids if ids is not None and every == known else every if len(every) > 1 else every[0]
