"""Countdown: reach a target with three numbers, each used once, by + - * / (TinyZero's task, sized for tiny models).

Every problem has a solution in which each intermediate value is a positive whole number up to 99. Many answers can be
right, so a majority vote over answers says little here; `remainder` is the task with one short answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from r1kit.types import Message, Problem

LARGEST_NUMBER = 12
LARGEST_VALUE = 99

Operation = tuple[int, str, int, int]
"""left, operator, right, value"""


def operations(a: int, b: int) -> Iterator[Operation]:
    """The sums, products, differences and quotients of two numbers that stay within 1..99."""
    high, low = max(a, b), min(a, b)
    if a + b <= LARGEST_VALUE:
        yield a, "+", b, a + b
    if a * b <= LARGEST_VALUE:
        yield a, "*", b, a * b
    if high > low:
        yield high, "-", low, high - low
    if low > 1 and high % low == 0:
        yield high, "/", low, high // low


def tries(numbers: tuple[int, int, int]) -> list[tuple[Operation, Operation]]:
    """All ways to combine two of the numbers, then the value with the third."""
    found = []
    for left, right, rest in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        for first in operations(numbers[left], numbers[right]):
            for second in operations(first[3], numbers[rest]):
                found.append((first, second))
    return found


def expression(first: Operation, second: Operation) -> str:
    """The try as one expression: (8-3)*2, or 9-(8-3) when the intermediate value stands on the right."""
    inner = f"({first[0]}{first[1]}{first[2]})"
    if second[0] == first[3]:
        return f"{inner}{second[1]}{second[2]}"
    return f"{second[0]}{second[1]}{inner}"


def make_problem(rng: random.Random) -> Problem:
    """One solvable problem, in English or Chinese."""
    numbers = (rng.randint(1, LARGEST_NUMBER), rng.randint(1, LARGEST_NUMBER), rng.randint(1, LARGEST_NUMBER))
    target = rng.choice(tries(numbers))[1][3]
    return problem_for(numbers, target, chinese=rng.random() < 0.5)


def problem_for(numbers: tuple[int, int, int], target: int, *, chinese: bool) -> Problem:
    a, b, c = numbers
    question = f"用{a}、{b}、{c}算出{target}。" if chinese else f"Make {target} from {a}, {b}, {c}."
    key = "-".join(str(number) for number in sorted(numbers))
    return Problem(
        id=f"countdown:{key}:{target}",
        task="countdown",
        messages=(Message("user", question),),
        gold={"numbers": list(numbers), "target": target},
        scorer="countdown",
    )
