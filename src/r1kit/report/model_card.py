"""The model card of a run's model, README.md on the Hugging Face hub: base and its licence, data, settings, scores.

All of it is read from the run folders, the model's own and those it was trained from; what they do not say is left open
in words. The front matter is what the hub reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit import __version__
from r1kit.data.known import KNOWN
from r1kit.model.chat import CHAT, render_prompt
from r1kit.report import scores
from r1kit.report.command import command
from r1kit.report.read import GENERAL, Evaluation, parse, read_evaluations
from r1kit.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STAGES = {
    "pretrain": "pretraining",
    "sft": "supervised fine-tuning",
    "rl": "reinforcement learning with GRPO",
    "distill": "on-policy distillation",
    "reward-model": "training as a reward model",
}
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
QUESTION = "What is 12 * 13?"
UNKNOWN = "unknown: fill in"
MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True)
class Base:
    """The model that the first stage began with."""

    name: str
    """As the run names it; empty where the first stage made it."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Front matter of its own card; empty where that could not be read."""

    @property
    def on_hub(self) -> bool:
        return bool(HUB_NAME.fullmatch(self.name)) and not Path(self.name).exists()


def lineage(run: Path) -> tuple[list[tuple[Path, dict[str, Any]]], str]:
    """The runs that led to a run's model, the first one first, each with its config; and what the first began with.

    The name is empty where the first one made its model (`r1kit pretrain`).
    """
    runs: list[tuple[Path, dict[str, Any]]] = []
    here: Path | None = run
    name = ""
    while here is not None and here not in (folder for folder, _ in runs):
        config = parse(here / "config.json")
        runs.insert(0, (here, config))
        name = str(config.get("model", ""))
        here = run_of(Path(name)) if name else None
    return runs, name


def run_of(folder: Path) -> Path | None:
    """The run that a folder is, or is a checkpoint of; None for any other."""
    for place in (folder, folder.parent.parent) if folder.parent.name == "checkpoints" else (folder,):
        if (place / "config.json").is_file() and "stage" in parse(place / "config.json"):
            return place
    return None


def front_matter(card: str) -> dict[str, Any]:
    """The YAML that a card begins with; {} where there is none, or none that can be read."""
    import yaml

    found = MATTER.match(card.replace("\r\n", "\n"))
    try:
        values = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}


