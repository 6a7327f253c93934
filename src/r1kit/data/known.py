"""Data sets known by name: where they are on the Hugging Face hub, and which part is for training.

Their layouts are known by the columns (`layouts.py`), so a copy in a file of yours is read as well.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownSet:
    """Sources of the two splits, as `org/name:config@split`."""

    about: str
    train: str = ""
    """Empty: the set is for evaluation only."""
    heldout: str = ""
    """Empty: one row of `train` in ten, by its content."""


KNOWN = {
    "gsm8k": KnownSet(
        "GSM8K, grade-school word problems (arXiv 2110.14168)", "openai/gsm8k:main@train", "openai/gsm8k:main@test"
    ),
    "math": KnownSet(
        "MATH, competition problems (arXiv 2103.03874)",
        "DigitalLearningGmbH/MATH-lighteval@train",
        "DigitalLearningGmbH/MATH-lighteval@test",
    ),
    "math500": KnownSet("MATH-500, for evaluation (arXiv 2305.20050)", heldout="HuggingFaceH4/MATH-500@test"),
    "aime24": KnownSet("AIME 2024, for evaluation", heldout="HuggingFaceH4/aime_2024@train"),
    "tinyzero-countdown": KnownSet(
        "Countdown with 3 or 4 numbers up to 99, TinyZero's", "Jiayi-Pan/Countdown-Tasks-3to4@train"
    ),
    "knights-and-knaves": KnownSet(
        "Who tells the truth? Logic-RL's (arXiv 2410.23123)",
        "K-and-K/knights-and-knaves:train",
        "K-and-K/knights-and-knaves:test",
    ),
    "dapo-17k": KnownSet(
        "DAPO's 17k problems with whole-number answers, each once (arXiv 2503.14476)",
        "open-r1/DAPO-Math-17k-Processed:en@train",
    ),
    "openr1-math-220k": KnownSet(
        "OpenR1-Math, problems with R1's solutions: --tasks takes the problems, --data the solutions",
        "open-r1/OpenR1-Math-220k@train",
    ),
}
