"""General data that joins the reasoning samples (R1 V2 B.3.3): the demo's own, or a user's conversations."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1kit.config.source import ColumnsConfig
from r1kit.curation.select import Row, distinct_rows
from r1kit.data.layouts import conversation_of
from r1kit.data.rows import read_rows
from r1kit.rewards.language import prompt_language
from r1kit.rewards.reward import language_of
from r1kit.tasks import general, load_problems


def num_general(num_rows: int, share: float) -> int:
    """General rows that make up `share` of the whole together with `num_rows` others."""
    return round(num_rows * share / (1 - share))


def join_general(
    sources: Mapping[str, list[Row] | None],
    count: int,
    *,
    seed: int,
    lead: str,
    num_tokens: Callable[[Sequence[str]], list[int]],
) -> list[Row]:
    """`count` general rows, evenly from `sources` as far as they go, smaller ones in full; fewer when all run out.

    A source is what `read_general` returned; None is the demo's generator. `lead` stands before each last turn, as it
    does before the model's own completions. `num_tokens`: texts -> tokens of each.
    """
    sizes = {name: count if rows is None else len(rows) for name, rows in sources.items()}
    chosen: list[Row] = []
    for turn, name in enumerate(sorted(sources, key=lambda name: sizes[name])):
        wanted = min(sizes[name], -(-(count - len(chosen)) // (len(sources) - turn)))
        rows = sources[name]
        if rows is None:
            chosen += demo_general(wanted, seed)
        else:
            chosen += random.Random(f"reject/{seed}/{name}").sample(rows, wanted)
    answers = [lead + row["messages"][-1]["content"].lstrip() for row in chosen]
    return [
        {**row, "messages": [*row["messages"][:-1], {"role": "assistant", "content": answer}], "tokens": tokens}
        for row, answer, tokens in zip(chosen, answers, num_tokens(answers), strict=True)
    ]


def demo_general(count: int, seed: int) -> list[Row]:
    """Training prompts of the task `general`, each thought over and answered by a writer who is good or not.

    Where a conversation comes out a second time, its writer begins again, up to 20 times.
    """
    rows: dict[tuple[str, str], Row] = {}
    for position, problem in enumerate(load_problems("general", "train", seed).take(0, count)):
        rng = random.Random(f"reject/{seed}/general/{position}")
        question, thought = problem.messages[0].content, general.thought(problem)
        for _ in range(20):
            answer = f"<think>{thought}</think>{general.respond(problem, rng)}"
            if (question, answer) not in rows:
                break
        rows[question, answer] = {
            "id": f"general/{position}",
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            "domain": "general",
            "language": language_of(problem),
            "tokens": 0,
        }
    return list(rows.values())


def read_general(source: str, columns: ColumnsConfig | None = None) -> list[Row]:
    """A user's conversations (`r1kit.data`), the last turn the assistant's.

    `domain` (default: general), `language` (default: that of the last question) and `id` are taken over. ValueError
    names place and value; FileNotFoundError when there is no source. Rows of the hub whose last message is empty are
    left out: nobody here can mend them. So are those that repeat an earlier one.
    """
    from_hub = not Path(source).exists()
    found = enumerate(read_rows(source, columns, in_run="sft.jsonl", training_only=True), start=1)
    rows = [
        _general_row(where, row, f"{Path(source).stem}/{number}")
        for number, (where, _, row) in found
        if not (from_hub and _ends_empty(row.get("messages")))
    ]
    if not rows:
        raise ValueError(f'{source}: the file is empty; give one {{"messages": [...]}} object a line')
    return distinct_rows(rows)


def _ends_empty(messages: Any) -> bool:
    """Whether the last message says nothing."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and isinstance(last.get("content"), str) and not last["content"].strip()


def _general_row(where: str, row: dict[str, Any], default_id: str) -> Row:
    messages = conversation_of(where, row)
    questions = [message.content for message in messages if message.role == "user"]
    return {
        "id": str(row.get("id", default_id)),
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "domain": str(row.get("domain", "general")),
        "language": str(row.get("language") or prompt_language(questions[-1])),
        "tokens": 0,
    }
