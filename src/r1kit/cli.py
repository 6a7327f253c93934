"""The `r1kit` command: chooses a preset, reads the flags, and hands a config to a stage.

`--help` answers at once: nothing heavy is imported here, and a stage only when it is going to run.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from r1kit import __version__, presets, recipes
from r1kit.allocator import tune_allocator
from r1kit.config import ChatConfig, DataConfig, EvaluateConfig, PushConfig, RLConfig, ScoreConfig
from r1kit.sandbox import SandboxUnavailable

T = TypeVar("T")

USAGE = """\
r1kit: DeepSeek-R1's training system, from a base model to R1-Zero, R1 and distilled students

  r1kit run RECIPE              a whole pipeline, resumable: demo, or a Python file of yours
  r1kit rl PRESET               reinforcement learning with GRPO: R1-Zero, and the RL stages of R1
  r1kit sft PRESET              supervised fine-tuning: cold start, 800k, students
  r1kit reject PRESET           sample a model, keep the right and readable completions as SFT data
  r1kit preferences PRESET      judged pairs and safety labels for the reward models
  r1kit reward-model PRESET     train a helpful or a safety reward model
  r1kit distill PRESET          a student from a teacher: on its samples, or on-policy
  r1kit pretrain PRESET         make a base model from scratch
  r1kit evaluate PATH           pass@1, cons@k and pass@k on held-out problems
  r1kit data SOURCE             look at a data set as a run reads it: rows, what is left out, what is learnt
  r1kit score TASK FILE         grade outputs in a .jsonl file, whoever made them
  r1kit report RUN              one self-contained HTML file of a run
  r1kit chat PATH               talk to a model
  r1kit push PATH ORG/NAME      put a model with its card on the Hugging Face hub
  r1kit presets                 list the presets

`r1kit COMMAND --help` says more; every setting is a flag. `--version` prints the version.
An interrupted command goes on from its last checkpoint when it is given again.
R1KIT_DEBUG=1 shows the traceback of an error."""


class UsageError(ValueError):
    """The command line itself is wrong; the message is printed as it is."""


@dataclass(frozen=True)
class Call:
    """What the command line asks for: `module.main(*arguments)`."""

    module: str
    arguments: tuple[Any, ...]
    run: Path | None = None
    """The run folder that is written, if any: an interruption names its last checkpoint."""
    heavy: bool = True
    """Computes on tensors, so that the allocator matters."""


@dataclass(frozen=True, kw_only=True)
class PipelineFlags:
    """Flags of `r1kit run RECIPE`. Stages that are done, with nothing they depend on changed, are skipped."""

    run: Path = Path("runs/demo")
    """Folder of the whole pipeline. The same command with the same folder resumes."""
    seed: int | None = None
    """Seed of all stages, of which everything random is a function; without it, each stage's own."""
    start: str = ""
    """First stage to run; the stages that it needs must be done."""
    until: str = ""
    """Last stage to run."""
    only: str = ""
    """The one stage to run."""
    plan: bool = False
    """Show the plan and stop."""
    jobs: int = 1
    """Stages that run at the same time, each on an equal share of the cores; on CPUs, 2 or more save time.
    Those that a recipe names in ALONE have all of them."""


@dataclass(frozen=True, kw_only=True)
class ReportFlags:
    """Flags of `r1kit report RUN`."""

    out: Path | None = None
    """The HTML file; default: report.html in the run folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status (2 for a user's error, 130 for Ctrl-C, 143 for SIGTERM)."""
    return guarded(lambda: parse(list(sys.argv[1:] if argv is None else argv)), restart=argv is None)


