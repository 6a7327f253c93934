"""Remainder: the smallest number with two given remainders (Sun Zi's problem).

There is exactly one answer below the product of the two coprime divisors, short and canonical, so a majority vote over
answers means something.
"""

from __future__ import annotations

import math
import random

from r1kit.types import Message, Problem

LARGEST_PRODUCT = 99
DIVISORS = [(a, b) for b in range(5, 14) for a in range(4, b) if math.gcd(a, b) == 1 and a * b <= LARGEST_PRODUCT]


def make_problem(rng: random.Random) -> Problem:
    """One problem, in English or Chinese."""
    a, b = rng.choice(DIVISORS)
    return problem_for(a, b, rng.randrange(a * b), chinese=rng.random() < 0.5)


def problem_for(a: int, b: int, answer: int, *, chinese: bool) -> Problem:
    """`answer` is in 0..a*b-1; it is the only number there with its two remainders."""
    r, s = answer % a, answer % b
    question = (
        f"除以{a}余{r}，除以{b}余{s}，最小是几？"
        if chinese
        else f"Smallest number with remainder {r} by {a} and {s} by {b}?"
    )
    return Problem(
        id=f"remainder:{a}:{r}:{b}:{s}",
        task="remainder",
        messages=(Message("user", question),),
        gold=str(answer),
        scorer="number",
    )
