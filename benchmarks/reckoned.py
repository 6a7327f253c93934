"""What a preset takes of a GPU: reckoned and measured. `python benchmarks/reckoned.py r1-zero-qwen2.5-1.5b ...`

Random weights in the model's published shape; two updates on full micro-batches, and one call of the sampler with all
its rows and --new tokens each; of a -node preset, the learner's updates alone. Each preset is a process of its own,
which gets no more memory than the preset's card.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace

from r1kit.allocator import tune_allocator
from r1kit.config import RLConfig
from r1kit.presets.memory import GIB
from r1kit.presets.models import MODEL_RL, MODELS, PROMPT, BaseModel, need


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="+", choices=MODEL_RL, metavar="PRESET")
    parser.add_argument("--new", type=int, default=256, help="tokens per completion, in the reckoning too")
    parser.add_argument("--child", action="store_true", help="measure here")
    args = parser.parse_args()
    if args.child:
        tune_allocator()
        print(json.dumps(measure(args.presets[0], args.new)))
        return
    print(f"{'GiB, reckoned / measured':42} {'standing':>15} {'update':>15} {'sampling':>15} {'all':>15}   seconds")
    for name in args.presets:
        words = [sys.executable, __file__, name, "--child", "--new", str(args.new)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            print(f"{name:42} {done.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        takes = need(model_of(name), config_of(name, args.new))
        reckoned = {part: getattr(takes, part) for part in ("standing", "update", "sampling")} | {"all": takes.gpu}
        cells = [f"{reckoned[part] / GIB:7.2f} /{found[part]:6.2f}" for part in reckoned]
        print(f"{name:42} {' '.join(cells)}   {found['seconds']:.2f}", flush=True)


def model_of(preset: str) -> str:
    return max((name for name in MODELS if name in preset), key=len)


def config_of(preset: str, new: int) -> RLConfig:
    config = MODEL_RL[preset][1]
    return replace(config, max_new_tokens=new, eval=replace(config.eval, max_new_tokens=new))


def measure(preset: str, new: int) -> dict[str, float]:
    """GiB by phase as in `Need`, "all" being the most that CUDA's allocator held; seconds of the second update."""
    import torch

    from r1kit.algo.losses import nll_loss
    from r1kit.algo.packing import Packable, pack
    from r1kit.model.lora import add_adapters
    from r1kit.sampling.local import LocalSampler
    from r1kit.training.learner import LocalLearner
    from r1kit.types import Prompt, SamplingParams

    cfg, card = MODEL_RL[preset][1], 24 if preset.endswith("-24gb") else 80
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (card * GIB - 0.7 * GIB) / total))
    model = random_model(MODELS[model_of(preset)])
    adapters = add_adapters(model, cfg.lora, seed=0, base="random")
    learner = LocalLearner(model, None, cfg.optim, memory=cfg.memory, adapters=adapters)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(model.config.vocab_size, (length,), generator=generator).tolist())

    longest = PROMPT + cfg.max_new_tokens
    lengths = [longest - 7 * row for row in range(cfg.tokens_per_microbatch // longest)]
    batches = [pack([Packable(tokens(length), PROMPT) for length in lengths], "cuda") for _ in range(2)]
    seconds = 0.0
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        for batch in batches:
            learner.forward_backward(batch, lambda logprobs, batch: nll_loss(logprobs, len(logprobs)))
        learner.optim_step(1e-6)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    standing, updating = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    sampling = standing
    if cfg.sampler == "local":
        torch.cuda.reset_peak_memory_stats()
        sampler = LocalSampler(Untold(), rows=cfg.rows)  # type: ignore[arg-type]
        sampler.load_weights(learner.publish(), version=0)
        prompts = [Prompt(tokens(PROMPT), seed) for seed in range(cfg.rows // cfg.group_size)]
        sampler.generate(prompts, SamplingParams(temperature=0.6, top_p=0.95, max_new_tokens=new), cfg.group_size)
        sampling = torch.cuda.max_memory_allocated()
    parts = {"standing": standing, "update": updating - standing, "sampling": sampling - standing}
    found = {part: size / GIB for part, size in parts.items()}
    return found | {"all": torch.cuda.max_memory_reserved() / GIB, "seconds": seconds}


class Untold:
    """A tokenizer for tokens that stand for nothing."""

    def decode(self, tokens: object) -> str:
        return ""


def random_model(base: BaseModel):  # noqa: ANN201
    """A decoder of that shape in bf16 on the GPU."""
    import torch

    from r1kit.model.transformer import Transformer, TransformerConfig

    shape = base.shape
    config = TransformerConfig(
        model_type="llama", vocab_size=shape.vocab, hidden=shape.hidden, layers=shape.layers, heads=shape.heads,
        kv_heads=shape.kv_heads, head_dim=shape.head_dim, mlp=shape.mlp, context=4096, tie_embeddings=shape.tied,
        qkv_bias=shape.qkv_bias,
    )  # fmt: skip
    with torch.device("meta"):
        model = Transformer(config)
    assert sum(weight.numel() for weight in model.parameters()) == shape.parameters
    model = model.to(torch.bfloat16).to_empty(device="cuda")
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1.0) if weight.dim() < 2 else weight.normal_(0.0, 0.02)
    return model


if __name__ == "__main__":
    main()
