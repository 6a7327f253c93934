"""The generated bilingual corpus that the demo's base model is pretrained on.

Document i of a step is a function of (seed, step, i). Most documents are plain text, arithmetic, blind guesses and web
noise; a minority reason aloud before they answer, and most of those give up early.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from r1kit.corpus import reasoning, text
from r1kit.tasks import general, is_heldout

# kind -> share of documents
MIX = {
    "text": 0.11,
    "noise": 0.03,
    "chat": 0.03,
    "general": 0.10,
    "arithmetic": 0.17,
    "guess": 0.11,
    "countdown": 0.27,
    "remainder": 0.18,
}


def document(kind: str, rng: random.Random) -> str:
    """One document of a kind of `MIX`."""
    match kind:
        case "text":
            return text.article(rng)
        case "noise":
            return text.web_noise(rng)
        case "chat":
            return text.chat(rng)
        case "general":
            return general_document(rng)
        case "arithmetic":
            return reasoning.arithmetic(rng)
        case "guess":
            return reasoning.guess(rng)
        case "countdown":
            return reasoning.countdown_thought(rng)
        case "remainder":
            return reasoning.remainder_thought(rng)
        case _:
            raise ValueError(f"no corpus document kind {kind!r}; kinds are {', '.join(MIX)}")


def documents(seed: int, step: int) -> Iterator[str]:
    """An endless stream of documents for one training step."""
    rng = random.Random(f"corpus/{seed}/{step}")
    kinds, shares = list(MIX), list(MIX.values())
    while True:
        yield document(rng.choices(kinds, shares)[0], rng)


def general_document(rng: random.Random) -> str:
    """A general prompt with a good or a poor response; one writer in five thinks first."""
    while is_heldout((problem := general.make_problem(rng)).id):
        pass
    response = general.respond(problem, rng)
    thought = f"<think>{general.thought(problem)}</think>" if rng.random() < 0.2 else ""
    return f"User: {problem.messages[0].content}\nAssistant: {thought}{response}"
