"""Messages as data sets write them: TRL's role and content, ShareGPT's from and value, parts, thoughts apart."""

from __future__ import annotations

from typing import Any

from r1kit.types import Message

ROLES = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "model": "assistant",
}  # fmt: skip
"""Role names in data -> ours."""
UNREAD = frozenset(
    {
        "tool",
        "tool_call",
        "tool_calls",
        "tool_response",
        "function",
        "function_call",
        "function-call",
        "function_response",
    }
    | {"observation", "ipython", "environment", "developer"}
)
"""Roles that public sets have and templates here do not. Any other name is taken for a mistake."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Where APIs put the thought of a message, apart from its content."""
CALLS = ("tool_calls", "function_call")
"""Where APIs put what a message calls, in place of its content."""


def read_turns(where: str, field: str, value: Any, text_role: str = "") -> tuple[Message, ...]:
    """The messages of a field; where `text_role` is given, a plain text is one message of that role.

    A thought that the data have apart is put before the content, as <think>...</think>. ValueError names where, the
    field and the value.
    """
    if isinstance(value, str) and text_role:
        value = [{"role": text_role, "content": value}]
    if not isinstance(value, list) or not value:
        allowed = "a text or a list of messages" if text_role else "a list of messages"
        raise ValueError(f"{where}: {field} is {str(value)[:60]!r}; give {allowed}")
    return tuple(_message(where, field, turn) for turn in value)


def unread(value: Any) -> str:
    """The first thing in a list of messages that templates here do not have: "of role tool", "with tool_calls in place
    of a text", "with a part of type image". Empty for none."""
    turns = [turn for turn in value if isinstance(turn, dict)] if isinstance(value, list) else []
    for turn in turns:
        if (role := str(turn.get("role") or turn.get("from")).lower()) in UNREAD:
            return f"of role {role}"
        if not turn.get("content", turn.get("value")) and (call := next(filter(turn.get, CALLS), "")):
            return f"with {call} in place of a text"
        parts = turn.get("content")
        kinds = [part.get("type") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        if kind := next((kind for kind in kinds if isinstance(kind, str) and kind != "text"), ""):
            return f"with a part of type {kind}"
    return ""


def _message(where: str, field: str, turn: Any) -> Message:
    role = content = None
    if isinstance(turn, dict):
        role = ROLES.get(str(turn.get("role") or turn.get("from")).lower())
        content = turn.get("content", turn.get("value"))
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if role is None or not isinstance(content, str):
        raise ValueError(
            f'{where}: message {str(turn)[:60]!r} in {field} needs "role" (one of system, user, assistant) and '
            f'"content" (a text)'
        )
    thought = next((turn[name] for name in THOUGHTS if isinstance(turn.get(name), str) and turn[name].strip()), "")
    if thought and role == "assistant" and "<think>" not in content:
        content = f"<think>\n{thought.strip()}\n</think>\n\n{content}"
    return Message(role, content)  # type: ignore[arg-type]
