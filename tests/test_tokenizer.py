"""Facts about tokenizers: nothing is lost, numbers and tags are one token, a folder gives back the ids of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2Tokenizer

from r1kit.config import ChatConfig, EvalConfig
from r1kit.model.chat import render_prompt, stop_tokens
from r1kit.model.hf import save_model
from r1kit.model.tokenizer import TAGS, begin_text, end_tokens, load_tokenizer, train_tokenizer
from r1kit.stages import chat, evaluate
from r1kit.training.models import open_model
from r1kit.types import Message
from tiny import DOCUMENTS, VOCAB, both_models, hf_model, tiny_model, tiny_tokenizer

TEXTS = (
    "11", "24-1=23", "8*3=24\n24-1=23 no", "3141592653", "x=10/5 r0", "007", " 42 ", "(8-3)*2=10\n\n\n",
    "User: 用8、3、1算出23。\nAssistant: <think>对了</think><answer>8*3-1</answer>",
    "农民在市场上买了三个苹果。", "龘 𠮷 ﬁ é e\u0301 Ä", "🙂👨‍👩‍👧 🇨🇳", "\ttabs\r\nand  spaces   ",
    "naïve ﷽ \u200b\x00", "don't  stop", "a\u3000b", "½ ² ٣ १२", "", " ", "\n",
)  # fmt: skip


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[return-value]


@pytest.mark.parametrize("number", [0, 7, 9, 10, 11, 23, 55, 99])
def test_a_number_below_100_is_one_token_wherever_it_stands(number: int):
    tokenizer = tiny_tokenizer()
    (token,) = ids_of(tokenizer, str(number))
    for text in (f"1+{number}=", f"r{number}", f"={number}\n", f"用{number}、", f" {number} ", f"({number})"):
        assert ids_of(tokenizer, text).count(token) == 1, text


def test_all_numbers_below_100_are_single_and_different_tokens():
    ids = [tuple(ids_of(tiny_tokenizer(), str(number))) for number in range(100)]
    assert {len(tokens) for tokens in ids} == {1} and len(set(ids)) == 100


def test_a_calculation_is_split_at_every_sign():
    tokenizer = tiny_tokenizer()
    tokens = [str(tokenizer.decode([token])) for token in ids_of(tokenizer, "24-1=23 no\n(8*3)/12 r2")]
    numbers_and_signs = [piece for piece in tokens if not piece.strip().isalpha() and piece.strip()]
    assert numbers_and_signs == ["24", "-", "1", "=", "23", "(", "8", "*", "3", ")", "/", "12", "2"]


def test_tags_are_single_tokens_that_touch_nothing_around_them():
    tokenizer = tiny_tokenizer()
    for tag in TAGS:
        (token,) = ids_of(tokenizer, tag)
        assert tokenizer.decode([token]) == tag
        assert ids_of(tokenizer, f"24 {tag} 1\n") == [*ids_of(tokenizer, "24 "), token, *ids_of(tokenizer, " 1\n")]
    assert len({tuple(ids_of(tokenizer, tag)) for tag in TAGS}) == 4


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_round_trip(text: str):
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(ids_of(tokenizer, text)) == text


def test_special_tokens_have_the_first_ids_and_the_size_is_the_one_asked_for():
    tokenizer = tiny_tokenizer()
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|endoftext|>", 0)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|pad|>", 1)
    assert len(tokenizer) == VOCAB
    assert tokenizer("1+1")["input_ids"] == ids_of(tokenizer, "1+1"), "nothing is put around a text"


def test_training_twice_gives_the_same_ids():
    again = train_tokenizer(iter(DOCUMENTS), VOCAB)
    assert again.get_vocab() == tiny_tokenizer().get_vocab()
    assert [ids_of(again, text) for text in TEXTS] == [ids_of(tiny_tokenizer(), text) for text in TEXTS]


@pytest.mark.parametrize("class_name", ["as saved", "PreTrainedTokenizerFast", "TokenizersBackend"])
@pytest.mark.parametrize("name", ["qwen2", "llama", "qwen3"])
def test_a_folder_gives_back_the_ids_of_training(name: str, class_name: str, tmp_path: Path):
    """AutoTokenizer alone splits "11" into two digits in a qwen2 folder, whatever tokenizer.json says."""
    model = both_models(name, tmp_path)[1]
    save_model(model, tiny_tokenizer(), tmp_path)
    if class_name != "as saved":
        path = tmp_path / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": class_name}))
    opened = load_tokenizer(tmp_path)
    for text in TEXTS:
        assert ids_of(opened, text) == ids_of(tiny_tokenizer(), text), text
        assert opened.decode(ids_of(opened, text)) == text
    assert (opened.eos_token_id, opened.pad_token_id, len(opened)) == (0, 1, VOCAB)


def test_saving_what_was_opened_changes_nothing(tmp_path: Path):
    save_model(tiny_model(), tiny_tokenizer(), tmp_path / "first")
    save_model(tiny_model(), load_tokenizer(tmp_path / "first"), tmp_path / "second")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "first" / file).read_text() == (tmp_path / "second" / file).read_text(), file


@pytest.mark.parametrize("saved_by", ["transformers 4", "transformers 5"])
def test_a_tokenizer_with_a_class_of_its_own_keeps_its_way_of_splitting(saved_by: str, tmp_path: Path):
    hf_model("qwen2").save_pretrained(tmp_path)
    core = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]  # type: ignore[attr-defined]
    merges = [tuple(merge) for merge in core["merges"]]
    qwen = Qwen2Tokenizer(vocab=core["vocab"], merges=merges)  # type: ignore[arg-type]
    qwen.save_pretrained(tmp_path)
    if saved_by == "transformers 4":  # its slow tokenizers: two files that only the class can read
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / "vocab.json").write_text(json.dumps(core["vocab"]))
        (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(merge) + "\n" for merge in merges))
    opened = load_tokenizer(tmp_path)
    for text in ("11", "24-1=23", "don't stop\n\n"):
        assert ids_of(opened, text) == ids_of(qwen, text) == ids_of(AutoTokenizer.from_pretrained(tmp_path), text)
    assert len(ids_of(opened, "11")) == 2, "Qwen's own splitting takes digits one by one"


def edit_json(path: Path, changes: dict[str, Any]) -> None:
    """Fields that are None go."""
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny_model(), tiny_tokenizer(), tmp_path)
    return tmp_path


def test_a_tokenizer_without_an_end_token_takes_the_models(folder: Path):
    edit_json(folder / "tokenizer_config.json", {"eos_token": None})
    assert (load_tokenizer(folder).eos_token, len(load_tokenizer(folder))) == ("<|endoftext|>", VOCAB)


@pytest.mark.parametrize("ids", [None, 5000])
def test_a_model_without_an_end_token_is_refused(ids: int | None, folder: Path):
    edit_json(folder / "tokenizer_config.json", {"eos_token": None})
    for name in ("config.json", "generation_config.json"):
        edit_json(folder / name, {"eos_token_id": ids})
    with pytest.raises(ValueError, match=r"no eos_token.*tokenizer_config\.json"):
        load_tokenizer(folder)


def test_a_model_may_end_its_text_with_several_tokens(folder: Path):
    """As Llama 3 does; the generation config counts, then config.json."""
    assert end_tokens(tiny_tokenizer()) == end_tokens(load_tokenizer(folder)) == (0,)
    edit_json(folder / "config.json", {"eos_token_id": [0, 7]})
    edit_json(folder / "generation_config.json", {"eos_token_id": None})
    assert end_tokens(load_tokenizer(folder)) == (0, 7)
    edit_json(folder / "generation_config.json", {"eos_token_id": [9, 0, 8]})
    tokenizer = load_tokenizer(folder)
    assert end_tokens(tokenizer) == stop_tokens("short", tokenizer) == (0, 9, 8)


@pytest.mark.parametrize(("known", "expected"), [("<|finetune_right_pad_id|>", VOCAB), ("<|other|>", 0)])
def test_a_tokenizer_without_padding_pads_with_a_token_that_it_has(known: str, expected: int, folder: Path):
    opened = load_tokenizer(folder)
    opened.add_tokens([known], special_tokens=True)
    opened.save_pretrained(folder)
    edit_json(folder / "tokenizer_config.json", {"pad_token": None})
    edit_json(folder / "config.json", {"vocab_size": VOCAB + 1})
    raw = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(raw.replace("<|pad|>", "<|filling|>"))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.pad_token_id == expected and len(tokenizer) == VOCAB + 1


def test_what_a_tokenizer_puts_before_a_text_is_put_before_plain_templates(folder: Path):
    """Llama 3 and DeepSeek have seen no text without it; a chat template writes it by itself."""
    question = (Message("user", "?"),)
    assert begin_text(load_tokenizer(folder)) == ""
    plain = render_prompt("short", question, load_tokenizer(folder)).text
    edit_json(folder / "tokenizer_config.json", {"bos_token": "<|pad|>"})
    assert begin_text(load_tokenizer(folder)) == "", "it has one, and does not use it"
    edit_json(folder / "tokenizer_config.json", {"add_bos_token": True})
    tokenizer = load_tokenizer(folder)
    assert render_prompt("short", question, tokenizer).text == "<|pad|>" + plain
    tokens = tokenizer("<|pad|>" + plain, add_special_tokens=False)["input_ids"]
    assert tokens == tokenizer(plain)["input_ids"], "the same as the tokenizer's own way"


@pytest.mark.parametrize("named", ["LlamaTokenizerFast", "Qwen2Tokenizer", "LlamaTokenizer"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral"])
def test_the_file_counts_and_not_the_class_that_a_folder_names(name: str, named: str, tmp_path: Path):
    """DeepSeek's distilled Llamas name LlamaTokenizerFast, with which AutoTokenizer loses spaces."""
    model = both_models(name, tmp_path)[1]
    save_model(model, tiny_tokenizer(), tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": named})
    tokenizer = load_tokenizer(tmp_path)
    assert all(ids_of(tokenizer, text) == ids_of(tiny_tokenizer(), text) for text in TEXTS)
    save_model(model, tokenizer, tmp_path / "again")
    opened = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert all(ids_of(opened, text) == ids_of(tiny_tokenizer(), text) for text in TEXTS), "and transformers opens it"


def test_tokens_without_an_embedding_are_refused(folder: Path):
    longer = load_tokenizer(folder)
    longer.add_tokens(["<new>"])
    longer.save_pretrained(folder)
    expected = rf"ids up to {VOCAB}, the model's embedding {VOCAB} rows; .*resize_token"
    (folder / "model.safetensors").write_text("not read before that is known")
    evaluation = EvalConfig(model=str(folder), tasks=("countdown",))
    for way_in in (
        lambda: open_model(str(folder), "cpu", "fp32"),
        lambda: evaluate.main(evaluation),
        lambda: chat.main(ChatConfig(model=str(folder))),
    ):
        with pytest.raises(ValueError, match=expected):
            way_in()
    edit_json(folder / "config.json", {"vocab_size": None, "text_config": {"vocab_size": VOCAB}})
    with pytest.raises(ValueError, match=expected):
        load_tokenizer(folder)
