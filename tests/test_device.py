"""Facts about where the work runs: `auto` takes the best there is, and a device that is absent is an error."""

from __future__ import annotations

import pytest
import torch

from r1kit.model.device import resolve_device, resolve_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("has_cuda", "expected"), [(False, "cpu"), (True, "cuda")])
def test_auto_is_cuda_where_there_is_one(has_cuda: bool, expected: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert resolve_device("auto").type == expected
    assert resolve_device("cpu").type == "cpu"


def test_cuda_asked_for_and_absent_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"--device cuda.*no CUDA device.*--device cpu"):
        resolve_device("cuda")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, torch.float32),
        ({"avx512_bf16": False, "amx_bf16": False, "avx512_f": True}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16),  # ARM
    ],
)
def test_auto_is_bf16_where_the_cpu_multiplies_it(
    capabilities: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_dtype("auto", CPU) == expected
    assert resolve_dtype("auto", CUDA) == torch.bfloat16


def test_a_type_asked_for_is_the_type_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})
    for device in (CPU, CUDA):
        assert resolve_dtype("bf16", device) == torch.bfloat16
        assert resolve_dtype("fp32", device) == torch.float32


def test_this_cpu_can_be_asked():
    assert resolve_dtype("auto", CPU) in (torch.bfloat16, torch.float32)
