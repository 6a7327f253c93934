"""Tokenizers: the one of a model folder, and the small byte-level BPE that `r1kit pretrain` makes for its base."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
# Every punctuation mark and every number up to two digits is its own piece, so `24-1=23` always splits the same way.
PIECES = r"\d{1,2}| ?\p{L}+|[^\s\p{L}\d]|\s"

PADS = ("<|finetune_right_pad_id|>", "<pad>", "[PAD]", "<|pad|>")
"""Padding tokens that vocabularies have without saying so (Llama 3, Gemma, ...); where none is, the end token pads."""
_ENDS: dict[str, tuple[int, ...]] = {}
"""End tokens that the config beside a tokenizer names, by the folder that it was opened from."""


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, as tokenizer.json has it; nothing is added to its vocabulary.

    Where it names no end or padding token, the model's own config, or a token that it has, stands in. ValueError when
    nothing says which token ends a text, and when there are tokens that the model has no embedding for.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # AutoTokenizer puts a class's own way of splitting text in place of the one in tokenizer.json: for Qwen2's model
    # type whatever the folder says, and for DeepSeek's distilled Llamas, whose folders name LlamaTokenizerFast
    # (transformers issue 45488). Spaces would vanish and numbers split otherwise than in training.
    complete = (Path(folder) / "tokenizer.json").is_file()
    tokenizer = (PreTrainedTokenizerFast if complete else AutoTokenizer).from_pretrained(folder)
    # transformers 5 overlooks this field where the class does not ask for it, as DeepSeek's does.
    if complete and _read(Path(folder) / "tokenizer_config.json").get("add_bos_token") and tokenizer.bos_token:
        tokenizer.add_bos_token = True
    _check_rows(tokenizer, Path(folder))
    ends = _ends_in(Path(folder))
    if tokenizer.eos_token_id is None:
        named = [token for token in tokenizer.convert_ids_to_tokens(list(ends)) if token is not None]
        if not named:
            raise ValueError(
                f"{folder}: the tokenizer has no eos_token, so completions cannot end; set it in tokenizer_config.json"
            )
        tokenizer.eos_token = named[0]
    if tokenizer.pad_token_id is None:
        vocabulary = tokenizer.get_vocab()
        tokenizer.pad_token = next((token for token in PADS if token in vocabulary), tokenizer.eos_token)
    _ENDS[tokenizer.name_or_path] = ends
    return tokenizer


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens at which the model's text is over: the tokenizer's own, then those of the model's generation config.

    Llama 3 has three of them: <|end_of_text|>, <|eom_id|> and <|eot_id|>.
    """
    return tuple(dict.fromkeys((cast(int, tokenizer.eos_token_id), *_ENDS.get(tokenizer.name_or_path, ()))))


def begin_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the tokenizer puts before every text (Llama 3's <|begin_of_text|>); "" for those that put nothing.

    A model that has seen no text without it is worse without it.
    """
    added = cast("list[int]", tokenizer("")["input_ids"])[:1]
    return str(tokenizer.bos_token) if added and added[0] == tokenizer.bos_token_id else ""


def _check_rows(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """ValueError when ids go beyond the rows that config.json gives the embedding."""
    config = _read(folder / "config.json")
    rows = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    last = max(tokenizer.get_vocab().values())
    if rows is not None and last >= rows:
        raise ValueError(
            f"{folder}: the tokenizer has ids up to {last}, the model's embedding {rows} rows; take the model's own "
            f"tokenizer, or add rows first with transformers' resize_token_embeddings"
        )


def _ends_in(folder: Path) -> tuple[int, ...]:
    """`eos_token_id`, one id or several, of generation_config.json, else of config.json."""
    for name in ("generation_config.json", "config.json"):
        ids = _read(folder / name).get("eos_token_id")
        if ids is not None:
            return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE without loss, in which 0..99 and the think/answer tags are single tokens.

    `<|endoftext|>` is id 0 and ends documents; `<|pad|>` is id 1.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(TAGS),
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # BPE merges by frequency, so two-digit numbers come first only if they are by far the most frequent pairs.
    numbers = [str(number) for number in range(10, 100)] * 2000
    core.train_from_iterator([*documents, *numbers], trainer)
    core.add_tokens(list(TAGS))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|endoftext|>", pad_token="<|pad|>", clean_up_tokenization_spaces=False
    )
