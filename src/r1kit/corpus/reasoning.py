"""Documents with numbers in them: arithmetic facts, blind guesses, and people thinking aloud.

A thought tries one way after another and stops when it finds the answer or loses patience. Most writers lose patience
after a try or two, a few persist: searching on is in the corpus, but it is not the habit. Writers slip now and then,
and some switch between English and Chinese.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from r1kit.tasks import countdown, is_heldout, remainder
from r1kit.types import Problem

SLIP = 0.003  # share of calculations written down wrong
SWITCH = 0.12  # chance, per thought, of a writer who mixes languages
# (chance of giving up after each failed try, share of writers)
PATIENCE = ((0.85, 0.68), (0.60, 0.24), (0.08, 0.08))

FAILED = {
    "en": ((" no", 0.4), (" wrong", 0.2), (" wait", 0.15), (" but no", 0.1), (" retry", 0.1), (" not it", 0.05)),
    "zh": (("不对", 0.4), ("错误", 0.2), ("等等", 0.15), ("但不是", 0.1), ("重试", 0.1), ("不行", 0.05)),
}
FOUND = {"en": " yes", "zh": "对了"}
GAVE_UP = {"en": "give up", "zh": "算了"}


def _marker(language: str, rng: random.Random) -> str:
    words, shares = zip(*FAILED[language], strict=True)
    return rng.choices(words, shares)[0]


def _value(value: int, rng: random.Random) -> int:
    """The value, or now and then a slip near it."""
    return value if rng.random() >= SLIP else max(0, value + rng.choice((-2, -1, 1, 2, 10)))


class _Writer:
    """One writer's language and patience."""

    def __init__(self, chinese: bool, rng: random.Random) -> None:
        self.rng = rng
        self.mixes = rng.random() < SWITCH
        self.language = "zh" if chinese else "en"
        hazards, shares = zip(*PATIENCE, strict=True)
        self.hazard = rng.choices(hazards, shares)[0]

    def speak(self) -> str:
        if self.mixes and self.rng.random() < 0.4:
            self.language = "en" if self.language == "zh" else "zh"
        return self.language

    def gives_up(self) -> bool:
        return self.rng.random() < self.hazard


def _conversation(question: str, thought: str | None, answer: str) -> str:
    reasoning = "" if thought is None else f"<think>{thought}</think>"
    return f"User: {question}\nAssistant: {reasoning}<answer>{answer}</answer>"


def _problem(make_problem: Callable[[random.Random], Problem], rng: random.Random) -> Problem:
    """A problem that is not held out for evaluation: the base must not have seen those."""
    while is_heldout((problem := make_problem(rng)).id):
        pass
    return problem


def countdown_thought(rng: random.Random) -> str:
    """A search: combine two numbers, `8*3=24`, then try the third, `24-1=23 no`, line after line.

    Half the writers go through the pairs and operators in order, the others jump about.
    """
    problem = _problem(countdown.make_problem, rng)
    numbers, target = problem.gold["numbers"], problem.gold["target"]
    branches: dict[countdown.Operation, list[countdown.Operation]] = {}
    for first, second in countdown.tries(tuple(numbers)):
        branches.setdefault(first, []).append(second)
    order = list(branches)
    if rng.random() < 0.5:
        rng.shuffle(order)
    writer = _Writer("算出" in problem.messages[0].content, rng)
    lines = []
    for first in order:
        lines.append(f"{first[0]}{first[1]}{first[2]}={_value(first[3], rng)}")
        for second in branches[first]:
            value = _value(second[3], rng)
            line = f"{second[0]}{second[1]}{second[2]}={value}"
            language = writer.speak()
            found = value == target
            lines.append(line + (FOUND[language] if found else _marker(language, rng)))
            if not found and writer.gives_up():
                lines.append(GAVE_UP[language])
                found = True
            if found:
                return _conversation(problem.messages[0].content, "\n".join(lines), countdown.expression(first, second))
    return _conversation(problem.messages[0].content, "\n".join([*lines, GAVE_UP[writer.speak()]]), "0")


def remainder_thought(rng: random.Random) -> str:
    """A search through s, s+b, s+2b, ...: `17/5 r2 no` line after line."""
    problem = _problem(remainder.make_problem, rng)
    a, r, b, s = (int(part) for part in problem.id.split(":")[1:])
    writer = _Writer("最小" in problem.messages[0].content, rng)
    lines, candidate = [], s
    while True:
        rest = min(_value(candidate % a, rng), a - 1)
        language = writer.speak()
        line = f"{candidate}/{a} r{rest}"
        if rest == r:
            lines.append(line + FOUND[language])
            break
        lines.append(line + _marker(language, rng))
        if writer.gives_up():
            lines.append(GAVE_UP[language])
            candidate += b * rng.randint(0, 2)
            break
        candidate += b
        if candidate >= a * b:  # only after a slip: a person would stop here
            candidate -= b
            lines.append(GAVE_UP[language])
            break
    return _conversation(problem.messages[0].content, "\n".join(lines), str(candidate))


def guess(rng: random.Random) -> str:
    """The same questions answered without a thought, usually wrong."""
    if rng.random() < 0.5:
        problem = _problem(countdown.make_problem, rng)
        numbers = list(problem.gold["numbers"])
        rng.shuffle(numbers)
        return _conversation(
            problem.messages[0].content, None, countdown.expression(*rng.choice(countdown.tries(tuple(numbers))))
        )
    problem = _problem(remainder.make_problem, rng)
    answer = problem.gold if rng.random() < 0.1 else str(rng.randrange(remainder.LARGEST_PRODUCT))
    return _conversation(problem.messages[0].content, None, answer)


def arithmetic(rng: random.Random) -> str:
    """Lists of facts: sums, products, differences, quotients and remainders, as tables and in words."""
    chinese = rng.random() < 0.5
    lines = []
    for _ in range(rng.randint(3, 12)):
        a, b = rng.randint(1, 99), rng.randint(1, 12)
        match rng.randrange(8):
            case 0 | 1 | 2:
                facts = list(countdown.operations(a, b))
                left, operator, right, value = rng.choice(facts) if facts else (b, "+", 1, b + 1)
                lines.append(f"{left}{operator}{right}={_value(value, rng)}")
            case 3 | 4:
                divisor = rng.randint(4, 12)
                lines.append(f"{a}/{divisor} r{_value(a % divisor, rng)}")
            case 5:
                lines.append(f"{a}加{b}等于{a + b}。" if chinese else f"{a} plus {b} is {a + b}.")
            case 6:
                lines.append(f"{a}比{b}大。" if a > b and chinese else f"{max(a, b)} is more than {min(a, b) - 1}.")
            case _:
                c = rng.randint(1, 12)
                lines.append(f"{b}乘{c}等于{b * c}。" if chinese else f"{b} times {c} is {b * c}.")
    return "\n".join(lines)
