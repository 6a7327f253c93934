"""Facts about reading and saving model folders: shards, one copy in memory, and a config that stays the model's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1kit.model import shards
from r1kit.model.hf import load_model, save_model, to_hf
from r1kit.model.tokenizer import end_tokens, load_tokenizer
from r1kit.model.transformer import Stack, Transformer, TransformerConfig
from tiny import hf_model, tiny_model, tiny_tokenizer


def edit_config(folder: Path, changes: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A folder that transformers saved."""
    hf_model("llama").save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """The same in shards."""
    hf_model("llama").save_pretrained(tmp_path / "cut", max_shard_size="20KB")
    return tmp_path / "cut"


def test_a_saved_folder_keeps_the_models_own_config(llama: Path, tmp_path: Path):
    """Fields that nothing here reads, too; only what changed is changed."""
    own = {"initializer_range": 0.037, "pretraining_tp": 3, "eos_token_id": [5, 6], "my_field": [1]}
    edit_config(llama, own)
    generation = {"eos_token_id": [5, 6], "bos_token_id": 9, "do_sample": True, "temperature": 0.6, "top_p": 0.95}
    (llama / "generation_config.json").write_text(json.dumps(generation))
    save_model(load_model(llama, torch.bfloat16), tiny_tokenizer(), tmp_path / "ours")
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (llama, tmp_path / "ours"))
    assert after == before | {"dtype": "bfloat16", "eos_token_id": [5, 6, 0]}
    saved = json.loads((tmp_path / "ours/generation_config.json").read_text())
    assert saved == generation | {"eos_token_id": [5, 6, 0], "pad_token_id": 1}
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert (opened.generation_config.temperature, opened.config.initializer_range) == (0.6, 0.037)


@pytest.mark.parametrize(
    ("own", "stops", "expected"),
    [(None, (), 0), (None, (0,), 0), (None, (0, 7), [0, 7]), (0, (0, 7), [0, 7]), (5, (0,), [5, 0])]
    + [([5, 6], (7, 0, 5), [5, 6, 0, 7]), ([0], (), [0]), ([5, 0], (0, 5), [5, 0])],
)
def test_the_ends_of_training_are_saved_beside_the_models_own(
    own: Any, stops: tuple[int, ...], expected: Any, llama: Path, tmp_path: Path
):
    """transformers and vLLM stop at those of generation_config.json, and so does a tokenizer that is opened here."""
    (llama / "generation_config.json").write_text(json.dumps({"eos_token_id": own, "_from_model_config": True}))
    save_model(load_model(llama, torch.float32), tiny_tokenizer(), tmp_path / "ours", stops=stops)
    saved = json.loads((tmp_path / "ours/generation_config.json").read_text())
    assert saved["eos_token_id"] == expected and "_from_model_config" not in saved
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").generation_config.eos_token_id
    assert opened == expected
    ends = expected if isinstance(expected, list) else [expected]
    assert set(end_tokens(load_tokenizer(tmp_path / "ours"))) == set(ends)


def test_what_would_be_wrong_in_a_saved_config_is_left_out(llama: Path, tmp_path: Path):
    edit_config(
        llama, {"auto_map": {"AutoConfig": "mine.Config"}, "_name_or_path": "/home/me", "torch_dtype": "float32"}
    )
    save_model(load_model(llama, torch.bfloat16), tiny_tokenizer(), tmp_path / "ours")
    saved = json.loads((tmp_path / "ours/config.json").read_text())
    assert not saved.keys() & {"auto_map", "_name_or_path"} and saved["dtype"] == "bfloat16"


def test_older_config_files_name_the_type_otherwise(llama: Path, tmp_path: Path):
    edit_config(llama, {"torch_dtype": "float32"})
    config = json.loads((llama / "config.json").read_text())
    del config["dtype"]
    (llama / "config.json").write_text(json.dumps(config))
    save_model(load_model(llama, torch.bfloat16), tiny_tokenizer(), tmp_path / "ours")
    saved = json.loads((tmp_path / "ours/config.json").read_text())
    assert saved["torch_dtype"] == "bfloat16" and "dtype" not in saved


def test_the_chat_template_is_saved(tmp_path: Path):
    save_model(tiny_model(), tiny_tokenizer(), tmp_path / "first")
    (tmp_path / "first/chat_template.jinja").write_text("{% for m in messages %}<{{ m.content }}>{% endfor %}")
    save_model(tiny_model(), load_tokenizer(tmp_path / "first"), tmp_path / "second")
    opened = AutoTokenizer.from_pretrained(tmp_path / "second")
    assert opened.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<hi>"


