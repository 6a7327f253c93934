"""Make a small base model from scratch on the generated bilingual corpus.

    r1kit pretrain demo                    # remakes the base that ships with r1kit

The base of R1-Zero is a model that saw the web: it knows the facts and the formats, and seldom thinks for long before
it answers. This one is a decoder of a few million parameters in Llama's format.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedTokenizerBase

from r1kit import corpus
from r1kit.algo.packing import Batch, Packable
from r1kit.algo.schedule import learning_rate
from r1kit.allocator import release_memory
from r1kit.config import ModelShape, PretrainConfig, to_dict
from r1kit.model.device import resolve_device, resolve_dtype
from r1kit.model.hf import save_model
from r1kit.model.tokenizer import train_tokenizer
from r1kit.model.transformer import Transformer, TransformerConfig
from r1kit.report.card import pretrain_card
from r1kit.run import Progress, Run, write_text_atomic
from r1kit.sampling.local import LocalSampler
from r1kit.trackers import check_trackers
from r1kit.training.base import Learner
from r1kit.training.checkpoint import latest_checkpoint, save_checkpoint
from r1kit.training.evaluation import evaluate
from r1kit.training.learner import LocalLearner
from r1kit.training.supervised import nll_step, pack_step

TOKENIZER_DOCUMENTS = 20_000
VOCAB_SIZE = 1024


def main(cfg: PretrainConfig) -> None:
    """Train on fresh documents at every step. Run again with the same config, it resumes."""
    check_trackers(cfg.track)
    device = resolve_device(cfg.device)
    tokenizer = train_tokenizer(itertools.islice(corpus.documents(cfg.seed, -1), TOKENIZER_DOCUMENTS), VOCAB_SIZE)
    model = Transformer(llama_config(cfg.shape, len(tokenizer)))
    model.init_weights(torch.Generator().manual_seed(cfg.seed))
    learner = LocalLearner(model.to(resolve_dtype(cfg.dtype, device)).to(device), tokenizer, cfg.optim)
    sampler = LocalSampler(tokenizer, rows=cfg.eval.rows)
    eval_cfg = replace(cfg.eval, model=str(cfg.run))
    with Run.open(cfg.run, to_dict(cfg), "pretrain") as run, Progress(cfg.steps, "pretrain") as progress:
        checkpoint = latest_checkpoint(run.folder)
        if checkpoint:
            learner.load(checkpoint.folder)
        step = checkpoint.step if checkpoint else 0
        tokens_seen = checkpoint.state["tokens_seen"] if checkpoint else 0
        run.rewind(checkpoint.step if checkpoint else None)
        while step < cfg.steps:
            start = time.perf_counter()
            batches = make_batches(tokenizer, learner, cfg, step)
            metrics = nll_step(learner, batches, learning_rate(cfg.optim, step, cfg.steps))
            step += 1
            metrics["seconds/step"] = time.perf_counter() - start
            tokens = sum(len(batch.tokens_T) for batch in batches)
            tokens_seen += tokens
            metrics |= {"tokens_seen": tokens_seen, "tokens_per_second": tokens / metrics["seconds/step"]}
            run.log(step, metrics)
            progress.show(step, metrics)
            if step == cfg.steps or (cfg.eval_every and step % cfg.eval_every == 0):
                sampler.load_weights(learner.publish(), version=step)
                metrics = evaluate(
                    sampler, tokenizer, eval_cfg, run.folder / "evals", step, partial(progress.status, "evaluate")
                )
                run.log(step, metrics)
                progress.show(step, metrics)
            if step % cfg.save_every == 0 or step == cfg.steps:
                save_checkpoint(run.folder, step, learner.save, {"tokens_seen": tokens_seen}, cfg.keep_checkpoints)
                release_memory()
            if step == cfg.stop_after:
                return
        export(model, tokenizer, run.folder)
        progress.note(f"model with its card: {run.folder / 'model'}")


def export(model: Transformer, tokenizer: PreTrainedTokenizerBase, run: Path) -> None:
    """RUN/model: the Hugging Face folder without the optimizer, and its model card."""
    save_model(model, tokenizer, run / "model")
    card = pretrain_card(run, corpus.MIX, sum(weight.numel() for weight in model.parameters()))
    write_text_atomic(run / "model" / "README.md", card)


def llama_config(shape: ModelShape, vocab_size: int) -> TransformerConfig:
    """Llama's architecture, the format that transformers and vLLM load with any tokenizer."""
    return TransformerConfig(
        model_type="llama",
        vocab_size=vocab_size,
        hidden=shape.hidden,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.hidden // shape.heads,
        mlp=shape.mlp,
        context=shape.context,
        tie_embeddings=True,
    )


def make_batches(tokenizer: PreTrainedTokenizerBase, learner: Learner, cfg: PretrainConfig, step: int) -> list[Batch]:
    """Whole documents of one step, about `tokens_per_step` tokens, each ended by the end-of-sequence token."""
    stream = corpus.documents(cfg.seed, step)
    sequences: list[Packable] = []
    end = cast(int, tokenizer.eos_token_id)
    tokens = 0
    while tokens < cfg.tokens_per_step:
        documents = tokenizer(list(itertools.islice(stream, 64)), add_special_tokens=False)["input_ids"]
        for ids in cast("list[list[int]]", documents):
            if tokens < cfg.tokens_per_step:
                sequences.append(Packable((*ids[: cfg.shape.context - 1], end), prompt_length=0))
                tokens += len(sequences[-1].tokens)
    return pack_step(sequences, cfg.tokens_per_microbatch, learner.device)
