"""Checkpoints: `checkpoints/step-000020/` in a run folder, written whole or not at all, with a hash of every file.

A checkpoint is also a Hugging Face model folder. This file knows nothing of tensors: the learner writes its own files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1kit.run import write_json_atomic

MANIFEST = "manifest.json"
STATE = "state.json"
LEARNER = "learner.pt"
"""What only going on with the run needs: the optimizer's state, many times as large as the model."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files all match their hashes."""

    step: int
    folder: Path
    state: dict[str, Any]


def save_checkpoint(
    run_folder: Path, step: int, write: Callable[[Path], None], state: dict[str, Any], keep: int
) -> Path:
    """Save `checkpoints/step-<step>`: `write(folder)` puts the model and optimizer files there.

    The folder gets its name only when everything is on disk; then older checkpoints than the newest `keep` are deleted,
    and those of later steps, which belong to a course of the run that was given up. `state` is kept as JSON. Returns
    the folder. Raises ValueError if `keep` is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}; give at least 1, or the new checkpoint would be deleted")
    checkpoints = run_folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for pattern in (".writing-*", ".deleting-*"):  # left by a process that was killed
        for leftover in checkpoints.glob(pattern):
            shutil.rmtree(leftover)
    target, temporary = checkpoints / f"step-{step:06d}", checkpoints / f".writing-{step:06d}"
    temporary.mkdir()
    write(temporary)
    write_json_atomic(temporary / STATE, state)
    files = sorted(path for path in temporary.rglob("*") if path.is_file())
    manifest = {str(path.relative_to(temporary)): _fingerprint(path) for path in files}
    write_json_atomic(temporary / MANIFEST, {"step": step, "files": manifest})
    for path in (*files, *(folder for folder in temporary.rglob("*") if folder.is_dir()), temporary):
        _fsync(path)
    if target.exists():  # damaged, or this step once more: it has to make way, a folder cannot replace another
        os.rename(target, target.with_name(f".deleting-{target.name}"))
    os.rename(temporary, target)
    _fsync(checkpoints)
    steps = checkpoint_steps(run_folder)
    kept = [other for other in steps if other <= step][-keep:]
    for other in steps:
        if other not in kept:
            # Renamed first, so that no half-deleted folder stays under a checkpoint's name.
            folder = checkpoints / f"step-{other:06d}"
            os.rename(folder, folder.with_name(f".deleting-{folder.name}"))
    for doomed in checkpoints.glob(".deleting-*"):
        shutil.rmtree(doomed)
    return target


def checkpoint_steps(run_folder: Path) -> list[int]:
    """Steps that have a checkpoint, damaged or not, in rising order."""
    found = (re.fullmatch(r"step-(\d+)", path.name) for path in (run_folder / "checkpoints").glob("step-*"))
    return sorted(int(match[1]) for match in found if match)


def load_checkpoint(folder: Path, *, model_only: bool = False) -> Checkpoint:
    """Read one checkpoint. Raises ValueError with the reason if a file is missing or does not match its hash.

    With `model_only` the learner's file is not looked at, and may have been deleted to save space.
    """
    manifest = _read_json(folder / MANIFEST)
    try:
        step, files = int(manifest["step"]), dict(manifest["files"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{MANIFEST} has no step and files") from error
    for name, expected in files.items():
        if model_only and name == LEARNER:
            continue
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        actual = _fingerprint(path)
        if actual != expected:
            raise ValueError(f"{name} is not what was saved: {_describe(actual)} instead of {_describe(expected)}")
    return Checkpoint(step=step, folder=folder, state=_read_json(folder / STATE))


def latest_checkpoint(run_folder: Path, *, model_only: bool = False) -> Checkpoint | None:
    """The newest checkpoint that is whole (`model_only`: but for the learner's file); None if there is none yet.

    A damaged one is named on stderr with the reason, and the one before it is tried. Raises ValueError if all are
    damaged: starting from nothing would overwrite the run.
    """
    reasons: list[str] = []
    for step in reversed(checkpoint_steps(run_folder)):
        folder = run_folder / "checkpoints" / f"step-{step:06d}"
        try:
            checkpoint = load_checkpoint(folder, model_only=model_only)
            if checkpoint.step != step:
                raise ValueError(f"{MANIFEST} says step {checkpoint.step}")
            return checkpoint
        except ValueError as error:
            reasons.append(f"{folder}: {error}")
            print(f"warning: checkpoint {folder} is damaged: {error}; trying the one before it", file=sys.stderr)
    if reasons:
        raise ValueError(
            f"every checkpoint of {run_folder} is damaged ({'; '.join(reasons)}); "
            "use another --run, or delete the folder to start again"
        )
    return None


def find_model(path: str | Path) -> Path:
    """The model folder that `path` stands for: itself, a run's last good checkpoint, a distilled student, or a
    pipeline's furthest stage (R1, or R1-Zero where that is all there is).

    Raises FileNotFoundError if there is none, ValueError if it is damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give a model folder, a run folder or a pipeline folder")
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        if (folder / MANIFEST).exists():
            try:
                load_checkpoint(folder, model_only=True)
            except ValueError as error:
                raise ValueError(f"checkpoint {folder} is damaged: {error}; use another one") from error
        return folder
    if (folder / "checkpoints").is_dir():
        checkpoint = latest_checkpoint(folder, model_only=True)
        if checkpoint is None:
            raise FileNotFoundError(f"{folder} has no checkpoint yet; wait for the first one, or run it on")
        return checkpoint.folder
    for stage in ("student", "r1", "dev3", "dev2", "dev1", "zero"):  # a distillation's; a pipeline's, the last first
        if any((folder / stage).glob("checkpoints/step-*")):
            return find_model(folder / stage)
    raise FileNotFoundError(
        f"{folder} holds no model: neither config.json with .safetensors, nor checkpoints/, nor a stage with them; "
        "give a model folder, a run folder or a pipeline folder"
    )


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def _describe(fingerprint: Any) -> str:
    if not isinstance(fingerprint, dict):
        return str(fingerprint)
    return f"{fingerprint.get('bytes')} bytes with sha256 {str(fingerprint.get('sha256'))[:12]}..."


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path.name} is missing") from error
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON ({error})") from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
