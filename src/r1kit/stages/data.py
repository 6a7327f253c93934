"""Look at a data set as a run would read it: `r1kit data SOURCE`.

r1kit data gsm8k                                                 # as problems
r1kit data my.parquet --read-as conversations --model PATH       # and what of them is learnt
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console

from r1kit.config import DataConfig
from r1kit.tasks import FiniteProblems, load_problems, summaries

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 600
"""Characters of a text that are shown."""


def main(cfg: DataConfig) -> None:
    """Print the summary and the first rows. ValueError or FileNotFoundError for what a run would not take."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if cfg.read_as == "conversations":
        show_conversations(cfg, console)
    else:
        show_problems(cfg, console)


def show_problems(cfg: DataConfig, console: Console) -> None:
    """The problems of one split, as --tasks reads them."""
    from r1kit.training.prompts import shorter_prompts

    problems = load_problems(
        cfg.source, cfg.split, 0, columns=cfg.columns, filters=cfg.filter, system_prompt=cfg.system_prompt
    )
    tokenizer = open_tokenizer(cfg)
    if tokenizer:
        problems = shorter_prompts(problems, tokenizer, cfg.template, cfg.filter.max_prompt_tokens)
    console.print(*summaries([problems]), sep="\n")
    shown = problems.problems[: cfg.rows] if isinstance(problems, FiniteProblems) else problems.take(0, cfg.rows)
    if isinstance(problems, FiniteProblems):
        scorers = Counter(problem.scorer for problem in problems.problems)
        counts = ", ".join(f"{count:,} {scorer}" for scorer, count in scorers.most_common())
        console.print(f"{len(problems.problems):,} {cfg.split} problems; scorers: {counts}")
    for problem in shown:
        console.print(f"\n{problem.task} {problem.id}")
        if tokenizer:
            from r1kit.model.chat import render_prompt

            console.print(shortened(render_prompt(cfg.template, problem.messages, tokenizer).text))
        else:
            for message in problem.messages:
                console.print(f"{message.role}: {shortened(message.content)}")
        console.print(f"gold ({problem.scorer}): {problem.gold}")


def show_conversations(cfg: DataConfig, console: Console) -> None:
    """The conversations, as --data reads them; with a model also their tokens and what is learnt."""
    from r1kit.training.conversations import mask_text, prepare, read_conversations, render_turns

    conversations = read_conversations([cfg.source], cfg.columns, cfg.filter, cfg.system_prompt)
    console.print(conversations.summary)
    tokenizer = open_tokenizer(cfg)
    if tokenizer:
        data = prepare(
            conversations, tokenizer, cfg.template, 2**31, turns=cfg.turns,
            max_prompt_tokens=cfg.filter.max_prompt_tokens,
        )  # fmt: skip
        console.print(data.summary())
    for conversation in conversations[: cfg.rows]:
        console.print(f"\n{conversation.where}")
        if tokenizer:
            for rendered in render_turns(conversation, cfg.template, tokenizer, cfg.turns):
                console.print(mask_text(rendered, tokenizer, 2 * console.width // 3))
        else:
            for message in conversation.messages:
                console.print(f"{message.role}: {shortened(message.content)}")


def open_tokenizer(cfg: DataConfig) -> PreTrainedTokenizerBase | None:
    """The tokenizer of `cfg.model`; None where no model is named."""
    if not cfg.model:
        return None
    from r1kit.model.tokenizer import load_tokenizer
    from r1kit.training.models import resolve_model

    return load_tokenizer(resolve_model(cfg.model))


def shortened(text: str) -> str:
    return (
        text
        if len(text) <= SHOWN
        else f"{text[: SHOWN // 2]}\n[... {len(text) - SHOWN:,} characters ...]\n{text[-SHOWN // 2 :]}"
    )
