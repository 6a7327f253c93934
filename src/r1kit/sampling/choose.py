"""The one place where a sampler is chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from r1kit.config import EvaluateConfig, PreferencesConfig, RejectConfig, RLConfig
from r1kit.model.device import resolve_device, resolve_dtype
from r1kit.model.hf import load_model
from r1kit.sampling.base import Sampler
from r1kit.sampling.local import LocalSampler

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Sampling = RLConfig | RejectConfig | PreferencesConfig | EvaluateConfig


def check_sampler(cfg: Sampling) -> None:
    """ModuleNotFoundError, with the install command, when the sampler's library is missing: for the start of a stage,
    before anything is computed."""
    if cfg.sampler == "vllm":
        from r1kit.sampling.vllm_engine import check_vllm

        check_vllm(cfg.vllm)


@contextmanager
def open_sampler(cfg: Sampling, tokenizer: PreTrainedTokenizerBase, folder: Path, *, handed: bool) -> Iterator[Sampler]:
    """A sampler of the model in `folder`; what it started ends with the block.

    With `handed` weights, `load_weights` comes before every rollout; else it samples those in `folder`.
    """
    device = resolve_device(cfg.device)
    dtype = resolve_dtype(cfg.dtype, device)
    match cfg.sampler:
        case "local":
            sampler = LocalSampler(tokenizer, rows=cfg.rows)
            if not handed:
                sampler.load_weights(load_model(folder, dtype, device), version=0)
            yield sampler
        case "vllm":
            from r1kit.sampling.vllm import open_vllm

            with open_vllm(
                cfg.vllm, tokenizer, folder, dtype=dtype, device=device, rows=cfg.rows, handed=handed
            ) as vllm:
                yield vllm
        case _:
            assert_never(cfg.sampler)
