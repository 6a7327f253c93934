"""Run the demo with three seeds and write the table that README shows: `make claims`.

    python benchmarks/claims.py [--seeds 0 1 2] [--runs runs/claims] [--out docs/claims.json] [--readme README.md]

Each run resumes when it was cut off; `--report` only reads finished ones again, made here or elsewhere. The figures are
kept in the repository, the weights are not.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from r1kit.report.claims import Claim
from r1kit.report.words import measured
from r1kit.run import write_json_atomic, write_text_atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/claims"))
    parser.add_argument("--out", type=Path, default=Path("docs/claims.json"))
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--report", action="store_true", help="run nothing; read RUNS/seed-* as they are")
    args = parser.parse_args()
    results: dict[int, dict[str, Any]] = {}
    for seed in args.seeds:
        run = args.runs / f"seed-{seed}"
        command = ["report", run] if args.report else ["run", "demo", "--run", run, "--seed", str(seed), "--jobs", "2"]
        subprocess.run([sys.executable, "-m", "r1kit", *command], check=True)
        results[seed] = json.loads((run / "summary.json").read_text())
    machine = {"cpu": cpu_name(), "torch": torch.__version__}
    write_json_atomic(args.out, {"machine": machine, "seeds": {str(seed): result for seed, result in results.items()}})
    write_text_atomic(args.out.with_suffix(".md"), table(results, machine))
    put_into(args.readme, table(results, machine))
    print(table(results, machine))


def table(results: dict[int, dict[str, Any]], machine: dict[str, Any]) -> str:
    """A Markdown table: one row per claim, one column per seed: measured, 95% interval, verdict."""
    lines = [
        "| | claim | paper | " + " | ".join(f"seed {seed}" for seed in results) + " |",
        "|---|---|---|" + "---|" * len(results),
    ]
    columns = [{claim["id"]: claim for claim in result["claims"]} for result in results.values()]
    for claim in next(iter(results.values()))["claims"]:
        cells = [cell(column[claim["id"]]) for column in columns]
        lines.append(f"| {claim['id']} | {claim['statement']} | {claim['paper']} | " + " | ".join(cells) + " |")
    cores = " or ".join(sorted({str(result["pipeline"]["cpu_cores"]) for result in results.values()}))
    footer = f"{machine['cpu']}, {cores} cores, torch {machine['torch']}. In brackets: 95% intervals over problems."
    return "\n".join([*lines, "", footer, *tried(columns), ""])


def tried(columns: list[dict[str, dict[str, Any]]]) -> list[str]:
    """What was tried for the claims that do not hold with every seed, once each."""
    notes = {claim["id"]: claim["tried"] for column in columns for claim in column.values() if claim["tried"]}
    return [line for id, note in notes.items() for line in ("", f"Tried for {id}: {note}.")]


def cell(claim: dict[str, Any]) -> str:
    """`87.1% (84.5% to 89.7%) holds`, and what the interval adds where it is not wholly on that side."""
    if claim["measured"] is None:
        return str(claim["verdict"])

    verdict = ", ".join(part for part in (claim["verdict"], claim["remark"]) if part)
    number, interval = measured(Claim(**claim))
    return f"{number} ({interval}) {verdict}"


def put_into(readme: Path, text: str) -> None:
    """Replace what stands between the two marks of README."""
    before, _, rest = readme.read_text(encoding="utf-8").partition("<!-- claims -->")
    _, mark, after = rest.partition("<!-- /claims -->")
    if not mark:
        raise ValueError(f"{readme} has no <!-- claims --> ... <!-- /claims -->; put both marks in it")
    write_text_atomic(readme, f"{before}<!-- claims -->\n\n{text}\n<!-- /claims -->{after}")


def cpu_name() -> str:
    """The processor as the system names it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
