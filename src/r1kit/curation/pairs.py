"""Preference data of many layouts: pairs for the helpful reward model, labelled responses for the safety one.

A source is a run folder of `r1kit preferences`, or a file, a folder or a hub name (`r1kit.data.rows`); a row is

    helpful   {"prompt" or "messages" or "conversations", "chosen", "rejected"}, or two whole dialogues without a
              prompt, as HH-RLHF has them: {"chosen": "\\n\\nHuman: ...\\n\\nAssistant: ...", "rejected": ...}
    safety    {"prompt" or "messages" or "conversations", "response", "safe" or "is_safe": true or false}

A prompt is a text or a list of messages ({"role", "content"}, or {"from", "value"}); a response is a text, a message,
or a list of messages that ends with it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from r1kit.config.source import ColumnsConfig
from r1kit.data.rows import read_rows, table_hint
from r1kit.types import Message

PAIRS = "pairs.jsonl"
SAFETY = "safety.jsonl"
DIALOGUE_TURN = re.compile(r"\n\n(Human|Assistant):")
ROLES = {
    "system": "system", "user": "user", "human": "user", "Human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "Assistant": "assistant",
}  # fmt: skip

T = TypeVar("T")


class _Unusable(Exception):
    """A row in order, but of no use; its text is the reason that is counted."""


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt, and which is preferred."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str

    @property
    def prompt_key(self) -> str:
        return prompt_key(self.messages)


@dataclass(frozen=True)
class LabelledResponse:
    """A response with its label."""

    messages: tuple[Message, ...]
    response: str
    """The whole completion, with its thought where there is one."""
    safe: bool

    @property
    def prompt_key(self) -> str:
        return prompt_key(self.messages)


def prompt_key(messages: Sequence[Message]) -> str:
    """A hash of a prompt's content: equal for equal prompts, white space aside."""
    text = "\n".join(f"{message.role}:{' '.join(message.content.split())}" for message in messages)
    return hashlib.sha256(text.encode()).hexdigest()


def is_heldout(key: str, share: float) -> bool:
    """Whether the prompt with this `prompt_key` is among the `share` that is held out."""
    return int(key[:16], 16) / 16**16 < share


def read_pairs(sources: Sequence[str], columns: ColumnsConfig | None = None) -> tuple[list[Pair], Counter[str]]:
    """The pairs of all sources in order, and how many rows were left out for which reason.

    Left out: a chosen equal to the rejected, an empty response, dialogues whose prompts differ, repeated rows. Raises
    FileNotFoundError for a missing source, ValueError (file, line, what to do) for a row that is no pair.
    """
    return _read(sources, PAIRS, _pair, columns)


def read_labelled(
    sources: Sequence[str], columns: ColumnsConfig | None = None
) -> tuple[list[LabelledResponse], Counter[str]]:
    """The labelled responses of all sources in order, and how many rows were left out for which reason.

    Errors as in `read_pairs`.
    """
    return _read(sources, SAFETY, _labelled, columns)


def _read(
    sources: Sequence[str], in_run: str, make: Callable[[str, dict[str, Any]], T], columns: ColumnsConfig | None
) -> tuple[list[T], Counter[str]]:
    if not sources:
        raise ValueError("--data is empty; give files, folders, hub names or run folders of `r1kit preferences`")
    found: dict[T, None] = {}
    left_out: Counter[str] = Counter()
    for source in sources:
        for where, _, row in read_rows(source, columns, in_run=in_run, training_only=True):
            try:
                item = make(where, row)
            except _Unusable as reason:
                left_out[str(reason)] += 1
                continue
            if item in found:
                left_out["repeated"] += 1
            found[item] = None
    return list(found), left_out


def _pair(where: str, row: dict[str, Any]) -> Pair:
    _require(where, row, "chosen", "rejected")
    prompts, responses = [], []
    for name in ("chosen", "rejected"):
        prompt, response = _split(where, name, row[name])
        prompts.append(prompt)
        responses.append(response)
    given = _prompt(where, row)
    if given is None and (not prompts[0] or not prompts[1]):
        raise ValueError(
            f'{where}: no prompt among {sorted(row)}; add "prompt" or "messages", or make chosen and rejected whole '
            f"dialogues"
        )
    if given is None and prompts[0] != prompts[1]:
        raise _Unusable("prompts of chosen and rejected differ")
    if not responses[0] or not responses[1]:
        raise _Unusable("empty response")
    if responses[0] == responses[1]:
        raise _Unusable("chosen is the rejected")
    return Pair(given or prompts[0], *responses)


