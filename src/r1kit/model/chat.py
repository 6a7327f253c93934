"""Prompt templates: from a problem's messages to the text that the model continues.

`r1-zero` is the paper's (R1 Table 1), `short` the same idea for tiny models, `r1` DeepSeek-R1's own marks, `chat` the
tokenizer's template. A template may end by opening the thought itself; that tail is the prefill, and completions are
scored as prefill + completion.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, cast

from jinja2.exceptions import TemplateError

from r1kit.model.tokenizer import begin_text, end_tokens
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
# What R1's chat template makes of one question. Its model card: no system prompt, all instructions in the user's turn.
R1_BEGIN, R1_USER, R1_ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
R1 = f"{R1_BEGIN}{R1_USER}{{prompt}}{R1_ASSISTANT}"
THINK = "<think>\n"
"""What R1's chat template opens a thought with."""
TODAY = date(2024, 7, 26)
"""The day that chat templates are told, whatever the day is: a run that resumes after midnight has the prompts that it
began with, and is evaluated on them. Llama 3.1's and 3.2's templates write this one where there is no clock."""


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
        Template("r1", R1),
        Template("r1-prefilled", R1 + THINK),
    )
}
"""The plain ones."""
CHAT = ("chat", "chat-prefilled")
"""The tokenizer's own; and the same with the thought opened, where the template does not open it itself."""


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
    """Render `messages` with a template of TEMPLATES or of CHAT.

    The prefill is read off the rendered text, so a model's own template that opens the thought counts as well.
    ValueError for an unknown template, for `chat` when the tokenizer has none or its template refuses the messages, and
    for `r1` when the tokenizer does not know R1's marks.
    """
    check_template(template_name)
    if template_name in CHAT:
        text = apply_template(messages, tokenizer, add_generation_prompt=True)
        if template_name == "chat-prefilled" and not prefill_of(text):
            text += THINK
    else:
        text = TEMPLATES[template_name].render(messages)
        if text.startswith(R1_BEGIN):
            require_marks(tokenizer, template_name)
        else:
            text = begin_text(tokenizer) + text
    return RenderedPrompt(text, prefill_of(text))


def check_template(template_name: str) -> None:
    """ValueError for an unknown template."""
    if template_name not in (*TEMPLATES, *CHAT):
        raise ValueError(f"no template {template_name!r}; templates are {', '.join([*TEMPLATES, *CHAT])}")


def apply_template(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, *, add_generation_prompt: bool
) -> str:
    """What the tokenizer's chat template makes of the messages. ValueError when it has none or refuses them."""
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template; "
            f"use --template r1-zero (or short for a tiny model)"
        )
    turns = as_dicts(messages)
    try:
        return str(
            tokenizer.apply_chat_template(
                turns, add_generation_prompt=add_generation_prompt, tokenize=False, strftime_now=TODAY.strftime
            )
        )
    except TemplateError as error:
        raise ValueError(f"the model's chat template refuses {[turn['role'] for turn in turns]}: {error}") from error


def as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The messages as chat templates take them."""
    return [{"role": message.role, "content": message.content} for message in messages]


def require_marks(tokenizer: PreTrainedTokenizerBase, template_name: str) -> None:
    """ValueError when the tokenizer would cut R1's marks into pieces that its model has never seen."""
    if R1_ASSISTANT not in tokenizer.get_vocab():
        raise ValueError(
            f"template {template_name} writes {R1_ASSISTANT}, which {tokenizer.name_or_path or 'the tokenizer'} does "
            f"not know; it is for DeepSeek's models. Use --template chat (the model's own), or r1-zero for a base model"
        )


def turn_ends(template_name: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end the assistant's turn: the special ones that the chat template writes right after the reply,
    else the end of sequence. ChatML has one (<|im_end|>), Cohere2 two. At the first, the turn is over.

    A base model's end of sequence may be another one than its chat template's: Qwen2.5's is <|endoftext|>. Phi-3's
    template ends turns with <|end|>, and after a new line the text with <|endoftext|>, which is no turn's.
    """
    end = cast(int, tokenizer.eos_token_id)
    if template_name not in CHAT or tokenizer.chat_template is None:
        return (end,)
    mark = "reply"
    try:
        text = apply_template(
            [Message("user", "?"), Message("assistant", mark)], tokenizer, add_generation_prompt=False
        )
    except ValueError:  # a template with rules of its own about turns
        return (end,)
    added = cast("dict[int, Any]", tokenizer.added_tokens_decoder)  # type: ignore[attr-defined]
    special = {str(one): token for token, one in added.items() if not str(one).isspace()}
    _, said, rest = text.rpartition(mark)
    rest, found = rest.lstrip() if said else "", []
    while following := max(filter(rest.startswith, special), key=len, default=""):
        found.append(special[following])
        rest = rest.removeprefix(following)
    return tuple(found) or (end,)


def stop_tokens(template_name: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens at which a completion is over: the end of sequence, and the end of a turn where that is another."""
    return tuple(dict.fromkeys((*end_tokens(tokenizer), turn_ends(template_name, tokenizer)[0])))


def prefill_of(text: str) -> str:
    """`<think>` and the white space after it when `text` ends with that, else nothing."""
    match = PREFILL.search(text)
    return match[0] if match else ""
