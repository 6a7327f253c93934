"""One decoder for training and sampling: Qwen2, Qwen3, Llama and Mistral (RMSNorm, GQA, RoPE, SwiGLU).

`Decoder` is what the learner and the sampler ask of any model; DeepSeek-V3 and transformers' own have their own files.

Tokens are always flat, [T, D]: packed sequences when training, one token per row when decoding. Only attention needs to
know which, so it is an argument: `PackedAttention` (here) or the sampler's `KVCache`.

Shapes: T tokens, D width, H query heads, G key/value heads, K head width, V vocabulary, B sequences, L layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r1kit.model.rope import rope_table
from r1kit.model.unembed import Unembed


class CacheShape(NamedTuple):
    """What a KV cache holds of one token in one layer."""

    heads: int
    key: int
    value: int
    shared: bool = False
    """Values are the first numbers of the keys: one memory holds both."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What the learner and the sampler ask of any model's config."""

    model_type: str
    vocab_size: int
    hidden: int
    context: int
    source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The folder's own config.json: what is saved keeps the fields that nothing here reads."""
    generation: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The folder's own generation_config.json."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(DecoderConfig):
    """What the weights' shapes and the forward pass depend on; `model/config_json.py` makes it from a config.json."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    """transformers' rope_parameters, for a `rope_type` other than default."""
    norm_eps: float = 1e-6
    tie_embeddings: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @property
    def rope_dim(self) -> int:
        """Numbers of a head that are rotated."""
        return self.head_dim

    @property
    def cached(self) -> CacheShape:
        return CacheShape(self.kv_heads, self.head_dim, self.head_dim)


