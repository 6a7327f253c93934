"""The speed benchmark: one JSON line with the peers' fields, the peers' work, both sides under the same settings."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from r1kit.training.models import open_model
from r1kit.types import Completion, Problem, Sample, Score

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "grpo_step.py"
SMALL = ["--prompts", "2", "--group", "2", "--max-new", "4", "--steps", "2", "--warmup", "1"]
PEER_FIELDS = [
    "peer", "dtype", "gen", "fixed", "seconds_per_step", "tokens_per_step", "tokens_per_second", "peak_rss_mib",
]  # fmt: skip


@pytest.fixture
def grpo_step(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import grpo_step  # type: ignore[import-not-found]

    return grpo_step


@pytest.fixture
def compare_trl(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import compare_trl  # type: ignore[import-not-found]

    return compare_trl


def test_one_json_line_with_the_peers_fields():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--json", *SMALL, "--dtype", "fp32", "--fixed"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    row = json.loads(line)
    assert list(row) == [*PEER_FIELDS, "seconds"]
    assert (row["peer"], row["dtype"], row["gen"], row["fixed"]) == ("r1kit", "fp32", "local", True)
    assert row["tokens_per_step"] == 2 * 2 * 4
    assert row["tokens_per_second"] == pytest.approx(16 / row["seconds_per_step"], rel=0.05)
    assert sum(row["seconds"].values()) == pytest.approx(row["seconds_per_step"], abs=0.004)
    assert 100 < row["peak_rss_mib"] < 5000


@pytest.mark.parametrize("fixed", [True, False])
def test_it_trains_against_a_reference(grpo_step: Any, tmp_path: Path, fixed: bool):
    grpo_step.write_tiny_qwen2(tmp_path / "model")
    args = grpo_step.parse_args(
        ["--prompts", "3", "--group", "4", "--max-new", "32", "--steps", "3", "--dtype", "fp32"]
    )
    row = grpo_step.measure(grpo_step.config(args, str(tmp_path / "model"), tmp_path / "run"), warmup=1, fixed=fixed)
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in metrics] == [1, 2, 3]
    assert all(step["grad_norm"] > 0 and step["lr"] == 1e-5 for step in metrics)
    assert metrics[0]["kl/reference"] == pytest.approx(0, abs=1e-6) and metrics[2]["kl/reference"] > 0
    lengths = [step["length/mean"] for step in metrics]
    assert (lengths == [32.0] * 3) is fixed
    assert row["tokens_per_step"] == round(12 * (lengths[1] + lengths[2]) / 2)


def test_the_model_is_the_one_of_the_comparison(grpo_step: Any, tmp_path: Path):
    grpo_step.write_tiny_qwen2(tmp_path)
    model, tokenizer = open_model(str(tmp_path), "cpu", "fp32")
    assert len(tokenizer) == model.config.vocab_size == 107
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(4.5, abs=0.1)
    prompt = grpo_step.problems()[5].messages[0].content
    assert prompt == "What is 5 + 35 * 5?\n"
    assert tokenizer.decode(tokenizer(prompt)["input_ids"]) == prompt


def test_the_reward_is_the_peers(grpo_step: Any, tmp_path: Path):
    def sample(text: str) -> Sample:
        problem = Problem("p", "sums", (), "-", "exact")
        return Sample(problem, (1,), Completion((2,), (0.0,), text, "stop"), Score(0.0, "wrong", ""))

    args = grpo_step.parse_args([])
    groups = [
        [sample("odd"), sample("even"), sample(""), sample("x")],
        [sample("a"), sample("b"), sample("c"), sample("d")],
    ]
    scored = grpo_step.with_peer_reward(groups, grpo_step.config(args, "m", tmp_path))
    assert [[s.score.reward for s in group] for group in scored] == [[1.0, 0.0, 0.0, 1.0], [1.0] * 4]
    assert [[round(s.advantage, 3) for s in group] for group in scored] == [[1.0, -1.0, -1.0, 1.0], [0.0] * 4]


def test_the_medians_are_the_peers(grpo_step: Any):
    steps = [
        dict.fromkeys(grpo_step.PHASES, 0.0) | {"step": s, "tokens": t} for s, t in ((4.0, 10), (1.0, 20), (2.0, 60))
    ]
    row = grpo_step.result(steps, dtype="bf16", fixed=False)
    assert (row["seconds_per_step"], row["tokens_per_step"], row["tokens_per_second"]) == (2.0, 30, 15.0)


def test_a_warm_up_that_leaves_nothing_to_time_is_refused(grpo_step: Any, capsys: pytest.CaptureFixture[str]):
    for warmup in ("8", "0"):
        with pytest.raises(SystemExit):
            grpo_step.parse_args(["--warmup", warmup])
        assert f"--warmup {warmup} must be at least 1 and below --steps 8" in capsys.readouterr().err


PEER_SCRIPT = """
import json, os, sys
a = sys.argv
dtype, gen = a[a.index("--dtype") + 1], a[a.index("--gen") + 1]
if gen == "paged":
    sys.exit("no paged attention here")
