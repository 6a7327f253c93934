"""The letter that a completion settles on: phrasings and hedges of models, and real MMLU questions."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from r1kit.rewards.choice import choice_fault, extract_choice, judge

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import choice as benchmark  # type: ignore[import-not-found]  # noqa: E402 - benchmarks/ is no package

CHOICES = ["2.5", "3.5", "mitochondria", "cell wall"]

STATED = r"""
B | The answer is (B) / **B** / Answer: B / \boxed{B} / \boxed{\text{B}} / $\boxed{\textbf{(B)}}$ / \boxed{\boxed{B}}
B | b / 答案是B / 选B / 正确答案为（B） / 故选：B。 / 答案：Ｂ / 【答案】B / B项正确 / 答案選B / 正确选项是 **B**。
B | <answer>B</answer> / B) 3.5 / (b) / B. / "B" / [B] / `B` / Option B / > B / B: 3.5 / Ⓑ / ANSWER: **B** / Ans: B
B | \boxed{B) 3.5} / \boxed{\text{B. } 3.5} / \[\boxed{\text{(B) 3.5}}\] / the answer is \(\boxed{\mathrm{B}}\)
B | 3.5 / The answer is 3.5. / Answer: 3.5, because it fits / \boxed{3.5} / **3.5** / 答案是3.5
C | Mitochondria. / The answer is the mitochondria. / The correct answer is "mitochondria".
A | The answer is A. / The answer is A because cells divide. / the answer is a / answer: a, since 2.5 is smallest
B | B is wrong. No: the answer is B / The answer is B, C is wrong. / The answer is B, not C. / Answer: B\n\nA is wrong.
C | B is wrong, so the answer is C / The answer is not B but C / The answer is B. Wait, the answer is C. / A不对故选C
C | \boxed{B} would be tempting. \boxed{C} / The answer is B or C. Actually the answer is C. / 不是B，答案是C
C | If the answer is B, x is 3. So the answer must be C. / 如果选B，则矛盾，所以选C / 选B还是选C？应选C
C | The correct answer to the question of which option is best is C. / I'd go with option C / Not A, so pick C.
C | The correct option among A, B, C and D is clearly C. / That's why the answer is C. / Hence (C). / Only C is right
C | Option C is therefore correct. / My choice is C / 答案（C） / 选项C是正确答案 / It has to be C: the answer will be C
D | A正确，B正确，C错误，故选D / D is correct, A is not. / A: no\nB: no\nD: yes\n\nAnswer: D / D is the answer.
D | A) 2.5\nB) 3.5\nC) mitochondria\nD) cell wall\n\nD / # Answer\nD / **Final Answer**\n\n**D** / Answer:\nD) cell wall
"""
NOT_STATED = r"""
A good answer needs care. / The answer is A good one / I am an AI. / E. coli grows. / A: Paris / Vitamin A is the best.
The answer is not B. / I don't think the answer is B. / Is the answer B? / If the answer is B, then x is 3. / not B
B is incorrect. / The incorrect answer is B / 答案不是B / 不选B / 不能选B / 如果选B，则矛盾 / 答案是B吗？ / Don't pick B
The answer is A or B / The answer is A and B / A, B, C, D are possible / A/B / \boxed{A, B} / \boxed{A or B} / 选A或B
A) 2.5\nB) 3.5\nC) mitochondria\nD) cell wall / Choose A, B, C or D. / Answer: [A/B/C/D] / Answer: $LETTER / ABCD
Answer:\nA) 2.5\nB) 3.5\nC) mitochondria\nD) cell wall / Answer: A) 2.5 B) 3.5 C) mitochondria D) cell wall
A is correct. B is correct. / A\nB\nC\nD / The answer is 3.5 or 2.5 / \boxed{7} / В / maybe / 选项A、B、C、D都可能
"""


def _cases(text: str) -> list[str]:
    return [case.strip().replace("\\n", "\n") for case in text.split(" / ")]


@pytest.mark.parametrize(
    ("letter", "text"),
    [(line[0], text) for line in STATED.strip().split("\n") for text in _cases(line[3:])],
)
def test_the_last_stated_choice_is_found(letter: str, text: str):
    assert judge(text, {"answer": letter, "choices": CHOICES}) == ("right", f"chose {letter}, gold {letter}", letter)


@pytest.mark.parametrize("text", [text for line in NOT_STATED.strip().split("\n") for text in _cases(line)])
def test_what_names_no_single_choice_is_wrong_whatever_the_gold(text: str):
    for letter in "ABCD":
        verdict, reason, found = judge(text, {"answer": letter, "choices": CHOICES})
        assert (verdict, found) == ("wrong", "")
        assert "named, gold" in reason


@pytest.mark.parametrize("text", ["The answer is A only", r"\boxed{A only}", "A only", "Answer: a only."])
def test_a_choice_whose_text_begins_with_a_letter_is_read_as_text(text: str):
    assert extract_choice(text, ["B only", "C only", "A and B", "A only"]) == "D"
    assert extract_choice("The answer is A and B", ["B only", "C only", "A and B", "A only"]) == "C"


def test_a_letter_beats_a_text_that_is_the_same_letter():
    assert extract_choice("The answer is B.", ["D", "C", "B", "A"]) == "B"


def test_a_text_that_two_choices_share_is_no_choice():
    assert not extract_choice("The answer is red", ["red", "Red", "blue"])


def test_the_longest_choice_is_the_one_quoted():
    assert extract_choice("The answer is 3.5", ["3", "3.5", "35"]) == "B"
    assert extract_choice("The answer is 3.", ["3", "3.5", "35"]) == "A"
    assert extract_choice("The answer is 3.57", ["3", "3.5", "35"]) is None


def test_choices_that_carry_their_labels_are_compared_without():
    assert extract_choice("The answer is blue.", ["A. red", "B. blue"]) == "B"


def test_letters_beyond_the_choices_are_no_choices():
    assert extract_choice("The answer is J.", 10) == "J"
    assert extract_choice("The answer is J.", 4) is None
    assert extract_choice("The answer is B. I mean it.", 10) == "B"


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("AC", "AC"),
        ("答案：A、C", "AC"),
        ("故选ACD。", "ACD"),
        ("The correct answers are A and C.", "AC"),
        ("选C和A", "AC"),
    ]
    + [(r"\boxed{A, C}", "AC"), ("The answer is A", "A"), ("The answer is A or C", ""), ("A and C are correct.", "AC")],
)
def test_several_letters_for_a_gold_of_several(text: str, letters: str):
    assert extract_choice(text, 4, multiple=True) == letters
    assert judge(text, "AC")[0] == ("right" if letters == "AC" else "wrong")


def test_an_option_that_says_correct_is_still_an_option():
    options = "A) may vary\nB) is correct for men\nC) is best treated early\nD) never occurs"
    assert extract_choice(options, 4) is None
    assert extract_choice(options, ["may vary", "is correct for men", "is best treated early", "never occurs"]) is None


def test_several_letters_are_wrong_where_one_is_asked_for():
    assert judge("The answer is B. Final answer: AB", "B")[0] == "wrong"


def test_nothing_in_the_thought_counts():
    assert judge("<think>The answer is C</think>The answer is B", "B")[0] == "right"
    assert judge("The answer is C</think>**B**", "B")[0] == "right"  # the prompt opened the thought
    assert judge("<think>The answer is B.</think>", "B") == ("wrong", "no answer, gold B", "")
    assert judge("<think>The answer is B.", "B") == ("wrong", "the thought is not closed, gold B", "")
    assert judge("<think>x</think>B<think>The answer is B", "B")[0] == "wrong"


def test_the_last_answer_tag_is_read():
    assert judge("<answer>A</answer> no <answer>B</answer> C", "B")[0] == "right"
    assert judge("The answer is B. <answer> </answer>", "B")[0] == "wrong"


@pytest.mark.parametrize("gold", ["B", "b", "(B)", " B. ", "AC", "A, C", {"answer": "B", "choices": CHOICES}])
def test_golds_that_can_be_used(gold: object):
    assert choice_fault(gold) == ""


@pytest.mark.parametrize(
    ("gold", "told"),
    [
        (1, "a number may count from 0 or from 1"),
        (True, "give the letter"),
        (None, "give a letter such as 'B'"),
        ("", "give a letter such as 'B'"),
        ("Paris", "is 'Paris'"),
        ("BB", "is 'BB'"),
        (["B"], "give a letter"),
        ({"choices": CHOICES}, "is 'None'"),
        ({"answer": 1, "choices": CHOICES}, "is the number 1"),
        ({"answer": "3.5", "choices": CHOICES}, "the text of a choice; give its letter, 'B'"),
        ({"answer": "E", "choices": CHOICES}, "is 'E' with 4 choices; give a letter from A to D"),
        ({"answer": "B", "choices": "AB"}, "give a list of 2 to 26 texts"),
        ({"answer": "A", "choices": ["x"]}, "give a list of 2 to 26 texts"),
        ({"answer": "A", "choices": ["x", None]}, "give a list of 2 to 26 texts"),
    ],
)
def test_a_gold_that_cannot_be_used_is_undecided_and_says_why(gold: object, told: str):
    assert told in choice_fault(gold)
    assert judge("The answer is B", gold) == ("undecided", f"gold {choice_fault(gold)}", "")


def test_fewer_than_two_choices_are_an_error():
    with pytest.raises(ValueError, match="there are 1 choices; give 2 to 26"):
        extract_choice("A", 1)


@pytest.mark.parametrize(
    "piece",
    [
        "answer is ",
        "answer:",
        "so ",
        "\\boxed{",
        "\\text{",
        "选",
        "答案是",
        "A or ",
        "(",
        "*",
        "\n",
        "<think>",
        "\x00",
        "\ud800",
        "ﷺ",
    ],
)
def test_hostile_texts_are_read_in_linear_time(piece: str):
    # a quadratic search would take hours here
    assert judge(piece * 100_000, {"answer": "B", "choices": CHOICES})[0] == "wrong"


def test_every_phrasing_over_real_questions():
    if not benchmark.DATA.is_file():
        pytest.skip(f"no MMLU at {benchmark.DATA}")
    questions = benchmark.load_questions(benchmark.DATA)
    random.Random(1).shuffle(questions)
    assert len(questions) == 14_042
    missed = []
    for question in questions[:100]:
        gold = {"answer": question.letter, "choices": question.choices}
        quoting = benchmark.QUOTING if benchmark.is_distinct(question) else []
        for phrasing in [*benchmark.PHRASINGS, *quoting, *benchmark.NOTHING]:
            text, expected = benchmark.completion(question, phrasing)
            if judge(text, gold)[2] != expected:
                missed.append((phrasing, text, expected))
    assert missed == []
