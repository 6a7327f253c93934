"""vLLM beside the local sampler: start, hand-over, tokens a second, and how far its log-probs are from the learner's.

.venv-vllm/bin/python benchmarks/vllm_sampler.py                       # the demo's base, on a CPU
python benchmarks/vllm_sampler.py --model PATH --max-new-tokens 1024   # on a GPU, with vLLM installed beside r1kit
"""

from __future__ import annotations

import argparse
import time

import torch

from r1kit.config import VllmConfig
from r1kit.model.device import resolve_device, resolve_dtype
from r1kit.model.hf import load_model
from r1kit.model.tokenizer import load_tokenizer
from r1kit.model.transformer import Decoder, PackedAttention
from r1kit.sampling.base import Sampler
from r1kit.sampling.local import LocalSampler
from r1kit.sampling.vllm import choose_transfer, open_vllm
from r1kit.training.models import resolve_model
from r1kit.types import Completion, Prompt, SamplingParams


def main() -> None:
    args = parse()
    folder = resolve_model(args.model)
    device = resolve_device(args.device)
    dtype = resolve_dtype(args.dtype, device)
    tokenizer, model = load_tokenizer(folder), load_model(folder, dtype, device)
    cfg = VllmConfig(
        mode=args.mode, python=args.python, memory=args.memory, transfer=args.transfer,
        max_len=args.max_new_tokens + 64 if args.short else 0,
    )  # fmt: skip
    prompts = []
    for number in range(args.prompts):
        text = f"User: Make {number + 3} from {number % 9 + 1}, {number % 7 + 2}, 3.\nAssistant:"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert isinstance(ids, list)
        prompts.append(Prompt(tuple(ids), seed=number))
    params = SamplingParams(max_new_tokens=args.max_new_tokens)  # without a stop token, all are equally long
    start = time.perf_counter()
    with open_vllm(cfg, tokenizer, folder, dtype=dtype, device=device, rows=args.rows, handed=True) as vllm:
        print(f"start of vLLM: {time.perf_counter() - start:.1f} s, {dtype} on {device}")
        print(f"weights go by {choose_transfer(cfg, vllm.state, device)}")
        for version in range(3):
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(1 + 1e-3 * version)
            logged = vllm.load_weights(model, version)
            print(f"hand-over {version}: " + ", ".join(f"{name} {value:.3g}" for name, value in logged.items()))
        speed(vllm, "vllm", prompts, params, args.samples)
        groups = speed(vllm, "vllm, again", prompts, params, args.samples)
        local = LocalSampler(tokenizer, rows=args.rows)
        local.load_weights(model, 0)
        speed(local, "local", prompts, params, args.samples)
    differences = torch.cat(
        [d for p, g in zip(prompts, groups, strict=True) for c in g for d in [compare(model, p, c)]]
    )
    sizes = differences.abs()
    print(
        f"learner - vLLM, log-probs of {len(sizes):,} tokens: mean {sizes.mean():.2g}, largest {sizes.max():.2g}, "
        f"kl/sampler {(differences.expm1() - differences).mean():.2g}"
    )
    if device.type == "cuda":
        print(f"peak memory of the learner: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo-base")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--dtype", default="auto", choices=("auto", "bf16", "fp32"))
    parser.add_argument("--mode", default="in-process", choices=("in-process", "server"))
    parser.add_argument("--python", default="", help="vLLM's Python, with --mode server")
    parser.add_argument("--memory", type=float, default=0.5, help="share of the GPU's memory for vLLM")
    parser.add_argument("--transfer", default="auto", choices=("auto", "file", "ipc"))
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--short", action="store_true", help="start vLLM for these lengths, not the model's context")
    return parser.parse_args()


def speed(
    sampler: Sampler, name: str, prompts: list[Prompt], params: SamplingParams, samples: int
) -> list[list[Completion]]:
    start = time.perf_counter()
    groups = sampler.generate(prompts, params, samples)
    seconds = time.perf_counter() - start
    tokens = sum(len(completion.tokens) for group in groups for completion in group)
    print(f"{name}: {tokens / seconds:,.0f} tokens/s ({tokens:,} tokens in {seconds:.1f} s)")
    return groups


@torch.no_grad()
def compare(model: Decoder, prompt: Prompt, completion: Completion) -> torch.Tensor:
    """Learner's minus sampler's log-prob of each of the completion's tokens, on the CPU."""
    tokens = torch.tensor(prompt.tokens + completion.tokens, device=model.embed.weight.device)
    attention = PackedAttention([len(tokens)], tokens.device)
    hidden = model(tokens, attention.positions_T, attention)
    logprobs = (hidden[:-1] @ model.lm_head.T).float().log_softmax(-1).gather(-1, tokens[1:, None]).squeeze(-1)
    return logprobs[len(prompt.tokens) - 1 :].cpu() - torch.tensor(completion.sampler_logprobs)


if __name__ == "__main__":  # vLLM starts processes that import this file
    main()
