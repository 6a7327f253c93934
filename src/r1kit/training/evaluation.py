"""Score a policy on held-out problems: evals/step-000020.json (numbers) and .jsonl (every completion behind them)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.config import EvalConfig, ReadableConfig, RewardConfig, to_dict
from r1kit.config.evaluate import AnswerForm
from r1kit.model.chat import render_prompt, stop_tokens
from r1kit.rewards.accuracy import PREFERENCE_SCORERS, has_rules
from r1kit.rewards.format import parse_completion
from r1kit.rewards.general import judge_response
from r1kit.rewards.language import language_consistency
from r1kit.rewards.readable import readable_fault
from r1kit.rewards.reflection import count_reflection_words
from r1kit.rewards.reward import language_of
from r1kit.run import write_json_atomic, write_text_atomic
from r1kit.sampling.base import Sampler
from r1kit.scoring.passk import GradedSample, summarise
from r1kit.tasks import ProblemSet, load_problems
from r1kit.training.prompts import shorter_prompts
from r1kit.training.rollout import sample_groups
from r1kit.training.trained import form_of_template
from r1kit.types import Metrics, Problem, Sample, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def evaluation_sets(cfg: EvalConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> list[ProblemSet]:
    """The problem set of each task; with a tokenizer, without the prompts that `cfg.filter` calls too long.

    ValueError where one of them has fewer than `cfg.num_problems`.
    """
    sets = [
        load_problems(
            task, cfg.split, cfg.seed, columns=cfg.columns, filters=cfg.filter, system_prompt=cfg.system_prompt
        )
        for task in cfg.tasks
    ]
    if tokenizer is not None:
        sets = [shorter_prompts(one, tokenizer, cfg.template, cfg.filter.max_prompt_tokens) for one in sets]
    for problem_set in sets:
        problem_set.first(cfg.num_problems)
    return sets


def evaluation_problems(sets: Sequence[ProblemSet], cfg: EvalConfig) -> list[Problem]:
    """The problems that are asked."""
    return [problem for problem_set in sets for problem in problem_set.first(cfg.num_problems)]


def evaluate(
    sampler: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    cfg: EvalConfig,
    folder: Path,
    step: int,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    form: AnswerForm | None = None,
    problems: Sequence[Problem] | None = None,
) -> Metrics:
    """Sample `cfg.num_samples` completions of `cfg.num_problems` problems of each task, score them, write both files.

    `form`: the form that answers are read in; None: the one of `cfg.template`. `problems`: those of `cfg`, where they
    have been read already. Returns the metrics of metrics.jsonl: `eval/<task>/pass@1` and so on, `eval/all/...` over
    all problems. The problems and the random numbers depend on `cfg` only, so evaluations of one run are paired.
    """
    start = time.perf_counter()
    form = form or form_of_template(cfg.template)
    if problems is None:
        problems = evaluation_problems(evaluation_sets(cfg, tokenizer), cfg)
    stops = stop_tokens(cfg.template, tokenizer)
    params = SamplingParams(cfg.temperature, cfg.top_p, cfg.top_k, cfg.max_new_tokens, stops)
    groups, _ = sample_groups(
        sampler, tokenizer, problems, params, cfg.num_samples,
        template=cfg.template, seed=f"eval/{cfg.seed}",
        reward=RewardConfig(format=form, unsafe_code=cfg.unsafe_code), on_progress=on_progress,
    )  # fmt: skip
    prompts = [render_prompt(cfg.template, group[0].problem.messages, tokenizer) for group in groups]
    grades = [
        [graded(sample, prompt.prefill) for sample in group] for group, prompt in zip(groups, prompts, strict=True)
    ]
    by_task: dict[str, list[list[GradedSample]]] = {}
    for group, grade in zip(groups, grades, strict=True):
        by_task.setdefault(group[0].problem.task, []).append(grade)
    if len(by_task) > 1:  # general prompts have no right answer: they stay out of the total
        ruled = [
            g for group, g in zip(groups, grades, strict=True) if group[0].problem.scorer not in PREFERENCE_SCORERS
        ]
        by_task["all"] = ruled or grades
    results = {task: summarise(members) for task, members in by_task.items()}
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_row(group, grade, prompt.text) for group, grade, prompt in zip(groups, grades, prompts, strict=True)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text_atomic(folder / f"step-{step:06d}.jsonl", lines)
    evaluation = {"step": step, "policy": sampling_policy(cfg, form), "results": results}
    write_json_atomic(folder / f"step-{step:06d}.json", evaluation)
    metrics = {f"eval/{task}/{name}": value for task, values in results.items() for name, value in values.items()}
    if "all" not in results:
        metrics |= {f"eval/all/{name}": value for values in results.values() for name, value in values.items()}
    return metrics | {"seconds/eval": time.perf_counter() - start}


def sampling_policy(cfg: EvalConfig, form: AnswerForm) -> dict[str, Any]:
    """What a score depends on besides the model; printed beside every number."""
    names = ("split", "num_problems", "num_samples", "temperature", "top_p", "top_k", "max_new_tokens", "template")
    settings = to_dict(cfg)
    policy = {name: settings[name] for name in (*names, "seed", *(["system_prompt"] if cfg.system_prompt else []))}
    if cfg.filter.max_prompt_tokens:
        policy["max_prompt_tokens"] = cfg.filter.max_prompt_tokens
    return policy | {"format": form}


def graded(sample: Sample, prefill: str) -> GradedSample:
    """What scoring needs to know of a sample. `prefill` is the tail of the prompt that belongs to the completion."""
    problem, completion = sample.problem, sample.completion
    text, language, tokens = prefill + completion.text, language_of(problem), len(completion.tokens)
    parsed = parse_completion(text)
    ruled = problem.scorer in PREFERENCE_SCORERS and has_rules(problem.gold)
    return GradedSample(
        right=sample.score.verdict == "right",
        undecided=sample.score.verdict == "undecided",
        answer=sample.score.extracted,
        tokens=tokens,
        truncated=completion.finish_reason == "length",
        reflection=count_reflection_words(completion.text),
        consistency=language_consistency(parsed.thought, language),
        readable=not readable_fault(text, language, tokens, ReadableConfig()),
        quality=judge_response(parsed.response, problem.gold, problem.scorer).quality if ruled else None,
    )


def _row(group: Sequence[Sample], grades: Sequence[GradedSample], prompt: str) -> dict[str, Any]:
    problem = group[0].problem
    completions = [
        {
            "text": sample.completion.text,
            "verdict": sample.score.verdict,
            "extracted": sample.score.extracted,
            "reason": sample.score.reason,
            "reward": sample.score.reward,
            "tokens": grade.tokens,
            "reflection": grade.reflection,
            "consistency": grade.consistency,
            "readable": grade.readable,
            "quality": grade.quality,
            "finish_reason": sample.completion.finish_reason,
        }
        for sample, grade in zip(group, grades, strict=True)
    ]
    about = {"id": problem.id, "task": problem.task, "scorer": problem.scorer, "prompt": prompt, "gold": problem.gold}
    return {**about, "completions": completions}
