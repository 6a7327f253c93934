"""Low-rank adapters on the decoder's linear layers (LoRA, arXiv 2106.09685), in PEFT's file format.

y = W x + alpha / rank * B A x, without dropout. W is frozen in the compute type; A and B are fp32, and are rounded to
the compute type where they are used. Q/K/V and gate/up share a matrix here and are separate in the files: each has an A
and a B of its own, so an adapter is the same function here and in PEFT.

Shapes: T tokens, I and O a layer's inputs and outputs, R rank, S adapted parts of a fused matrix.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r1kit.config import LORA_TARGETS, LoraConfig
from r1kit.config.common import LoraTarget
from r1kit.model.transformer import Block, Transformer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NOT_READ = {
    "use_dora": False, "use_rslora": False, "fan_in_fan_out": False, "lora_bias": False, "bias": "none",
    "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None, "trainable_token_indices": None,
    "target_parameters": None,
}  # fmt: skip
"""Fields of adapter_config.json that change the function, with the value that does not."""


class LoraLinear(nn.Module):
    """A frozen linear layer, and adapters on those of its stacked matrices that are `targets`."""

    def __init__(self, linear: nn.Linear, parts: Sequence[tuple[str, int]], targets: Sequence[str], rank: int) -> None:
        """`parts`: name and rows of each matrix that is stacked in `linear`, in order."""
        super().__init__()
        self.base, self.bias = linear.weight, linear.bias
        self.rank, self.scale = rank, 1.0
        self.rows = [rows for _, rows in parts]
        self.adapted = [name in targets for name, _ in parts]
        self.names = [name for name, _ in parts if name in targets]
        device, inputs = linear.weight.device, linear.in_features
        outputs = sum(rows for name, rows in parts if name in targets)
        self.lora_a = nn.Parameter(torch.zeros(len(self.names) * rank, inputs, device=device))
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank, device=device))
        self._merged: Tensor | None = None
        self._ready: tuple[Tensor, Tensor, tuple[int, int]] | None = None

    @property
    @torch.no_grad()
    def weight(self) -> Tensor:
        """W + scale B A [O, I], rounded once, to W's type: what a sampler or an export reads. Made at every call."""
        if self._merged is not None:
            return self._merged
        merged = self.base.to(torch.float32, copy=True)
        factors = iter(self.factors())
        for part, adapted in zip(merged.split(self.rows), self.adapted, strict=True):
            if adapted:
                _, a, b = next(factors)
                part.addmm_(b, a, alpha=self.scale)
        return merged.to(self.base.dtype)

    def factors(self) -> list[tuple[str, Tensor, Tensor]]:
        """(name, A [R, I], B [O, R]) of each adapted part: views of the parameters."""
        rows = [rows for rows, adapted in zip(self.rows, self.adapted, strict=True) if adapted]
        return list(zip(self.names, self.lora_a.split(self.rank), self.lora_b.split(rows), strict=True))

    @torch.no_grad()
    def prepare(self) -> None:
        """Round A and B and lay the parts' B out block by block, so that decoding a token takes two products more."""
        b = self.lora_b.new_zeros(sum(self.rows), self.lora_a.shape[0])
        factors, column = iter(self.factors()), 0
        for block, adapted in zip(b.split(self.rows), self.adapted, strict=True):
            if adapted:
                block[:, column : column + self.rank] = next(factors)[2]
                column += self.rank
        self._ready = self.lora_a.to(self.base.dtype), b.to(self.base.dtype), self._versions()

    def changed(self) -> None:
        """A or B were written in a way that autograd may not have counted."""
        self._ready = None

    def _versions(self) -> tuple[int, int]:
        return self.lora_a._version, self.lora_b._version

    def forward(self, x_TI: Tensor) -> Tensor:
        out_TO = F.linear(x_TI, self.base, self.bias)
        if self._ready is not None and not torch.is_grad_enabled() and self._ready[2] == self._versions():
            a, b, _ = self._ready
            return torch.addmm(out_TO, F.linear(x_TI, a), b.T, alpha=self.scale)
        low_TSR = F.linear(x_TI, self.lora_a.to(x_TI.dtype)).split(self.rank, -1)
        b_OR = self.lora_b.to(x_TI.dtype)
        if len(self.rows) == 1:
            return torch.addmm(out_TO, low_TSR[0], b_OR.T, alpha=self.scale)
        parts, used, start = [], 0, 0
        for out, rows, adapted in zip(out_TO.split(self.rows, -1), self.rows, self.adapted, strict=True):
            if adapted:
                out = torch.addmm(out, low_TSR[used], b_OR[start : start + rows].T, alpha=self.scale)
                used, start = used + 1, start + rows
            parts.append(out)
        return torch.cat(parts, -1)


