"""Agreement of the maths verifier with labels that others made, by data set, beside math-verify called directly.

    python benchmarks/agreement.py [--data ../shared/data] [--sample 1000] [--no-peer] [--json]

Every set's rows are (answer or completion, gold, label). Rows whose label is unsound are left out, and counted;
UNSOUND says why. Sets of problems without completions get three made rows a gold: the gold respelled (right), with one
digit changed (wrong), and the gold of another problem (wrong). math-verify is called at its documented best (LaTeX and
expressions, boxed first, its own extraction) on the same rows, at most --sample of each set. One process, one core.
"/s" is verdicts a second of processor time. Files that are absent are left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1kit.rewards.math import final_answer, judge


@dataclass(frozen=True)
class Row:
    """One labelled pair. `text` is a completion where `is_completion`, else an answer."""

    set: str
    id: str
    text: str
    gold: str
    right: bool
    is_completion: bool


# Labels that are no fact about mathematics: (set, id) -> why. docs/math-verifier.md lists them with the answers.
UNSOUND = {
    ("hendrycks is_equiv", "test_order"): "a list of answers has no order; the label compares strings",
    ("hendrycks is_equiv", "test_decimals"): "a list of answers has no order; the label compares strings",
    ("OlympiadBench scoring", "28"): "asks for a tolerance of 1e-4 that the verifier is not given",
    ("OlympiadBench scoring", "31"): "asks for a tolerance of 1e34",
    ("OlympiadBench scoring", "33"): "asks for a tolerance of 1e34",
    ("OlympiadBench scoring", "34"): "asks for a tolerance of 1e-3",
    ("Qwen2.5-14B MATH-500", "184"): "the interval [2, oo) was accepted for (2, oo)",
    ("Qwen2.5-14B MATH-500", "198"): "10080 was refused for 10,080",
    ("Qwen2.5-14B MATH-500", "217"): "11111111100 was refused for 11,111,111,100",
    ("Qwen2.5-14B MATH-500", "284"): "3+2 sqrt 2, 3-2 sqrt 2 was refused for 3 +- 2 sqrt 2",
    ("MATH train", "437-"): "made row: 32 square cm and 32 are the same answer",
    ("MATH train", "1882-"): "made row: 2 and $2 are the same answer",
    ("MATH train", "4852-"): "made row: 2 and 2 pieces are the same answer",
    ("SimpleRL 8k", "3050-"): "made row: 25 and 25% are the same answer",
    ("SimpleRL 8k", "5388-"): "made row: 1 and 100% are the same answer",
}


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


# Sets


def grader_cases(data: Path) -> Iterator[Row]:
    for row in read_jsonl(data / "grader_cases/hendrycks_is_equiv_cases.jsonl"):
        # The file doubles the backslashes of some cells.
        a, b = (row[side].replace("\\\\", "\\") for side in "ab")
        yield Row("hendrycks is_equiv", row["test"], a, b, row["expected"], False)
    for index, row in enumerate(read_jsonl(data / "grader_cases/olympiadbench_scoring_cases.jsonl")):
        yield Row("OlympiadBench scoring", str(index), row["pred"], row["gold"], row["expected"], False)


def graded_outputs(data: Path) -> Iterator[Row]:
    for path in sorted((data / "graded_outputs").glob("*.jsonl")):
        name = "Qwen2.5-14B MATH-500" if "math500" in path.name else "Qwen2.5-Math-7B AIME24"
        for row in read_jsonl(path):
            yield Row(name, str(row["idx"]), row["code"][0], row["answer"], row["score"][0], True)


def solutions(data: Path) -> Iterator[Row]:
    """A data set's own solution must be right; another problem's different answer must be wrong."""
    for name in ("math500", "aime24"):
        rows = read_jsonl(data / f"math_bench/{name}.jsonl")
        for index, row in enumerate(rows):
            solution = str(row["solution"])
            yield Row(f"{name} solutions", f"{index}+", solution, str(row["answer"]), True, True)
            other = other_gold(rows, index, lambda row: str(row["answer"]))
            yield Row(f"{name} solutions", f"{index}-", other, str(row["answer"]), False, False)
    for name in ("gsm8k_test", "gsm8k_train"):
        rows = read_jsonl(data / f"math_bench/{name}.jsonl")
        golds = [row["answer"].rpartition("####")[2].strip() for row in rows]
        for index, row in enumerate(rows):
            yield Row(name, f"{index}+", row["answer"], golds[index], True, True)
            yield Row(
                name, f"{index}-", rows[index - 1]["answer"], golds[index], golds[index - 1] == golds[index], True
            )


def own_corpus(_: Path) -> Iterator[Row]:
    """Our regression corpus, on which ours agrees by construction: it shows where the peer does not."""
    for index, row in enumerate(read_jsonl(Path(__file__).parents[1] / "tests/verdicts/math.jsonl")):
        if row["verdict"] != "undecided":
            field = "completion" if "completion" in row else "answer"
            yield Row(
                "own corpus", str(index), row[field], row["gold"], row["verdict"] == "right", field == "completion"
            )


def made(data: Path) -> Iterator[Row]:
    """Golds without completions: respelled, with a digit changed, and of another problem."""
    yield from made_rows(
        "MATH train", [row["answer"] for row in json.loads((data / "rl_prompts/math_train_7.5k.json").read_text())]
    )
    try:
        import pyarrow.parquet  # type: ignore[import-not-found]

        table = pyarrow.parquet.read_table(data / "rl_prompts/simplerl_math_lv3-5_8k.parquet", columns=["answer"])
        yield from made_rows("SimpleRL 8k", [row["answer"] for row in table.to_pylist()])
    except ModuleNotFoundError:
        print("SimpleRL 8k: left out, needs pip install pyarrow", file=sys.stderr)


SENTENCES = {
    "en": "So the answer is {}.",
    "zh": "所以，答案是{}。",
    "fr": r"La réponse finale est : \boxed{{{}}}.",
    "ja": "答えは **{}** です。",
    "sw": r"Jibu ni \boxed{{{}}}.",
}


def sentences(data: Path) -> Iterator[Row]:
    """The gold in a sentence of its language is right, another gold in it is wrong."""
    for language, sentence in SENTENCES.items():
        with (data / f"math_bench/mgsm_{language}.tsv").open(encoding="utf-8") as file:
            golds = [row[1] for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
        yield from in_sentence(f"mgsm {language}", golds, sentence)
    golds = [str(row["golden"]) for row in read_jsonl(data / "math_bench/cmath_dev_zh.jsonl")]
    yield from in_sentence("cmath", golds, "先列式计算，再检查。答：一共是{}个。")


def in_sentence(name: str, golds: list[str], sentence: str) -> Iterator[Row]:
    for index, gold in enumerate(golds):
        yield Row(name, f"{index}+", sentence.format(gold), gold, True, True)
        yield Row(name, f"{index}-", sentence.format(other_gold(golds, index, str)), gold, False, True)


def made_rows(name: str, golds: list[str | None]) -> Iterator[Row]:
    known = [gold for gold in golds if gold]
    for index, gold in enumerate(known):
        yield Row(name, f"{index}+", f"Therefore it is $\\boxed{{{respelled(gold)}}}$.", gold, True, True)
        if changed := digit_changed(gold, index):
            yield Row(name, f"{index}d", f"Therefore it is $\\boxed{{{changed}}}$.", gold, False, True)
        other = other_gold(known, index, str)
        yield Row(name, f"{index}-", f"Therefore it is $\\boxed{{{other}}}$.", gold, False, True)


def other_gold(rows: list, index: int, gold: Callable[[Any], str]) -> str:
    """The gold of another problem, drawn, whose text without spaces is different."""
    draw = random.Random(f"other/{index}")
    own = "".join(gold(rows[index]).split())
    while True:
        other = gold(rows[draw.randrange(len(rows))])
        if "".join(other.split()) != own:
            return other


def respelled(gold: str) -> str:
    """The same answer as another model would write it."""
    gold = re.sub(r"\\[dt]?frac(?![A-Za-z])", lambda match: r"\frac" if match[0] != r"\frac" else r"\dfrac", gold)
    gold = (
        gold.replace(r"\pi", "π")
        .replace(r"\!", "")
        .replace(r"\infty", "∞")
        .replace(r"\cup", "∪")
        .replace("pmatrix", "bmatrix")
    )
    gold = re.sub(r"\^\\circ|\^\{\\circ\}", "°", gold)
    if "\\left" not in gold and re.fullmatch(r"[(\[].*[)\]]", gold):
        gold = rf"\left{gold[0]}{gold[1:-1]}\right{gold[-1]}"
    return re.sub(r"(?<=[\w)}])\s*\+\s*", "+", gold)


def digit_changed(gold: str, index: int) -> str:
    """One digit of the gold changed, not to zero; empty when it has none."""
    places = [match.start() for match in re.finditer(r"\d", gold)]
    if not places:
        return ""
    draw = random.Random(f"digit/{index}")
    place = draw.choice(places)
    digit = draw.choice([digit for digit in "123456789" if digit != gold[place]])
    return gold[:place] + digit + gold[place + 1 :]


# Graders


def ours(row: Row) -> tuple[str, str]:
    answer = final_answer(row.text) if row.is_completion else row.text
    return judge(answer, row.gold) if answer else ("wrong", "no answer")


def math_verify() -> Callable[[Row], str]:
    """math-verify with its own extraction and its own time limits, as its README recommends for evaluation."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    both = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())

    def grade(row: Row) -> str:
        gold = parse(f"\\boxed{{{row.gold}}}", both)
        given = parse(row.text if row.is_completion else f"\\boxed{{{row.text}}}", both)
        return "right" if verify(gold, given) else "wrong"

    return grade


