r"""Multiple choice (GPQA, MMLU, MMLU-Pro, C-Eval): does a completion settle on the gold's letter?

How the letter is found is in `rewards.choice_text`; which phrasings count, and what was measured, is in
docs/choice-and-instructions.md.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from r1kit.rewards.choice_text import MAX_CHOICES, ChoiceReader
from r1kit.types import Verdict

DEFAULT_CHOICES = 10
"""Letters read where gold does not list its choices: A to J, as in MMLU-Pro."""
GOLD = re.compile(r"\(?([A-Z]+)\)?\.?")


def judge(answer: str, gold: Any) -> tuple[Verdict, str, str]:
    """Verdict, reason, and the letter found ("" where there is none).

    `answer` is the content of an answer tag or box, a response, or a whole completion with its thought. A gold of
    several letters ("AC") asks for exactly these. Undecided only where gold has a fault.
    """
    if fault := choice_fault(gold):
        return "undecided", f"gold {fault}", ""
    letters, choices = _read_gold(gold)
    response, fault = response_of(answer)
    if fault:
        return "wrong", f"{fault}, gold {letters}", ""
    found = extract_choice(response, choices, multiple=len(letters) > 1)
    if not found:
        return "wrong", f"{'no choice' if found is None else 'several choices'} named, gold {letters}", ""
    return ("right" if found == letters else "wrong"), f"chose {found}, gold {letters}", found


def extract_choice(text: str, choices: int | Sequence[Any], *, multiple: bool = False) -> str | None:
    """The letter that `text` (a response, without its thought) settles on: the last one stated.

    None where there is no statement, "" where the last one names several choices. `choices` is their number, or their
    texts in the order A, B, C: with these, a text in the letter's place is read too. With `multiple`, the sorted
    letters of answers such as "A and C" or "AC".
    """
    number = choices if isinstance(choices, int) else len(choices)
    if not 2 <= number <= MAX_CHOICES:
        raise ValueError(f"there are {number} choices; give 2 to {MAX_CHOICES}")
    texts = () if isinstance(choices, int) else tuple(map(str, choices))
    return ChoiceReader(text, number, texts, multiple=multiple).settled()


def choice_fault(gold: Any) -> str:
    """What is wrong with a gold, as "is ..., give ..."; empty when nothing is.

    Right are "B", "AC" (exactly these), and {"answer": "B", "choices": ["2.5", "3.5", ...]}.
    """
    answer, choices = (gold.get("answer"), gold.get("choices")) if isinstance(gold, dict) else (gold, None)
    if choices is not None:
        texts = isinstance(choices, (list, tuple)) and all(type(text) in (str, int, float) for text in choices)
        if not texts or not 2 <= len(choices) <= MAX_CHOICES:
            return (
                f"has the choices {str(choices)[:80]!r}; give a list of 2 to {MAX_CHOICES} texts, in the order A, B, C"
            )
    if isinstance(answer, int):
        return f"is the number {answer!r}; give the letter, as a number may count from 0 or from 1: 'B' for the second"
    letters = _gold_letters(answer)
    if not letters:
        given = f"is {str(answer)[:80]!r}"
        if choices is not None and answer in choices:
            return f"{given}, which is the text of a choice; give its letter, {chr(65 + list(choices).index(answer))!r}"
        return f"{given}; give a letter such as 'B', or several such as 'AC' where all of them are asked for"
    if choices is not None and ord(letters[-1]) - 64 > len(choices):
        return f"is {letters!r} with {len(choices)} choices; give a letter from A to {chr(64 + len(choices))}"
    return ""


def _gold_letters(answer: Any) -> str:
    """The letters of a gold answer such as "B", "(B)" or "AC"; empty when it is not one."""
    if not isinstance(answer, str):
        return ""
    match = GOLD.fullmatch("".join(re.split(r"[\s,]+", unicodedata.normalize("NFKC", answer).strip().upper())))
    letters = match[1] if match else ""
    # several letters are in order and few, or they are a word
    return letters if len(letters) == 1 or (list(letters) == sorted(set(letters)) and letters[-1:] <= "J") else ""


def _read_gold(gold: Any) -> tuple[str, int | Sequence[Any]]:
    answer, choices = (gold["answer"], gold.get("choices")) if isinstance(gold, dict) else (gold, None)
    letters = _gold_letters(answer)
    return letters, max(DEFAULT_CHOICES, ord(letters[-1]) - 64) if choices is None else choices


def response_of(text: str) -> tuple[str, str]:
    """What a completion gives its reader, and what is wrong with it: nothing of a thought, which must be closed.

    Where it closes an answer tag, the content of the last one.
    """
    rest = text.rpartition("</think>")[2]
    if "<think>" in rest:
        return "", "the thought is not closed"
    end = rest.rfind("</answer>")
    start = rest.rfind("<answer>", 0, max(end, 0))
    if start >= 0:
        rest = rest[start + len("<answer>") : end]
    return rest, "" if rest.strip() else "no answer"