@pytest.mark.parametrize("size", ["40KB", 40_000])
def test_a_large_model_is_saved_in_shards_that_transformers_opens(size: int | str, llama: Path, tmp_path: Path):
    model = cast(Stack, load_model(llama, torch.float32))
    folder = tmp_path / "ours"
    save_model(model, tiny_tokenizer(), folder)
    save_model(model, tiny_tokenizer(), folder, max_shard_size=size)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = {path.name for path in folder.glob("*.safetensors")}
    assert files == set(index["weight_map"].values()) and len(files) > 2, "and the unsharded file is gone"
    # The embedding is larger than a shard; it has a file to itself.
    assert sorted((folder / file).stat().st_size for file in files)[-2] < 42_000
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in to_hf(model).values())
    opened = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).state_dict()
    assert all(torch.equal(opened[key], value) for key, value in theirs.items())
    again = load_model(folder, torch.float32).state_dict()
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())
    save_model(model, tiny_tokenizer(), folder)
    assert [path.name for path in folder.glob("model*")] == ["model.safetensors"]


def test_missing_shards_are_named(cut: Path):
    files = sorted(cut.glob("*.safetensors"))
    for file in files[1:3]:
        file.unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"2 of {len(files)} files .* missing, {files[1].name}, {files[2].name};"
    ):
        load_model(cut, torch.float32)


def test_a_file_that_was_cut_off_is_named(llama: Path):
    file = llama / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is not whole .*download it again"):
        load_model(llama, torch.float32)


def test_a_config_that_is_not_json_is_named(llama: Path):
    (llama / "config.json").write_text('{"model_type": "lla')
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        load_model(llama, torch.float32)


def test_a_weight_that_only_the_index_has_is_named(cut: Path):
    path = cut / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    places, name = index["weight_map"], "model.layers.0.mlp.down_proj.weight"
    places[name] = next(file for file in places.values() if file != places[name])
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"has no {name}, which the index says it has"):
        load_model(cut, torch.float32)


def test_other_files_than_those_of_the_index_are_not_read(cut: Path):
    """Mistral's folders hold the same weights a second time, under other names."""
    save_file({"tok_embeddings.weight": torch.zeros(3)}, cut / "consolidated.safetensors")
    assert load_model(cut, torch.float32).config.vocab_size


@pytest.mark.parametrize("same", [True, False])
def test_a_tied_models_head_must_be_its_embedding(same: bool, llama: Path):
    weights = load_file(llama / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + (0.0 if same else 0.1)
    save_file(weights, llama / "model.safetensors")
    if same:
        assert load_model(llama, torch.bfloat16).config.vocab_size
        return
    with pytest.raises(ValueError, match=r"lm_head\.weight is not the embedding.*tie_word_embeddings"):
        load_model(llama, torch.float32)


def test_a_file_opened_in_spans_gives_every_weight(llama: Path, monkeypatch: pytest.MonkeyPatch):
    expected = load_model(llama, torch.float32).state_dict()
    monkeypatch.setattr(shards, "SPAN", 5_000)
    again = load_model(llama, torch.float32).state_dict()
    assert all(torch.equal(again[key], value) for key, value in expected.items())


MEASURE = """
import sys
from pathlib import Path
import torch
from r1kit.model import shards
from r1kit.model.hf import load_model
def kib(field):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if field in line)
shards.SPAN = 1 << 24
load_model("demo-base", torch.float32)  # what is imported late is not the model's
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
before = kib("VmRSS")
model = load_model(sys.argv[1], torch.float32)
print((kib("VmHWM") - before) * 1024, sum(p.nbytes for p in model.parameters()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("size", "changes"),
    [("20MB", {}), ("1GB", {}), ("20MB", {"hidden_act": "gelu"})],
    ids=["shards", "one file", "through transformers"],
)
def test_loading_holds_one_copy_of_the_weights(size: str, changes: dict[str, str], tmp_path: Path):
    """On the device of the model; of the files, no more than a span is in memory."""
    config = TransformerConfig(
        model_type="llama",
        vocab_size=2000,
        hidden=768,
        layers=6,
        heads=12,
        kv_heads=12,
        head_dim=64,
        mlp=2048,
        context=64,
    )
    with torch.device("meta"):
        model = Transformer(config)
    model = model.to_empty(device="cpu")
    for weight in model.parameters():
        weight.data.zero_()
    save_model(model, tiny_tokenizer(), tmp_path, max_shard_size=size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 5) == (size == "20MB")
    edit_config(tmp_path, changes)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, weights = map(int, done.stdout.split())
    assert weights > 170e6 and weights * 0.95 < peak < weights * 1.35, (peak, weights)
