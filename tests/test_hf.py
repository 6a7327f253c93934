"""Facts about model folders: transformers opens ours, we open transformers', and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1kit.model.hf import load_model, model_folder, read_config, save_model, to_hf
from r1kit.model.transformer import Decoder, Stack
from tiny import (
    ARCHITECTURES,
    VARIANTS,
    both_models,
    hf_model,
    packed_hidden,
    random_tokens,
    tiny_model,
    tiny_tokenizer,
)

TOKENS = random_tokens(40, seed=3)
TEXT = "User: 用8、3、1算出23。\nAssistant: <think>11+12=23</think><answer>23</answer> 🙂"


def logits_of(model: Decoder) -> torch.Tensor:
    with torch.no_grad():
        return packed_hidden(model, [TOKENS]) @ model.lm_head.T


def hf_logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0]


def edit_config(folder: Path, changes: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A folder that transformers saved."""
    hf_model("llama").save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_transformers_opens_a_saved_folder_with_equal_logits(name: str, tmp_path: Path):
    model = both_models(name, tmp_path / "theirs")[1]
    save_model(model, tiny_tokenizer(), tmp_path / "ours")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32, output_loading_info=True)
    opened, info = loaded
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert opened.config.model_type == model.config.model_type
    assert opened.config.tie_word_embeddings == VARIANTS[name].get("tie_word_embeddings", False)
    torch.testing.assert_close(hf_logits(opened), logits_of(model), rtol=1e-4, atol=1e-4)


def test_transformers_knows_the_end_token_and_the_type_of_a_saved_folder(tmp_path: Path):
    save_model(tiny_model(dtype=torch.bfloat16), tiny_tokenizer(), tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert opened.dtype == torch.bfloat16
    assert opened.generation_config.eos_token_id == tiny_tokenizer().eos_token_id == opened.config.eos_token_id
    assert opened.config.max_position_embeddings == tiny_model().config.context


def test_transformers_tokenizes_as_ours_in_a_saved_llama_folder(tmp_path: Path):
    save_model(tiny_model(), tiny_tokenizer(), tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert opened(TEXT)["input_ids"] == tiny_tokenizer()(TEXT)["input_ids"]
    assert opened.decode(opened(TEXT)["input_ids"]) == TEXT
    assert opened.eos_token_id == tiny_tokenizer().eos_token_id


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_sharded_folder_of_transformers_opens_in_ours(name: str, tmp_path: Path):
    theirs = hf_model(name)
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").is_file() and len(list(tmp_path.glob("*.safetensors"))) > 2
    ours = load_model(tmp_path, torch.float32)
    torch.testing.assert_close(logits_of(ours), hf_logits(theirs), rtol=1e-4, atol=1e-4)
    assert to_hf(cast(Stack, ours)).keys() <= theirs.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tie", [True, False])
def test_saved_and_opened_weights_are_the_same_bits(dtype: torch.dtype, tie: bool, tmp_path: Path):
    model = tiny_model(dtype=dtype, tie=tie)
    save_model(model, tiny_tokenizer(), tmp_path)
    opened = load_model(tmp_path, dtype)
    assert opened.config == model.config
    assert opened.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(opened.state_dict()[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_folder_of_transformers_survives_the_round_trip_through_ours(name: str, tmp_path: Path):
    theirs, ours = both_models(name, tmp_path / "theirs")
    save_model(ours, tiny_tokenizer(), tmp_path / "ours")
    before, after = load_file(tmp_path / "theirs/model.safetensors"), load_file(tmp_path / "ours/model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert read_config(tmp_path / "theirs") == read_config(tmp_path / "ours")


def test_older_config_files_name_the_rotary_base_at_the_top(llama: Path):
    expected = read_config(llama)
    config = json.loads((llama / "config.json").read_text())
    del config["rope_parameters"]
    (llama / "config.json").write_text(json.dumps(config | {"rope_theta": 500.0, "rope_scaling": None}))
    assert read_config(llama) == expected and expected.rope_theta == 500.0


def test_a_missing_weight_is_named(llama: Path):
    weights = load_file(llama / "model.safetensors")
    del weights["model.layers.1.self_attn.k_proj.weight"]
    save_file(weights, llama / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 weights are missing, first model\.layers\.1\.self_attn\.k_proj\.weight"):
        load_model(llama, torch.float32)


def test_an_untied_config_asks_for_its_own_head(llama: Path):
    edit_config(llama, {"tie_word_embeddings": False})
    with pytest.raises(ValueError, match=r"missing, first lm_head\.weight"):
        load_model(llama, torch.float32)


def test_a_weight_of_another_shape_is_named_with_both_shapes(llama: Path):
    edit_config(llama, {"intermediate_size": 50})
    with pytest.raises(ValueError, match=r"mlp\.\w+_proj\.weight is \[.*48.*\], but config\.json asks for \[.*50.*\]"):
        load_model(llama, torch.float32)


def test_a_weight_that_the_model_type_does_not_have_is_named(tmp_path: Path):
    hf_model("qwen3").save_pretrained(tmp_path)
    edit_config(tmp_path, {"model_type": "llama"})
    with pytest.raises(ValueError, match=r"unexpected weight .*[qk]_norm\.weight; is llama the right model_type"):
        load_model(tmp_path, torch.float32)


def test_a_folder_without_safetensors_says_how_to_get_them(llama: Path):
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"no \.safetensors file.*save_pretrained"):
        load_model(llama, torch.float32)


def test_a_path_that_is_no_model_is_an_error_and_not_a_download(tmp_path: Path):
    for name in (tmp_path, tmp_path / "absent", "./absent/model", "absent"):
        with pytest.raises(FileNotFoundError, match=r"is not a model.*no config\.json"):
            model_folder(name)


def test_a_folder_is_itself(llama: Path):
    assert model_folder(llama) == model_folder(str(llama)) == llama
    assert model_folder("demo-base").parts[-2:] == ("assets", "demo-base")
