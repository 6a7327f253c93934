"""Make a student of a teacher (R1 V1 2.4, V2 B.4.3).

    r1kit distill demo --teacher runs/demo/r1                     # fine-tune on the teacher's samples
    r1kit distill demo --teacher runs/demo/r1 --method on-policy  # reverse KL on the student's own samples

The paper's way is sft. On-policy distillation is the later one (GKD, arXiv 2306.13649; Thinking Machines 2025): the
student samples, and the teacher's distribution at each of its tokens is what it learns, so no token needs a reward.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, assert_never

from r1kit import hub
from r1kit.algo.packing import Batch, Packable
from r1kit.algo.schedule import learning_rate
from r1kit.allocator import release_memory
from r1kit.config import DistillConfig, RewardConfig, SFTConfig, to_dict
from r1kit.model.chat import render_prompt, stop_tokens
from r1kit.model.lora import add_adapters
from r1kit.model.tokenizer import load_tokenizer
from r1kit.run import Progress, Run
from r1kit.sampling.local import LocalSampler
from r1kit.stages import reject, sft
from r1kit.tasks import ProblemSet, load_problems, mix
from r1kit.trackers import check_trackers
from r1kit.training.checkpoint import latest_checkpoint, save_checkpoint
from r1kit.training.checks import Room, check_room
from r1kit.training.conversations import read_conversations
from r1kit.training.evaluation import evaluate
from r1kit.training.models import model_context, open_model, resolve_model
from r1kit.training.prompts import shorter_prompts
from r1kit.training.rollout import Group, sample_groups
from r1kit.training.supervised import DistillationLearner, distillation_step, pack_step
from r1kit.types import Message, Metrics, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def main(cfg: DistillConfig) -> None:
    """Leaves the student in RUN/student. Run again with the same config, it resumes."""
    check_trackers(cfg.sft.track)
    hub.reserve(cfg.sft.push_to_hub)
    match cfg.method:
        case "sft":
            on_samples(cfg)
        case "on-policy":
            on_policy(cfg)
        case _:
            assert_never(cfg.method)


def student_config(cfg: DistillConfig) -> SFTConfig:
    """The student's training, in RUN/student."""
    return replace(cfg.sft, run=cfg.run / "student")


def on_samples(cfg: DistillConfig) -> None:
    """Sample the teacher, unless its samples are given, and fine-tune the student on what is right and readable."""
    student = student_config(cfg)
    check_student(student)
    if student.data:
        read_conversations(student.data, student.columns, student.filter)
    else:
        samples = replace(cfg.samples, model=cfg.teacher, run=cfg.run / "samples")
        resolve_model(cfg.teacher)
        student = replace(student, data=(str(reject.main(samples)),))
    sft.main(student)


def check_student(student: SFTConfig) -> PreTrainedTokenizerBase:
    """Its tokenizer, when model, template and evaluation tasks are in order; ValueError or FileNotFoundError if not."""
    sft.check_eval(student)
    tokenizer = load_tokenizer(resolve_model(student.model))
    sft.check_eval(student, tokenizer)
    render_prompt(student.template, [Message("user", "?")], tokenizer)
    return tokenizer


def on_policy(cfg: DistillConfig) -> None:
    """Sample the student, take a step towards the teacher at each of its tokens, and again, for `on_policy.steps`."""
    student, steps = student_config(cfg), cfg.on_policy.steps
    problem_sets = check_on_policy(cfg)
    model, tokenizer = open_model(student.model, student.device, student.dtype)
    teacher, _ = open_model(cfg.teacher, student.device, student.dtype)
    learner = DistillationLearner(
        model, teacher, tokenizer, student.optim, temperature=cfg.on_policy.temperature, memory=student.memory,
        adapters=add_adapters(model, student.lora, seed=student.seed, base=student.model),
        stops=stop_tokens(student.template, tokenizer),
    )  # fmt: skip
    sampler = LocalSampler(tokenizer, rows=student.eval.rows)
    with Run.open(student.run, run_config(cfg), "distill") as run, Progress(steps, "distill") as progress:
        checkpoint = latest_checkpoint(run.folder)
        if checkpoint:
            learner.load(checkpoint.folder)
        step = checkpoint.step if checkpoint else 0
        run.rewind(checkpoint.step if checkpoint else None)

        def evaluate_now() -> None:
            sampler.load_weights(learner.publish(), version=step)
            show = partial(progress.status, "evaluate")
            metrics = evaluate(sampler, tokenizer, sft.eval_config(student), run.folder / "evals", step, show)
            run.log(step, metrics)
            progress.show(step, metrics)

        if step == 0 and student.eval_every:
            evaluate_now()
        while step < steps:
            start = time.perf_counter()
            sampler.load_weights(learner.publish(), version=step)
            groups, metrics = sample_student(
                sampler, tokenizer, problem_sets, cfg, step, partial(progress.status, "sample")
            )
            run.log_samples(step + 1, [group[0] for group in groups[:4]])
            trained = time.perf_counter()
            batches = make_batches(groups, learner, student.tokens_per_microbatch)
            try:
                metrics |= distillation_step(learner, batches, learning_rate(student.optim, step, steps))
            except FloatingPointError as error:
                raise FloatingPointError(
                    f"step {step + 1}: {error}; lower --sft.optim.lr, or use --sft.dtype fp32"
                ) from error
            step += 1
            now = time.perf_counter()
            metrics |= {"seconds/train": now - trained, "seconds/step": now - start}
            run.log(step, metrics)
            progress.show(step, metrics)
            if student.eval_every and (step % student.eval_every == 0 or step == steps):
                evaluate_now()
            if step % student.save_every == 0 or step == steps:
                save_checkpoint(run.folder, step, learner.save, {}, student.keep_checkpoints)
                release_memory()
            if step == student.stop_after:
                return
    if student.push_to_hub:
        print(hub.push(student.run, student.push_to_hub))


