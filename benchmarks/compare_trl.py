"""r1kit beside TRL's GRPOTrainer: the same steps, in turn, on the same machine.

    python benchmarks/compare_trl.py --trl-python trl-venv/bin/python --trl-script trl_grpo_bench.py

TRL runs in every combination of --dtype and --gen, and its best one counts. Both sides get the same model folder,
allocator settings and number of threads. See README.md for the protocol.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from r1kit.allocator import GUARD, SETTINGS

OUR_SCRIPT = Path(__file__).with_name("grpo_step.py")

Row = dict[str, Any]
"""The JSON line of one run."""


@dataclass(frozen=True)
class Contender:
    """One way to take the steps."""

    peer: str
    dtype: str
    gen: str
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.peer} {self.dtype} {self.gen}"


def main() -> int:
    args = parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = args.model
        if model is None:
            model = Path(scratch) / "model"
            # Not in this process: Linux counts the memory of the process that starts another one into its peak.
            subprocess.run([sys.executable, OUR_SCRIPT, "--write-model", model], check=True)
        every = contenders(args, model)
        rows, faults = run_rounds(every, args.rounds, environment(os.environ, args.threads), args.out)
    for name, reason in faults.items():
        print(f"{name} failed: {reason}", file=sys.stderr)
    ours, theirs = best("r1kit", every, rows), best("trl", every, rows)
    print(table(every, rows, args))
    if ours is None or theirs is None:
        print("nothing to compare: one side has no result", file=sys.stderr)
        return 1
    print(f"\n{verdict(ours, theirs, rows)}")
    return 0


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", required=True, help="a Python with TRL installed")
    parser.add_argument("--trl-script", type=Path, required=True, help="the peer's script")
    parser.add_argument(
        "--model", type=Path, help="model folder for both; default: the 4.5M-parameter Qwen2, made anew"
    )
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--max-new", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--beta", type=float, default=0.001)
    parser.add_argument("--fixed", action="store_true", help="no end token: every completion has --max-new tokens")
    parser.add_argument("--cuda", action="store_true", help="on the GPU")
    parser.add_argument("--dtypes", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument(
        "--gens", nargs="+", choices=["generate", "static", "paged"], default=["generate", "static", "paged"]
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="OMP_NUM_THREADS for both sides")
    parser.add_argument("--out", type=Path, help="append every run's JSON line to this file")
    args = parser.parse_args(argv)
    if not args.trl_script.is_file():
        parser.error(f"--trl-script {args.trl_script} is not a file")
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}; give at least 1")
    return args


def contenders(args: argparse.Namespace, model: Path) -> list[Contender]:
    """Ours between theirs, so that neither side has the machine's better minutes."""
    work = [
        *("--prompts", args.prompts, "--group", args.group, "--max-new", args.max_new),
        *("--steps", args.steps, "--warmup", args.warmup, "--beta", args.beta),
        *(["--fixed"] if args.fixed else []),
        *(["--cuda"] if args.cuda else []),
    ]
    flags = [str(flag) for flag in work]
    found = []
    for dtype in args.dtypes:
        ours = (sys.executable, str(OUR_SCRIPT), "--json", "--model", str(model), "--dtype", dtype, *flags)
        found.append(Contender("r1kit", dtype, "local", ours))
        for gen in args.gens:
            theirs = (args.trl_python, str(args.trl_script), str(model), "--dtype", dtype, "--gen", gen, *flags)
            found.append(Contender("trl", dtype, gen, theirs))
    return found


def environment(env: Mapping[str, str], threads: int) -> dict[str, str]:
    """The same allocator and thread count for both sides, whatever the caller's are."""
    others = {GUARD, "GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_MMAP_THRESHOLD_"}
    kept = {name: value for name, value in env.items() if name not in others}
    return {
        **kept,
        **SETTINGS,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def run_rounds(
    every: Sequence[Contender], rounds: int, env: Mapping[str, str], out: Path | None
) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """Rows by contender, and why others failed; every second round goes backwards. A failed one is not tried again."""
    rows: dict[str, list[Row]] = {}
    faults: dict[str, str] = {}
    for number in range(rounds):
        for contender in every if number % 2 == 0 else reversed(every):
            if contender.name in faults:
                continue
            print(f"round {number + 1}/{rounds}: {contender.name}", file=sys.stderr, flush=True)
            done = subprocess.run(contender.command, env=env, capture_output=True, text=True)
            if done.returncode != 0:
                rows.pop(contender.name, None)
                faults[contender.name] = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
                continue
            # The peer's trainer prints its metrics too; the last line is the result.
            row = json.loads(done.stdout.strip().splitlines()[-1])
            rows.setdefault(contender.name, []).append(row)
            if out is not None:
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"round": number, **row}) + "\n")
    return rows, faults


def best(peer: str, every: Sequence[Contender], rows: Mapping[str, list[Row]]) -> Contender | None:
    """The side's contender with the smallest median of seconds per step; None when none has a result."""
    finished = [contender for contender in every if contender.peer == peer and contender.name in rows]
    return min(finished, key=lambda contender: median(values(rows[contender.name], "seconds_per_step")), default=None)


def values(rows: Sequence[Row], field: str) -> list[float]:
    return [row[field] for row in rows]


def table(every: Sequence[Contender], rows: Mapping[str, list[Row]], args: argparse.Namespace) -> str:
    """Markdown, to paste into README.md."""
    lengths = f"exactly {args.max_new}" if args.fixed else f"at most {args.max_new}"
    lines = [
        f"{args.prompts} x {args.group} completions of {lengths} tokens, beta {args.beta}, {args.threads} threads. "
        f"Median (min-max) of {args.rounds} runs of {args.steps} steps, {args.warmup} of them warm-up.",
        "",
        "| | dtype | generation | s a step | tokens a step | tokens/s | peak MiB |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for contender in every:
        if contender.name in rows:
            found = rows[contender.name]
            cells = [
                contender.peer,
                contender.dtype,
                contender.gen,
                spread(values(found, "seconds_per_step"), "{:.2f}"),
                f"{median(values(found, 'tokens_per_step')):,.0f}",
                spread(values(found, "tokens_per_second"), "{:,.0f}"),
                f"{max(values(found, 'peak_rss_mib')):,.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(numbers: Sequence[float], form: str) -> str:
    return f"{form.format(median(numbers))} ({form.format(min(numbers))}-{form.format(max(numbers))})"


def verdict(ours: Contender, theirs: Contender, rows: Mapping[str, list[Row]]) -> str:
    """Best against best. Completions that end by themselves differ in length; tokens per second allow for that."""
    a, b = (rows[contender.name] for contender in (ours, theirs))
    seconds = median(values(b, "seconds_per_step")) / median(values(a, "seconds_per_step"))
    tokens = median(values(a, "tokens_per_second")) / median(values(b, "tokens_per_second"))
    memory = [f"{max(values(rows_of, 'peak_rss_mib')):,.0f} MiB" for rows_of in (a, b)]
    return (
        f"{ours.name} beside {theirs.name}: a step {seconds:.2f}x as fast, {tokens:.2f}x the tokens per second, "
        f"at most {memory[0]} beside {memory[1]}"
    )


if __name__ == "__main__":
    sys.exit(main())
