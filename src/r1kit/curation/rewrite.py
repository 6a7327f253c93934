"""Rewrite right completions into the readable form: a thought in one language, then a summary (R1 V2 B.3.2).

By rules, for the thoughts of the demo's tasks, or by a language model behind an endpoint, which is asked twice: to
refine the thought, and to write the summary (Listing 1). Both may fail; the caller judges what they wrote.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from r1kit.curation.select import Candidate
from r1kit.rewards import countdown as countdown_rule
from r1kit.rewards.accuracy import PREFERENCE_SCORERS, read_number
from r1kit.rewards.format import TAGS, parse_completion
from r1kit.rewards.judge import Chat, conversation_text
from r1kit.tasks.countdown import Operation, expression
from r1kit.types import Message, Problem


class Rewritten(NamedTuple):
    """A rewritten completion, or why there is none."""

    text: str
    fault: str = ""


Rewriter = Callable[[Sequence[Candidate]], list[Rewritten]]
"""One Rewritten for each candidate, in their order."""

LANGUAGES = ("en", "zh")
"""Those of the rules."""
MARKERS = (
    (" no", "不对"), (" wrong", "错误"), (" wait", "等等"), (" but no", "但不是"), (" retry", "重试"),
    (" not it", "不行"), (" yes", "对了"),
)  # fmt: skip
"""What stands after a try, in English and in Chinese; the last pair says that it is found."""
FOUND = MARKERS[-1]
OPENINGS = {
    "countdown": {
        "en": ("I try the pairs in turn.", "I take two numbers, then the third.", "I look for a way, pair by pair."),
        "zh": ("我来试试。", "我先取两个数，再用第三个。", "我两个两个地试。"),
    },
    "remainder": {
        "en": ("I try the numbers in turn.", "Let me go up step by step.", "I look for the number, one by one."),
        "zh": ("我来试试。", "我从小到大试。", "我一个一个地试。"),
    },
}  # fmt: skip
"""First person, and no reflective words: those are counted. Which one is chosen depends on the thought."""
SUMMARIES = {
    "countdown": {"en": " So {answer} makes {target}.", "zh": "所以{answer}得{target}。"},
    "remainder": {"en": " So the number is {answer}.", "zh": "所以这个数是{answer}。"},
}
"""What a reader is told besides the answer."""
TRIES = {
    "countdown": re.compile(r"([0-9]{1,6})([-+*/])([0-9]{1,6})=([0-9]{1,6})(\D.*)?"),
    "remainder": re.compile(r"([0-9]{1,6})(/)([0-9]{1,6}) r([0-9]{1,6})(\D.*)?"),
}
"""A line of a thought: left, operator, right, value, marker."""

NO_RULE = "no rule to rewrite"


def rewrite_by_rules(candidates: Sequence[Candidate]) -> list[Rewritten]:
    """Rewrite the demo's thoughts: an opening, the same tries with their markers in the prompt's language, a summary.

    No try is added, dropped or changed. A thought with anything else in it, and an answer that the thought did not
    find, are not rewritten.
    """
    return [_by_rule(candidate) for candidate in candidates]


class _Try(NamedTuple):
    operation: Operation
    marker: str


def _by_rule(candidate: Candidate) -> Rewritten:
    problem, language = candidate.problem, candidate.language
    parsed = parse_completion(candidate.text, "r1")
    kind = "countdown" if problem.scorer == "countdown" else problem.task
    if kind not in OPENINGS or language not in LANGUAGES or parsed.answer is None:
        return Rewritten("", f"{NO_RULE}: {problem.task} in {language}")
    tries, lines = [], []
    for line in parsed.thought.split("\n"):
        match = TRIES[kind].fullmatch(line)
        marker = _translated(match[5] or "", language) if match else None
        if match is None or marker is None:
            return Rewritten("", f"{NO_RULE}: a thought with {line[:40]!r}")
        tries.append(_Try((int(match[1]), match[2], int(match[3]), int(match[4])), marker))
        lines.append(line[: match.end(4)] + marker)
    find = _found_way if kind == "countdown" else _found_number
    if tries[-1].marker not in FOUND or not find(problem, tries, parsed.answer):
        return Rewritten("", f"{NO_RULE}: the thought did not find {parsed.answer[:40]!r}")
    thought, openings = "\n".join(lines), OPENINGS[kind][language]
    opening = openings[hashlib.sha256(thought.encode()).digest()[0] % len(openings)]
    # The answer first: what a tiny model has just written is all that it copies without slips.
    summary = SUMMARIES[kind][language].format(answer=parsed.answer, target=tries[-1].operation[3])
    return Rewritten(f"{_lead(candidate)}<think>{opening}\n{thought}</think><answer>{parsed.answer}</answer>{summary}")


def _lead(candidate: Candidate) -> str:
    """The white space that the model's completions begin with."""
    return candidate.text[: len(candidate.text) - len(candidate.text.lstrip())]


def _translated(marker: str, language: str) -> str | None:
    """The marker in `language`; None where it is none of MARKERS."""
    if not marker:
        return marker
    return next((pair[LANGUAGES.index(language)] for pair in MARKERS if marker in pair), None)


