"""Writes a pipeline folder in r1kit's formats without a model: what the whole recipe looks like on disk, made up.

python tests/fake_pipeline.py /tmp/demo      # a finished one, to look at the report
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from fake_run import (
    POLICY,
    completion,
    fake_problems,
    make_fake_run,
    problem,
    write_evaluation,
    write_json,
    write_jsonl,
)

STAGES: tuple[tuple[str, str, tuple[str, ...], float], ...] = (
    ("zero", "rl", (), 412.0),
    ("cold-start", "reject", ("zero",), 61.0),
    ("dev1", "sft", ("cold-start",), 35.0),
    ("dev2", "rl", ("dev1",), 150.0),
    ("dev2-no-language", "rl", ("dev1",), 148.0),
    ("rejection-sampling", "reject", ("dev2",), 80.0),
    ("dev3", "sft", ("rejection-sampling",), 50.0),
    ("preferences", "preferences", ("dev3",), 30.0),
    ("helpful-rm", "reward-model", ("dev3", "preferences"), 25.0),
    ("safety-rm", "reward-model", ("dev3", "preferences"), 20.0),
    ("r1", "rl", ("dev3", "helpful-rm", "safety-rm"), 120.0),
    ("hacking", "rl", ("r1", "helpful-rm", "safety-rm"), 90.0),
    ("r1-samples", "reject", ("r1",), 70.0),
    ("student-distilled", "sft", ("r1-samples",), 40.0),
    ("student-rl", "rl", (), 95.0),
)
MODELS = {  # progress of the made-up learning curve, share of words in the right language, readable share
    "base": (0.0, 0.9, 0.3), "zero": (0.9, 0.91, 0.45), "dev1": (0.35, 0.985, 0.93), "dev2": (0.95, 0.995, 0.96),
    "dev2-no-language": (0.96, 0.93, 0.7), "dev3": (0.96, 0.99, 0.97), "r1": (1.0, 0.995, 0.98),
    "student-base": (0.0, 0.9, 0.3), "student-distilled": (0.8, 0.99, 0.95), "student-rl": (0.2, 0.9, 0.4),
}  # fmt: skip
GENERAL = {"zero": 0.1, "dev3": 0.55, "r1": 0.8}


def make_fake_pipeline(
    folder: Path, *, until: str = "", problems: int = 100, samples: int = 16, measured: bool = True
) -> Path:
    """A pipeline folder that is done up to the stage `until` (default: all), the stage after it running.

    `measured` false writes evaluations as r1kit 0.1 did: without consistency, readability and quality.
    """
    order = [name for name, *_ in STAGES]
    done = set(order if not until else order[: order.index(until) + 1])
    rows = []
    for name, kind, inputs, seconds in STAGES:
        state = "done" if name in done else "running" if rows and rows[-1]["name"] == until else "waiting"
        rows.append(_stage(name, kind, inputs, state, seconds if name in done else None))
        if name in done:
            _write_stage(folder / name, name, kind, inputs)
    for name in MODELS:
        made = name in done or name in ("base", "student-base")
        if made:
            write_model(folder, name, problems, samples, measured=measured)
        inputs = (name,) if name in order else ()
        rows.append(_stage(f"eval-{name}", "evaluate", inputs, "done" if made else "waiting", 9.0 if made else None))
    for name, level in GENERAL.items():
        if name in done:
            write_general(folder / f"general-{name}", 0, level, f"general/{name}")
        state = "done" if name in done else "waiting"
        rows.append(_stage(f"general-{name}", "evaluate", (name,), state, 6.0 if name in done else None))
    write_json(
        folder / "pipeline.json",
        {
            "recipe": "demo", "seed": 0, "stages": rows, "finished": not until, "r1kit": "0.2.0", "cpu_cores": 2,
        },
    )  # fmt: skip
    return folder


def write_model(folder: Path, name: str, problems: int, samples: int, *, measured: bool = True) -> None:
    """The evaluation of one checkpoint: folder/eval-NAME."""
    progress, consistency, readable = MODELS[name]
    rows, rng = fake_problems(progress, problems, samples, 0), random.Random(name)
    if measured:
        for row in rows:
            for one in row["completions"]:
                one["consistency"] = min(1.0, max(0.0, rng.gauss(consistency, 0.05)))
                one["readable"] = rng.random() < readable
                one["quality"] = None
                one["summary"] = name not in ("base", "zero")
    write_evals(folder / f"eval-{name}", 40, rows, {**POLICY, "num_samples": samples})


def write_general(folder: Path, step: int, level: float, seed: str, prompts: int = 60, samples: int = 4) -> None:
    """An evaluation on general prompts whose mean quality is about `level`."""
    rows = []
    for i in range(prompts):
        rng = random.Random(f"{seed}/{i}")
        chinese = i % 2 == 1
        text = "<think>好的。</think>苹果、梨和李子。" if chinese else "<think>Fruits.</think>Apples, pears and plums."
        done = []
        for _ in range(samples):
            quality = min(1.0, max(0.0, rng.gauss(level, 0.2)))
            one = completion("right" if quality >= 0.7 else "wrong", tokens=20 + i % 7, text=text, extracted="")
            done.append({**one, "quality": quality, "consistency": 1.0, "readable": True, "reason": "3 of 3 wanted"})
        question = "说出三种水果。" if chinese else f"Name three fruits, please. ({i})"
        rows.append({**problem(f"general:{i}", done, task="general"), "prompt": f"User: {question}\nAssistant:"})
    write_evals(folder, step, rows, {**POLICY, "num_samples": samples})


def write_evals(folder: Path, step: int, rows: list[dict[str, Any]], policy: dict[str, Any]) -> None:
    """step-N.json and .jsonl in `folder` itself, as `r1kit evaluate --out` writes them."""
    write_evaluation(folder, step, rows, policy)
    for path in sorted((folder / "evals").iterdir()):
        path.rename(folder / path.name)
    (folder / "evals").rmdir()


def _stage(name: str, kind: str, inputs: tuple[str, ...], state: str, seconds: float | None) -> dict[str, Any]:
    return {"name": name, "kind": kind, "inputs": list(inputs), "state": state, "seconds": seconds}


def _write_stage(folder: Path, name: str, kind: str, inputs: tuple[str, ...]) -> None:
    match kind:
        case "rl":
            make_fake_run(folder, steps=40, eval_every=20 if name == "zero" else 0, problems=20, samples=4)
            config = json.loads((folder / "config.json").read_text())
            write_json(folder / "config.json", {**config, "model": f"../{inputs[0]}" if inputs else "demo-base"})
            _more_rewards(folder, name)
        case "reject":
            write_json(folder / "config.json", {"stage": "reject", **_REJECT})
            write_json(folder / "counts.json", _COUNTS)
        case "preferences":
            write_json(folder / "config.json", {"stage": "preferences"})
            pairs = {"pairs/judged": 3000, "pairs/kept": 1412, "pairs/chosen_chars": 41.0, "pairs/rejected_chars": 40.2}
            write_jsonl(folder / "metrics.jsonl", [{"step": 0, **pairs, "safety/safe": 300, "safety/unsafe": 280}])
        case _:
            model = "../dev3" if kind == "reward-model" else "demo-base"
            write_json(folder / "config.json", {"stage": kind, "kind": name.removesuffix("-rm"), "model": model})
            rows: list[dict[str, Any]] = [
                {"step": s, "loss/nll": 1.2 - 0.02 * s, "seconds/step": 1.0} for s in range(1, 31)
            ]
            if kind == "reward-model":
                scores = {"eval/accuracy": 0.87, "eval/accuracy_se": 0.02, "eval/rows": 140, "eval/longer": 0.51}
                rows.append({"step": 30, **scores})
            write_jsonl(folder / "metrics.jsonl", rows)


def _more_rewards(folder: Path, name: str) -> None:
    """Language consistency in reasoning RL; the preference reward and its betrayal in `hacking`."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rng = random.Random(name)
    for row in rows:
        progress = row["step"] / 40
        if name == "dev2":
            row["reward/language"] = row["language/consistency"] = 0.97 + 0.025 * progress + rng.gauss(0, 0.002)
        if name == "dev2-no-language":
            row["language/consistency"] = 0.97 - 0.05 * progress + rng.gauss(0, 0.003)
        if name in ("r1", "hacking"):
            row["reward/preference"] = -0.2 + 2.2 * progress + rng.gauss(0, 0.05)
    write_jsonl(folder / "metrics.jsonl", rows)
    if name == "hacking":
        for step, level in ((0, 0.8), (20, 0.84), (40, 0.5)):
            write_general(folder / "evals", step, level, f"hacking/{step}")


_REJECT = {"tasks": ["countdown", "remainder"], "num_problems": 512, "num_samples": 4, "model": "../zero"}
_COUNTS = {
    "rows": 1314,
    "domains": {
        "countdown": {"samples": 498, "rounds": 1.0, "tokens": 104.2},
        "remainder": {"samples": 512, "rounds": 1.0, "tokens": 48.9},
        "general": {"samples": 304, "rounds": 1.0, "tokens": 30.0},
        "total": {"samples": 1314, "rounds": 1.0, "tokens": 65.5},
    },
    "languages": {"en": 700, "zh": 614},
    "general": {"wanted": 304, "joined": 304},
    "tasks": {
        "countdown": {"problems": 512, "sampled": 2048, "right": 1700, "readable": 1200, "kept": 498},
        "remainder": {"problems": 512, "sampled": 2048, "right": 1850, "readable": 1500, "kept": 512},
    },
    "dropped": {"wrong": 546, "mixed languages": 800, "repetition": 50},
    "examples": {},
}


if __name__ == "__main__":
    make_fake_pipeline(Path(sys.argv[1]), until=sys.argv[2] if len(sys.argv) > 2 else "")
