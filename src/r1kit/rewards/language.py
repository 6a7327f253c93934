"""The language-consistency reward: the share of the thought's words in the prompt's language (R1 V2 eq. 7).

Formulas, numbers and code have no language and are not counted. Writing systems decide where they can; languages that
share one (English and French, Russian and Ukrainian) are told apart by py3langid, sentence by sentence:
`pip install 'r1kit[language]'`. Definitions and measurements: docs/language.md.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier  # type: ignore[import-not-found]

# What has no language. Only looked for where the text has one of the marks that it starts with.
NOTATION = re.compile(
    r"```.*?(?:```|\Z)"  # code block, closed or not
    r"|\[asy\].*?\[/asy\]"  # drawings of the MATH problems
    r"|`[^`\n]*`"
    r"|\$\$.{1,2000}?\$\$"
    # a dollar price is no formula: a formula has no space inside its dollars and no digit after them
    r"|\$(?![\s$])[^$\n]{0,300}(?<![\s\\$])\$(?![0-9])"
    r"|\\\(.*?\\\)|\\\[.*?\\\]"
    r"|\\begin\{(?P<name>\w+)\*?\}.*?\\end\{(?P=name)\*?\}"
    r"|\\[A-Za-z]+\*?(?:\s?(?:\[[^\]\n]*\]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}))*"
    r"|</?[A-Za-z_]+>"
    r"|(?:https?|ftp)://[!-~]+",
    re.DOTALL | re.ASCII,
)
NOTATION_MARKS = re.compile(r"[`$\\<]|://|\[asy\]")
ADDRESS = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+", re.ASCII)
# f(x), gcd(12, 8), math.floor(a/b); egg(s) is a word
CALL = re.compile(r"(?<![\w.])[A-Za-z_][\w.]*+\((?!e?[sn]\))(?:[\w.+\-*/^=\"']*+(?:,\s?)?)*+\)", re.ASCII)

_L = "A-Za-zÀ-ÖØ-öø-ʯ\u0300-\u036fḀ-ỿ"
_NAMES = "sin|cos|tan|cot|sec|csc|log|ln|lg|exp|lim|max|min|mod|gcd|lcm|det|km|cm|mm|kg|mg|ml|kWh|mph|Hz"
LATIN = re.compile(
    rf"(?<![{_L}0-9_])(?=[{_L}]'?[{_L}])"
    rf"(?!(?:[A-Z]{{2,3}}|{_NAMES})(?![{_L}'])|[a-z]++[A-Z])"  # triangle ABC, sin, km and camelCase are notation
    rf"[{_L}]++(?:'[{_L}]++)*+(?![0-9_])"
)
HAN = re.compile(r"[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
KANA = re.compile(r"[\u3041-\u3096\u309d-\u309f]+|[\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9d]+")
HANGUL = re.compile(r"[\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff]+")
# Written without spaces, with no words to see: every five characters begun count as one.
UNSPACED = {"thai": "\u0e01-\u0e4e", "lao": "\u0e81-\u0ece", "khmer": "\u1780-\u17d3", "burmese": "\u1000-\u109f"}
SPACED = {
    "greek": "\u0370-\u03ff\u1f00-\u1fff",
    "cyrillic": "\u0400-\u052f",
    "armenian": "\u0531-\u0587",
    "hebrew": "\u05d0-\u05ea",
    "arabic": "\u0620-\u065f\u066e-\u06d3\u06d5-\u06dc\u06fa-\u06ff\u0750-\u077f\u200c\ufb50-\ufdff\ufe70-\ufefc",
    "devanagari": "\u0900-\u0963\u0971-\u097f",
    "bengali": "\u0980-\u09e3\u09f0-\u09f1",
    "gurmukhi": "\u0a01-\u0a5e\u0a70-\u0a75",
    "gujarati": "\u0a81-\u0ae3",
    "oriya": "\u0b01-\u0b63",
    "tamil": "\u0b82-\u0bd7",
    "telugu": "\u0c00-\u0c63",
    "kannada": "\u0c80-\u0ce3",
    "malayalam": "\u0d00-\u0d63",
    "sinhala": "\u0d80-\u0ddf",
    "tibetan": "\u0f40-\u0fbc",
    "georgian": "\u10a0-\u10ff",
    "ethiopic": "\u1200-\u135a",
}
WORDS = {
    "latin": LATIN,
    "han": HAN,
    "kana": KANA,
    "hangul": HANGUL,
    **{script: re.compile(f"[{letters}]{{1,5}}") for script, letters in UNSPACED.items()},
    # one letter alone is a variable, letters with digits are an identifier
    **{script: re.compile(f"(?<![{letters}0-9_])[{letters}]{{2,}}+(?![0-9_])") for script, letters in SPACED.items()},
}
"""Script to its words: a run of letters, one ideograph, a run of one kind of kana."""
RARE = re.compile(f"[{''.join([*UNSPACED.values(), *SPACED.values()])}]")
SENTENCE = re.compile(r"[.!?…;。！？；؟।۔\n]+")

# Languages that only py3langid can tell apart, by script; without it the first is assumed.
_SHARED = {
    "latin": "en af az ca cs cy da de es et eu fi fr ga gl ha hr ht hu id ig is it jv lt lv mg ms mt nl no pl pt ro sk "
    "sl so sq sv sw tl tr uz vi xh yo zu",
    "cyrillic": "ru be bg kk ky mk mn sr tg tt uk",
    "arabic": "ar fa ps ug ur",
    "devanagari": "hi mr ne",
}
SHARED = {script: languages.split() for script, languages in _SHARED.items()}
# Languages that their script gives away.
ALONE = {
    "zh": "han", "ja": "kana", "ko": "hangul", "th": "thai", "lo": "lao", "km": "khmer", "my": "burmese", "el": "greek",
    "hy": "armenian", "he": "hebrew", "bn": "bengali", "pa": "gurmukhi", "gu": "gujarati", "or": "oriya", "ta": "tamil",
    "te": "telugu", "kn": "kannada", "ml": "malayalam", "si": "sinhala", "bo": "tibetan", "ka": "georgian",
    "am": "ethiopic",
}  # fmt: skip
SCRIPT = {language: script for script, languages in SHARED.items() for language in languages} | ALONE
LANGUAGE = {script: language for language, script in ALONE.items()}
# Too close for one sentence: a word of one counts for the other.
SIBLINGS = {"id": ("ms",), "ms": ("id",)}

# Frequent in English and hardly elsewhere, so without `is` (Dutch), `are` (Romanian), `also` (German); a fifth of them
# settles it.
_ENGLISH = """
the and that this these those with from what which when where who how why were been being has does did will would should
could can must not but there their they them you your she his my our its it's if then than because about into through
each every many much other another only same some any both while very still first now let's make write wait retry wrong
right yes number answer since equal equals it i'm i'll don't that's one two three four five left after before between
again think check need needs know means get
"""
ENGLISH = frozenset(_ENGLISH.split())
ENGLISH_SHARE = 0.2
MIN_LETTERS = 10
"""Sentences with fewer letters, repeated words aside, are too short to name a language."""
MIN_TEXT_LETTERS = 60
"""A text whose sentences are all too short is judged as a whole from here on."""
FOREIGN_RATIO = {"latin": 0.1, "cyrillic": 0.3, "arabic": 0.3, "devanagari": 0.3}
"""A sentence is foreign when the target's probability is below this fraction of the best language's."""
MAX_SENTENCE_WORDS = 25
"""Longer sentences are judged in pieces."""
MIN_KANA_SHARE = 0.1
"""With less kana than this among its kana and ideographs a sentence is Chinese that quotes Japanese."""
MAX_KANJI = 10
"""As many ideographs without kana may still be Japanese, where that is the target: a heading, a name, a sum."""
CHINESE = re.compile("[这這们們说时过为问吗嗎呢吧还從从给让样现两间钱买卖谁她你您几对单总计个么哪请]")
"""Frequent in Chinese and not written in Japanese."""
MAX_PROMPT_CHARS = 4000


@lru_cache(maxsize=4096)
def prompt_language(text: str) -> str:
    """ISO 639-1 code of the language that most words of a prompt are in; "en" where there are none.

    A prompt that asks for another language ("answer in French") is still in its own.
    """
    text = _prose(text[:MAX_PROMPT_CHARS])
    words = _words_by_script(text)
    words["han"] += words.pop("kana")
    script = max(words, key=lambda name: words[name])  # the first of equals: Latin
    if not words[script]:
        return "en"
    if script == "han":
        chinese, japanese = _split_han(text, kanji=0)
        return "ja" if japanese > chinese else "zh"
    if script not in SHARED:
        return LANGUAGE[script]
    found = WORDS[script].findall(text)
    if script == "latin" and _is_english(found):
        return "en"
    usual = SHARED[script][0]
    long = _letters(found) >= MIN_LETTERS
    identifier = _identifier(needed=long)
    if identifier is None:
        return usual
    chances = _chances(identifier, found, script)
    best = max(chances, key=lambda name: chances[name])
    return usual if not long and chances[usual] >= FOREIGN_RATIO[script] * chances[best] else best


def count_words(text: str, target: str) -> tuple[int, int]:
    """Words of `text` in the language `target` (ISO 639-1), and all its words.

    Every ideograph, and every run of one kind of kana, is one word; so is every run of two or more letters in other
    scripts; Thai, Lao, Khmer and Burmese have one for every five characters of a run. A target that neither the scripts
    nor py3langid know is credited with all words in Latin letters.
    """
    text = _prose(text)
    words = _words_by_script(text)
    total = sum(words.values())
    script = SCRIPT.get(target, "latin")
    own = words.get(script, 0)
    if script == "kana" or (script == "han" and words["kana"]):
        chinese, japanese = _split_han(text, kanji=MAX_KANJI if script == "kana" else 0)
        own = japanese if script == "kana" else chinese
    elif own and target in SHARED.get(script, ()):
        own -= _foreign_words(text, target, script)
    return own, total


def language_consistency(thought: str, target: str) -> float | None:
    """Share of the thought's words that are in the language `target`, 0 to 1 (R1 V2 eq. 7); None without any words."""
    own, total = count_words(thought, target)
    return own / total if total else None


