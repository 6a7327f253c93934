"""Verdicts on instructions, golds that cannot be used, and agreement with IFEval's graded responses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from r1kit.rewards import ifeval
from r1kit.rewards.ifeval import ifeval_fault, instructions_followed, judge
from r1kit.rewards.ifeval_checks import KINDS

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import ifeval as benchmark  # type: ignore[import-not-found]  # noqa: E402 - benchmarks/ is no package

AT_LEAST = {"relation": "at least"}
ENGLISH = "The sun was warm and the children were playing in the garden."
GERMAN = "Die Sonne schien warm und die Kinder spielten den ganzen Tag im Garten."


def _gold(name: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"instruction_id_list": [name], "kwargs": [args]}


def test_the_verdict_names_what_is_not_followed():
    gold = {
        "instruction_id_list": ["punctuation:no_comma", "zh:length_constraints:number_words", "startend:quotation"],
        "kwargs": [{}, {"num_words": 3, "relation": "at least"}, None],
    }
    assert judge('"一二三"', gold) == ("right", "all 3 followed")
    assert judge('"一, 二"', gold) == (
        "wrong",
        "punctuation:no_comma: 1 commas; zh:length_constraints:number_words: 2 x characters, at least 3 asked for",
    )
    assert instructions_followed('"一, 二"', gold) == [False, False, True]


def test_nothing_in_the_thought_counts():
    gold = _gold("keywords:existence", {"keywords": ["sun"]})
    assert judge("<think>moon</think>sun", gold)[0] == "right"
    assert judge("<think>sun</think>moon", gold)[0] == "wrong"
    assert judge("<think>sun", gold) == ("wrong", "the thought is not closed")
    assert judge("<think>so, what</think>\n<answer>no pause</answer>", _gold("punctuation:no_comma", {}))[0] == "right"


def test_loose_forgives_a_line_around_the_answer_and_asterisks():
    quoted, capitals = _gold("startend:quotation", {}), _gold("change_case:english_capital", {})
    for text in ('Sure:\n"a"', '"a"\nEnjoy!', 'Sure:\n"a"\nEnjoy!', '**"a"**', 'Sure:\n**"a"**\nEnjoy!'):
        assert judge(text, quoted)[0] == "wrong"
        assert judge(text, quoted, mode="loose")[0] == "right"
    assert judge(f"Sure!\n\n{ENGLISH.upper()}", capitals, mode="loose")[0] == "right"
    assert judge('Sure:\nOK:\n"a"', quoted, mode="loose") == (
        "wrong",
        "startend:quotation: not wrapped in quotation marks",
    )


def test_arguments_that_are_null_or_whole_floats_are_as_if_they_were_not():
    table = dict.fromkeys(["keywords", "relation", "first_word"])
    assert ifeval_fault(_gold("punctuation:no_comma", table)) == ""
    assert ifeval_fault(_gold("detectable_format:constrained_response", {"options": None})) == ""
    assert "has no keywords" in ifeval_fault(_gold("keywords:existence", table))
    nth = {"num_paragraphs": 2.0, "nth_paragraph": 2.0, "first_word": "b", "keywords": None}
    assert instructions_followed("a\n\nb", _gold("length_constraints:nth_paragraph_first_word", nth)) == [True]


@pytest.mark.parametrize(
    ("gold", "told"),
    [
        ("B", 'give {"instruction_id_list"'),
        ({"instruction_id_list": [], "kwargs": []}, "at least one"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "as many kwargs as ids"),
        (
            _gold("punctuation:no_commas", {}),
            "has the instruction 'punctuation:no_commas'; give one of keywords:existence",
        ),
        (_gold("ja:punctuation:no_comma", {}), "has the instruction 'ja:punctuation:no_comma'"),
        (_gold("keywords:existence", {}), "has no keywords for keywords:existence; give a list of texts"),
        (_gold("keywords:existence", {"keywords": "sun"}), "has the keywords 'sun'"),
        (_gold("keywords:existence", {"keywords": []}), "has the keywords '[]'"),
        (_gold("keywords:existence", {"keywords": ["a", ""]}), "give a list of texts that are not empty"),
        (
            _gold("keywords:frequency", {"keyword": "a", "frequency": 1, "relation": "about"}),
            "has the relation 'about'",
        ),
        (_gold("keywords:frequency", {"keyword": "a", "frequency": -1, **AT_LEAST}), "has the frequency '-1'"),
        (_gold("keywords:frequency", {"keyword": "a", "frequency": 1.5, **AT_LEAST}), "give a whole number"),
        (_gold("keywords:frequency", {"keyword": "a", "frequency": float("nan"), **AT_LEAST}), "give a whole number"),
        (_gold("keywords:frequency", {"keyword": "a", "frequency": True, **AT_LEAST}), "give a whole number"),
        (
            _gold("keywords:letter_frequency", {"letter": "ab", "let_frequency": 1, "let_relation": "at least"}),
            "one letter",
        ),
        (_gold("language:response_language", {"language": "klingon"}), "has the language 'klingon'"),
        (_gold("punctuation:no_comma", ["a"]), "give a dict"),  # type: ignore[arg-type]
        (_gold("detectable_format:constrained_response", {"options": "yes"}), "has the options 'yes'"),
        (
            _gold(
                "length_constraints:nth_paragraph_first_word",
                {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"},
            ),
            "has the nth_paragraph 3",
        ),
    ],
)
def test_a_gold_that_cannot_be_used_is_undecided_and_says_why(gold: Any, told: str):
    assert told in ifeval_fault(gold)
    assert judge("x", gold) == ("undecided", f"gold {ifeval_fault(gold)}")
    with pytest.raises(ValueError, match="gold"):
        instructions_followed("x", gold)


def test_a_language_that_needs_the_library_is_told_when_the_gold_is_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ifeval, "_has_library", lambda: False)
    assert "pip install 'r1kit[language]'" in ifeval_fault(_gold("language:response_language", {"language": "de"}))
    for language in ("en", "zh", "ko", "th"):
        assert ifeval_fault(_gold("language:response_language", {"language": language})) == ""


def test_languages_of_one_script_are_told_apart():
    pytest.importorskip("py3langid", reason="needs py3langid: pip install 'r1kit[language]'")
    german, english = (_gold("language:response_language", {"language": code}) for code in ("de", "en"))
    assert [judge(GERMAN, german)[0], judge(ENGLISH, german)[0]] == ["right", "wrong"]
    assert [judge(GERMAN, english)[0], judge(ENGLISH, english)[0]] == ["wrong", "right"]
    padded = f"{GERMAN * 100}\n{ENGLISH * 300}"
    assert judge(padded, german)[0] == "wrong"


def test_responses_that_are_too_long_are_undecided():
    verdict, reason = judge("a" * (ifeval.MAX_CHARS + 1), _gold("punctuation:no_comma", {}))
    assert (verdict, reason) == ("undecided", "the response has 400,001 characters; at most 400,000 are judged")


@pytest.mark.parametrize("piece", ["\n", "*", "[", "<<", "* ", "P.", "1. ", "...", '"', "第1", "\x00", "\ud800", "```"])
def test_hostile_responses_are_judged_in_linear_time(piece: str):
    # a quadratic search would take hours here
    defaults = {"count": 2, "relation": "at least", "text": "foo", "texts": ["foo"], "letter": "q", "language": "ko"}
    text = piece * (200_000 // len(piece))
    for name, kind in KINDS.items():
        args = {argument: defaults[wanted] for argument, wanted in kind.args.items()}
        assert judge(text, _gold(f"zh:{name}", args))[0] in ("right", "wrong")


@pytest.mark.parametrize("mode", ["strict", "loose"])
def test_agreement_with_the_reference_checker(mode: benchmark.Mode):
    pytest.importorskip("py3langid", reason="needs py3langid: pip install 'r1kit[language]'")
    if not (benchmark.DATA / "input_data.jsonl").is_file():
        pytest.skip(f"no graded responses at {benchmark.DATA}")
    same = []
    for row in benchmark.load_graded(benchmark.DATA, mode):
        followed = instructions_followed(row.response, row.gold, mode)
        same += [here == label for here, label in zip(followed, row.labels, strict=True)]
    assert len(same) == 834
    assert sum(same) >= 0.995 * len(same)
