"""Conversations to fine-tune on: read from JSONL, rendered to prompt and completion, tokenized.

One object a line (.jsonl, or .jsonl.gz), in one of TRL's layouts: {"messages": [..., {"role": "assistant", "content":
...}]}, or {"prompt": text or messages, "completion": text or the assistant's message}. Other fields may be there. The
last turn is what is learnt; data that teach every turn of a dialogue have one line for each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jinja2.exceptions import TemplateError

from r1kit.algo.packing import Packable
from r1kit.jsonl import json_rows
from r1kit.model.chat import render_prompt
from r1kit.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IN_RUN = "sft.jsonl"
ROLES = ("system", "user", "assistant")
LAYOUTS = "give `messages` that end with the assistant's, or `prompt` and `completion`"
AT_A_TIME = 1024
"""Conversations tokenized in one call when a run's data are counted."""


@dataclass(frozen=True)
class Conversation:
    """A prompt's turns and the answer to learn."""

    messages: tuple[Message, ...]
    """At least two; the last one is the assistant's."""
    where: str
    """file:line, for errors."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as text: what the model sees, and what it is to say."""

    prompt: str
    completion: str
    """Without the end-of-sequence token."""


@dataclass(frozen=True)
class SFTData:
    """What a run trains on, and its counts.

    Texts, not tokens: tokens as Python ints take ten times the memory, and a step's are made in no time.
    """

    rendered: tuple[Rendered, ...]
    num_tokens: int
    """Tokens of one epoch."""
    num_trained: int
    """Of these, tokens with a loss: completions and their ends."""
    too_long: int
    """Conversations dropped because they are longer than `max_tokens`."""
    max_tokens: int
    digest: str
    """Hash of `rendered`, in order."""

    def summary(self) -> str:
        """One line: rows, tokens, what was dropped and why."""
        dropped = f"; dropped {self.too_long:,} longer than {self.max_tokens:,} tokens" if self.too_long else ""
        return (
            f"{len(self.rendered):,} conversations, {self.num_tokens:,} tokens an epoch, {self.num_trained:,} of them "
            f"the assistant's{dropped}"
        )


def read_conversations(data: Sequence[str]) -> list[Conversation]:
    """The conversations of .jsonl files and run folders of `r1kit reject`, in order; none is left out.

    FileNotFoundError for a missing file, ValueError (file:line, value, what to do) for a line that is none.
    """
    if not data:
        raise ValueError("--data is empty; give .jsonl files, or run folders of `r1kit reject`")
    return [one for source in data for one in _read_file(_file_of(source))]


def prepare(
    conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase, template: str, max_tokens: int
) -> SFTData:
    """Render all conversations and drop those of more than `max_tokens` tokens, the end of sequence included.

    ValueError for a conversation that the template cannot hold, and when none is short enough.
    """
    kept: list[Rendered] = []
    num_tokens = num_trained = 0
    shortest: int | None = None
    digest = hashlib.sha256()
    for start in range(0, len(conversations), AT_A_TIME):
        part = [render(one, template, tokenizer) for one in conversations[start : start + AT_A_TIME]]
        for rendered, packable in zip(part, encode(part, tokenizer), strict=True):
            length = len(packable.tokens)
            shortest = length if shortest is None else min(shortest, length)
            if length > max_tokens:
                continue
            kept.append(rendered)
            num_tokens += length
            num_trained += length - packable.prompt_length
            digest.update(json.dumps([rendered.prompt, rendered.completion]).encode())
    if not kept:
        raise ValueError(
            f"all {len(conversations):,} conversations are longer than {max_tokens:,} tokens (the shortest has "
            f"{shortest or 0:,}); raise --max-tokens as far as the model's context goes, or give shorter ones"
        )
    too_long = len(conversations) - len(kept)
    return SFTData(tuple(kept), num_tokens, num_trained, too_long, max_tokens, digest.hexdigest())


