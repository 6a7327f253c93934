"""Low-rank adapters on a model's linear layers (LoRA, arXiv 2106.09685), in PEFT's file format.

y = W x + alpha / rank * B A x, without dropout. W is frozen in the compute type; A and B are fp32, and are rounded to
the compute type where they are used. Matrices that are one here and several in the files (Q/K/V, gate/up) have an A and
a B for each, so an adapter is the same function here and in PEFT.

Shapes: T tokens, I and O a layer's inputs and outputs, R rank, S adapted parts of a fused matrix.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r1kit.config import ALL_LINEAR, LoraConfig
from r1kit.model.deepseek_v3 import DeepseekBlock, DeepseekV3, SwiGLU
from r1kit.model.generic import GenericModel
from r1kit.model.transformer import Block, Transformer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NOT_READ = {
    "use_dora": False, "use_rslora": False, "fan_in_fan_out": False, "lora_bias": False, "bias": "none",
    "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None, "trainable_token_indices": None,
}  # fmt: skip
"""Fields of adapter_config.json that change the function, with the value that does not."""
_OF_EXPERTS = frozenset({"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})
"""Names that PEFT takes for the routed experts' own in a mixture of experts, also where other layers have them."""


class LoraLinear(nn.Module):
    """A frozen linear layer, and adapters on those of its stacked matrices that are `targets`.

    Its state_dict is that of the merged `nn.Linear`: a transformers model with adapters is saved as one without.
    """

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
        self.decodes_by_weight = False
        """Decoding reads `weight` at every token (MLA's keys and values): `prepare` keeps it."""
        self._merged: Tensor | None = None
        self._ready: tuple[Tensor, Tensor, tuple[int, int]] | None = None
        self._ready_weight: Tensor | None = None

    @property
    @torch.no_grad()
    def weight(self) -> Tensor:
        """W + scale B A [O, I], rounded once, to W's type: what MLA's decoding or an export reads. Made at every call,
        unless it is kept."""
        if self._merged is not None:
            return self._merged
        if self._ready_weight is not None and self._is_ready():
            return self._ready_weight
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
        self.changed()
        kept = self.weight if self.decodes_by_weight else None
        self._ready = self.lora_a.to(self.base.dtype), b.to(self.base.dtype), self._versions()
        self._ready_weight = kept

    def changed(self) -> None:
        """A or B were written in a way that autograd may not have counted."""
        self._ready = self._ready_weight = None

    def _versions(self) -> tuple[int, int]:
        return self.lora_a._version, self.lora_b._version

    def _is_ready(self) -> bool:
        return self._ready is not None and not torch.is_grad_enabled() and self._ready[2] == self._versions()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        del keep_vars
        destination[f"{prefix}weight"] = self.weight
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias.detach()

    def forward(self, x_TI: Tensor) -> Tensor:
        if x_TI.dim() != 2:  # transformers' own layers have batches
            return self(x_TI.flatten(0, -2)).unflatten(0, x_TI.shape[:-1])
        out_TO = F.linear(x_TI, self.base, self.bias)
        if self._ready is not None and self._is_ready():
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
    """By the name of the module here. A layer's own names are those in Hugging Face's model."""
    has_experts: bool
    """The model has routed experts, which have no adapters."""

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
        for layer in self.layers.values():
            for name, a, b in layer.factors():
                prefix = f"base_model.model.{name}"
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
            **self._targets(),
            "init_lora_weights": True,
            "inference_mode": True,
            "bias": "none",
            "modules_to_save": None,
        }
        (folder / CONFIG).write_text(json.dumps(about, indent=2) + "\n")

    def _targets(self) -> dict[str, list[str]]:
        """PEFT's target_modules; and target_parameters, which name dense and shared layers without meaning experts."""
        if not self.has_experts:
            return {"target_modules": list(self.config.targets)}
        names = [name.split(".") for layer in self.layers.values() for name in layer.names]
        ends = [f"{module}.{name}.weight" for *_, module, name in names if name in _OF_EXPERTS]
        modules = [name for name in self.config.targets if name not in _OF_EXPERTS]
        return {"target_modules": modules, "target_parameters": list(dict.fromkeys(ends))}

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take the weights of adapter files; a warning on stderr where they name another model than `base`.

        ValueError when they are not for these layers.
        """
        from safetensors.torch import load_file

        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        theirs = about.get("base_model_name_or_path")
        if theirs and Path(theirs).resolve() != Path(self.base).resolve():
            print(
                f"warning: the adapter in {folder} was trained on {theirs}, and is put on {self.base}; on other "
                f"weights it is another function: give {theirs} as --model, unless it has only moved",
                file=sys.stderr,
            )
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


@contextmanager
def bases(model: nn.Module) -> Iterator[bool]:
    """While open, the layers' `weight` is the frozen one: shapes cost nothing. Whether the model has adapters."""
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
    before = [layer._merged for layer in layers]
    try:
        for layer in layers:
            layer._merged = layer.base
        yield bool(layers)
    finally:
        for layer, merged in zip(layers, before, strict=True):
            layer._merged = merged


