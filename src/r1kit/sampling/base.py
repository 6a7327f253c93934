"""The sampler's seam: anything that continues prompts (our engine, vLLM, an HTTP endpoint)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from r1kit.types import Completion, Metrics, Prompt, SamplingParams

OnProgress = Callable[[int, int], None]
"""Called with how many are finished, and of how many."""


class Sampler(Protocol):
    """Generates completions with the weights it was last given."""

    def generate(
        self, prompts: Sequence[Prompt], params: SamplingParams, n: int, on_progress: OnProgress | None = None
    ) -> list[list[Completion]]:
        """`n` completions for every prompt, in the order of `prompts`.

        `on_progress(finished, total)` is called as completions finish. A completion that could not be made has
        `finish_reason="error"`; it is never dropped.
        """
        ...

    def load_weights(self, source: Any, version: int) -> Metrics:
        """Use the weights that `Learner.publish` returned; completions carry `version` from now on.

        Returns what there is to log of it. RuntimeError when the sampler cannot be shown to use them.
        """
        ...


def shorter(longest: int, new: int, context: int) -> str:
    """What to do where the longest prompt and `new` tokens exceed the context, as the end of an error."""
    if longest < context:
        return f"lower --max-new-tokens to {context - longest} or less"
    room = f" {context - new}" if new < context else ", and lower --max-new-tokens"
    return f"the prompt alone is too long: leave such prompts out with --filter.max-prompt-tokens{room}"
