"""How far the instruction checks agree with IFEval's reference checker: `python benchmarks/ifeval.py`, no model.

Reads graded responses (--data, default ../shared/data/ifeval): input_data.jsonl with the instructions, and
en_o1-mini-2024-09-12_{strict,loose}.jsonl with the reference's label of each. Prints the agreement, every disagreement
with the reason here, and the verdicts a CPU second. Figures: docs/choice-and-instructions.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from r1kit.rewards.ifeval import ifeval_fault, instruction_faults, judge

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ifeval"
Mode = Literal["strict", "loose"]


class Graded(NamedTuple):
    response: str
    gold: dict[str, Any]
    labels: list[bool]
    """Of the reference, one an instruction."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()
    differing: list[str] = []
    by_kind: Counter[str] = Counter()
    print("| mode | responses | instructions | agreement, instructions | agreement, prompts | verdicts a CPU second |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for mode in get_args(Mode):
        graded = load_graded(args.data, mode)
        instructions = same = same_prompts = 0
        for row in graded:
            faults = instruction_faults(row.response, row.gold, mode)
            for name, fault, label in zip(row.gold["instruction_id_list"], faults, row.labels, strict=True):
                instructions += 1
                same += (not fault) == label
                if (not fault) != label:
                    by_kind[name] += 1
                    ours = fault or "followed"
                    differing.append(f"{mode} {name}: reference {label}, here: {ours}\n    {row.response[:300]!r}")
            same_prompts += (not any(faults)) == all(row.labels)
        start = time.process_time()
        for row in graded:
            judge(row.response, row.gold, mode=mode)
        rate = len(graded) / (time.process_time() - start)
        shares = f"{same / instructions:.2%} ({same}) | {same_prompts / len(graded):.2%} ({same_prompts})"
        print(f"| {mode} | {len(graded)} | {instructions} | {shares} | {rate:,.0f} |")
    print()
    print("\n".join(differing))
    print(", ".join(f"{name} {number}" for name, number in by_kind.most_common()) or "no disagreement")


def load_graded(folder: Path, mode: Mode) -> list[Graded]:
    """The graded responses, with the gold of the row of the same number. FileNotFoundError when a file is absent."""
    paths = folder / "input_data.jsonl", folder / f"en_o1-mini-2024-09-12_{mode}.jsonl"
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no graded responses at {path}; give --data FOLDER")
    rows = [[json.loads(line) for line in path.read_text().split("\n") if line] for path in paths]
    graded = []
    for asked, given in zip(*rows, strict=True):
        gold = {"instruction_id_list": given["instruction_id_list"], "kwargs": asked["kwargs"]}
        if fault := ifeval_fault(gold):
            raise ValueError(f"row {asked['key']} of {paths[0]}: gold {fault}")
        graded.append(Graded(given["response"] or "", gold, given["follow_instruction_list"]))
    return graded


if __name__ == "__main__":
    main()