class Attend(Protocol):
    """Causal attention of some layout over one layer's queries, keys and values.

    Scores are scaled by key width ** -0.5; values may have another width than keys.
    """

    caches: bool
    """Keys and values are kept for later steps, so they come in `TransformerConfig.cached`'s shape."""

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor: ...


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotate(x_THK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Rotary position embedding in Hugging Face's half-split layout; `sin` carries the sign of its first half."""
    half = x_THK.shape[-1] // 2
    swapped = torch.cat((x_THK[..., half:], x_THK[..., :half]), dim=-1)
    return x_THK * cos_TK[:, None] + swapped * sin_TK[:, None]


class Block(nn.Module):
    """Attention and SwiGLU, each behind an RMSNorm and a residual. Q, K, V share a matrix; so do gate and up."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        heads, kv_heads, width = config.heads, config.kv_heads, config.head_dim
        self.layer = layer
        self.splits = [heads * width, kv_heads * width, kv_heads * width]
        self.head_dim = width
        self.input_norm = RMSNorm(config.hidden, config.norm_eps)
        self.qkv = nn.Linear(config.hidden, sum(self.splits), bias=config.qkv_bias)
        self.q_norm = RMSNorm(width, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(width, config.norm_eps) if config.qk_norm else None
        self.out = nn.Linear(heads * width, config.hidden, bias=config.out_bias)
        self.mlp_norm = RMSNorm(config.hidden, config.norm_eps)
        self.gate_up = nn.Linear(config.hidden, 2 * config.mlp, bias=config.mlp_bias)
        self.down = nn.Linear(config.mlp, config.hidden, bias=config.mlp_bias)

    def forward(self, x_TD: Tensor, cos_TK: Tensor, sin_TK: Tensor, attend: Attend) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (-1, self.head_dim))
            for part in self.qkv(self.input_norm(x_TD)).split(self.splits, dim=-1)
        )
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, cos_TK, sin_TK), rotate(k, cos_TK, sin_TK)
        x_TD = x_TD + self.out(attend(self.layer, q, k, v).flatten(-2))
        gate, up = self.gate_up(self.mlp_norm(x_TD)).chunk(2, dim=-1)
        return x_TD + self.down(F.silu(gate) * up)


class Decoder(nn.Module, ABC):
    """What the learner and the sampler ask of a model: `Transformer`, `DeepseekV3`, or `GenericModel`."""

    config: DecoderConfig
    embed: nn.Embedding

    @property
    @abstractmethod
    def lm_head(self) -> Tensor:
        """The [V, D] matrix that turns hidden states into logits."""

    @property
    def unembed(self) -> Unembed:
        """What makes logits of hidden states: the product with `lm_head`, unless a model does more."""
        return Unembed(self.lm_head)

    @abstractmethod
    def forward(self, tokens_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        """Hidden states [T, D] after the last norm. `positions_T` counts from 0 within each sequence."""


class Stack(Decoder):
    """Embedding, blocks, norm and head. A subclass says what a block is."""

    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden)
        self.blocks = nn.ModuleList(self.make_block(layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.norm_eps)
        self.head = None if config.tie_embeddings else nn.Linear(config.hidden, config.vocab_size, bias=False)
        self._rope: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def make_block(self, layer: int) -> nn.Module:
        """Takes (x_TD, cos_TK, sin_TK, attend) and returns [T, D]."""

    @property
    def lm_head(self) -> Tensor:
        return self.embed.weight if self.head is None else self.head.weight

    def forward(self, tokens_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        x_TD = self.embed(tokens_T)
        cos, sin = self._rope_table(x_TD)
        cos_TK, sin_TK = cos[positions_T], sin[positions_T]
        for block in self.blocks:
            x_TD = block(x_TD, cos_TK, sin_TK, attend)
        return self.norm(x_TD)

    def _rope_table(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and signed sin for all positions, made once per device and type in fp32."""
        if self._rope is None or self._rope[0].device != like.device or self._rope[0].dtype != like.dtype:
            cos, sin = rope_table(
                self.config.rope_theta, self.config.rope_scaling, self.config.rope_dim, self.config.context, like.device
            )
            self._rope = (torch.cat((cos, cos), -1).to(like.dtype), torch.cat((-sin, sin), -1).to(like.dtype))
        return self._rope

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """GPT-2's initialisation: normal(0, 0.02), the outputs of a block scaled down by sqrt(2 L)."""
        for name, weight in self.named_parameters():
            if weight.dim() < 2:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            scale = (2 * self.config.layers) ** -0.5 if name.endswith(("out.weight", "down.weight")) else 1.0
            weight.copy_(torch.empty(weight.shape).normal_(0.0, 0.02 * scale, generator=generator))


class Transformer(Stack):
    """The decoder of Qwen2, Qwen3, Llama and Mistral; what differs between them is in the config."""

    def make_block(self, layer: int) -> Block:
        return Block(self.config, layer)


class _Scatter(torch.autograd.Function):
    """Rows of x placed into a zero tensor of `size` rows; the gradient gathers them back."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor, size: int) -> Tensor:  # noqa: ANN001
        ctx.save_for_backward(index)
        return x.new_zeros(size, *x.shape[1:]).index_copy_(0, index, x)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN001
        (index,) = ctx.saved_tensors
        return grads[0].index_select(0, index), None, None


class Gather(torch.autograd.Function):
    """Distinct rows of x; the gradient scatters them (faster than index_select's accumulating backward)."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor) -> Tensor:  # noqa: ANN001
        ctx.save_for_backward(index)
        ctx.size = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN001
        (index,) = ctx.saved_tensors
        return grads[0].new_zeros(ctx.size, *grads[0].shape[1:]).index_copy_(0, index, grads[0]), None


class PackedAttention:
    """Causal attention within each of the packed sequences.

    Everything else works on packed tokens; only here are neighbouring sequences laid out as [B, longest], in chunks of
    similar length, so pass sequences sorted by length. Padded keys come after all real ones, so the causal mask is
    enough.
    """

    caches = False
    # Up to this many tokens, batched matrix products beat CPU SDPA's backward, at [B, H, T, T] of memory.
    MATMUL_LIMIT = 1024
    # Keys x queries of one chunk: bounds that memory.
    CHUNK_AREA = 1 << 21
    # The shortest of a chunk, as a share of its longest: each costs a product of the longest's size.
    SHORTEST = 0.75

    def __init__(self, lengths: Sequence[int], device: torch.device | str) -> None:
        self.lengths = list(lengths)
        self.positions_T = torch.cat([torch.arange(length) for length in self.lengths]).to(device)
        self.chunks: list[tuple[int, int, int, int, Tensor | None]] = []  # start, end, B, longest, index
        start, first = 0, 0
        while first < len(self.lengths):
            last, longest, shortest = first, 0, self.lengths[first]
            while last < len(self.lengths):
                longest_with, shortest = max(longest, self.lengths[last]), min(shortest, self.lengths[last])
                area = longest_with**2 * (last + 1 - first)
                if last > first and (area > self.CHUNK_AREA or shortest < self.SHORTEST * longest_with):
                    break
                longest, last = longest_with, last + 1
            lengths_B = self.lengths[first:last]
            index = None
            if any(length != longest for length in lengths_B):
                index = torch.cat([row * longest + torch.arange(n) for row, n in enumerate(lengths_B)]).to(device)
            self.chunks.append((start, start + sum(lengths_B), len(lengths_B), longest, index))
            start, first = start + sum(lengths_B), last
        self.masks: dict[int, Tensor] = {}

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        del layer
        outs = []
        for start, end, batch, longest, index in self.chunks:
            q, k, v = (
                (x[start:end] if index is None else _Scatter.apply(x[start:end], index, batch * longest)).view(
                    batch, longest, x.shape[1], x.shape[2]
                )
                for x in (q_THK, k_TGK, v_TGK)
            )
            out = self._attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2).flatten(0, 1)
            outs.append(out if index is None else Gather.apply(out, index))
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _attend(self, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor) -> Tensor:
        batch, heads, length, width = q_BHTK.shape
        groups = k_BGTK.shape[1]
        if q_BHTK.device.type != "cpu" or length > self.MATMUL_LIMIT:
            return F.scaled_dot_product_attention(q_BHTK, k_BGTK, v_BGTK, is_causal=True, enable_gqa=groups < heads)
        if length not in self.masks:
            self.masks[length] = q_BHTK.new_full((length, length), float("-inf")).triu(1).repeat(heads // groups, 1)
        # The query heads that share a key head become more rows of one product.
        q = (q_BHTK * width**-0.5).reshape(batch, groups, heads // groups * length, width)
        scores = q @ k_BGTK.transpose(-1, -2) + self.masks[length]
        return (scores.softmax(-1) @ v_BGTK).view(batch, heads, length, -1)