def model_card(run: Path, step: int, base: Base, repo: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Markdown of the model that `run` had at `step`, to be `repo` on the hub."""
    runs, _ = lineage(run)
    config = runs[-1][1]
    return "\n".join(
        [
            *_matter(runs, base),
            f"# {repo.partition('/')[2]}",
            "",
            _summary(runs, base, step),
            "",
            "## Use",
            "",
            *_use(config, repo, tokenizer),
            "## Base and licence",
            "",
            _licence(base),
            "",
            "## Data",
            "",
            *_data(runs),
            "## Scores",
            "",
            *_scores(run, step),
            "## Training",
            "",
            *_training(runs),
        ]
    )


def _matter(runs: Sequence[tuple[Path, dict[str, Any]]], base: Base) -> list[str]:
    import yaml

    stages = [str(config["stage"]) for _, config in runs]
    datasets = [name for _, config in runs for source in _sources(config) if (name := _hub_set(source))]
    values: dict[str, Any] = {"base_model": base.name} if base.on_hub else {}
    # "unknown" is a word that the hub takes: for a base whose card says nothing, and for a model made from scratch.
    values |= {"license": base.metadata.get("license") or "unknown"}
    kept = ("license_name", "license_link", "language")
    values |= {name: base.metadata[name] for name in kept if base.metadata.get(name)}
    task = "text-classification" if stages[-1] == "reward-model" else "text-generation"
    values |= {"library_name": "transformers", "pipeline_tag": task, "tags": ["r1kit", *dict.fromkeys(stages)]}
    values |= {"datasets": list(dict.fromkeys(datasets))} if datasets else {}
    return ["---", yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip(), "---"]


def _summary(runs: Sequence[tuple[Path, dict[str, Any]]], base: Base, step: int) -> str:
    stages = [STAGES.get(str(config["stage"]), str(config["stage"])) for _, config in runs]
    begun = f"`{base.name}`" if base.name else "A model made from scratch"
    return (
        f"{begun}, then {', then '.join(stages)} ({step:,} steps). Made with r1kit {__version__}, an open "
        f"implementation of DeepSeek-R1's training ([arXiv 2501.12948](https://arxiv.org/abs/2501.12948))."
    )


def _use(config: Mapping[str, Any], repo: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    template = str(config.get("template", "short"))
    if config["stage"] == "reward-model":
        return [
            f"With r1kit: `--reward.{config['kind']}-model FOLDER` of a run of `r1kit rl`, FOLDER being a copy of this "
            f"repository; prompts are rendered with template `{template}`.",
            "",
        ]
    prompt = render_prompt(template, [Message("user", QUESTION)], tokenizer)
    if template == "chat":
        text = f'tokenizer.apply_chat_template([{{"role": "user", "content": {QUESTION!r}}}], tokenize=False, '
        text += "add_generation_prompt=True)"
    else:
        text = repr(prompt.text)
    return [
        f"Prompts were rendered with template `{template}`"
        + (", the tokenizer's own chat template" if template in CHAT else "")
        + f". {_thought(config, prompt.prefill)}",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{repo}")',
        f'model = AutoModelForCausalLM.from_pretrained("{repo}", dtype="auto")',
        f"prompt = {text}",
        'inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False, return_token_type_ids=False)',
        f"output = model.generate(**inputs, max_new_tokens={_longest(config)})",
        "print(tokenizer.decode(output[0]))",
        "```",
        "",
        "That prompt, as the model sees it:",
        "",
        "```",
        prompt.text,
        "```",
        "",
    ]


def _thought(config: Mapping[str, Any], prefill: str) -> str:
    """Where the chain of thought begins and ends, and where the answer is."""
    opens = "The prompt ends with `<think>`, so the completion begins inside the thought" if prefill else ""
    if config["stage"] != "rl":
        return f"{opens or 'The model opens `<think>` itself where its data do'}; `</think>` ends the thought."
    after = {
        "r1-zero": "`</think>` ends the thought, and the answer follows in `<answer> </answer>`",
        "r1": "`</think>` ends the thought, and the response follows",
        "free": "no form was asked for; the answer is the last one boxed, in `<answer>`, or stated",
    }[config["reward"]["format"]]
    return f"{opens or 'The model opens `<think>` itself'}; {after}."


def _longest(config: Mapping[str, Any]) -> int:
    """Completions were at most so long."""
    return int(config.get("raised_cap") or config.get("max_new_tokens") or config["eval"]["max_new_tokens"])


def _licence(base: Base) -> str:
    if not base.name:
        return "Made from scratch: the licence is its maker's to choose."
    where = f"[{base.name}](https://huggingface.co/{base.name})" if base.on_hub else f"`{base.name}`"
    licence = base.metadata.get("license")
    if not licence:
        return f"Base: {where}. Licence: {UNKNOWN}. The base's card could not be read, or names none."
    named = base.metadata.get("license_name")
    link = base.metadata.get("license_link")
    shown = f"`{licence}`" + (f" ({named})" if named else "") + (f", {link}" if link else "")
    return f"Base: {where}. Licence of the base, which holds for what is derived from it: {shown}."


def _sources(config: Mapping[str, Any]) -> list[str]:
    """Tasks and data sets that a stage was trained on."""
    on_policy = config.get("on_policy", {}).get("tasks", [])
    named = [config.get(name, []) for name in ("tasks", "general_tasks", "data")]
    return [str(source) for source in [*sum(map(list, named), []), *on_policy]]


def _hub_set(source: str) -> str:
    """The hub's name of a data set, or nothing."""
    at = KNOWN[source].train or KNOWN[source].heldout if source in KNOWN else source
    name = re.split("[:@]", at)[0]
    return name if HUB_NAME.fullmatch(name) and not Path(name).exists() else ""


def _data(runs: Sequence[tuple[Path, dict[str, Any]]]) -> list[str]:
    lines: list[str] = []
    cards: list[str] = []
    for _, config in runs:
        sources = _sources(config) or ["the corpus that r1kit generates"]
        lines.append(f"* {STAGES.get(config['stage'], config['stage'])}: {', '.join(map(_source, sources))}")
        if teacher := config.get("teacher"):
            lines.append(f"  with `{teacher}` as its teacher")
        for source in sources:
            if Path(source).is_dir() and (card := Path(source) / "README.md").is_file():
                cards += ["<details>", f"<summary>Card of {source}</summary>", ""]
                cards += [_lower(card.read_text(encoding="utf-8")), "", "</details>", ""]
    return [*lines, "", *cards]


def _source(source: str) -> str:
    about = f" ({KNOWN[source].about})" if source in KNOWN else ""
    name = _hub_set(source)
    return (f"[{source}](https://huggingface.co/datasets/{name})" if name else f"`{source}`") + about


def _lower(card: str) -> str:
    """A card inside another: no front matter, headings three levels down."""
    return re.sub(r"^#", "####", MATTER.sub("", card), flags=re.MULTILINE).strip()


def _scores(run: Path, step: int) -> list[str]:
    about = run / "checkpoints" / f"step-{step:06d}" / "reward_model.json"
    if about.is_file():
        found = parse(about)
        numbers = {name: f"{value:.4g}" for name, value in found.items() if isinstance(value, int | float)}
        if interval := found.get("accuracy_interval"):
            numbers["accuracy, 95% interval"] = " to ".join(f"{end:.4g}" for end in interval)
        return ["| on held-out prompts | |", "|---|---|", *(f"| {k} | {v} |" for k, v in numbers.items()), ""]
    own = [one for one in read_evaluations(run / "evals", []) if one.step <= step][-1:]
    folders = sorted((run / "evaluations").glob("*/"))
    later = [one for folder in folders for one in read_evaluations(folder, []) if one.step == step]
    if not own and not later:
        return ["Not evaluated.", ""]
    return [line for one in [*own, *later] for line in _table(one, step)]


def _table(evaluation: Evaluation, step: int) -> list[str]:
    k = evaluation.num_samples
    titles = {"task": "task", "problems": "problems", "pass@1": "pass@1", "cons": f"cons@{k}"}
    titles |= {"pass@k": f"pass@{k}"} if k > 1 else {}
    titles |= {"length": "length, tokens", "truncated": "truncated", "undecided": "undecided"}
    ruled = [task for task in scores.tasks(evaluation) if any(not p.general for p in evaluation.of(task))]
    rows = [scores.row(evaluation, task) for task in ruled]
    earlier = "" if evaluation.step == step else f" Of step {evaluation.step:,}, the last one evaluated."
    return [
        f"{scores.policy(evaluation)}. ± is half of the 95% interval over problems.{earlier}",
        "",
        "| " + " | ".join(titles.values()) + " |",
        "|" + "---|" * len(titles),
        *("| " + " | ".join(row[name] for name in titles) + " |" for row in rows),
        "",
        *([f"Of {GENERAL}, {len(evaluation.of(GENERAL))} more."] if len(ruled) and evaluation.of(GENERAL) else []),
    ]


def _training(runs: Sequence[tuple[Path, dict[str, Any]]]) -> list[str]:
    elsewhere = [{name: config[name] for name in config.keys() - {"track", "push_to_hub"}} for _, config in runs]
    lines = ["Again, on the same versions and data:", "", "```sh", *map(command, elsewhere), "```", ""]
    for folder, config in runs:
        text = json.dumps(config, indent=2, ensure_ascii=False)
        lines += ["<details>", f"<summary>Every setting of {config['stage']}, {folder.name}</summary>", ""]
        lines += ["```json", text, "```", "", "</details>", ""]
    return lines
