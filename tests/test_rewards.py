"""Facts about rewards: what counts as formatted, what counts as right, and what nobody can trick."""

from __future__ import annotations

import json
import random
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from r1kit.rewards.accuracy import PREFERENCE_SCORERS, SCORERS, gold_fault, read_number, score_answer
from r1kit.rewards.countdown import evaluate
from r1kit.rewards.format import last_boxed, parse_completion
from r1kit.rewards.reasoning_gym import decode, encode
from r1kit.tasks import general

DATA = Path(__file__).parents[2] / "shared" / "data"
COUNTDOWN = {"numbers": [8, 3, 1], "target": 24}


def verdict(scorer: str, answer: str | None, gold: Any) -> str:
    return score_answer(scorer, answer, gold).verdict


# Format


@pytest.mark.parametrize(
    "text",
    [
        "<think>8*3=24</think><answer>8*3*1</answer>",
        " <think>\nwait, no\n</think>\n\n<answer> 24 </answer>\n",
        "<think>a < b > c</think><answer>x<y</answer>",
    ],
)
def test_well_formed_completions(text: str):
    parsed = parse_completion(text)
    assert parsed.format_ok and not parsed.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("8*3", "no <think>"),
        ("<think>8*3<answer>24</answer>", "no </think>"),
        ("a</think><answer>24</answer>", "no <think>"),
        ("<think>a</think>24", "no <answer>"),
        ("<think>a</think><answer>24", "no </answer>"),
        ("<think>a</think><think>b</think><answer>24</answer>", "2 times <think>"),
        ("<think>a</think><answer>1</answer><answer>24</answer>", "2 times <answer>"),
        ("<think>a<answer>24</answer></think>", "an answer tag stands before </think>"),
        ("<answer>24</answer><think>a</think>", "a tag stands before <think>"),
        ("</think>a<think><answer>24</answer>", "a tag stands before <think>"),
        ("<think>a</think></answer>24<answer>", "</answer> stands before <answer>"),
        ("Sure. <think>a</think><answer>24</answer>", "text before <think>"),
        ("<think>a</think> so <answer>24</answer>", "text between </think> and <answer>"),
        ("<think>a</think><answer>24</answer> done", "text after </answer>"),
        ("<think> \n</think><answer>24</answer>", "empty thought"),
        ("<think>a</think><answer> </answer>", "empty answer"),
    ],
)
def test_malformed_completions(text: str, reason: str):
    parsed = parse_completion(text)
    assert not parsed.format_ok
    assert parsed.reason == reason


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think><answer> 24 </answer>", "24"),
        ("<think>a</think><answer>24</answer> trailing words", "24"),
        ("<think>a</think><answer>1</answer> no, <answer>24</answer>", "24"),
        ("<answer>24</answer>", "24"),
        ("a</think><answer>24</answer>", "24"),
        ("<think>a</think><answer>24</answer><think>hm <answer>5</answer>", "24"),
        ("<think>a</think>So \\boxed{7} and then \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("<think>a</think><answer>It is $\\boxed{5}$.</answer>", "5"),
        ("<think>a</think><answer><answer>24</answer>", "24"),
        # Inside a thought, cut off, or missing: no answer.
        ("<think>maybe <answer>24</answer>", None),
        ("<think>maybe <answer>24</answer> no</think>", None),
        ("<think>\\boxed{24}</think>", None),
        ("<think>a</think><answer>8*3", None),
        ("<think>a</think>\\boxed{8*3", None),
        ("\\boxed{24}", None),
        ("<think>a</think><answer></answer>", None),
        ("<answer>24</answer><think>a</think>", None),
        ("<answer>24</answer><think>a", None),
        ("", None),
    ],
)
def test_answer_is_read_after_the_thought(text: str, answer: str | None):
    assert parse_completion(text).answer == answer


def test_thought_is_what_stands_between_the_tags():
    assert parse_completion("<think> 8*3 wait </think><answer>1</answer>").thought == "8*3 wait"
    assert parse_completion("<think>cut off").thought == "cut off"
    assert parse_completion("no opening tag</think>").thought == "no opening tag"
    assert parse_completion("nothing").thought == ""


def test_last_boxed_balances_braces():
    assert last_boxed(r"\boxed{1} or \boxed{\frac{a}{b}}") == r"\frac{a}{b}"
    assert last_boxed(r"\boxed{1} or \boxed{2") == "1"
    assert last_boxed("none") is None


# Accuracy


