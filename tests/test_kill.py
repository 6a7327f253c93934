"""A pipeline that is killed again and again ends as one that was left alone."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import kill  # type: ignore[import-not-found]  # noqa: E402 - benchmarks/ is no package

RECIPE = """
from dataclasses import replace

from r1kit import presets
from r1kit.config import EvalConfig


def stages():
    evaluation = EvalConfig(num_problems=4, num_samples=2, max_new_tokens=48)
    zero = replace(presets.rl_tiny(), steps=40, save_every=1, eval_every=0, max_new_tokens=48)
    data = replace(presets.reject_tiny(), model="@zero", num_problems=40, num_samples=4, rewrite="none")
    return {
        "zero": zero,
        "data": data,
        "dev1": replace(presets.sft_tiny(), model="demo-base", data=("@data",), save_every=1),
        "dev2": replace(zero, model="@dev1", steps=2),
        "eval-dev2": replace(evaluation, model="@dev2"),
    }
"""


@pytest.mark.slow
def test_a_killed_pipeline_ends_as_an_undisturbed_one(tmp_path: Path):
    recipe = tmp_path / "small.py"
    recipe.write_text(RECIPE)
    assert kill.command([str(recipe)], tmp_path / "calm", log=tmp_path / "calm.log").wait() == 0
    calm = kill.outcome(tmp_path / "calm")
    assert set(calm["outputs"]) == {"zero", "data", "dev1", "dev2", "eval-dev2"} and all(calm["outputs"].values())
    # Once for certain in the middle of the first stage, then at random moments.
    process = kill.command([str(recipe)], tmp_path / "killed", log=tmp_path / "killed.log")
    while not any(tmp_path.glob("killed/zero/checkpoints/step-*")) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads((tmp_path / "killed" / "zero" / ".stage.json").read_text())["state"] == "begun"
    killed = kill.kill_and_resume([str(recipe)], tmp_path / "killed", 4, 12.0, seed=1, log=tmp_path / "killed.log")
    assert killed > 0
    assert kill.differences(calm, kill.outcome(tmp_path / "killed")) == []


def test_differences_are_named():
    a = {"outputs": {"zero": "1", "dev1": "2"}, "claims": [1]}
    assert kill.differences(a, a) == []
    assert kill.differences(a, {"outputs": {"zero": "1", "dev1": "3"}, "claims": [2]}) == ["dev1", "claims"]
    assert kill.differences(a, {"outputs": {"zero": "1"}, "claims": [1]}) == ["dev1"]
