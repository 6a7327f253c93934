"""The repetition penalty: a completion that says the same n-grams again loses reward (Yeo et al. 2025, appendix C.2).

`rewards.readable` filters data by repeated lines and loops; this is the smooth measure for a reward.
"""

from __future__ import annotations

import re

# Written without spaces: Chinese, kana, Thai, Lao, Khmer, Burmese. There every character is a unit.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9d"
    r"\U00020000-\U0003ffff"
)
UNIT = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]{{1,20}}|[^\w\s{_UNSPACED}]{{1,20}}")
"""A character of those scripts, or a run of letters and digits, or one of signs. Runs are cut at 20 characters, so that
one letter for ever repeats itself too."""


def repetition_penalty(text: str, *, ngram: int = 20, max_penalty: float = 1.0) -> float:
    """-max_penalty x the share of n-grams that repeat an earlier one; 0 for a text of fewer than `ngram` units.

    Case does not matter. The default of 20 units is ours: mathematics repeats shorter ones by nature.
    ValueError when `ngram` is below 1 or `max_penalty` below 0.
    """
    if ngram < 1 or max_penalty < 0:
        raise ValueError(f"ngram is {ngram} and max_penalty {max_penalty}; give 1 or more, and 0 or more")
    return -max_penalty * repeated_share(text, ngram)


def repeated_share(text: str, ngram: int) -> float:
    """Share of the n-grams of `text` that repeat an earlier one, 0 to below 1."""
    units = UNIT.findall(text.lower())
    total = len(units) - ngram + 1
    if total < 1:
        return 0.0
    return 1 - len(set(zip(*(units[start:] for start in range(ngram)), strict=False))) / total
