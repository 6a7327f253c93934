"""The accuracy reward (R1 section 2.2): is the answer right, by rule? One scorer per kind of answer.

A scorer says right, wrong, or undecided when it cannot judge (the gold is unreadable, a library failed): undecided
earns no reward and is counted, so that a broken verifier shows up as such and not as a bad model.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import Any, Literal, NamedTuple, get_args

from r1kit.rewards import countdown
from r1kit.rewards.general import judge_response
from r1kit.rewards.own import is_own, judge_own, own_function
from r1kit.types import Verdict

Scorer = Literal[
    "exact", "number", "math", "choice", "ifeval", "code", "countdown", "knights", "reasoning_gym", "helpful", "safety"
]
SCORERS: tuple[str, ...] = get_args(Scorer)
PREFERENCE_SCORERS = ("helpful", "safety")
"""Scorers of general prompts: no answer is right, the reward is a reward model's (R1 V2 eq. 10)."""
WHOLE_RESPONSE = (*PREFERENCE_SCORERS, "ifeval", "code")
"""Scorers that judge the whole response, not an answer in it."""
ANY_FORM = ("choice", "knights")
"""Scorers that find the answer in a text of any form themselves."""

NUMBER = re.compile(r"(?:[A-Za-z]\w{0,20}=)?([+-]?)([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(\.[0-9]+)?(?:/([0-9]+))?\.?")
MAX_NUMBER_CHARS = 200
MAX_REASON_CHARS = 1_000
MAX_EXTRACTED_CHARS = 10_000


class Judgement(NamedTuple):
    verdict: Verdict
    reason: str
    """For the sample log: what was compared with what."""
    extracted: str
    """The answer that was judged, in a canonical form where the scorer has one: equal answers vote together."""
    share: float | None = None
    """Share of the tests that passed, from the scorer code; what a function of yours returned."""


def score_answer(
    scorer: str, answer: str | None, gold: Any, *, free: bool = False, unsafe_code: bool = False, prompt: str = ""
) -> Judgement:
    """Judge `answer` (the content of the answer tag; None when there is none) against `gold`.

    For WHOLE_RESPONSE it is the response after the thought; a general prompt is undecided unless its gold has rules.
    With `free` it is a response without tags, and the scorer finds the final answer in it. Model-written code runs in
    a sandbox; `unsafe_code` runs it without. For a function of yours (FILE.py:NAME) `answer` is the whole completion,
    `prompt` what was asked, and what the function raises comes through.

    ValueError when `scorer` is not one of SCORERS; ModuleNotFoundError and SandboxUnavailable say what to install.
    """
    check_scorer(scorer)
    if is_own(scorer):
        verdict, reason, extracted, number = judge_own(scorer, prompt, answer or "", gold)
        return Judgement(verdict, reason[:MAX_REASON_CHARS], extracted[:MAX_EXTRACTED_CHARS], number)
    if fault := gold_fault(scorer, gold):
        return Judgement("undecided", f"gold {fault}"[:MAX_REASON_CHARS], "")
    if scorer in PREFERENCE_SCORERS:
        return _preference(answer or "", gold, scorer)
    if answer is None or not answer.strip():
        return Judgement("wrong", "empty response" if scorer in WHOLE_RESPONSE else "no <answer>", "")
    if free and scorer not in (*WHOLE_RESPONSE, *ANY_FORM):
        answer = free_answer(answer)
        if answer is None:
            return Judgement("wrong", "no final answer", "")
    judged = _judge(scorer, answer, gold, unsafe_code)
    reason, extracted = judged.reason[:MAX_REASON_CHARS], judged.extracted[:MAX_EXTRACTED_CHARS]
    return judged._replace(reason=reason, extracted=extracted)


def check_scorer(scorer: str) -> None:
    """ValueError when there is no such scorer, FileNotFoundError when there is no such file of yours."""
    if is_own(scorer):
        own_function(scorer)
    elif scorer not in SCORERS:
        raise ValueError(f"scorer {scorer!r} does not exist; scorers are {', '.join(SCORERS)}, or FILE.py:NAME")


def free_answer(response: str) -> str | None:
    """The final answer that a response without answer tags states; a response of one short line is all answer."""
    from r1kit.rewards.math import final_answer

    found = final_answer(response)
    if found is None and len(response) <= MAX_NUMBER_CHARS and "\n" not in response.strip():
        return response.strip() or None
    return found


