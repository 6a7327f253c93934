"""A finished model on the Hugging Face hub, with a card made of its run: `r1kit push`, and `--push-to-hub` of a run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from r1kit.model.hf import SHIPPED, model_folder
from r1kit.model.tokenizer import load_tokenizer
from r1kit.report.model_card import Base, front_matter, lineage, model_card, run_of
from r1kit.run import write_text_atomic
from r1kit.training.checkpoint import LEARNER, MANIFEST, STATE, find_model

NOT_SENT = {LEARNER, STATE, MANIFEST, "README.md"}
"""What only a run needs to go on; and the card, which is made anew."""
CARD = "README.md"


def check_repo(repo: str) -> None:
    """ValueError unless `repo` is a name that the hub takes, as ORG/NAME."""
    from huggingface_hub.utils import validate_repo_id

    if repo.count("/") != 1:
        raise ValueError(f"{repo!r} is no name on the hub; give ORG/NAME, such as my-org/my-model")
    validate_repo_id(repo)


def reserve(repo: str, *, private: bool = True) -> None:
    """Make the repository where it is not there yet: for the start of a run, which then finds no login missing at its
    end. Nothing for an empty name. ValueError when the hub refuses."""
    if not repo:
        return
    from huggingface_hub import HfApi

    check_repo(repo)
    try:
        HfApi().create_repo(repo, private=private, exist_ok=True)
    except _refusals() as error:
        raise ValueError(
            f"{repo} could not be made on the hub: {error}; log in with `hf auth login` or HF_TOKEN as someone who may "
            f"write there, or leave out --push-to-hub"
        ) from error


def push(path: str | Path, repo: str, *, private: bool = True) -> str:
    """Upload the model of a run or a folder with its card; returns the address.

    ValueError when the hub refuses; what `stage_folder` raises.
    """
    from huggingface_hub import HfApi

    reserve(repo, private=private)
    folder = stage_folder(path, repo)
    try:
        HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message="Model and card, by r1kit")
    except _refusals() as error:
        raise ValueError(
            f"{folder} could not be uploaded to {repo}: {error}; try again: r1kit push {path} {repo}"
        ) from error
    shutil.rmtree(folder)
    return f"https://huggingface.co/{repo}"


def stage_folder(path: str | Path, repo: str) -> Path:
    """A folder with all that is uploaded: the model's files (hard links where the disk allows) and the card.

    It is hub/ in the run folder, or runs/hub/NAME for a model of no run, which keeps the card that it has. Raises
    FileNotFoundError without a model, ValueError for a damaged one or an odd `repo`.
    """
    check_repo(repo)
    model = find_model(path)
    run = run_of(model)
    folder = run / "hub" if run else Path("runs") / "hub" / repo.partition("/")[2]
    card = _card(model, run, repo)
    shutil.rmtree(folder, ignore_errors=True)
    for source in sorted(file for file in model.rglob("*") if file.is_file()):
        name = source.relative_to(model)
        if str(name) not in NOT_SENT and not any(part.startswith(".") for part in name.parts):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _link(source.resolve(), folder / name)
    write_text_atomic(folder / CARD, card)
    return folder


def _card(model: Path, run: Path | None, repo: str) -> str:
    if run is None:
        own = model / CARD
        if not own.is_file():
            raise ValueError(f"{model} is of no run of r1kit, and has no {CARD}; write its model card there first")
        return own.read_text(encoding="utf-8")
    _, name = lineage(run)
    step = int(model.name.removeprefix("step-"))
    return model_card(run, step, read_base(name), repo, load_tokenizer(model))


def read_base(name: str) -> Base:
    """The base with what its own card says; nothing, where a card on the hub cannot be had."""
    if not name:
        return Base(name)
    if name in SHIPPED or Path(name).exists():
        folder = model_folder(name) if name in SHIPPED else Path(name)
        card = folder / CARD
        return Base(name, front_matter(card.read_text(encoding="utf-8")) if card.is_file() else {})
    from huggingface_hub import hf_hub_download

    try:
        return Base(name, front_matter(Path(hf_hub_download(name, CARD)).read_text(encoding="utf-8")))
    except (ValueError, *_refusals()):  # offline, gated, no card, no such model
        return Base(name)


def _refusals() -> tuple[type[Exception], ...]:
    """What the hub's client raises: errors of its own, and those of the HTTP library under it."""
    from huggingface_hub.errors import HTTPError  # type: ignore[reportPrivateImportUsage]

    return OSError, HTTPError


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)
