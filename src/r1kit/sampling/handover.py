"""The learner's weights on their way to vLLM: under the names of the model's files, one after the other.

Merged matrices, and experts that transformers keeps in one tensor, are made when their turn comes and are gone when
they are written: a hand-over by file needs no second model in the GPU's memory, nor in the program's.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from r1kit.config import VllmConfig
from r1kit.model.hf import hf_tensors, to_hf
from r1kit.model.lora import bases
from r1kit.model.transformer import Decoder
from r1kit.sampling.vllm_worker import Fingerprint

SAFETENSORS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}


@dataclass(frozen=True)
class Layout:
    """What will be handed over, before any of it is made."""

    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    made: bool
    """Some of it are no tensors of the learner's: merged matrices, split experts."""

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return sum(_bytes(dtype, shape) for dtype, shape in self.shapes.values())


@torch.no_grad()
def layout_of(model: Decoder) -> Layout:
    """Names, types and shapes of `hf_tensors`; nothing is merged for it."""
    own = {parameter.untyped_storage().data_ptr() for parameter in (*model.parameters(), *model.buffers())}
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    with bases(model) as made:
        for name, tensor in hf_tensors(model):
            shapes[name] = tensor.dtype, tuple(tensor.shape)
            made = made or tensor.untyped_storage().data_ptr() not in own
    return Layout(shapes, made)


def named_weights(model: Decoder) -> dict[str, Tensor]:
    """All weights at once; with adapters, merged."""
    return {name: tensor.detach() for name, tensor in to_hf(model).items()}


def weights_folder(cfg: VllmConfig, size: int) -> Path:
    """A new folder for a file of `size` bytes: in `cfg.folder`, else in memory (/dev/shm), else where temporary files
    go. OSError when none has the room."""
    places = [cfg.folder] if cfg.folder else [Path("/dev/shm"), Path(tempfile.gettempdir())]
    for place in places:
        if place.is_dir() and shutil.disk_usage(place).free > size + 2**20:
            return Path(tempfile.mkdtemp(prefix="r1kit-weights-", dir=place))
    raise OSError(
        f"the weights for vLLM need {size / 2**30:.1f} GiB, and there is no such room in "
        f"{' or '.join(str(place) for place in places)}; give a folder with --vllm.folder"
    )


@torch.no_grad()
def write_weights(model: Decoder, layout: Layout, folder: Path, version: int) -> tuple[Path, str]:
    """Write policy-VERSION.safetensors, tensor by tensor: it is there as a whole or not at all. Its path and the
    weights' fingerprint."""
    path = folder / f"policy-{version:06d}.safetensors"
    temporary = path.with_suffix(".tmp")
    header, starts = _header(layout)
    fingerprint, missing = Fingerprint(), set(layout.shapes)
    with temporary.open("wb") as file:
        file.write(header)
        for name, tensor in hf_tensors(model):
            assert layout.shapes[name] == (tensor.dtype, tuple(tensor.shape)), (name, tensor.shape)
            missing.remove(name)
            fingerprint.add(tensor)
            file.seek(starts[name])
            file.write(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
            del tensor  # before the next one is made
    assert not missing, missing
    os.replace(temporary, path)
    return path, str(fingerprint)


def _header(layout: Layout) -> tuple[bytes, dict[str, int]]:
    """How the file begins, 8 bytes with the length of a JSON object and then that, and where each tensor begins.

    https://github.com/huggingface/safetensors. Wide types come first, so that each is at a multiple of its size.
    """
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts: dict[str, int] = {}
    end = 0
    for name, (dtype, shape) in sorted(layout.shapes.items(), key=lambda item: -item[1][0].itemsize):
        starts[name], end = end, end + _bytes(dtype, shape)
        fields[name] = {"dtype": SAFETENSORS[dtype], "shape": shape, "data_offsets": [starts[name], end]}
    text = json.dumps(fields).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + start for name, start in starts.items()}


def _bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return dtype.itemsize * math.prod(shape)
