"""Problems to scored samples: render, generate, score, shared by RL and evaluation; and the numbers of a rollout."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from r1kit.algo.advantages import informative_groups
from r1kit.config import RewardConfig
from r1kit.model.chat import RenderedPrompt, render_prompt
from r1kit.rewards.accuracy import PREFERENCE_SCORERS
from r1kit.rewards.code import shared_sandbox
from r1kit.rewards.format import parse_completion
from r1kit.rewards.language import language_consistency
from r1kit.rewards.pool import shared_pool
from r1kit.rewards.reflection import count_reflection_words
from r1kit.rewards.reward import language_of, with_preference
from r1kit.sampling.base import Sampler
from r1kit.sampling.http import HttpSampler
from r1kit.sampling.random import seed_from
from r1kit.types import Metrics, Problem, Prompt, Sample, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Group = list[Sample]
Preference = Callable[[Sequence[tuple[Problem, str]]], list[float]]
"""Reward models: (problem, prefill + completion) pairs of general prompts -> one score each."""


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
    preference: Preference | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Group], Metrics]:
    """One group of `group_size` scored samples per problem, and how long sampling and scoring took.

    `preference` scores the completions of general prompts; without it, or with weight 0, they earn their format reward
    only. A completion's random numbers come from (seed, problem id, index in the group).
    """
    if any(problem.scorer == "code" for problem in problems):
        shared_sandbox(unsafe=reward.unsafe_code)  # where there is none, it says so before the sampling
    start = time.perf_counter()
    rendered = [render_prompt(template, problem.messages, tokenizer) for problem in problems]
    prompts = [
        Prompt(tuple(tokenizer(prompt.text, add_special_tokens=False)["input_ids"]), seed_from(seed, problem.id))  # type: ignore[arg-type]
        for prompt, problem in zip(rendered, problems, strict=True)
    ]
    completions = sampler.generate(prompts, params, group_size, on_progress)
    sampled = time.perf_counter()
    scores = iter(
        shared_pool().score_completions(
            [
                (problem, completion, prompt.prefill)
                for problem, prompt, group in zip(problems, rendered, completions, strict=True)
                for completion in group
            ],
            reward,
        )
    )
    groups = [
        [Sample(problem, prompt.tokens, completion, next(scores)) for completion in group]
        for problem, prompt, group in zip(problems, prompts, completions, strict=True)
    ]
    if preference is not None and reward.preference_weight:
        groups = with_preferences(groups, rendered, preference, reward)
    return groups, {"seconds/sample": sampled - start, "seconds/score": time.perf_counter() - sampled}


def sample_teacher(
    teacher: HttpSampler,
    problems: Sequence[Problem],
    params: SamplingParams,
    group_size: int,
    *,
    reward: RewardConfig,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Group], Metrics]:
    """As `sample_groups`, of a teacher behind an endpoint: it gets the problems' messages and renders them itself, so
    its samples have no tokens and its completions no prefill."""
    start = time.perf_counter()
    completions = teacher.complete([problem.messages for problem in problems], params, group_size, on_progress)
    sampled = time.perf_counter()
    asked = [(p, one, "") for p, group in zip(problems, completions, strict=True) for one in group]
    scores = shared_pool().score_completions(asked, reward)
    samples = iter(Sample(p, (), one, score) for (p, one, _), score in zip(asked, scores, strict=True))
    groups = [[next(samples) for _ in group] for group in completions]
    return groups, {"seconds/sample": sampled - start, "seconds/score": time.perf_counter() - sampled}


def with_preferences(
    groups: Sequence[Group], rendered: Sequence[RenderedPrompt], preference: Preference, reward: RewardConfig
) -> list[Group]:
    """The groups with the reward models' scores added where the prompt is a general one and there is a completion."""
    wanted = [
        (g, i)
        for g, group in enumerate(groups)
        for i, sample in enumerate(group)
        if sample.problem.scorer in PREFERENCE_SCORERS and sample.completion.finish_reason != "error"
    ]
    scores = preference([(groups[g][i].problem, rendered[g].prefill + groups[g][i].completion.text) for g, i in wanted])
    scored = [list(group) for group in groups]
    for (g, i), value in zip(wanted, scores, strict=True):
        sample = scored[g][i]
        scored[g][i] = replace(sample, score=with_preference(sample.score, value, reward))
    return scored


def rewards_of(groups: Sequence[Group]) -> Tensor:
    return torch.tensor([[sample.score.reward for sample in group] for group in groups])


def rollout_metrics(groups: Sequence[Group], seconds: Metrics) -> Metrics:
    """What the run's curves show of one rollout; equal groups count here even when dynamic sampling drops them."""
    samples = [sample for group in groups for sample in group]
    lengths = [len(sample.completion.tokens) for sample in samples]
    equal = 1 - informative_groups(rewards_of(groups)).float().mean().item()
    parts = {
        f"reward/{part}": fmean(values)
        for part in ("accuracy", "format", "language", "preference", "repetition", "length", "function")
        if (values := [sample.score.parts[part] for sample in samples if part in sample.score.parts])
    }
    ruled = [group for group in groups if group[0].problem.scorer not in PREFERENCE_SCORERS]
    if ruled:
        solved = fmean(any(sample.score.verdict == "right" for sample in group) for group in ruled)
        undecided = fmean(sample.score.verdict == "undecided" for group in ruled for sample in group)
        parts |= {"reward/solved_groups": solved, "verdict/undecided": undecided}
    thoughts = [(parse_completion(sample.completion.text).thought, language_of(sample.problem)) for sample in samples]
    if consistent := [c for thought, target in thoughts if (c := language_consistency(thought, target)) is not None]:
        parts["language/consistency"] = fmean(consistent)
    return {
        "reward/mean": fmean(sample.score.reward for sample in samples),
        **parts,
        "reward/equal_groups": equal,
        "length/mean": fmean(lengths),
        "length/max": max(lengths),
        "length/truncated": fmean(sample.completion.finish_reason == "length" for sample in samples),
        "reflection/mean": fmean(count_reflection_words(sample.completion.text) for sample in samples),
        "tokens_per_second": sum(lengths) / seconds["seconds/sample"],
        **seconds,
    }
