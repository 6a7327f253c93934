"""Reward = the weighted sum of accuracy, format, language consistency and preference.

R1-Zero: `Reward_rule = Reward_acc + Reward_format`, equal weights (R1 section 2.2). R1: V2 eq. 7-10.
"""

from __future__ import annotations

from dataclasses import replace

from r1kit.config import RewardConfig
from r1kit.rewards.accuracy import PREFERENCE_SCORERS, score_answer
from r1kit.rewards.format import parse_completion
from r1kit.rewards.language import language_consistency, prompt_language
from r1kit.types import Completion, Problem, Score


def score_completion(problem: Problem, completion: Completion, prefill: str, cfg: RewardConfig) -> Score:
    """Score one completion by rule. `prefill` is the tail of the prompt that belongs to the completion (`<think>`).

    Undecided (no completion, or a scorer that could not judge) earns no accuracy reward, and the verdict says so. A
    general prompt has no accuracy part: `with_preference` adds the reward model's. A thought without words has no
    language and earns no language reward: else silence would be the safest language.
    """
    if completion.finish_reason == "error":
        return Score(0.0, "undecided", f"no completion: {completion.error}", parts={"accuracy": 0.0, "format": 0.0})
    parsed = parse_completion(prefill + completion.text, cfg.format)
    general = problem.scorer in PREFERENCE_SCORERS
    verdict, reason, extracted = score_answer(
        problem.scorer, parsed.response if general else parsed.answer, problem.gold
    )
    parts = {"format": float(parsed.format_ok)}
    if not general:
        parts = {"accuracy": float(verdict == "right"), **parts}
    if cfg.language_weight:
        parts["language"] = language_consistency(parsed.thought, language_of(problem)) or 0.0
    return Score(weighted(parts, cfg), verdict, f"{reason}; format: {parsed.reason or 'ok'}", extracted, parts)


def with_preference(score: Score, preference: float, cfg: RewardConfig) -> Score:
    """The score with a reward model's part added."""
    parts = score.parts | {"preference": preference}
    return replace(score, parts=parts, reward=weighted(parts, cfg))


def weighted(parts: dict[str, float], cfg: RewardConfig) -> float:
    """The reward that these parts make."""
    weights = {
        "accuracy": cfg.accuracy_weight,
        "format": cfg.format_weight,
        "language": cfg.language_weight,
        "preference": cfg.preference_weight,
    }
    return sum(weights[name] * value for name, value in parts.items())


def language_of(problem: Problem) -> str:
    """The language that a completion should keep to: the last user turn's, as an ISO 639-1 code."""
    turns = [message.content for message in problem.messages if message.role == "user"]
    return prompt_language(turns[-1] if turns else "")
