"""Prompt templates: from a problem's messages to the text that the model continues.

`r1-zero` is the paper's (R1 Table 1), `short` the same idea for tiny models, `chat` the tokenizer's own. A template may
end by opening the thought itself; that tail is the prefill, and completions are scored as prefill + completion.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from r1kit.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFILL = re.compile(r"<think>\s*\Z")

SHORT = "User: {prompt}\nAssistant:"
# R1 Table 1, word for word.
R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think> <answer> answer here </answer>. User: {prompt}. Assistant:"
)


@dataclass(frozen=True)
class Template:
    """A plain-text template with one place for the prompt."""

    name: str
    pattern: str
    """Text with {prompt} once."""

    @property
    def prefill(self) -> str:
        """The tail that belongs to the completion: `<think>` and white space, or nothing."""
        return prefill_of(self.pattern)

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt text. System messages come first, then the user's, joined by new lines.

        ValueError for assistant turns: these templates hold one question.
        """
        if any(message.role == "assistant" for message in messages):
            raise ValueError(
                f"template {self.name} holds one question, not a conversation with assistant turns; use template chat"
            )
        ordered = sorted(messages, key=lambda message: message.role != "system")
        return self.pattern.replace("{prompt}", "\n".join(message.content for message in ordered))


TEMPLATES = {
    template.name: template
    for template in (
        Template("short", SHORT),
        Template("short-prefilled", SHORT + " <think>"),
        Template("r1-zero", R1_ZERO),
        Template("r1-zero-prefilled", R1_ZERO + " <think>\n"),
    )
}
"""The plain ones; `chat` is the tokenizer's own."""


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt as the model sees it."""

    text: str
    """Special tokens are in it where the template has them: tokenize with add_special_tokens=False."""
    prefill: str
    """The end of `text` that belongs to the completion when it is scored."""


def render_prompt(
    template_name: str, messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase
) -> RenderedPrompt:
    """Render `messages` with a template of TEMPLATES or `chat`.

    The prefill is read off the rendered text, so a model's own template that opens the thought counts as well.
    ValueError for an unknown template, and for `chat` when the tokenizer has none.
    """
    if template_name == "chat":
        text = _render_chat(messages, tokenizer)
    elif template_name in TEMPLATES:
        text = TEMPLATES[template_name].render(messages)
    else:
        raise ValueError(f"no template {template_name!r}; templates are {', '.join(TEMPLATES)}, chat")
    return RenderedPrompt(text, prefill_of(text))


def prefill_of(text: str) -> str:
    """`<think>` and the white space after it when `text` ends with that, else nothing."""
    match = PREFILL.search(text)
    return match[0] if match else ""


def _render_chat(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template; "
            f"use --template r1-zero (or short for a tiny model)"
        )
    turns = [{"role": message.role, "content": message.content} for message in messages]
    return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
