"""Facts about runs with adapters: they stop and go on, their checkpoints open, less memory changes no number."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from r1kit import presets
from r1kit.config import AlgoConfig, EvalConfig, LoraConfig, MemoryConfig, OptimConfig, RLConfig, SFTConfig
from r1kit.model.hf import load_model, save_model
from r1kit.model.lora import add_adapters
from r1kit.stages import rl, sft
from r1kit.training.models import resolve_model
from tiny import packed_hidden, random_tokens, tiny_model, tiny_tokenizer

TIMINGS = ("time", "seconds/", "tokens_per_second")
LORA = LoraConfig(rank=4, alpha=16.0)


def rows(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(TIMINGS)} for row in lines]


def files(run: Path) -> dict[str, dict[str, bytes]]:
    """The weights of a run's last checkpoint, merged and adapter."""
    folder = resolve_model(str(run))
    found = {}
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        tensors = load_file(folder / name)
        found[name] = {key: tensor.float().numpy().tobytes() for key, tensor in tensors.items()}
    return found


@pytest.fixture
def sft_cfg(tmp_path: Path) -> SFTConfig:
    """3 steps an epoch."""
    save_model(tiny_model(tie=True), tiny_tokenizer(), tmp_path / "model")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"Make {i}", "completion": f" {i * 7}"}) + "\n" for i in range(10)))
    return SFTConfig(
        run=tmp_path / "run", model=str(tmp_path / "model"), data=(str(data),), epochs=2, batch_size=4, max_tokens=60,
        optim=OptimConfig(lr=2e-2, schedule="cosine"), lora=LORA, save_every=2, tokens_per_microbatch=64, device="cpu",
        dtype="fp32",
    )  # fmt: skip


@pytest.fixture
def rl_cfg(tmp_path: Path) -> RLConfig:
    """A moving reference and off-policy minibatches, from the shipped base: its rewards differ within a group."""
    return replace(
        presets.RL["tiny"][1], run=tmp_path / "run", steps=6, minibatches=2, save_every=2, eval_every=6,
        optim=OptimConfig(lr=5e-3), algo=AlgoConfig(kl_coef=0.01, reference_every=4), lora=LORA, max_new_tokens=24,
        eval=EvalConfig(num_problems=2, num_samples=2, max_new_tokens=16), device="cpu", dtype="fp32",
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_stopped_fine_tuning_ends_as_an_uninterrupted_one(sft_cfg: SFTConfig, dtype: Any):
    cfg = replace(sft_cfg, dtype=dtype)
    straight = replace(cfg, run=cfg.run.with_name("straight"))
    sft.main(straight)
    for stop in (1, 3):
        sft.main(replace(cfg, stop_after=stop))
    sft.main(cfg)
    assert rows(cfg.run) == rows(straight.run) and files(cfg.run) == files(straight.run)
    losses = [row["loss/nll"] for row in rows(cfg.run)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_stopped_rl_run_ends_as_an_uninterrupted_one(rl_cfg: RLConfig, dtype: Any):
    cfg = replace(rl_cfg, dtype=dtype)
    straight = replace(cfg, run=cfg.run.with_name("straight"))
    rl.main(straight)
    for stop in (2, 4):
        rl.main(replace(cfg, stop_after=stop))
    rl.main(cfg)
    found = rows(cfg.run)
    assert found == rows(straight.run) and files(cfg.run) == files(straight.run)
    assert sum(row.get("grad_norm", 0) > 0 for row in found) > 2, "or nothing is trained"
    steps = [row for row in found if "kl/sampler" in row]
    assert all(row["kl/sampler"] < (1e-9 if dtype == "fp32" else 1e-2) for row in steps if row["step"] % 2)
    kl = {row["step"]: row["kl/reference"] for row in steps}
    assert kl[1] == 0 and kl[3] > 0 and kl[5] == 0, "the reference moves after step 4"


def test_the_adapter_on_the_base_is_the_merged_checkpoint(sft_cfg: SFTConfig):
    sft.main(sft_cfg)
    folder = resolve_model(str(sft_cfg.run))
    base, merged = load_model(sft_cfg.model, torch.float32), load_model(folder, torch.float32)
    before = packed_hidden(base, [random_tokens(9)])  # type: ignore[arg-type]
    add_adapters(base, LoraConfig(adapter=str(folder / "adapter")), seed=0, base="x")
    after, expected = (packed_hidden(model, [random_tokens(9)]) for model in (base, merged))  # type: ignore[arg-type]
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)
    assert (after - before).abs().max() > 1e-2
    about = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == sft_cfg.model


def test_a_run_goes_on_from_another_runs_adapter(sft_cfg: SFTConfig):
    sft.main(sft_cfg)
    adapter = resolve_model(str(sft_cfg.run)) / "adapter"
    more = replace(sft_cfg, run=sft_cfg.run.with_name("more"), lora=LoraConfig(adapter=str(adapter)))
    sft.main(more)
    assert rows(more.run)[0]["loss/nll"] < 0.9 * rows(sft_cfg.run)[0]["loss/nll"]
    with pytest.raises(FileNotFoundError, match="--lora.adapter .*no adapter_config.json"):
        sft.main(replace(more, run=more.run.with_name("none"), lora=LoraConfig(adapter=str(adapter.parent))))
    assert not more.run.with_name("none").exists()


def test_another_base_is_found_on_resume(sft_cfg: SFTConfig):
    sft.main(replace(sft_cfg, stop_after=2))
    save_model(tiny_model(7, tie=True), tiny_tokenizer(), Path(sft_cfg.model))
    with pytest.raises(ValueError, match="adapters for other weights than those of .*model now"):
        sft.main(sft_cfg)


@pytest.mark.parametrize("lora", [LoraConfig(), LORA], ids=["all weights", "adapters"])
def test_less_memory_changes_no_number(rl_cfg: RLConfig, lora: LoraConfig):
    plain = replace(rl_cfg, lora=lora, steps=4, eval_every=4)
    rl.main(plain)
    memory = MemoryConfig(gradient_checkpointing=True, offload_optimizer=True, offload_reference=True)
    less = replace(plain, run=plain.run.with_name("less"), memory=memory)
    rl.main(less)
    assert rows(less.run) == rows(plain.run)
    assert sum(row.get("grad_norm", 0) > 0 for row in rows(less.run)) > 1


def test_a_missing_library_leaves_no_run_behind(sft_cfg: SFTConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ModuleNotFoundError, match="needs bitsandbytes"):
        sft.main(replace(sft_cfg, memory=MemoryConfig(optimizer="adamw8bit")))
    assert not sft_cfg.run.exists()