def _labelled(where: str, row: dict[str, Any]) -> LabelledResponse:
    if "is_safe" in row:  # BeaverTails'
        row = {"safe": row["is_safe"], **row}
    _require(where, row, "response", "safe")
    if not isinstance(row["safe"], bool):
        raise ValueError(f"{where}: safe is {row['safe']!r}; give true or false")
    prompt, response = _split(where, "response", row["response"])
    prompt = _prompt(where, row) or prompt
    if not prompt:
        raise ValueError(f'{where}: no prompt among {sorted(row)}; add "prompt" or "messages"')
    if not response:
        raise _Unusable("empty response")
    return LabelledResponse(prompt, response, row["safe"])


def _require(where: str, row: dict[str, Any], *names: str) -> None:
    for name in names:
        if name not in row:
            needs = f"each row needs {' and '.join(names)}{table_hint(where)}"
            raise ValueError(f"{where}: no field {name!r} among {sorted(row)}; {needs}")


def _prompt(where: str, row: dict[str, Any]) -> tuple[Message, ...] | None:
    """The prompt that stands in the row itself; None where there is none."""
    for name in ("prompt", "messages", "conversations"):  # UltraFeedback's messages end with the chosen response
        if name in row:
            value = row[name]
            turns = (Message("user", value),) if isinstance(value, str) else _turns(where, name, value)
            if not turns or not turns[-1].content.strip():
                raise ValueError(f"{where}: {name} is empty; give the prompt that was answered")
            if turns[-1].role == "assistant":
                raise ValueError(f"{where}: {name} ends with the assistant's turn; end it with the user's")
            return turns
    return None


def _split(where: str, name: str, value: Any) -> tuple[tuple[Message, ...], str]:
    """A response and the prompt before it, which is empty where `value` is the response alone."""
    if isinstance(value, str):
        pieces = DIALOGUE_TURN.split(value)
        if len(pieces) == 1 or pieces[0].strip():
            return (), value.strip()
        turns = _joined([_message(pieces[i], pieces[i + 1].strip()) for i in range(1, len(pieces), 2)])
    else:
        turns = _turns(where, name, [value] if isinstance(value, dict) else value)
    if not turns or turns[-1].role != "assistant":
        raise ValueError(f"{where}: {name} does not end with the assistant's turn; end it with the response")
    return turns[:-1], turns[-1].content.strip()


def _joined(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Turns in which the two sides alternate: HH-RLHF has people who speak twice."""
    joined: list[Message] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            turn = Message(turn.role, f"{joined.pop().content}\n\n{turn.content}")
        joined.append(turn)
    return tuple(joined)


def _turns(where: str, name: str, value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: {name} is {str(value)[:60]!r}; give a text or a list of messages")
    turns = []
    for turn in value:
        if not isinstance(turn, dict):
            raise ValueError(f'{where}: message {str(turn)[:60]!r} in {name}; write {{"role": ..., "content": ...}}')
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(
                f'{where}: message {str(turn)[:60]!r} in {name} needs "role" (system, user or assistant) and "content"'
            )
        turns.append(_message(role, content))
    return tuple(turns)


def _message(role: str, content: str) -> Message:
    return Message(ROLES[role], content)  # type: ignore[arg-type]


def relative_length(chosen: str, rejected: str) -> float:
    """How much longer the chosen response is, in characters: -1 to 1, as a share of the longer one."""
    return (len(chosen) - len(rejected)) / max(len(chosen), len(rejected), 1)


def balanced_lengths(pairs: Sequence[tuple[str, str]], max_bias: float) -> list[int]:
    """Indices of the (chosen, rejected) to keep so that |mean relative length| is at most `max_bias`.

    The pair that is furthest on the side of the mean goes first. R1 V2 section 3.1.1 asks for comparable lengths over
    the set, so that length is not what the reward model learns.
    """
    lengths = [relative_length(chosen, rejected) for chosen, rejected in pairs]
    order = sorted(range(len(pairs)), key=lambda i: (lengths[i], i))
    first, last, total = 0, len(order), math.fsum(lengths)
    while first < last and abs(total / (last - first)) > max_bias:
        if total > 0:
            last -= 1
            total -= lengths[order[last]]
        else:
            total -= lengths[order[first]]
            first += 1
    return sorted(order[first:last])
