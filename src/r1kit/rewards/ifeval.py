"""Instruction-following constraints that can be checked by rule: the 25 kinds of IFEval, in English and Chinese.

The reference is google-research/instruction_following_eval (Zhou et al. 2023, arXiv:2311.07911): its ids and arguments,
strict and loose. An id "zh:KIND" counts as Chinese does, "en:KIND" and KIND as the reference. What is counted how, and
the agreement with the reference: docs/choice-and-instructions.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal

from r1kit.rewards.choice import response_of
from r1kit.rewards.ifeval_checks import KINDS, RELATIONS, Args, Kind
from r1kit.rewards.ifeval_text import language_code
from r1kit.rewards.language import SCRIPT, SHARED
from r1kit.types import Verdict

Mode = Literal["strict", "loose"]
MAX_CHARS = 400_000
"""Longer responses are left undecided."""
LANGUAGES = ("en", "zh")
"""Prefixes of an id, and how its instruction is counted."""
NEEDS_LIBRARY = frozenset(code for codes in SHARED.values() for code in codes) - {"en"}
WANTED = {
    "count": "a whole number, 0 or more",
    "relation": " or ".join(map(repr, RELATIONS)),
    "text": "a text that is not empty",
    "texts": "a list of texts that are not empty",
    "letter": "one letter or character",
    "language": f"an ISO 639-1 code: {', '.join(sorted(SCRIPT))}",
}
"""What an argument must be, for errors."""


def judge(response: str, gold: Any, *, mode: Mode = "strict") -> tuple[Verdict, str]:
    """Right when every instruction of `gold` is followed; the reason names those that are not.

    `response` is what the reader is given, or a whole completion with its thought. `gold` is {"instruction_id_list":
    [...], "kwargs": [...]}, as in IFEval's data. Undecided where gold has a fault or the response is too long.
    """
    if fault := ifeval_fault(gold):
        return "undecided", f"gold {fault}"
    if len(response) > MAX_CHARS:
        return "undecided", f"the response has {len(response):,} characters; at most {MAX_CHARS:,} are judged"
    shown, fault = response_of(response)
    if fault:
        return "wrong", fault
    ids = gold["instruction_id_list"]
    faults = instruction_faults(shown, gold, mode)
    missed = [f"{name}: {fault}" for name, fault in zip(ids, faults, strict=True) if fault]
    return ("wrong", "; ".join(missed)) if missed else ("right", f"all {len(ids)} followed")


def instructions_followed(response: str, gold: Any, mode: Mode = "strict") -> list[bool]:
    """For each instruction of `gold`, whether `response` (without a thought) follows it.

    ValueError when gold has a fault.
    """
    if fault := ifeval_fault(gold):
        raise ValueError(f"gold {fault}")
    return [not fault for fault in instruction_faults(response, gold, mode)]


def instruction_faults(response: str, gold: Any, mode: Mode = "strict") -> list[str]:
    """For each instruction of a gold without fault, what of it is not followed; "" when it is.

    Loose also tries the response without its first line, its last, both, and each of these without asterisks; one that
    follows is enough, and the fault is that of the whole response.
    """
    return [
        _fault(response, kind, _given(args), language, mode)
        for (language, kind), args in zip(map(_read_id, gold["instruction_id_list"]), gold["kwargs"], strict=True)
    ]


def ifeval_fault(gold: Any) -> str:
    """What is wrong with a gold, as "is ..., give ..."; empty when nothing is."""
    ids, kwargs = (gold.get("instruction_id_list"), gold.get("kwargs")) if isinstance(gold, dict) else (None, None)
    if not isinstance(ids, list) or not isinstance(kwargs, list) or not ids or len(ids) != len(kwargs):
        return (
            f'is {str(gold)[:80]!r}; give {{"instruction_id_list": ["punctuation:no_comma", ...], '
            '"kwargs": [{}, ...]}, as many kwargs as ids, at least one'
        )
    return next(filter(None, map(_instruction_fault, ids, kwargs)), "")


def _instruction_fault(name: Any, args: Any) -> str:
    if not isinstance(name, str) or _bare(name) not in KINDS:
        return f"has the instruction {name!r}; give one of {', '.join(KINDS)}, for Chinese with zh: in front"
    kind = KINDS[_bare(name)]
    if not isinstance(args, dict | None):
        return f"has the kwargs {args!r} for {name}; give a dict with {', '.join(kind.args) or 'nothing in it'}"
    given = _given(args)
    for argument, wanted in kind.args.items():
        if argument not in given:
            return f"has no {argument} for {name}; give {WANTED[wanted]}"
        if not _is_valid(given[argument], wanted):
            return f"has the {argument} {str(given[argument])[:60]!r} for {name}; give {WANTED[wanted]}"
    if "nth_paragraph" in kind.args and not 1 <= given["nth_paragraph"] <= given["num_paragraphs"]:
        return f"has the nth_paragraph {given['nth_paragraph']} for {name}; give one from 1 to num_paragraphs"
    if "options" in given and not _is_valid(given["options"], "texts"):
        return f"has the options {str(given['options'])[:60]!r} for {name}; give {WANTED['texts']}"
    code = language_code(given.get("language"))
    if code in NEEDS_LIBRARY and not _has_library():
        return f"has the language {code!r}, which is told apart by a library; pip install 'r1kit[language]'"
    return ""


@lru_cache(maxsize=1)
def _has_library() -> bool:
    return find_spec("py3langid") is not None


def _is_valid(value: Any, wanted: str) -> bool:
    match wanted:
        case "count":
            return type(value) in (int, float) and value >= 0 and float(value).is_integer()
        case "relation":
            return value in RELATIONS
        case "text":
            return isinstance(value, str) and bool(value.strip())
        case "texts":
            return isinstance(value, list) and bool(value) and all(_is_valid(text, "text") for text in value)
        case "letter":
            return isinstance(value, str) and len(value.strip()) == 1
        case "language":
            return language_code(value) is not None
    raise AssertionError(wanted)


def _fault(response: str, kind: Kind, args: Args, language: str, mode: Mode) -> str:
    fault = ""
    for index, text in enumerate(_variants(response, mode)):
        missed = kind.check(text, args, language) if text.strip() else "empty response"
        if not missed:
            return ""
        fault = fault if index else missed
    return fault


def _variants(response: str, mode: Mode) -> Iterator[str]:
    yield response
    if mode == "strict":
        return
    lines = response.split("\n")
    trimmed = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    yield response.replace("*", "")
    yield from trimmed
    for text in trimmed:
        yield text.replace("*", "")


def _bare(name: str) -> str:
    prefix, _, rest = name.partition(":")
    return rest if prefix in LANGUAGES else name


def _read_id(name: str) -> tuple[str, Kind]:
    return ("zh" if name.startswith("zh:") else "en"), KINDS[_bare(name)]


def _given(args: dict[str, Any] | None) -> dict[str, Any]:
    """Without the null arguments that data in one table has for all instructions."""
    return {name: value for name, value in (args or {}).items() if value is not None}