@dataclass
class Count:
    rows: int = 0
    false_right: int = 0
    false_wrong: int = 0
    undecided: int = 0
    seconds: float = 0.0

    def add(self, verdict: str, row: Row, seconds: float) -> bool:
        agreed = verdict == ("right" if row.right else "wrong")
        self.rows += 1
        self.seconds += seconds
        self.undecided += verdict == "undecided"
        self.false_right += verdict == "right" and not row.right
        self.false_wrong += verdict == "wrong" and row.right
        return agreed

    @property
    def agreed(self) -> float:
        return 1 - (self.false_right + self.false_wrong + self.undecided) / max(self.rows, 1)

    def cells(self) -> str:
        if not self.rows:
            return "| | | | | "
        rate = self.rows / self.seconds if self.seconds else 0
        counts = f"{self.false_right} | {self.false_wrong} | {self.undecided}"
        return f"{self.rows} | {100 * self.agreed:.2f} | {counts} | {rate:,.0f}"


def measure(rows: list[Row], peer: Callable[[Row], str] | None, sample: int) -> dict[str, Any]:
    """Counts of one set: ours on all rows, ours and the peer on the same sample."""
    sound = [row for row in rows if (row.set, row.id) not in UNSOUND]
    drawn = sound if len(sound) <= sample else random.Random("agreement").sample(sound, sample)
    whole, theirs = Count(), Count()
    disagreements = []
    for row in sound:
        start = time.process_time()
        verdict, reason = ours(row)
        if not whole.add(verdict, row, time.process_time() - start):
            disagreements.append(
                {"set": row.set, "id": row.id, "label": row.right, "verdict": verdict, "reason": reason}
            )
    for row in drawn if peer else []:
        start = time.process_time()
        theirs.add(peer(row), row, time.process_time() - start)  # type: ignore[misc]
    return {"left_out": len(rows) - len(sound), "ours": whole, "peer": theirs, "disagreements": disagreements}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared/data")
    parser.add_argument("--sample", type=int, default=1000, help="rows of a set that math-verify grades")
    parser.add_argument("--no-peer", action="store_true", help="leave math-verify out")
    parser.add_argument("--json", action="store_true", help="print the disagreements, a JSON line each")
    args = parser.parse_args()
    if not args.data.is_dir():
        sys.exit(f"{args.data} does not exist; give the folder of the public data sets with --data")
    judge("1/2", "0.5")  # imports are not counted
    peer = None if args.no_peer else math_verify()
    columns = "rows | agree % | false right | false wrong | undecided | /s"
    print(f"| set | left out | {columns} | math-verify: {columns} |")
    print("| --- |" + " ---: |" * 13)
    total = Count()
    for source in (grader_cases, graded_outputs, solutions, made, sentences, own_corpus):
        by_set: dict[str, list[Row]] = {}
        try:
            for row in source(args.data):
                by_set.setdefault(row.set, []).append(row)
        except FileNotFoundError as error:
            print(f"{source.__name__}: left out, {error.filename} is absent", file=sys.stderr)
        for name, rows in by_set.items():
            found = measure(rows, peer, args.sample)
            print(f"| {name} | {found['left_out']} | {found['ours'].cells()} | {found['peer'].cells()} |", flush=True)
            for field in ("rows", "false_right", "false_wrong", "undecided", "seconds") if name != "own corpus" else ():
                setattr(total, field, getattr(total, field) + getattr(found["ours"], field))
            if args.json:
                for line in found["disagreements"]:
                    print(json.dumps(line, ensure_ascii=False))
    print(f"| all but our own | | {total.cells()} | | | | | | |")


if __name__ == "__main__":
    main()
