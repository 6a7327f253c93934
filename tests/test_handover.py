"""The learner's weights on their way to vLLM: named as the model's files name them, and made one after the other."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from fake_vllm import FakeEngine
from r1kit.config import LoraConfig, VllmConfig
from r1kit.model.hf import load_model, to_hf
from r1kit.model.lora import LoraLinear, add_adapters
from r1kit.model.transformer import Decoder
from r1kit.sampling import handover, vllm_worker
from r1kit.sampling.handover import layout_of, named_weights, weights_folder, write_weights
from r1kit.sampling.vllm import VllmSampler
from r1kit.sampling.vllm_worker import Fingerprint
from test_lora_models import KINDS, theirs_of
from tiny import tiny_model, tiny_tokenizer


def adapted(model: Decoder) -> Decoder:
    adapters = add_adapters(model, LoraConfig(rank=2), seed=1, base="x")
    assert adapters is not None
    with torch.no_grad():
        for layer in adapters.layers.values():
            layer.lora_b.normal_()
    return model


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_file_has_the_weights_under_the_names_of_the_models_files(kind: str, lora: bool, tmp_path: Path):
    theirs_of(kind).save_pretrained(tmp_path / "model")
    model = load_model(tmp_path / "model", torch.bfloat16)
    if lora:
        adapted(model)
    saved = load_file(tmp_path / "model/model.safetensors")
    layout = layout_of(model)
    path, fingerprint = write_weights(model, layout, tmp_path, 12)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model", "policy-000012.safetensors"]
    handed, all_at_once = load_file(path), named_weights(model)
    assert handed.keys() == all_at_once.keys() == saved.keys() and layout.size == sum(t.nbytes for t in handed.values())
    assert all(torch.equal(tensor, all_at_once[name]) for name, tensor in handed.items())
    assert fingerprint == str(Fingerprint(handed.values()))
    if not lora:
        assert all(torch.equal(tensor, saved[name].to(tensor)) for name, tensor in handed.items())
    assert layout.made == (lora or kind.endswith("_moe"))


def test_types_of_several_widths_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = tiny_model()
    odd = {"a": torch.randn(3).bfloat16(), "b": torch.randn(5), "c": torch.empty(0), "d": torch.randn(()).half()}
    odd["e"] = torch.randn(4, 6).T
    monkeypatch.setattr(handover, "hf_tensors", lambda model: iter(odd.items()))
    path, _ = write_weights(model, layout_of(model), tmp_path, 1)
    with safe_open(path, framework="pt") as opened:
        assert all(torch.equal(opened.get_tensor(name), tensor) for name, tensor in odd.items())


class Live:
    """Counts the merged matrices that are there."""

    def __init__(self) -> None:
        self._made: set[int] = set()
        self.most = self.made = 0

    def count(self, weight: torch.Tensor) -> None:
        self.made += 1
        tensors = [found for found in gc.get_objects() if type(found) is torch.Tensor and found.device.type == "cpu"]
        places = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self._made = self._made & places | {weight.untyped_storage().data_ptr()}  # freed memory is used again
        self.most = max(self.most, len(self._made))


def layers_of(model: Decoder) -> list[LoraLinear]:
    return [module for module in model.modules() if isinstance(module, LoraLinear)]


def test_few_merged_matrices_are_there_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = adapted(tiny_model(seed=1))
    live = Live()
    merge: Any = LoraLinear.weight

    def counted(layer: LoraLinear) -> torch.Tensor:
        weight = merge.fget(layer)
        if weight is not layer.base:
            live.count(weight)
        return weight

    monkeypatch.setattr(LoraLinear, "weight", property(counted))
    monkeypatch.setattr(vllm_worker, "_repack_tied_heads", lambda model: None)
    engine = FakeEngine(tiny_model(seed=7))
    sampler = VllmSampler(engine, tiny_tokenizer(), VllmConfig(folder=tmp_path))
    assert sampler.load_weights(model, 1)["probe/difference"] < 1e-3
    assert live.made == len(layers_of(model)) == 8, "each is merged once"
    assert live.most <= 3
    assert list(tmp_path.iterdir()) == []
    held = to_hf(model)
    assert live.most >= 8 and held, "the count sees what is there"


def test_no_file_without_the_room_for_it(tmp_path: Path):
    with pytest.raises(OSError, match="no such room in .*--vllm.folder"):
        weights_folder(VllmConfig(folder=tmp_path), 2**60)
