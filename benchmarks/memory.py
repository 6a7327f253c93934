"""Memory and time of an update with and without each option of docs/lora.md: `python benchmarks/memory.py`.

A Llama with random weights; each line is a process of its own: the model, a reference policy unless --no-reference, and
two updates of --sequences x --length tokens. Memory is CUDA's peak, or on the CPU the process's beyond what it had
before the model. The time is the second update's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace

from r1kit.allocator import tune_allocator
from r1kit.config import LoraConfig, MemoryConfig, OptimConfig

SHAPES = {
    "50m": (16_000, 512, 12, 8, 4, 1536),
    "0.5b": (151_936, 896, 24, 14, 2, 4864),
    "1.5b": (151_936, 1536, 28, 12, 2, 8960),
    "7b": (152_064, 3584, 28, 28, 4, 18_944),
}
"""Vocabulary, width, layers, heads, key/value heads, MLP; the last three are Qwen2.5's."""
PLAIN = MemoryConfig()
LORA = LoraConfig(rank=16)
CHECKPOINTED = replace(PLAIN, gradient_checkpointing=True)
ROWS: dict[str, tuple[LoraConfig, MemoryConfig]] = {
    "all weights": (LoraConfig(), PLAIN),
    "gradient checkpointing": (LoraConfig(), CHECKPOINTED),
    "8-bit moments": (LoraConfig(), replace(PLAIN, optimizer="adamw8bit")),
    "paged 8-bit moments": (LoraConfig(), replace(PLAIN, optimizer="paged-adamw8bit")),
    "offloaded optimizer": (LoraConfig(), replace(PLAIN, offload_optimizer=True)),
    "offloaded reference": (LoraConfig(), replace(PLAIN, offload_reference=True)),
    "all offloaded, checkpointed": (
        LoraConfig(),
        MemoryConfig(gradient_checkpointing=True, offload_optimizer=True, offload_reference=True),
    ),
    "adapters": (LORA, PLAIN),
    "adapters, checkpointed": (LORA, CHECKPOINTED),
}
ON_CUDA = {"paged 8-bit moments", "offloaded optimizer", "offloaded reference", "all offloaded, checkpointed"}


def main() -> None:
    args = parse_args()
    if args.row:
        tune_allocator()
        print(json.dumps(measure(args)))
        return
    reference = "with" if args.reference else "without"
    tokens = f"{args.sequences} x {args.length} tokens"
    print(f"{args.model} in {args.dtype} on {args.device}, {tokens}, {reference} a reference policy")
    for name in ROWS:
        if (args.device == "cpu" and name in ON_CUDA) or (args.only and name not in args.only):
            continue
        child = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--row", name], capture_output=True, text=True)
        if child.returncode:
            print(f"{name:28} {child.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        found = json.loads(child.stdout.splitlines()[-1])
        host = "" if args.device == "cpu" else f"  CPU {found['host_gib']:6.2f} GiB"
        print(f"{name:28} {found['gib']:6.2f} GiB{host}  {found['seconds']:7.2f} s", flush=True)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="50m")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--reference", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--only", nargs="*", default=[], help="names of lines")
    parser.add_argument("--row", default="", help="this line, in this process")
    return parser.parse_args()


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Peak memory in GiB (of the device, and of the process beyond its beginning) and seconds of the second update."""
    import torch

    from r1kit.algo.losses import nll_loss
    from r1kit.algo.packing import Packable, pack
    from r1kit.model.lora import add_adapters
    from r1kit.model.transformer import Transformer, TransformerConfig
    from r1kit.training.learner import LocalLearner

    lora, memory = ROWS[args.row]
    device = torch.device(args.device)
    vocab, hidden, layers, heads, kv_heads, mlp = SHAPES[args.model]
    before = memory_of_process()
    config = TransformerConfig(
        model_type="llama", vocab_size=vocab, hidden=hidden, layers=layers, heads=heads, kv_heads=kv_heads,
        head_dim=hidden // heads, mlp=mlp, context=args.length, tie_embeddings=args.model != "7b",
    )  # fmt: skip
    with torch.device("meta"):
        model = Transformer(config)
    model = model.to(torch.bfloat16 if args.dtype == "bf16" else torch.float32).to_empty(device=device)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0) if parameter.dim() < 2 else parameter.normal_(0.0, 0.02)
    adapters = add_adapters(model, lora, seed=0, base="random")
    tokenizer = None  # only a save needs one
    learner = LocalLearner(
        model, tokenizer, OptimConfig(lr=1e-5), with_reference=args.reference, memory=memory, adapters=adapters  # type: ignore[arg-type]
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(vocab, (args.sequences, args.length), generator=generator).tolist()
    batch = pack([Packable(tuple(row), 1) for row in rows], device)
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        if args.reference:
            learner.reference_logprobs(batch)
        learner.forward_backward(batch, lambda logprobs, batch: nll_loss(logprobs, len(logprobs)))
        learner.optim_step(1e-5)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    host = peak_of_process() - before
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else host
    return {"gib": peak / 2**30, "host_gib": host / 2**30, "seconds": seconds}


def peak_of_process() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_of_process() -> int:
    """Bytes now; the peak where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        return peak_of_process()


if __name__ == "__main__":
    main()
