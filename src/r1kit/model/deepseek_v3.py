"""DeepSeek-V3 (arXiv 2412.19437; R1's base): multi-head latent attention (MLA), and mixtures of experts (section 2.1).

The KV cache holds the latent vectors, as in V3's own inference: 576 numbers a token and layer, not 40,960. The routing
bias stays as it was loaded: its update speed is 0 at the end of pretraining (section 4.2).

Shapes: T tokens, D width, H heads, N and R unrotated and rotated key width, C latent width, K value width, E experts,
A experts a token is sent to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r1kit.model.transformer import Attend, CacheShape, Gather, RMSNorm, Stack, TransformerConfig, rotate


@dataclass(frozen=True, kw_only=True)
class DeepseekConfig(TransformerConfig):
    """`head_dim` is N + R, `kv_heads` is `heads`, `mlp` the width of the first, dense layers."""

    q_rank: int | None
    """None: queries are projected in one step."""
    kv_rank: int
    nope_dim: int
    rotated_dim: int
    value_dim: int
    experts: int
    """Routed ones."""
    shared_experts: int
    experts_per_token: int
    groups: int
    groups_per_token: int
    normalise_weights: bool
    weight_scale: float
    expert_mlp: int
    dense_layers: int
    """The first ones, which have no experts."""
    interleaved: bool = True
    """The two numbers of a rotated pair lie side by side."""

    @property
    def rope_dim(self) -> int:
        return self.rotated_dim

    @property
    def cached(self) -> CacheShape:
        return CacheShape(1, self.kv_rank + self.rotated_dim, self.kv_rank, shared=True)

    @property
    def attention_scale(self) -> float:
        """Of the scores; YaRN's length correction is in it (`mscale_all_dim`)."""
        scaling = self.rope_scaling or {}
        factor, mscale = scaling.get("factor", 1.0), scaling.get("mscale_all_dim", 0)
        correction = 0.1 * mscale * math.log(factor) + 1 if mscale and factor > 1 else 1.0
        return self.head_dim**-0.5 * correction**2


