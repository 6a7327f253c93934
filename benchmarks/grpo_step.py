"""Seconds a GRPO step takes, and tokens generated a second: `python benchmarks/grpo_step.py --json`.

A 4.5M-parameter Qwen2 with random weights, 8 problems x 8 completions of at most 128 tokens, a KL term with its
reference forward. It runs the functions of r1kit.stages.rl; only the problems and the reward are the benchmark's own.
The work and the fields of the JSON line are those of the peers' scripts: see README.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import string
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.allocator import tune_allocator
from r1kit.config import DType, EvalConfig, OptimConfig, RLConfig, to_dict
from r1kit.presets import grpo
from r1kit.run import Run
from r1kit.tasks import FiniteProblems, ProblemSet
from r1kit.types import Completion, Message, Problem, Prompt, SamplingParams, Score

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from r1kit.model.transformer import Decoder
    from r1kit.sampling.base import Sampler
    from r1kit.training.rollout import Group

RAW_PROMPT = "{{ messages[0]['content'] }}"
"""A chat template that adds nothing: the peers tokenize the prompts as they are."""
PHASES = ("sample", "score", "prepare", "update")
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": {
        "vocab_size": 151936, "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "intermediate_size": 4864, "tie_word_embeddings": True,
    },
    "qwen2.5-1.5b": {
        "vocab_size": 151936, "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "intermediate_size": 8960, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""The published shapes, for random weights: what a step costs does not depend on what the weights know."""


def main() -> None:
    args = parse_args()
    tune_allocator()  # as the command line does; before torch is imported
    if args.write_model is not None:
        write_tiny_qwen2(args.write_model)
        return
    with tempfile.TemporaryDirectory() as scratch:
        model = args.model
        if model is None:
            model = Path(scratch) / "model"
            write_tiny_qwen2(model) if args.shape is None else write_qwen2(model, **SHAPES[args.shape])
        row = measure(config(args, str(model), Path(scratch) / "run"), warmup=args.warmup, fixed=args.fixed)
    if args.json:
        print(json.dumps(row))
    else:
        phases = "  ".join(f"{name} {seconds:.3f}" for name, seconds in row["seconds"].items())
        print(f"{row['seconds_per_step']:.3f} s a step ({phases}), {row['dtype']}, {row['peak_rss_mib']:,} MiB at most")
        print(f"{row['tokens_per_step']:,} tokens a step, {row['tokens_per_second']:,.0f} tokens/s over the whole step")
        if "peak_cuda_mib" in row:
            print(f"{row['peak_cuda_mib']:,} MiB of the GPU at most, kl/sampler {row['kl_sampler']:.1e} nats a token")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON line with the peers' fields")
    parser.add_argument("--model", type=Path, help="model folder; default: the 4.5M-parameter Qwen2, made anew")
    parser.add_argument("--write-model", type=Path, help="only write that Qwen2 into this folder")
    parser.add_argument("--shape", choices=sorted(SHAPES), help="random weights of this published shape instead")
    parser.add_argument("--prompts", type=int, default=8, help="problems a step")
    parser.add_argument("--group", type=int, default=8, help="completions per problem")
    parser.add_argument("--max-new", type=int, default=128, help="length cap, tokens")
    parser.add_argument("--steps", type=int, default=8, help="steps, warm-up included")
    parser.add_argument("--warmup", type=int, default=2, help="first steps, which are not timed; at least 1")
    parser.add_argument("--dtype", choices=["auto", "bf16", "fp32"], default="auto", help="compute type")
    parser.add_argument("--beta", type=float, default=0.001, help="weight of the KL term; 0 leaves the reference out")
    parser.add_argument("--fixed", action="store_true", help="no end token: every completion has --max-new tokens")
    parser.add_argument("--cuda", action="store_true", help="on the GPU")
    args = parser.parse_args(argv)
    if not 1 <= args.warmup < args.steps:
        parser.error(f"--warmup {args.warmup} must be at least 1 and below --steps {args.steps}")
    return args


def config(args: argparse.Namespace, model: str, run: Path) -> RLConfig:
    return RLConfig(
        run=run,
        model=model,
        tasks=("sums",),
        template="chat",
        steps=args.steps,
        problems_per_step=args.prompts,
        group_size=args.group,
        max_new_tokens=args.max_new,
        optim=OptimConfig(lr=1e-5, betas=(0.9, 0.999), grad_clip=1.0),
        algo=replace(grpo(), kl_coef=args.beta, reference_every=0),
        eval=EvalConfig(tasks=("sums",), template="chat"),
        eval_every=0,
        device="cuda" if args.cuda else "cpu",
        dtype=args.dtype,
    )


