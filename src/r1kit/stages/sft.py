"""Supervised fine-tuning on conversations (R1 V2 B.4.2): the cold start's, rejection sampling's, a teacher's.

    r1kit sft demo                         # Dev1: the base on the cold-start data
    r1kit sft demo --data my.jsonl --model PATH

Next-token likelihood of the assistant's last turn and the end of sequence; the paper does not state its mask.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from r1kit.algo.schedule import learning_rate
from r1kit.allocator import release_memory
from r1kit.config import EvalConfig, SFTConfig, to_dict
from r1kit.run import Progress, Run
from r1kit.sampling.local import LocalSampler
from r1kit.tasks import load_problems
from r1kit.training.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from r1kit.training.conversations import SFTData, encode, prepare, read_conversations
from r1kit.training.evaluation import evaluate
from r1kit.training.learner import LocalLearner
from r1kit.training.models import open_model
from r1kit.training.supervised import batch_of_step, nll_step, pack_step, steps_per_epoch


def main(cfg: SFTConfig) -> None:
    """Train for `epochs` passes, evaluating and saving on the way. Run again with the same config, it resumes.

    Before any compute: ValueError or FileNotFoundError for bad data, tasks, template or model.
    """
    conversations = read_conversations(cfg.data)
    check_eval(cfg)
    model, tokenizer = open_model(cfg.model, cfg.device, cfg.dtype)
    data = prepare(conversations, tokenizer, cfg.template, min(cfg.max_tokens, model.config.context))
    learner = LocalLearner(model, tokenizer, cfg.optim)
    sampler = LocalSampler(tokenizer, rows=cfg.eval.rows)
    epoch_steps = steps_per_epoch(len(data.rendered), cfg.batch_size)
    steps = cfg.epochs * epoch_steps
    with Run.open(cfg.run, to_dict(cfg), "sft") as run, Progress(steps, "sft") as progress:
        progress.note(data.summary())
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
            if cfg.eval_every and (step % cfg.eval_every == 0 or step == steps):
                evaluate_now()
            if step % cfg.save_every == 0 or step == steps:
                save_checkpoint(run.folder, step, learner.save, {"data": data.digest}, cfg.keep_checkpoints)
                release_memory()
            if step == cfg.stop_after:
                return


def check_eval(cfg: SFTConfig) -> None:
    """ValueError or FileNotFoundError for a task that the evaluations would not find."""
    for task in cfg.eval.tasks if cfg.eval_every else ():
        load_problems(task, cfg.eval.split, cfg.eval.seed)


def eval_config(cfg: SFTConfig) -> EvalConfig:
    """The run's evaluation: `cfg.eval` with the run's own template."""
    return replace(cfg.eval, model=str(cfg.run), template=cfg.template)


def check_data(checkpoint: Checkpoint, data: SFTData, cfg: SFTConfig) -> None:
    """ValueError when the data are not those that the checkpoint was trained on: the steps to go would not fit."""
    if checkpoint.state["data"] != data.digest:
        raise ValueError(
            f"{cfg.run} was begun on other conversations than those in {', '.join(cfg.data)} now ({data.summary()}); "
            f"use another --run, or bring back the data"
        )