def add_adapters(model: nn.Module, config: LoraConfig, *, seed: int, base: str) -> Adapters | None:
    """Freeze `model` and put adapters on its linear layers; None, and nothing changed, where `config` has none.

    New ones change nothing until they are trained: B is 0, A uniform in +-1 / sqrt(I), a function of `seed`. ValueError
    for layers that the model does not have and for an adapter that does not fit it; FileNotFoundError for none.
    """
    if not config.on:
        return None
    folder = Path(config.adapter) if config.adapter else None
    config = read_adapter_config(folder, config) if folder is not None else config
    places = list(linear_layers(model))
    names = [name for _, parts in places for name, _ in parts]
    asked_by = "--lora.targets" if folder is None else f"{folder / WEIGHTS}:"
    config = replace(config, targets=_targets(config.targets, names, base, asked_by))
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    layers: dict[str, LoraLinear] = {}
    for path, parts in places:
        targets = [name for name, _ in parts if _leaf(name) in config.targets]
        if not targets:
            continue
        layer = LoraLinear(cast(nn.Linear, model.get_submodule(path)), parts, targets, config.rank)
        layer.scale = config.alpha / config.rank
        layer.decodes_by_weight = isinstance(model, DeepseekV3) and path.endswith(".attention.kv")
        bound = layer.lora_a.shape[1] ** -0.5
        with torch.no_grad():
            layer.lora_a.copy_(torch.empty(layer.lora_a.shape).uniform_(-bound, bound, generator=generator))
        model.set_submodule(path, layer)
        layers[path] = layer
    adapters = Adapters(config, base, layers, has_experts=_has_experts(model))
    if folder is not None:
        adapters.load(folder)
    return adapters


def linear_layers(model: nn.Module) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """(module here, (Hugging Face's name, rows) of the matrices stacked in it) of each linear layer but the head.

    Routed experts, which are one tensor here and in transformers, and their router are not among them.
    """
    match model:
        case Transformer():
            for index, block in enumerate(cast("list[Block]", model.blocks)):
                here, (q, k, v) = f"model.layers.{index}", block.splits
                qkv = [(f"{here}.self_attn.{name}_proj", rows) for name, rows in (("q", q), ("k", k), ("v", v))]
                yield f"blocks.{index}.qkv", qkv
                yield f"blocks.{index}.out", [(f"{here}.self_attn.o_proj", block.out.out_features)]
                yield from _mlp(f"blocks.{index}", f"{here}.mlp", block.gate_up, block.down)
        case DeepseekV3():
            for index, block in enumerate(cast("list[DeepseekBlock]", model.blocks)):
                here, mlp = f"model.layers.{index}", block.mlp
                q = {"q": "q_proj"} if model.config.q_rank is None else {"q_down": "q_a_proj", "q": "q_b_proj"}
                kv = {"kv_down": "kv_a_proj_with_mqa", "kv": "kv_b_proj"}
                for name, theirs in {**q, **kv, "out": "o_proj"}.items():
                    layer = cast(nn.Linear, block.attention.get_submodule(name))
                    yield f"blocks.{index}.attention.{name}", [(f"{here}.self_attn.{theirs}", layer.out_features)]
                if isinstance(mlp, SwiGLU):
                    yield from _mlp(f"blocks.{index}.mlp", f"{here}.mlp", mlp.gate_up, mlp.down)
                else:
                    ours, theirs = f"blocks.{index}.mlp.shared", f"{here}.mlp.shared_experts"
                    yield from _mlp(ours, theirs, mlp.shared.gate_up, mlp.shared.down)
        case GenericModel():
            head = model.hf.get_output_embeddings()
            for name, module in model.hf.named_modules():
                if isinstance(module, nn.Linear) and module is not head:
                    yield f"hf.{name}", [(name, module.out_features)]
        case _:
            raise AssertionError(f"{type(model).__name__} is no model of r1kit")


def _has_experts(model: nn.Module) -> bool:
    return isinstance(model, DeepseekV3) or any(".experts." in name for name, _ in model.named_parameters())


def _mlp(ours: str, theirs: str, gate_up: nn.Linear, down: nn.Linear) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    half = gate_up.out_features // 2
    yield f"{ours}.gate_up", [(f"{theirs}.gate_proj", half), (f"{theirs}.up_proj", half)]
    yield f"{ours}.down", [(f"{theirs}.down_proj", down.out_features)]


def _targets(wanted: Sequence[str], names: Sequence[str], base: str, asked_by: str) -> tuple[str, ...]:
    """The layers' last names that are wanted, in the model's order. ValueError for one that it does not have."""
    known = list(dict.fromkeys(map(_leaf, names)))
    if not known:
        raise ValueError(f"{base}: it has no nn.Linear that an adapter could be on; leave out --lora")
    if tuple(wanted) == (ALL_LINEAR,):
        return tuple(known)
    if odd := [name for name in wanted if name not in known]:
        raise ValueError(
            f"{asked_by} {odd[0]} is no linear layer of {base} that takes an adapter; these do: {', '.join(known)} "
            f"({ALL_LINEAR} for all)"
        )
    return tuple(name for name in known if name in wanted)


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


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


def _targets_in(file: Path) -> tuple[str, ...]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        names = (key.split(".")[-3] for key in weights.keys() if ".lora_" in key)  # noqa: SIM118 - not a dict
        return tuple(dict.fromkeys(names))


def _plain(value: float) -> float | int:
    """32.0 -> 32, as PEFT writes it."""
    return int(value) if value == int(value) else value
