"""Tasks: where problems come from. This folder is the registry: a module here with `make_problem(rng)` is a task.

`load_problems("countdown", "train", seed=0)` gives a ProblemSet; so do a Python file with `make_problem`,
`reasoning_gym:NAME` and data sets: a file or a folder, a set known by name (gsm8k), a name on the Hugging Face hub
(org/name). Where a set has no split of its own, whether a problem is for training or held out depends on its content
alone, so the two never overlap, whatever the seeds.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import pkgutil
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from r1kit.config.source import ColumnsConfig, FilterConfig
from r1kit.types import Message, Problem

Split = Literal["train", "heldout"]
MakeProblem = Callable[[random.Random], Problem]

ADAPTERS = ("dataset", "reasoning_gym")
"""Modules of this folder that read problems from elsewhere; the others are tasks."""
HELDOUT_SHARE = 10  # one problem in ten is held out
MAX_DRAWS = 1000  # without one problem of the split: 0.9^1000 is 1e-46, so the generator has none
MAX_REPEATS = 5000  # problems in a row that are all known: the generator is exhausted


class ProblemSet(Protocol):
    """One split of a task: an endless sequence of problems, each a function of the seed and its position."""

    @property
    def name(self) -> str:
        """As given to `load_problems`."""
        ...

    def take(self, start: int, count: int) -> list[Problem]:
        """Problems at positions start..start+count-1, different ones where the task has that many."""
        ...

    def first(self, num_problems: int) -> list[Problem]:
        """As many distinct problems, for evaluation; ValueError when there are fewer."""
        ...


def load_problems(
    spec: str,
    split: Split,
    seed: int,
    *,
    columns: ColumnsConfig | None = None,
    filters: FilterConfig | None = None,
    system_prompt: str = "",
) -> ProblemSet:
    """The problems of one split of a task.

    `spec` is a task's name (`task_names()`), a Python file with `make_problem(rng)`, `reasoning_gym:NAME`
    (`reasoning_gym:chain_sum?min_terms=2`), or a data set (`r1kit.data.rows`), which `columns` and `filters` are for.
    `system_prompt` is put before prompts without one.
    ValueError for an unknown name or a bad option or row, FileNotFoundError for a missing file.
    """
    if spec.startswith("reasoning_gym:"):
        from r1kit.tasks.reasoning_gym import problem_maker

        return GeneratedProblems(spec, split, seed, _with_system(problem_maker(spec), system_prompt))
    if spec in task_names():
        make_problem = importlib.import_module(f"r1kit.tasks.{spec}").make_problem
        return GeneratedProblems(spec, split, seed, _with_system(make_problem, system_prompt))
    if spec.endswith(".py"):
        from r1kit.rewards.own import function_of

        if not Path(spec).is_file():
            raise FileNotFoundError(f"{spec}: no such file; give a Python file with make_problem(rng)")
        make_problem = function_of(spec, "make_problem")
        return GeneratedProblems(spec, split, seed, _with_system(make_problem, system_prompt))
    from r1kit.data.known import KNOWN
    from r1kit.data.rows import is_source

    if not is_source(spec):
        close = difflib.get_close_matches(spec, [*task_names(), *KNOWN], n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(
            f"no task {spec!r}{hint}; give one of {', '.join(task_names())}, a data set known by name "
            f"({', '.join(KNOWN)}), reasoning_gym:NAME, a file (.py, .jsonl, .json, .parquet, .csv, .tsv), a folder "
            f"with a / in its name, or a name on the Hugging Face hub (org/name)"
        )
    from r1kit.tasks.dataset import read_problems

    problems, summary = read_problems(spec, split, columns or ColumnsConfig(), filters or FilterConfig())
    told = tuple(with_system(problem, system_prompt) for problem in problems)
    return FiniteProblems(spec, split, seed, told, summary)


def with_system(problem: Problem, system_prompt: str) -> Problem:
    """The problem with a system message before its prompt, unless it has one or `system_prompt` is empty."""
    if not system_prompt or problem.messages[0].role == "system":
        return problem
    return replace(problem, messages=(Message("system", system_prompt), *problem.messages))


def _with_system(make_problem: MakeProblem, system_prompt: str) -> MakeProblem:
    return (lambda rng: with_system(make_problem(rng), system_prompt)) if system_prompt else make_problem


def task_names() -> list[str]:
    """The tasks in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in ADAPTERS)


