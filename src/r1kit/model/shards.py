"""safetensors files of a model folder: read tensor by tensor, written shard by shard, fp8 blocks multiplied out.

No more than a tensor (reading) or a shard (writing) is in memory besides the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r1kit.model.config_json import read_json
from r1kit.run import write_json_atomic

INDEX = "model.safetensors.index.json"
SCALE = "_scale_inv"
"""Suffix of the tensor [rows / 128, columns / 128] that an fp8 weight's blocks are multiplied by."""
SPAN = 1 << 30
"""Bytes read before a file is opened anew: its pages count as this process's memory while it is open."""


def locate(folder: Path) -> dict[str, Path]:
    """{weight's name: its file}, by the index where there is one. FileNotFoundError names files that are missing."""
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise ValueError(f"{folder / INDEX} has no weight_map; download it again")
        files = sorted(set(index.values()))
        if missing := [name for name in files if not (folder / name).is_file()]:
            raise FileNotFoundError(
                f"{folder}: {len(missing)} of {len(files)} files with weights are missing, {', '.join(missing[:3])}"
                f"{', ...' if len(missing) > 3 else ''}; download them again"
            )
        return {name: folder / file for name, file in index.items()}
    whole = folder / "model.safetensors"
    files = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"{folder}: no .safetensors file; convert the weights with transformers' save_pretrained"
        )
    return {name: file for file in files for name in _names(file)}


def read_weights(
    places: Mapping[str, Path], block: tuple[int, int] | None, device: torch.device | str
) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of every weight, file by file; fp8 ones in bf16, without their scales.

    ValueError for a file that lacks a weight that the index names, and for fp8 without scales.
    """
    for file in sorted(set(places.values())):
        held = set(_names(file))
        names = [name for name, place in places.items() if place == file and not name.endswith(SCALE)]
        if absent := [name for name in names if name not in held]:
            raise ValueError(f"{file} has no {absent[0]}, which the index says it has; download it again")
        for name, tensor in _tensors(file, names, device):
            if tensor.dtype != torch.float8_e4m3fn:
                yield name, tensor
                continue
            if name + SCALE not in places or block is None:
                raise ValueError(f"{file}: {name} is fp8 without {SCALE} or quantization_config; use the bf16 weights")
            ((_, scale),) = _tensors(places[name + SCALE], [name + SCALE], device)
            yield name, multiply_out(tensor, scale, block)


def multiply_out(weight: Tensor, scale: Tensor, block: tuple[int, int]) -> Tensor:
    """An fp8 weight [M, N] with a scale for each block [M / rows, N / columns], rounded up, as bf16."""
    rows, columns = weight.shape
    wanted = (-(-rows // block[0]), -(-columns // block[1]))
    if scale.shape != wanted:
        raise ValueError(f"a weight {list(weight.shape)} has scales {list(scale.shape)}, not {list(wanted)}")
    spread = scale.float().repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]
    return (weight.float() * spread).to(torch.bfloat16)


def write_weights(weights: Mapping[str, Tensor], folder: Path, max_shard_size: int | str) -> None:
    """model.safetensors, or shards of at most `max_shard_size` ("5GB") with their index, as transformers names them.

    Files of an earlier, differently cut save are removed.
    """
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    # Planned on tensors without data, so that views of one matrix are not taken for one tensor.
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in weights.items()}
    plan = split_torch_state_dict_into_shards(shapes, max_shard_size=max_shard_size)
    for file, names in plan.filename_to_tensors.items():
        shard = {name: weights[name].detach().cpu().contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
        del shard
    for stale in [*folder.glob("model*.safetensors"), folder / INDEX]:
        if stale.name not in plan.filename_to_tensors:
            stale.unlink(missing_ok=True)
    if plan.is_sharded:
        write_json_atomic(folder / INDEX, {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename})


def _names(file: Path) -> list[str]:
    with _open(file, "cpu") as opened:
        return list(opened.offset_keys())


def _tensors(file: Path, names: list[str], device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
    todo = iter(names)
    name = next(todo, None)
    while name is not None:
        with _open(file, str(device)) as opened:
            read = 0
            while name is not None and read < SPAN:
                tensor = opened.get_tensor(name)
                read += tensor.nbytes
                yield name, tensor
                name = next(todo, None)


def _open(file: Path, device: str) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="pt", device=device)
    except SafetensorError as error:
        raise ValueError(f"{file} is not whole ({error}); download it again") from error
