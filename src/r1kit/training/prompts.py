"""Prompts in tokens: how long they are, and which are too long."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from r1kit.model.chat import render_prompt
from r1kit.tasks import FiniteProblems, ProblemSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def shorter_prompts(
    problems: ProblemSet, tokenizer: PreTrainedTokenizerBase, template: str, max_prompt_tokens: int
) -> ProblemSet:
    """The problems of a data set whose prompts have at most so many tokens; 0 is no limit. Generated tasks keep all.

    ValueError when none is short enough.
    """
    if not max_prompt_tokens or not isinstance(problems, FiniteProblems):
        return problems
    texts = [render_prompt(template, problem.messages, tokenizer).text for problem in problems.problems]
    tokens = cast("list[list[int]]", tokenizer(texts, add_special_tokens=False)["input_ids"])
    lengths = list(map(len, tokens))
    short = [length <= max_prompt_tokens for length in lengths]
    kept = tuple(problem for problem, is_short in zip(problems.problems, short, strict=True) if is_short)
    if not kept:
        raise ValueError(
            f"{problems.name}: all {len(lengths):,} {problems.split} prompts are longer than {max_prompt_tokens} "
            f"tokens (the shortest has {min(lengths)}); raise --filter.max-prompt-tokens"
        )
    dropped = (
        f"; {len(lengths) - len(kept):,} {problems.split} prompts longer than {max_prompt_tokens:,} tokens dropped"
    )
    return replace(problems, problems=kept, summary=problems.summary + dropped)
