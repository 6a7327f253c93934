"""Any other causal language model of transformers, through its own forward pass: slower, and for every architecture.

Sequences are padded to the longest of a chunk instead of packed, and the sampler neither shares the prefill of a group
nor refills rows that have ended.

Shapes: T packed tokens, D width, B sequences of a chunk.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from r1kit.model.config_json import read_generation, read_json
from r1kit.model.transformer import Attend, Decoder, DecoderConfig, Gather, PackedAttention
from r1kit.model.unembed import Unembed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LENGTH_FIELDS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")
NO_LIMIT = 1 << 20
"""Context of a model whose config names none: one without positions."""
LAYER = re.compile(r"[\w.]*?\.\d+(?=\.)")
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Config fields of `Unembed.cap`: Gemma, RecurrentGemma, xLSTM."""
SCALES = {
    "logit_scale": (1,), "logits_scaling": (-1, 1), "lm_head_multiplier": (1,), "output_multiplier": (1,),
    "logits_mup_width_multiplier": (-1,),
}  # fmt: skip
"""Config fields and the powers of them that may be `Unembed.scale`; Granite divides where HyperCLOVA X multiplies."""
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.02}
"""How far apart the same logits may be, as a share of the largest: transformers rounds after each operation."""
CACHES = ("past_key_values", "cache_params")
"""What transformers calls keys and values, and the states of Mamba."""


