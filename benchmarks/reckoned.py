"""What a preset takes of a GPU: reckoned and measured. `python benchmarks/reckoned.py r1-zero-qwen2.5-1.5b ...`

Random weights in the model's published shape; two updates on full micro-batches, and one call of the sampler with all
its rows and --new tokens each; of a -node preset, the learner's updates alone. Reward models of an r1- preset are there
and read a micro-batch; of a reward model's own preset, its updates on whole micro-batches. Each preset is a process of
its own, which gets no more memory than the preset's card.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

from r1kit.allocator import tune_allocator
from r1kit.config import RewardModelConfig, RLConfig
from r1kit.presets.memory import GIB, SCORED_TOKENS
from r1kit.presets.models import MODEL_RL, MODELS, PROMPT, BaseModel, judge, need
from r1kit.presets.models_r1 import R1_REWARD_MODEL, R1_RL

PRESETS: dict[str, tuple[str, Any]] = {**MODEL_RL, **R1_RL, **R1_REWARD_MODEL}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="+", choices=PRESETS, metavar="PRESET")
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


def config_of(preset: str, new: int) -> RLConfig | RewardModelConfig:
    config = PRESETS[preset][1]
    if isinstance(config, RewardModelConfig):
        return config
    return replace(config, max_new_tokens=new, eval=replace(config.eval, max_new_tokens=new))


def measure(preset: str, new: int) -> dict[str, float]:
    """GiB by phase as in `Need`, "all" being the most that CUDA's allocator held; seconds of the second update."""
    import torch

    from r1kit.algo.losses import nll_loss
    from r1kit.algo.packing import Packable, pack
    from r1kit.model.lora import add_adapters
    from r1kit.sampling.local import LocalSampler
    from r1kit.training.learner import LocalLearner
    from r1kit.training.reward_model import score_texts
    from r1kit.types import Prompt, SamplingParams

    cfg, card = PRESETS[preset][1], 24 if preset.endswith("-24gb") else 80
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (card * GIB - 0.7 * GIB) / total))
    if isinstance(cfg, RewardModelConfig):
        return measure_reward_model(preset, cfg)
    scorers = [
        random_reward_model(MODELS[judge(model_of(preset), small=cfg.lora.on)])
        for folder in (cfg.reward.helpful_model, cfg.reward.safety_model)
        if folder
    ]
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
    if scorers:
        torch.cuda.reset_peak_memory_stats()
        for scorer in scorers:
            score_texts(scorer, [tokens(longest) for _ in range(SCORED_TOKENS // longest)], SCORED_TOKENS)
        sampling = max(sampling, torch.cuda.max_memory_allocated())
    parts = {"standing": standing, "update": updating - standing, "sampling": sampling - standing}
    found = {part: size / GIB for part, size in parts.items()}
    return found | {"all": torch.cuda.max_memory_reserved() / GIB, "seconds": seconds}


def measure_reward_model(preset: str, cfg: RewardModelConfig) -> dict[str, float]:
    """As `measure`, of a reward model's own training."""
    import torch

    from r1kit.algo.packing import Packable, pack
    from r1kit.stages.reward_model import loss_of
    from r1kit.training.reward_model import RewardModelLearner

    base = next((one for one in MODELS.values() if one.hub == cfg.model), MODELS[model_of(preset)])
    learner = RewardModelLearner(random_reward_model(base), None, cfg.optim, memory=cfg.memory)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    count = cfg.tokens_per_microbatch // cfg.max_tokens
    texts = torch.randint(base.shape.vocab, (count, cfg.max_tokens), generator=generator).tolist()
    batch = pack([Packable(tuple(text), cfg.max_tokens) for text in texts], "cuda")
    terms = count // 2 if cfg.kind == "helpful" else count
    loss = loss_of(cfg.kind, torch.ones(terms, device="cuda"), terms)
    seconds = 0.0
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        for _ in range(2):
            learner.forward_backward(batch, loss)
        learner.optim_step(1e-6)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    standing, updating = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    parts = {"standing": standing, "update": updating - standing, "sampling": 0}
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


def random_reward_model(base: BaseModel):  # noqa: ANN201
    """The same with a head."""
    from r1kit.training.reward_model import add_head, first_head

    return add_head(random_model(base), first_head(base.shape.hidden, 0))


if __name__ == "__main__":
    main()