class LatentAttention(nn.Module):
    """MLA (V3 equations 1-11). Keys and values are expanded from a latent vector; a cache gets the latent itself.

    With a cache, the expansion of keys moves to the queries and that of values to the output (V2, arXiv 2405.04434,
    section 2.1.2): the same function, in which all heads share one key [C + R] and one value [C].
    """

    def __init__(self, config: DeepseekConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        heads, hidden = config.heads, config.hidden
        if config.q_rank is None:
            self.q = nn.Linear(hidden, heads * config.head_dim, bias=False)
        else:
            self.q_down = nn.Linear(hidden, config.q_rank, bias=False)
            self.q_norm = RMSNorm(config.q_rank, 1e-6)
            self.q = nn.Linear(config.q_rank, heads * config.head_dim, bias=False)
        self.kv_down = nn.Linear(hidden, config.kv_rank + config.rotated_dim, bias=False)
        self.kv_norm = RMSNorm(config.kv_rank, 1e-6)
        self.kv = nn.Linear(config.kv_rank, heads * (config.nope_dim + config.value_dim), bias=False)
        self.out = nn.Linear(heads * config.value_dim, hidden, bias=False)

    def forward(self, x_TD: Tensor, cos_TR: Tensor, sin_TR: Tensor, attend: Attend) -> Tensor:
        config = self.config
        q = self.q(x_TD if config.q_rank is None else self.q_norm(self.q_down(x_TD))).unflatten(-1, (config.heads, -1))
        q_nope, q_rot = q.split([config.nope_dim, config.rotated_dim], dim=-1)
        latent_TC, k_rot = self.kv_down(x_TD).split([config.kv_rank, config.rotated_dim], dim=-1)
        latent_TC, k_rot = self.kv_norm(latent_TC), k_rot[:, None]
        if config.interleaved:
            q_rot, k_rot = (torch.cat((x[..., ::2], x[..., 1::2]), dim=-1) for x in (q_rot, k_rot))
        q_rot, k_rot = rotate(q_rot, cos_TR, sin_TR), rotate(k_rot, cos_TR, sin_TR)
        if attend.caches:
            key_HNC, value_HKC = self.kv.weight.view(config.heads, -1, config.kv_rank).split(
                [config.nope_dim, config.value_dim], dim=1
            )
            q = torch.cat((torch.einsum("thn,hnc->thc", q_nope, key_HNC), q_rot), dim=-1)
            latent = latent_TC[:, None]
            mixed = attend(self.layer, self._scaled(q), torch.cat((latent, k_rot), dim=-1), latent)
            return self.out(torch.einsum("thc,hkc->thk", mixed, value_HKC).flatten(-2))
        k_nope, v = self.kv(latent_TC).unflatten(-1, (config.heads, -1)).split([config.nope_dim, config.value_dim], -1)
        k = torch.cat((k_nope, k_rot.expand(-1, config.heads, -1)), dim=-1)
        return self.out(attend(self.layer, self._scaled(torch.cat((q_nope, q_rot), dim=-1)), k, v).flatten(-2))

    def _scaled(self, q: Tensor) -> Tensor:
        """`attend` scales scores by the width that it sees."""
        return q * (self.config.attention_scale * q.shape[-1] ** 0.5)


class SwiGLU(nn.Module):
    """Gate and up share a matrix."""

    def __init__(self, hidden: int, mlp: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden, 2 * mlp, bias=False)
        self.down = nn.Linear(mlp, hidden, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        gate, up = self.gate_up(x_TD).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Router(nn.Module):
    """Which experts a token is sent to, and their weights (V3 equations 12-16)."""

    bias: Tensor

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.experts, config.hidden))
        self.register_buffer("bias", torch.zeros(config.experts, dtype=torch.float32))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """The bias tells experts apart by less than bf16 resolves: a change of type leaves it in fp32."""
        kept = self.bias
        super()._apply(fn, recurse)
        same = kept.is_meta or self.bias.is_meta
        self.bias = torch.empty_like(self.bias, dtype=torch.float32) if same else kept.to(self.bias.device)
        return self

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [T, A], fp32, and experts [T, A]. The bias decides who is chosen, and has no part in the weights."""
        config = self.config
        scores_TE = F.linear(x_TD.float(), self.weight.float()).sigmoid()
        with torch.no_grad():
            choice = (scores_TE + self.bias).unflatten(-1, (config.groups, -1))
            best = choice.topk(min(2, choice.shape[-1]), dim=-1).values.sum(-1).topk(config.groups_per_token).indices
            outside = torch.ones_like(choice[..., 0], dtype=torch.bool).scatter_(-1, best, False)
            choice = choice.masked_fill(outside[..., None], float("-inf")).flatten(-2)
            experts_TA = choice.topk(config.experts_per_token, dim=-1).indices
        weights_TA = scores_TE.gather(-1, experts_TA)
        if config.normalise_weights:
            weights_TA = weights_TA / (weights_TA.sum(-1, keepdim=True) + 1e-20)
        return weights_TA * config.weight_scale, experts_TA


class Experts(nn.Module):
    """The routed experts and the shared ones."""

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__()
        self.router = Router(config)
        self.gate_up = nn.Parameter(torch.empty(config.experts, 2 * config.expert_mlp, config.hidden))
        self.down = nn.Parameter(torch.empty(config.experts, config.hidden, config.expert_mlp))
        self.shared = SwiGLU(config.hidden, config.expert_mlp * config.shared_experts)

    def forward(self, x_TD: Tensor) -> Tensor:
        weights_TA, experts_TA = self.router(x_TD)
        order = experts_TA.flatten().argsort(stable=True)
        counts = experts_TA.flatten().bincount(minlength=len(self.down)).tolist()
        copies = x_TD[:, None].expand(-1, experts_TA.shape[1], -1).flatten(0, 1)
        # Sorted by expert and put back by permutations: nothing is added in an order that could vary.
        outs = [
            F.linear(F.silu(gate) * up, down)
            for rows, gate_up, down in zip(
                Gather.apply(copies, order).split(counts), self.gate_up.unbind(), self.down.unbind(), strict=True
            )
            if len(rows)
            for gate, up in [F.linear(rows, gate_up).chunk(2, dim=-1)]
        ]
        routed = Gather.apply(torch.cat(outs), order.argsort()).unflatten(0, experts_TA.shape)
        return (routed * weights_TA[..., None]).sum(1).to(x_TD.dtype) + self.shared(x_TD)


class DeepseekBlock(nn.Module):
    """Latent attention, then a dense MLP or experts, each behind an RMSNorm and a residual."""

    def __init__(self, config: DeepseekConfig, layer: int) -> None:
        super().__init__()
        self.input_norm = RMSNorm(config.hidden, config.norm_eps)
        self.attention = LatentAttention(config, layer)
        self.mlp_norm = RMSNorm(config.hidden, config.norm_eps)
        self.mlp = SwiGLU(config.hidden, config.mlp) if layer < config.dense_layers else Experts(config)

    def forward(self, x_TD: Tensor, cos_TR: Tensor, sin_TR: Tensor, attend: Attend) -> Tensor:
        x_TD = x_TD + self.attention(self.input_norm(x_TD), cos_TR, sin_TR, attend)
        return x_TD + self.mlp(self.mlp_norm(x_TD))


class DeepseekV3(Stack):
    """DeepSeek-V3, R1 and their smaller kin (Moonlight). `kept` is what is saved again as it was loaded."""

    config: DeepseekConfig

    def __init__(self, config: DeepseekConfig) -> None:
        super().__init__(config)
        self.kept: dict[str, Tensor] = {}
        """Weights of the multi-token-prediction layers under Hugging Face's names, on CPU. They are not trained."""

    def make_block(self, layer: int) -> DeepseekBlock:
        return DeepseekBlock(self.config, layer)

    def keeps(self, name: str) -> bool:
        """Whether a file's weight is one of those layers' (they are numbered after the decoder's own)."""
        parts = name.split(".")
        return parts[:2] == ["model", "layers"] and int(parts[2]) >= self.config.layers