seconds = {"fp32": 4.0, "bf16": 3.0}[dtype] + (gen == "static")
names = "OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"
settings = [os.environ.get(name) for name in names]
print("trainer's own output")
print(json.dumps({"peer": "trl", "dtype": dtype, "gen": gen, "fixed": False, "seconds_per_step": seconds,
    "tokens_per_step": 30, "tokens_per_second": 30 / seconds, "peak_rss_mib": 1000, "settings": settings}))
"""


def test_the_comparison_takes_the_peers_best(compare_trl: Any, tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "peer.py").write_text(PEER_SCRIPT)
    ours = PEER_SCRIPT.replace('"peer": "trl"', '"peer": "r1kit"').replace('a[a.index("--gen") + 1]', '"local"')
    (tmp_path / "ours.py").write_text(ours.replace("seconds = ", "seconds = 0.5 * "))
    monkeypatch.setattr(compare_trl, "OUR_SCRIPT", tmp_path / "ours.py")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1")
    monkeypatch.setattr(sys, "argv", [
        "compare_trl.py", "--trl-python", sys.executable, "--trl-script", str(tmp_path / "peer.py"), "--rounds", "2",
        "--model", str(tmp_path), "--threads", "3", "--out", str(tmp_path / "rows.jsonl"),
    ])  # fmt: skip
    assert compare_trl.main() == 0
    printed, told = capsys.readouterr()
    assert "| trl | fp32 | static | 5.00 (5.00-5.00) | 30 | 6 (6-6) | 1,000 |" in printed
    assert "r1kit bf16 local beside trl bf16 generate: a step 2.00x as fast, 2.00x the tokens per second" in printed
    assert "trl fp32 paged failed: no paged attention here" in told
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * (2 + 4)
    order = [(row["peer"], row["dtype"], row["gen"]) for row in rows]
    assert order[:6] == order[6:][::-1], "every second round goes backwards"
    assert all(row["settings"] == ["3", str(4 << 30), None] for row in rows)


def test_a_side_without_a_result_is_not_compared(compare_trl: Any, tmp_path: Path):
    args = argparse.Namespace(
        prompts=1, group=2, max_new=4, steps=2, warmup=1, beta=0.0, fixed=False, cuda=False, dtypes=["fp32"],
        gens=["generate"], trl_python=sys.executable, trl_script=tmp_path / "missing.py",
    )  # fmt: skip
    _, theirs = compare_trl.contenders(args, tmp_path)
    rows, faults = compare_trl.run_rounds([theirs], 2, dict(os.environ), None)
    assert rows == {} and "missing.py" in faults[theirs.name]
    assert compare_trl.best("trl", [theirs], rows) is None
