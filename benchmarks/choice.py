"""How well the letter of a multiple-choice answer is found: `python benchmarks/choice.py`, three minutes, no model.

Real questions of MMLU (--data, default ../shared/data/mc_qa/mmlu.zip), each answered in every phrasing below: the
choice it takes is known, so each extraction is right or wrong. The same for texts that take no choice. Definitions and
figures: docs/choice-and-instructions.md.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from r1kit.rewards.choice import judge

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "mc_qa" / "mmlu.zip"

# {L}: the letter; {l}: in lower case; {T}: its text; {X}, {Y}: other letters; {O}: the options, one a line;
# {W}: another choice's text.
PHRASINGS = """
{L}
({L})
{l}
{L}.
**{L}**
{L}) {T}
**{L}. {T}**
The answer is {L}.
The answer is ({L}).
The correct answer is {L}) {T}.
Answer: {L}
ANSWER: {L}
**Answer:** {L}
Final answer: **{L}**
the answer is {l}
answer: ({l})
The correct option is {L}: {T}
The best answer is choice {L}, because {T}
\\boxed{{{L}}}
$\\boxed{{\\text{{{L}}}}}$
The final answer is $\\boxed{{\\textbf{{({L})}}}}$. I hope it is correct.
<answer>{L}</answer>
<think>Maybe the answer is {X}. No, {Y}.</think>\\n\\nThe answer is {L}.
{O}\\n\\nThe answer is {L}.
{O}\\n\\n{L}
{W} is tempting, but {X} is wrong, so the answer is {L}.
I first thought the answer is {X}. Wait: the correct answer is {L}.
The answer is {L}, not {X}.
Answer: {L}\\n\\nExplanation:\\n{X}) {W} is wrong.\\n{Y} is wrong as well.
We can rule out {X} and {Y}, so I choose {L}.
Therefore, {L}.
{L} is correct. {X} is incorrect.
If the answer is {X}, we get a contradiction. Hence the answer must be option {L}.
The answer is not {X} but {L}.
答案是{L}
答案：{L}
正确答案为（{L}）
故选：{L}。
故选{L}，{X}选项错误。
{X}错误，{Y}错误，所以应选{L}。
选{L}
【答案】{L}\\n【解析】{X}不正确。
因此，正确选项是 **{L}**。
不能选{X}，{L}项正确。
""".strip().split("\n")
QUOTING = """
{T}
The answer is {T}
The correct answer is: **{T}**.
Answer: {T}
$\\boxed{{\\text{{{T}}}}}$
答案是{T}
""".strip().split("\n")
NOTHING = """
A good answer to this needs some thought.
{O}
{Q}
{Q}\\n{O}\\nAnswer:
The answer is {X} or {Y}.
The answer is not {X}.
I don't think the answer is {X}.
Is the answer {X}?
<think>The answer is {L}
<think>The answer is {L}.</think>
A, B, C, D are all possible.
If the answer is {X}, this fails.
{X} is wrong. {Y} is incorrect.
选项{X}错误，{Y}也不对。
不能选{X}
答案不是{X}
""".strip().split("\n")


class Question(NamedTuple):
    text: str
    choices: list[str]
    letter: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--questions", type=int, default=20_000, help="drawn at random; all by default")
    parser.add_argument("--show", type=int, default=5, help="wrong extractions to print")
    args = parser.parse_args()
    questions = load_questions(args.data)
    random.Random(0).shuffle(questions)
    questions = questions[: args.questions]
    print(f"{len(questions)} questions of {args.data.name}\n")
    print("| texts | cases | wrong, choices known | wrong, choices unknown | judged a CPU second |")
    print("| --- | ---: | ---: | ---: | ---: |")
    wrong: Counter[str] = Counter()
    shown: list[str] = []
    for name, phrasings in (("a letter", PHRASINGS), ("a choice's text", QUOTING), ("no choice", NOTHING)):
        cases = [(q, p, *completion(q, p)) for q in questions for p in phrasings]
        cases = [case for case in cases if phrasings is not QUOTING or is_distinct(case[0])]
        start = time.process_time()
        verdicts = [judge(text, {"answer": q.letter, "choices": q.choices}) for q, _, text, _ in cases]
        seconds = time.process_time() - start
        missed = 0
        for (question, phrasing, text, expected), (_, _, found) in zip(cases, verdicts, strict=True):
            if found != expected:
                missed += 1
                wrong[phrasing] += 1
                shown.append(f"{text!r}: {found!r}, not {expected!r}; choices {question.choices}")
        blind = "-"
        if phrasings is not QUOTING:
            missing = [(p, text, found) for q, p, text, e in cases if (found := judge(text, q.letter)[2]) != e]
            blind = str(len(missing))
            wrong.update(f"{phrasing} (choices unknown)" for phrasing, _, _ in missing)
            shown += [f"{text!r}: {found!r}, choices unknown" for _, text, found in missing]
        print(f"| {name} | {len(cases):,} | {missed} | {blind} | {len(cases) / seconds:,.0f} |")
    for phrasing, number in wrong.most_common():
        print(f"{number:>6} {phrasing}")
    print("\n".join(shown[: args.show]))


def load_questions(path: Path) -> list[Question]:
    """The test questions of the zip, in the order of its files. FileNotFoundError when it is absent."""
    if not path.is_file():
        raise FileNotFoundError(f"no MMLU at {path}; give --data FILE.zip with data/test/*_test.csv")
    return list(_read(path))


def _read(path: Path) -> Iterator[Question]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if "/test/" not in name or not name.endswith(".csv"):
                continue
            with archive.open(name) as file:
                for row in csv.reader(io.TextIOWrapper(file, encoding="utf-8", newline="")):
                    yield Question(row[0], row[1:5], row[5])


def completion(question: Question, phrasing: str) -> tuple[str, str]:
    """What is written for the question, and the letter that is in it ("" for none)."""
    others = [letter for letter in "ABCD" if letter != question.letter]
    random.Random(question.text).shuffle(others)
    options = "\n".join(f"{letter}) {text}" for letter, text in zip("ABCD", question.choices, strict=True))
    text = phrasing.replace("\\n", "\n").replace("\\\\", "\\").format(
        L=question.letter, l=question.letter.lower(), T=question.choices[ord(question.letter) - 65],
        X=others[0], Y=others[1], W=question.choices[ord(others[0]) - 65], O=options, Q=question.text,
    )  # fmt: skip
    return text, "" if phrasing in NOTHING else question.letter


def is_distinct(question: Question) -> bool:
    """Whether every choice can be told from the others and from a letter."""
    texts = [" ".join(text.casefold().split()).strip(" .,;:!") for text in question.choices]
    return len(set(texts)) == 4 and all(len(text) > 1 for text in texts)


if __name__ == "__main__":
    main()
