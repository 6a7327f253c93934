"""Is a completion readable? The filters of cold start and rejection sampling (R1 V2 B.3.2, B.3.3).

Mixed languages, repetition, long paragraphs, code blocks, length. The paper names the filters; the thresholds are ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from r1kit.config import ReadableConfig
from r1kit.rewards.format import parse_completion
from r1kit.rewards.language import language_consistency
from r1kit.rewards.repetition import repeated_share

SENTENCE_END = re.compile(r"(?<=[.!?…؟।])\s+|(?<=[。！？])")
ANSWER = re.compile(r"<answer>.*?</answer>", re.DOTALL)
LOOP = re.compile(r"(\S.{1,29}?)\1{3,}", re.DOTALL)
"""Two to thirty characters, four times or more on end: `no no no no no`."""
FENCE = re.compile(r"```|^\s*~~~", re.MULTILINE)
LONG_LOOP = 20
"""Words (characters, where no spaces are written) that are not said twice by chance."""


def readable_fault(text: str, language: str, num_tokens: int, cfg: ReadableConfig) -> str:
    """What makes a completion unreadable, such as "repetition 0.52 above 0.3"; empty when nothing does.

    `text` is the prefilled tail of the prompt followed by the completion, `language` the prompt's (ISO 639-1),
    `num_tokens` the completion's length. A missing, empty or unclosed thought is a fault. The thought is judged, and of
    the response its language: that of what is said around the answer, for the answer itself may be in any.
    """
    if num_tokens < cfg.min_tokens:
        return f"{num_tokens} tokens, fewer than {cfg.min_tokens}"
    if cfg.max_tokens and num_tokens > cfg.max_tokens:
        return f"{num_tokens} tokens, more than {cfg.max_tokens}"
    if "</think>" not in text:
        return "thought not closed" if "<think>" in text else "no thought"
    parsed = parse_completion(text)
    thought = parsed.thought
    if not thought:
        return "empty thought"
    if FENCE.search(thought) and not cfg.code_blocks:
        return "code block"
    longest = max(map(len, thought.split("\n")))
    if cfg.max_paragraph_chars and longest > cfg.max_paragraph_chars:
        return f"paragraph of {longest} characters above {cfg.max_paragraph_chars}"
    for part, of in ((thought, ""), (ANSWER.sub(" ", parsed.response), " of the response")):
        consistency = language_consistency(part, language)
        if consistency is not None and consistency < cfg.min_consistency:
            return f"language mix{of}: {consistency:.2f} in {language}, below {cfg.min_consistency:g}"
    if (share := repetition(thought)) > cfg.max_repetition:
        return f"repetition {share:.2f} above {cfg.max_repetition:g}"
    return ""


def repetition(thought: str) -> float:
    """How much of a thought is said again, 0 to 1.

    The largest of three shares: of its lines (sentences, where it is one line), those that repeat an earlier one; of
    its characters, those in loops, the same few characters four times or more on end; of its runs of `LONG_LOOP` words,
    those that repeat an earlier one, wherever lines break.
    """
    units = [line for line in thought.split("\n") if line.strip()]
    if len(units) == 1:
        units = SENTENCE_END.split(thought)
    looped = sum(len(loop[0]) - len(loop[1]) for loop in LOOP.finditer(thought))
    return max(_repeated(units), looped / max(len(thought), 1), repeated_share(thought, LONG_LOOP))


def _repeated(units: Sequence[str]) -> float:
    """Share of the units that are equal to an earlier one, case and white space aside. What has no letter and no digit,
    such as `$$` on a line of its own, does not count."""
    plain = [" ".join(unit.split()).casefold() for unit in units if any(map(str.isalnum, unit))]
    return 1 - len(set(plain)) / len(plain) if plain else 0.0
