"""Problems to scored samples: render, generate, score. Shared by RL and evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from r1kit.config import RewardConfig
from r1kit.model.chat import render_prompt
from r1kit.rewards.reward import score_completion
from r1kit.sampling.base import Sampler
from r1kit.sampling.random import seed_from
from r1kit.types import Metrics, Problem, Prompt, Sample, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Group = list[Sample]


def sample_groups(
    sampler: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    params: SamplingParams,
    group_size: int,
    *,
    template: str,
    seed: str,
    reward: RewardConfig,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Group], Metrics]:
    """One group of `group_size` scored samples per problem, and how long sampling and scoring took.

    A completion's random numbers come from (seed, problem id, index in the group).
    """
    start = time.perf_counter()
    rendered = [render_prompt(template, problem.messages, tokenizer) for problem in problems]
    prompts = [
        Prompt(tuple(tokenizer(prompt.text, add_special_tokens=False)["input_ids"]), seed_from(seed, problem.id))  # type: ignore[arg-type]
        for prompt, problem in zip(rendered, problems, strict=True)
    ]
    completions = sampler.generate(prompts, params, group_size, on_progress)
    sampled = time.perf_counter()
    groups = [
        [Sample(problem, p.tokens, c, score_completion(problem, c, prompt.prefill, reward)) for c in group]
        for problem, p, prompt, group in zip(problems, prompts, rendered, completions, strict=True)
    ]
    return groups, {"seconds/sample": sampled - start, "seconds/score": time.perf_counter() - sampled}
