"""Reward = the weighted sum of accuracy, format, language, preference, repetition, length and a function of yours.

R1-Zero: `Reward_rule = Reward_acc + Reward_format`, equal weights (R1 section 2.2). R1: V2 eq. 7-10. This file is the
policy; verdicts come from a judge, in this process (`score_answer`) or in a VerdictPool's workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from r1kit.config import RewardConfig
from r1kit.rewards.accuracy import PREFERENCE_SCORERS, WHOLE_RESPONSE, Judgement, score_answer
from r1kit.rewards.format import parse_completion
from r1kit.rewards.language import language_consistency, prompt_language
from r1kit.rewards.length import cosine_length
from r1kit.rewards.own import is_own
from r1kit.rewards.repetition import repetition_penalty
from r1kit.types import Completion, Problem, Score

FREE = RewardConfig(format="free")
"""The reward is the accuracy; answers are read from completions in any form."""
Judge = Callable[..., Judgement]
"""`score_answer`, or what answers like it."""


def score_completion(
    problem: Problem, completion: Completion, prefill: str, cfg: RewardConfig, judge: Judge = score_answer
) -> Score:
    """Score one completion by rule. `prefill` is the tail of the prompt that belongs to the completion (`<think>`).

    Undecided (no completion, or a scorer that could not judge) earns no accuracy reward, and the verdict says so. A
    general prompt has no accuracy part: `with_preference` adds the reward model's. A thought without words has no
    language and earns no language reward: else silence would be the safest language.
    """
    if completion.finish_reason == "error":
        return Score(0.0, "undecided", f"no completion: {completion.error}", parts={"accuracy": 0.0, "format": 0.0})
    return score_text(problem, prefill + completion.text, cfg, len(completion.tokens), judge)


def score_text(
    problem: Problem, text: str, cfg: RewardConfig = FREE, num_tokens: int | None = None, judge: Judge = score_answer
) -> Score:
    """Score `text`, a completion with the prefilled tail of its prompt. `num_tokens` is its length, for length rewards.

    ValueError when a length reward is asked for and `num_tokens` is not given.
    """
    parsed = parse_completion(text, "r1-zero" if cfg.format == "free" else cfg.format)
    general = problem.scorer in PREFERENCE_SCORERS
    answer, free = parsed.answer, False
    if problem.scorer in WHOLE_RESPONSE:
        answer = parsed.response
    elif answer is None and cfg.format == "free":
        answer, free = parsed.response, True
    if is_own(problem.scorer):
        judged = _by_function(problem.scorer, problem, text, judge)
    else:
        judged = judge(problem.scorer, answer, problem.gold, free=free, unsafe_code=cfg.unsafe_code)
    reason, own = judged.reason, None
    if cfg.function and cfg.function_weight:
        own = _by_function(cfg.function, problem, text, judge)
        reason = f"{reason}; {own.reason}"
        if own.verdict == "undecided":  # the reward is not whole, so it must not look like one
            judged = judged._replace(verdict="undecided")
    parts = {} if general else {"accuracy": _accuracy(problem, judged, cfg)}
    if own is not None:
        parts["function"] = own.share or 0.0
    if cfg.format != "free":
        parts["format"] = float(parsed.format_ok)
        reason = f"{reason}; format: {parsed.reason or 'ok'}"
    if cfg.language_weight:
        parts["language"] = language_consistency(parsed.thought, language_of(problem)) or 0.0
    if cfg.repetition_weight:
        parts["repetition"] = repetition_penalty(text, ngram=cfg.repetition_ngram)
    if cfg.length != "none" and not general:
        parts["length"] = _length(judged, num_tokens, cfg)
    return Score(weighted(parts, cfg), judged.verdict, reason, judged.extracted, parts)


def _by_function(spec: str, problem: Problem, text: str, judge: Judge) -> Judgement:
    """What a function of yours says of the whole completion."""
    asked = problem.messages[-1].content if problem.messages else ""
    return judge(spec, text, problem.gold, prompt=asked)


def _accuracy(problem: Problem, judged: Judgement, cfg: RewardConfig) -> float:
    if is_own(problem.scorer) and judged.verdict != "undecided":
        return judged.share or 0.0
    if cfg.code_share and judged.verdict == "wrong" and judged.share is not None:
        return judged.share
    return float(judged.verdict == "right")


def _length(judged: Judgement, num_tokens: int | None, cfg: RewardConfig) -> float:
    if num_tokens is None:
        raise ValueError(f"reward.length is {cfg.length!r}; give num_tokens, the length of the completion in tokens")
    if judged.verdict == "undecided":  # neither side of the cosine: a broken verifier must not reward length
        return 0.0
    return cosine_length(
        num_tokens, judged.verdict == "right", cfg.length_max,
        right_short=cfg.length_right[0], right_long=cfg.length_right[1],
        wrong_short=cfg.length_wrong[0], wrong_long=cfg.length_wrong[1], exceeded=cfg.length_exceeded,
    )  # fmt: skip


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
        "repetition": cfg.repetition_weight,
        "length": cfg.length_weight,
        "function": cfg.function_weight,
    }
    return sum(weights[name] * value for name, value in parts.items())


def language_of(problem: Problem) -> str:
    """The language that a completion should keep to: the last user turn's, as an ISO 639-1 code."""
    turns = [message.content for message in problem.messages if message.role == "user"]
    return prompt_language(turns[-1] if turns else "")
