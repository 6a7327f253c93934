"""The model that a vLLM server should have, opened here on the CPU: what the server's log-probs are compared with.

`r1kit evaluate` and `r1kit reject` hand nothing over, so a server with another checkpoint would pass for the folder.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from r1kit.model.hf import load_model
from r1kit.model.shards import locate
from r1kit.model.transformer import Decoder

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


class NotOpened(Exception):
    """Why a folder's model cannot be computed here."""


def open_served(folder: Path, dtype: torch.dtype) -> Decoder:
    """The model of a folder, on the CPU. NotOpened when it does not fit there, or when only vLLM reads it."""
    try:
        needed, free = num_weights(folder) * dtype.itemsize, free_memory()
        if needed > free:
            raise NotOpened(
                f"its weights need {needed / 2**30:.1f} GiB on the CPU, where {free / 2**30:.1f} GiB are free"
            )
        return load_model(folder, dtype)
    except (ValueError, FileNotFoundError, ImportError) as error:
        raise NotOpened(str(error)) from error


def num_weights(folder: Path) -> int:
    """Numbers in the folder's safetensors files, by their headers."""
    from safetensors import safe_open

    count = 0
    for file in sorted(set(locate(folder).values())):
        with safe_open(file, framework="pt") as opened:
            count += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    return count


def free_memory() -> int:
    """CPU memory, bytes, that this program may still take: of the machine, and of its container where that has a limit.
    All there is where the system does not say."""
    if not MEMINFO.is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, held = CGROUP / "memory.max", CGROUP / "memory.stat"
    if not limit.is_file() or not (most := limit.read_text().strip()).isdigit():
        return free
    kinds = dict(line.split() for line in held.read_text().splitlines())
    return min(free, int(most) - int(kinds["anon"]))
