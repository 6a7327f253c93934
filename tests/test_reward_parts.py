"""What a completion earns: the reward and its parts."""

from __future__ import annotations

from typing import Any

import pytest

from r1kit.config import RewardConfig
from r1kit.rewards.reflection import count_reflection_words
from r1kit.rewards.reward import score_completion, score_text
from r1kit.types import Completion, Message, Problem

COUNTDOWN = {"numbers": [8, 3, 1], "target": 24}


def problem() -> Problem:
    return Problem(
        "countdown:1-3-8:24", "countdown", (Message("user", "Make 24 from 8, 3, 1."),), COUNTDOWN, "countdown"
    )


def completion(text: str) -> Completion:
    return Completion((), (), text, "stop")


def test_reward_is_accuracy_plus_format():
    def reward(text: str, *, accuracy: float = 1, format: float = 1) -> float:
        cfg = RewardConfig(accuracy_weight=accuracy, format_weight=format)
        return score_completion(problem(), completion(text), "", cfg).reward

    assert reward("<think>a</think><answer>8*3*1</answer>") == 2
    assert reward("<think>a</think><answer>8*3-1</answer>") == 1
    assert reward("<answer>8*3*1</answer>") == 1
    assert reward("8*3*1") == 0
    assert reward("<think>a</think><answer>8*3*1</answer>", accuracy=3, format=0.5) == 3.5


def test_a_prefilled_think_tag_counts_for_the_format():
    text = "8*3=24 yes</think><answer>8*3*1</answer>"
    prefilled = score_completion(problem(), completion(text), "<think>\n", RewardConfig())
    assert prefilled.parts == {"accuracy": 1.0, "format": 1.0}
    bare = score_completion(problem(), completion(text), "", RewardConfig())
    assert bare.parts == {"accuracy": 1.0, "format": 0.0}


def test_a_failed_completion_is_undecided_and_unrewarded():
    failed = Completion((), (), "", "error", error="server closed")
    score = score_completion(problem(), failed, "", RewardConfig())
    assert (score.reward, score.verdict, score.reason) == (0.0, "undecided", "no completion: server closed")


def test_an_undecided_answer_keeps_its_format_reward():
    unreadable = Problem("p", "t", (Message("user", "?"),), None, "number")
    score = score_completion(unreadable, completion("<think>a</think><answer>1</answer>"), "", RewardConfig())
    assert (score.reward, score.verdict) == (1.0, "undecided")


CODE = {"stdio": [{"input": "1\n", "output": "1\n"}, {"input": "2\n", "output": "2\n"}]}


@pytest.mark.parametrize(
    ("scorer", "gold", "text", "expected"),
    [
        ("math", "5", "So the answer is $\\boxed{5}$.", "right"),
        ("math", "5", "5", "right"),
        ("math", "5", "<think>\\boxed{5}", "wrong"),
        ("math", "5", "<think>\\boxed{5}</think>It is \\boxed{6}.", "wrong"),
        ("math", "5", "\\boxed{6}</think><answer>5</answer>", "right"),
        ("number", "23", "The answer is 23.", "right"),
        ("exact", "New York", "new  york", "right"),
        ("countdown", COUNTDOWN, "8*3*1", "right"),
        ("choice", "B", "Option A is wrong. The answer is (B).", "right"),
        ("choice", "B", "<think>The answer is (B).</think>The answer is (C).", "wrong"),
        ("choice", {"answer": "B", "choices": ["red", "blue"]}, "<think>a</think><answer>B</answer>", "right"),
        ("knights", {"Zoey": "knight", "Owen": "knave"}, "Zoey is a knight.\nOwen is a knave.", "right"),
        ("code", CODE, "```python\nprint(input())\n```", "right"),
        ("code", CODE, "<think>```python\nprint(input())\n```</think>No.", "wrong"),
        (
            "ifeval",
            {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
            "<think>a, b</think>Yes.",
            "right",
        ),
        (
            "ifeval",
            {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
            "<think>a</think>Yes, no.",
            "wrong",
        ),
    ],
)
def test_completions_of_any_form(scorer: str, gold: Any, text: str, expected: str):
    score = score_text(Problem("p", "t", (Message("user", "?"),), gold, scorer), text)
    assert (score.verdict, score.reward) == (expected, float(expected == "right")), score.reason
    assert score.parts == {"accuracy": score.reward}


def test_a_program_may_earn_the_share_of_its_tests():
    half = completion("<think>a</think>\n```python\nprint(1)\n```")
    code = Problem("p", "t", (Message("user", "?"),), CODE, "code")
    share, whole = RewardConfig(format="r1", code_share=True), RewardConfig(format="r1")
    assert score_completion(code, half, "", share).parts == {"accuracy": 0.5, "format": 1.0}
    assert score_completion(code, half, "", share).verdict == "wrong"
    assert score_completion(code, half, "", whole).parts == {"accuracy": 0.0, "format": 1.0}


def test_repetition_and_length_are_parts_of_the_reward():
    def parts(text: str, num_tokens: int, **weights: Any) -> tuple[dict[str, float], float]:
        one = Completion((0,) * num_tokens, (), text, "stop")
        score = score_completion(problem(), one, "", RewardConfig(format_weight=0, **weights))
        return {name: score.parts[name] for name in ("repetition", "length") if name in score.parts}, score.reward

    right, wrong = (f"<think>a</think><answer>8*3{end}</answer>" for end in ("*1", "-1"))
    assert parts(right, 5) == ({}, 1.0)
    cosine: dict[str, Any] = {"length": "cosine", "length_max": 100, "length_weight": 2.0}
    assert parts(right, 0, **cosine) == ({"length": 1.0}, 3.0)
    assert parts(wrong, 0, **cosine) == ({"length": -0.5}, -1.0)
    assert parts(right, 100, **cosine) == ({"length": -0.5}, 0.0)
    again = "<think>" + "on and on it goes " * 100 + "</think><answer>8*3*1</answer>"
    found, reward = parts(again, 5, repetition_weight=0.5, repetition_ngram=5)
    assert -1 < found["repetition"] < -0.9 and reward == 1 + 0.5 * found["repetition"]
    with pytest.raises(ValueError, match="length-max is 0; give its tokens"):
        RewardConfig(length="cosine")
    with pytest.raises(ValueError, match="give num_tokens"):
        score_text(problem(), right, RewardConfig(**cosine))


def test_an_undecided_answer_has_no_length_reward():
    unreadable = Problem("p", "t", (Message("user", "?"),), None, "number")
    cfg = RewardConfig(length="cosine", length_max=100)
    score = score_completion(unreadable, completion("<think>a</think><answer>1</answer>"), "", cfg)
    assert score.verdict == "undecided" and score.parts["length"] == 0


# Reflection


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Wait, wait. WAIT", 3),
        ("waiting checks butter rechecked recheck", 0),
        ("wait mistake however but retry error verify wrong evaluate check", 10),
        ("24-1=23 no wait\n8+3=11不对", 2),
        ("等wait等等", 2),
        ("等等，不对。但是然而重试错误验证检查", 8),
        ("但不是。算错", 2),
        ("不错，没错，不但好", 0),
        ("", 0),
    ],
)
def test_reflection_words(text: str, count: int):
    assert count_reflection_words(text) == count
