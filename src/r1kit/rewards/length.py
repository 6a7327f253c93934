"""Rewards that shape the length of completions: DAPO's soft overlong punishment, and the cosine length reward.

Lengths are in tokens. Both are parts of a reward, added to the others; neither looks at the text.
"""

from __future__ import annotations

import math


def overlong_penalty(length: int, cap: int, buffer: int, penalty: float) -> float:
    """What is added to the reward of a completion of `length` tokens under a length cap, at most 0 (DAPO eq. 13).

    0 up to cap - buffer tokens, then linear down to -penalty at the cap. buffer=0 is off.
    """
    if buffer == 0:
        return 0.0
    excess = length - (cap - buffer)
    return -penalty * min(max(excess / buffer, 0.0), 1.0)


def cosine_length(
    num_tokens: int,
    right: bool,
    max_tokens: int,
    *,
    right_short: float = 1.0,
    right_long: float = 0.5,
    wrong_short: float = -0.5,
    wrong_long: float = 0.0,
    exceeded: float = -0.5,
) -> float:
    """The cosine length reward (Yeo et al. 2025, "Demystifying Long Chain-of-Thought Reasoning in LLMs").

    From `..._short` at 0 tokens to `..._long` at `max_tokens`, along half a cosine:
    r_L + (r_0 - r_L)(1 + cos(pi n/L))/2.
    A completion that reaches `max_tokens`, right or not, gets `exceeded`. Their names: r_0^c is right_short, r_L^c
    right_long, r_0^w wrong_short, r_L^w wrong_long, r_e exceeded. With the defaults (ours), right and short is best,
    and a wrong one gains by thinking longer. ValueError when `max_tokens` is not above 0 or `num_tokens` below 0.
    """
    if max_tokens <= 0 or num_tokens < 0:
        raise ValueError(f"num_tokens is {num_tokens} and max_tokens {max_tokens}; give 0 or more, and 1 or more")
    if num_tokens >= max_tokens:
        return exceeded
    short, long = (right_short, right_long) if right else (wrong_short, wrong_long)
    return long + (short - long) * (1 + math.cos(math.pi * num_tokens / max_tokens)) / 2
