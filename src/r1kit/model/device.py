"""Where to compute and in which type."""

from __future__ import annotations

import torch

from r1kit.config import Device, DType


def resolve_device(device: Device) -> torch.device:
    """`auto` is CUDA where there is one. Raises ValueError when CUDA is asked for and absent."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda, but PyTorch sees no CUDA device; use --device cpu or install a CUDA build of torch"
        )
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def resolve_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """`auto` is bf16 where the hardware multiplies it natively: elsewhere it is emulated, and slower than fp32."""
    if dtype == "auto":
        dtype = "bf16" if device.type == "cuda" or _cpu_has_bf16() else "fp32"
    return torch.bfloat16 if dtype == "bf16" else torch.float32


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