def _prose(text: str) -> str:
    """The text without formulas and code. Numbers, single letters and identifiers are no words anyway."""
    text = text.replace("’", "'")
    if NOTATION_MARKS.search(text):
        text = NOTATION.sub(" ", text)
    if "@" in text:
        text = ADDRESS.sub(" ", text)
    return CALL.sub(" ", text) if "(" in text else text


def _words_by_script(text: str) -> dict[str, int]:
    """Number of words by script; rare scripts without any are left out."""
    words = {"latin": len(LATIN.findall(text)), "han": 0, "kana": 0, "hangul": 0}
    if text.isascii():
        return words
    for script in ("han", "kana", "hangul"):
        words[script] = len(WORDS[script].findall(text))
    if RARE.search(text):
        for script in (*UNSPACED, *SPACED):
            words[script] = len(WORDS[script].findall(text))
    return words


def _split_han(text: str, *, kanji: int) -> tuple[int, int]:
    """Chinese and Japanese words. Ideographs are Japanese in a sentence with kana, or with at most `kanji` of them."""
    chinese = japanese = 0
    for sentence in SENTENCE.split(text):
        kana, han = KANA.findall(sentence), len(HAN.findall(sentence))
        letters = sum(map(len, kana))
        is_japanese = letters >= MIN_KANA_SHARE * (letters + han) if kana else han <= kanji
        is_japanese = is_japanese and not CHINESE.search(sentence)
        japanese += len(kana) + (han if is_japanese else 0)
        chinese += 0 if is_japanese else han
    return chinese, japanese