def measure(cfg: RLConfig, *, warmup: int, fixed: bool) -> dict[str, Any]:
    """Train `cfg.steps` steps as `r1kit rl` does; the median step after `warmup` ones."""
    import torch

    from r1kit.sampling.local import LocalSampler
    from r1kit.stages import rl
    from r1kit.training.learner import LocalLearner
    from r1kit.training.models import open_model

    model, tokenizer = open_model(cfg.model, cfg.device, cfg.dtype)
    tokenizer.chat_template = RAW_PROMPT
    learner = LocalLearner(
        model, tokenizer, cfg.optim, temperature=cfg.temperature, with_reference=cfg.algo.kl_coef > 0
    )
    sampler: Sampler = LocalSampler(tokenizer, rows=cfg.rows)
    if fixed:
        sampler = EndlessSampler(sampler)
    problem_sets: list[ProblemSet] = [FiniteProblems("sums", "train", cfg.seed, problems())]

    def now() -> float:
        if cfg.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    steps: list[dict[str, float]] = []
    with Run.open(cfg.run, to_dict(cfg), "rl") as run:
        start = now()
        for step in range(cfg.steps):
            sampler.load_weights(learner.publish(), version=step)
            draw = partial(rl.draw_problems, problem_sets, [], cfg, step)
            groups, _, metrics = rl.collect(sampler, tokenizer, draw, cfg, step, None, lambda done, total: None)
            groups = with_peer_reward(groups, cfg)
            run.log_samples(step + 1, [group[0] for group in groups[:4]])
            collected = now()
            (batches,) = rl.rollout_batches(groups, learner, cfg, step)
            prepared = now()
            metrics |= rl.update(learner, batches, cfg, step)
            run.log(step + 1, metrics)
            end = now()
            steps.append(
                {
                    "step": end - start,
                    "sample": metrics["seconds/sample"],
                    "score": collected - start - metrics["seconds/sample"],
                    "prepare": prepared - collected,
                    "update": end - prepared,
                    "tokens": sum(len(sample.completion.tokens) for group in groups for sample in group),
                    "kl_sampler": metrics.get("kl/sampler", 0.0),
                }
            )
            start = end
    row = result(steps[warmup:], dtype="bf16" if model.embed.weight.dtype == torch.bfloat16 else "fp32", fixed=fixed)
    if cfg.device == "cuda":
        row["kl_sampler"] = statistics.median(step["kl_sampler"] for step in steps[warmup:])
        row["peak_cuda_mib"] = torch.cuda.max_memory_allocated() // 2**20
    return row


def result(steps: Sequence[dict[str, float]], *, dtype: DType, fixed: bool) -> dict[str, Any]:
    """The peers' fields, computed as they do: the median time, the mean tokens, of the timed steps."""
    seconds = sorted(step["step"] for step in steps)[len(steps) // 2]
    tokens = statistics.fmean(step["tokens"] for step in steps)
    return {
        "peer": "r1kit",
        "dtype": dtype,
        "gen": "local",
        "fixed": fixed,
        "seconds_per_step": round(seconds, 3),
        "tokens_per_step": round(tokens),
        "tokens_per_second": round(tokens / seconds, 1),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "seconds": {name: round(statistics.median(step[name] for step in steps), 3) for name in PHASES},
    }


class EndlessSampler:
    """A sampler whose completions always reach the length cap."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        n: int,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Completion]]:
        return self.sampler.generate(prompts, replace(params, stop_tokens=()), n, on_progress)

    def load_weights(self, source: Decoder, version: int) -> dict[str, float]:
        return self.sampler.load_weights(source, version)


def problems() -> tuple[Problem, ...]:
    """The peers' prompts. No answer is right: the reward looks at the length only."""
    prompts = [f"What is {i % 97} + {i * 7 % 89} * {i % 13}?\n" for i in range(512)]
    return tuple(Problem(f"sums:{i}", "sums", (Message("user", p),), "-", "exact") for i, p in enumerate(prompts))


def with_peer_reward(groups: Sequence[Group], cfg: RLConfig) -> list[Group]:
    """The groups with the peers' reward, 1 for an odd number of characters, in place of accuracy and format."""
    from r1kit.algo.advantages import group_advantages
    from r1kit.training.rollout import rewards_of

    scored = [
        [replace(s, score=Score(float(len(s.completion.text) % 2), "undecided", "length only")) for s in group]
        for group in groups
    ]
    advantages_PG = group_advantages(rewards_of(scored), cfg.algo.advantage).tolist()
    return [
        [replace(sample, advantage=advantage) for sample, advantage in zip(group, advantages, strict=True)]
        for group, advantages in zip(scored, advantages_PG, strict=True)
    ]


def write_tiny_qwen2(folder: Path) -> None:
    """A Qwen2 of 4.5M parameters with transformers' random weights and one token per character."""
    write_qwen2(
        folder, vocab_size=len(character_tokenizer()), hidden_size=256, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=704, tie_word_embeddings=True,
    )  # fmt: skip


def write_qwen2(folder: Path, **shape: Any) -> None:
    """A Qwen2 with transformers' random weights; its first tokens are characters, more of them stand for nothing."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.utils.logging import disable_progress_bar

    # The ids of the end and the padding are the tokenizer's.
    config = Qwen2Config(**shape, max_position_embeddings=2048, eos_token_id=1, pad_token_id=0, bos_token_id=None)
    torch.manual_seed(0)
    disable_progress_bar()
    Qwen2ForCausalLM(config).save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)


def character_tokenizer() -> PreTrainedTokenizerBase:
    """107 tokens: three special ones, the think and answer tags, and Python's printable characters."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    from r1kit.model.tokenizer import TAGS

    special = ["<pad>", "<eos>", "<unk>"]
    vocab = {token: i for i, token in enumerate([*special, *TAGS, *string.printable])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    core.add_special_tokens(special)
    core.add_tokens(list(TAGS))
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


if __name__ == "__main__":
    main()
