"""Tokenizers: the one of a model folder, and the small byte-level BPE that `r1kit pretrain` makes for its base."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
# Every punctuation mark and every number up to two digits is its own piece, so `24-1=23` always splits the same way.
PIECES = r"\d{1,2}| ?\p{L}+|[^\s\p{L}\d]|\s"


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hugging Face name; it must know its end-of-sequence token."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # For some model types (Qwen2 among them) AutoTokenizer puts its own way of splitting text in place of the one in
    # tokenizer.json, even where the folder names no class of its own: numbers would silently split otherwise than in
    # training.
    config = Path(folder) / "tokenizer_config.json"
    named = json.loads(config.read_text()).get("tokenizer_class") if config.is_file() else None
    complete = (Path(folder) / "tokenizer.json").is_file()
    generic = complete and named in (None, "TokenizersBackend", "PreTrainedTokenizerFast")
    tokenizer = (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(folder)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"{folder}: the tokenizer has no eos_token, so completions cannot end; set it in tokenizer_config.json"
        )
    return tokenizer


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
