"""Each kind of instruction, followed and not, in English and in Chinese."""

from __future__ import annotations

from typing import Any

import pytest

from r1kit.rewards.ifeval import ifeval_fault, instructions_followed
from r1kit.rewards.ifeval_checks import KINDS

Case = tuple[str, dict[str, Any], list[str], list[str]]

AT_LEAST, LESS = {"relation": "at least"}, {"relation": "less than"}
ENGLISH = "The sun was warm and the children were playing in the garden."
GERMAN = "Die Sonne schien warm und die Kinder spielten den ganzen Tag im Garten."

# Instruction, its arguments, texts that follow it, texts that do not.
CASES: list[Case] = [
    (
        "keywords:existence",
        {"keywords": ["C++", "sun."]},
        ["c++ in the sun."],
        ["C++ in the sun", "c and sun.", "suns C+"],
    ),
    ("keywords:frequency", {"keyword": "sun", "frequency": 2, **AT_LEAST}, ["Sun, sunny"], ["sun", "s u n s u n"]),
    ("keywords:frequency", {"keyword": "sun", "frequency": 2, **LESS}, ["sun", "moon"], ["Sun, sunny"]),
    ("keywords:forbidden_words", {"forbidden_words": ["sun"]}, ["sunny"], ["the SUN.", "s\u200bun", "sun"]),
    ("keywords:forbidden_words", {"forbidden_words": ["C++"]}, ["C and C"], ["in C++ and"]),
    (
        "keywords:letter_frequency",
        {"letter": "S", "let_frequency": 2, "let_relation": "at least"},
        ["Sas"],
        ["so", "x"],
    ),
    ("keywords:letter_frequency", {"letter": "!", "let_frequency": 1, "let_relation": "less than"}, ["hi"], ["hi!"]),
    ("language:response_language", {"language": "hi"}, ["बच्चे बगीचे में खेल रहे थे।"], [ENGLISH, "123", "?!"]),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, **AT_LEAST},
        ["One. Two!", "Is it so? Yes", '"One." Two.', "1. One"],
        ["One", "Dr. Who, e.g. here", "3.5 is a number.", "One\n\nTwo"],
    ),
    ("length_constraints:number_sentences", {"num_sentences": 2, **LESS}, ["It is 3.5 of J. Smith."], ["One. Two."]),
    (
        "length_constraints:number_words",
        {"num_words": 3, **AT_LEAST},
        ["one two three", "it's so"],
        ["one two", "a-b !"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "a***b", "***a\n***\nb***"],
        ["a\n\nb", "a\n***\n***\nb", "a***b***c"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "So"},
        ["a\n\nso, b", 'a\n\n"So" b'],
        ["so\n\na", "a\n\nsome b", "a\n\nso\n\nc", "so b"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] and [b c]"], ["[a]", "[a\n]", "a] [b"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["x\np.s. y", "P. S. y"], ["PS: y", "p.p.s y"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["x\nP.P.S y"], ["P.S. y"]),
    ("detectable_content:postscript", {"postscript_marker": "N.B."}, ["x\n**N.B.** y"], ["x N.B. y", "x\nNxBx y"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "x\n - a\n  - b"],
        ["* a", "- a\n- b\n- c", "**a**\n* b"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes."],
        ["Yes.", "My answer is yes. My answer is no."],
    ),
    ("detectable_format:constrained_response", {"options": ["Up", "Down"]}, ["Up"], ["My answer is yes.", "Up, Down"]),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* **b**"],
        ["*a*", "** ** *a*", "*a\n*"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Day", "num_sections": 2},
        ["Day 1\nx\nDay 2\ny"],
        ["Day 1\nx", "Day one, Day two", "day 1, day 2"],
    ),
    ("detectable_format:multiple_sections", {"section_spliter": "Q.", "num_sections": 1}, ["Q. 1"], ["Qx 1"]),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', '```json\n{"a": 1}\n```', "[1]"],
        ['so: {"a": 1}', "{'a': 1}", "[" * 9999],
    ),
    ("detectable_format:title", {}, ["<<A poem>>\nx"], ["<A poem>", "<<>>", "<< >>", "<<A\npoem>>"]),
    (
        "combination:two_responses",
        {},
        ["a\n******\nb", "******a******b"],
        ["a", "a******a", "a******b******c", "a************b"],
    ),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, [" say HI. hi"], ["hi", "OK. Say hi. hi"]),
    ("startend:end_checker", {"end_phrase": "The end."}, ['x. the end."', "The end. \n"], ["The end. x", "the end"]),
    ("startend:quotation", {}, ['"a"', ' "a "b""\n'], ['"a', "a", '"', "'a'"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["I SAY", "I'M", "WELL-KNOWN U.S. things"],
        ["Say it LOUD", "WELL-KNOWN", "123 456"],
    ),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, GERMAN.upper(), "123", "ДА, ЭТО ТАК И БЫЛО"]),
    ("change_case:english_lowercase", {}, [ENGLISH.lower()], [ENGLISH, GERMAN.lower(), "123", "```\nX\n```"]),
    ("change_case:english_lowercase", {}, [f"```text\n{ENGLISH.lower()}\n```"], [f"```text\n{GERMAN.lower()}\n```"]),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b", "a，b"]),
]
CHINESE: list[Case] = [
    ("keywords:existence", {"keywords": ["太阳", "月亮"]}, ["太阳和月亮"], ["太阳"]),
    ("keywords:frequency", {"keyword": "太阳", "frequency": 2, **AT_LEAST}, ["太阳，大太阳"], ["太阳。"]),
    ("keywords:forbidden_words", {"forbidden_words": ["太阳"]}, ["太大的阳光"], ["看大太阳呀"]),
    (
        "keywords:letter_frequency",
        {"letter": "的", "let_frequency": 2, "let_relation": "at least"},
        ["我的你的"],
        ["我的"],
    ),
    (
        "language:response_language",
        {"language": "zh-cn"},
        ["孩子们在花园里玩。"],
        [ENGLISH, "子供たちは庭で遊んでいた。"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, **AT_LEAST},
        ["好。对！", "是吗？！是的", "好……好。"],
        ["好，对。", "Python3.5是好的。", "标题\n好。", "好。。。", "1. 好"],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 5, **AT_LEAST},
        ["今天天气好", "用Python写3行"],
        ["今天，天。", "Python"],
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["甲\n***\n乙"], ["甲\n\n乙"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "但是"},
        ["甲。\n\n但是乙。", "甲。\n\n　　但是乙。", "甲。\n\n“但是”乙"],
        ["但是甲。\n\n乙。", "甲。\n\n但乙是。"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[地址]和【姓名】", "［甲］［乙］"],
        ["[地址]", "（甲）（乙）"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "附言"},
        ["好。\n附言：再见", "**附言**：好"],
        ["好，附言：", "再见"],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* 甲\n* 乙", "• 甲\n· 乙", "-甲\n-乙"],
        ["1. 甲\n2. 乙"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["我的答案是肯定的。"],
        ["肯定。", "我的答案是肯定的。我的答案是否定的。"],
    ),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*甲*和**乙**"], ["*甲*"]),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "部分", "num_sections": 2},
        ["第一部分\n甲\n第二部分\n乙", "部分 1：部分2"],
        ["第一部分", "部分部分"],
    ),
    ("detectable_format:json_format", {}, ['{"甲": 1}'], ["{甲：1}"]),
    (
        "detectable_format:title",
        {},
        ["<<春天>>", "《春天》\n花开了。", "# 《春天》"],
        ["我读《春天》这本书。", "《》", "春天"],
    ),
    ("combination:two_responses", {}, ["甲\n******\n乙"], ["甲\n***\n乙", "甲******甲"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "写一首诗。"}, ["写一首诗。花开了。"], ["好的。写一首诗。"]),
    ("startend:end_checker", {"end_phrase": "谢谢。"}, ["完了。谢谢。", "“完了。谢谢。”"], ["谢谢。完了", "谢谢"]),
    ("startend:quotation", {}, ["“好的。”", "「好的」", '"好的"'], ["“好的。", "《好的》"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["用 AI 和 GPU 训练"],
        ["用 AI"],
    ),
    ("change_case:english_capital", {}, [ENGLISH.upper()], ["好的", ENGLISH]),
    ("change_case:english_lowercase", {}, [ENGLISH.lower()], ["好的", ENGLISH]),
    ("punctuation:no_comma", {}, ["甲、乙。"], ["甲，乙。", "甲, 乙"]),
]


@pytest.mark.parametrize(
    ("name", "args", "following", "failing"),
    [
        *CASES,
        *((f"en:{name}", *rest) for name, *rest in CASES[:3]),
        *((f"zh:{name}", *rest) for name, *rest in CHINESE),
    ],
)
def test_every_instruction_is_told_followed_from_not(
    name: str, args: dict[str, Any], following: list[str], failing: list[str]
):
    gold = {"instruction_id_list": [name], "kwargs": [args]}
    assert ifeval_fault(gold) == ""
    assert [text for text in following if not instructions_followed(text, gold)[0]] == []
    assert [text for text in [*failing, "", " \n"] if instructions_followed(text, gold)[0]] == []


@pytest.mark.parametrize("cases", [CASES, CHINESE])
def test_the_cases_cover_all_kinds(cases: list[Case]):
    assert {name for name, *_ in cases} == set(KINDS)
    assert len(KINDS) == 25
