"""Facts about the learner's log-probs: exact in chunks, and logits of all tokens never exist together.

N completion tokens, D width, V vocabulary.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from r1kit.algo.packing import Packable, pack
from r1kit.model.transformer import Transformer
from r1kit.model.unembed import Unembed
from r1kit.training import learner as learner_module
from r1kit.training.learner import LocalLearner, completion_logprobs
from tiny import (
    HIDDEN,
    OPTIM,
    VOCAB,
    make_learner,
    make_sequences,
    nll,
    packed_hidden,
    perturb,
    random_tokens,
    tiny_config,
    tiny_model,
    tiny_tokenizer,
)


class Capped(Transformer):
    """Its logits are scaled and capped, and its head has a bias."""

    def __init__(self) -> None:
        super().__init__(tiny_config(tie=False))
        self.init_weights(torch.Generator().manual_seed(0))
        self.head_bias = torch.nn.Parameter(torch.zeros(VOCAB))
        perturb(self)

    @property
    def unembed(self) -> Unembed:
        return Unembed(self.lm_head, self.head_bias, 0.8, 2.0)


MODELS = {"plain": lambda: tiny_model(tie=False), "capped": Capped}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 7, 64, 4096])
@pytest.mark.parametrize("kind", MODELS)
def test_chunked_logprobs_equal_log_softmax(kind: str, chunk: int, temperature: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learner_module, "CHUNK", chunk)
    model, batch = MODELS[kind](), pack(make_sequences())
    probe_N = torch.randn(len(batch.labels_N), generator=torch.Generator().manual_seed(0))

    def result(logprobs_N: Tensor) -> list[Tensor]:
        return [logprobs_N, *torch.autograd.grad((logprobs_N * probe_N).sum(), list(model.parameters()))]

    logprobs_N, entropy_N = completion_logprobs(model, batch, temperature)
    sequences = [list(sequence.tokens) for sequence in make_sequences()]
    logits_NV = packed_hidden(model, sequences)[batch.predict_N] @ model.lm_head.T
    if isinstance(model, Capped):
        logits_NV = 2.0 * torch.tanh(0.8 * (logits_NV + model.head_bias) / 2.0)
    logits_NV = logits_NV / temperature
    log_softmax_NV = logits_NV.log_softmax(-1)
    expected = result(log_softmax_NV.gather(-1, batch.labels_N[:, None])[:, 0])
    for found, wanted in zip(result(logprobs_N), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(entropy_N, -(log_softmax_NV.exp() * log_softmax_NV).sum(-1), rtol=1e-4, atol=1e-5)
    assert not entropy_N.requires_grad


class WatchVocabulary(TorchDispatchMode):
    """Rows of every tensor with a vocabulary dimension that any operation makes, the backward pass's too."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        result = func(*args, **(kwargs or {}))
        self.rows += [t.numel() // VOCAB for t in tree_leaves(result) if isinstance(t, Tensor) and VOCAB in t.shape]
        return result


@pytest.mark.parametrize("kind", MODELS)
def test_logits_of_all_tokens_never_exist_together(kind: str, monkeypatch: pytest.MonkeyPatch):
    def rows_with(chunk: int) -> list[int]:
        monkeypatch.setattr(learner_module, "CHUNK", chunk)
        learner = LocalLearner(MODELS[kind](), tiny_tokenizer(), OPTIM)
        with WatchVocabulary() as watch:
            learner.forward_backward(batch, nll)
            learner.logprobs(batch)
        return watch.rows

    batch = pack(make_sequences())
    num_labels = len(batch.labels_N)
    assert num_labels > 60 and num_labels != HIDDEN
    rows = rows_with(8)
    assert max(rows) == HIDDEN, "only the head [V, D] and its gradient are larger than a chunk"
    assert rows.count(8) > 3 * (num_labels // 8), "forward, backward and the log-probs without gradient"
    assert num_labels in rows_with(4096), "this watch would have seen it"


def test_a_batch_without_completion_tokens_has_no_logprobs_and_no_gradient():
    learner = make_learner()
    batch = pack([Packable(tuple(random_tokens(5)), 5)])
    assert learner.logprobs(batch).shape == (0,)
    metrics = learner.forward_backward(batch, nll)
    assert metrics["loss"] == 0 and metrics["entropy"] == 0
    assert learner.optim_step(1e-3) == 0
