"""Model folders in Hugging Face's format: what `transformers.AutoModelForCausalLM` opens, we open and save.

Q/K/V and gate/up are separate matrices in the files and one matrix each in `Transformer`.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from r1kit.model.transformer import Block, Transformer, TransformerConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
DEMO_BASE = "demo-base"
SHIPPED = (DEMO_BASE, "demo-student")
"""Models that come with r1kit: the demo's base and the smaller base of its students."""


def model_folder(name: str | Path) -> Path:
    """The local folder of a model: a folder, one of SHIPPED, or a Hugging Face name (downloaded)."""
    if str(name) in SHIPPED:
        return Path(str(resources.files("r1kit") / "assets" / str(name)))
    folder = Path(name)
    if (folder / "config.json").is_file():
        return folder
    if folder.exists() or str(name).startswith((".", "/")) or str(name).count("/") != 1:
        raise FileNotFoundError(
            f"{name} is not a model: there is no config.json in it; give a folder or a Hugging Face name"
        )
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
    try:
        return Path(snapshot_download(str(name), allow_patterns=patterns))
    except (OSError, ValueError) as error:  # the hub's own errors derive from these
        raise FileNotFoundError(
            f"{name}: no such folder, and no Hugging Face model of that name could be fetched ({error}); "
            "give a folder that exists, or check the name and the network"
        ) from error


def read_config(folder: Path) -> TransformerConfig:
    """The decoder's config from config.json. Raises ValueError for what the decoder does not do."""
    raw = json.loads((folder / "config.json").read_text())
    kind = raw.get("model_type")
    if kind not in ARCHITECTURES:
        raise ValueError(f"{folder}: model_type is {kind!r}; the decoder reads {', '.join(ARCHITECTURES)}")
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if (rope_type := rope.get("rope_type", rope.get("type", "default"))) != "default":
        raise ValueError(f"{folder}: RoPE scaling {rope_type!r} is not supported yet; use a model with plain RoPE")
    if raw.get("use_sliding_window"):
        raise ValueError(f"{folder}: sliding-window attention is not supported; set use_sliding_window to false")
    if raw.get("hidden_act", "silu") != "silu":
        raise ValueError(f"{folder}: hidden_act is {raw['hidden_act']!r}; the decoder has silu only")
    if kind != "qwen2" and (raw.get("attention_bias") or raw.get("mlp_bias")):
        raise ValueError(
            f"{folder}: attention_bias/mlp_bias are not supported for {kind}; only Qwen2's Q/K/V biases are"
        )
    heads = raw["num_attention_heads"]
    return TransformerConfig(
        model_type=kind,
        vocab_size=raw["vocab_size"],
        hidden=raw["hidden_size"],
        layers=raw["num_hidden_layers"],
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        mlp=raw["intermediate_size"],
        context=raw.get("max_position_embeddings", 2048),
        rope_theta=rope.get("rope_theta") or raw.get("rope_theta") or 10000.0,
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        tie_embeddings=raw.get("tie_word_embeddings", False),
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
    )


def config_json(config: TransformerConfig, dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What transformers needs in config.json to open the saved folder."""
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
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": str(dtype).removeprefix("torch."),
    }


def to_hf(model: Transformer) -> dict[str, Tensor]:
    """The weights under Hugging Face's names (views, no copy)."""
    config = model.config
    weights = {"model.embed_tokens.weight": model.embed.weight, "model.norm.weight": model.norm.weight}
    if model.head is not None:
        weights["lm_head.weight"] = model.head.weight
    for layer, block in enumerate(cast("list[Block]", model.blocks)):
        prefix = f"model.layers.{layer}."
        sizes = [config.heads * config.head_dim, config.kv_heads * config.head_dim, config.kv_heads * config.head_dim]
        for name, part in zip("qkv", block.qkv.weight.split(sizes), strict=True):
            weights[f"{prefix}self_attn.{name}_proj.weight"] = part
        if config.qkv_bias:
            for name, part in zip("qkv", block.qkv.bias.split(sizes), strict=True):
                weights[f"{prefix}self_attn.{name}_proj.bias"] = part
        if block.q_norm is not None and block.k_norm is not None:
            weights[f"{prefix}self_attn.q_norm.weight"] = block.q_norm.weight
            weights[f"{prefix}self_attn.k_norm.weight"] = block.k_norm.weight
        gate, up = block.gate_up.weight.chunk(2)
        weights |= {
            f"{prefix}self_attn.o_proj.weight": block.out.weight,
            f"{prefix}mlp.gate_proj.weight": gate,
            f"{prefix}mlp.up_proj.weight": up,
            f"{prefix}mlp.down_proj.weight": block.down.weight,
            f"{prefix}input_layernorm.weight": block.input_norm.weight,
            f"{prefix}post_attention_layernorm.weight": block.mlp_norm.weight,
        }
    return weights


def load_model(name: str | Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> Transformer:
    """The decoder with the weights of a folder or Hugging Face name. Raises ValueError when they do not fit."""
    from safetensors import safe_open

    folder = model_folder(name)
    model = Transformer(read_config(folder)).to(dtype).to(device)
    wanted = to_hf(model)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"{folder}: no .safetensors file; convert the weights with transformers' save_pretrained"
        )
    seen: set[str] = set()
    with torch.no_grad():
        for file in files:
            with safe_open(file, framework="pt", device=str(device)) as weights:
                for key in weights.keys():  # noqa: SIM118 - safe_open is not a dict
                    if (key == "lm_head.weight" and model.head is None) or key.endswith("rotary_emb.inv_freq"):
                        continue
                    if key not in wanted:
                        raise ValueError(
                            f"{file}: unexpected weight {key}; is {model.config.model_type} the right model_type?"
                        )
                    tensor = weights.get_tensor(key)
                    if tensor.shape != wanted[key].shape:
                        raise ValueError(
                            f"{file}: {key} is {list(tensor.shape)}, but config.json asks for {list(wanted[key].shape)}"
                        )
                    wanted[key].copy_(tensor)
                    seen.add(key)
    if missing := sorted(wanted.keys() - seen):
        raise ValueError(
            f"{folder}: {len(missing)} weights are missing, first {missing[0]}; the download may be incomplete"
        )
    return model


def save_model(model: Transformer, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write model.safetensors, config.json, generation_config.json and the tokenizer into `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in to_hf(model).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = config_json(model.config, model.embed.weight.dtype, tokenizer)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    tokenizer.save_pretrained(folder)
    # transformers writes down how a tokenizer was opened as if that were a property of it.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    kept = {name: value for name, value in settings.items() if name not in ("is_local", "local_files_only")}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
