"""Supervised fine-tuning on conversations (R1 V2 B.4.2): the cold start's, rejection sampling's, a teacher's.

    r1kit sft demo                         # Dev1: the base on the cold-start data
    r1kit sft demo --data my.jsonl --model PATH --heldout-share 0.05
    r1kit sft demo --data my.jsonl --model PATH --lora.rank 16 --optim.lr 5e-4

Next-token likelihood of what the assistant says and the ends of its turns; the paper does not state its mask.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from r1kit import hub
from r1kit.algo.schedule import learning_rate
from r1kit.allocator import release_memory
from r1kit.config import EvalConfig, SFTConfig, to_dict
from r1kit.curation.pairs import is_heldout, prompt_key
from r1kit.model.chat import stop_tokens
from r1kit.model.lora import add_adapters
from r1kit.model.tokenizer import load_tokenizer
from r1kit.run import Progress, Run
from r1kit.sampling.local import LocalSampler
from r1kit.trackers import check_trackers
from r1kit.training.base import Learner
from r1kit.training.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from r1kit.training.checks import Room, check_room
from r1kit.training.conversations import (
    AT_A_TIME,
    Conversation,
    Conversations,
    Rendered,
    SFTData,
    encode,
    prepare,
    read_conversations,
)
from r1kit.training.evaluation import evaluate, evaluation_sets
from r1kit.training.learner import LocalLearner
from r1kit.training.models import model_context, open_model, resolve_model
from r1kit.training.supervised import batch_of_step, nll_step, pack_step, steps_per_epoch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def main(cfg: SFTConfig) -> None:
    """Train for `epochs` passes, evaluating and saving on the way. Run again with the same config, it resumes.

    Before any compute: ValueError or FileNotFoundError for bad data, tasks, template or model.
    """
    check_trackers(cfg.track)
    conversations, held_out = split(cfg)
    check_eval(cfg)  # what is wrong with the tasks is said before a model is downloaded
    check_eval(cfg, load_tokenizer(resolve_model(cfg.model)))
    model, tokenizer = open_model(cfg.model, cfg.device, cfg.dtype)
    longest = min(cfg.max_tokens, model.config.context)
    preparing = partial(prepare, turns=cfg.turns, max_prompt_tokens=cfg.filter.max_prompt_tokens)
    data = preparing(conversations, tokenizer, cfg.template, longest)
    heldout = preparing(held_out, tokenizer, cfg.template, longest) if held_out else None
    adapters = add_adapters(model, cfg.lora, seed=cfg.seed, base=cfg.model)
    stops = stop_tokens(cfg.template, tokenizer)
    learner = LocalLearner(model, tokenizer, cfg.optim, memory=cfg.memory, adapters=adapters, stops=stops)
    sampler = LocalSampler(tokenizer, rows=cfg.eval.rows)
    epoch_steps = steps_per_epoch(len(data.rendered), cfg.batch_size)
    steps = cfg.epochs * epoch_steps
    hub.reserve(cfg.push_to_hub)
    with Run.open(cfg.run, to_dict(cfg), "sft") as run, Progress(steps, "sft") as progress:
        progress.note(conversations.summary)
        progress.note(data.summary())
        if heldout is not None:
            progress.note(f"held out: {heldout.summary()}")
        checkpoint = latest_checkpoint(run.folder)
        if checkpoint:
            check_data(checkpoint, data, cfg)
            learner.load(checkpoint.folder)
        step = checkpoint.step if checkpoint else 0
        run.rewind(checkpoint.step if checkpoint else None)

        def evaluate_now() -> None:
            sampler.load_weights(learner.publish(), version=step)
            show = partial(progress.status, "evaluate")
            metrics = evaluate(sampler, tokenizer, eval_config(cfg), run.folder / "evals", step, show)
            run.log(step, metrics)
            progress.show(step, metrics)

        def measure_heldout(heldout: SFTData) -> None:
            start = time.perf_counter()
            nll = heldout_nll(learner, heldout.rendered, tokenizer, cfg.tokens_per_microbatch)
            metrics = {"heldout/nll": nll, "seconds/heldout": time.perf_counter() - start}
            run.log(step, metrics)
            progress.show(step, metrics)

        if step == 0 and heldout is not None:
            measure_heldout(heldout)
        if step == 0 and cfg.eval_every:
            evaluate_now()
        while step < steps:
            start = time.perf_counter()
            chosen = batch_of_step(len(data.rendered), cfg.batch_size, step, cfg.seed)
            packables = encode([data.rendered[i] for i in chosen], tokenizer)
            batches = pack_step(packables, cfg.tokens_per_microbatch, learner.device)
            try:
                metrics = nll_step(learner, batches, learning_rate(cfg.optim, step, steps))
            except FloatingPointError as error:
                raise FloatingPointError(f"step {step + 1}: {error}; lower --optim.lr, or use --dtype fp32") from error
            step += 1
            seconds = time.perf_counter() - start
            tokens = sum(len(packable.tokens) for packable in packables)
            metrics |= {"epoch": step / epoch_steps, "seconds/step": seconds, "tokens_per_second": tokens / seconds}
            run.log(step, metrics)
            progress.show(step, metrics)
            if heldout is not None and (step % cfg.heldout_every == 0 or step == steps):
                measure_heldout(heldout)
            if cfg.eval_every and (step % cfg.eval_every == 0 or step == steps):
                evaluate_now()
            if step % cfg.save_every == 0 or step == steps:
                save_checkpoint(run.folder, step, learner.save, {"data": data.digest}, cfg.keep_checkpoints)
                release_memory()
            if step == cfg.stop_after:
                return
    if cfg.push_to_hub:
        print(hub.push(cfg.run, cfg.push_to_hub))


def split(cfg: SFTConfig) -> tuple[Conversations, list[Conversation]]:
    """The conversations to train on, and those whose loss is only measured: all of one prompt on the same side.

    ValueError when the share leaves nothing on one of the sides.
    """
    reading = partial(read_conversations, columns=cfg.columns, system_prompt=cfg.system_prompt)
    found = reading(cfg.data, filters=cfg.filter)
    held_out = [*reading(cfg.heldout_data)] if cfg.heldout_data else []
    if not cfg.heldout_share:
        return found, held_out
    sides = [is_heldout(prompt_key(one.messages[:-1]), cfg.heldout_share) for one in found]
    if len(set(sides)) == 1:
        raise ValueError(
            f"--heldout-share {cfg.heldout_share} of the prompts of {len(found):,} conversations leaves none to "
            f"{'train on' if sides[0] else 'hold out'}; change it, or give --heldout-data"
        )
    train = Conversations(found.summary)
    for one, side in zip(found, sides, strict=True):
        (held_out if side else train).append(one)
    return train, held_out


def heldout_nll(
    learner: Learner, rendered: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase, tokens_per_microbatch: int
) -> float:
    """Negative log-likelihood of the assistant's tokens, nats per token, under the current weights."""
    total, tokens = 0.0, 0
    for start in range(0, len(rendered), AT_A_TIME):
        packables = encode(rendered[start : start + AT_A_TIME], tokenizer)
        for batch in pack_step(packables, tokens_per_microbatch, learner.device):
            total -= learner.logprobs(batch).sum(dtype=torch.float64).item()
            tokens += batch.labels_N.numel()
    return total / tokens