def deepseek_to_hf(model: DeepseekV3) -> Iterator[tuple[str, Tensor]]:
    """The blocks' weights under Hugging Face's names (views, no copy), without `kept`."""
    for layer, block in enumerate(cast("list[DeepseekBlock]", model.blocks)):
        prefix, attention = f"model.layers.{layer}.", block.attention
        names: dict[str, Any] = {
            "input_layernorm": block.input_norm,
            "post_attention_layernorm": block.mlp_norm,
            "self_attn.kv_a_proj_with_mqa": attention.kv_down,
            "self_attn.kv_a_layernorm": attention.kv_norm,
            "self_attn.kv_b_proj": attention.kv,
            "self_attn.o_proj": attention.out,
        }
        if model.config.q_rank is None:
            names["self_attn.q_proj"] = attention.q
        else:
            names |= {
                "self_attn.q_a_proj": attention.q_down,
                "self_attn.q_a_layernorm": attention.q_norm,
                "self_attn.q_b_proj": attention.q,
            }
        for name, module in names.items():
            yield f"{prefix}{name}.weight", module.weight
        if isinstance(block.mlp, SwiGLU):
            yield from _mlp_to_hf(f"{prefix}mlp.", block.mlp)
            continue
        experts = block.mlp
        yield f"{prefix}mlp.gate.weight", experts.router.weight
        yield f"{prefix}mlp.gate.e_score_correction_bias", experts.router.bias
        yield from _mlp_to_hf(f"{prefix}mlp.shared_experts.", experts.shared)
        for number, (gate_up, down) in enumerate(zip(experts.gate_up, experts.down, strict=True)):
            yield from _gate_up_to_hf(f"{prefix}mlp.experts.{number}.", gate_up)
            yield f"{prefix}mlp.experts.{number}.down_proj.weight", down


def _mlp_to_hf(prefix: str, mlp: SwiGLU) -> Iterator[tuple[str, Tensor]]:
    yield from _gate_up_to_hf(prefix, mlp.gate_up.weight)
    yield f"{prefix}down_proj.weight", mlp.down.weight


def _gate_up_to_hf(prefix: str, gate_up: Tensor) -> Iterator[tuple[str, Tensor]]:
    for name, part in zip(("gate_proj", "up_proj"), gate_up.chunk(2), strict=True):
        yield f"{prefix}{name}.weight", part
