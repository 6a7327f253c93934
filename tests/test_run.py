"""A run folder holds what was logged, goes on where it stopped, and belongs to one process at a time."""

import io
import json
import math
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from r1kit import __version__
from r1kit.allocator import GUARD, SETTINGS, tuned_environment
from r1kit.config import RLConfig, to_dict
from r1kit.run import Progress, Run, clock, cpu_cores, write_json_atomic
from r1kit.types import Completion, Message, Problem, Sample, Score

SRC = str(Path(__file__).parents[1] / "src")


def config(**changes: object) -> dict[str, object]:
    return {**to_dict(RLConfig()), **changes}


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def test_config_is_written_and_the_same_config_goes_on(tmp_path):
    folder = tmp_path / "deep" / "run"
    with Run.open(folder, config(), "rl"):
        expected = {**config(), "stage": "rl", "r1kit": __version__, "cpu_cores": cpu_cores()}
        assert json.loads((folder / "config.json").read_text()) == json.loads(json.dumps(expected))
    with Run.open(folder, config(), "rl"):
        pass


def test_another_config_is_refused_with_both_values(tmp_path):
    with Run.open(tmp_path / "run", config(), "rl"):
        pass
    other = config(seed=7, optim={**to_dict(RLConfig())["optim"], "lr": 0.5}, colour="red")
    with pytest.raises(ValueError) as error:
        Run.open(tmp_path / "run", other, "pretrain")
    message = str(error.value)
    assert "seed: 0 in the folder, 7 now" in message
    assert "optim.lr: 3e-06 in the folder, 0.5 now" in message
    assert 'colour: (absent) in the folder, "red" now' in message
    assert 'stage: "rl" in the folder, "pretrain" now' in message
    assert "use another --run" in message and "group_size" not in message
    with Run.open(tmp_path / "run", config(), "rl"):  # the refused config was not written, and the lock is free
        pass


def test_where_and_how_fast_may_change(tmp_path):
    with Run.open(tmp_path / "run", config(stop_after=2), "rl"):
        pass
    evaluation = {**to_dict(RLConfig())["eval"], "rows": 3, "device": "cpu"}
    changed = config(
        rows=7, tokens_per_microbatch=99, keep_checkpoints=5, device="cpu", run="elsewhere", eval=evaluation
    )
    with Run.open(tmp_path / "run", changed, "rl"):
        assert json.loads((tmp_path / "run" / "config.json").read_text())["rows"] == 7


def test_a_folder_with_other_things_is_not_taken(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"is not a run folder: it holds thesis.tex"):
        Run.open(tmp_path, config(), "rl")


def test_a_run_begun_by_another_version_is_named(tmp_path, capsys):
    write_json_atomic(tmp_path / "config.json", {**config(), "stage": "rl", "r1kit": "0.0.9"})
    with Run.open(tmp_path, config(), "rl"):
        assert f"begun with r1kit 0.0.9; going on with {__version__}" in capsys.readouterr().err


