"""A pipeline that is killed again and again ends as one that was left alone."""

from __future__ import annotations

import json
import subprocess
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
    kill.kill_all(process)
    assert json.loads((tmp_path / "killed" / "zero" / ".stage.json").read_text())["state"] == "begun"
    killed = kill.kill_and_resume([str(recipe)], tmp_path / "killed", 4, 12.0, seed=1, log=tmp_path / "killed.log")
    assert killed > 0
    assert kill.differences(calm, kill.outcome(tmp_path / "killed")) == []


def test_all_that_a_process_started_is_killed(tmp_path: Path):
    script = (
        "import subprocess\n"
        "below = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "print(below.pid, flush=True)\n"
        "below.wait()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout
    below = int(process.stdout.readline())
    assert _state(below)
    kill.kill_all(process)
    assert process.returncode == -9
    end = time.monotonic() + 10
    while (state := _state(below)) not in ("", "Z") and time.monotonic() < end:
        time.sleep(0.05)
    assert state in ("", "Z")


def _state(pid: int) -> str:
    """A process's state by `ps`; empty when there is none."""
    return subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()[:1]


def test_a_start_that_fails_is_not_passed_over(tmp_path: Path):
    (tmp_path / "wrong.py").write_text("def stages():\n    raise ValueError('no')\n")
    with pytest.raises(SystemExit, match="the start after kill 0 ended with status 2"):
        kill.kill_and_resume([str(tmp_path / "wrong.py")], tmp_path / "run", 1, 60.0, seed=0, log=tmp_path / "log")


def test_differences_are_named():
    a = {"outputs": {"zero": "1", "dev1": "2"}, "claims": [1]}
    assert kill.differences(a, a) == []
    assert kill.differences(a, {"outputs": {"zero": "1", "dev1": "3"}, "claims": [2]}) == ["dev1", "claims"]
    assert kill.differences(a, {"outputs": {"zero": "1"}, "claims": [1]}) == ["dev1"]
