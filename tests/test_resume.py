"""A stopped run goes on to the same metrics and the same weights, bit for bit, on CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from r1kit import presets
from r1kit.config import AlgoConfig, EvalConfig, PretrainConfig, RLConfig
from r1kit.stages import pretrain, rl

TIMINGS = ("time", "seconds/", "tokens_per_second")


def rows(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(TIMINGS)} for row in lines]


def weights(run: Path, step: int) -> dict[str, bytes]:
    tensors = load_file(run / "checkpoints" / f"step-{step:06d}" / "model.safetensors")
    return {name: tensor.float().numpy().tobytes() for name, tensor in tensors.items()}


def same(run: Path, other: Path, step: int) -> None:
    assert rows(run) == rows(other)
    assert sum(row.get("grad_norm", 0) > 0 for row in rows(run)) > 1, "no update moved the weights"
    assert weights(run, step) == weights(other, step)
    for name in ("samples.jsonl",):
        assert (run / name).read_text() == (other / name).read_text()


@pytest.fixture
def base() -> Path:
    """The shipped base: its rewards differ within a group, so every update counts."""
    return Path("demo-base")


def rl_config(base: Path, run: Path) -> RLConfig:
    """Off-policy minibatches, a moving reference and two epochs: all that a checkpoint has to bring back."""
    return replace(
        presets.RL["tiny"][1],
        run=run,
        model=str(base),
        steps=8,
        minibatches=2,
        inner_epochs=1,
        save_every=2,
        eval_every=4,
        algo=AlgoConfig(kl_coef=0.01, reference_every=2, truncated_is=2.0, dynamic_sampling=1),
        eval=EvalConfig(num_problems=2, num_samples=2, max_new_tokens=16),
        max_new_tokens=24,
    )


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_rl_resumes_where_it_stopped(base: Path, tmp_path: Path, dtype: str) -> None:
    cfg = replace(rl_config(base, tmp_path / "straight"), dtype=dtype)
    rl.main(cfg)
    stopped = replace(cfg, run=tmp_path / "stopped")
    rl.main(replace(stopped, stop_after=2))
    rl.main(replace(stopped, stop_after=6))
    rl.main(stopped)
    same(tmp_path / "straight", tmp_path / "stopped", step=8)


def test_pretrain_resumes_where_it_stopped(tmp_path: Path) -> None:
    cfg = replace(presets.PRETRAIN["tiny"][1], run=tmp_path / "straight", steps=6, save_every=2)
    pretrain.main(cfg)
    stopped = replace(cfg, run=tmp_path / "stopped")
    pretrain.main(replace(stopped, stop_after=4))
    pretrain.main(stopped)
    assert rows(tmp_path / "straight") == rows(tmp_path / "stopped")
    assert weights(tmp_path / "straight", 6) == weights(tmp_path / "stopped", 6)


def test_rows_after_the_last_checkpoint_are_made_again(base: Path, tmp_path: Path) -> None:
    """A kill falls between checkpoints: what was logged after the last one is replaced, not doubled."""
    cfg = rl_config(base, tmp_path / "straight")
    rl.main(cfg)
    stopped = replace(cfg, run=tmp_path / "stopped")
    rl.main(replace(stopped, stop_after=4))
    with (stopped.run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "time": 0, "reward/mean": 99}\n{"step": 6, "ti')
    rl.main(stopped)
    same(tmp_path / "straight", tmp_path / "stopped", step=8)


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cfg = rl_config(base, tmp_path / "straight")
    rl.main(cfg)
    stopped = replace(cfg, run=tmp_path / "stopped")
    rl.main(replace(stopped, stop_after=6))
    damaged = stopped.run / "checkpoints" / "step-000006" / "learner.pt"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    rl.main(stopped)
    assert "step-000006 is damaged" in capfd.readouterr().err
    same(tmp_path / "straight", tmp_path / "stopped", step=8)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_goes_on(base: Path, tmp_path: Path, sent: signal.Signals) -> None:
    """The command itself, killed from outside at some moment after its first checkpoint, then given again."""
    # Long enough that the kill, right after the first checkpoint, comes before the end.
    cfg = replace(rl_config(base, tmp_path / "straight"), steps=30, eval_every=10)
    rl.main(cfg)
    run = tmp_path / "killed"
    flags = f"--run {run} --model {base} --steps 30 --minibatches 2 --save-every 2 --eval-every 10 --max-new-tokens 24"
    flags += " --algo.kl-coef 0.01 --algo.reference-every 2 --algo.truncated-is 2 --algo.dynamic-sampling 1"
    flags += " --eval.num-problems 2 --eval.num-samples 2 --eval.max-new-tokens 16"
    command = [sys.executable, "-m", "r1kit", "rl", "tiny", *flags.split()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "step-000002").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.005)
    os.kill(process.pid, sent)
    output = process.communicate(timeout=60)[0].decode()
    assert process.returncode != 0, "it finished before it was killed"
    if sent == signal.SIGINT:
        assert "the last checkpoint is" in output and "step-0000" in output, output
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    same(tmp_path / "straight", run, step=30)


def test_other_settings_are_refused(base: Path, tmp_path: Path) -> None:
    cfg = replace(presets.PRETRAIN["tiny"][1], run=tmp_path / "run", steps=2, save_every=2)
    pretrain.main(cfg)
    changed: PretrainConfig = replace(cfg, seed=1)
    with pytest.raises(ValueError, match="seed"):
        pretrain.main(changed)
