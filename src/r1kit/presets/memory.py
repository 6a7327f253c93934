"""What a run takes of a GPU, reckoned from the model's published shape: what the presets of models.py are made by.

One learner on one GPU, computing in bf16. Parts are added up for the phases of a step, sampling (or scoring, where
reward models do it) and the update; the larger one counts. `benchmarks/reckoned.py` compares them with CUDA's own
count. Where vLLM has GPUs of its own, what it fills these with is its own decision; its weights and the keys and values
of all its rows are reckoned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from r1kit.config import (
    ALL_LINEAR,
    LoraConfig,
    MemoryConfig,
    RejectConfig,
    RewardModelConfig,
    RLConfig,
    SFTConfig,
)

GIB = 2**30
HEAD_CHUNK = 4096  # completion tokens whose logits exist at a time (training/learner.py)
PREFILL_TOKENS = 8192  # prompt tokens that are read at a time (sampling/local.py)
LOGIT_BYTES = 12  # of a number of the logits in training: three fp32 copies at a time
SCORED_TOKENS = 16_384  # that a reward model reads at a time (training/reward_model.py)
DRAW_BYTES = 100  # of one in sampling, where the nucleus is sorted; measured
RESERVE, SPARE = 1.0 * GIB, 0.08
"""CUDA's own, and the share of everything else that lies idle between tensors (the allocator's fragments)."""


@dataclass(frozen=True)
class Shape:
    """Numbers of a Qwen2 or Llama config.json."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    tied: bool
    qkv_bias: bool

    @property
    def parameters(self) -> int:
        """Weights, as a safetensors file counts them."""
        block = sum(inputs * outputs for inputs, outputs in self.linear.values()) + 2 * self.hidden
        bias = (self.heads + 2 * self.kv_heads) * self.head_dim if self.qkv_bias else 0
        return self.layers * (block + bias) + self.vocab * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each linear layer of a block."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, queries), "k_proj": (self.hidden, keys), "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden), "gate_proj": (self.hidden, self.mlp), "up_proj": (self.hidden, self.mlp),
            "down_proj": (self.mlp, self.hidden),
        }  # fmt: skip

    def adapter_parameters(self, lora: LoraConfig) -> int:
        """A and B of every adapted layer."""
        targets = self.linear if lora.targets == (ALL_LINEAR,) else lora.targets
        return self.layers * sum(lora.rank * sum(self.linear[name]) for name in targets)

    def cache_bytes(self, tokens: int) -> int:
        """Keys and values of so many tokens, bf16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim * tokens

    def kept_per_token(self) -> int:
        """Numbers of a block that its backward pass reads, for a token."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return 4 * self.hidden + 5 * queries + 5 * keys + 4 * self.mlp


@dataclass(frozen=True)
class Need:
    """Bytes of a run, and of its phases."""

    standing: int
    """Weights, their fp32 copies, AdamW's moments, the reference policy, reward models: there all the time."""
    sampling: int
    """KV cache, the prompts' pass, logits; or a reward model's pass, if that is more."""
    update: int
    """Gradients, activations of a micro-batch, logits."""
    cpu: int
    """In the machine's memory, besides what any process takes."""
    vllm: int = 0
    """On each of vLLM's own GPUs, where it has a copy of the model."""

    @property
    def gpu(self) -> int:
        """Of the learner or the local sampler: the larger phase, with what CUDA and the allocator's fragments take."""
        return int((self.standing + max(self.sampling, self.update)) * (1 + SPARE) + RESERVE)

    def fits(self, card_gib: float) -> bool:
        return self.gpu <= card_gib * GIB


def reckon(
    cfg: RLConfig | SFTConfig | RejectConfig | RewardModelConfig,
    shape: Shape,
    longest_prompt: int = 512,
    reward_models: Sequence[Shape] = (),
) -> Need:
    """What the run takes. `longest_prompt` in tokens, where the config's filter does not bound it; `reward_models`: the
    backbones of those that score.

    ValueError where vLLM has no GPUs of its own, or several for one model: it takes the share that it is given.
    """
    if isinstance(cfg, RewardModelConfig):
        return _reward_model(cfg, shape)
    prompt = cfg.filter.max_prompt_tokens or longest_prompt
    weights = 2 * shape.parameters
    if not isinstance(cfg, SFTConfig) and cfg.sampler == "vllm":
        return _beside_vllm(cfg, shape, longest_prompt, reward_models)
    if isinstance(cfg, RejectConfig):
        sampling = _sampling(shape, cfg.rows, cfg.num_samples, prompt, cfg.max_new_tokens)
        return Need(weights, sampling, 0, 0)
    with_reference = isinstance(cfg, RLConfig) and cfg.algo.kl_coef > 0
    standing, gradients, cpu = _trained(shape, cfg.lora, cfg.memory, with_reference=with_reference)
    sampling, longest = 0, prompt + cfg.max_new_tokens if isinstance(cfg, RLConfig) else cfg.max_tokens
    if isinstance(cfg, RLConfig):
        sampling = _sampling(shape, cfg.rows, cfg.group_size, prompt, cfg.max_new_tokens)
    if cfg.eval_every:
        evaluation = _sampling(shape, cfg.eval.rows, cfg.eval.num_samples, prompt, cfg.eval.max_new_tokens)
        sampling = max(sampling, evaluation)
    tokens = max(cfg.tokens_per_microbatch, longest)  # a sequence is never split
    update = gradients + _pass(shape, tokens, cfg.memory, all_weights=not cfg.lora.on)
    scorers = sum(2 * scorer.parameters for scorer in reward_models)
    return Need(weights + standing + scorers, max(sampling, _scoring(reward_models, longest)), update, cpu)


