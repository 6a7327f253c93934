"""A run folder: config.json, metrics.jsonl, samples.jsonl, evals/, checkpoints/; and the progress display.

One process writes a run at a time. Files that are replaced are replaced atomically; the .jsonl files only grow, and
`rewind` cuts them back to a checkpoint when a run goes on from it.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import secrets
import statistics
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from r1kit import __version__
from r1kit.trackers import Trackers, open_trackers
from r1kit.types import Metrics, Sample

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

CHANGEABLE = {"run", "r1kit", "stop_after", "keep_checkpoints", "tokens_per_microbatch", "rows", "device"}
CHANGEABLE |= {"eval.rows", "eval.device", "cpu_cores", "track", "push_to_hub"}
CHANGEABLE |= {"heldout_every", "memory.gradient_checkpointing", "memory.offload_optimizer", "memory.offload_reference"}
CHANGEABLE |= {f"vllm.{name}" for name in ("mode", "url", "python", "memory", "cache_gib", "max_len", "transfer")}
CHANGEABLE |= {f"vllm.{name}" for name in ("folder", "tolerance", "timeout", "args", "gpus")}
CHANGEABLE |= {
    f"{endpoint}.{name}"
    for endpoint in ("judge", "rewriter", "teacher")
    for name in ("api_key_env", "concurrency", "requests_per_minute", "retries", "timeout")
}
"""Config fields that may differ when a run goes on: they change where and how fast it computes, not what."""


def is_changeable(field: str) -> bool:
    """Whether a field, as in `optim.lr`, is one of CHANGEABLE. The two parts of a distillation have these too."""
    return field.removeprefix("samples.").removeprefix("sft.") in CHANGEABLE


def write_text_atomic(path: Path, text: str) -> None:
    """Replace `path` by `text`: a reader, or a crash, sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json_atomic(path: Path, data: Any) -> None:
    """Replace `path` by `data` as indented JSON."""
    write_text_atomic(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def cpu_cores() -> int:
    """Cores that this process computes on: those it may run on, or OMP_NUM_THREADS where that is fewer."""
    available = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(available, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else available


def compute_on(cores: int) -> None:
    """Let this process and those that it starts compute on that many cores from now on."""
    os.environ["OMP_NUM_THREADS"] = str(cores)
    import torch

    torch.set_num_threads(cores)


class Run:
    """An open run folder, locked for this process. Use it as a context manager, or call `close`."""

    def __init__(self, folder: Path, lock: IO[str], trackers: Trackers) -> None:
        self.folder = folder
        self._lock = lock
        self._trackers = trackers

    @classmethod
    def open(cls, folder: Path, config: Mapping[str, Any], stage: str) -> Run:
        """Make the folder, or go on with the one that is there. config.json gets `config`, stage, version and cores.

        Raises ValueError when another process writes the run, when the folder holds something else, when its
        config.json differs from `config` in a field that changes the result, or when a tracker in the config's `track`
        does not start.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
        try:
            about = {"stage": stage, "r1kit": __version__, "cpu_cores": cpu_cores()}
            data = json.loads(json.dumps({**config, **about}))
            _check_config(folder, data)
            write_json_atomic(folder / "config.json", data)
            trackers = _trackers(folder, data)
        except BaseException:
            lock.close()
            raise
        return cls(folder, lock, trackers)

    def log(self, step: int, metrics: Metrics) -> None:
        """Append a row to metrics.jsonl, and show it in the trackers. JSON has no NaN or infinity: they become null."""
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        _append(self.folder / "metrics.jsonl", [{"step": step, "time": time.time(), **values}])
        self._trackers.log(step, metrics)

    def log_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Append every one of `samples` to samples.jsonl; the caller picks a few."""
        _append(self.folder / "samples.jsonl", [_sample_row(step, sample) for sample in samples])

    def log_note(self, step: int, text: str) -> None:
        """Append a line for the reader to notes.jsonl; the report shows it."""
        _append(self.folder / "notes.jsonl", [{"step": step, "text": text}])

    def rewind(self, step: int | None) -> None:
        """Forget what was logged after the checkpoint of `step`; None forgets all, when there is no checkpoint.

        A step's rows and its evaluation are logged before its checkpoint is saved, so the rows of `step` itself stay.
        """
        last = -1 if step is None else step
        for name in ("metrics.jsonl", "samples.jsonl", "notes.jsonl"):
            if (self.folder / name).exists():
                _keep_rows(self.folder / name, last)
        for path in (self.folder / "evals").glob("step-*"):
            found = re.match(r"step-(\d+)\.", path.name)
            if found and int(found[1]) > last:
                path.unlink()

    def close(self) -> None:
        """End the trackers, and let another process write the run."""
        self._trackers.finish()
        self._lock.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _lock(folder: Path) -> IO[str]:
    """Take the folder's lock file, or raise ValueError naming the process that has it.

    A record lock (lockf) ends with its process; one of flock would live on in forked workers whose parent was killed.
    """
    file = (folder / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        holder = file.read().strip() or "?"
        file.close()
        raise ValueError(
            f"{folder} is being written by process {holder}; wait for it, stop it, or use another --run"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _trackers(folder: Path, config: Mapping[str, Any]) -> Trackers:
    """Those that the config names. trackers.json has the run's name in them, so that they go on when it does."""
    if not config.get("track"):
        return Trackers({})
    path = folder / "trackers.json"
    if not path.exists():
        write_json_atomic(path, {"id": secrets.token_hex(4)})  # no two runs have the same, whatever their seeds
    identity = json.loads(path.read_text(encoding="utf-8"))["id"]
    return open_trackers(config["track"], folder, identity, config)


def _check_config(folder: Path, config: dict[str, Any]) -> None:
    path = folder / "config.json"
    if not path.exists():
        # A process that was killed before its first config.json leaves hidden files only.
        if others := sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")):
            raise ValueError(
                f"{folder} is not a run folder: it holds {', '.join(others[:5])} but no config.json; use another --run"
            )
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); use another --run or delete {folder}") from error
    if before.get("r1kit") != config.get("r1kit"):
        print(
            f"warning: {folder} was begun with r1kit {before.get('r1kit')}; going on with {config.get('r1kit')}",
            file=sys.stderr,
        )
    old, new = flat(before), flat(config)
    differing = [
        f"  {name}: {json.dumps(old[name]) if name in old else '(absent)'} in the folder, "
        f"{json.dumps(new[name]) if name in new else '(absent)'} now"
        for name in sorted(old.keys() | new.keys())
        if not is_changeable(name) and (name not in old or name not in new or old[name] != new[name])
    ]
    if differing:
        lines = "\n".join(differing)
        raise ValueError(
            f"{folder} was begun with other settings:\n{lines}\n"
            "use another --run, give the same settings, or delete the folder"
        )


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 1}} -> {"optim.lr": 1}."""
    made: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            made |= flat(value, f"{prefix}{name}.")
        else:
            made[prefix + name] = value
    return made


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        # On disk before the checkpoint that follows it: after a power cut no row up to that checkpoint is missing.
        os.fsync(file.fileno())


def _keep_rows(path: Path, last_step: int) -> None:
    # Bytes: a torn row may end inside a character. Not splitlines(): it also splits at U+2028 inside a string.
    *rows, torn = path.read_bytes().split(b"\n")
    kept = []
    for number, row in enumerate(rows, start=1):
        try:
            step = json.loads(row)["step"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} line {number} is not a row with a step ({error}); repair or delete it") from error
        if step <= last_step:
            kept.append(row)
    if torn or len(kept) < len(rows):
        write_text_atomic(path, "".join(row.decode() + "\n" for row in kept))


def _sample_row(step: int, sample: Sample) -> dict[str, Any]:
    problem, completion, score = sample.problem, sample.completion, sample.score
    return {
        "step": step,
        "task": problem.task,
        "id": problem.id,
        "prompt": "\n\n".join(message.content for message in problem.messages),
        "completion": completion.text,
        "gold": problem.gold,
        "extracted": score.extracted,
        "verdict": score.verdict,
        "reason": score.reason,
        "reward": score.reward,
        "parts": score.parts,
        "advantage": sample.advantage,
        "tokens": len(completion.tokens),
        "finish_reason": completion.finish_reason,
    }


SHOWN = {
    "loss/nll": ("loss", "{:.3f}"),
    "loss/preference": ("loss", "{:.3f}"),
    "accuracy": ("accuracy", "{:.1%}"),
    "eval/accuracy": ("held-out accuracy", "{:.1%}"),
    "heldout/nll": ("held-out loss", "{:.3f}"),
    "reward/mean": ("reward", "{:.3f}"),
    "reward/preference": ("preference", "{:.2f}"),
    "language/consistency": ("one language", "{:.1%}"),
    "eval/all/pass@1": ("pass@1", "{:.1%}"),
    "length/mean": ("length", "{:.0f}"),
    "kl/reference": ("KL", "{:.4f}"),
    "kl/teacher": ("KL", "{:.4f}"),
    "entropy": ("entropy", "{:.3f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
}
"""The numbers that the display shows: metric -> (label, format)."""


class Progress:
    """Shows how a run is doing: a live display on a terminal, one plain line per row elsewhere.

    Use it as a context manager; it restores the terminal however the block is left.
    """

    def __init__(self, total: int, title: str = "step", file: IO[str] | None = None) -> None:
        from rich.console import Console

        self._total, self._title = total, title
        self._console = Console(file=file or sys.stdout, highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._shown: Metrics = {}
        self._status = ""
        self._began = self._last_line = self._last_row = time.monotonic()
        self._first: int | None = None
        self._step = 0
        self._durations: deque[float] = deque(maxlen=32)
        self._evaluating = 0.0

    def __enter__(self) -> Progress:
        self._began = self._last_line = self._last_row = time.monotonic()
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._status = ""
            self._live.stop()
            self._live = None

    def show(self, step: int, metrics: Metrics) -> None:
        """Show a row of metrics: a training step's, or an evaluation's of the same step."""
        now = time.monotonic()
        took, self._last_row = now - self._last_row, now
        if self._first is None:  # what came before, such as loading and the base's evaluation, will not come again
            self._first = step
        elif step > self._step:
            self._durations.append(took / (step - self._step))
        else:
            self._evaluating += took
        self._step = step
        self._shown |= metrics
        self._status = ""
        if self._live is None:
            left = self.seconds_left()
            self._line(_numbers(metrics) + (f"  {clock(left)} left" if left else ""))

    def status(self, name: str, done: int, total: int) -> None:
        """Show what goes on inside a step: `evaluate 812/4,096`. Without a terminal, at most one line in 30 seconds."""
        self._status = f"{name} {done:,}/{total:,}"
        if self._live is None and time.monotonic() - self._last_line >= 30:
            self._line(self._status)

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False)

    def seconds_left(self) -> float | None:
        """Steps to go x (mean time of the last 32 steps + evaluation time per step); None before the second row.

        A mean, because where a rollout serves several steps the first of them takes nearly all the time.
        """
        if self._first is None or not self._durations:
            return None
        per_step = statistics.fmean(self._durations) + self._evaluating / (self._step - self._first)
        return per_step * (self._total - self._step)

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._console.print(f"{self._title} {self._step}/{self._total}  {text}", markup=False)
        self._console.file.flush()

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        bar = Table.grid(padding=(0, 1))
        left = self.seconds_left()
        bar.add_row(
            Text(self._title, style="bold"),
            ProgressBar(total=max(self._total, 1), completed=self._step, width=30),
            Text(f"{self._step}/{self._total}"),
            Text(f"{clock(time.monotonic() - self._began)} gone"),
            Text("" if left is None else f"{clock(left)} left", style="green"),
        )
        return Group(bar, Text(f"  {_numbers(self._shown)}"), Text(f"  {self._status}", style="dim"))


def clock(seconds: float) -> str:
    """75 -> "1:15", 3700 -> "1:01:40"."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _numbers(metrics: Metrics) -> str:
    shown = [(label, style.format(metrics[name])) for name, (label, style) in SHOWN.items() if name in metrics]
    return "  ".join(f"{label} {number}" for label, number in shown)
