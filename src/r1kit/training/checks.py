"""What of a run's problems would stop it at some later step, found before the first one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

from r1kit.config import EvaluateConfig, PreferencesConfig, RejectConfig, RewardConfig
from r1kit.model.chat import render_prompt
from r1kit.rewards.accuracy import PREFERENCE_SCORERS
from r1kit.tasks import FiniteProblems, ProblemSet, task_names
from r1kit.training.models import model_context
from r1kit.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOOKED_AT = 64
"""Problems of a generated task that are looked at: it has no end."""
AT_A_TIME = 256


@dataclass(frozen=True)
class Room:
    """How many tokens a prompt and its completion may have together, and the flags that decide it."""

    context: int
    what: str
    """What has that many, such as "the model's context"."""
    cap: int
    """Length cap of the completions."""
    cap_flag: str
    filter_flag: str = "--filter.max-prompt-tokens"


def sampling_room(cfg: RejectConfig | PreferencesConfig | EvaluateConfig, folder: Path) -> Room:
    """What the sampler of `reject`, `preferences` and `evaluate` has for the model in `folder`, by its config.json.

    vLLM has what --vllm.max-len says, which may be more: it knows more scalings of positions.
    """
    context, what = model_context(folder), "the model's context"
    if cfg.sampler == "vllm" and cfg.vllm.max_len:
        context, what = cfg.vllm.max_len, "--vllm.max-len"
    return Room(context, what, cfg.max_new_tokens, "--max-new-tokens")


def known_problems(problems: ProblemSet) -> Sequence[Problem]:
    """All problems of a data set, the first ones of a generated task."""
    return problems.problems if isinstance(problems, FiniteProblems) else problems.take(0, LOOKED_AT)


def check_reward_models(problem_sets: Iterable[ProblemSet], reward: RewardConfig) -> None:
    """ValueError when reward models are to score general prompts and a kind of them has none, or there are none."""
    if not reward.preference_weight:
        return
    models = {"helpful": reward.helpful_model, "safety": reward.safety_model}
    scored = False
    for problems in problem_sets:
        scorers = {problem.scorer for problem in known_problems(problems)}
        # What a user's generator may come to make, nobody knows.
        known = isinstance(problems, FiniteProblems) or problems.name in task_names()
        scored = scored or not known or not scorers.isdisjoint(PREFERENCE_SCORERS)
        for kind in PREFERENCE_SCORERS:
            if kind in scorers and not models[kind]:
                raise ValueError(
                    f"{problems.name} has prompts of scorer {kind!r}, and they have no reward model; give "
                    f"--reward.{kind}-model, or no such task"
                )
    if not scored:
        raise ValueError(
            f"--reward.preference-weight is {reward.preference_weight} and no problem is a general prompt, of scorer "
            f"{' or '.join(PREFERENCE_SCORERS)}; give --general-tasks, or --reward.preference-weight 0"
        )


def check_room(
    problem_sets: Iterable[ProblemSet], tokenizer: PreTrainedTokenizerBase, template: str, room: Room,
    *, first: int | None = None,
) -> None:  # fmt: skip
    """ValueError for the first problem whose prompt leaves no room for a completion at the cap. With `first`, only so
    many problems of each set are asked, as an evaluation does."""
    for problems in problem_sets:
        asked = known_problems(problems) if first is None else problems.first(first)
        check_fit(asked, tokenizer, template, room, problems.name, filtered=isinstance(problems, FiniteProblems))


def check_fit(
    problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, template: str, room: Room, name: str,
    *, filtered: bool = False,
) -> None:  # fmt: skip
    """`check_room` of some problems of the set `name`; `filtered` when its long prompts can be left out by a flag."""
    for problem, tokens in _long_prompts(problems, tokenizer, template, room.context - room.cap):
        ways = []
        if tokens < room.context:
            ways.append(f"lower {room.cap_flag} to {room.context - tokens} or less")
        if room.cap < room.context and filtered:
            ways.append(f"leave long prompts out with {room.filter_flag} {room.context - room.cap}")
        advice = ", or ".join(ways) or f"lower {room.cap_flag}, which alone exceeds it"
        raise ValueError(
            f"{name}: the prompt of problem {problem.id} has {tokens:,} tokens; with {room.cap_flag} {room.cap} that "
            f"is more than {room.what} of {room.context:,} tokens; {advice}"
        )


def _long_prompts(
    problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, template: str, longest: int
) -> Iterator[tuple[Problem, int]]:
    """Problems whose prompts have more than `longest` tokens, and how many."""
    rendered = ((problem, render_prompt(template, problem.messages, tokenizer).text) for problem in problems)
    # A token is at least a byte, so most prompts need not be tokenized.
    suspects = ((problem, text) for problem, text in rendered if len(text.encode()) > longest)
    while some := list(islice(suspects, AT_A_TIME)):
        encoded = tokenizer([text for _, text in some], add_special_tokens=False)["input_ids"]
        for (problem, _), ids in zip(some, cast("list[list[int]]", encoded), strict=True):
            if len(ids) > longest:
                yield problem, len(ids)
