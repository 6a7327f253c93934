"""Score a model on held-out problems: `r1kit evaluate PATH`.

Writes step-N.json (the numbers and the sampling policy behind them) and step-N.jsonl (every completion), and prints the
table. The results of a run's checkpoint go to RUN/evaluations/POLICY/, apart from RUN/evals/, where the run keeps its
own; those of any other model to runs/evaluations/MODEL/POLICY/ as step 0. POLICY names the settings, so that the same
command replaces its results and another command leaves them alone. One that was cut off goes on when it is given again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from r1kit.config import EvalConfig, EvaluateConfig, to_dict
from r1kit.config.evaluate import AnswerForm
from r1kit.model.chat import render_prompt
from r1kit.model.tokenizer import load_tokenizer
from r1kit.sampling.choose import check_sampler, open_sampler
from r1kit.scoring.passk import confidence_interval
from r1kit.tasks import summaries
from r1kit.training.checks import check_room, sampling_room
from r1kit.training.evaluation import evaluate, evaluation_problems, evaluation_sets, sampling_policy
from r1kit.training.models import resolve_model
from r1kit.training.trained import answer_form, form_of_template, prompt_settings, trained_as
from r1kit.types import Problem


def main(cfg: EvalConfig) -> Path:
    """Evaluate; returns the .json file. What can be wrong with the settings is found before the weights are loaded."""
    cfg = cfg if isinstance(cfg, EvaluateConfig) else EvaluateConfig(**vars(cfg))
    check_sampler(cfg)
    evaluation_sets(cfg)
    folder = resolve_model(cfg.model)
    cfg, chosen = settled(cfg, folder)
    tokenizer = load_tokenizer(folder)
    problem_sets = evaluation_sets(cfg, tokenizer)
    problems = evaluation_problems(problem_sets, cfg)
    render_prompt(cfg.template, problems[0].messages, tokenizer)
    check_room(problem_sets, tokenizer, cfg.template, sampling_room(cfg, folder), first=cfg.num_problems)
    console = Console(highlight=False)
    console.print(chosen, markup=False, soft_wrap=True)
    for line in summaries(problem_sets):
        print(line, file=sys.stderr)
    if cfg.temperature == 0 and cfg.num_samples > 1:
        print(
            f"warning: --temperature 0 is greedy, so the {cfg.num_samples} completions of a problem are the same; "
            f"--num-samples 1 gives the same numbers sooner",
            file=sys.stderr,
        )
    out, step = cfg.out or results_folder(cfg, folder), checkpoint_step(folder)
    parts = parts_folder(cfg, folder, problems, out)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        open_sampler(cfg, tokenizer, folder, handed=False) as sampler,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        sampling = progress.add_task("completions", total=len(problems) * cfg.num_samples)
        evaluate(
            sampler, tokenizer, cfg, out, step, lambda done, total: progress.update(sampling, completed=done),
            form=form_of(cfg), problems=problems, parts=parts,
        )  # fmt: skip
    path = out / f"step-{step:06d}.json"
    console.print(table(json.loads(path.read_text(encoding="utf-8")), f"{cfg.model}, step {step}"))
    console.print(f"{path}, and every completion in {path.with_suffix('.jsonl').name}", markup=False, soft_wrap=True)
    return path


def settled(cfg: EvaluateConfig, folder: Path) -> tuple[EvaluateConfig, str]:
    """The config with the template, the system prompt and the form of answers that hold, and a line that says so."""
    trained = trained_as(folder)
    template, system_prompt = prompt_settings(cfg.template, cfg.system_prompt, trained)
    form, why = answer_form(cfg.format, trained, template)
    line = f"{cfg.model}: template {template}, answers read as {form} ({why})"
    return replace(cfg, template=template, system_prompt=system_prompt, format=form), line


def form_of(cfg: EvaluateConfig) -> AnswerForm:
    """The form of a config that is settled."""
    return cfg.format or form_of_template(cfg.template)


def checkpoint_step(folder: Path) -> int:
    """The optimizer step of a run's checkpoint; 0 for any other model."""
    found = re.fullmatch(r"step-(\d+)", folder.name)
    return int(found[1]) if found and folder.parent.name == "checkpoints" else 0


def results_folder(cfg: EvaluateConfig, model: Path) -> Path:
    """Where the results go when `--out` does not say: RUN/evaluations/POLICY or runs/evaluations/MODEL/POLICY."""
    if model.parent.name == "checkpoints":
        return model.parent.parent / "evaluations" / policy_name(cfg)
    name = re.sub(r"[^\w.-]+", "-", cfg.model).strip("-.") or model.resolve().name
    return Path("runs") / "evaluations" / name / policy_name(cfg)


def parts_folder(cfg: EvaluateConfig, model: Path, problems: Sequence[Problem], out: Path) -> Path:
    """Where the completions are kept until all are there. Its name is of all that they depend on, the model's files and
    the problems too, so that no others are taken for them. What such others have left is deleted."""
    files = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(model.glob("*.safetensors"))]
    settings = {name: value for name, value in to_dict(cfg).items() if name != "out"}
    digest = hashlib.sha256(json.dumps([settings, files, repr(problems)]).encode()).hexdigest()[:12]
    for other in out.glob(".parts-*"):
        if other.name != f".parts-{digest}":
            shutil.rmtree(other)
    return out / f".parts-{digest}"


def policy_name(cfg: EvaluateConfig) -> str:
    """`heldout-16x128-t0.6-1a2b3c4d`: what a reader looks for, then a hash of all that changes the numbers."""
    what = {**sampling_policy(cfg, form_of(cfg)), "tasks": list(cfg.tasks), "dtype": cfg.dtype, "device": cfg.device}
    if cfg.sampler != "local":
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
        f"most {policy['max_new_tokens']:,} tokens, template {policy['template']}, answers read as {policy['format']}, "
        f"split {policy['split']}, seed {policy['seed']}. Shares in %, ± is the 95% interval over problems; length in "
        f"tokens."
    )
