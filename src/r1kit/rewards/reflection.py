"""Counts of reflective words, the paper's measure of self-checking (R1, supplementary C.2).

The ten English words are the paper's, chosen by three experts; the Chinese ones are our counterparts.
"""

from __future__ import annotations

import re

ENGLISH = ("wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check")
CHINESE = {
    "wait": ("等等", "等一下", "等下"),
    "mistake": ("失误", "弄错", "搞错", "算错"),
    "however": ("然而", "不过"),
    "but": ("但是", "可是", "但"),
    "retry": ("重试", "再试"),
    "error": ("错误", "出错"),
    "verify": ("验证", "核实"),
    "wrong": ("不对", "错"),
    "evaluate": ("评估",),
    "check": ("检查", "核对", "检验"),
}
"""Counterparts of each English word (ours)."""

# 不但 and 非但 (not only), 但愿 (if only), 不错 (not bad) and 没错 (quite right) are no second thoughts.
_GUARDED: dict[str, str] = {"但": r"(?<![不非])但(?!愿)", "错": r"(?<![不没])错"}


def _pattern() -> re.Pattern[str]:
    words = sorted((word for counterparts in CHINESE.values() for word in counterparts), key=len, reverse=True)
    guarded = {word: word for word in words} | _GUARDED
    # Letters around, not \b: in "等wait" there is no word boundary, because Chinese characters are word characters.
    english = rf"(?<![a-z])(?:{'|'.join(ENGLISH)})(?![a-z])"
    return re.compile("|".join([english, *guarded.values()]), re.IGNORECASE)


PATTERN = _pattern()


def count_reflection_words(text: str) -> int:
    """Reflective words in `text`: English whole words in any case; Chinese anywhere, the longest first, none twice."""
    return sum(1 for _ in PATTERN.finditer(text))
