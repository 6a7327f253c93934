"""Dashboards beside metrics.jsonl: TensorBoard, Weights & Biases, trackio (`--track`), each optional.

`Run.log` feeds them, and nothing else does. A tracker that fails while a run goes on is reported once and switched off:
metrics.jsonl has every row. After a rewind the rows of the same steps come again; docs/trackers.md says what each does.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, assert_never

from r1kit.config import TrackerName
from r1kit.types import Metrics

PROJECT = "r1kit"
"""Project of the runs, where the tracker's own environment variable names no other."""


class Tracker(Protocol):
    """One dashboard's run, open."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Show finite numbers at a step, which may be one that was shown before."""
        ...

    def finish(self) -> None:
        """Send what waits."""
        ...


def check_trackers(names: Sequence[TrackerName]) -> None:
    """ModuleNotFoundError, with the install command, when a tracker's package is missing: for the start of a stage."""
    for name in names:
        if find_spec(name) is None:  # each package has the name of its tracker
            raise ModuleNotFoundError(f"--track {name} needs {name}: pip install {name}, or leave it out")


class Trackers:
    """The open trackers of one run."""

    def __init__(self, trackers: Mapping[TrackerName, Tracker]) -> None:
        self._trackers = dict(trackers)

    def log(self, step: int, metrics: Metrics) -> None:
        """Show a row in each of them; values that are not finite are left out."""
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        for name, tracker in list(self._trackers.items()):
            try:
                tracker.log(step, finite)
            except Exception as error:  # its code and its server's are not ours, and training is worth more
                del self._trackers[name]
                _report(name, f"failed at step {step} and is off from now on", error)

    def finish(self) -> None:
        """End them all."""
        while self._trackers:
            name, tracker = self._trackers.popitem()
            try:
                tracker.finish()
            except Exception as error:  # as above
                _report(name, "failed as it ended", error)


def open_trackers(names: Sequence[TrackerName], folder: Path, identity: str, config: Mapping[str, Any]) -> Trackers:
    """The trackers of the run in `folder`. The same `identity` goes on with the same run in each of them.

    Raises ModuleNotFoundError as `check_trackers` does, and ValueError for a tracker that does not start.
    """
    check_trackers(names)
    opened: dict[TrackerName, Tracker] = {}
    for name in dict.fromkeys(names):
        try:
            opened[name] = _open(name, folder, identity, config)
        except Exception as error:  # each package has errors of its own: no login, no network, a full disk
            Trackers(opened).finish()
            raise ValueError(
                f"--track {name} did not start ({type(error).__name__}: {error}); docs/trackers.md says what it needs "
                f"and how to use it offline, or leave it out"
            ) from error
    return Trackers(opened)


def _open(name: TrackerName, folder: Path, identity: str, config: Mapping[str, Any]) -> Tracker:
    match name:
        case "tensorboard":
            return TensorBoard(folder / "tensorboard")
        case "wandb":
            return Wandb(folder, identity, config)
        case "trackio":
            return Trackio(folder, identity, config)
        case _:
            assert_never(name)


def _report(name: str, what: str, error: Exception) -> None:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    print(f"warning: --track {name} {what} ({reason}); metrics.jsonl has every row", file=sys.stderr)


class TensorBoard:
    """Event files in the run folder. Those of an earlier course are hidden from the first step of this one on."""

    def __init__(self, folder: Path) -> None:
        from torch.utils import tensorboard

        self._make, self._folder = tensorboard.SummaryWriter, folder
        self._writer: tensorboard.SummaryWriter | None = None

    def log(self, step: int, metrics: Metrics) -> None:
        if self._writer is None:
            self._writer = self._make(str(self._folder), purge_step=step)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Wandb:
    """A run of Weights & Biases, its files in the run folder.

    W&B drops rows whose own step number is not above the last one's. So the step is a metric like the others, and the x
    axis of all of them: after a rewind the steps come again.
    """

    def __init__(self, folder: Path, identity: str, config: Mapping[str, Any]) -> None:
        import wandb  # type: ignore[import-not-found]

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=_name(folder), id=identity, resume="allow",
            config=dict(config), allow_val_change=True, dir=str(folder),
        )  # fmt: skip
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Metrics) -> None:
        self._run.log({"step": step, **metrics})

    def finish(self) -> None:
        self._run.finish()


class Trackio:
    """A run of trackio, in its own folder of this machine or where its environment variables say."""

    def __init__(self, folder: Path, identity: str, config: Mapping[str, Any]) -> None:
        import trackio  # type: ignore[import-not-found]

        # It finds a run by its name.
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT), name=f"{_name(folder)}-{identity}", resume="allow",
            config=dict(config), embed=False,
        )  # fmt: skip

    def log(self, step: int, metrics: Metrics) -> None:
        self._run.log(metrics, step=step)

    def finish(self) -> None:
        self._run.finish()


def _name(folder: Path) -> str:
    """`runs/zero` -> "runs-zero", `runs/demo/zero` -> "demo-zero"."""
    return "-".join(folder.absolute().parts[-2:])
