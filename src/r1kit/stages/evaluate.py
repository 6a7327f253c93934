"""Score a model on held-out problems: `r1kit evaluate PATH`.

Writes step-N.json (the numbers and the sampling policy behind them) and step-N.jsonl (every completion), and prints the
table. The results of a run's checkpoint go to RUN/evaluations/POLICY/, apart from RUN/evals/, where the run keeps its
own; those of any other model to runs/evaluations/MODEL/POLICY/ as step 0. POLICY names the settings, so that the same
command replaces its results and another command leaves them alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from r1kit.config import EvalConfig, EvaluateConfig
from r1kit.model.chat import render_prompt
from r1kit.model.tokenizer import load_tokenizer
from r1kit.sampling.choose import check_sampler, open_sampler
from r1kit.scoring.passk import confidence_interval
from r1kit.tasks import load_problems, summaries
from r1kit.training.evaluation import evaluate, sampling_policy
from r1kit.training.models import resolve_model
from r1kit.types import SamplingParams


def main(cfg: EvalConfig) -> Path:
    """Evaluate; returns the .json file. What can be wrong with the settings is found before the weights are loaded."""
    cfg = cfg if isinstance(cfg, EvaluateConfig) else EvaluateConfig(**vars(cfg))
    check_sampler(cfg)
    SamplingParams(cfg.temperature, cfg.top_p, cfg.top_k, cfg.max_new_tokens)
    reading = partial(load_problems, split=cfg.split, seed=cfg.seed, columns=cfg.columns, filters=cfg.filter)
    problem_sets = [reading(task) for task in cfg.tasks]
    problems = [problem for problem_set in problem_sets for problem in problem_set.first(cfg.num_problems)]
    for line in summaries(problem_sets):
        print(line, file=sys.stderr)
    folder = resolve_model(cfg.model)
    tokenizer = load_tokenizer(folder)
    render_prompt(cfg.template, problems[0].messages, tokenizer)
    if cfg.temperature == 0 and cfg.num_samples > 1:
        print(
            f"warning: --temperature 0 is greedy, so the {cfg.num_samples} completions of a problem are the same; "
            f"--num-samples 1 gives the same numbers sooner",
            file=sys.stderr,
        )
    out, step = cfg.out or results_folder(cfg, folder), checkpoint_step(folder)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        open_sampler(cfg, tokenizer, folder, handed=False) as sampler,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        sampling = progress.add_task("completions", total=len(problems) * cfg.num_samples)
        evaluate(sampler, tokenizer, cfg, out, step, lambda done, total: progress.update(sampling, completed=done))
    path = out / f"step-{step:06d}.json"
    console = Console(highlight=False)
    console.print(table(json.loads(path.read_text(encoding="utf-8")), f"{cfg.model}, step {step}"))
    console.print(f"{path}, and every completion in {path.with_suffix('.jsonl').name}", markup=False, soft_wrap=True)
    return path


def checkpoint_step(folder: Path) -> int:
    """The optimizer step of a run's checkpoint; 0 for any other model."""
    found = re.fullmatch(r"step-(\d+)", folder.name)
    return int(found[1]) if found and folder.parent.name == "checkpoints" else 0


def results_folder(cfg: EvalConfig, model: Path) -> Path:
    """Where the results go when `--out` does not say: RUN/evaluations/POLICY or runs/evaluations/MODEL/POLICY."""
    if model.parent.name == "checkpoints":
        return model.parent.parent / "evaluations" / policy_name(cfg)
    name = re.sub(r"[^\w.-]+", "-", cfg.model).strip("-.") or model.resolve().name
    return Path("runs") / "evaluations" / name / policy_name(cfg)


def policy_name(cfg: EvalConfig) -> str:
    """`heldout-16x128-t0.6-1a2b3c4d`: what a reader looks for, then a hash of all that changes the numbers."""
    what = {**sampling_policy(cfg), "tasks": list(cfg.tasks), "dtype": cfg.dtype, "device": cfg.device}
    if isinstance(cfg, EvaluateConfig) and cfg.sampler != "local":
        what["sampler"] = cfg.sampler
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
    return f"{cfg.split}-{cfg.num_samples}x{cfg.num_problems}-t{cfg.temperature:g}-{digest}"


def table(evaluation: Mapping[str, Any], title: str) -> Table:
    """One row per task with its 95% intervals, and under it the sampling policy."""
    results, policy = evaluation["results"], evaluation["policy"]
    k = policy["num_samples"]
    shares = list(dict.fromkeys(["pass@1", f"cons@{k}", f"pass@{k}"]))
    caption = Text(describe_policy(policy))
    # Without padding it fits 80 columns.
    made = Table(title=Text(title), caption=caption, caption_justify="left", box=SIMPLE_HEAD, padding=0)
    made.add_column("task", overflow="fold")
    for name in ("problems", *shares, "length", "truncated", "undecided"):
        made.add_column(name, justify="right", no_wrap=True)
    for task, numbers in results.items():
        made.add_row(
            Text(task),
            f"{numbers['num_problems']:,.0f}",
            *(percent_with_interval(numbers[share], numbers[f"{share}_se"]) for share in shares),
            f"{numbers['length']:,.0f}",
            f"{100 * numbers['truncated']:.1f}",
            f"{100 * numbers['undecided']:.1f}",
        )
    return made


def percent_with_interval(mean: float, se: float) -> str:
    low, high = confidence_interval(mean, se)
    return f"{100 * mean:.1f} ±{100 * (high - low) / 2:.1f}"


def describe_policy(policy: Mapping[str, Any]) -> str:
    """The settings that the numbers depend on besides the model, and their units."""
    temperature = f"temperature {policy['temperature']:g}" + (" (greedy)" if policy["temperature"] == 0 else "")
    top_k = f"top-k {policy['top_k']}" if policy["top_k"] else "no top-k"
    return (
        f"{temperature}, top-p {policy['top_p']:g}, {top_k}, {policy['num_samples']} completions per problem of at "
        f"most {policy['max_new_tokens']:,} tokens, template {policy['template']}, split {policy['split']}, "
        f"seed {policy['seed']}. Shares in %, ± is the 95% interval over problems; length in tokens."
    )
