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

from r1kit import presets
from r1kit.cli import UsageError, parse
from r1kit.config import AlgoConfig, ChatConfig, EvalConfig, PretrainConfig, RLConfig
from r1kit.rewards.accuracy import gold_fault, score_answer
from r1kit.scoring.passk import GradedSample, summarise
from r1kit.tasks.jsonl import read_problems

ROOT = Path(__file__).parents[1]
DOCS = sorted(
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    + [*(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")]
)
EVERY_DOC = pytest.mark.parametrize("doc", DOCS, ids=lambda doc: str(doc.relative_to(ROOT)))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
FLAG = re.compile(r"(?<![\w-])--[a-z](?:[a-z0-9.-]*[a-z0-9])?")
OTHER_PROGRAMS = {"--extra-index-url", "--json", "--seeds", "--runs"}


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
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
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
    for target in re.findall(r"`make (\w+)", doc.read_text()):
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
    known |= set[str]().union(*(flags_of(config) for config in (RLConfig, EvalConfig, PretrainConfig, ChatConfig)))
    assert set(FLAG.findall(re.sub(r"<!--.*?-->", "", doc.read_text(), flags=re.DOTALL))) <= known


@EVERY_DOC
def test_python_blocks_run(doc: Path):
    for code in blocks(doc, "python"):
        names: dict = {}
        exec(compile(code, str(doc), "exec"), names)
        if make_problem := names.get("make_problem"):
            problem = make_problem(random.Random(0))
            assert problem == make_problem(random.Random(0)) and problem.id.startswith(f"{problem.task}:")
            assert not gold_fault(problem.scorer, problem.gold)
            assert score_answer(problem.scorer, problem.gold, problem.gold).verdict == "right"


@EVERY_DOC
def test_problem_files_are_read(doc: Path, tmp_path: Path):
    for number, body in enumerate(blocks(doc, "jsonl")):
        file = tmp_path / f"{number}.jsonl"
        file.write_text(body)
        count = sum(len(read_problems(file, split)) for split in ("train", "heldout"))
        assert count == len(body.splitlines()) == len([json.loads(line) for line in body.splitlines()])


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
    named_in_paper = {name for name, _ in named(ROOT / "docs" / "paper.md")}
    assert {"grpo_loss", "policy_loss", "kl_k3", "group_advantages", "token_weights", "minibatches"} <= named_in_paper


def test_fields_in_the_papers_tables_exist():
    fields = {field.name for config in (AlgoConfig, RLConfig) for field in dataclasses.fields(config)}
    equations, _, rest = (ROOT / "docs" / "paper.md").read_text().partition("### Where the papers leave a choice")
    rows = [line for line in equations.splitlines() if line.startswith("| ") and line.count(" | ") == 3][1:]
    used = {word for row in rows for word in re.findall(r"`([\w.=-]+?)(?:=[^`]*)?`", row.split(" | ")[-1])}
    assert "clip_high" in used
    assert {word.removeprefix("RLConfig.") for word in used} <= fields | presets.ALGOS.keys() | {"ALGOS"}
    for group, name in re.findall(r"`(algo|optim|reward|eval)\.(\w+)`", rest):
        assert name in {field.name for field in dataclasses.fields(getattr(presets.rl_demo(), group))}, (
            f"{group}.{name}"
        )


WRITERS = ("stages/rl.py", "stages/pretrain.py", "algo/losses.py", "training/learner.py", "training/rollout.py",
           "training/evaluation.py")  # fmt: skip
RETURNS_METRICS = re.compile(r"Metrics|dict\[str, Tensor\]")


def keys_written(file: Path) -> set[str]:
    """Constant keys that go to variables named metrics or seconds, or are returned by functions that give metrics."""
    found: set[str] = set()
    values: list[ast.AST] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Assign | ast.AugAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                name = target.value if isinstance(target, ast.Subscript) else target
                if isinstance(name, ast.Name) and name.id in ("metrics", "seconds"):
                    values.append(node.value)
                    if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                        found.add(str(target.slice.value))
        elif isinstance(node, ast.FunctionDef) and node.returns and RETURNS_METRICS.search(ast.unparse(node.returns)):
            values += [part.value for part in ast.walk(node) if isinstance(part, ast.Return) and part.value is not None]
    dicts = [node for value in values for node in ast.walk(value) if isinstance(node, ast.Dict)]
    return found | {str(key.value) for node in dicts for key in node.keys if isinstance(key, ast.Constant)}


def test_every_metric_is_documented_and_every_documented_metric_written():
    written = {"step", "time"}.union(*(keys_written(ROOT / "src" / "r1kit" / file) for file in WRITERS))
    sample = GradedSample(right=True, undecided=False, answer="1", tokens=3, truncated=False, reflection=0)
    written |= {f"eval/TASK/{name.replace('@3', '@K')}" for name in summarise([[sample] * 3] * 2)}
    text = (ROOT / "docs" / "run-folder.md").read_text()
    tables = text.partition("\n## metrics.jsonl\n")[2].partition("\n## samples.jsonl\n")[0]
    assert set(re.findall(r"^\| `([^`]+)` \|", tables, re.MULTILINE)) == written


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