@pytest.mark.parametrize(
    "answer", ["8*3*1", "8*3/1", "3 * 8 * 1", "(8)*(3)*(1)", "8×3÷1", "８＊３＊１", "8*3*1=24", "-1*-8*3"]
)
def test_countdown_right(answer: str):
    assert verdict("countdown", answer, COUNTDOWN) == "right"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("8*3", "uses [3, 8], given [1, 3, 8]"),
        ("8*3*1*1", "uses [1, 1, 3, 8], given [1, 3, 8]"),
        ("24", "uses [24], given [1, 3, 8]"),
        ("8*3-1", "value 23, target 24"),
        ("83+1", "uses [1, 83], given [1, 3, 8]"),
        ("8*3*1=25", "not an expression"),
        ("8*(3+1", "a bracket is not closed"),
        ("8*3*1)", "')' is out of place"),
        ("8**3*1", "'*' is out of place"),
        ("8*3*", "ends too early"),
        ("8/(3-3)", "divides by zero"),
        ("8.0*3*1", "not an expression"),
        ("__import__('os')", "not an expression"),
        ("(" * 150 + "8" + ")" * 150, "longer than"),
        ("(" * 90 + "8" + ")" * 90, "brackets deep"),
        ("1" * 10**6, "longer than"),
    ],
)
def test_countdown_wrong(answer: str, reason: str):
    judgement = score_answer("countdown", answer, COUNTDOWN)
    assert judgement.verdict == "wrong"
    assert reason in judgement.reason


def test_countdown_is_exact_and_votes_by_its_expression():
    assert verdict("countdown", "8/(3-8/3)", {"numbers": [8, 3, 8, 3], "target": 24}) == "right"
    assert evaluate("1-2-3")[0] == -4 and evaluate("8/2/2")[0] == 2 and evaluate("2+3*4")[0] == 14
    assert score_answer("countdown", " 8 × 3 * 1 = 24", COUNTDOWN).extracted == "8*3*1"


@pytest.mark.parametrize("answer", ["23", " 23.0 ", "+23", "23.", "$23$", "x = 23", "46/2", "２３", "023"])
def test_number_right(answer: str):
    judgement = score_answer("number", answer, "23")
    assert judgement.verdict == "right"
    assert judgement.extracted == "23"


@pytest.mark.parametrize(
    "answer", ["24", "-23", "23 or 24", "1 23", "23 apples", "2,3", "23e0", "23/0", "9" * 10**6, "nan"]
)
def test_number_wrong(answer: str):
    assert verdict("number", answer, "23") == "wrong"


def test_numbers_read():
    assert read_number("-1,234.50") == -1234.5
    assert read_number("−7") == -7
    assert read_number("12,34") is None
    assert verdict("number", "0.5", "1/2") == "right"
    assert verdict("number", "0.33", "1/3") == "wrong"