def run_config(cfg: DistillConfig) -> dict[str, Any]:
    """What config.json holds: the student's training, without the fields of SFT, and what is distilled into it."""
    student = to_dict(student_config(cfg))
    for name in ("data", "epochs", "batch_size", "max_tokens"):
        del student[name]
    return {**student, "method": cfg.method, "teacher": cfg.teacher, "on_policy": to_dict(cfg.on_policy)}


def check_on_policy(cfg: DistillConfig) -> list[ProblemSet]:
    """The problems, when all that can be checked before any compute is in order; ValueError or FileNotFoundError."""
    problem_sets = read_problems(cfg)
    student, teacher = resolve_model(cfg.sft.model), resolve_model(cfg.teacher)
    tokenizer = check_student(student_config(cfg))
    require_same_tokens(tokenizer, load_tokenizer(teacher), cfg)
    longest = cfg.sft.filter.max_prompt_tokens
    problem_sets = [shorter_prompts(one, tokenizer, cfg.sft.template, longest) for one in problem_sets]
    for folder, what in ((student, "the student's context"), (teacher, "the teacher's context")):
        room = Room(
            model_context(folder), what, cfg.on_policy.max_new_tokens, "--on-policy.max-new-tokens",
            "--sft.filter.max-prompt-tokens",
        )  # fmt: skip
        check_room(problem_sets, tokenizer, cfg.sft.template, room)
    return problem_sets


def read_problems(cfg: DistillConfig) -> list[ProblemSet]:
    """The sets of problems that the student answers."""
    reading = partial(
        load_problems, columns=cfg.sft.columns, filters=cfg.sft.filter, system_prompt=cfg.sft.system_prompt
    )
    return [reading(task, "train", cfg.sft.seed) for task in cfg.on_policy.tasks]


def require_same_tokens(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, cfg: DistillConfig) -> None:
    """ValueError unless every token has the same id in both, and the student stops wherever the teacher ends."""
    mine, theirs = student.get_vocab(), teacher.get_vocab()
    differing = sorted(
        (token for token in mine.keys() | theirs.keys() if mine.get(token) != theirs.get(token)),
        key=lambda token: (min(mine.get(token, len(mine)), theirs.get(token, len(theirs))), token),
    )
    way_out = "choose a teacher with the student's tokenizer, or --method sft, which needs none in common"
    if differing:
        examples = ", ".join(f"{t!r} ({mine.get(t, 'none')} and {theirs.get(t, 'none')})" for t in differing[:5])
        raise ValueError(
            f"{len(differing):,} tokens of the student {cfg.sft.model} and the teacher {cfg.teacher} have different "
            f"ids, such as {examples}; on-policy distillation compares them token by token: {way_out}"
        )
    stops, ends = stop_tokens(cfg.sft.template, student), stop_tokens(cfg.sft.template, teacher)
    if foreign := [end for end in ends if end not in stops]:
        raise ValueError(
            f"the teacher {cfg.teacher} ends with {_written(foreign, teacher)}, the student {cfg.sft.model} stops at "
            f"{_written(stops, student)} only, so it would learn to go on after its end; list the teacher's under "
            f"eos_token_id in the student's generation_config.json, or {way_out}"
        )


def _written(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return ", ".join(repr(text) for text in tokenizer.convert_ids_to_tokens(list(tokens)))


def sample_student(
    sampler: LocalSampler, tokenizer: PreTrainedTokenizerBase, problem_sets: Sequence[ProblemSet], cfg: DistillConfig,
    step: int, on_progress: Callable[[int, int], None],
) -> tuple[list[Group], Metrics]:  # fmt: skip
    """The student's completions of a step's problems: a function of the weights and (seed, step).

    They are scored to show how the student does; the scores are not trained on.
    """
    how, stops = cfg.on_policy, stop_tokens(cfg.sft.template, tokenizer)
    params = SamplingParams(temperature=how.temperature, max_new_tokens=how.max_new_tokens, stop_tokens=stops)
    problems = mix(problem_sets, step * how.problems_per_step, how.problems_per_step)
    groups, seconds = sample_groups(
        sampler, tokenizer, problems, params, how.group_size, template=cfg.sft.template,
        seed=f"{cfg.sft.seed}/{step}", reward=RewardConfig(), on_progress=on_progress,
    )  # fmt: skip
    samples = [sample for group in groups for sample in group]
    lengths = [len(sample.completion.tokens) for sample in samples]
    return groups, {
        "reward/mean": fmean(sample.score.reward for sample in samples),
        "length/mean": fmean(lengths),
        "length/max": max(lengths),
        "length/truncated": fmean(sample.completion.finish_reason == "length" for sample in samples),
        "tokens_per_second": sum(lengths) / seconds["seconds/sample"],
        **seconds,
    }


def make_batches(groups: Sequence[Group], learner: DistillationLearner, tokens_per_microbatch: int) -> list[Batch]:
    """The micro-batches of a step. ValueError when a sample is longer than the teacher's context."""
    sequences = [
        Packable(sample.prompt_tokens + sample.completion.tokens, len(sample.prompt_tokens))
        for group in groups
        for sample in group
    ]
    longest, context = max(len(sequence.tokens) for sequence in sequences), learner.teacher.config.context
    if longest > context:
        raise ValueError(
            f"a prompt with its completion has {longest:,} tokens, above the teacher's context {context:,}; "
            f"lower --on-policy.max-new-tokens by {longest - context:,} or more"
        )
    return pack_step(sequences, tokens_per_microbatch, learner.device)
