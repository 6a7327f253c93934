"""The GRPO objective and its variants (R1 eq. 1-2, DeepSeekMath eq. 3-4, DAPO, Dr.GRPO, GSPO, TIS) as pure functions.

Tensors are packed: flat over the completion tokens of one micro-batch. N completion tokens, S completions of the
micro-batch; `sequence_N` says which completion a token belongs to, and a completion is never split. Denominators count
the whole optimizer step over all ranks and are passed in, so that losses, gradients and metrics of micro-batches add
up to the step's. All log-probs are natural logs under the sampling temperature.
"""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from torch import Tensor

from r1kit.config import AlgoConfig

Aggregation = Literal["sequence", "token", "constant"]
Ratio = Literal["token", "sequence"]
TensorMetrics = dict[str, Tensor]


def grpo_loss(
    logprobs_N: Tensor,
    old_logprobs_N: Tensor,
    ref_logprobs_N: Tensor | None,
    advantages_N: Tensor,
    weights_N: Tensor,
    sequence_N: Tensor,
    num_sequences: int,
    algo: AlgoConfig,
    sampler_logprobs_N: Tensor,
    *,
    num_tokens: int,
) -> tuple[Tensor, TensorMetrics]:
    """R1 eq. 1 (DeepSeekMath eq. 3), negated: clipped policy gradient plus `kl_coef` x the KL to the reference.

    logprobs_N: current policy, with gradient. old_logprobs_N: learner's policy when the rollout was made.
    sampler_logprobs_N: the same policy as the sampler computed it. weights_N: `token_weights(...)[sequence_N]`.
    num_sequences: completions of this micro-batch. num_tokens: completion tokens of the whole step.

    Metrics: "loss/policy" (sums to the step's policy loss) and token means over the step: "ratio/clipped",
    "ratio/mean", "kl/sampler" (how far the sampler is from the learner), and "kl/reference" when there is a reference.
    Non-finite inputs make the loss non-finite. Raises ValueError when kl_coef > 0 without reference log-probs.
    """
    is_weights_N = None
    if algo.truncated_is > 0:
        is_weights_N = truncated_is_weights(old_logprobs_N, sampler_logprobs_N, algo.truncated_is)
    loss, metrics = policy_loss(
        logprobs_N,
        old_logprobs_N,
        advantages_N,
        weights_N,
        sequence_N,
        num_sequences,
        ratio=algo.ratio,
        clip_low=algo.clip_low,
        clip_high=algo.clip_high,
        num_tokens=num_tokens,
        is_weights_N=is_weights_N,
    )
    metrics["loss/policy"] = loss.detach()
    # The tokens were drawn by the sampler, so k3's samples come from it: an estimate of KL(sampler || learner).
    metrics["kl/sampler"] = kl_k3(sampler_logprobs_N, old_logprobs_N).detach().sum() / max(num_tokens, 1)
    if ref_logprobs_N is not None:
        kl_N = kl_k3(logprobs_N, ref_logprobs_N)
        metrics["kl/reference"] = kl_N.detach().sum() / max(num_tokens, 1)
        if algo.kl_coef > 0:
            loss = loss + algo.kl_coef * (weights_N * kl_N).sum()
    elif algo.kl_coef > 0:
        raise ValueError(
            f"--algo.kl-coef is {algo.kl_coef} but there are no reference log-probs; compute them or set it to 0"
        )
    return loss, metrics


def policy_loss(
    logprobs_N: Tensor,
    old_logprobs_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    sequence_N: Tensor,
    num_sequences: int,
    *,
    ratio: Ratio,
    clip_low: float,
    clip_high: float,
    num_tokens: int,
    is_weights_N: Tensor | None = None,
) -> tuple[Tensor, TensorMetrics]:
    """-sum_N w min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A): the clipped surrogate of R1 eq. 1.

    Two clip bounds: DAPO's clip-higher (its eq. 10). `is_weights_N` multiplies the surrogate (truncated importance
    weights). Metrics are token means over the step: "ratio/clipped" (share of tokens where clipping lowered the
    objective, so that no gradient flows) and "ratio/mean".
    """
    ratios_N = importance_ratios(logprobs_N, old_logprobs_N, sequence_N, num_sequences, ratio)
    gain_N = ratios_N * advantages_N
    clipped_gain_N = ratios_N.clamp(1 - clip_low, 1 + clip_high) * advantages_N
    objective_N = torch.minimum(gain_N, clipped_gain_N)
    if is_weights_N is not None:
        objective_N = objective_N * is_weights_N
    # Clipping would turn an infinite or zero ratio, made by a log-prob of +-inf, into a finite loss.
    loss = -(weights_N * objective_N).sum() + _nan_unless_finite(logprobs_N, old_logprobs_N)
    metrics = {
        "ratio/clipped": (clipped_gain_N < gain_N).float().sum() / max(num_tokens, 1),
        "ratio/mean": ratios_N.detach().sum() / max(num_tokens, 1),
    }
    return loss, metrics