def test_two_processes_cannot_write_one_run(tmp_path):
    code = (
        "import sys; from pathlib import Path; from r1kit.run import Run\n"
        f"run = Run.open(Path({str(tmp_path / 'run')!r}), {config()!r}, 'rl')\n"
        "print('open', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], env={"PYTHONPATH": SRC}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdin is not None
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(ValueError, match=f"is being written by process {holder.pid}"):
        Run.open(tmp_path / "run", config(), "rl")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    holder.stdin.close()
    with Run.open(tmp_path / "run", config(), "rl"):
        assert (tmp_path / "run" / ".lock").read_text() == f"{os.getpid()}\n"


def sample(text: str) -> Sample:
    problem = Problem("p1", "countdown", (Message("user", "make 24"),), {"numbers": [1], "target": 24}, "countdown")
    completion = Completion((5, 6, 7), (-0.1, -0.2, -0.3), text, "stop")
    return Sample(problem, (1, 2), completion, Score(2.0, "right", "equals 24", "8*3", {"accuracy": 1.0}), 0.5)


def test_log_rows(tmp_path):
    with Run.open(tmp_path, config(), "rl") as run:
        run.log(1, {"reward/mean": 0.5, "policy_version": 3, "ratio/mean": math.nan})
        run.log_samples(1, [sample("思考\u2028 then 'answer'")])
    (row,) = rows(tmp_path / "metrics.jsonl")
    assert isinstance(row.pop("time"), float)
    assert row == {"step": 1, "reward/mean": 0.5, "policy_version": 3, "ratio/mean": None}
    (row,) = rows(tmp_path / "samples.jsonl")
    assert row["completion"] == "思考\u2028 then 'answer'" and row["gold"] == {"numbers": [1], "target": 24}
    assert (row["prompt"], row["verdict"], row["tokens"], row["advantage"]) == ("make 24", "right", 3, 0.5)


def test_rewind_keeps_rows_up_to_the_checkpoint(tmp_path):
    with Run.open(tmp_path, config(), "rl") as run:
        for step in range(5):
            run.log(step, {"x": step})
            run.log_samples(step, [sample("one\u2028line")])
        run.log(2, {"eval/all/pass@1": 0.5})
        (tmp_path / "evals").mkdir()
        for name in ("step-000002.json", "step-000002.jsonl", "step-000004.json", "step-000004.jsonl"):
            (tmp_path / "evals" / name).touch()
        before = (tmp_path / "metrics.jsonl").read_bytes().split(b"\n")
        with (tmp_path / "metrics.jsonl").open("ab") as file:
            file.write('{"step": 1, "note": "思'.encode()[:-1])  # killed in the middle of a character
        run.rewind(2)
        assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == [0, 1, 2, 2]
        assert (tmp_path / "metrics.jsonl").read_bytes().split(b"\n")[:3] == before[:3]
        assert [row["step"] for row in rows(tmp_path / "samples.jsonl")] == [0, 1, 2]
        assert sorted(p.name for p in (tmp_path / "evals").iterdir()) == ["step-000002.json", "step-000002.jsonl"]
        run.log(3, {"x": 3})
        assert rows(tmp_path / "metrics.jsonl")[-1]["step"] == 3
        run.rewind(None)
        assert (tmp_path / "metrics.jsonl").read_text() == (tmp_path / "samples.jsonl").read_text() == ""
        assert not list((tmp_path / "evals").iterdir())


def test_a_broken_row_in_the_middle_is_not_passed_over(tmp_path):
    with Run.open(tmp_path, config(), "rl") as run:
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
        with pytest.raises(ValueError, match="metrics.jsonl line 2 is not a row"):
            run.rewind(3)


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path):
    path = tmp_path / "summary.json"
    write_json_atomic(path, {"version": "old"})
    with path.open() as reader:
        write_json_atomic(path, {"version": "new"})
        assert json.load(reader) == {"version": "old"}
    assert json.loads(path.read_text()) == {"version": "new"}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "summary.json"
    write_json_atomic(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json_atomic(path, {"a": object()})
    with pytest.raises(UnicodeEncodeError):
        write_json_atomic(path, {"a": "\ud800"})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_progress_without_a_terminal_is_one_plain_line_per_row():
    out = io.StringIO()
    row = {"reward/mean": 0.25, "length/mean": 61.2, "kl/reference": 0.001, "tokens_per_second": 9876.0}
    with Progress(10, file=out) as progress:
        progress.show(0, {"eval/all/pass@1": 0.156, "seconds/eval": 3.0})
        progress.status("sample", 3, 8)
        progress.show(1, row)
        progress.note("[saved] step 1")
    first, second, third = out.getvalue().splitlines()
    assert first == "step 0/10  pass@1 15.6%"
    assert re.fullmatch(r"step 1/10  reward 0\.250  length 61  KL 0\.0010  tokens/s 9,876  0:00 left", second)
    assert third == "[saved] step 1" and "\x1b" not in out.getvalue()


def test_a_long_phase_shows_signs_of_life(monkeypatch):
    now, out = 0.0, io.StringIO()
    monkeypatch.setattr("r1kit.run.time.monotonic", lambda: now)
    with Progress(10, file=out) as progress:
        for done in range(100):
            now += 1.0
            progress.status("evaluate", done, 4096)
    assert out.getvalue().splitlines() == [f"step 0/10  evaluate {done}/4,096" for done in (29, 59, 89)]


@pytest.mark.parametrize("first", [0, 40])  # 40: the run went on from a checkpoint
def test_time_left_is_mean_step_plus_share_of_evaluations(monkeypatch, first):
    now = 0.0
    monkeypatch.setattr("r1kit.run.time.monotonic", lambda: now)
    with Progress(first + 14, file=io.StringIO()) as progress:
        assert progress.seconds_left() is None
        now = 50.0
        progress.show(first, {})  # loading and the base's evaluation are not counted
        assert progress.seconds_left() is None
        for step, seconds in enumerate((5.0, 1.0, 5.0, 1.0), start=first + 1):  # a rollout serves two steps
            now += seconds
            progress.show(step, {})
        assert progress.seconds_left() == pytest.approx(10 * 3.0)
        now += 8.0
        progress.show(first + 4, {"eval/all/pass@1": 0.5})
        assert progress.seconds_left() == pytest.approx(10 * (3.0 + 8.0 / 4))


def test_clock():
    assert (clock(5.9), clock(75), clock(3700)) == ("0:05", "1:15", "1:01:40")


def test_the_terminal_is_restored_after_an_error(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    master, slave = pty.openpty()
    try:
        with (
            open(slave, "w") as terminal,
            pytest.raises(KeyboardInterrupt),
            Progress(10, file=terminal) as progress,
        ):
            progress.show(1, {"reward/mean": 0.25})
            progress.status("evaluate", 812, 4096)
            raise KeyboardInterrupt
        shown = b""
        while b"\x1b[?25h" not in shown:  # "show the cursor"
            shown += os.read(master, 65536)
    finally:
        os.close(master)
    assert b"\x1b[?25l" in shown and b"reward 0.250" in shown


def test_allocator_settings_respect_the_users():
    assert tuned_environment({"PATH": "x"}) == {"PATH": "x", **SETTINGS, GUARD: "tuned"}
    assert tuned_environment({GUARD: "system"}) is None
    assert tuned_environment({"MALLOC_MMAP_THRESHOLD_": "1"}) is None
    assert tuned_environment({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}) is None
    again = tuned_environment({})
    assert again is not None and tuned_environment(again) is None  # no loop


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(sys.platform != "linux", reason="the settings are glibc's")
@pytest.mark.skipif(HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text(), reason="huge pages hide page faults")
def test_tuned_process_keeps_its_pages_and_its_arguments(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, resource, sys\nfrom r1kit.allocator import tune_allocator\n"
        "tune_allocator()\n"
        "def touch(): return b'x' * (100 << 20)\n"
        "touch(); before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(4): touch()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, os.getpid(), *sys.argv[1:])"
    )

    def faults(env: dict[str, str]) -> int:
        process = subprocess.Popen(
            [sys.executable, str(script), "a b", "--c"],
            env={"PYTHONPATH": SRC, **env},
            stdout=subprocess.PIPE,
            text=True,
        )
        number, pid, *arguments = process.communicate()[0].split()
        assert arguments == ["a", "b", "--c"] and int(pid) == process.pid
        return int(number)

    untuned, tuned = faults({GUARD: "system"}), faults({})
    assert untuned > 4 * 20_000  # 100 MiB are 25,600 pages of 4 KiB
    assert tuned < untuned / 10