@dataclass(frozen=True)
class Adapters:
    """The adapters of one model, whose other weights are frozen."""

    config: LoraConfig
    """With the rank, alpha and targets that hold."""
    base: str
    """Name of the model that they belong to."""
    layers: dict[str, LoraLinear]
    """By the name of the module that the adapted layers have in Hugging Face's model; `.qkv` and the like follow."""

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for layer in self.layers.values() for parameter in (layer.lora_a, layer.lora_b)]

    def prepare(self) -> None:
        """Make sampling fast until A or B change; what is computed stays the same."""
        for layer in self.layers.values():
            layer.prepare()

    def changed(self) -> None:
        """To be called by who wrote A or B behind autograd's back, as some optimizers do."""
        for layer in self.layers.values():
            layer.changed()

    def weights(self) -> dict[str, Tensor]:
        """A [R, I] and B [O, R] of every adapted layer under PEFT's names: views of the parameters."""
        found: dict[str, Tensor] = {}
        for path, layer in self.layers.items():
            for name, a, b in layer.factors():
                prefix = f"base_model.model.{path.rpartition('.')[0]}.{name}"
                found |= {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}
        return found

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors, as `PeftModel.from_pretrained` reads them."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: weight.detach().cpu().contiguous() for name, weight in self.weights().items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        about = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base,
            "r": self.config.rank,
            "lora_alpha": _plain(self.config.alpha),
            "lora_dropout": 0.0,
            "target_modules": list(self.config.targets),
            "init_lora_weights": True,
            "inference_mode": True,
            "bias": "none",
            "modules_to_save": None,
        }
        (folder / CONFIG).write_text(json.dumps(about, indent=2) + "\n")

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take the weights of adapter files. ValueError when they are not for these layers."""
        from safetensors.torch import load_file

        saved, mine = load_file(folder / WEIGHTS), self.weights()
        if odd := sorted(saved.keys() ^ mine.keys()):
            where = "the file has no" if odd[0] in mine else "the model has no place for"
            raise ValueError(
                f"{folder / WEIGHTS}: {where} {odd[0]} ({len(odd)} weights do not fit); give the adapter's own model "
                f"as --model, and an adapter that has every layer's {', '.join(self.config.targets)}"
            )
        for name, weight in mine.items():
            if saved[name].shape != weight.shape:
                raise ValueError(
                    f"{folder / WEIGHTS}: {name} is {list(saved[name].shape)}, the model takes {list(weight.shape)}; "
                    f"give the adapter's own model as --model"
                )
            weight.copy_(saved[name])

    @contextmanager
    def merged(self) -> Iterator[None]:
        """While open, the layers' `weight` is ready, in CPU memory: an export takes no second model on the device."""
        try:
            for layer in self.layers.values():
                layer._merged = layer.weight.cpu()
            yield
        finally:
            for layer in self.layers.values():
                layer._merged = None


