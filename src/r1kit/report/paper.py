"""DeepSeek-R1's published numbers, each with its source, to stand beside a run's.

V1 is arXiv 2501.12948v1 (January 2025), V2 is 2501.12948v2 (January 2026, with supplements).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from markupsafe import Markup, escape

from r1kit.rewards.reflection import PATTERN as REFLECTION

ARXIV = "https://arxiv.org/abs/2501.12948"


@dataclass(frozen=True)
class PaperNumber:
    """One published number of R1-Zero."""

    id: str
    what: str
    value: str
    source: str


R1_ZERO = (
    PaperNumber(
        "pass@1",
        "pass@1, base → R1-Zero",
        "AIME 2024: 15.6% → 71.0% (V2, 10,400 steps: 77.9%)",
        "V1 Fig. 2, Table 2; V2 Table 3",
    ),
    PaperNumber("cons", "majority vote of R1-Zero", "AIME 2024: 86.7%", "V1 Table 2 (cons@64), Fig. 2 (cons@16)"),
    PaperNumber(
        "length", "mean response length, training set", "about 500 → 9,500 tokens", "V1 Fig. 3, read off the plot"
    ),
    PaperNumber("reflection", "reflection words", "5 to 7 times as many", "V2 C.2"),
    PaperNumber("model", "base model", "DeepSeek-V3-Base, 671B parameters (37B active)", "model README"),
    PaperNumber("steps", "policy updates", "10,400", "V2 2.1"),
    PaperNumber("batch", "problems × completions per update", "32 × 16", "V2 2.1"),
    PaperNumber("cap", "length cap", "32,768, from step 8,200 on 65,536 tokens", "V2 2.1"),
    PaperNumber("compute", "compute", "101,000 H800 GPU-hours (512 GPUs, about 198 h)", "V2 B.4.4, Table 7"),
)

CLAIMS = {
    "base": "15.6% on AIME 2024 at the start (V1 Fig. 2)",
    "zero": "71.0% (V1 Table 2), later 77.9% (V2 Table 3)",
    "risen": "15.6% → 71.0% on AIME 2024 (V1 Fig. 2)",
    "stays": "about 4 points, near steps 3,600 to 5,000 (V1 Fig. 2, read off)",
    "length": "about 19×, 500 → 9,500 tokens (V1 Fig. 3, read off)",
    "reflection": "5 to 7 times as many (V2 C.2)",
    "cons": "86.7% against 71.0% (V1 Table 2, Fig. 2)",
    "C1": "15.6% → 71.0% on AIME 2024 (V1 Fig. 2), later 77.9% (V2 Table 3)",
    "C2": "cons@16 86.7% against 71.0% on AIME 2024 (V1 Fig. 2)",
    "C3": "about 19×, 500 → 9,500 tokens (V1 Fig. 3, read off)",
    "C4": "5 to 7 times as many (V2 C.2)",
    "C5a": "stated, without a number (V1 2.2.4)",
    "C5b": "stable with the reward (V2 B.6, Fig. 7)",
    "C5c": "mathematics the same, code slightly lower (V2 B.6, Fig. 7)",
    "C5d": "stable with the reward, decays without it (V2 B.6, Fig. 7)",
    "C6a": "stated; IF-Eval 46.6 → 71.7 (V2 Table 3)",
    "C6b": "AIME 2024 77.9 → 59.0 (V2 Table 3)",
    "C6c": "79%: AIME 2024 59.0 → 74.0, R1-Zero 77.9 (V2 Table 3)",
    "C7a": "AIME 2024 79.8 against 77.9 (V2 Table 3)",
    "C7b": "stated, without a number (V1 2.3)",
    "C7c": "ArenaHard 75.6 → 92.3, AlpacaEval 2.0 62.1 → 87.6 (V2 Table 3)",
    "C8": "AIME 2024 72.6 against 47.0, both Qwen2.5-32B (V1 Table 6)",
    "C9": "the reward keeps rising while Codeforces falls (V2 B.5, Fig. 6)",
}

TABLE_3 = {
    "base": {"AIME 2024": "15.6"},
    "zero": {"AIME 2024": "77.9", "IF-Eval": "46.6", "AlpacaEval 2": "24.7", "ArenaHard": "53.6"},
    "dev1": {"AIME 2024": "59.0", "IF-Eval": "71.7", "AlpacaEval 2": "50.1", "ArenaHard": "77.0"},
    "dev2": {"AIME 2024": "74.0", "IF-Eval": "72.0", "AlpacaEval 2": "55.8", "ArenaHard": "73.2"},
    "dev3": {"AIME 2024": "78.1", "IF-Eval": "78.1", "AlpacaEval 2": "62.1", "ArenaHard": "75.6"},
    "r1": {"AIME 2024": "79.8", "IF-Eval": "83.3", "AlpacaEval 2": "87.6", "ArenaHard": "92.3"},
    "student-distilled": {"AIME 2024": "72.6"},
    "student-rl": {"AIME 2024": "47.0"},
}
"""Checkpoint -> benchmark -> score, %: V2 Table 3. The base: R1-Zero at its start (V1 Fig. 2). The students:
Qwen2.5-32B, distilled and after 10,000 steps of RL (V1 Table 6)."""
BENCHMARKS = ("AIME 2024", "IF-Eval", "AlpacaEval 2", "ArenaHard")

NAMES = {
    "base": "Base",
    "zero": "R1-Zero",
    "dev1": "R1-Dev1",
    "dev2": "R1-Dev2",
    "dev2-no-language": "R1-Dev2, no language reward",
    "dev3": "R1-Dev3",
    "r1": "R1",
    "student-base": "Student, base",
    "student-distilled": "Student, distilled",
    "student-rl": "Student, RL",
    "student-on-policy": "Student, distilled on-policy",
}
"""Checkpoint -> what the paper calls it; in the order of the recipe."""

_MARKS = re.compile(rf"(?P<tag></?(?:think|answer)>)|(?P<word>{REFLECTION.pattern})", re.IGNORECASE)
"""What is marked: tags, and the words that are counted as reflection."""


def highlight(text: str) -> Markup:
    """The completion as safe HTML with its tags and reflection words marked; everything else is escaped."""
    parts, end = [], 0
    for match in _MARKS.finditer(text):
        kind = "tag" if match["tag"] else "word"
        parts += [escape(text[end : match.start()]), Markup('<mark class="{}">{}</mark>').format(kind, match[0])]
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])
