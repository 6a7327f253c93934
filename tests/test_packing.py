"""Facts about packing: every sequence is in one micro-batch, and each label has the position that predicts it.

T packed tokens, N completion tokens.
"""

from __future__ import annotations

import random

import pytest
import torch

from r1kit.algo.packing import Packable, microbatches, pack


@pytest.mark.parametrize("seed", range(20))
def test_microbatches_hold_every_sequence_once_within_the_budget(seed: int):
    rng = random.Random(seed)
    lengths = [rng.randint(1, 60) for _ in range(rng.randint(1, 80))]
    budget = rng.choice((1, 40, 60, 100, 10_000))
    plan = microbatches(lengths, budget)
    assert sorted(i for part in plan for i in part) == list(range(len(lengths)))
    for part in plan:
        assert len(part) == 1 or sum(lengths[i] for i in part) <= budget
    order = [lengths[i] for part in plan for i in part]
    assert order == sorted(lengths, reverse=True)


def test_microbatches_by_hand():
    assert microbatches([3, 9, 5, 3, 20], budget=12) == [[4], [1], [2, 0, 3]]
    assert microbatches([6, 6, 6], budget=12) == [[0, 1], [2]]
    assert microbatches([2, 7, 2], budget=1) == [[1], [0], [2]]
    assert microbatches([], budget=12) == []


def test_microbatches_leave_no_room_for_the_next_sequence():
    """No part is cut off early: its first neighbour would not have fitted."""
    rng = random.Random(0)
    lengths = [rng.randint(1, 60) for _ in range(200)]
    plan = microbatches(lengths, 128)
    for part, following in zip(plan, plan[1:], strict=False):
        assert sum(lengths[i] for i in part) + lengths[following[0]] > 128


def test_pack_by_hand():
    batch = pack(
        [
            Packable((10, 11, 12, 13, 14), 3, advantage=2.0, weight=0.5, sampler_logprobs=(-0.1, -0.2)),
            Packable((20, 21, 22), 1, advantage=-1.0, weight=0.25, sampler_logprobs=(-0.3, -0.4)),
        ]
    )
    #  position  0  1  2  3  4 |  5  6  7
    #  token    10 11 12 13 14 | 20 21 22      13 is predicted at position 2, 14 at 3, 21 at 5, 22 at 6
    assert batch.lengths == [5, 3] and batch.num_sequences == 2
    assert batch.tokens_T.tolist() == [10, 11, 12, 13, 14, 20, 21, 22]
    assert batch.predict_N.tolist() == [2, 3, 5, 6]
    assert batch.labels_N.tolist() == [13, 14, 21, 22]
    assert batch.sequence_N.tolist() == [0, 0, 1, 1]
    assert batch.advantages_N.tolist() == [2.0, 2.0, -1.0, -1.0]
    assert batch.weights_N.tolist() == [0.5, 0.5, 0.25, 0.25]
    torch.testing.assert_close(batch.sampler_logprobs_N, torch.tensor([-0.1, -0.2, -0.3, -0.4]))
    assert batch.old_logprobs_N is None and batch.ref_logprobs_N is None


def test_without_a_prompt_all_tokens_but_the_first_are_labels():
    batch = pack([Packable((7, 8, 9), 0), Packable((5, 6), 0)])
    assert batch.labels_N.tolist() == [8, 9, 6]
    assert batch.predict_N.tolist() == [0, 1, 3]
    assert batch.sequence_N.tolist() == [0, 0, 1]


def test_a_sequence_without_completion_keeps_its_tokens_and_gives_no_labels():
    batch = pack([Packable((1, 2, 3), 3), Packable((4, 5), 1), Packable((6,), 0)])
    assert batch.lengths == [3, 2, 1]
    assert batch.tokens_T.tolist() == [1, 2, 3, 4, 5, 6]
    assert batch.labels_N.tolist() == [5] and batch.predict_N.tolist() == [3] and batch.sequence_N.tolist() == [1]
    only = pack([Packable((1, 2, 3), 3)])
    assert only.labels_N.shape == only.weights_N.shape == only.sequence_N.shape == (0,)


def test_the_token_at_predict_is_the_one_before_the_label():
    rng = random.Random(1)
    sequences = []
    for _ in range(30):
        tokens = tuple(rng.randrange(1000) for _ in range(rng.randint(1, 12)))
        sequences.append(Packable(tokens, rng.randint(0, len(tokens))))
    batch = pack(sequences)
    # The next packed token is the label itself, and belongs to the same sequence.
    assert torch.equal(batch.tokens_T[batch.predict_N + 1], batch.labels_N)
    owner_T = torch.repeat_interleave(torch.arange(len(sequences)), torch.tensor(batch.lengths))
    assert torch.equal(owner_T[batch.predict_N], batch.sequence_N)
    assert torch.equal(owner_T[batch.predict_N + 1], batch.sequence_N)
    assert len(batch.labels_N) == sum(len(s.tokens) - max(s.prompt_length, 1) for s in sequences)


def test_log_probs_that_do_not_fit_the_completion_are_a_fault():
    with pytest.raises(AssertionError):
        pack([Packable((1, 2, 3), 1, sampler_logprobs=(-0.5,))])
