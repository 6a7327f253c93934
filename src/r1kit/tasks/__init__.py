"""Tasks: where problems come from. This folder is the registry: a module here with `make_problem(rng)` is a task.

`load_problems("countdown", "train", seed=0)` gives a ProblemSet; so do `reasoning_gym:NAME` and the path of a .jsonl
file. Whether a problem is for training or held out depends on its content alone, so the two never overlap, whatever
the seeds.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import pkgutil
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from r1kit.types import Problem

Split = Literal["train", "heldout"]
MakeProblem = Callable[[random.Random], Problem]

ADAPTERS = ("jsonl", "reasoning_gym")
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

    def at(self, step: int, count: int) -> list[Problem]:
        """Problems of a step that takes `count` of them: a pure function of (seed, step)."""
        ...

    def first(self, num_problems: int) -> list[Problem]:
        """As many distinct problems, for evaluation; ValueError when there are fewer."""
        ...


def load_problems(spec: str, split: Split, seed: int) -> ProblemSet:
    """The problems of one split of a task.

    `spec` is a task's name (`task_names()`), `reasoning_gym:NAME` (`reasoning_gym:chain_sum?min_terms=2`), or the path
    of a .jsonl file. ValueError for an unknown name or a bad option, FileNotFoundError for a missing file.
    """
    if spec.startswith("reasoning_gym:"):
        from r1kit.tasks.reasoning_gym import problem_maker

        return GeneratedProblems(spec, split, seed, problem_maker(spec))
    if spec.endswith(".jsonl"):
        from r1kit.tasks.jsonl import read_problems

        return FiniteProblems(spec, split, seed, tuple(read_problems(spec, split)))
    if spec not in task_names():
        close = difflib.get_close_matches(spec, task_names(), n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(
            f"no task {spec!r}{hint}; give one of {', '.join(task_names())}, or reasoning_gym:NAME, "
            f"or the path of a .jsonl file"
        )
    return GeneratedProblems(spec, split, seed, importlib.import_module(f"r1kit.tasks.{spec}").make_problem)


def task_names() -> list[str]:
    """The tasks in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in ADAPTERS)


def is_heldout(key: str) -> bool:
    """Whether the problem with this canonical key (`Problem.id` of a generated problem) is held out: one in ten is."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest(), "big") % HELDOUT_SHARE == 0


def mix(problem_sets: Sequence[ProblemSet], step: int, count: int) -> list[Problem]:
    """`count` problems of a step, from the sets in turn; the turn goes on from step to step, so that all get as many.

    A pure function of the sets' seeds and (step, count).
    """
    names = [problems.name for problems in problem_sets]
    if len(set(names)) < len(names):
        raise ValueError(f"tasks {', '.join(names)}: one is named twice; name each task once")
    start, turns = step * count, len(problem_sets)
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

    def at(self, step: int, count: int) -> list[Problem]:
        return self.take(step * count, count)

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

    def take(self, start: int, count: int) -> list[Problem]:
        size = len(self.problems)
        taken: list[Problem] = []
        while len(taken) < count:
            epoch, offset = divmod(start + len(taken), size)
            taken += self._epoch(epoch)[offset : offset + count - len(taken)]
        return taken

    def at(self, step: int, count: int) -> list[Problem]:
        return self.take(step * count, count)

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
