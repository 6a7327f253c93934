"""Ask a model questions in the terminal: `r1kit chat runs/demo`, or `echo "1+1?" | r1kit chat runs/demo`.

The thought is indented and dimmed, the answer is not, and nothing is judged. A run's model is asked in the template
that it was trained with. A plain template holds one question, so each question stands alone; with `chat` the
conversation goes on.
"""

from __future__ import annotations

import contextlib
import sys
import textwrap
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from r1kit.config import ChatConfig
from r1kit.model.chat import CHAT, render_prompt, stop_tokens
from r1kit.model.device import resolve_device, resolve_dtype
from r1kit.model.hf import load_model
from r1kit.model.tokenizer import load_tokenizer
from r1kit.model.transformer import Decoder
from r1kit.sampling.local import LocalSampler
from r1kit.sampling.random import seed_from
from r1kit.training.models import resolve_model
from r1kit.training.trained import prompt_settings, trained_as
from r1kit.types import Completion, Message, Prompt, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUIT = ("exit", "quit")
DEMO_EXAMPLES = (
    "Make 24 from 8, 3, 1.",
    "用8、3、1算出24。",
    "Smallest number with remainder 2 by 5 and 3 by 7?",
)
"""Questions in the words of r1kit's own tasks, the only ones that a demo model knows."""
DEMO_PARAMETERS = 50_000_000  # below it, a model is taken for a demo's


@dataclass(frozen=True)
class Reply:
    """What the model said to one question."""

    thought: str
    answer: str
    completion: Completion
    cap: int
    """Length cap it was under, tokens."""


def main(cfg: ChatConfig) -> None:
    """Answer questions until `exit` or the end of the input. Ctrl-C stops the answer that is being made."""
    folder = resolve_model(cfg.model)
    tokenizer = load_tokenizer(folder)
    template, system_prompt = prompt_settings(cfg.template, cfg.system_prompt, trained_as(folder))
    cfg = replace(cfg, template=template, system_prompt=system_prompt)
    render_prompt(cfg.template, (Message("user", "?"),), tokenizer)  # a wrong template is named before the weights load
    device = resolve_device(cfg.device)
    model = load_model(folder, resolve_dtype(cfg.dtype, device), device)
    sampler = LocalSampler(tokenizer, rows=1)
    sampler.load_weights(model, version=0)
    console = Console(highlight=False, soft_wrap=True)
    introduce(console, cfg, str(folder), model)
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - input() gets a history and the arrow keys
    system = [Message("system", cfg.system_prompt)] if cfg.system_prompt else []
    history: list[Message] = []
    number = 0
    while (question := read_question(console)) is not None:
        number += 1
        if cfg.template not in CHAT:
            history.clear()
        start = time.perf_counter()
        try:
            with console.status("thinking"):
                reply = answer(sampler, model, tokenizer, cfg, [*system, *history, Message("user", question)], number)
        except KeyboardInterrupt as interrupt:
            if interrupt.args:  # SIGTERM, which ends the command
                raise
            console.print("(stopped)", style="dim")
            continue
        if reply is None:
            console.print(f"(too long for the model's context of {model.config.context:,} tokens)", style="yellow")
            if history:
                console.print("(the conversation begins anew: ask once more)", style="yellow")
                history.clear()
            continue
        show(console, reply, time.perf_counter() - start)
        history += [Message("user", question), Message("assistant", reply.answer)]
    console.print()


def introduce(console: Console, cfg: ChatConfig, folder: str, model: Decoder) -> None:
    """What is being talked to and how it is sampled, and what to ask a demo model."""
    size = sum(parameter.numel() for parameter in model.parameters())
    weights = model.embed.weight
    dtype = str(weights.dtype).removeprefix("torch.")
    console.print(f"{cfg.model}: {size / 1e6:,.1f}M parameters, {dtype} on {weights.device.type}", markup=False)
    if folder != cfg.model:
        console.print(f"from {folder}", style="dim", markup=False)
    console.print(
        f"template {cfg.template}, temperature {cfg.temperature:g}, top-p {cfg.top_p:g}, "
        f"at most {cfg.max_new_tokens:,} tokens an answer",
        style="dim",
        markup=False,
    )
    if size < DEMO_PARAMETERS:
        console.print("a small model knows only its tasks; ask for example:")
        for example in DEMO_EXAMPLES:
            console.print(f"  {example}", style="cyan", markup=False)
    if sys.stdin.isatty():
        console.print("exit or Ctrl-D quits, Ctrl-C stops an answer", style="dim")


def read_question(console: Console) -> str | None:
    """The next question that is not empty; None at the end of the input or for `exit`."""
    interactive = sys.stdin.isatty()
    while True:
        try:
            line = input("\n> " if interactive else "").strip()
        except EOFError:
            return None
        except KeyboardInterrupt as interrupt:
            if interrupt.args or not interactive:
                raise
            console.print("\n(exit or Ctrl-D quits)", style="dim")
            continue
        if line.lower() in QUIT:
            return None
        if line:
            if not interactive:
                console.print(f"\n> {line}", markup=False)
            return line


def answer(
    sampler: LocalSampler,
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    cfg: ChatConfig,
    messages: list[Message],
    number: int,
) -> Reply | None:
    """One reply to the last of `messages`, sampled anew for every `number`; None when they leave no room for one."""
    prompt = render_prompt(cfg.template, messages, tokenizer)
    tokens = tuple(tokenizer(prompt.text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]
    cap = min(cfg.max_new_tokens, model.config.context - len(tokens))
    if cap < 1:
        return None
    params = SamplingParams(cfg.temperature, cfg.top_p, 0, cap, stop_tokens(cfg.template, tokenizer))
    ((completion,),) = sampler.generate([Prompt(tokens, seed_from("chat", cfg.seed, number))], params, 1)
    thought, rest = split_thought(prompt.prefill + completion.text)
    return Reply(thought, rest, completion, cap)


def split_thought(text: str) -> tuple[str, str]:
    """The thought and what follows it, without their tags. A thought that was not closed is all there is."""
    thought, closed, rest = text.rpartition("</think>")
    if not closed:
        thought, rest = (text, "") if "<think>" in text else ("", text)
    for tag in ("<answer>", "</answer>"):
        rest = rest.replace(tag, "")
    return thought.replace("<think>", "", 1).strip(), rest.strip()


def show(console: Console, reply: Reply, seconds: float) -> None:
    if reply.thought:
        console.print(Text(textwrap.indent(reply.thought, "  "), style="dim"))
    if reply.answer:
        console.print(Text(reply.answer, style="bold"))
    end = f"stopped at the cap of {reply.cap:,} tokens" if reply.completion.finish_reason == "length" else ""
    notes = [f"{len(reply.completion.tokens):,} tokens", f"{seconds:.1f} s", end]
    console.print(f"({', '.join(note for note in notes if note)})", style="dim")
