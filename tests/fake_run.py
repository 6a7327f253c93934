"""Writes run folders in r1kit's formats without a model: what a demo run looks like on disk, made up from a seed.

python tests/fake_run.py /tmp/demo      # a whole pipeline folder, to look at the report
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

from r1kit.config import AlgoConfig, EvalConfig, OptimConfig, PretrainConfig, RLConfig, to_dict

POLICY = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "num_samples": 16,
    "max_new_tokens": 512,
    "template": "short",
    "seed": 1234,
    "split": "heldout",
}
MARKERS = {"en": (" no", " wrong", " wait", " but no", " retry"), "zh": ("不对", "错误", "等等", "但不是", "重试")}
REFLECTIVE = (" wrong", " wait", " but no", " retry", "不对", "错误", "等等", "但不是", "重试")


def make_fake_run(
    folder: Path,
    *,
    steps: int = 100,
    done: int | None = None,
    eval_every: int = 20,
    problems: int = 128,
    samples: int = 16,
    seed: int = 0,
) -> Path:
    """An rl run folder at step `done` (default: the end). `problems` are per task; eval_every 0 is no evaluation."""
    done, rng = steps if done is None else done, random.Random(seed)
    config = RLConfig(
        run=folder,
        steps=steps,
        eval_every=eval_every,
        seed=seed,
        optim=OptimConfig(lr=2e-4),
        algo=AlgoConfig(clip_high=0.28),
        eval=EvalConfig(num_problems=problems, num_samples=samples),
    )
    extra = {"stage": "rl", "r1kit": "0.1.0", "cpu_cores": 2}
    write_json(folder / "config.json", {**to_dict(config), **extra})
    rows: list[dict[str, Any]] = []
    for step in range(done + 1):
        if step:
            rows.append(_training_row(step, step / steps, rng))
        if eval_every and (step % eval_every == 0 or step == steps):
            write_evaluation(
                folder, step, fake_problems(step / steps, problems, samples, seed), {**POLICY, "num_samples": samples}
            )
            rows.append(
                {
                    "step": step,
                    "time": 1.7e9 + 5 * step,
                    "eval/all/pass@1": skill(step / steps),
                    "seconds/eval": 9.0 + 20 * step / steps,
                }
            )
    write_jsonl(folder / "metrics.jsonl", rows)
    return folder


def make_fake_pretrain(folder: Path, steps: int = 400) -> Path:
    """A finished pretrain run folder without evaluations."""
    rng = random.Random(0)
    write_json(
        folder / "config.json",
        {**to_dict(PretrainConfig(run=folder, steps=steps)), "stage": "pretrain", "r1kit": "0.1.0"},
    )
    rows = [
        {
            "step": s,
            "time": 1.7e9 + s,
            "loss/nll": 0.9 + 4 * math.exp(-s / 40) + rng.gauss(0, 0.03),
            "grad_norm": 0.5 + rng.random(),
            "lr": 2e-3 * min(1, s / 100),
            "seconds/step": 1.1,
            "tokens_per_second": 15000 + 500 * rng.random(),
            "tokens_seen": 16384 * s,
        }
        for s in range(1, steps + 1)
    ]
    write_jsonl(folder / "metrics.jsonl", rows)
    return folder


def write_evaluation(
    folder: Path,
    step: int,
    problems: list[dict[str, Any]],
    policy: dict[str, Any] = POLICY,
    voting: tuple[str, ...] = ("remainder",),
) -> None:
    """evals/step-N.json and .jsonl; the rounded summary is left nearly empty, because the report must not use it."""
    tasks = dict.fromkeys(problem["task"] for problem in problems)
    results = {task: {"num_problems": sum(p["task"] == task for p in problems), "pass@1": -1.0} for task in tasks}
    for task in voting:
        if task in results:
            results[task]["cons@16"] = -1.0
    write_json(folder / "evals" / f"step-{step:06d}.json", {"step": step, "policy": policy, "results": results})
    write_jsonl(folder / "evals" / f"step-{step:06d}.jsonl", problems)


def completion(
    verdict: str = "wrong",
    *,
    tokens: int = 10,
    reflection: int = 0,
    extracted: str = "7",
    text: str = "<think></think><answer>7</answer>",
    finish: str = "stop",
) -> dict[str, Any]:
    """One completion of an evaluation file."""
    return {
        "text": text,
        "verdict": verdict,
        "extracted": extracted,
        "reason": f"answered {extracted}",
        "reward": float(verdict == "right"),
        "tokens": tokens,
        "reflection": reflection,
        "finish_reason": finish,
    }


def problem(id: str, completions: list[dict[str, Any]], task: str = "remainder") -> dict[str, Any]:
    """One line of an evaluation's .jsonl."""
    return {"id": id, "task": task, "prompt": f"User: {id}?\nAssistant:", "gold": "7", "completions": completions}


def skill(progress: float) -> float:
    """The made-up learning curve."""
    return 0.14 + 0.76 * (1 - math.exp(-4 * progress)) / (1 - math.exp(-4))


