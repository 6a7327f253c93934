"""Reward = accuracy + format (R1 section 2.2: `Reward_rule = Reward_acc + Reward_format`, equal weights)."""

from __future__ import annotations

from r1kit.config import RewardConfig
from r1kit.rewards.accuracy import score_answer
from r1kit.rewards.format import parse_completion
from r1kit.types import Completion, Problem, Score


def score_completion(problem: Problem, completion: Completion, prefill: str, cfg: RewardConfig) -> Score:
    """Score one completion. `prefill` is the tail of the prompt that belongs to the completion, such as `<think>`.

    Undecided (no completion, or a scorer that could not judge) earns no accuracy reward, and the verdict says so.
    """
    if completion.finish_reason == "error":
        return Score(0.0, "undecided", f"no completion: {completion.error}", parts={"accuracy": 0.0, "format": 0.0})
    parsed = parse_completion(prefill + completion.text)
    verdict, reason, extracted = score_answer(problem.scorer, parsed.answer, problem.gold)
    parts = {"accuracy": float(verdict == "right"), "format": float(parsed.format_ok)}
    reward = cfg.accuracy_weight * parts["accuracy"] + cfg.format_weight * parts["format"]
    return Score(reward, verdict, f"{reason}; format: {parsed.reason or 'ok'}", extracted, parts)
