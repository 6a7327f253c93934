"""Recipes: whole pipelines as a dict of stage names and configs. A file with `stages()` is one; copy it and change it.

`@zero` in a config stands for the run folder of the stage `zero`.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """What a recipe file says."""

    stages: dict[str, Any]
    """Stage name -> config, in the order in which they run."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Measured time of each stage, for the plan."""
    machine: str = ""
    """Where that was measured."""
    alone: tuple[str, ...] = ()
    """Stages that have all the cores with `--jobs`, and nothing beside them."""


def names() -> list[str]:
    """The recipes that come with r1kit."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def describe(name: str) -> str:
    """The first line of a recipe's docstring."""
    return (importlib.import_module(f"r1kit.recipes.{name}").__doc__ or "").strip().splitlines()[0]


def load_recipe(name: str) -> Recipe:
    """A recipe by name, or from a Python file with `stages()`.

    FileNotFoundError or ValueError when there is none. What the file itself raises comes through.
    """
    module = _module(name)
    make = vars(module).get("stages")
    if not callable(make):
        raise ValueError(f"{name} has no function stages(); see r1kit/recipes/demo.py for a recipe to copy")
    stages = make()
    if not isinstance(stages, dict) or not stages:
        raise ValueError(f"{name}: stages() returns {type(stages).__name__}; return a dict of stage names and configs")
    for stage in stages:
        if not isinstance(stage, str) or not stage.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"{name}: stage name {stage!r} becomes a folder; use letters, digits, - and _")
    alone = vars(module).get("ALONE", ())
    if not isinstance(alone, tuple | list):
        raise ValueError(f"{name}: ALONE is {alone!r}; give a tuple of stage names")
    if unknown := [stage for stage in alone if stage not in stages]:
        raise ValueError(f"{name}: ALONE names {unknown[0]!r}, which is no stage; stages are {', '.join(stages)}")
    return Recipe(stages, vars(module).get("SECONDS", {}), vars(module).get("MACHINE", ""), tuple(alone))


def _module(name: str) -> ModuleType:
    if not name.endswith(".py"):
        if name not in names():
            raise ValueError(f"no recipe {name!r}; recipes are {', '.join(names())}, or give the path of a .py file")
        return importlib.import_module(f"r1kit.recipes.{name}")
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a recipe's name ({', '.join(names())}) or a Python file")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
