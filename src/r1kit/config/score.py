"""Config of grading finished outputs."""

from __future__ import annotations

from pathlib import Path

from r1kit.config.checked import config
from r1kit.config.common import require


@config
class ScoreConfig:
    """Grade the completions of a .jsonl file, whoever made them: `r1kit score TASK FILE.jsonl`.

    Writes FILE.verdicts.jsonl, a verdict (right, wrong or undecided) with the answer found and the reason for each row.
    """

    task: str = "math"
    """Scorer (math, number, exact, choice, code, ...), or a task whose problems have one (countdown)."""
    file: Path = Path("outputs.jsonl")
    """One object a line with the fields `gold` and `completion`, and perhaps `id`; .jsonl.gz is read too."""
    gold_field: str = "gold"
    """Name of the field that holds what is right."""
    completion_field: str = "completion"
    """Name of the field that holds the model's output, a text."""
    out: Path | None = None
    """The file of verdicts; default: FILE.verdicts.jsonl beside FILE.jsonl."""
    workers: int = 0
    """Verdicts at a time; 0 takes as many as there are cores, at most 8."""
    seconds: float = 5.0
    """Processor time that a verdict may take (by the clock: 2 s + twice as long); beyond it, it is undecided. Programs
    have the limits of their tests."""
    unsafe_code: bool = False
    """Scorer code: run the programs even where there is no isolation. They can do all that you can."""

    def __post_init__(self) -> None:
        require(self.workers >= 0, f"--workers is {self.workers}; give 0 (as many as there are cores) or more")
        require(self.seconds > 0, f"--seconds is {self.seconds}; give a time limit above 0")
        require(
            self.gold_field != self.completion_field,
            f"--gold-field and --completion-field are both {self.gold_field!r}; the output cannot be its own gold",
        )
