"""The repetition penalty: counted by hand, and what it makes of loops and of plain writing."""

import pytest

from r1kit.rewards.repetition import repeated_share, repetition_penalty


@pytest.mark.parametrize(
    ("text", "ngram", "share"),
    [
        ("a b c d", 1, 0),
        ("a b a b", 1, 0.5),  # a, b, then both again
        ("a b a b", 2, 1 / 3),  # ab ba ab
        ("A b a B", 2, 1 / 3),  # case
        ("a, b; a, b", 2, 2 / 6),  # signs are units: a, ,b b; ;a a, ,b
        ("不对不对", 2, 1 / 3),  # characters: 不对 对不 不对
        ("不对no不对", 2, 1 / 4),
        ("いいえ、いいえ", 3, 1 / 5),
        ("a b", 3, 0),  # shorter than an n-gram
        ("", 1, 0),
        ("  \n\t ", 1, 0),
    ],
)
def test_share_of_repeated_ngrams_by_hand(text, ngram, share):
    assert repeated_share(text, ngram) == pytest.approx(share)
    assert repetition_penalty(text, ngram=ngram, max_penalty=0.5) == pytest.approx(-0.5 * share)


@pytest.mark.parametrize("loop", ["no ", "no,", "a", "=", "不对", "ไม่", "1, 2, 3; ", "Wait, let me check that again. "])
def test_loops_lose_nearly_all(loop):
    assert repetition_penalty(loop * 2000) < -0.98


@pytest.mark.parametrize(
    "text",
    [
        "First 8*3 = 24. Then 24 - 1 = 23, which is no. So 24 / 1 = 24, and that is the number we were asked for.",
        "先算八乘以三等于二十四，再减去一得到二十三，不对。所以二十四除以一等于二十四，这就是题目要求的数。",
        " ".join(f"step {n} gives {n * n + 1} apples;" for n in range(200)),
    ],
)
def test_plain_writing_loses_nothing(text):
    assert repetition_penalty(text) == 0


def test_more_repetition_costs_more():
    once = " ".join(f"w{n}" for n in range(50))
    costs = [repetition_penalty(" ".join([once] * times)) for times in (1, 2, 4, 8)]
    assert costs == sorted(costs, reverse=True) and costs[0] == 0 and costs[-1] > -1


@pytest.mark.parametrize(("ngram", "max_penalty"), [(0, 1.0), (3, -1.0)])
def test_numbers_that_make_no_sense_are_refused(ngram, max_penalty):
    with pytest.raises(ValueError, match=f"ngram is {ngram} and max_penalty {max_penalty}; give"):
        repetition_penalty("a b c", ngram=ngram, max_penalty=max_penalty)