def check_eval(cfg: SFTConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """ValueError or FileNotFoundError for what the evaluations would not find: a task, or problems enough.

    With the model's tokenizer, room for a completion too; the model is not opened for it.
    """
    if not cfg.eval_every:
        return
    evaluation = eval_config(cfg)
    sets = evaluation_sets(evaluation, tokenizer)
    if tokenizer is not None:
        room = Room(
            model_context(resolve_model(cfg.model)), "the model's context", evaluation.max_new_tokens,
            "--eval.max-new-tokens", "--eval.filter.max-prompt-tokens",
        )  # fmt: skip
        check_room(sets, tokenizer, cfg.template, room, first=evaluation.num_problems)


def eval_config(cfg: SFTConfig) -> EvalConfig:
    """The run's evaluation: `cfg.eval` with the run's own template."""
    return replace(cfg.eval, model=str(cfg.run), template=cfg.template, system_prompt=cfg.system_prompt)


def check_data(checkpoint: Checkpoint, data: SFTData, cfg: SFTConfig) -> None:
    """ValueError when the data are not those that the checkpoint was trained on: the steps to go would not fit."""
    if checkpoint.state["data"] != data.digest:
        raise ValueError(
            f"{cfg.run} was begun on other conversations than those in {', '.join(cfg.data)} now ({data.summary()}), "
            f"or {cfg.model}'s tokenizer or chat template was another; use another --run, or bring back what it was"
        )