def add_adapters(model: nn.Module, config: LoraConfig, *, seed: int, base: str) -> Adapters | None:
    """Freeze `model` and put adapters on its linear layers; None, and nothing changed, where `config` has none.

    New ones change nothing until they are trained: B is 0, A uniform in +-1 / sqrt(I), a function of `seed`. ValueError
    for a model without the decoder's blocks and for an adapter that does not fit it; FileNotFoundError for none.
    """
    if not config.on:
        return None
    if not isinstance(model, Transformer):
        raise ValueError(f"{base}: adapters are for Qwen2, Qwen3 and Llama; leave out --lora, which trains all weights")
    folder = Path(config.adapter) if config.adapter else None
    config = read_adapter_config(folder, config) if folder is not None else config
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    layers: dict[str, LoraLinear] = {}
    for index, block in enumerate(cast("list[Block]", model.blocks)):
        for module, attribute, parts in _stacks(block):
            if not any(name in config.targets for name, _ in parts):
                continue
            layer = LoraLinear(block.get_submodule(attribute), parts, config.targets, config.rank)  # type: ignore[arg-type]
            layer.scale = config.alpha / config.rank
            bound = layer.lora_a.shape[1] ** -0.5
            with torch.no_grad():
                layer.lora_a.copy_(torch.empty(layer.lora_a.shape).uniform_(-bound, bound, generator=generator))
            block.set_submodule(attribute, layer)
            layers[f"model.layers.{index}.{module}.{attribute}"] = layer
    adapters = Adapters(config, base, layers)
    if folder is not None:
        adapters.load(folder)
    return adapters


def _stacks(block: Block) -> list[tuple[str, str, list[tuple[str, int]]]]:
    """(Hugging Face's module, our layer, (name, rows) of the matrices stacked in it) of each linear layer."""
    q, k, v = block.splits
    hidden, mlp = block.down.out_features, block.down.in_features
    return [
        ("self_attn", "qkv", [("q_proj", q), ("k_proj", k), ("v_proj", v)]),
        ("self_attn", "out", [("o_proj", hidden)]),
        ("mlp", "gate_up", [("gate_proj", mlp), ("up_proj", mlp)]),
        ("mlp", "down", [("down_proj", hidden)]),
    ]


def read_adapter_config(folder: Path, config: LoraConfig) -> LoraConfig:
    """`config` with the rank, alpha and targets of the adapter in `folder`.

    FileNotFoundError where there is none; ValueError for a kind of adapter that is not read, or another rank than the
    one asked for.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"--lora.adapter {folder}: no {name}; give a folder that r1kit or PEFT saved an adapter in"
            )
    about: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if about.get("peft_type") != "LORA":
        raise ValueError(f"{folder / CONFIG}: peft_type is {about.get('peft_type')!r}; only LORA adapters are read")
    for name, plain in _NOT_READ.items():
        if about.get(name) and about[name] != plain:
            raise ValueError(
                f"{folder / CONFIG}: {name} is {about[name]!r}; only plain LoRA is read: merge it with PEFT, and "
                f"give the merged model as --model"
            )
    rank = int(about["r"])
    if config.rank not in (0, rank):
        raise ValueError(f"--lora.rank is {config.rank}, the adapter in {folder} has {rank}; leave out --lora.rank")
    # PEFT may have kept a pattern: which layers have an adapter is in the names of the weights.
    return replace(config, rank=rank, alpha=float(about["lora_alpha"]), targets=_targets_in(folder / WEIGHTS))


def _targets_in(file: Path) -> tuple[LoraTarget, ...]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        names = {key.split(".")[-3] for key in weights.keys() if ".lora_" in key}  # noqa: SIM118 - not a dict
    if odd := sorted(names.difference(LORA_TARGETS)):
        raise ValueError(f"{file}: it has an adapter on {odd[0]}; adapters are read on {', '.join(LORA_TARGETS)}")
    return tuple(name for name in LORA_TARGETS if name in names)


def _plain(value: float) -> float | int:
    """32.0 -> 32, as PEFT writes it."""
    return int(value) if value == int(value) else value
