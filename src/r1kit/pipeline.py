"""The recipe as one resumable command: base model -> R1-Zero -> report.

    r1kit run demo

Each stage resumes from its own run folder; the report is made again from what is there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from r1kit import presets
from r1kit.config import RLConfig
from r1kit.report import report
from r1kit.stages import rl


def main(preset: str, run: Path, seed: int) -> None:
    """Run every stage of a pipeline preset under `run`, then write `run`/report.html and summary.json."""
    rl.main(zero_config(preset, run, seed))
    page = report.main(run)
    print(f"report: {page}\ntry it: r1kit chat {run}")


def zero_config(preset: str, run: Path, seed: int) -> RLConfig:
    """The R1-Zero stage of a pipeline preset."""
    return replace(presets.RL[preset][1], run=run / "zero", seed=seed)
