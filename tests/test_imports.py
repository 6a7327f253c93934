"""Imports point one way, stages stay apart, and the command line loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"

LAYERS = [
    {"types", ""},  # "" is the package itself: __version__
    {"config"},
    {"presets"},
    {"recipes"},
    {"trackers"},
    {"run", "allocator", "jsonl", "digest"},
    {"model", "algo", "sandbox"},
    {"sampling", "rewards", "scoring"},
    {"data"},
    {"tasks"},
    {"corpus", "curation"},
    {"training", "report"},
    {"hub"},
    {"stages"},
    {"recipe_checks", "graph"},
    {"jobs"},
    {"plan"},
    {"pipeline"},
    {"cli"},
    {"__main__", "worker"},
]
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}
HEAVY = {"torch", "transformers"}
LIGHT = {
    "", "__main__", "cli", "config", "presets", "recipes", "trackers", "types", "run", "allocator", "jsonl", "tasks",
    "rewards", "scoring", "data",
}  # fmt: skip


def modules(src: Path) -> dict[str, Path]:
    """{"r1kit.algo.losses": path}; a package's __init__ is the package."""
    found = {}
    for path in sorted((src / "r1kit").rglob("*.py")):
        parts = list(path.relative_to(src).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def unit_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imported(node: ast.AST, module: str, is_package: bool, known: set[str]) -> list[str]:
    """Full names of the modules that an import statement loads."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = module.split(".") if is_package else module.split(".")[:-1]
        package = package[: len(package) - node.level + 1]
        base = ".".join([*package, base] if base else package)
    # `from r1kit import run` loads r1kit.run; `from r1kit import __version__` loads r1kit.
    return [f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names]


def at_module_level(tree: ast.AST) -> list[ast.AST]:
    """Import statements that run when the module is imported."""
    found, todo = [], list(ast.iter_child_nodes(tree))
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        found.append(node)
        todo += ast.iter_child_nodes(node)
    return found


def violations(src: Path) -> list[str]:
    """Every import that breaks a rule, as `module imports module: rule`."""
    known = modules(src)
    broken = []
    for module, path in known.items():
        unit = unit_of(module)
        if unit not in RANK:
            broken.append(f"{module}: {unit!r} has no place in LAYERS")
            continue
        tree = ast.parse(path.read_text())
        is_package = path.name == "__init__.py"
        for node in ast.walk(tree):
            for target in imported(node, module, is_package, set(known)):
                other = unit_of(target)
                if target.split(".")[0] != "r1kit" or target == module:
                    continue
                if other not in RANK:
                    broken.append(f"{module} imports {target}: {other!r} has no place in LAYERS")
                elif unit == other == "stages" and module != "r1kit.stages.distill":  # it is two stages in one
                    broken.append(f"{module} imports {target}: stages do not import each other")
                elif unit != other and RANK[other] >= RANK[unit]:
                    broken.append(f"{module} imports {target}: imports point from cli to types")
        if unit in LIGHT:
            for node in at_module_level(tree):
                for target in imported(node, module, is_package, set(known)):
                    if target.split(".")[0] in HEAVY:
                        broken.append(f"{module} imports {target} at module level")
    return broken


def test_imports_point_one_way():
    assert violations(SRC) == []


@pytest.mark.parametrize(
    ("path", "code", "expected"),
    [
        ("algo/losses.py", "from r1kit.training import learner", "r1kit.algo.losses imports r1kit.training.learner"),
        ("types.py", "def f():\n    from r1kit.config import RLConfig", "r1kit.types imports r1kit.config"),
        ("run.py", "import r1kit.cli", "r1kit.run imports r1kit.cli"),
        ("run.py", "from r1kit import cli", "r1kit.run imports r1kit.cli"),
        ("algo/losses.py", "from ..training.learner import x", "r1kit.algo.losses imports r1kit.training.learner"),
        ("algo/losses.py", "from r1kit.model import x", "r1kit.algo.losses imports r1kit.model"),
        ("stages/rl.py", "from .pretrain import main", "stages do not import each other"),
        ("stages/rl.py", "def f():\n    import r1kit.stages.pretrain", "stages do not import each other"),
        ("cli.py", "import torch", "r1kit.cli imports torch at module level"),
        ("tasks/countdown.py", "try:\n    from torch.nn import Linear\nexcept ImportError:\n    pass", "module level"),
        ("rewards/format.py", "class A:\n    import transformers", "module level"),
        ("magic.py", "", "'magic' has no place in LAYERS"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, path, code, expected):
    plant(tmp_path, {"training/learner.py": "", "stages/pretrain.py": "", "cli.py": "", path: code})
    assert [line for line in violations(tmp_path) if expected in line], violations(tmp_path)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("training/learner.py", "import torch\nfrom r1kit.algo import losses\nfrom . import checkpoint"),
        ("cli.py", "from r1kit import __version__, presets\ndef f():\n    import torch"),
        ("run.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
    ],
)
def test_a_right_import_is_not_reported(tmp_path, path, code):
    plant(tmp_path, {"algo/losses.py": "", "training/checkpoint.py": "", "presets.py": "", path: code})
    assert violations(tmp_path) == []


def plant(src: Path, files: dict[str, str]) -> None:
    for name, code in {"__init__.py": "__version__ = '0'", **files}.items():
        path = src / "r1kit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        if path.parent.name != "r1kit":
            (path.parent / "__init__.py").touch()


def test_light_modules_load_no_torch_through_others():
    names = [name for name in modules(SRC) if unit_of(name) in LIGHT - {"__main__"}]
    code = (
        f"import importlib, sys\nfor name in {names}:\n    importlib.import_module(name)\n"
        f"    assert not {HEAVY} & sys.modules.keys(), name"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(SRC)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
