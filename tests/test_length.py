"""Length rewards against numbers worked out by hand."""

import pytest

from r1kit.rewards.length import cosine_length, overlong_penalty


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, 0.0),
        (15, 0.0),  # cap - buffer
        (16, -0.1),  # (16 - 15) / 5 = 0.2 of the penalty 0.5
        (18, -0.3),  # 3 / 5 of it
        (20, -0.5),  # the cap
        (25, -0.5),  # beyond
    ],
)
def test_overlong_penalty_of_dapo_eq_13(length, expected):
    assert overlong_penalty(length, cap=20, buffer=5, penalty=0.5) == pytest.approx(expected)


def test_overlong_penalty_without_buffer_is_off():
    assert overlong_penalty(20, cap=20, buffer=0, penalty=1.0) == 0.0


NUMBERS = {"right_short": 2.0, "right_long": 1.0, "wrong_short": -10.0, "wrong_long": 0.0, "exceeded": -3.0}


@pytest.mark.parametrize(
    ("num_tokens", "right", "expected"),
    [
        (0, True, 2.0),
        (25, True, 1 + (1 + 2**-0.5) / 2),  # cos 45 degrees
        (50, True, 1.5),  # half way between the two
        (75, True, 1 + (1 - 2**-0.5) / 2),
        (0, False, -10.0),
        (50, False, -5.0),
        (75, False, -10 * (1 - 2**-0.5) / 2),
        (100, True, -3.0),  # the cap
        (100, False, -3.0),
        (130, True, -3.0),
    ],
)
def test_cosine_length_by_hand(num_tokens, right, expected):
    assert cosine_length(num_tokens, right, 100, **NUMBERS) == pytest.approx(expected)


def test_right_and_short_is_best_and_wrong_gains_by_length():
    right = [cosine_length(n, True, 100) for n in range(100)]
    wrong = [cosine_length(n, False, 100) for n in range(100)]
    assert right == sorted(right, reverse=True) and wrong == sorted(wrong)
    assert min(right) > max(wrong)
    assert cosine_length(100, True, 100) < min(right)


@pytest.mark.parametrize(("num_tokens", "max_tokens"), [(1, 0), (-1, 10), (1, -5)])
def test_lengths_that_make_no_sense_are_refused(num_tokens, max_tokens):
    with pytest.raises(ValueError, match=f"num_tokens is {num_tokens} and max_tokens {max_tokens}; give"):
        cosine_length(num_tokens, True, max_tokens)
