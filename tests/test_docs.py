"""The documentation says what is: links resolve, commands parse, names exist, metric keys are explained."""

import ast
import dataclasses
import json
import random
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest

from fake_pipeline import make_fake_pipeline
from fake_run import make_fake_run
from r1kit import graph, pipeline, presets
from r1kit.cli import PipelineFlags, UsageError, parse
from r1kit.config import (
    AlgoConfig,
    ChatConfig,
    DataConfig,
    DistillConfig,
    EndpointConfig,
    EvalConfig,
    EvaluateConfig,
    PreferencesConfig,
    PretrainConfig,
    PushConfig,
    RejectConfig,
    RewardModelConfig,
    RLConfig,
    ScoreConfig,
    SFTConfig,
)
from r1kit.curation.pairs import read_labelled, read_pairs
from r1kit.recipes import demo
from r1kit.report import report
from r1kit.rewards.accuracy import PREFERENCE_SCORERS, gold_fault, score_answer
from r1kit.sampling.totals import Totals
from r1kit.scoring.passk import GradedSample, summarise
from r1kit.stages.score import read_rows
from r1kit.tasks.dataset import read_problems
from r1kit.training.conversations import read_conversations

ROOT = Path(__file__).parents[1]
DOCS = sorted(
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")]
    + [*(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")]
)
EVERY_DOC = pytest.mark.parametrize("doc", DOCS, ids=lambda doc: str(doc.relative_to(ROOT)))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
FLAG = re.compile(r"(?<![\w-])--[a-z](?:[a-z0-9.-]*[a-z0-9])?")
ADDED = re.compile(r"""add_argument\(\s*["'](--[\w-]+)""")
VLLM_FLAGS = {
    "--logprobs-mode", "--generation-config", "--worker-extension-cls", "--load-format", "--tensor-parallel-size",
}  # fmt: skip
OTHER_PROGRAMS = {"--extra-index-url", "--logdir", "--repo-type", "--local-dir"}.union(
    VLLM_FLAGS, *(ADDED.findall(script.read_text()) for script in (ROOT / "benchmarks").glob("*.py"))
)
CONFIGS = (
    RLConfig, EvaluateConfig, PretrainConfig, ChatConfig, SFTConfig, RejectConfig, PreferencesConfig, RewardModelConfig,
    DistillConfig, ScoreConfig, DataConfig, PushConfig, PipelineFlags,
)  # fmt: skip


def blocks(doc: Path, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(doc.read_text()) if language in languages]


def prose(doc: Path) -> str:
    """Without fenced blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "`", FENCE.sub("", doc.read_text()))


def anchors(doc: Path) -> set[str]:
    """As GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", doc.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@EVERY_DOC
def test_relative_links_resolve(doc: Path):
    for _, target in LINK.findall(prose(doc)):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        found = (doc.parent / path).resolve() if path else doc
        assert found.exists(), f"{target}: no such file"
        assert found.is_relative_to(ROOT), f"{target} leaves the repository"
        assert not anchor or anchor in anchors(found), f"{target}: no such heading"


def shell_lines(doc: Path) -> Iterator[list[str]]:
    """The words of every command line in the document's shell blocks; `\\` joins lines, assignments are dropped."""
    for body in blocks(doc, "sh", "bash", "console", ""):
        for line in body.replace("\\\n", " ").splitlines():
            if not re.match(r"\s*(\$ )?(\w+=\S+ )*(r1kit|make)\b", line):
                continue
            words = shlex.split(line, comments=True)
            while words[0] == "$" or re.fullmatch(r"\w+=.*", words[0]):
                words = words[1:]
            yield words


@EVERY_DOC
def test_commands_parse(doc: Path, capsys: pytest.CaptureFixture[str]):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for program, *args in shell_lines(doc):
        if program == "make":
            assert args[0] in targets, args
            continue
        try:
            assert parse(args) is not None or "--help" in args or args == ["presets"], args
        except (UsageError, ValueError) as error:
            pytest.fail(f"r1kit {shlex.join(args)}: {error}")
        except SystemExit as stop:
            assert not stop.code, f"r1kit {shlex.join(args)}: {capsys.readouterr().err}"
    for target in re.findall(r"`make ([\w-]+)", doc.read_text()):
        assert target in targets, f"make {target}"


def test_commands_are_found_in_the_readme():
    commands = [" ".join(words) for words in shell_lines(ROOT / "README.md")]
    assert "make demo" in commands and "r1kit chat runs/demo" in commands
    assert any(command.endswith("--eval.max-new-tokens 512") for command in commands), "a continued line is one command"


def flags_of(config: type, prefix: str = "--") -> set[str]:
    found = set()
    for name, hint in get_type_hints(config).items():
        flag = prefix + name.replace("_", "-")
        found |= flags_of(hint, f"{flag}.") if dataclasses.is_dataclass(hint) and isinstance(hint, type) else {flag}
    return found


@EVERY_DOC
def test_flags_exist(doc: Path):
    known = {"--help", "--version", "--algo", "--out"} | OTHER_PROGRAMS
    known |= set[str]().union(*map(flags_of, CONFIGS))
    known |= {flag.rpartition(".")[0] for flag in known if "." in flag}  # `--rewriter` for all of its fields
    assert set(FLAG.findall(re.sub(r"<!--.*?-->", "", doc.read_text(), flags=re.DOTALL))) <= known


@EVERY_DOC
def test_python_blocks_run(doc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for number, code in enumerate(blocks(doc, "python")):
        names: dict = {}
        exec(compile(code, str(doc), "exec"), names)
        if make_problem := names.get("make_problem"):
            problem = make_problem(random.Random(0))
            assert problem == make_problem(random.Random(0)) and problem.id.startswith(f"{problem.task}:")
            assert not gold_fault(problem.scorer, problem.gold)
            assert score_answer(problem.scorer, problem.gold, problem.gold).verdict == "right"
        if "stages" in names:
            recipe = tmp_path / f"recipe_{number}.py"
            recipe.write_text(code)
            pipeline.main(str(recipe), tmp_path / "run", 0, plan=True)
            assert "to do" in (shown := capsys.readouterr().out) or "no times known" in shown
            assert not (tmp_path / "run").exists(), "a plan does nothing"


def test_the_readme_has_a_recipe_that_is_run():
    (recipe,) = [code for code in blocks(ROOT / "README.md", "python") if "def stages()" in code]
    assert len(recipe.splitlines()) <= 30
    assert "r1kit run my_recipe.py" in [" ".join(words) for words in shell_lines(ROOT / "README.md")]


def rows_read(file: Path, fields: set[str]) -> int:
    """How many rows of a data file are taken by the reader that its fields are for."""
    if "chosen" in fields:
        return len(read_pairs([str(file)])[0])
    if "safe" in fields:
        return len(read_labelled([str(file)])[0])
    if {"gold", "completion"} <= fields:
        return sum(1 for _ in read_rows(ScoreConfig(file=file)))
    if fields & {"completion", "messages"}:
        return len(read_conversations([str(file)]))
    found = 0
    for split in ("train", "heldout"):
        try:
            found += len(read_problems(file, split)[0])
        except ValueError as error:
            assert f"in the {split} split" in str(error)
    return found


def python_files(doc: Path) -> dict[str, str]:
    """Name -> text of the Python files that the page shows: a block after "`name.py`:"."""
    return dict(re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)^```$", doc.read_text(), re.MULTILINE | re.DOTALL))


@EVERY_DOC
def test_data_files_are_read(doc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name, code in python_files(doc).items():
        (tmp_path / name).write_text(code)
    for number, body in enumerate(blocks(doc, "jsonl")):
        file = tmp_path / f"{number}.jsonl"
        file.write_text(body)
        rows = [json.loads(line) for line in body.splitlines()]
        assert rows_read(file, set().union(*rows)) == len(rows)


def names_in(file: Path) -> set[str]:
    """Functions, classes and variables that a Python file defines, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def named(doc: Path) -> list[tuple[str, Path]]:
    """(name, file) for `name` ([file.py](path)), `name`, [file.py](path), `name` (file.py) and [`name`](path)."""
    text = doc.read_text()
    files = {Path(label).name: doc.parent / path for label, path in LINK.findall(text) if path.endswith(".py")}
    name = r"`(\w+)(?:\([^`]*\))?`"
    pairs = re.findall(name + r"(?: \(|, | in )\[[^\]]+\]\(([^)#]+\.py)\)", text) + re.findall(
        r"\[`(\w+)`\]\(([^)#]+\.py)\)", text
    )
    return [(found, doc.parent / path) for found, path in pairs] + [
        (found, files[label]) for found, label in re.findall(name + r" \((\w+\.py)\)", text)
    ]


@EVERY_DOC
def test_names_exist_in_the_files_they_are_linked_to(doc: Path):
    for name, file in named(doc):
        assert file.exists() and name in names_in(file), f"{name} is not in {file}"
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    for test in re.findall(r"`(test_\w+)`", doc.read_text()):
        assert f"def {test}(" in tests, test


def test_the_papers_equations_are_found():
    found = {name for name, _ in named(ROOT / "docs" / "paper.md")}
    assert {"grpo_loss", "policy_loss", "kl_k3", "group_advantages", "token_weights", "minibatches"} <= found
    assert {"pairwise_loss", "pointwise_loss", "language_consistency", "load_preference", "reverse_kl"} <= found
    assert {"rewrite_by_endpoint", "judge_correctness", "judge_pairs", "right_and_readable"} <= found


def test_fields_in_the_papers_tables_exist():
    fields = {field.name for config in (AlgoConfig, RLConfig) for field in dataclasses.fields(config)}
    equations, _, rest = (ROOT / "docs" / "paper.md").read_text().partition("## Equations of the rewards")
    rows = [line for line in equations.splitlines() if line.startswith("| ") and line.count(" | ") == 3][1:]
    used = {word for row in rows for word in re.findall(r"`([\w.=-]+?)(?:=[^`]*)?`", row.split(" | ")[-1])}
    assert "clip_high" in used
    assert {word.removeprefix("RLConfig.") for word in used} <= fields | presets.ALGOS.keys() | {"ALGOS"}
    for group, name in re.findall(r"`(algo|optim|reward|eval)\.(\w+)`", rest):
        assert name in {field.name for field in dataclasses.fields(getattr(presets.rl_demo(), group))}, (
            f"{group}.{name}"
        )


WRITERS: dict[str, set[str]] = {
    "stages/rl.py": {"metrics", "seconds", "parts"},
    "stages/pretrain.py": {"metrics"},
    "stages/sft.py": {"metrics"},
    "stages/reject.py": {"metrics"},
    "stages/preferences.py": {"metrics", "counts"},
    "stages/reward_model.py": {"metrics", "baselines"},
    "stages/distill.py": {"metrics"},
    "algo/losses.py": {"metrics"},
    "algo/preference.py": {"metrics"},
    "training/learner.py": {"metrics"},
    "training/supervised.py": {"metrics"},
    "training/rollout.py": {"metrics", "seconds", "parts"},
    "training/evaluation.py": {"metrics"},
    "sampling/vllm.py": {"metrics"},
}
"""File -> the variables in it whose keys go to metrics.jsonl."""
RETURNS_METRICS = re.compile(r"Metrics|dict\[str, Tensor\]")
SAMPLE = GradedSample(
    right=True, undecided=False, answer="1", tokens=3, truncated=False, reflection=0, consistency=1.0, quality=1.0
)
MADE_UP: dict[str, set[str]] = {
    "eval/*/*": {f"eval/TASK/{name.replace('@3', '@K')}" for name in summarise([[SAMPLE] * 3] * 2)},
    "eval/all/*": set(),
    "eval/accuracy_*": {
        "eval/accuracy_chosen_longer", "eval/accuracy_chosen_shorter", "eval/accuracy_safe", "eval/accuracy_unsafe",
    },
    "prompts/*": {f"prompts/{scorer}" for scorer in PREFERENCE_SCORERS},
    "language/*": {"language/CODE"},
    "judge/*": set(),
    "*/*": {
        f"{name}/{what}"
        for name in ("judge", "rewriter", "teacher")
        for what in Totals().usage(EndpointConfig(prompt_price=1.0))
    },
}  # fmt: skip
"""Keys with a part that is computed -> what they become."""


def key_of(node: ast.AST | None) -> str | None:
    """The key that an expression is: a constant, or an f-string with * for what is computed; None for others."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    return None


def keys_in(node: ast.AST) -> set[str]:
    """Keys of the dicts in an expression; f"reward/{part}" for part in ("accuracy", ...) is written out."""
    found: set[str | None] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Dict):
            found |= {key_of(key) for key in part.keys}
        elif isinstance(part, ast.DictComp):
            pattern, source = key_of(part.key), part.generators[0].iter
            if pattern and isinstance(source, ast.Tuple):
                found |= {
                    pattern.replace("*", str(item.value)) for item in source.elts if isinstance(item, ast.Constant)
                }
            else:
                found.add(pattern)
    return {key for key in found if key is not None}


def keys_written(file: Path, variables: set[str]) -> set[str]:
    """Keys that are put into the `variables`, or returned by functions that give metrics."""
    found: set[str | None] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                name = target.value if isinstance(target, ast.Subscript) else target
                if isinstance(name, ast.Name) and name.id in variables:
                    found |= keys_in(node.value) if node.value else set()
                    found |= {key_of(target.slice)} if isinstance(target, ast.Subscript) else set()
        elif isinstance(node, ast.FunctionDef) and node.returns and RETURNS_METRICS.search(ast.unparse(node.returns)):
            for part in ast.walk(node):
                found |= keys_in(part.value) if isinstance(part, ast.Return) and part.value is not None else set()
    return {key for key in found if key is not None}


def test_every_metric_is_documented_and_every_documented_metric_written():
    written = {"step", "time"}
    for file, variables in WRITERS.items():
        written |= keys_written(ROOT / "src" / "r1kit" / file, variables)
    computed = {key for key in written if "*" in key}
    assert computed == MADE_UP.keys()
    written = (written - computed).union(*MADE_UP.values())
    text = (ROOT / "docs" / "run-folder.md").read_text()
    tables = text.partition("\n## metrics.jsonl\n")[2].partition("\n## samples.jsonl\n")[0]
    assert set(re.findall(r"^\| `([^`]+)` \|", tables, re.MULTILINE)) == written


def test_every_field_of_the_summaries_is_documented(tmp_path: Path):
    section = (ROOT / "docs" / "run-folder.md").read_text().partition("\n## summary.json\n")[2]
    fields: set[str] = set()
    for folder in (make_fake_pipeline(tmp_path / "all", problems=5, samples=2), make_fake_run(tmp_path / "run")):
        report.main(folder)
        summary = json.loads((folder / "summary.json").read_text())
        fields |= summary.keys()
        assert set(re.findall(r"`(\w+)`", section)) >= summary["claims"][0].keys() | summary.get("pipeline", {}).keys()
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == fields


def test_the_recipes_page_has_the_demos_stages():
    """All of them in the table of stages, and their inputs and evaluations in the graph."""
    text = (ROOT / "docs" / "recipe.md").read_text()
    section = text.partition("\n## Stage by stage\n")[2].partition("\n## ")[0]
    stages = demo.stages()
    rows = set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))
    assert rows == {re.sub(r"^(eval|general)-.*", r"\1-*", name) for name in stages}
    (drawing,) = [body for body in blocks(ROOT / "docs" / "recipe.md", "") if "->" in body]
    drawn: dict[str, set[str]] = {}
    for line in drawing.splitlines():
        sources, made, *scored = [set(re.findall(r"[\w-]+", part)) - {"-"} for part in line.split("->")]
        drawn |= {name: sources for name in made} | {name: made for part in scored for name in part}
    models = {"demo-base", "demo-student"}
    for name, config in stages.items():
        if name not in ("eval-base", "eval-student-base"):
            base = {config.model} & models if not isinstance(config, EvalConfig) else set()
            assert drawn.pop(name) == graph.references(config) | base, name
    assert not drawn


def test_the_readmes_tree_is_the_source_tree():
    (tree,) = [body for body in blocks(ROOT / "README.md", "") if body.startswith("src/r1kit/")]
    listed, folders = set(), [Path("src/r1kit")]
    for line in tree.splitlines()[1:]:
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        path = folders[depth - 1] / name
        folders[depth:] = [path]
        assert (ROOT / path).exists(), f"{path} does not exist"
        listed.add(path)
    package = ROOT / "src" / "r1kit"
    files = {path.relative_to(ROOT) for path in package.rglob("*.py") if path.name != "__init__.py"}
    assert files <= listed, f"not in README's tree: {sorted(map(str, files - listed))}"
