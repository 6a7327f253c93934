"""Conversations to fine-tune on: read from data sets, rendered with the template, tokenized.

A source is a file, a folder, a name on the Hugging Face hub (`r1kit.data.rows`), or a run of `r1kit reject`; a row has
one of TRL's layouts, ShareGPT's, Alpaca's, or a question with its solution (`r1kit.data.layouts`). The loss falls on
what the assistant says and on the end of its turns (`r1kit.model.mask`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, cast

from r1kit.algo.packing import Packable
from r1kit.config.source import ColumnsConfig, FilterConfig
from r1kit.data.filters import Seen, Tally
from r1kit.data.layouts import CONVERSATION_COLUMNS, CONVERSATION_FORM, conversation_of, unusable
from r1kit.data.rows import read_rows
from r1kit.data.spool import Spool
from r1kit.model.chat import turn_ends
from r1kit.model.mask import Exchange, Turns, exchanges
from r1kit.tasks.dataset import evaluated
from r1kit.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IN_RUN = "sft.jsonl"
AT_A_TIME = 1024
"""Conversations tokenized in one call when a run's data are counted."""


@dataclass(frozen=True)
class Conversation:
    """A prompt's turns and the answer to learn."""

    messages: tuple[Message, ...]
    """At least two; the last one is the assistant's."""
    where: str
    """file:row, for errors."""


class Conversations(Spool[Conversation]):
    """The conversations of a run's sources, in order."""

    def __init__(self, summary: str = "") -> None:
        super().__init__()
        self.summary = summary
        """What was read and what was left out, and why; a line for each source."""


@dataclass(frozen=True)
class Rendered:
    """One sequence as text: what the model sees, and what it is to say, in turn."""

    exchanges: tuple[Exchange, ...]
    ends: tuple[int, ...]
    """The tokens after the last reply: the end of a turn."""

    @property
    def prompt(self) -> str:
        """All that comes before the last reply."""
        *before, last = self.exchanges
        return "".join(one.context + one.reply for one in before) + last.context

    @property
    def completion(self) -> str:
        """The last reply, without its end."""
        return self.exchanges[-1].reply


@dataclass(frozen=True)
class SFTData:
    """What a run trains on, and its counts."""

    rendered: Sequence[Rendered]
    num_tokens: int
    """Tokens of one epoch."""
    num_trained: int
    """Of these, tokens with a loss: replies and their ends."""
    too_long: int
    """Sequences dropped because they are longer than `max_tokens`."""
    max_tokens: int
    digest: str
    """Hash of `rendered`, in order."""
    long_prompts: int = 0
    """Sequences dropped because their first context is longer than the filter allows."""

    def summary(self) -> str:
        """One line: sequences, tokens, what was dropped and why."""
        dropped = f"; dropped {self.too_long:,} longer than {self.max_tokens:,} tokens" if self.too_long else ""
        dropped += f"; dropped {self.long_prompts:,} with a longer prompt than allowed" if self.long_prompts else ""
        return (
            f"{len(self.rendered):,} conversations, {self.num_tokens:,} tokens an epoch, {self.num_trained:,} of them "
            f"the assistant's{dropped}"
        )


def read_conversations(
    data: Sequence[str],
    columns: ColumnsConfig | None = None,
    filters: FilterConfig | None = None,
    system_prompt: str = "",
) -> Conversations:
    """The conversations of all sources, in order. Every row is checked; without `filters` none is left out.

    `system_prompt` is put before conversations that have none. FileNotFoundError for a missing source, ValueError
    (place, value, what to do) for a row that is no conversation.
    """
    if not data:
        raise ValueError(
            "--data is empty; give files, folders, names on the Hugging Face hub, or runs of `r1kit reject`"
        )
    filters = filters or FilterConfig(duplicates="keep")
    known = evaluated(filters)
    seen = Seen(near=filters.duplicates == "near")
    found = Conversations()
    lines = []
    for source in data:
        tally = Tally(source)
        rows = read_rows(
            source, columns, first=filters.first, in_run=IN_RUN, training_only=True, names=CONVERSATION_COLUMNS
        )
        for row in rows:
            tally.read += 1
            if reason := unusable(row.fields):
                tally.drop(reason, row.where)
                continue
            messages = conversation_of(row.where, row.fields)
            if system_prompt and messages[0].role != "system":
                messages = (Message("system", system_prompt), *messages)
            text = "\n".join(f"{message.role}: {message.content}" for message in messages)
            if filters.duplicates != "keep" and seen.again(text):
                tally.drop("repeat a row", row.where)
            elif known and (name := known.shared_with(message.content for message in messages)):
                tally.drop(f"share {filters.ngram} words on end with {name}", row.where)
            else:
                found.append(Conversation(messages, row.where))
        if not tally.read:
            raise ValueError(f"{source}: the file is empty; {CONVERSATION_FORM}")
        lines.append(tally.text())
    found.summary = "\n".join(lines)
    if not found:
        raise ValueError(f"no conversation is left: {found.summary}; loosen --filter, or give other data")
    return found