def _reward_model(cfg: RewardModelConfig, shape: Shape) -> Need:
    """A reward model's own training: all weights, no logits, nothing sampled. A micro-batch holds whole pairs."""
    standing, gradients, cpu = _trained(shape, LoraConfig(), cfg.memory, with_reference=False)
    tokens = max(cfg.tokens_per_microbatch, (2 if cfg.kind == "helpful" else 1) * cfg.max_tokens)
    update = gradients + _pass(replace(shape, vocab=0), tokens, cfg.memory, all_weights=False)
    return Need(2 * shape.parameters + standing, 0, update, cpu)


def _scoring(reward_models: Sequence[Shape], longest: int) -> int:
    """The pass of the larger reward model: they score one after the other."""
    return max((_forward(scorer, max(SCORED_TOKENS, longest)) for scorer in reward_models), default=0)


def _beside_vllm(
    cfg: RLConfig | RejectConfig, shape: Shape, longest_prompt: int, reward_models: Sequence[Shape]
) -> Need:
    """As if the learner sampled nothing. The weights' file and its copy are in CPU memory at a hand-over."""
    training = isinstance(cfg, RLConfig)
    if cfg.vllm.engine_args().get("data_parallel_size") != len(cfg.vllm.gpus) or (training and 0 in cfg.vllm.gpus):
        raise ValueError("sampler vllm: only a copy of the model on each of vLLM's own GPUs is reckoned")
    prompt, weights = cfg.filter.max_prompt_tokens or longest_prompt, 2 * shape.parameters
    sampler = weights + shape.cache_bytes(cfg.rows * (prompt + cfg.max_new_tokens))
    if not training:
        return Need(0, 0, 0, 0, sampler)
    alone = reckon(replace(cfg, sampler="local", eval_every=0), shape, longest_prompt, reward_models)
    scoring = _scoring(reward_models, prompt + cfg.max_new_tokens)
    return replace(alone, sampling=scoring, cpu=alone.cpu + 2 * weights, vllm=sampler)


def _trained(shape: Shape, lora: LoraConfig, memory: MemoryConfig, *, with_reference: bool) -> tuple[int, int, int]:
    """Bytes on the GPU besides the weights: standing, and in an update alone; and bytes in CPU memory."""
    moments = 8 if memory.optimizer == "adamw" else 2
    if lora.on:
        adapters = shape.adapter_parameters(lora)
        return adapters * (4 + moments + (4 if with_reference else 0) + 2), 4 * adapters, 0
    parameters, transient = shape.parameters, 2 * shape.vocab * shape.hidden  # the largest gradient, on its way
    reference = 2 * parameters if with_reference else 0
    here, away = (0, reference) if memory.offload_reference else (reference, 0)
    if memory.offload_optimizer:
        return here, transient, away + 16 * parameters
    return here + (4 + moments) * parameters, 4 * parameters + transient, away


def _sampling(shape: Shape, rows: int, group: int, prompt: int, new: int) -> int:
    """The cache of all rows, and the prompts' pass (its keys are there twice) or the drawing of a token."""
    tokens = min(PREFILL_TOKENS, -(-rows // group) * prompt)
    drawing = DRAW_BYTES * rows * shape.vocab
    reading = max(_forward(shape, tokens), drawing)
    return shape.cache_bytes(rows * (prompt + new)) + 2 * shape.cache_bytes(tokens) + reading


def _forward(shape: Shape, tokens: int) -> int:
    """A block's numbers in a pass without a gradient, bf16."""
    return 2 * tokens * 4 * (shape.mlp + shape.hidden)


def _pass(shape: Shape, tokens: int, memory: MemoryConfig, *, all_weights: bool) -> int:
    """Forward and backward of a micro-batch: what is kept for the gradient, and the logits or one block's own."""
    block = 2 * tokens * shape.kept_per_token()
    inputs = 2 * tokens * shape.hidden
    kept = shape.layers * (inputs if memory.gradient_checkpointing else block)
    chunk = shape.vocab * min(tokens, HEAD_CHUNK)
    # The head's gradient is made in fp32 while two copies of the logits are there, and rounded.
    head = 10 * chunk + 8 * shape.vocab * shape.hidden if all_weights else 0
    gradients = 2 * tokens * (4 * shape.mlp + 2 * shape.hidden)
    in_block = gradients + (block if memory.gradient_checkpointing else 0)
    return kept + max(LOGIT_BYTES * chunk, head, in_block)
