"""Config of `r1kit push`."""

from __future__ import annotations

from r1kit.config.checked import config


@config
class PushConfig:
    """Put a finished model on the Hugging Face hub, with a card made of its run: `r1kit push PATH ORG/NAME`."""

    model: str = ""
    """Run folder (its last checkpoint), pipeline folder, or a model folder with a README.md of its own."""
    repo: str = ""
    """The repository, ORG/NAME."""
    public: bool = False
    """Make a new repository public. Without it, it is private; one that exists stays as it is."""
    dry_run: bool = False
    """Write the folder that would be uploaded, say where it is, and stop."""