def importance_ratios(
    logprobs_N: Tensor, old_logprobs_N: Tensor, sequence_N: Tensor, num_sequences: int, ratio: Ratio
) -> Tensor:
    """pi / pi_old for each token.

    "token": of the token itself (DeepSeekMath eq. 3). "sequence": s_i of its completion, the geometric mean of the
    tokens' ratios (GSPO eq. 7), given to every token; with weights 1 / (G |o_i|) the loss is GSPO's eq. 5, in value
    and gradient.
    """
    log_ratio_N = logprobs_N - old_logprobs_N
    match ratio:
        case "token":
            return log_ratio_N.exp()
        case "sequence":
            zeros_S = log_ratio_N.new_zeros(num_sequences)
            sum_S = zeros_S.index_add(0, sequence_N, log_ratio_N)
            length_S = zeros_S.index_add(0, sequence_N, torch.ones_like(log_ratio_N))
            return (sum_S / length_S.clamp(min=1)).exp()[sequence_N]
        case _:
            assert_never(ratio)


def token_weights(
    lengths_S: Tensor, aggregation: Aggregation, *, num_sequences: int, num_tokens: int, length_cap: int
) -> Tensor:
    """Weight in the loss of each token of completion s; expand with `[sequence_N]`.

    "sequence": 1 / (num_sequences |o_s|), a mean over tokens and then over completions (GRPO, DeepSeekMath eq. 3).
    "token": 1 / num_tokens, a mean over all tokens (DAPO eq. 8 and 12, over the step as in its authors' code).
    "constant": 1 / (num_sequences length_cap), no division by the completion's own length (Dr.GRPO).
    Both counts are of the whole optimizer step, not of the micro-batch. A completion without tokens gets a finite
    weight that nothing uses.
    """
    match aggregation:
        case "sequence":
            return 1 / (max(num_sequences, 1) * lengths_S.clamp(min=1).float())
        case "token":
            return torch.full_like(lengths_S, 1 / max(num_tokens, 1), dtype=torch.float32)
        case "constant":
            return torch.full_like(lengths_S, 1 / (max(num_sequences, 1) * length_cap), dtype=torch.float32)
        case _:
            assert_never(aggregation)


def kl_k3(logprobs_N: Tensor, ref_logprobs_N: Tensor) -> Tensor:
    """k3 estimate of KL(pi || pi_ref) for each token drawn from pi: r - log r - 1, r = pi_ref / pi (R1 eq. 2).

    Schulman 2020. Unbiased and never negative.
    """
    log_r_N = ref_logprobs_N - logprobs_N
    return log_r_N.expm1() - log_r_N  # expm1: exp(x) - x - 1 loses every digit in fp32 when the policies are close


def truncated_is_weights(learner_logprobs_N: Tensor, sampler_logprobs_N: Tensor, cap: float) -> Tensor:
    """min(pi_learner / pi_sampler, cap) for each token, without gradient (TIS, Yao et al. 2025).

    Both are the policy that generated the tokens, as the learner and as the sampler compute it. All NaN if any log-prob
    is not finite, which the cap would hide.
    """
    log_ratio_N = (learner_logprobs_N - sampler_logprobs_N).detach()
    return log_ratio_N.exp().clamp(max=cap) + _nan_unless_finite(log_ratio_N)


def nll_loss(logprobs_N: Tensor, num_tokens: int) -> tuple[Tensor, TensorMetrics]:
    """Mean negative log-likelihood, nats per token: pretraining and SFT. `num_tokens` counts the whole step."""
    loss = -logprobs_N.sum() / max(num_tokens, 1)
    return loss, {"loss/nll": loss.detach()}


def _nan_unless_finite(*tensors: Tensor) -> Tensor:
    """0 if every element is finite, else NaN; no wait for the device, as a Python check would need."""
    return torch.stack([(tensor.detach() * 0).sum() for tensor in tensors]).sum()