def prepare(
    conversations: Sequence[Conversation],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    max_tokens: int,
    *,
    turns: Turns = "all",
    max_prompt_tokens: int = 0,
) -> SFTData:
    """Render all conversations and drop sequences of more than `max_tokens` tokens, the end of the last turn included.

    ValueError for a conversation that the template cannot hold, and when none is short enough.
    """
    kept: Spool[Rendered] = Spool()
    num_tokens = num_trained = made = long_prompts = 0
    shortest: int | None = None
    digest = hashlib.sha256()
    ends = turn_ends(template, tokenizer) if conversations else ()
    for start in range(0, len(conversations), AT_A_TIME):
        part = [
            rendered
            for one in conversations[start : start + AT_A_TIME]
            for rendered in render_turns(one, template, tokenizer, turns, ends)
        ]
        made += len(part)
        for rendered, packable in zip(part, encode(part, tokenizer), strict=True):
            length = len(packable.tokens)
            shortest = length if shortest is None else min(shortest, length)
            if length > max_tokens:
                continue
            if max_prompt_tokens and packable.prompt_length > max_prompt_tokens:
                long_prompts += 1
                continue
            kept.append(rendered)
            num_tokens += length
            num_trained += sum(packable.mask) if packable.mask else length - packable.prompt_length
            digest.update(
                json.dumps([text for one in rendered.exchanges for text in (one.context, one.reply)]).encode()
            )
    if not kept:
        raise ValueError(
            f"all {made:,} conversations are longer than {max_tokens:,} tokens (the shortest has "
            f"{shortest or 0:,}) or have prompts that are too long; raise --max-tokens as far as the model's context "
            f"goes and --filter.max-prompt-tokens, or give shorter ones"
        )
    too_long = made - len(kept) - long_prompts
    return SFTData(kept, num_tokens, num_trained, too_long, max_tokens, digest.hexdigest(), long_prompts)


def render(conversation: Conversation, template: str, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """The last turn: the prompt as at sampling, and the assistant's text as it is in the data.

    Where the template opens the thought (its prefill), the text's own opening is taken off. ValueError where the text
    has none, and for turns that the template cannot hold.
    """
    [rendered] = render_turns(conversation, template, tokenizer, "last")
    return rendered


def render_turns(
    conversation: Conversation,
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    turns: Turns,
    ends: tuple[int, ...] = (),
) -> list[Rendered]:
    """The sequences that teach the conversation; more than one where the template forgets thoughts (`exchanges`)."""
    ends = ends or turn_ends(template, tokenizer)
    try:
        found = exchanges(conversation.messages, template, tokenizer, turns, ends)
    except ValueError as error:
        raise ValueError(f"{conversation.where}: {error}") from error
    return [Rendered(parts, ends) for parts in found]


def encode(rendered: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase) -> list[Packable]:
    """Tokens of each: contexts and replies in turn, and the end; the loss falls on the replies and the end.

    Each part is tokenized apart, as it is when a policy samples.
    """
    texts = [text for one in rendered for part in one.exchanges for text in (part.context, part.reply)]
    if not texts:
        return []
    tokens = iter(cast("list[list[int]]", tokenizer(texts, add_special_tokens=False)["input_ids"]))
    packables = []
    for one in rendered:
        parts = [next(tokens) for _ in range(2 * len(one.exchanges))]
        parts[-1] = [*parts[-1], *one.ends]
        flat = tuple(token for part in parts for token in part)
        mask = tuple(place % 2 for place, part in enumerate(parts) for _ in part) if len(parts) > 2 else ()
        packables.append(Packable(flat, len(parts[0]), mask=mask))
    return packables


def mask_text(rendered: Rendered, tokenizer: PreTrainedTokenizerBase, width: int = 60) -> str:
    """What the model is given and what is learnt, for a look at it: a line for each part."""
    [packable] = encode([rendered], tokenizer)
    lines = []
    for learnt, places in groupby(range(len(packable.tokens)), key=lambda place: has_loss(packable, place)):
        part = [packable.tokens[place] for place in places]
        text = repr(tokenizer.decode(part))[1:-1]
        shown = text if len(text) <= width else f"{text[: width // 2]} ... {text[-width // 2 :]}"
        lines.append(f"{'learnt' if learnt else 'given '} {len(part):>6} tokens  {shown}")
    return "\n".join(lines)


def has_loss(packable: Packable, place: int) -> bool:
    """Whether the token at this place is learnt."""
    return bool(packable.mask[place]) if packable.mask else place >= packable.prompt_length