def _foreign_words(text: str, target: str, script: str) -> int:
    """Words in the target's script that belong to other languages, judged sentence by sentence.

    A sentence that is too short to judge goes with the one before it; before the first, it is the target's.
    """
    foreign, is_foreign, judged = 0, False, False
    every: list[str] = []
    for words in _sentences(text, WORDS[script]):
        every += words
        if (verdict := _verdict(words, target, script)) is not None:
            is_foreign, judged = verdict, True
        foreign += len(words) if is_foreign else 0
    if not judged and _letters(every) >= MIN_TEXT_LETTERS and _verdict(every, target, script):
        return len(every)
    return foreign


def _sentences(text: str, word: re.Pattern[str]) -> Iterator[list[str]]:
    """The words of each sentence that has any; long sentences in pieces."""
    for sentence in SENTENCE.split(text):
        words = word.findall(sentence)
        for start in range(0, len(words), MAX_SENTENCE_WORDS):
            yield words[start : start + MAX_SENTENCE_WORDS]


def _verdict(words: list[str], target: str, script: str) -> bool | None:
    """Whether a sentence is foreign; None where it is too short. Without py3langid it has the target's benefit."""
    if _letters(words) < MIN_LETTERS:
        return None
    if script == "latin" and _is_english(words):
        return target != "en"
    identifier = _identifier(needed=True)
    if identifier is None:
        return False
    if identifier.classify(" ".join(words))[0] == target:  # the usual case, at a third of the cost
        return False
    chances = _chances(identifier, words, script)
    own = max(chances[name] for name in (target, *SIBLINGS.get(target, ())))
    return own < FOREIGN_RATIO[script] * max(chances.values())


def _is_english(words: list[str]) -> bool:
    """Whether enough of the words are frequent English ones."""
    found = sum(map(ENGLISH.__contains__, _lower(words)))
    return 0 < found >= ENGLISH_SHARE * len(words)


def _letters(words: list[str]) -> int:
    """Letters of the distinct words: `no no no` says no more than `no`."""
    return len("".join(set(_lower(words))))


def _lower(words: list[str]) -> list[str]:
    return " ".join(words).lower().split(" ")


def _chances(identifier: LanguageIdentifier, words: list[str], script: str) -> dict[str, float]:
    """Probability of each language of the script."""
    ranked = dict(identifier.rank(" ".join(words)))
    return {language: ranked[language] for language in SHARED[script]}


def _identifier(*, needed: bool) -> LanguageIdentifier | None:
    """py3langid's model; None where it is not installed, with one warning when it is needed."""
    identifier = _load()
    if identifier is None and needed:
        _warn()
    return identifier


@lru_cache(maxsize=1)
def _load() -> LanguageIdentifier | None:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-not-found]
    except ModuleNotFoundError:
        return None
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([language for languages in SHARED.values() for language in languages])
    return identifier


@lru_cache(maxsize=1)
def _warn() -> None:
    warnings.warn(
        "languages that share a script are not told apart: a French sentence counts as English. "
        "To tell them apart: pip install 'r1kit[language]'",
        stacklevel=2,
    )
