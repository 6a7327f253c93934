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

from r1kit.model.chat import CHAT, apply_template, as_dicts, render_prompt, turn_end
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
    """With the end of the turn, except for the last one of a sequence: that is a token, `turn_end`."""


def exchanges(
    messages: Sequence[Message],
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    turns: Turns = "all",
    end: int | None = None,
) -> list[tuple[Exchange, ...]]:
    """The sequences that teach the assistant's turns, each as exchanges that follow each other; `last`: the last turn.

    A template that marks the assistant's text with {% generation %} is taken at its word, unless it takes the thought
    out of what it marks. Where each context begins with the one before and its reply, all turns share one sequence.
    Where it does not (R1's and Qwen3's templates take the thoughts out of earlier turns), each turn is a sequence of
    its own, after the context that the model will see.
    `end` is `turn_end` of the two, where the caller has it. ValueError for what the template cannot hold.
    """
    mark = str(tokenizer.decode([turn_end(template, tokenizer) if end is None else end]))
    places = [place for place, message in enumerate(messages) if message.role == "assistant" and place]
    if turns == "last":
        places = places[-1:]
    if len(places) > 1 and template in CHAT and GENERATION.search(str(tokenizer.chat_template)):
        marked = _marked(messages, tokenizer, mark)
        said = [messages[place].content.strip() for place in places]
        if len(marked) != len(said) or all(text in one.reply for text, one in zip(said, marked, strict=True)):
            return [marked]
    alone = [_exchange(messages, place, template, tokenizer, mark) for place in places]
    if all(later.context.startswith(before.context + before.reply) for before, later in pairwise(alone)):
        return [_joined(alone, mark)]
    return [(exchange,) for exchange in alone]


def _exchange(
    messages: Sequence[Message], place: int, template: str, tokenizer: PreTrainedTokenizerBase, mark: str
) -> Exchange:
    """The turn at `place`: its context as at sampling, and the text as it is in the data, its leading space too.

    Where the template opens the thought (its prefill), the text's own opening is taken off; an end that the data write
    out as well.
    """
    prompt = render_prompt(template, messages[:place], tokenizer)
    said = messages[place].content.removesuffix(mark).removesuffix(str(tokenizer.eos_token))
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


def _joined(alone: Sequence[Exchange], mark: str) -> tuple[Exchange, ...]:
    """One sequence: of each context only what is new, and the end of each turn with its reply."""
    made: list[Exchange] = []
    told = ""
    for one, later in zip(alone, (*alone[1:], None), strict=True):
        said = one.context + one.reply
        ended = later is not None and later.context.startswith(said + mark)
        made.append(Exchange(one.context.removeprefix(told), one.reply + (mark if ended else "")))
        told = said + (mark if ended else "")
    return tuple(made)


def _marked(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, mark: str) -> tuple[Exchange, ...]:
    """The parts that the template's {% generation %} marks enclose."""
    from transformers.utils.chat_template_utils import render_jinja_template

    apply_template(messages, tokenizer, add_generation_prompt=False)  # its errors say what to do
    special = cast("dict[str, Any]", tokenizer.special_tokens_map)
    rendered: Any = render_jinja_template(
        [as_dicts(messages)], None, None, str(tokenizer.chat_template), return_assistant_tokens_mask=True, **special
    )
    [text], [spans] = rendered
    made, told = [], 0
    for start, end in spans:
        made.append(Exchange(text[told:start], text[start:end]))
        told = end
    last = made[-1]
    return (*made[:-1], Exchange(last.context, last.reply.rstrip().removesuffix(mark)))