def fake_problems(progress: float, problems: int, samples: int, seed: int) -> list[dict[str, Any]]:
    """Held-out problems of both tasks with completions of a model of that progress."""
    rows = []
    for task in ("countdown", "remainder"):
        for i in range(problems):
            base = random.Random(f"{seed}/{task}/{i}")  # the problem and its hardness are the same at every step
            chinese, hardness = base.random() < 0.5, base.gauss(0, 1.2)
            make = _countdown if task == "countdown" else _remainder
            question, gold, tail = make(base, chinese)
            rng = random.Random(f"{seed}/{task}/{i}/{progress}")
            p = 1 / (1 + math.exp(-(math.log(skill(progress) / (1 - skill(progress))) * 1.25 - hardness)))
            done = [_completion(rng, task, rng.random() < p, progress, chinese, gold, tail) for _ in range(samples)]
            rows.append(
                {
                    "id": f"{task}:{i}",
                    "task": task,
                    "prompt": f"User: {question}\nAssistant:",
                    "gold": gold,
                    "completions": done,
                }
            )
    return rows


def _countdown(rng: random.Random, chinese: bool) -> tuple[str, Any, str]:
    a, b, c = (rng.randint(1, 12) for _ in range(3))
    question = f"用{a}、{b}、{c}算出{a * b + c}。" if chinese else f"Make {a * b + c} from {a}, {b}, {c}."
    return question, {"numbers": [a, b, c], "target": a * b + c}, f"({a}*{b})+{c}"


def _remainder(rng: random.Random, chinese: bool) -> tuple[str, Any, str]:
    a, b = rng.choice(((4, 5), (5, 7), (7, 9), (8, 11)))
    answer = rng.randrange(a * b)
    r, s = answer % a, answer % b
    question = (
        f"除以{a}余{r}，除以{b}余{s}，最小是几？"
        if chinese
        else f"Smallest number with remainder {r} by {a} and {s} by {b}?"
    )
    return question, str(answer), str(answer)


def _completion(
    rng: random.Random, task: str, right: bool, progress: float, chinese: bool, gold: Any, solution: str
) -> dict[str, Any]:
    tries = 1 + min(24, int(rng.expovariate(1 / (1.2 + 5 * progress))))
    lines = []
    for i in range(tries):
        language = "zh" if chinese != (rng.random() < 0.05) else "en"
        a, b = rng.randint(2, 12), rng.randint(1, 12)
        work = f"{a}*{b}={a * b},{a * b}-{a}={a * b - a}" if task == "countdown" else f"{a * b}/{a} r{(a * b + i) % a}"
        lines.append(work + rng.choice(MARKERS[language]))
    answer = (
        solution
        if right
        else (
            f"({rng.randint(1, 12)}+{rng.randint(1, 12)})*{rng.randint(1, 12)}"
            if task == "countdown"
            else str(rng.randrange(99))
        )
    )
    lines.append(("对了" if chinese else "yes") if right else ("算了" if chinese else "give up"))
    think = "\n".join(lines)
    cut = not right and tries > 20
    text = f"<think>{think}" if cut else f"<think>{think}</think><answer>{answer}</answer>"
    return {
        "text": text,
        "verdict": "right" if right else "wrong",
        "extracted": "" if cut else answer,
        "reason": "no <answer>" if cut else f"answered {answer}, gold {gold}",
        "reward": 2.0 if right else float(not cut),
        "tokens": len(text) if not cut else 512,
        "reflection": sum(think.count(word) for word in REFLECTIVE),
        "finish_reason": "length" if cut else "stop",
    }


def _training_row(step: int, progress: float, rng: random.Random) -> dict[str, Any]:
    accuracy = min(1.0, max(0.0, skill(progress) + rng.gauss(0, 0.03)))
    length = 60 + 110 * progress + rng.gauss(0, 6)
    sample, train = 1.1 + 0.012 * length, 0.9 + 0.009 * length
    return {
        "step": step,
        "time": 1.7e9 + 5 * step,
        "reward/mean": accuracy + 0.97,
        "reward/accuracy": accuracy,
        "reward/format": 0.97,
        "reward/solved_groups": min(1.0, accuracy + 0.3),
        "reward/equal_groups": 0.5 * progress,
        "verdict/undecided": 0.0,
        "length/mean": length,
        "length/max": 3 * length,
        "length/truncated": max(0.0, 0.03 * progress + rng.gauss(0, 0.004)),
        "reflection/mean": 0.8 + 3 * progress + rng.gauss(0, 0.15),
        "loss/policy": rng.gauss(0, 0.01),
        "kl/reference": 0.05 * progress,
        "kl/sampler": abs(rng.gauss(0, 2e-4)),
        "entropy": 0.6 - 0.3 * progress + rng.gauss(0, 0.01),
        "ratio/clipped": abs(rng.gauss(0, 0.002)),
        "ratio/mean": 1.0,
        "grad_norm": 0.4 + 0.1 * rng.random(),
        "lr": 2e-4,
        "seconds/sample": sample,
        "seconds/score": 0.05,
        "seconds/train": train,
        "seconds/step": sample + train + 0.1,
        "tokens_per_second": 512 * length / sample,
        "policy_version": step,
    }


def write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    make_fake_run(Path(sys.argv[1]) / "zero")
