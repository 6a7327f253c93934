"""RL with GRPO: R1-Zero from a base model, and both RL stages of R1 (R1 section 2, V2 3.2; DeepSeekMath algorithm 1).

    r1kit rl demo                          # 2 CPU cores, minutes
    r1kit rl r1-zero --model PATH          # the paper's settings

Sample a group of completions per problem, score them, compare each with its group, take the policy steps. RL for all
scenarios mixes in general prompts, whose reward is a reward model's, from the step `general_from` on.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from r1kit import hub
from r1kit.algo.advantages import group_advantages, informative_groups
from r1kit.algo.losses import grpo_loss, token_weights
from r1kit.algo.packing import Batch, Packable, microbatches, pack
from r1kit.algo.schedule import learning_rate, length_cap, reference_is_due
from r1kit.allocator import release_memory
from r1kit.config import AlgoConfig, EvalConfig, RLConfig, to_dict
from r1kit.data.rows import is_source
from r1kit.model.chat import stop_tokens
from r1kit.model.lora import add_adapters
from r1kit.model.tokenizer import load_tokenizer
from r1kit.rewards.accuracy import check_scorer
from r1kit.rewards.length import overlong_penalty
from r1kit.run import Progress, Run
from r1kit.sampling.base import Sampler
from r1kit.sampling.choose import check_sampler, open_sampler
from r1kit.tasks import ProblemSet, load_problems, mix, summaries
from r1kit.trackers import check_trackers
from r1kit.training.base import Learner
from r1kit.training.checkpoint import latest_checkpoint, save_checkpoint
from r1kit.training.checks import Room, check_reward_models, check_room
from r1kit.training.evaluation import evaluate, evaluation_problems, evaluation_sets
from r1kit.training.learner import LocalLearner
from r1kit.training.models import model_context, open_model, resolve_model
from r1kit.training.no_signal import SignalWatch
from r1kit.training.preference import load_preference
from r1kit.training.prompts import shorter_prompts
from r1kit.training.rollout import Group, Preference, rewards_of, rollout_metrics, sample_groups
from r1kit.types import Metrics, Problem, Sample, SamplingParams


def main(cfg: RLConfig) -> None:
    """Train, evaluating and saving on the way. Run again with the same config, it resumes."""
    check_sampler(cfg)
    check_trackers(cfg.track)
    if cfg.reward.function:
        check_scorer(cfg.reward.function)
    read_problems(cfg)  # what is wrong with them is said before a model is downloaded
    problem_sets, general_sets, heldout_sets = read_problems(cfg, load_tokenizer(resolve_model(cfg.model)))
    preference = load_preference(cfg.reward, cfg.device, cfg.dtype) if cfg.reward.preference_weight else None
    model, tokenizer = open_model(cfg.model, cfg.device, cfg.dtype)
    evaluation = eval_config(cfg)
    heldout = evaluation_problems(heldout_sets, evaluation)
    learner = LocalLearner(
        model, tokenizer, cfg.optim, temperature=cfg.temperature, with_reference=cfg.algo.kl_coef > 0,
        memory=cfg.memory, adapters=add_adapters(model, cfg.lora, seed=cfg.seed, base=cfg.model),
        stops=stop_tokens(cfg.template, tokenizer),
    )  # fmt: skip
    hub.reserve(cfg.push_to_hub)
    with (
        Run.open(cfg.run, to_dict(cfg), "rl") as run,
        Progress(cfg.steps, "rl") as progress,
        open_sampler(cfg, tokenizer, resolve_model(cfg.model), handed=True) as sampler,
    ):
        for line in dict.fromkeys(summaries([*problem_sets, *general_sets, *heldout_sets])):
            progress.note(line)
        checkpoint = latest_checkpoint(run.folder)
        if checkpoint:
            learner.load(checkpoint.folder)
        step = checkpoint.step if checkpoint else 0
        run.rewind(checkpoint.step if checkpoint else None)
        watch = SignalWatch()

        def evaluate_now() -> None:
            sampler.load_weights(learner.publish(), version=step)
            show = partial(progress.status, "evaluate")
            metrics = evaluate(
                sampler, tokenizer, evaluation, run.folder / "evals", step, show,
                form=cfg.reward.format, problems=heldout,
            )  # fmt: skip
            run.log(step, metrics)
            progress.show(step, metrics)

        if step == 0 and cfg.eval_every:
            evaluate_now()
        while step < cfg.steps:
            start = time.perf_counter()
            handed = sampler.load_weights(learner.publish(), version=step)
            problems = partial(draw_problems, problem_sets, general_sets, cfg, step)
            show = partial(progress.status, "sample")
            groups, every, metrics = collect(sampler, tokenizer, problems, cfg, step, preference, show)
            metrics |= handed
            run.log_samples(step + 1, [group[0] for group in groups[:4]])
            if said := watch.look(every):
                run.log_note(step + 1, said)
                progress.note(said)
            trained = time.perf_counter()
            for batches in rollout_batches(groups, learner, cfg, step):
                try:
                    metrics |= update(learner, batches, cfg, step)
                except FloatingPointError as error:
                    raise bad_batch(run.folder, step + 1, groups, error) from error
                step += 1
                if cfg.algo.kl_coef > 0 and reference_is_due(step, cfg.algo.reference_every):
                    learner.update_reference()
                now = time.perf_counter()
                metrics |= {"policy_version": step, "seconds/train": now - trained, "seconds/step": now - start}
                run.log(step, metrics)
                progress.show(step, metrics)
                metrics, start, trained = {}, now, now
            if cfg.eval_every and (step % cfg.eval_every == 0 or step == cfg.steps):
                evaluate_now()
            if step % cfg.save_every == 0 or step == cfg.steps:
                save_checkpoint(run.folder, step, learner.save, {}, cfg.keep_checkpoints)
                release_memory()
            if step == cfg.stop_after:
                return
    if cfg.push_to_hub:
        print(hub.push(cfg.run, cfg.push_to_hub))


def read_problems(
    cfg: RLConfig, tokenizer: PreTrainedTokenizerBase | None = None
) -> tuple[list[ProblemSet], list[ProblemSet], list[ProblemSet]]:
    """The sets of reasoning problems, of general prompts and, where the run evaluates, of held-out problems.

    With a tokenizer, without the prompts that `cfg.filter` calls too long. ValueError or FileNotFoundError where one is
    not there or has too few.
    """
    reading = partial(load_problems, columns=cfg.columns, filters=cfg.filter, system_prompt=cfg.system_prompt)
    problem_sets = [reading(task, "train", cfg.seed) for task in cfg.tasks]
    general_sets = [reading(task, "train", cfg.seed) for task in cfg.general_tasks]
    check_reward_models([*problem_sets, *general_sets], cfg.reward)
    evaluation = eval_config(cfg)
    heldout_sets = evaluation_sets(evaluation, tokenizer) if cfg.eval_every else []
    if tokenizer is not None:
        longest = cfg.filter.max_prompt_tokens
        problem_sets = [shorter_prompts(one, tokenizer, cfg.template, longest) for one in problem_sets]
        general_sets = [shorter_prompts(one, tokenizer, cfg.template, longest) for one in general_sets]
        context = model_context(resolve_model(cfg.model))
        check_prompts(cfg, context, tokenizer, [*problem_sets, *general_sets], heldout_sets)
    return problem_sets, general_sets, heldout_sets


def check_prompts(
    cfg: RLConfig, context: int, tokenizer: PreTrainedTokenizerBase, problem_sets: Sequence[ProblemSet],
    heldout_sets: Sequence[ProblemSet],
) -> None:  # fmt: skip
    """ValueError where a prompt leaves no room for a completion: a rollout would find it at some later step."""
    what = "the model's context"
    if cfg.sampler == "vllm" and 0 < cfg.vllm.max_len < context:
        context, what = cfg.vllm.max_len, "--vllm.max-len"
    raised = 0 < cfg.raise_cap_at < cfg.steps
    cap, flag = (cfg.raised_cap, "--raised-cap") if raised else (cfg.max_new_tokens, "--max-new-tokens")
    check_room(problem_sets, tokenizer, cfg.template, Room(context, what, cap, flag))
    evaluation = eval_config(cfg)
    of_filter = "--filter.max-prompt-tokens" if evaluation.filter is cfg.filter else "--eval.filter.max-prompt-tokens"
    room = Room(context, what, evaluation.max_new_tokens, "--eval.max-new-tokens", of_filter)
    check_room(heldout_sets, tokenizer, cfg.template, room, first=evaluation.num_problems)


def bad_batch(folder: Path, step: int, groups: Sequence[Group], error: FloatingPointError) -> FloatingPointError:
    """Save the rollout whose update failed; the error that says where. The weights are those before the update."""
    path = folder / f"bad-batch-{step:06d}.jsonl"
    rows = [
        {
            "id": s.problem.id,
            "prompt_tokens": s.prompt_tokens,
            "tokens": s.completion.tokens,
            "sampler_logprobs": s.completion.sampler_logprobs,
            "reward": s.score.reward,
            "advantage": s.advantage,
        }
        for group in groups
        for s in group
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FloatingPointError(
        f"step {step}: {error}; the rollout is in {path}. Lower --optim.lr or --optim.grad-clip, or use --dtype fp32; "
        f"the same command goes on from the last checkpoint"
    )


def eval_config(cfg: RLConfig) -> EvalConfig:
    """The run's evaluation: `cfg.eval` with the run's template and system prompt, and its tasks unless it has others.

    General prompts of data sets have no rule that could judge the answers: they are left out where there are others.
    ValueError where `cfg.eval` asks in another way than the run: the model has never seen such prompts.
    """
    usual, own = EvalConfig(), cfg.eval
    for flag, asked, run in (
        ("template", own.template, cfg.template), ("system-prompt", own.system_prompt, cfg.system_prompt)
    ):  # fmt: skip
        if asked not in (run, usual.template if flag == "template" else usual.system_prompt):
            raise ValueError(
                f"--eval.{flag} is {asked!r} and the run's --{flag} {run!r}; leave out --eval.{flag}: a run trains and "
                f"evaluates with one"
            )
    tasks = cfg.tasks + tuple(task for task in cfg.general_tasks if not is_source(task))
    tasks, columns, filters = tasks or cfg.general_tasks, cfg.columns, cfg.filter
    if others := own.tasks not in (usual.tasks, cfg.tasks):
        tasks = own.tasks
    if others or own.columns != usual.columns:
        columns = own.columns
    if others or own.filter != usual.filter:
        filters = own.filter
    return replace(
        own, model=str(cfg.run), tasks=tasks, template=cfg.template, columns=columns, filter=filters,
        system_prompt=cfg.system_prompt, unsafe_code=cfg.reward.unsafe_code,
    )  # fmt: skip


def draw_problems(
    problem_sets: list[ProblemSet], general_sets: list[ProblemSet], cfg: RLConfig, step: int, rounds: int
) -> list[Problem]:
    """The problems of `rounds` rollouts' worth at `step`: a pure function of (seed, step).

    From `general_from` on, `general_share` of each round's are general prompts. Each kind goes on where the rollout
    before ended, so that a finite set is seen whole before any of it is seen again.
    """
    wanted = cfg.problems_per_step * cfg.minibatches
    mixed = (
        max(0, step - cfg.general_from) // cfg.steps_per_rollout if general_sets else 0
    )  # earlier rollouts with both
    alone = step // cfg.steps_per_rollout - mixed
    share = round(wanted * cfg.general_share)
    general = share if general_sets and step >= cfg.general_from else 0
    start = (alone * wanted + mixed * (wanted - share)) * rounds
    reasoning = mix(problem_sets, start, (wanted - general) * rounds) if wanted > general else []
    others = mix(general_sets, mixed * share * rounds, general * rounds) if general else []
    drawn: list[Problem] = []
    for turn in range(rounds):
        drawn += reasoning[turn * (wanted - general) : (turn + 1) * (wanted - general)]
        drawn += others[turn * general : (turn + 1) * general]
    return drawn


def collect(
    sampler: Sampler, tokenizer: PreTrainedTokenizerBase, draw: Callable[[int], list[Problem]], cfg: RLConfig,
    step: int, preference: Preference | None, on_progress: Callable[[int, int], None],
) -> tuple[list[Group], list[Group], Metrics]:  # fmt: skip
    """One rollout: scored groups with their advantages, and all groups that were sampled for it.

    With dynamic sampling (DAPO section 3.2), groups whose rewards are all equal are replaced by groups of further
    problems, for at most `algo.dynamic_sampling` more rounds.
    """
    cap = length_cap(step, cfg.max_new_tokens, cfg.raise_cap_at, cfg.raised_cap)
    stops = stop_tokens(cfg.template, tokenizer)
    params = SamplingParams(cfg.temperature, cfg.top_p, cfg.top_k, cap, stops)
    wanted = cfg.problems_per_step * cfg.minibatches
    problems = draw(1 + cfg.algo.dynamic_sampling)
    every: list[Group] = []
    kept: list[Group] = []
    seconds = {"seconds/sample": 0.0, "seconds/score": 0.0}
    for start in range(0, len(problems), wanted):
        groups, took = sample_groups(
            sampler, tokenizer, problems[start : start + wanted], params, cfg.group_size,
            template=cfg.template, seed=f"{cfg.seed}/{step}", reward=cfg.reward, preference=preference,
            on_progress=on_progress,
        )  # fmt: skip
        seconds = {name: seconds[name] + took[name] for name in seconds}
        groups = [[with_overlong_penalty(sample, cap, cfg.algo) for sample in group] for group in groups]
        every += groups
        informative_P = informative_groups(rewards_of(groups)).tolist()
        kept += [g for g, useful in zip(groups, informative_P, strict=True) if useful or not cfg.algo.dynamic_sampling]
        if len(kept) >= wanted:
            break
    kept = kept[:wanted]
    metrics = rollout_metrics(every, seconds)
    if not kept:
        return [], every, metrics
    advantages_PG = group_advantages(rewards_of(kept), cfg.algo.advantage).tolist()
    groups = [
        [replace(sample, advantage=advantage) for sample, advantage in zip(group, advantages, strict=True)]
        for group, advantages in zip(kept, advantages_PG, strict=True)
    ]
    return groups, every, metrics


def with_overlong_penalty(sample: Sample, cap: int, algo: AlgoConfig) -> Sample:
    penalty = overlong_penalty(len(sample.completion.tokens), cap, algo.overlong_buffer, algo.overlong_penalty)
    if penalty == 0:
        return sample
    score = sample.score
    return replace(
        sample, score=replace(score, reward=score.reward + penalty, parts=score.parts | {"overlong": penalty})
    )


def rollout_batches(groups: Sequence[Group], learner: Learner, cfg: RLConfig, step: int) -> list[list[Batch]]:
    """The micro-batches of each optimizer step of this rollout, with the log-probs that the loss needs.

    pi_old and pi_ref are those of the rollout, so their log-probs are computed here, before the first update.
    """
    parts = minibatches(groups, cfg, step)
    packed = [make_batches(part, learner, cfg, step) for part in parts]
    for batch in (batch for batches in packed for batch in batches):
        # With one step per rollout the policy being trained is the one that sampled, and pi_old is its own value.
        if cfg.steps_per_rollout > 1:
            batch.old_logprobs_N = learner.logprobs(batch)
        if cfg.algo.kl_coef > 0:
            batch.ref_logprobs_N = learner.reference_logprobs(batch)
    return packed


def minibatches(groups: Sequence[Group], cfg: RLConfig, step: int) -> list[list[Sample]]:
    """The rollout's samples, at random into `cfg.minibatches` parts for each epoch (R1-Zero: 8,192 outputs into 16)."""
    samples = [sample for group in groups for sample in group]
    parts = []
    for epoch in range(cfg.inner_epochs):
        order = list(range(len(samples)))
        if cfg.minibatches > 1:
            random.Random(f"{cfg.seed}/{step}/{epoch}").shuffle(order)
        size = -(-len(order) // cfg.minibatches)
        parts += [[samples[i] for i in order[part * size : (part + 1) * size]] for part in range(cfg.minibatches)]
    return parts


def make_batches(samples: Sequence[Sample], learner: Learner, cfg: RLConfig, step: int) -> list[Batch]:
    """The packed micro-batches of one optimizer step."""
    kept = [sample for sample in samples if sample.completion.tokens]
    if cfg.algo.mask_truncated:
        kept = [sample for sample in kept if sample.completion.finish_reason != "length"]
    lengths_S = torch.tensor([len(sample.completion.tokens) for sample in kept])
    weights_S = token_weights(
        lengths_S, cfg.algo.aggregation, num_sequences=len(kept), num_tokens=int(lengths_S.sum()),
        length_cap=length_cap(step, cfg.max_new_tokens, cfg.raise_cap_at, cfg.raised_cap),
    ).tolist()  # fmt: skip
    # A sample of advantage 0 has a gradient only through the KL term.
    used = [i for i, sample in enumerate(kept) if sample.advantage != 0 or cfg.algo.kl_coef > 0]
    sequences = [
        Packable(
            tokens=kept[i].prompt_tokens + kept[i].completion.tokens,
            prompt_length=len(kept[i].prompt_tokens),
            advantage=kept[i].advantage,
            weight=weights_S[i],
            sampler_logprobs=kept[i].completion.sampler_logprobs,
        )
        for i in used
    ]
    plan = microbatches([len(sequence.tokens) for sequence in sequences], cfg.tokens_per_microbatch)
    return [pack([sequences[i] for i in part], learner.device) for part in plan]


def update(learner: Learner, batches: Sequence[Batch], cfg: RLConfig, step: int) -> Metrics:
    """One optimizer step on one minibatch. Raises FloatingPointError if its gradient is not finite."""
    num_tokens = sum(batch.labels_N.numel() for batch in batches)
    if num_tokens == 0:
        return {"lr": 0.0, "grad_norm": 0.0}
    algo = replace(cfg.algo, truncated_is=cfg.truncated_is)

    def loss(logprobs_N: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        old_logprobs_N = logprobs_N.detach() if batch.old_logprobs_N is None else batch.old_logprobs_N
        return grpo_loss(
            logprobs_N, old_logprobs_N, batch.ref_logprobs_N, batch.advantages_N, batch.weights_N, batch.sequence_N,
            batch.num_sequences, algo, batch.sampler_logprobs_N, num_tokens=num_tokens,
        )  # fmt: skip

    sums: dict[str, Tensor] = {}
    for batch in batches:
        for name, value in learner.forward_backward(batch, loss).items():
            sums[name] = sums[name] + value if name in sums else value
    lr = learning_rate(cfg.optim, step, cfg.steps)
    grad_norm = learner.optim_step(lr)
    metrics = {name: value.item() for name, value in sums.items()}
    return metrics | {"entropy": metrics["entropy"] / num_tokens, "grad_norm": grad_norm, "lr": lr}
