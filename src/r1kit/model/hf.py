"""Model folders in Hugging Face's format: what `transformers.AutoModelForCausalLM` opens, we open and save.

Q/K/V and gate/up are separate matrices in the files and one matrix each in `Transformer`. Weights are read shard by
shard into the model's own memory. A folder keeps its config.json; what was read from it is written again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from r1kit.model.config_json import block_size, config_json, generation_json, read_config, read_json, unsupported
from r1kit.model.deepseek_v3 import DeepseekConfig, DeepseekV3, deepseek_to_hf
from r1kit.model.generic import GenericModel, generic_to_hf, load_generic
from r1kit.model.shards import locate, read_weights, write_weights
from r1kit.model.transformer import Block, Decoder, Stack, Transformer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    twice = ["original/*", "consolidated*"]  # Meta's and Mistral's own formats of the same weights
    try:
        return Path(snapshot_download(str(name), allow_patterns=patterns, ignore_patterns=twice))
    except (OSError, ValueError) as error:  # the hub's own errors derive from these
        raise FileNotFoundError(
            f"{name}: no such folder, and no Hugging Face model of that name could be fetched ({error}); "
            "give a folder that exists, or check the name and the network"
        ) from error


def to_hf(model: Decoder) -> dict[str, Tensor]:
    """The weights under the names of the model's own files, tied ones once; with adapters, merged. Views, no copy, but
    for merged matrices and for experts that transformers keeps in one tensor."""
    return dict(hf_tensors(model))


def hf_tensors(model: Decoder) -> Iterator[tuple[str, Tensor]]:
    """As `to_hf`, one after the other: a merged matrix is made when its turn comes, and not kept here."""
    if isinstance(model, GenericModel):
        yield from generic_to_hf(model)
        return
    assert isinstance(model, Stack)
    yield "model.embed_tokens.weight", model.embed.weight
    yield "model.norm.weight", model.norm.weight
    if model.head is not None:
        yield "lm_head.weight", model.head.weight
    if isinstance(model, DeepseekV3):
        yield from deepseek_to_hf(model)
        return
    for layer, block in enumerate(cast("list[Block]", model.blocks)):
        yield from _block_to_hf(block, f"model.layers.{layer}.")


def _block_to_hf(block: Block, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, part in zip("qkv", block.qkv.weight.split(block.splits), strict=True):
        yield f"{prefix}self_attn.{name}_proj.weight", part
    if block.qkv.bias is not None:
        for name, part in zip("qkv", block.qkv.bias.split(block.splits), strict=True):
            yield f"{prefix}self_attn.{name}_proj.bias", part
    if block.q_norm is not None and block.k_norm is not None:
        yield f"{prefix}self_attn.q_norm.weight", block.q_norm.weight
        yield f"{prefix}self_attn.k_norm.weight", block.k_norm.weight
    if block.out.bias is not None:
        yield f"{prefix}self_attn.o_proj.bias", block.out.bias
    if block.down.bias is not None:
        for name, bias in zip(("gate", "up"), block.gate_up.bias.chunk(2), strict=True):
            yield f"{prefix}mlp.{name}_proj.bias", bias
        yield f"{prefix}mlp.down_proj.bias", block.down.bias
    yield f"{prefix}self_attn.o_proj.weight", block.out.weight
    for name, part in zip(("gate", "up"), block.gate_up.weight.chunk(2), strict=True):
        yield f"{prefix}mlp.{name}_proj.weight", part
    yield f"{prefix}mlp.down_proj.weight", block.down.weight
    yield f"{prefix}input_layernorm.weight", block.input_norm.weight
    yield f"{prefix}post_attention_layernorm.weight", block.mlp_norm.weight


def load_model(name: str | Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> Decoder:
    """The model with the weights of a folder or Hugging Face name; one copy of them is in memory.

    A model that no decoder here computes runs through transformers, which is said on stderr. Raises ValueError when
    weights and config do not fit, FileNotFoundError for missing files.
    """
    folder = model_folder(name)
    raw = read_json(folder / "config.json")
    if reason := unsupported(raw):
        return load_generic(folder, reason, dtype, device)
    config, places = read_config(folder), locate(folder)
    with torch.device("meta"):
        model = DeepseekV3(config) if isinstance(config, DeepseekConfig) else Transformer(config)
    model = model.to(dtype).to_empty(device=device)
    with torch.no_grad():
        _fill(model, folder, places, block_size(raw), device)
        _check_tied(model, places, device)
    return model


def _fill(
    model: Stack, folder: Path, places: dict[str, Path], block: tuple[int, int] | None, device: torch.device | str
) -> None:
    """Copy every weight of the files to where it belongs."""
    wanted, seen = to_hf(model), set[str]()
    left_out = {name for name in places if name == "lm_head.weight" and model.head is None}
    left_out |= {name for name in places if name.endswith("rotary_emb.inv_freq")}
    places = {key: file for key, file in places.items() if key not in left_out}
    for key, tensor in read_weights(places, block, device):
        if isinstance(model, DeepseekV3) and model.keeps(key):
            model.kept[key] = tensor.cpu().clone()
            continue
        if key not in wanted:
            raise ValueError(
                f"{places[key]}: unexpected weight {key}; is {model.config.model_type} the right model_type?"
            )
        if tensor.shape != wanted[key].shape:
            raise ValueError(
                f"{places[key]}: {key} is {list(tensor.shape)}, but config.json asks for {list(wanted[key].shape)}"
            )
        wanted[key].copy_(tensor)
        seen.add(key)
    if missing := sorted(wanted.keys() - seen):
        raise ValueError(
            f"{folder}: {len(missing)} weights are missing, first {missing[0]}; the download may be incomplete"
        )


def _check_tied(model: Stack, places: dict[str, Path], device: torch.device | str) -> None:
    """ValueError when a tied model's files hold a head of their own, which would be lost."""
    if model.head is not None or "lm_head.weight" not in places:
        return
    file = places["lm_head.weight"]
    ((_, head),) = read_weights({"lm_head.weight": file}, None, device)
    if head.shape != model.embed.weight.shape or not torch.equal(head.to(model.embed.weight), model.embed.weight):
        raise ValueError(
            f"{file}: lm_head.weight is not the embedding, but config.json says tie_word_embeddings; "
            f"set it to false there, or remove that weight"
        )


def save_model(
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    stops: Sequence[int] = (),
    max_shard_size: int | str = "5GB",
) -> None:
    """Write the weights, config.json, generation_config.json, the tokenizer and its chat template into `folder`.

    What the model's own config files say is kept. `stops` are the tokens that its completions were trained to end with:
    generation_config.json lists them, so that transformers and vLLM stop there too. Above `max_shard_size` the weights
    are cut into shards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, GenericModel):
        model.hf.save_pretrained(folder, max_shard_size=max_shard_size)
    else:
        kept = model.kept if isinstance(model, DeepseekV3) else {}
        write_weights(to_hf(model) | kept, folder, max_shard_size)
    config = config_json(model.config, model.embed.weight.dtype, tokenizer)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = generation_json(model.config, tokenizer, stops)
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    tokenizer.save_pretrained(folder)
    # transformers writes down how a tokenizer was opened as if that were a property of it.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings = {name: value for name, value in settings.items() if name not in ("is_local", "local_files_only")}
    if settings.get("tokenizer_class") == "TokenizersBackend":  # the name that versions before 5 know, too
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