def render(conversation: Conversation, template: str, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """The prompt as at sampling, and the assistant's text as it is in the data, its leading space too.

    Where the template opens the thought (its prefill), the text's own opening is taken off. ValueError where the text
    has none, and for turns that the template cannot hold.
    """
    *question, answer = conversation.messages
    try:
        prompt = render_prompt(template, question, tokenizer)
    except (ValueError, TemplateError) as error:
        raise ValueError(f"{conversation.where}: {error}") from error
    if not prompt.prefill:
        return Rendered(prompt.text, answer.content)
    tag = prompt.prefill.rstrip()
    begun = answer.content.lstrip()
    if not begun.startswith(tag):
        raise ValueError(
            f"{conversation.where}: template {template} opens the thought with {prompt.prefill!r}, but the assistant's "
            f"text begins with {answer.content[:40]!r}; begin it with {tag}, or choose a template without this opening"
        )
    # White space after the tag is the template's; the text may have it too.
    return Rendered(prompt.text, begun.removeprefix(tag).removeprefix(prompt.prefill.removeprefix(tag)))


def encode(rendered: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase) -> list[Packable]:
    """Tokens of each: prompt, completion, end of sequence; the loss falls on the last two.

    Prompt and completion are tokenized apart, as they are when a policy samples.
    """
    end = cast(int, tokenizer.eos_token_id)
    prompts = tokenizer([one.prompt for one in rendered], add_special_tokens=False)["input_ids"]
    completions = tokenizer([one.completion for one in rendered], add_special_tokens=False)["input_ids"]
    packables = []
    for prompt, completion in zip(cast("list[list[int]]", prompts), cast("list[list[int]]", completions), strict=True):
        ended = bool(completion) and completion[-1] == end  # some data sets write the end out
        packables.append(Packable((*prompt, *completion, *(() if ended else (end,))), len(prompt)))
    return packables


def _file_of(source: str) -> Path:
    path = Path(source)
    if path.is_dir():
        path = path / IN_RUN
        if not path.is_file():
            raise FileNotFoundError(
                f"{source} has no {IN_RUN}; give a finished run of `r1kit reject`, or a .jsonl file"
            )
    if not path.is_file():
        raise FileNotFoundError(f"{source}: no such file; give a .jsonl file or a run folder of `r1kit reject`")
    return path


def _read_file(path: Path) -> list[Conversation]:
    found = [_conversation(where, row) for where, row in json_rows(path, LAYOUTS)]
    if not found:
        raise ValueError(f"{path}: the file is empty; write one object a line: {LAYOUTS}")
    return found


def _conversation(where: str, row: dict[str, Any]) -> Conversation:
    if "messages" in row:
        messages = _turns(where, "messages", row["messages"])
    elif "prompt" in row and "completion" in row:
        completion = row["completion"]
        messages = (
            *_turns(where, "prompt", row["prompt"], text_role="user"),
            *_turns(where, "completion", [completion] if isinstance(completion, dict) else completion, "assistant"),
        )
    else:
        raise ValueError(f"{where}: found only {', '.join(sorted(row)) or 'no field'}; {LAYOUTS}")
    *question, answer = messages
    if answer.role != "assistant":
        raise ValueError(f"{where}: the last message is of role {answer.role!r}; end with the assistant's")
    if not answer.content.strip():
        raise ValueError(f"{where}: the assistant's text is {answer.content!r}; give what is to be learnt")
    if not any(message.role == "user" for message in question):
        raise ValueError(f"{where}: no message of the user's before the assistant's; give what it answers")
    return Conversation(messages, where)


def _turns(where: str, field: str, value: Any, text_role: str = "") -> tuple[Message, ...]:
    """The messages of a field; where `text_role` is given, a plain text is one message of that role."""
    if isinstance(value, str) and text_role:
        value = [{"role": text_role, "content": value}]
    if not isinstance(value, list) or not value:
        allowed = "a text or a list of messages" if text_role else "a list of messages"
        raise ValueError(f"{where}: {field} is {str(value)[:60]!r}; give {allowed}")
    messages = []
    for turn in value:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(
                f'{where}: message {str(turn)[:60]!r} in {field} needs "role" (one of {", ".join(ROLES)}) and '
                f'"content" (a text)'
            )
        messages.append(Message(role, content))
    return tuple(messages)
