r"""Words, sentences and language of a response, as the instruction checks count them.

English follows what the reference checker of IFEval gets from NLTK (`\w+`, Punkt sentences, Treebank words), written
down as a few rules in place of a trained model. Chinese counts characters, and sentences by 。！？.
"""

from __future__ import annotations

import re

from r1kit.rewards.language import HAN, SCRIPT, count_words

MAX_LANGUAGE_CHARS = 5_000
"""The language is judged on the first and the last so many characters."""
MIN_LANGUAGE_SHARE = 0.5
"""A response is in a language when at least this share of its words is."""

WORD = re.compile(r"\w+")
# Treebank's cuts; only what can change the number of capital words is cut: "I'M" are two, "WELL-KNOWN" and "A/B" one.
CUTS = re.compile(r"[\s()\[\]{}<>\";@#$%&?!“”«»‘’„`]+|\.{2,}|--+|[,:](?!\d)|(?='(?:s|m|d|ll|re|ve)\b)|(?=n't\b)", re.I)
TOKEN_END = re.compile(r"[.?!](?=[)\";}\]*:@'({\[!?])|[.?!]\Z")
CLOSERS = re.compile(r"[\"')\]}]+")
NUMBER = re.compile(r"\W*-?[.,]?\d[\d,.-]*")
INITIAL = re.compile(r"\W*[^\W\d]")
_ABBREVIATIONS = """
dr mr mrs ms prof sr jr st rev gen col lt sgt capt gov sen rep hon inc corp co ltd bros vs etc al e.g i.e cf approx dept
est fig vol ed eds jan feb mar apr aug sept oct nov dec ave blvd rd u.s u.k u.n u.s.a d.c a.m p.m ph.d b.c a.d n.y l.a
no. viz messrs maj adm mt ft
"""
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
# After an abbreviation or an ellipsis only these begin a sentence.
_STARTERS = "however although but since while meanwhile also it he she they we the this in there if i"
STARTERS = frozenset(_STARTERS.split())

SENTENCE_ZH_END = re.compile(r"[。！？!?]+|…+|(?<!\d)\.(?=\s|\Z)")
LETTER = re.compile(r"[^\W\d_]")
FENCE = re.compile(r"^[ \t]*```[^\n`]*$|`", re.MULTILINE)


def num_words(text: str, language: str) -> int:
    """Words; for zh every ideograph, and every word or number in other writing, is one."""
    if language != "zh":
        return sum(1 for _ in WORD.finditer(text))
    return len(HAN.findall(text)) + sum(1 for _ in WORD.finditer(HAN.sub(" ", text)))


def num_capital_words(text: str) -> int:
    """Words in capitals; hyphenated ones are one, single letters count."""
    return sum(word.isupper() for word in CUTS.split(text) if word)


def num_sentences(text: str, language: str) -> int:
    """Sentences, counting a last one that has no end mark; a line's end is none.

    As to the reference, "1." before a sentence is one of its own; for zh only what has a letter in it counts.
    """
    if language == "zh":
        return sum(bool(LETTER.search(part)) for part in SENTENCE_ZH_END.split(text))
    tokens = text.split()
    sentences, is_open = 0, False
    for index, token in enumerate(tokens):
        rest = _after_end(token, tokens[index + 1] if index + 1 < len(tokens) else "")
        if rest is None:
            is_open = True
            continue
        sentences += 1
        is_open = bool(rest)
    return sentences + is_open


def _after_end(token: str, following: str) -> str | None:
    """What of `token` is left behind the end of a sentence in it; None when no sentence ends there."""
    ends = list(TOKEN_END.finditer(token))
    if not ends:
        return None
    end = ends[-1].end()
    before, rest = token[:end], token[end:]
    next_word = rest or following
    if before.endswith("..") or before.endswith("…"):
        if not _starts_sentence(next_word):
            return None
    elif before.endswith("."):
        stem = before[:-1].lstrip("\"'([{*_")
        if stem.lower().rpartition("-")[2] in ABBREVIATIONS:
            if not _starts_sentence(next_word):
                return None
        elif (INITIAL.fullmatch(stem) and stem != "I" and following[:1].isupper()) or (
            NUMBER.fullmatch(stem) and next_word[:1].islower()
        ):
            return None
    return "" if CLOSERS.fullmatch(rest) else rest


def _starts_sentence(word: str) -> bool:
    return word[:1].isupper() and word.strip("\"'*,.;:!?").lower() in STARTERS


def is_in_language(text: str, language: str) -> bool:
    """Whether most words are in `language` (ISO 639-1). A text without words is in none."""
    if len(text) > 2 * MAX_LANGUAGE_CHARS:
        text = f"{text[:MAX_LANGUAGE_CHARS]}\n{text[-MAX_LANGUAGE_CHARS:]}"
    text = text.lower()
    own, total = count_words(text, language)
    if not total:  # a response that is all one code block
        own, total = count_words(FENCE.sub(" ", text), language)
    return total > 0 and own >= MIN_LANGUAGE_SHARE * total


def language_code(language: object) -> str | None:
    """ISO 639-1 code of "de", "zh-cn"; None for what cannot be told."""
    code = language.lower().replace("_", "-").partition("-")[0] if isinstance(language, str) else ""
    return code if code in SCRIPT else None