def _found_way(problem: Problem, tries: Sequence[_Try], answer: str) -> bool:
    """Whether the thought ends with two steps, `8*3=24` and `24-1=23`, that hold and make `answer`."""
    before = [one.operation for one in tries[:-1] if not one.marker]
    if not before:
        return False
    first, second = before[-1], tries[-1].operation
    made = expression(first, second)
    written = countdown_rule.normalise(answer).partition("=")[0]
    linked = first[3] in (second[0], second[2])
    right = countdown_rule.judge(made, problem.gold["numbers"], problem.gold["target"])[0]
    return linked and right and _holds(first) and _holds(second) and _bare(made) == _bare(written)


def _holds(operation: Operation) -> bool:
    left, operator, right, value = operation
    match operator:
        case "+":
            return left + right == value
        case "-":
            return left - right == value
        case "*":
            return left * right == value
        case _:
            return right != 0 and left == right * value


def _bare(formula: str) -> str:
    """Without brackets: (8*3)-1 and 8*3-1 are the same way."""
    return formula.translate(str.maketrans("", "", "()"))


def _found_number(problem: Problem, tries: Sequence[_Try], answer: str) -> bool:
    """Whether the thought ends with the answer's try, `17/5 r2`, and the answer has both remainders."""
    number, _, divisor, rest = tries[-1].operation
    asked = [int(part) for part in problem.id.split(":")[1:] if part.isdecimal()]  # remainder:5:2:7:3
    if len(asked) != 4 or read_number(answer) != number:
        return False
    pairs = [(asked[0], asked[1]), (asked[2], asked[3])]
    return (divisor, rest) in pairs and all(number % by == left for by, left in pairs)


REFINE = """\
Below are a question and the raw notes that somebody made while solving it. Write the notes again as a train of \
thought that is pleasant to read.

- Write in the language of the question, and in no other; translate what is in another language.
- Write in the first person, as someone who thinks: first make clear what is asked, then work it out.
- Stay faithful: every step, doubt, check and correction of the notes stays, in the same order; add none and solve \
nothing anew.
- Short paragraphs, plain text; no headings, no lists, no code blocks.
- Begin with the thought itself; do not mention these instructions or the notes.

<question>
{question}
</question>

<notes>
{thought}
</notes>"""

SUMMARISE = """\
Below are a question and the reasoning that solved it. Write the solution that a reader is given after the question.

- Write in the language of the question.
- Stay faithful to the reasoning: no step, fact or result that is not in it, and the same final answer.
- Keep it short: the key steps only, and those in LaTeX where there is mathematics.
- {ending}
- Begin with the solution itself. Do not speak of the reasoning; never use the words "thought process".

<question>
{question}
</question>

<reasoning>
{thought}
</reasoning>"""

BOXED = "End with the final answer in \\boxed{}."
PLAIN = "End with what was asked for, as the reader can use it."


def rewrite_by_endpoint(
    endpoint: Chat,
    candidates: Sequence[Candidate],
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[Rewritten]:
    """Rewrite by a language model: refine every thought, then summarise each refined one (R1 V2 B.3.2, Listing 1).

    `on_progress(what, done, total)`. A call that failed is a fault, and so is a thought that comes back with tags in
    it.
    """
    thoughts = _ask(
        endpoint,
        [
            REFINE.format(
                question=conversation_text(c.problem.messages), thought=parse_completion(c.text, "r1").thought
            )
            for c in candidates
        ],
        partial(on_progress, "refine thoughts") if on_progress else None,
    )
    refined = [(c, thought.text) for c, thought in zip(candidates, thoughts, strict=True) if not thought.fault]
    prompts = [
        SUMMARISE.format(
            question=conversation_text(candidate.problem.messages),
            thought=thought,
            ending=PLAIN if candidate.problem.scorer in PREFERENCE_SCORERS else BOXED,
        )
        for candidate, thought in refined
    ]
    summaries = iter(_ask(endpoint, prompts, partial(on_progress, "summarise") if on_progress else None))
    return [
        thought if thought.fault else _joined(candidate, thought.text, next(summaries))
        for candidate, thought in zip(candidates, thoughts, strict=True)
    ]


def _ask(endpoint: Chat, prompts: list[str], on_progress: Callable[[int, int], None] | None) -> list[Rewritten]:
    """One reply for each prompt, without the endpoint's own thought; a fault where there is none."""
    if not prompts:
        return []
    replies = endpoint.chat([(Message("user", prompt),) for prompt in prompts], on_progress)
    answers = []
    for reply in replies:
        text = reply.text.rpartition("</think>")[2].strip()
        if reply.error:
            answers.append(Rewritten("", f"rewriter failed: {reply.error}"))
        elif reply.finish_reason == "length":
            answers.append(Rewritten("", f"rewriter was cut off: {text[-80:]!r}"))
        elif not text:
            answers.append(Rewritten("", "rewriter said nothing"))
        elif any(tag in text for tag in TAGS):
            answers.append(Rewritten("", f"rewriter wrote tags: {text[:80]!r}"))
        else:
            answers.append(Rewritten(text))
    return answers


def _joined(candidate: Candidate, thought: str, summary: Rewritten) -> Rewritten:
    """In the released models' form, the thought on lines of its own; the space before it as in the completion."""
    if summary.fault:
        return summary
    if "thought process" in summary.text.casefold():
        return Rewritten("", "rewriter speaks of the thought process")
    return Rewritten(f"{_lead(candidate)}<think>\n{thought}\n</think>\n\n{summary.text}")