def summaries(problem_sets: Sequence[ProblemSet]) -> list[str]:
    """A line for each data set among them: rows read, kept, dropped and why."""
    return [problems.summary for problems in problem_sets if isinstance(problems, FiniteProblems)]


def is_heldout(key: str) -> bool:
    """Whether the problem with this canonical key (`Problem.id` of a generated problem) is held out: one in ten is."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest(), "big") % HELDOUT_SHARE == 0


def mix(problem_sets: Sequence[ProblemSet], start: int, count: int) -> list[Problem]:
    """`count` problems from position `start` on, from the sets in turn; all get as many where calls go on one another.

    A pure function of the sets' seeds and (start, count).
    """
    names = [problems.name for problems in problem_sets]
    if len(set(names)) < len(names):
        raise ValueError(f"tasks {', '.join(names)}: one is named twice; name each task once")
    turns = len(problem_sets)
    mixed: dict[int, Problem] = {}
    for turn, problems in enumerate(problem_sets):
        positions = range(start + (turn - start) % turns, start + count, turns)
        mixed |= zip(positions, problems.take(positions.start // turns, len(positions)), strict=True)
    return [mixed[position] for position in range(start, start + count)]


@dataclass(frozen=True)
class GeneratedProblems:
    """Problems of one split drawn from a generator; what falls on the other side of the split is drawn again."""

    name: str
    split: Split
    seed: int
    make_problem: MakeProblem

    def take(self, start: int, count: int) -> list[Problem]:
        taken: dict[str, Problem] = {}
        repeated = []
        for position in range(start, start + count):
            rng = random.Random(f"{self.name}/{self.split}/{self.seed}/{position}")
            problem = self._draw(rng)
            for _ in range(20):
                if problem.id not in taken:
                    break
                problem = self._draw(rng)
            if problem.id in taken:
                repeated.append(problem)
            else:
                taken[problem.id] = problem
        return [*taken.values(), *repeated]

    def first(self, num_problems: int) -> list[Problem]:
        rng = random.Random(f"{self.name}/{self.split}/{self.seed}/first")
        found: dict[str, Problem] = {}
        repeats = 0
        while len(found) < num_problems:
            problem = self._draw(rng)
            repeats = repeats + 1 if problem.id in found else 0
            found.setdefault(problem.id, problem)
            if repeats > MAX_REPEATS:
                raise ValueError(
                    f"{self.name}: {num_problems} {self.split} problems asked for, only {len(found)} different ones "
                    f"found; ask for at most {len(found)}"
                )
        return list(found.values())

    def _draw(self, rng: random.Random) -> Problem:
        for _ in range(MAX_DRAWS):
            problem = self.make_problem(rng)
            if is_heldout(problem.id) == (self.split == "heldout"):
                return problem
        raise ValueError(
            f"{self.name}: none of {MAX_DRAWS} problems drawn belongs to the {self.split} split, the task has too few; "
            f"choose another task or, with options, a larger one"
        )


@dataclass(frozen=True)
class FiniteProblems:
    """A fixed list of problems, all of one split: every epoch is a shuffle of its own."""

    name: str
    split: Split
    seed: int
    problems: tuple[Problem, ...]
    summary: str = ""
    """What was read and what was left out, and why; both splits."""

    def __len__(self) -> int:
        return len(self.problems)

    def take(self, start: int, count: int) -> list[Problem]:
        size = len(self.problems)
        taken: list[Problem] = []
        while len(taken) < count:
            epoch, offset = divmod(start + len(taken), size)
            taken += self._epoch(epoch)[offset : offset + count - len(taken)]
        return taken

    def first(self, num_problems: int) -> list[Problem]:
        if num_problems > len(self.problems):
            raise ValueError(
                f"{self.name}: {num_problems} {self.split} problems asked for, it has {len(self.problems)}; "
                f"ask for at most {len(self.problems)}"
            )
        return self._epoch(0)[:num_problems]

    def _epoch(self, epoch: int) -> list[Problem]:
        order = list(self.problems)
        random.Random(f"{self.name}/{self.seed}/{epoch}").shuffle(order)
        return order
