"""What a user may call a model: a folder, a run (its last checkpoint), a pipeline, a shipped model, a hub name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from r1kit.config import Device, DType
from r1kit.model.config_json import read_config, read_json, unsupported
from r1kit.model.device import resolve_device, resolve_dtype
from r1kit.model.generic import LENGTH_FIELDS, NO_LIMIT
from r1kit.model.hf import SHIPPED, load_model, model_folder
from r1kit.model.tokenizer import load_tokenizer
from r1kit.model.transformer import Decoder
from r1kit.training.checkpoint import find_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def resolve_model(name: str) -> Path:
    """The folder that `name` stands for; a Hugging Face name is downloaded. Raises FileNotFoundError or ValueError."""
    if not name:
        raise ValueError("no model is named; give a model folder, a run folder, demo-base or a Hugging Face name")
    return find_model(name) if name not in SHIPPED and Path(name).is_dir() else model_folder(name)


def model_context(folder: Path) -> int:
    """Longest sequence of the model in `folder`, tokens, by its config.json alone; NO_LIMIT where that names none.

    ValueError for a config.json that contradicts itself.
    """
    raw = read_json(folder / "config.json")
    if not unsupported(raw):
        return read_config(folder).context
    from transformers import CONFIG_MAPPING

    kind = str(raw.get("model_type"))
    if kind not in CONFIG_MAPPING:  # loading it says so; vLLM may know it, and says its own limit
        return NO_LIMIT
    text = CONFIG_MAPPING[kind].from_dict(raw).get_text_config().to_dict()
    return next((text[name] for name in LENGTH_FIELDS if text.get(name)), NO_LIMIT)


def open_model(name: str, device: Device, dtype: DType) -> tuple[Decoder, PreTrainedTokenizerBase]:
    """The model and the tokenizer of a name, on its device and in its compute type."""
    folder = resolve_model(name)
    tokenizer = load_tokenizer(folder)
    where = resolve_device(device)
    return load_model(folder, resolve_dtype(dtype, where), where), tokenizer