def guarded(make: Callable[[], Call | None], restart: bool = False) -> int:
    """Run the call that `make` returns; what it raises is told in a line and becomes the exit status."""
    call = None
    try:
        call = make()
        if call is not None:
            if call.heavy and restart:  # a caller's process is not ours to start again
                tune_allocator()
            _run(call)
    except KeyboardInterrupt as interrupt:
        print(f"\n{_stopped(call)}", file=sys.stderr)
        return 143 if interrupt.args == ("SIGTERM",) else 130
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except (ValueError, FileNotFoundError, ModuleNotFoundError, SandboxUnavailable) as error:
        if os.environ.get("R1KIT_DEBUG"):
            raise
        print(f"error: {error}\n(R1KIT_DEBUG=1 shows where)", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `r1kit presets | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return 1
    return 0


def parse(args: list[str]) -> Call | None:
    """The call that `args` ask for, or None when they asked for help and it is printed.

    Raises UsageError or ValueError for a mistake; SystemExit where tyro found it or printed a preset's flags.
    """
    match args:
        case [] | ["-h" | "--help" | "help", *_]:
            print(USAGE)
            return None
        case ["--version", *_]:
            print(f"r1kit {__version__}")
            return None
        case ["presets", *_]:
            print(_all_presets())
            return None
    command, *rest = args
    stages: dict[str, tuple[Mapping[str, tuple[str, Any]], str]] = {
        "sft": (presets.SFT, "sft"),
        "reject": (presets.REJECT, "reject"),
        "preferences": (presets.PREFERENCES, "preferences"),
        "reward-model": (presets.REWARD_MODEL, "reward_model"),
        "distill": (presets.DISTILL, "distill"),
        "pretrain": (presets.PRETRAIN, "pretrain"),
    }
    commands: dict[str, Callable[[list[str]], Call | None]] = {
        "run": _pipeline,
        "rl": _rl,
        "evaluate": _evaluate,
        "report": _report,
        "score": _score,
        "data": _data,
        "chat": _chat,
        "push": _push,
    }
    if command in stages:
        registry, module = stages[command]
        return _stage(command, rest, registry, module)
    if command not in commands:
        raise UsageError(f"r1kit has no command {command!r}\n\n{USAGE}")
    return commands[command](rest)


def _pipeline(rest: list[str]) -> Call | None:
    descriptions = {name: recipes.describe(name) for name in recipes.names()}
    more = "\nA Python file with a function stages() is a recipe too: r1kit run my_recipe.py\n"
    name = rest[0] if rest and rest[0].endswith(".py") else _choice("run", rest, descriptions, more)
    if name is None:
        return None
    flags = _flags("run", rest, PipelineFlags(run=Path("runs") / Path(name).stem))
    arguments = (name, flags.run, flags.seed, flags.start, flags.until, flags.only, flags.plan, flags.jobs)
    return Call("r1kit.pipeline", arguments)


def _rl(rest: list[str]) -> Call | None:
    algos = f"\n--algo NAME changes the algorithm: {', '.join(presets.ALGOS)}; --algo.FIELD changes a number of it."
    name = _choice("rl", rest, _descriptions(presets.RL), algos)
    if name is None:
        return None
    _, default = presets.RL[name]
    rest, default = _choose_algo(rest, default)
    config: RLConfig = _flags("rl", rest, default, algos)
    return Call("r1kit.stages.rl", (config,), run=config.run)


def _stage(command: str, rest: list[str], registry: Mapping[str, tuple[str, Any]], module: str) -> Call | None:
    """A stage whose command line is a preset's name and its flags."""
    name = _choice(command, rest, _descriptions(registry))
    if name is None:
        return None
    config = _flags(command, rest, registry[name][1])
    return Call(f"r1kit.stages.{module}", (config,), run=config.run)


def _descriptions(registry: Mapping[str, tuple[str, Any]]) -> dict[str, str]:
    return {name: description for name, (description, _) in registry.items()}


def _evaluate(rest: list[str]) -> Call:
    path, rest = _path("evaluate", rest, "the model: a model folder, a run folder or a Hugging Face name")
    return Call("r1kit.stages.evaluate", (_flags("evaluate", [path, *rest], EvaluateConfig(model=path)),))


def _chat(rest: list[str]) -> Call:
    path, rest = _path("chat", rest, "the model: a model folder, a run folder or a Hugging Face name")
    return Call("r1kit.stages.chat", (_flags("chat", [path, *rest], ChatConfig(model=path)),))


def _report(rest: list[str]) -> Call:
    path, rest = _path("report", rest, "a run folder or a pipeline folder")
    flags = _flags("report", [path, *rest], ReportFlags())
    return Call("r1kit.report.report", (Path(path), flags.out), heavy=False)


def _data(rest: list[str]) -> Call:
    source, rest = _path("data", rest, "a file, a folder, a name on the Hugging Face hub or a task", "SOURCE")
    config = _flags("data", [source, *rest], DataConfig(source=source))
    return Call("r1kit.stages.data", (config,), heavy=False)


def _score(rest: list[str]) -> Call:
    if rest[:1] in (["-h"], ["--help"]):
        rest = ["TASK", "FILE.jsonl", "--help"]
    task, rest = _path("score", rest, "a scorer (math, choice, code, ...) and a .jsonl file", "TASK FILE")
    file, rest = _path("score", rest, "the .jsonl file after the scorer", "TASK FILE")
    config = _flags("score", [f"{task} {file}", *rest], ScoreConfig(task=task, file=Path(file)))
    return Call("r1kit.stages.score", (config,), heavy=False)


def _push(rest: list[str]) -> Call:
    if rest[:1] in (["-h"], ["--help"]):
        rest = ["PATH", "ORG/NAME", "--help"]
    what = "the model (a run folder, or a model folder) and the repository"
    path, rest = _path("push", rest, what, "PATH ORG/NAME")
    repo, rest = _path("push", rest, "the repository after the model", "PATH ORG/NAME")
    config = _flags("push", [f"{path} {repo}", *rest], PushConfig(model=path, repo=repo))
    return Call("r1kit.stages.push", (config,), heavy=False)


def _choice(command: str, rest: list[str], descriptions: Mapping[str, str], more: str = "") -> str | None:
    """The preset's name, or None after printing the list for --help. Raises UsageError if unknown or missing."""
    listing = (
        f"usage: r1kit {command} PRESET [--flags]\n\npresets:\n{_listing(descriptions)}\n{more}\n"
        f"`r1kit {command} PRESET --help` lists the flags with the preset's values."
    )
    if rest and rest[0] in ("-h", "--help"):
        print(listing)
        return None
    if not rest or rest[0].startswith("-"):
        raise UsageError(f"r1kit {command} needs a preset's name first\n\n{listing}")
    if rest[0] not in descriptions:
        raise UsageError(f"r1kit {command} has no preset {rest[0]!r}\n\n{listing}")
    return rest[0]


def _path(command: str, rest: list[str], what: str, form: str = "PATH") -> tuple[str, list[str]]:
    """The first argument and the others; `--help` may stand in its place."""
    if rest and rest[0] in ("-h", "--help"):
        return "PATH", ["--help"]
    if not rest or rest[0].startswith("-"):
        raise UsageError(f"r1kit {command} needs {what} first: r1kit {command} {form} [--flags]")
    return rest[0], rest[1:]


def _flags(command: str, rest: list[str], default: T, more: str = "") -> T:
    """`default` changed by the flags after rest[0]; tyro prints help or the mistake and raises SystemExit."""
    import tyro

    description = f"{(type(default).__doc__ or '').strip()}\n{more}".strip()
    return tyro.cli(
        type(default), default=default, args=rest[1:], prog=f"r1kit {command} {rest[0]}", description=description
    )


def _choose_algo(rest: list[str], config: RLConfig) -> tuple[list[str], RLConfig]:
    """Take `--algo NAME` out of the arguments and put that algorithm in the config."""
    kept, arguments = [], iter(rest)
    for argument in arguments:
        if argument == "--algo" or argument.startswith("--algo="):
            name = argument.partition("=")[2] or next(arguments, "")
            if name not in presets.ALGOS:
                raise UsageError(f"--algo {name!r} is unknown; give one of {', '.join(presets.ALGOS)}")
            config = replace(config, algo=presets.ALGOS[name])
        else:
            kept.append(argument)
    return kept, config


def _listing(descriptions: Mapping[str, str]) -> str:
    width = max(map(len, descriptions))
    return "\n".join(f"  {name:<{width}}  {description}" for name, description in descriptions.items())


def _all_presets() -> str:
    lines = {f"r1kit run {name}": recipes.describe(name) for name in recipes.names()}
    registries = {
        "rl": presets.RL, "sft": presets.SFT, "reject": presets.REJECT, "preferences": presets.PREFERENCES,
        "reward-model": presets.REWARD_MODEL, "distill": presets.DISTILL, "pretrain": presets.PRETRAIN,
    }  # fmt: skip
    for command, registry in registries.items():
        lines |= {f"r1kit {command} {name}": text for name, text in _descriptions(registry).items()}
    algos = ", ".join(presets.ALGOS)
    return f"{_listing(lines)}\n\nalgorithms (r1kit rl PRESET --algo NAME): {algos}"


def _run(call: Call) -> None:
    def terminated(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt("SIGTERM")

    # SIGTERM ends as Ctrl-C does: the terminal is restored, and the last checkpoint is named.
    before = signal.signal(signal.SIGTERM, terminated)
    try:
        importlib.import_module(call.module).main(*call.arguments)
    finally:
        signal.signal(signal.SIGTERM, before)


def _stopped(call: Call | None) -> str:
    if call is None or call.run is None:
        return "stopped; the same command goes on where it was" if call and call.heavy else "stopped"
    from r1kit.training.checkpoint import checkpoint_steps

    steps = checkpoint_steps(call.run)
    if not steps:
        return f"stopped before the first checkpoint of {call.run}; the same command starts again"
    last = call.run / "checkpoints" / f"step-{steps[-1]:06d}"
    return f"stopped; the last checkpoint is {last}, and the same command goes on from there"
