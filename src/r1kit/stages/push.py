"""Upload a finished model with a card made of its run: base and licence, data, settings, scores.

    r1kit push runs/zero my-org/my-model --dry-run     # the folder that would be uploaded
    r1kit push runs/zero my-org/my-model

`--push-to-hub ORG/NAME` of a run does the same at its end.
"""

from __future__ import annotations

from r1kit import hub
from r1kit.config import PushConfig


def main(cfg: PushConfig) -> None:
    """Upload, or with `dry_run` only write the folder. FileNotFoundError or ValueError when either is not possible."""
    if not cfg.dry_run:
        print(hub.push(cfg.model, cfg.repo, private=not cfg.public))
        return
    folder = hub.stage_folder(cfg.model, cfg.repo)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"{file.stat().st_size:>15,}  {file.relative_to(folder)}")
    print(f"{folder} is what would be uploaded to {cfg.repo}; read {folder / hub.CARD} first")
