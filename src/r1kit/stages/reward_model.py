"""Train a reward model on preferences: helpful (pairs) or safety (labelled responses).

    r1kit reward-model demo --data runs/preferences
    r1kit reward-model demo --kind safety --data runs/preferences

R1 V2 section 3.1: the policy's backbone with a scalar head, pairwise or point-wise loss, one pass over the data. The
prompts that are held out give the accuracy that is reported.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from r1kit.algo.packing import Batch, Packable, microbatches, pack
from r1kit.algo.preference import pairwise_loss, pointwise_loss
from r1kit.algo.schedule import learning_rate
from r1kit.allocator import release_memory
from r1kit.config import RewardModelConfig, to_dict
from r1kit.curation.pairs import is_heldout, read_labelled, read_pairs
from r1kit.run import Progress, Run
from r1kit.trackers import check_trackers
from r1kit.training.base import Loss
from r1kit.training.checkpoint import latest_checkpoint, save_checkpoint
from r1kit.training.models import open_model
from r1kit.training.reward_model import (
    Kind,
    RewardModel,
    RewardModelLearner,
    Scale,
    add_head,
    first_head,
    read_part,
    scale_of,
    score_texts,
    text_tokens,
    write_about,
)  # fmt: skip
from r1kit.types import Metrics

SCALE_TEXTS = 4096
"""Training texts, drawn by the seed, whose scores set the scale: their mean and spread need no more."""


@dataclass(frozen=True)
class Term:
    """One term of the loss: texts that are scored in the same micro-batch."""

    texts: tuple[tuple[int, ...], ...]
    """Tokens of (chosen, rejected), or of the one labelled response."""
    safe: bool
    """The label; of a pair nothing."""
    prompt_key: str


def main(cfg: RewardModelConfig) -> None:
    """Train, then measure on the held-out prompts. Run again with the same config, it resumes."""
    check_trackers(cfg.track)
    backbone, tokenizer = open_model(cfg.model, cfg.device, cfg.dtype)
    train, heldout, left_out = read_terms(cfg, tokenizer, backbone.config.context)
    model = add_head(backbone, first_head(backbone.config.hidden, cfg.seed))
    del backbone  # the model has a copy of its weights
    learner = RewardModelLearner(model, tokenizer, cfg.optim, memory=cfg.memory)
    steps_per_epoch = -(-len(train) // cfg.batch_size)
    steps = steps_per_epoch * cfg.epochs
    with Run.open(cfg.run, to_dict(cfg), "reward-model") as run, Progress(steps, "reward-model") as progress:
        progress.note(counts_line(train, heldout, left_out))
        checkpoint = latest_checkpoint(run.folder)
        if checkpoint:
            learner.load(checkpoint.folder)
        step = checkpoint.step if checkpoint else 0
        run.rewind(checkpoint.step if checkpoint else None)
        while step < steps:
            start = time.perf_counter()
            terms = terms_of(train, cfg, step, steps_per_epoch)
            try:
                metrics = update(learner, terms, cfg, learning_rate(cfg.optim, step, steps))
            except FloatingPointError as error:
                raise FloatingPointError(f"step {step + 1}: {error}; lower --optim.lr, or use --dtype fp32") from error
            step += 1
            metrics |= {"epoch": step / steps_per_epoch, "seconds/step": time.perf_counter() - start}
            metrics["tokens_per_second"] = sum(len(t) for term in terms for t in term.texts) / metrics["seconds/step"]
            run.log(step, metrics)
            progress.show(step, metrics)
            scale, results = None, {}
            if step == steps:
                scale = scale_of(cfg.kind, score_texts(model, scale_texts(train, cfg.seed), cfg.tokens_per_microbatch))
                metrics = evaluate(model, heldout, cfg.kind, cfg.tokens_per_microbatch)
                results = about(metrics, len(train), left_out)
                run.log(step, metrics)
                progress.show(step, metrics)
                progress.note(accuracy_line(metrics, cfg.kind))
            if step % cfg.save_every == 0 or step == steps:
                save(run.folder, step, learner, cfg, scale, results)
                release_memory()
            if step == cfg.stop_after:
                return


def read_terms(
    cfg: RewardModelConfig, tokenizer: PreTrainedTokenizerBase, context: int
) -> tuple[list[Term], list[Term], Counter[str]]:
    """The terms to train on, those held out, and the rows left out by reason.

    A prompt's content decides on which side all of its rows are. Raises ValueError when either side is empty.
    """

    def term(key: str, messages: Any, responses: Sequence[str], *, safe: bool) -> Term | None:
        parts = [read_part(cfg.kind, response) for response in responses]
        if not all(parts) or (cfg.kind == "helpful" and len(set(parts)) < 2):
            left_out["nothing to compare outside the thought"] += 1
            return None
        texts = tuple(text_tokens(tokenizer, cfg.template, messages, part) for part in parts)
        if max(map(len, texts)) > longest:
            left_out[f"longer than {longest:,} tokens"] += 1
            return None
        return Term(texts, safe, key)

    longest = min(cfg.max_tokens, context)
    if cfg.kind == "helpful":
        pairs, left_out = read_pairs(cfg.data, cfg.columns)
        made = [term(p.prompt_key, p.messages, (p.chosen, p.rejected), safe=True) for p in pairs]
    else:
        labelled, left_out = read_labelled(cfg.data, cfg.columns)
        made = [term(r.prompt_key, r.messages, (r.response,), safe=r.safe) for r in labelled]
    terms = [one for one in made if one is not None]
    heldout = [one for one in terms if is_heldout(one.prompt_key, cfg.heldout_share)]
    train = [one for one in terms if not is_heldout(one.prompt_key, cfg.heldout_share)]
    if not train or not heldout:
        raise ValueError(
            f"--data {' '.join(cfg.data)}: {len(train)} rows to train on and {len(heldout)} held out "
            f"(left out: {dict(left_out) or 'none'}); give more rows, or change --heldout-share {cfg.heldout_share}"
        )
    return train, heldout, left_out


def terms_of(train: Sequence[Term], cfg: RewardModelConfig, step: int, steps_per_epoch: int) -> list[Term]:
    """The terms of a step: every epoch is a shuffle of its own, a function of (seed, epoch)."""
    epoch, part = divmod(step, steps_per_epoch)
    order = list(range(len(train)))
    random.Random(f"{cfg.seed}/{epoch}").shuffle(order)
    return [train[i] for i in order[part * cfg.batch_size : (part + 1) * cfg.batch_size]]


def update(learner: RewardModelLearner, terms: Sequence[Term], cfg: RewardModelConfig, lr: float) -> Metrics:
    """One optimizer step. Raises FloatingPointError if its gradient is not finite."""
    sums: dict[str, float] = {}
    for part in microbatches([sum(map(len, term.texts)) for term in terms], cfg.tokens_per_microbatch):
        texts = [text for i in part for text in terms[i].texts]
        batch = pack([Packable(text, len(text)) for text in texts], learner.device)
        safe_S = torch.tensor([float(terms[i].safe) for i in part], device=learner.device)
        for name, value in learner.forward_backward(batch, loss_of(cfg.kind, safe_S, len(terms))).items():
            sums[name] = sums.get(name, 0.0) + value.item()
    return {**sums, "grad_norm": learner.optim_step(lr), "lr": lr}


def loss_of(kind: Kind, safe_S: Tensor, num_terms: int) -> Loss:
    """The loss of one micro-batch whose texts are those of its terms in turn."""

    def loss(scores_S: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        del batch
        if kind == "helpful":
            return pairwise_loss(scores_S[0::2], scores_S[1::2], num_pairs=num_terms)
        return pointwise_loss(scores_S, safe_S, num_responses=num_terms)

    return loss


def scale_texts(train: Sequence[Term], seed: int) -> list[tuple[int, ...]]:
    texts = [text for term in train for text in term.texts]
    return random.Random(f"{seed}/scale").sample(texts, min(SCALE_TEXTS, len(texts)))


def evaluate(model: RewardModel, terms: Sequence[Term], kind: Kind, tokens_per_microbatch: int) -> Metrics:
    """Accuracy on held-out terms with its standard error, and the baselines that it has to beat.

    Rows of one prompt are not independent, so standard errors are over prompts. helpful: `longer` always prefers the
    longer of the two; accuracy also where the chosen is the longer, and where it is the shorter. safety: `majority` is
    the share of the more common label; accuracy also on the safe and on the unsafe. A tie is half right.
    """
    raw = iter(score_texts(model, [text for term in terms for text in term.texts], tokens_per_microbatch))
    scores = [[next(raw) for _ in term.texts] for term in terms]
    prompts = [term.prompt_key for term in terms]
    if kind == "helpful":
        rights = [_half_sign(chosen - rejected) for chosen, rejected in scores]
        longer = [_half_sign(len(term.texts[0]) - len(term.texts[1])) for term in terms]
        baselines = {"eval/longer": fmean(longer), "eval/longer_se": clustered_error(longer, prompts)}
        parts = {"chosen_longer": [flag == 1 for flag in longer], "chosen_shorter": [flag == 0 for flag in longer]}
    else:
        rights = [_half_sign(score if term.safe else -score) for [score], term in zip(scores, terms, strict=True)]
        share = fmean(term.safe for term in terms)
        baselines = {"eval/majority": max(share, 1 - share)}
        parts = {"safe": [term.safe for term in terms], "unsafe": [not term.safe for term in terms]}
    metrics = {"eval/accuracy": fmean(rights), "eval/accuracy_se": clustered_error(rights, prompts), **baselines}
    for name, chosen in parts.items():
        if any(chosen):
            metrics[f"eval/accuracy_{name}"] = fmean(r for r, one in zip(rights, chosen, strict=True) if one)
    return metrics | {"eval/rows": len(terms), "eval/prompts": len(set(prompts))}


def _half_sign(value: float) -> float:
    """1 above 0, 0 below it, 1/2 at it."""
    return 0.5 if value == 0 else float(value > 0)


def clustered_error(scores: Sequence[float], clusters: Sequence[str]) -> float:
    """Standard error of the mean of scores that come in clusters; with one score each, `passk.standard_error`.

    sqrt(C / (C - 1) * sum over the C clusters of (sum of the cluster's deviations from the mean)^2) / N; 0 for one.
    """
    mean = fmean(scores)
    sums: dict[str, float] = {}
    for score, cluster in zip(scores, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + score - mean
    count = len(sums)
    if count < 2:
        return 0.0
    return (count / (count - 1) * sum(total**2 for total in sums.values())) ** 0.5 / len(scores)


def accuracy_interval(accuracy: float, error: float, num_prompts: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share, for the number of independent answers that would have this standard error.

    Near 100%, where reward models of easy data end, the normal interval is too short, and at 100% it is a point. With
    no spread at all there are as many answers as prompts.
    """
    spread = accuracy * (1 - accuracy)
    num = spread / error**2 if error > 0 and spread > 0 else num_prompts
    z = 1.96
    centre = (accuracy + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z * (spread / num + z**2 / (4 * num**2)) ** 0.5 / (1 + z**2 / num)
    return max(0.0, centre - half), min(1.0, centre + half)


def save(
    run: Path, step: int, learner: RewardModelLearner, cfg: RewardModelConfig, scale: Scale | None,
    results: dict[str, Any],
) -> None:  # fmt: skip
    """A checkpoint; the last one is the reward model, with its scale and results."""

    def write(folder: Path) -> None:
        learner.save(folder)
        write_about(folder, cfg.kind, cfg.template, scale, results)

    save_checkpoint(run, step, write, {}, cfg.keep_checkpoints)


def about(metrics: Metrics, num_train: int, left_out: Counter[str]) -> dict[str, Any]:
    """The results for reward_model.json: eval/ metrics by their names, the interval, and what the data were."""
    low, high = accuracy_interval(metrics["eval/accuracy"], metrics["eval/accuracy_se"], int(metrics["eval/prompts"]))
    results = {name.removeprefix("eval/"): value for name, value in metrics.items()}
    return {**results, "accuracy_interval": [low, high], "train_rows": num_train, "left_out": dict(left_out)}


def counts_line(train: Sequence[Term], heldout: Sequence[Term], left_out: Counter[str]) -> str:
    dropped = "".join(f"; left out {count:,}: {reason}" for reason, count in left_out.items())
    return f"{len(train):,} rows to train on, {len(heldout):,} held out{dropped}"


def accuracy_line(metrics: Metrics, kind: Kind) -> str:
    low, high = accuracy_interval(metrics["eval/accuracy"], metrics["eval/accuracy_se"], int(metrics["eval/prompts"]))
    baseline, name = ("eval/longer", "the longer one") if kind == "helpful" else ("eval/majority", "one label for all")
    return (
        f"held-out accuracy {metrics['eval/accuracy']:.1%} (95% {low:.1%} to {high:.1%}) on {metrics['eval/rows']:,} "
        f"rows of {metrics['eval/prompts']:,} prompts; {name}: {metrics[baseline]:.1%}"
    )