class GenericModel(Decoder):
    """transformers' module `hf` behind the decoders' interface."""

    def __init__(self, hf: PreTrainedModel, config: DecoderConfig) -> None:
        super().__init__()
        self.hf, self.config = hf, config
        # Registered once, in `hf`.
        object.__setattr__(self, "embed", hf.get_input_embeddings())
        self.takes = frozenset(inspect.signature(hf.base_model.forward).parameters)
        self.scale = 1.0
        self.cap: float | None = None
        self.cache: str | None = None
        """The one of CACHES that sampling keeps; without one, every step computes all tokens again."""

    @property
    def lm_head(self) -> Tensor:
        return self.unembed.weight_VD

    @property
    def unembed(self) -> Unembed:
        head = cast(nn.Linear, self.hf.get_output_embeddings())
        return Unembed(head.weight, head.bias, self.scale, self.cap)

    def forward(self, tokens_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        """Hidden states [T, D] of packed sequences; `attend` says where each begins, and its attention is not used."""
        assert isinstance(attend, PackedAttention), "this model attends by itself, and samples by `step`"
        del positions_T  # those of each sequence count from 0, as transformers does by itself
        hidden = []
        for start, end, batch, longest, index in attend.chunks:
            place = torch.arange(end - start, device=tokens_T.device) if index is None else index
            ids = tokens_T.new_zeros(batch * longest)
            ids[place] = tokens_T[start:end]
            # Padding comes after all real tokens, so that the causal mask is enough.
            out = self.hf.base_model(input_ids=ids.view(batch, longest), use_cache=False)
            hidden.append(Gather.apply(out.last_hidden_state.flatten(0, 1), place))
        return torch.cat(hidden)

    def step(self, ids_BT: Tensor, mask_BP: Tensor, past: Any) -> tuple[Tensor, Any]:
        """Hidden states [B, D] of the last of T new tokens, and the cache that holds them too.

        `mask_BP` is 0 at padding, which comes first, over all P tokens so far; `past` is None at the beginning.
        """
        if self.cache is None:
            return self._step_anew(ids_BT, mask_BP, past)
        inputs: dict[str, Any] = {self.cache: past}
        if self.cache == "past_key_values" or past is None:  # Mamba's mask is of new tokens; after the first, all real
            inputs["attention_mask"] = mask_BP
        if "position_ids" in self.takes:
            inputs["position_ids"] = (mask_BP.cumsum(-1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
        out = self.hf.base_model(input_ids=ids_BT, use_cache=True, **inputs)
        return out.last_hidden_state[:, -1], out.get(self.cache)

    def _step_anew(self, ids_BT: Tensor, mask_BP: Tensor, past_BP: Tensor | None) -> tuple[Tensor, Tensor]:
        """`step` whose cache is the tokens so far."""
        ids_BP = ids_BT if past_BP is None else torch.cat((past_BP, ids_BT), dim=1)
        lengths_B = mask_BP.sum(-1)
        attention = PackedAttention(lengths_B.tolist(), ids_BP.device)
        hidden_TD = self(ids_BP[mask_BP.bool()], attention.positions_T, attention)
        return hidden_TD[lengths_B.cumsum(0) - 1], ids_BP


def load_generic(folder: Path, reason: str, dtype: torch.dtype, device: torch.device | str) -> GenericModel:
    """The model of a folder that no decoder here computes, for `reason`. Says so on stderr, once.

    ValueError for a model type that transformers does not know, and for weights or logits of a kind that cannot be
    trained here.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    raw = read_json(folder / "config.json")
    kind = str(raw.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"{folder}: {reason}; nor does the installed transformers know it: a newer one may")
    if method := (raw.get("quantization_config") or {}).get("quant_method"):
        raise ValueError(f"{folder}: weights quantised by {method!r} cannot be trained; use the model's bf16 folder")
    logging.disable_progress_bar()  # a run has its own
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (ValueError, OSError) as error:
        raise ValueError(f"{folder}: transformers cannot open it ({error})") from error
    hf, info = loaded
    for fault in ("missing_keys", "mismatched_keys"):
        if names := sorted(map(str, info[fault])):
            raise ValueError(f"{folder}: {len(names)} {fault.replace('_', ' ')}, first {names[0]}; download it again")
    if kind == "rwkv":  # outside of training it would divide weights in place, and they would be saved like that
        hf.config.rescale_every = 0
    hf.generation_config = GenerationConfig()  # ours is saved; transformers refuses to save many that models come with
    text = hf.config.get_text_config().to_dict()
    context = next((text[name] for name in LENGTH_FIELDS if text.get(name)), NO_LIMIT)
    embed = hf.get_input_embeddings()
    config = DecoderConfig(
        model_type=kind, vocab_size=embed.num_embeddings, hidden=embed.embedding_dim, context=context,
        source=raw, generation=read_generation(folder),
    )  # fmt: skip
    model = GenericModel(hf.to(device).eval(), config)
    _check_logits(model, folder)
    model.cache = _find_cache(model)
    if model.cache is None:
        reason += "; without a cache for padded batches, each sampled token is a pass over all tokens before it"
    if unused := sorted(info["unexpected_keys"]):
        reason += f"; {len(unused)} weights are not used and will not be saved, first {unused[0]}"
    _say(kind, reason)
    return model


def generic_to_hf(model: GenericModel) -> Iterator[tuple[str, Tensor]]:
    """The weights under the names of the model's files, tied ones once, without buffers.

    Transformers keeps some weights in other tensors than the files, such as all experts of a layer in one: as when it
    saves, they are made what the files have. That is done layer by layer, so that few copies are there at a time.
    """
    from transformers.core_model_loading import revert_weight_conversion

    for _, weights in groupby(_module_weights(model.hf), key=lambda weight: _layer_of(weight[0])):
        yield from revert_weight_conversion(model.hf, dict(weights)).items()


def _module_weights(hf: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The weights under the names of transformers' modules, module by module: those with adapters are made merged."""
    buffers = {name for name, _ in hf.named_buffers()}
    parameters = {parameter.data_ptr() for parameter in hf.parameters()}
    for path, module in hf.named_modules():
        own: dict[str, Tensor] = {}
        module._save_to_state_dict(own, f"{path}." if path else "", False)
        for name, tensor in own.items():
            if name in buffers:
                continue
            if (place := tensor.data_ptr()) in parameters:  # a merged one may be where another one was
                parameters.remove(place)
            elif any(place == parameter.data_ptr() for parameter in module.parameters(recurse=False)):
                continue  # tied, and given before
            yield name, tensor


def _layer_of(name: str) -> str:
    """`model.layers.3` of model.layers.3.mlp.gate.weight; empty outside of layers."""
    found = LAYER.match(name)
    return found[0] if found else ""


@torch.no_grad()
def _check_logits(model: GenericModel, folder: Path) -> None:
    """Make the model's logits of hidden states as its config says: losses are computed from these.

    ValueError when that does not give transformers' logits.
    """
    kind = model.config.model_type
    if not isinstance(model.hf.get_output_embeddings(), nn.Linear):
        raise ValueError(f"{folder}: {kind} models have no linear layer that makes logits; use another model")
    tokens = torch.arange(2, device=model.embed.weight.device)
    attention = PackedAttention([2], tokens.device)
    hidden = model(tokens, attention.positions_T, attention)
    theirs = model.hf(input_ids=tokens[None]).logits[0].float()
    if not theirs.isfinite().all():
        raise ValueError(f"{folder}: its weights give logits that are not finite; download it again")
    text = model.hf.config.get_text_config()
    said = {name: getattr(text, name, None) for name in (*CAPS, *SCALES)}  # MiniCPM's is a property
    said = {name: float(value) for name, value in said.items() if value}
    scales = [said[name] ** power for name, powers in SCALES.items() if name in said for power in powers]
    limit = ROUNDING[model.embed.weight.dtype] * theirs.abs().max()
    for cap in (*(said[name] for name in CAPS if name in said), None):
        forms = [model.unembed._replace(scale=scale, cap=cap) for scale in (*scales, 1.0)]
        apart, best = min(((form(hidden) - theirs).abs().max().item(), index) for index, form in enumerate(forms))
        if apart <= limit:
            model.scale, model.cap = forms[best].scale, cap
            return
    fields = ", ".join(f"{name} {value:g}" for name, value in said.items())
    raise ValueError(
        f"{folder}: the logits of {kind} models are not hidden states times the head"
        f"{f', also with {fields}' if said else ''}; they cannot be trained here, use another model"
    )


@torch.no_grad()
def _find_cache(model: GenericModel) -> str | None:
    """The cache with which padding in front of a row does not change it; None where that is not so."""
    model.cache = next((name for name in CACHES if name in model.takes), None)
    if model.cache is None or "attention_mask" not in model.takes:
        return None
    ids = torch.arange(8, device=model.embed.weight.device)
    mask_BP = torch.tensor([[0, 0, 0, 1], [1, 1, 1, 1]], device=ids.device)
    _, past = model.step(ids.view(2, 4), mask_BP, None)
    if past is None:
        return None
    hidden_BD, _ = model.step(ids[:2, None], torch.cat((mask_BP, mask_BP[:, -1:]), dim=1), past)
    attention = PackedAttention([2], ids.device)
    expected_D = model(ids[[3, 0]], attention.positions_T, attention)[-1].float()
    return model.cache if (hidden_BD[0] - expected_D).norm() <= 0.1 * expected_D.norm() else None


@cache
def _say(kind: str, reason: str) -> None:
    print(
        f"{kind} runs through transformers' own forward pass, padded and slower than r1kit's decoders: {reason}",
        file=sys.stderr,
    )