def _judge(scorer: str, answer: str, gold: Any, unsafe_code: bool) -> Judgement:
    match scorer:
        case "exact":
            return _exact(answer, gold)
        case "number":
            return _number(answer, gold)
        case "countdown":
            right, reason, expression = countdown.judge(answer, gold["numbers"], gold["target"])
            return Judgement("right" if right else "wrong", reason, expression)
        case "knights":
            from r1kit.rewards.knights import judge

            return Judgement(*judge(answer, gold))
        case "math":
            from r1kit.rewards.math import judge

            verdict, reason = judge(answer.strip(), str(gold))
            return Judgement(verdict, reason, "".join(answer.split()))
        case "choice":
            from r1kit.rewards.choice import judge

            return Judgement(*judge(answer, gold))
        case "ifeval":
            from r1kit.rewards.ifeval import judge

            return Judgement(*judge(answer, gold), "")
        case "code":
            from r1kit.rewards.code import score_code, shared_sandbox

            score = score_code(answer, gold, shared_sandbox(unsafe=unsafe_code))
            return Judgement(score.verdict, score.reason, score.extracted, score.parts.get("tests_passed"))
        case "reasoning_gym":
            from r1kit.rewards.reasoning_gym import judge

            verdict, reason = judge(answer.strip(), gold)
            return Judgement(verdict, reason, answer.strip())
    raise AssertionError(scorer)


def _preference(response: str, gold: Any, scorer: str) -> Judgement:
    """Right when the rules of a small world find all that was asked for; undecided where there are no such rules."""
    if not has_rules(gold):
        return Judgement("undecided", "no rule judges a general prompt", "")
    judged = judge_response(response, gold, scorer)
    return Judgement("right" if judged.safe and judged.quality >= 0.7 else "wrong", judged.reason, "")


def has_rules(gold: Any) -> bool:
    """Whether a general prompt comes with the rules of `rewards.general`."""
    return isinstance(gold, dict) and gold.keys() >= {"wanted", "language", "refusal", "courtesy"}


def gold_fault(scorer: str, gold: Any) -> str:
    """What keeps `scorer` from using `gold`, as "is ..., give ..."; empty when nothing does."""
    if is_own(scorer):
        return ""
    match scorer:
        case "number":
            if isinstance(gold, bool) or not isinstance(gold, (str, int, float)) or read_number(str(gold)) is None:
                return f"is {gold!r}; give a number such as 23, -0.5 or 1/3"
        case "countdown":
            numbers, target = (gold.get("numbers"), gold.get("target")) if isinstance(gold, dict) else (None, None)
            whole = isinstance(numbers, list) and numbers and all(type(n) is int and n >= 0 for n in [*numbers, target])
            if not whole:
                return f'is {gold!r}; give {{"numbers": [8, 3, 1], "target": 24}} with whole numbers'
        case "knights":
            from r1kit.rewards.knights import knights_fault

            return knights_fault(gold)
        case "reasoning_gym":
            entry = gold.get("entry") if isinstance(gold, dict) else None
            if (
                not isinstance(entry, dict)
                or not {"question", "answer", "metadata"} <= entry.keys()
                or "dataset" not in gold
            ):
                return f"is {str(gold)[:80]!r}; give the gold of a problem made by `reasoning_gym:NAME`"
        case "helpful" | "safety":
            pass
        case "choice":
            from r1kit.rewards.choice import choice_fault

            return choice_fault(gold)
        case "ifeval":
            from r1kit.rewards.ifeval import ifeval_fault

            return ifeval_fault(gold)
        case "code":
            from r1kit.rewards.code_tests import code_fault

            return code_fault(gold)
        case _:
            if isinstance(gold, bool) or not isinstance(gold, (str, int, float)) or not str(gold).strip():
                return f"is {gold!r}; give a text that is not empty"
            if scorer == "math":
                from r1kit.rewards.math import gold_fault_math

                return gold_fault_math(str(gold))
    return ""


def read_number(text: str) -> Fraction | None:
    """The number that `text` is: 23, 23.0, -1/3, 1,000, x = 23. None when it is anything more or else."""
    if len(text) > MAX_NUMBER_CHARS:
        return None
    text = unicodedata.normalize("NFKC", text).strip().strip("$").replace("−", "-").rstrip("。")
    match = NUMBER.fullmatch(re.sub(r"\s*([=/])\s*", r"\1", text.strip()))
    if match is None:
        return None
    sign, whole, decimals, divisor = match.groups()
    if divisor is not None and int(divisor) == 0:
        return None
    value = Fraction(whole.replace(",", "") + (decimals or "")) / int(divisor or 1)
    return -value if sign == "-" else value


def _exact(answer: str, gold: str | int | float) -> Judgement:
    given, expected = (" ".join(str(text).split()).casefold() for text in (answer, gold))
    return Judgement("right" if given == expected else "wrong", f"answered {given!r}, gold {expected!r}", given)


def _number(answer: str, gold: str | int | float) -> Judgement:
    given, expected = read_number(answer), read_number(str(gold))
    if given is None:
        return Judgement("wrong", f"{answer.strip()[:80]!r} is not a number, gold {expected}", answer.strip())
    return Judgement("right" if given == expected else "wrong", f"answered {given}, gold {expected}", str(given))
