"""How the model of a run was trained: the template, the system prompt and the form of answers that go with it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from r1kit.config.evaluate import AnswerForm, GivenForm
from r1kit.model.chat import CHAT

DEFAULT_TEMPLATE = "short"


@dataclass(frozen=True)
class Trained:
    """What a run's config.json says of its prompts and answers; empty where it says nothing."""

    run: Path
    template: str
    system_prompt: str
    format: AnswerForm | None
    """`--reward.format` of an RL run."""


def trained_as(model: Path) -> Trained | None:
    """How `model`, a folder, was trained; None where it is no checkpoint in a run folder."""
    run = model.absolute().parent.parent
    if model.absolute().parent.name != "checkpoints" or not (run / "config.json").is_file():
        return None
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    form = cast("AnswerForm | None", config.get("reward", {}).get("format"))
    return Trained(run, config.get("template", ""), config.get("system_prompt", ""), form)


def prompt_settings(template: str, system_prompt: str, trained: Trained | None) -> tuple[str, str]:
    """Template and system prompt: those that are given, else those that the run was trained with.

    Given ones that differ from the run's are warned of: the model has never seen such prompts.
    """
    if trained is None:
        return template or DEFAULT_TEMPLATE, system_prompt
    for flag, given, own in (
        ("--template", template, trained.template or DEFAULT_TEMPLATE),
        ("--system-prompt", system_prompt, trained.system_prompt),
    ):
        if given and given != own:
            print(
                f"warning: {flag} is {given!r}, and {trained.run} was trained with {repr(own) if own else 'none'}; "
                f"leave out {flag} to take the run's",
                file=sys.stderr,
            )
    return template or trained.template or DEFAULT_TEMPLATE, system_prompt or trained.system_prompt


def answer_form(given: GivenForm, trained: Trained | None, template: str) -> tuple[AnswerForm, str]:
    """The form that answers are read in, and why: the one that is given, else the run's own, else the template's."""
    if given:
        return given, "as given"
    if trained is not None and trained.format:
        return trained.format, "the run's --reward.format"
    return form_of_template(template), f"the usual one with template {template}"


def form_of_template(template: str) -> AnswerForm:
    """A model asked in its own template answers in a form of its own; the plain templates ask for r1-zero's."""
    return "free" if template in CHAT else "r1-zero"
