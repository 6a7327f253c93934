"""Which parts of a conversation the assistant says: contexts and replies in turn, for any chat template.

A reply is what the model samples after the context that it sees, so the text is cut there and both are tokenized apart,
as they are when a policy samples: the loss falls on the assistant's tokens and the end of its turn, exactly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, cast

from r1kit.model.chat import CHAT, TODAY, apply_template, as_dicts, render_prompt, turn_ends
from r1kit.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = Literal["all", "last"]
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Exchange:
    """Text that the model sees, and what it is to say then."""

    context: str
    reply: str
    """With the end of the turn, except for the last one of a sequence: those are tokens, `turn_ends`."""


def exchanges(
    messages: Sequence[Message],
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    turns: Turns = "all",
    ends: Sequence[int] = (),
) -> list[tuple[Exchange, ...]]:
    """The sequences that teach the assistant's turns, each as exchanges that follow each other; `last`: the last turn.

    A template that marks the assistant's text with {% generation %} is taken at its word, unless it takes the thought
    out of what it marks. Where each context begins with the one before and its reply, all turns share one sequence.
    Where it does not (R1's and Qwen3's templates take the thoughts out of earlier turns), each turn is a sequence of
    its own, after the context that the model will see.
    `ends` is `turn_ends` of the two, where the caller has it. ValueError for what the template cannot hold.
    """
    marks = [str(tokenizer.decode([end])) for end in ends or turn_ends(template, tokenizer)]
    places = [place for place, message in enumerate(messages) if message.role == "assistant" and place]
    if turns == "last":
        places = places[-1:]
    if len(places) > 1 and template in CHAT and GENERATION.search(str(tokenizer.chat_template)):
        marked = _marked(messages, tokenizer, marks)
        said = [messages[place].content.strip() for place in places]
        if len(marked) != len(said) or all(text in one.reply for text, one in zip(said, marked, strict=True)):
            return [marked]
    alone = [_exchange(messages, place, template, tokenizer, marks) for place in places]
    if all(later.context.startswith(before.context + before.reply) for before, later in pairwise(alone)):
        return [_joined(alone, tokenizer, marks)]
    return [(exchange,) for exchange in alone]


def _exchange(
    messages: Sequence[Message], place: int, template: str, tokenizer: PreTrainedTokenizerBase, marks: Sequence[str]
) -> Exchange:
    """The turn at `place`: its context as at sampling, and the text as it is in the data, its leading space too.

    Where the template opens the thought (its prefill), the text's own opening is taken off; an end that the data write
    out as well.
    """
    prompt = render_prompt(template, messages[:place], tokenizer)
    said = _without_end(messages[place].content, tokenizer, marks)
    if not prompt.prefill:
        return Exchange(prompt.text, said)
    tag, begun = prompt.prefill.rstrip(), said.lstrip()
    if not begun.startswith(tag):
        raise ValueError(
            f"template {template} opens the thought with {prompt.prefill!r}, but the assistant's text begins with "
            f"{said[:40]!r}; begin it with {tag}, or choose a template without this opening"
        )
    # White space after the tag is the template's; the text may have it too.
    return Exchange(prompt.text, begun.removeprefix(tag).removeprefix(prompt.prefill.removeprefix(tag)))


def _without_end(said: str, tokenizer: PreTrainedTokenizerBase, marks: Sequence[str]) -> str:
    """A reply without the ends of turn and sequence that are written out after it."""
    ends = (*marks, str(tokenizer.eos_token))
    while end := next(filter(said.rstrip().endswith, ends), ""):
        said = said.rstrip().removesuffix(end)
    return said


def _joined(
    alone: Sequence[Exchange], tokenizer: PreTrainedTokenizerBase, marks: Sequence[str]
) -> tuple[Exchange, ...]:
    """One sequence: of each context only what is new, and the end of each turn with its reply."""
    swallowing = _swallowing(tokenizer)
    made: list[Exchange] = []
    told = ""
    for one, later in zip(alone, (*alone[1:], None), strict=True):
        after = later.context.removeprefix(one.context + one.reply) if later is not None else ""
        end = ""
        for mark in marks:  # a template may write some of them after the last turn only
            if not after.startswith(end + mark):
                break
            end += mark
            if mark in swallowing:
                end += after[len(end) : len(after) - len(after[len(end) :].lstrip())]
        made.append(Exchange(one.context.removeprefix(told), one.reply + end))
        told = one.context + one.reply + end
    return tuple(made)


def _swallowing(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Special tokens that take the white space after them along (Phi-3's): cut off from them, it would be tokens."""
    added = cast("dict[int, Any]", tokenizer.added_tokens_decoder)  # type: ignore[attr-defined]
    return {str(one) for one in added.values() if one.rstrip}


def _marked(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, marks: Sequence[str]
) -> tuple[Exchange, ...]:
    """The parts that the template's {% generation %} marks enclose; parts that touch are one."""
    from transformers.utils.chat_template_utils import render_jinja_template

    apply_template(messages, tokenizer, add_generation_prompt=False)  # its errors say what to do
    special = cast("dict[str, Any]", tokenizer.special_tokens_map)
    rendered: Any = render_jinja_template(
        [as_dicts(messages)], None, None, str(tokenizer.chat_template), return_assistant_tokens_mask=True,
        strftime_now=TODAY.strftime, **special,
    )  # fmt: skip
    [text], [spans] = rendered
    made: list[Exchange] = []
    told = 0
    for start, end in spans:
        if made and start == told:
            made[-1] = Exchange(made[-1].context, made[-1].reply + text[start:end])
        else:
            made.append(Exchange(text[told:start], text[start:end]))
        told = end
    last = made[-1]
    return (*made[:-1], Exchange(last.context, _without_end(last.reply.rstrip(), tokenizer, marks)))