def test_exact_ignores_case_and_spacing_only():
    assert verdict("exact", " New\n  York", "new york") == "right"
    assert verdict("exact", "New York.", "New York") == "wrong"


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("0.5", r"\frac{1}{2}", "right"),
        (r"$\frac12$", "1/2", "right"),
        ("1+x^2", "x^2+1", "right"),
        ("x=23", "23", "right"),
        (r"2, 1", r"\{1, 2\}", "right"),
        (r"The value is \boxed{5}", "5", "right"),
        (r"\text{Paris}", "Paris", "right"),
        ("10", r"10\text{ units}", "right"),
        ("(2, 1)", "(1, 2)", "wrong"),
        ("(1, 2)", "2", "wrong"),
        ("Pairs", "Paris", "wrong"),  # as a product of letters they are equal
        ("x^2-1", "x^2+1", "wrong"),
        (r"\sum_{i=1}^{9} i", "45", "wrong"),  # the problem, restated
        ("5", r"\frac{", "undecided"),
        ("5", "", "undecided"),
        ("9^{9^{9^{9}}}", "5", "wrong or undecided"),  # would compute for ever
        ("100000000!", "5", "wrong or undecided"),
        (r"\binom{100000000}{50000000}", "5", "wrong or undecided"),
        ("(x+y+z)^{150}", "5", "wrong or undecided"),
        ("1+" * 10**5 + "1", "5", "wrong or undecided"),
    ],
)
def test_math_on_a_thread(answer: str, gold: str, expected: str):
    """Off the main thread, where math-verify's own time limit breaks."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(verdict("math", answer, gold)))
    thread.start()
    thread.join(timeout=20)
    assert len(found) == 1 and found[0] in expected.split(" or ")


def test_math_agrees_with_published_grades():
    file = DATA / "graded_outputs" / "skythought_qwen2.5-14b-instruct_math500.jsonl"
    if not file.exists():
        pytest.skip(f"no {file}")
    rows = [json.loads(line) for line in file.read_text().split("\n") if line]
    pairs = [(verdict("math", row["pred"][0], row["gt"]), row["score"][0]) for row in rows]
    assert len(pairs) == 500
    assert sum((found == "right") == graded for found, graded in pairs) >= 495
    assert not [found for found, graded in pairs if found == "right" and not graded]


def test_no_answer_is_wrong_and_unreadable_gold_undecided():
    golds: dict[str, Any] = {
        "countdown": COUNTDOWN,
        "reasoning_gym": reasoning_gym_gold(),
        "choice": "B",
        "ifeval": {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
        "code": {"stdio": [{"input": "1", "output": "1"}]},
        "knights": {"Zoey": "knight", "Owen": "knave"},
    }
    for scorer in [scorer for scorer in SCORERS if scorer not in PREFERENCE_SCORERS]:
        found = score_answer(scorer, None, golds.get(scorer, "23"))
        assert found.verdict == "wrong" and found.reason in ("no <answer>", "empty response")
        assert verdict(scorer, " ", golds.get(scorer, "23")) == "wrong"
        for gold in (None, {}, [], True, "  "):
            assert verdict(scorer, str(gold), gold) == "undecided"
            assert "give" in gold_fault(scorer, gold)
    assert verdict("countdown", "8", {"numbers": [8], "target": None}) == "undecided"
    with pytest.raises(ValueError, match="scorers are exact, number, math, choice, ifeval, code, countdown"):
        score_answer("maths", "1", "1")


def test_general_prompts_are_judged_by_their_rules_or_not_at_all():
    problem = general.make_problem(random.Random(3))
    good, poor = (general.respond(problem, random.Random(1), good=quality) for quality in (True, False))
    assert verdict(problem.scorer, good, problem.gold) == "right", good
    assert verdict(problem.scorer, "Purple.", problem.gold) == "wrong", poor
    assert verdict("helpful", good, None) == verdict("safety", good, {}) == "undecided"


# reasoning-gym's scorers


def reasoning_gym_gold() -> dict[str, Any]:
    metadata = {"source_dataset": "chain_sum", "source_index": 0}
    return {"dataset": "chain_sum", "config": {}, "entry": {"question": "1+2?", "answer": "3", "metadata": metadata}}


def test_reasoning_gym_scores_by_their_rule():
    gold = reasoning_gym_gold()
    assert verdict("reasoning_gym", "3", gold) == "right"
    assert verdict("reasoning_gym", "4", gold) == "wrong"
    partly = score_answer("reasoning_gym", "it is 3", gold)
    assert partly.verdict == "wrong" and "score 0.14" in partly.reason


def test_reasoning_gym_never_runs_code_in_an_answer(tmp_path: Path):
    """puzzle24's scorer hands the answer to sympy's eval."""
    metadata = {"source_dataset": "puzzle24", "source_index": 0, "numbers": [1, 2, 3, 4]}
    gold = {
        "dataset": "puzzle24",
        "config": {},
        "entry": {"question": "24?", "answer": "1*2*3*4", "metadata": metadata},
    }
    assert verdict("reasoning_gym", "4*3*2*1", gold) == "right"
    target = tmp_path / "written"
    for attack in (
        f"open('{target}', 'w')",
        f"().__class__ or open ('{target}','w')",
        "9**9**9**9",
        "9**(9**9)",
        "9**99999",
    ):
        assert verdict("reasoning_gym", attack, gold) == "undecided"
    assert not target.exists()


def test_reasoning_gym_scorer_that_fails_is_undecided():
    metadata = {"source_dataset": "prime_factorization", "source_index": 0, "number": 6, "factors": [2, 3]}
    gold = {
        "dataset": "prime_factorization",
        "config": {},
        "entry": {"question": "6?", "answer": "2 × 3", "metadata": metadata},
    }
    assert verdict("reasoning_gym", "2 × 3", gold) == "right"
    judgement = score_answer("reasoning_gym", "two and three", gold)
    assert judgement.verdict == "undecided" and "ValueError" in judgement.reason


def test_entries_survive_json():
    entry = {
        "grid": ((1, 2), (3, 4)),
        "colors": {1: "a", 2: None},
        "half": Fraction(1, 2),
        "plain": [1, "x", True],
    }
    stored = json.loads(json.dumps(encode(entry)))
    assert stored != entry
    assert decode(stored) == entry
    with pytest.raises(TypeError, match="a set cannot be stored"):
        encode({"a": {1, 2}})
