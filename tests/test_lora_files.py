"""Facts about an adapter's files: PEFT reads ours, we read PEFT's, and what is not plain LoRA is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapted import LORA, RANK, adapt, logits, logits_of_hf
from r1kit.config import ALL_LINEAR, LoraConfig
from r1kit.model.lora import add_adapters
from tiny import ARCHITECTURES, both_models, tiny_model

SUBSETS: list[tuple[str, ...]] = [(ALL_LINEAR,), ("q_proj", "v_proj"), ("k_proj",)]


@pytest.mark.parametrize("targets", SUBSETS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_peft_reads_what_is_saved(name: str, targets: Any, tmp_path: Path):
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install peft")
    theirs, model = both_models(name, tmp_path)
    adapt(model, replace(LORA, targets=targets)).save(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    torch.testing.assert_close(logits_of_hf(loaded), logits(model), rtol=1e-4, atol=1e-4)
    everywhere = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert set(loaded.peft_config["default"].target_modules) == (everywhere if ALL_LINEAR in targets else set(targets))
    torch.testing.assert_close(logits_of_hf(loaded.merge_and_unload()), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], r".*\.mlp\.(up|down)_proj"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_peft_saves_is_read(name: str, targets: Any, tmp_path: Path):
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install peft")
    theirs, model = both_models(name, tmp_path)
    before = logits(model)
    kind = peft.LoraConfig(r=RANK, lora_alpha=7, target_modules=targets, task_type="CAUSAL_LM", lora_dropout=0.1)
    made = peft.get_peft_model(theirs, kind)
    with torch.no_grad():
        for key, weight in made.named_parameters():
            if "lora_B" in key:
                weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(len(key)))
    made.save_pretrained(tmp_path / "adapter")
    adapters = add_adapters(model, LoraConfig(adapter=str(tmp_path / "adapter")), seed=0, base="x")
    assert adapters is not None and (adapters.config.rank, adapters.config.alpha) == (RANK, 7.0)
    torch.testing.assert_close(logits(model), logits_of_hf(made.eval()), rtol=1e-4, atol=1e-4)
    assert (logits(model) - before).abs().max() > 0.1, "or the case shows nothing"


def test_an_adapter_survives_its_files_bit_for_bit(tmp_path: Path):
    adapters = adapt(tiny_model(0, torch.bfloat16), replace(LORA, targets=("q_proj", "down_proj")))
    adapters.save(tmp_path)
    again = add_adapters(tiny_model(0, torch.bfloat16), LoraConfig(adapter=str(tmp_path)), seed=9, base="y")
    assert again is not None and again.config == replace(adapters.config, adapter=str(tmp_path))
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert saved.keys() == {
        f"base_model.model.model.layers.{layer}.{module}.lora_{factor}.weight"
        for layer in range(2)
        for module in ("self_attn.q_proj", "mlp.down_proj")
        for factor in "AB"
    }
    for name, weight in adapters.weights().items():
        assert weight.dtype == saved[name].dtype == torch.float32
        assert torch.equal(weight, again.weights()[name]) and torch.equal(weight, saved[name])
    about = json.loads((tmp_path / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == "the-base" and about["lora_dropout"] == 0.0
    assert (about["r"], about["lora_alpha"], about["target_modules"]) == (RANK, 5, ["q_proj", "down_proj"])


def test_an_adapter_on_another_model_than_its_own_is_put_there_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Shapes do not tell two models of one family apart; the name does, but a folder may have moved."""
    adapt(tiny_model()).save(tmp_path / "adapter")
    config = LoraConfig(adapter=str(tmp_path / "adapter"))
    assert add_adapters(tiny_model(), config, seed=0, base="another") is not None
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: the adapter in {config.adapter} was trained on the-base, and is put on another; ")
    for base in ("the-base", str(Path("the-base").resolve())):
        add_adapters(tiny_model(), config, seed=0, base=base)
        assert not capsys.readouterr().err
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": None}))
    add_adapters(tiny_model(), config, seed=0, base="another")
    assert not capsys.readouterr().err, "PEFT writes null for a model that was made in memory"


# What is refused


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"use_dora": True}, "use_dora is True; only plain LoRA is read: merge it with PEFT"),
        ({"use_rslora": True}, "use_rslora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern is {'q_proj': 4}"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA"),
    ],
)
def test_another_kind_of_adapter_is_refused(change: dict[str, Any], expected: str, tmp_path: Path):
    adapt(tiny_model()).save(tmp_path)
    about = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(about | change))
    with pytest.raises(ValueError, match=expected):
        add_adapters(tiny_model(), LoraConfig(adapter=str(tmp_path)), seed=0, base="x")


def test_weights_that_do_not_fit_are_named(tmp_path: Path):
    adapt(tiny_model()).save(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    whole = load_file(file)
    first = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    more = {first.replace("layers.0", "layers.2"): torch.zeros(RANK, 32)}
    head = {"base_model.model.lm_head.lora_A.weight": torch.zeros(RANK, 32)}
    cases: list[tuple[dict[str, Tensor], str]] = [
        ({name: weight for name, weight in whole.items() if name != first}, rf"has no {first} \(1 weights"),
        (whole | more, "the model has no place for .*layers.2"),
        (whole | head, f"{file}: lm_head is no linear layer of x that takes an adapter; these do: q_proj, k_proj"),
        (whole | {first: torch.zeros(RANK, 99)}, r"lora_A.weight is \[3, 99\], the model takes \[3, 32\]"),
    ]
    for weights, expected in cases:
        save_file(weights, file)
        with pytest.raises(ValueError, match=expected):
            add_adapters(tiny_model(), LoraConfig(adapter=str(tmp_path)), seed=0, base="x")


def test_an_adapter_that_is_not_there_or_of_another_rank_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no adapter_config.json; give a folder that r1kit or PEFT"):
        add_adapters(tiny_model(), LoraConfig(adapter=str(tmp_path)), seed=0, base="x")
    adapt(tiny_model()).save(tmp_path)
    with pytest.raises(ValueError, match=f"--lora.rank is 8, the adapter in {tmp_path} has {RANK}"):
        add_adapters(tiny_model(), LoraConfig(rank=8, adapter=str(tmp_path)), seed=0, base="x")


def test_without_a_rank_nothing_happens():
    model = tiny_model()
    assert add_adapters(model, LoraConfig(), seed=0, base="x") is None
    assert all(weight.requires_grad for weight in model.parameters())


def test_layers_that_the_model_does_not_have_are_named():
    with pytest.raises(ValueError, match="--lora.targets c_attn is no linear layer of the-base .* these do: q_proj, k"):
        adapt(tiny_model(), replace(LORA, targets=("q_proj", "c_attn")))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"rank": -1}, "--lora.rank is -1"),
        ({"alpha": 0.0}, "--lora.alpha is 0.0"),
        ({"targets": ()}, "--lora.targets is empty"),
        ({"targets": ("q_proj", "q_proj")}, "give each once"),
    ],
)
def test_a_wrong_setting_is_named(flags: dict[str, Any], expected: str):
    with pytest.raises(ValueError, match=expected):
        LoraConfig(**flags)
