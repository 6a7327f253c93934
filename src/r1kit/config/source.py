"""How data sets are read: which column is which, and which rows are used. The flags are the same in every stage."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from r1kit.config.checked import config
from r1kit.config.common import require


@config
class ColumnsConfig:
    """Which column of a data set is which. Empty: the usual names and the known formats (docs/your-data.md)."""

    prompt: str = ""
    """Column with the question: a text, or messages that end with the user's. In a .csv or .tsv file without a line of
    names it is a number: 1 is the first column."""
    answer: str = ""
    """Column with what the scorer compares with."""
    completion: str = ""
    """Column with the assistant's text, for fine-tuning."""
    messages: str = ""
    """Column with a whole conversation, for fine-tuning."""
    chosen: str = ""
    """Column with the preferred response, for reward models."""
    rejected: str = ""
    """Column with the other response, for reward models."""
    scorer: str = ""
    """Scorer of rows that name none (exact, number, math, ...). Empty: the known format's, else math."""

    def names(self) -> dict[str, str]:
        """{"prompt": "question"}: those that are given, `scorer` apart."""
        given = {
            "prompt": self.prompt, "answer": self.answer, "completion": self.completion, "messages": self.messages,
            "chosen": self.chosen, "rejected": self.rejected,
        }  # fmt: skip
        return {field: column for field, column in given.items() if column}


@config
class FilterConfig:
    """Which rows of a data set are used. What is dropped is counted and printed with its reason."""

    first: int = 0
    """Read so many rows of each data set, from its beginning; 0 is all. A set of the Hugging Face hub is then streamed:
    no more than that is downloaded."""
    duplicates: Literal["drop", "near", "keep"] = "drop"
    """drop: leave out rows that are an earlier one again, case and white space aside. near: also those that share 7 in
    10 of their sequences of 5 words and signs with an earlier one."""
    decontaminate: tuple[str, ...] = ()
    """Evaluation sets, as in --tasks: rows that share `ngram` words on end with a held-out problem of theirs or its
    reference solution are dropped (R1 V2 D.1)."""
    ngram: int = 10
    """Words on end that make a row contaminated (R1 V2 D.1: 10)."""
    max_prompt_tokens: int = 0
    """Longest prompt, tokens; longer ones are dropped. 0 is no limit."""

    def __post_init__(self) -> None:
        require(self.first >= 0, f"--filter.first is {self.first}; give a number of rows, or 0 for all")
        require(self.ngram > 0, f"--filter.ngram is {self.ngram}; give at least 1 (the paper: 10)")
        require(
            self.max_prompt_tokens >= 0,
            f"--filter.max-prompt-tokens is {self.max_prompt_tokens}; give a number of tokens, or 0 for no limit",
        )


@config
class DataConfig:
    """Look at a data set as a run would read it, before any compute: `r1kit data SOURCE`.

    Prints what was read and left out, and why, the first rows, and with `model` what of them is learnt.
    """

    source: str = ""
    """A file, a folder, a set known by name (gsm8k), a name on the Hugging Face hub (org/name), or a task."""
    read_as: Literal["problems", "conversations"] = "problems"
    """problems: as --tasks of `r1kit rl` reads it. conversations: as --data of `r1kit sft` does."""
    split: Literal["train", "heldout"] = "train"
    """Which problems."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    system_prompt: str = ""
    """Put before prompts that have no system message."""
    rows: int = 2
    """Rows to show."""
    model: str = ""
    """Model whose template and tokenizer show what the model sees, and what of it is learnt."""
    template: str = "chat"
    """Prompt template: short, r1-zero or r1 (each also -prefilled), or chat or chat-prefilled (the model's own)."""
    turns: Literal["all", "last"] = "all"
    """Which of the assistant's turns are learnt."""
