"""The losses of reward models (R1 V2 section 3.1.1): pairwise for helpfulness, point-wise for safety.

S texts of one micro-batch. Denominators count the whole optimizer step and are passed in, so that values and metrics of
micro-batches add up to the step's.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

TensorMetrics = dict[str, Tensor]


def pairwise_loss(chosen_S: Tensor, rejected_S: Tensor, *, num_pairs: int) -> tuple[Tensor, TensorMetrics]:
    """-log sigmoid(chosen - rejected), the Bradley-Terry likelihood of the choice (InstructGPT eq. 1), / num_pairs.

    chosen_S, rejected_S: scores of the two responses of each pair. num_pairs: pairs of the whole step.

    Metrics: "loss/preference"; "accuracy", the share of pairs whose chosen response scores higher (a tie is half of
    one); "margin", the mean of chosen - rejected.
    """
    margin_S = chosen_S - rejected_S
    loss = -F.logsigmoid(margin_S).sum() / num_pairs
    right_S = (margin_S.detach().sign() + 1) / 2
    return loss, {
        "loss/preference": loss.detach(),
        "accuracy": right_S.sum() / num_pairs,
        "margin": margin_S.detach().sum() / num_pairs,
    }


def pointwise_loss(logits_S: Tensor, safe_S: Tensor, *, num_responses: int) -> tuple[Tensor, TensorMetrics]:
    """Binary cross-entropy of P(safe) = sigmoid(logit) against the labels, / num_responses.

    safe_S: 1 for safe, 0 for unsafe. num_responses: labelled responses of the whole step.

    Metrics: "loss/preference"; "accuracy", the share on the right side of P = 1/2 (on the line: half of one).
    """
    loss = F.binary_cross_entropy_with_logits(logits_S, safe_S, reduction="sum") / num_responses
    right_S = (logits_S.detach().sign() * (2 * safe_S - 1) + 1) / 2
    return loss, {"loss/preference": loss.detach(), "accuracy": right_S.sum() / num_responses}
