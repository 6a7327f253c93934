"""The 25 kinds of instruction of IFEval (Zhou et al. 2023, arXiv:2311.07911), each a check of a response.

A check takes the response, the instruction's arguments and the language it is counted in, and returns what is not
followed, "" when all is. Keywords are literal text. Every check takes time linear in the response.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from r1kit.rewards.ifeval_text import (
    HAN,
    is_in_language,
    language_code,
    num_capital_words,
    num_sentences,
    num_words,
)

Args = Mapping[str, Any]
Check = Callable[[str, Args, str], str]

RELATIONS = ("at least", "less than")
OPTIONS = {
    "en": ("My answer is yes.", "My answer is no.", "My answer is maybe."),
    "zh": ("我的答案是肯定的。", "我的答案是否定的。", "我的答案是不确定的。"),
}
COMMAS = ",，‚﹐"
QUOTES = {"en": ('""',), "zh": ('""', "“”", "「」", "『』", "＂＂")}
BRACKETS = {"en": ("[]",), "zh": ("[]", "［］", "【】")}
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
NUMERAL = {"en": r"\d+", "zh": r"(?:\d+|[一二三四五六七八九十百]+)"}
TITLE_ZH = re.compile(r"[#*\s]*《[^《》]*\w[^《》]*》[*\s]*")
POSTSCRIPTS = {"P.S.": re.compile(r"p\.\s?s\.", re.I), "P.P.S": re.compile(r"p\.\s?p\.\s?s", re.I)}
FENCE = re.compile(r"\A```(?:json|Json|JSON)?|```\Z")


def keywords(text: str, args: Args, language: str) -> str:
    missing = [word for word in args["keywords"] if not _count(word, text)]
    return f"no {_listed(missing)}" if missing else ""


def keyword_frequency(text: str, args: Args, language: str) -> str:
    return _compare(_count(args["keyword"].strip(), text), args["relation"], args["frequency"], repr(args["keyword"]))


def forbidden_words(text: str, args: Args, language: str) -> str:
    text = INVISIBLE.sub("", text)
    found = [word for word in args["forbidden_words"] if _has_word(word, text, language)]
    return f"has {_listed(found)}" if found else ""


def letter_frequency(text: str, args: Args, language: str) -> str:
    letter = args["letter"].strip().lower()
    return _compare(text.lower().count(letter), args["let_relation"], args["let_frequency"], repr(letter))


def response_language(text: str, args: Args, language: str) -> str:
    return "" if is_in_language(text, str(language_code(args["language"]))) else f"not in {args['language']}"


def sentences(text: str, args: Args, language: str) -> str:
    return _compare(num_sentences(text, language), args["relation"], args["num_sentences"], "sentences")


def words(text: str, args: Args, language: str) -> str:
    name = "characters" if language == "zh" else "words"
    return _compare(num_words(text, language), args["relation"], args["num_words"], name)


def paragraphs(text: str, args: Args, language: str) -> str:
    """Separated by ***."""
    parts = [part.strip() for part in text.split("***")]
    if not all(parts[1:-1]):
        return "an empty paragraph"
    return _exactly(sum(map(bool, parts)), args["num_paragraphs"], "paragraphs")


def nth_paragraph_first_word(text: str, args: Args, language: str) -> str:
    """Separated by an empty line."""
    parts = text.split("\n\n")
    if fault := _exactly(sum(bool(part.strip()) for part in parts), args["num_paragraphs"], "paragraphs"):
        return fault
    paragraph, wanted = parts[int(args["nth_paragraph"]) - 1].strip(), args["first_word"].strip().lower()
    if HAN.search(wanted):
        first = paragraph.lstrip("\"'“‘「『*#　 ")[: len(wanted)]
    else:
        first = re.split(r"[\s.,?!'\"]", paragraph.lstrip("'").lstrip('"'), maxsplit=1)[0].lower()
    return "" if first == wanted else f"paragraph {args['nth_paragraph']} begins with {first[:30]!r}, not {wanted!r}"


def placeholders(text: str, args: Args, language: str) -> str:
    found = sum(_num_spans(text, pair) for pair in BRACKETS[language])
    return _compare(found, "at least", args["num_placeholders"], "placeholders")


def postscript(text: str, args: Args, language: str) -> str:
    marker = args["postscript_marker"].strip()
    pattern = POSTSCRIPTS.get(marker) or re.compile(rf"^(?:[^\w\n]|_)*{re.escape(marker)}", re.I | re.M)
    return "" if pattern.search(text) else f"no {marker!r}"


def bullets(text: str, args: Args, language: str) -> str:
    marks = "-•·" if language == "zh" else "-"
    lines = [line.lstrip() for line in text.split("\n")]
    found = sum(line[:1] in marks if line[:1] != "*" else line[1:2] not in ("*", "") for line in lines if line)
    return _exactly(found, args["num_bullets"], "bullets")


def constrained_response(text: str, args: Args, language: str) -> str:
    """One option, not several: listing them all is no answer."""
    options = args.get("options") or OPTIONS[language]
    found = [option for option in options if option in text]
    return "" if len(found) == 1 else f"{len(found)} of the options {_listed(list(options))}"


def highlights(text: str, args: Args, language: str) -> str:
    found = sum(bool(part.strip("*").strip()) for part in re.findall(r"\*[^\n*]*\*", text))
    found += sum(bool(part.strip("*").strip()) for part in re.findall(r"\*\*[^\n*]*\*\*", text))
    return _compare(found, "at least", args["num_highlights"], "highlighted sections")


def sections(text: str, args: Args, language: str) -> str:
    name, numeral = re.escape(args["section_spliter"].strip()), NUMERAL[language]
    pattern = rf"第\s?{numeral}\s?{name}|{name}\s?{numeral}" if language == "zh" else rf"{name}\s?{numeral}"
    return _compare(len(re.findall(pattern, text)), "at least", args["num_sections"], "sections")


def json_format(text: str, args: Args, language: str) -> str:
    try:
        json.loads(FENCE.sub("", text.strip()).strip())
    except (ValueError, RecursionError) as error:
        return f"no JSON: {str(error)[:60]}"
    return ""


def title(text: str, args: Args, language: str) -> str:
    """<<title>>; for zh also 《title》 on a line of its own."""
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if start >= 0 and end > start and line[start:end].lstrip("<").rstrip(">").strip():
            return ""
        if language == "zh" and TITLE_ZH.fullmatch(line):
            return ""
    return "no <<title>>"


def two_responses(text: str, args: Args, language: str) -> str:
    parts = [part.strip() for part in text.split("******")]
    if not all(parts[1:-1]):
        return "an empty response between ******"
    given = [part for part in parts if part]
    if len(given) == 2 and given[0] == given[1]:
        return "twice the same response"
    return _exactly(len(given), 2, "responses between ******")


def repeat_prompt(text: str, args: Args, language: str) -> str:
    prompt = args["prompt_to_repeat"].strip().lower()
    return "" if text.strip().lower().startswith(prompt) else "does not begin with the prompt"


def end_checker(text: str, args: Args, language: str) -> str:
    quotes = '"”」』＂' if language == "zh" else '"'
    phrase = args["end_phrase"].strip()
    return "" if text.strip().strip(quotes).lower().endswith(phrase.lower()) else f"does not end with {phrase[:60]!r}"


def quotation(text: str, args: Args, language: str) -> str:
    text = text.strip()
    wrapped = len(text) > 1 and any(text[0] == pair[0] and text[-1] == pair[1] for pair in QUOTES[language])
    return "" if wrapped else "not wrapped in quotation marks"


def english_capital(text: str, args: Args, language: str) -> str:
    if not text.isupper():
        return "not all in capitals"
    return "" if is_in_language(text, "en") else "not in English"


def english_lowercase(text: str, args: Args, language: str) -> str:
    if not text.islower():
        return "not all in lower case"
    return "" if is_in_language(text, "en") else "not in English"


def capital_word_frequency(text: str, args: Args, language: str) -> str:
    return _compare(num_capital_words(text), args["capital_relation"], args["capital_frequency"], "words in capitals")


def no_comma(text: str, args: Args, language: str) -> str:
    found = sum(text.count(comma) for comma in COMMAS)
    return f"{found} commas" if found else ""


def _compare(found: int, relation: str, asked: int, name: str) -> str:
    followed = found < asked if relation == "less than" else found >= asked
    return "" if followed else f"{found} x {name}, {relation} {asked} asked for"


def _exactly(found: int, asked: int, name: str) -> str:
    return "" if found == asked else f"{found} {name}, {asked} asked for"


def _count(word: str, text: str) -> int:
    return sum(1 for _ in re.finditer(re.escape(word), text, re.IGNORECASE))


def _has_word(word: str, text: str, language: str) -> bool:
    """Chinese is written without spaces, so a word of it may stand anywhere."""
    pattern = re.escape(word.strip())
    if language != "zh" and not HAN.search(word):
        pattern = rf"(?<!\w){pattern}(?!\w)"
    return re.search(pattern, text, re.IGNORECASE) is not None


def _num_spans(text: str, pair: str) -> int:
    """How many times the first mark, and then the second, stand on a line."""
    return sum(pair[0] in piece for line in text.split("\n") for piece in line.split(pair[1])[:-1])


def _listed(texts: list[str]) -> str:
    return ", ".join(repr(text) for text in texts[:5])[:120]


class Kind(NamedTuple):
    check: Check
    args: dict[str, str]
    """Name of each argument to what it must be: count, relation, text, texts, letter or language."""


KINDS: dict[str, Kind] = {
    "keywords:existence": Kind(keywords, {"keywords": "texts"}),
    "keywords:frequency": Kind(keyword_frequency, {"keyword": "text", "frequency": "count", "relation": "relation"}),
    "keywords:forbidden_words": Kind(forbidden_words, {"forbidden_words": "texts"}),
    "keywords:letter_frequency": Kind(
        letter_frequency, {"letter": "letter", "let_frequency": "count", "let_relation": "relation"}
    ),
    "language:response_language": Kind(response_language, {"language": "language"}),
    "length_constraints:number_sentences": Kind(sentences, {"num_sentences": "count", "relation": "relation"}),
    "length_constraints:number_paragraphs": Kind(paragraphs, {"num_paragraphs": "count"}),
    "length_constraints:number_words": Kind(words, {"num_words": "count", "relation": "relation"}),
    "length_constraints:nth_paragraph_first_word": Kind(
        nth_paragraph_first_word, {"num_paragraphs": "count", "nth_paragraph": "count", "first_word": "text"}
    ),
    "detectable_content:number_placeholders": Kind(placeholders, {"num_placeholders": "count"}),
    "detectable_content:postscript": Kind(postscript, {"postscript_marker": "text"}),
    "detectable_format:number_bullet_lists": Kind(bullets, {"num_bullets": "count"}),
    "detectable_format:constrained_response": Kind(constrained_response, {}),
    "detectable_format:number_highlighted_sections": Kind(highlights, {"num_highlights": "count"}),
    "detectable_format:multiple_sections": Kind(sections, {"section_spliter": "text", "num_sections": "count"}),
    "detectable_format:json_format": Kind(json_format, {}),
    "detectable_format:title": Kind(title, {}),
    "combination:two_responses": Kind(two_responses, {}),
    "combination:repeat_prompt": Kind(repeat_prompt, {"prompt_to_repeat": "text"}),
    "startend:end_checker": Kind(end_checker, {"end_phrase": "text"}),
    "startend:quotation": Kind(quotation, {}),
    "change_case:capital_word_frequency": Kind(
        capital_word_frequency, {"capital_frequency": "count", "capital_relation": "relation"}
    ),
    "change_case:english_capital": Kind(english_capital, {}),
    "change_case:english_lowercase": Kind(english_lowercase, {}),
    "punctuation:no_comma": Kind(no_comma, {}),
}
