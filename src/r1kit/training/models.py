"""What a user may call a model: a folder, a run (its last checkpoint), a pipeline, a shipped model, a hub name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from r1kit.config import Device, DType
from r1kit.model.device import resolve_device, resolve_dtype
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


def open_model(name: str, device: Device, dtype: DType) -> tuple[Decoder, PreTrainedTokenizerBase]:
    """The model and the tokenizer of a name, on its device and in its compute type."""
    folder = resolve_model(name)
    tokenizer = load_tokenizer(folder)
    where = resolve_device(device)
    return load_model(folder, resolve_dtype(dtype, where), where), tokenizer
