"""The records that every stage shares: Problem -> Completion -> Score -> Sample.

No torch here: the command line and the tasks import this file before anything heavy is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Metrics = dict[str, float]
Verdict = Literal["right", "wrong", "undecided"]
FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Problem:
    """One task item: what is asked, and what its scorer needs to judge an answer."""

    id: str
    """Unique within its task and the same in every process: derived from the content, not from a counter."""
    task: str
    """Name of the task that it came from, as given to `--tasks`; results are grouped by it."""
    messages: tuple[Message, ...]
    gold: Any
    """What the scorer compares with: a string, or any JSON value (Countdown: {"numbers": [...], "target": n})."""
    scorer: str
    """Name of the scorer, one of `r1kit.rewards.accuracy.SCORERS`, or a function of yours, as FILE.py:NAME."""


@dataclass(frozen=True)
class Prompt:
    """What a sampler is asked to continue."""

    tokens: tuple[int, ...]
    seed: int
    """Completion i draws its random numbers from (seed, i, position) only, so its neighbours do not matter."""


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. `temperature=0` is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""
    max_new_tokens: int = 256
    stop_tokens: tuple[int, ...] = ()
    """Ids that end a completion; the one that did is kept as its last token."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; give 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; give a value above 0 and at most 1")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; give 0 (off) or a number of tokens")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; give at least 1")


@dataclass(frozen=True)
class Completion:
    """What the sampler returned for one prompt."""

    tokens: tuple[int, ...]
    sampler_logprobs: tuple[float, ...]
    """Natural log of each token's probability under the distribution it was drawn from before top-p/top-k
    cut it (temperature applied); the learner's log-probs are comparable."""
    text: str
    finish_reason: FinishReason
    policy_version: int = 0
    """Optimizer steps in the weights that generated it."""
    error: str = ""
    """Why there is no completion, when `finish_reason` is "error"; such a completion is scored undecided."""


@dataclass(frozen=True)
class Score:
    """A verdict with its reason, and the reward made of it."""

    reward: float
    verdict: Verdict
    reason: str
    extracted: str = ""
    """The answer that was judged; empty when none was found."""
    parts: dict[str, float] = field(default_factory=dict)
    """Unweighted parts of the reward: {"accuracy": 1.0, "format": 0.0}."""


@dataclass(frozen=True)
class Sample:
    """A problem with one completion, its score and its advantage: ready to train on."""

    problem: Problem
    prompt_tokens: tuple[int, ...]
    completion: Completion
    score: Score
    advantage: float = 0.0
