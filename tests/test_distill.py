"""Facts about distillation: the reverse KL by hand, a student that comes nearer to its teacher, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from r1kit.algo.distill import reverse_kl, reverse_kl_of_hidden
from r1kit.algo.packing import Packable
from r1kit.config import DistillConfig, FilterConfig, OnPolicyConfig, OptimConfig, RejectConfig, SFTConfig
from r1kit.model.hf import save_model
from r1kit.model.tokenizer import train_tokenizer
from r1kit.model.transformer import Transformer, TransformerConfig
from r1kit.model.unembed import Unembed
from r1kit.sampling.local import LocalSampler
from r1kit.stages import distill, reject
from r1kit.tasks import load_problems
from r1kit.training.checkpoint import find_model
from r1kit.training.models import open_model
from r1kit.training.supervised import DistillationLearner, distillation_step, pack_step
from r1kit.types import Completion, Problem, Prompt, Sample, SamplingParams, Score
from scripted import save_scripted_model, token_id
from tiny import DOCUMENTS, OPTIM, VOCAB, perturb, random_tokens, tiny_model, tiny_tokenizer

TIMINGS = ("time", "seconds/", "tokens_per_second")
TEACHER = {
    ":": {"<think>": 1.0},
    "<think>": {"1": 1.0},
    "1": {"</think>": 1.0},
    "</think>": {"<answer>": 1.0},
    "<answer>": {"23": 0.7, "24": 0.3},
    "23": {"</answer>": 1.0},
    "24": {"</answer>": 1.0},
}


def rows(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(TIMINGS)} for row in lines]


def weights(run: Path, step: int) -> dict[str, bytes]:
    tensors = load_file(run / "checkpoints" / f"step-{step:06d}" / "model.safetensors")
    return {name: tensor.float().numpy().tobytes() for name, tensor in tensors.items()}


def large_model(vocab: int = VOCAB) -> Transformer:
    """Wider than `tiny_model`, which is to learn from it."""
    config = TransformerConfig(
        model_type="llama", vocab_size=vocab, hidden=48, layers=1, heads=2, kv_heads=1, head_dim=24, mlp=40, context=96
    )
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(5))
    perturb(model, 5, 0.1)
    return model


# The loss


def test_reverse_kl_by_hand():
    """p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2): 1/2 ln 2 + 0 - 1/4 ln 2. Equal distributions: 0."""
    student_NV = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]]).log() + torch.tensor([[3.0], [-1.0]])
    teacher_NV = torch.tensor([[0.25, 0.25, 0.5], [0.2, 0.3, 0.5]]).log()
    torch.testing.assert_close(reverse_kl(student_NV, teacher_NV, 1.0), torch.tensor([math.log(2) / 4, 0.0]))
    # At temperature 1/2 probabilities are squared and normed: (4, 1, 1)/6 and (1, 1, 4)/6.
    expected = 4 / 6 * math.log(4) - 1 / 6 * math.log(4)
    assert reverse_kl(student_NV, teacher_NV, 0.5)[0].item() == pytest.approx(expected)


def test_the_gradient_by_hand():
    """d KL / d logit_v = p_v (log p_v/q_v - KL); for p = (3/4, 1/4), q = (1/2, 1/2)."""
    logits = torch.tensor([[0.75, 0.25]]).log().requires_grad_()
    teacher = torch.zeros(1, 2, requires_grad=True)
    kl = reverse_kl(logits, teacher.detach(), 1.0)
    kl.sum().backward()
    log_ratios = [math.log(1.5), math.log(0.5)]
    value = 0.75 * log_ratios[0] + 0.25 * log_ratios[1]
    assert kl.item() == pytest.approx(value)
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0.75 * (log_ratios[0] - value), 0.25 * (log_ratios[1] - value)])


def test_it_is_the_mean_of_the_sampled_tokens_policy_gradient():
    """Over all tokens v ~ p: the gradient of -(log q_v - log p_v) log p_v, its advantage held fixed, is the KL's."""
    torch.manual_seed(0)
    logits, teacher_V = torch.randn(6, dtype=torch.double, requires_grad=True), torch.randn(6, dtype=torch.double)
    logp_V, logq_V = logits.log_softmax(-1), teacher_V.log_softmax(-1)
    advantages_V = (logq_V - logp_V).detach()
    sampled = -(logp_V.detach().exp() * advantages_V * logp_V).sum()
    whole = reverse_kl(logits[None], teacher_V[None], 1.0).sum()
    torch.testing.assert_close(
        *torch.autograd.grad(sampled, logits, retain_graph=True), *torch.autograd.grad(whole, logits)
    )


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_change_nothing(chunk: int):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    hidden, head, teacher_hidden, teacher_head = draw(7, 5), draw(11, 5), draw(7, 4), draw(11, 4)
    hidden.requires_grad_()
    head.requires_grad_()
    upstream = draw(7)
    whole = reverse_kl(hidden @ head.T, teacher_hidden @ teacher_head.T, 0.8)
    parts = reverse_kl_of_hidden(hidden, Unembed(head), teacher_hidden, Unembed(teacher_head), 0.8, chunk=chunk)
    torch.testing.assert_close(parts, whole)
    for got, expected in zip(
        torch.autograd.grad(parts @ upstream, (hidden, head)),
        torch.autograd.grad(whole @ upstream, (hidden, head)),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


def test_the_heads_gradient_adds_up_in_fp32():
    """In bf16, 512 chunks of which each adds a 256th of a unit would stop at one unit and a half or so."""
    hidden = torch.ones(512, 1, dtype=torch.bfloat16)
    head = torch.tensor([[0.0], [0.0]], dtype=torch.bfloat16, requires_grad=True)
    teacher_hidden, teacher_head = torch.ones(512, 1), torch.tensor([[0.0], [1.0]])
    student, teacher = Unembed(head).master(), Unembed(teacher_head)
    [whole] = torch.autograd.grad(reverse_kl_of_hidden(hidden, student, teacher_hidden, teacher, 1.0).sum(), head)
    kl = reverse_kl_of_hidden(hidden, student, teacher_hidden, teacher, 1.0, chunk=1)
    [chunked] = torch.autograd.grad(kl.sum(), head)
    torch.testing.assert_close(chunked, whole, rtol=1e-2, atol=0)


# A step


def sequences() -> list[Packable]:
    return [Packable(tuple(random_tokens(p + c, seed=p)), p) for p, c in ((5, 9), (3, 1), (12, 20), (2, 15))]


def test_micro_batches_change_nothing():
    metrics = []
    for budget in (1000, 33, 1):
        learner = DistillationLearner(tiny_model(), large_model(), tiny_tokenizer(), OPTIM)
        metrics.append(distillation_step(learner, pack_step(sequences(), budget, learner.device), 0.1))
    for other in metrics[1:]:
        assert other["kl/teacher"] == pytest.approx(metrics[0]["kl/teacher"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(metrics[0]["grad_norm"], rel=1e-4)


def test_a_student_that_is_its_teacher_learns_nothing_and_the_teacher_never_does():
    teacher = large_model()
    before = [p.clone() for p in teacher.parameters()]
    same = DistillationLearner(tiny_model(seed=3), tiny_model(seed=3), tiny_tokenizer(), OPTIM)
    metrics = distillation_step(same, pack_step(sequences(), 100, same.device), 0.0)
    assert abs(metrics["kl/teacher"]) < 1e-6 and metrics["grad_norm"] < 1e-5
    other = DistillationLearner(tiny_model(seed=3), teacher, tiny_tokenizer(), OPTIM)
    metrics = distillation_step(other, pack_step(sequences(), 100, other.device), 0.1)
    assert metrics["kl/teacher"] > 0.1 and metrics["grad_norm"] > 0.1
    assert all(p.equal(q) and p.grad is None for p, q in zip(teacher.parameters(), before, strict=True))


@pytest.mark.parametrize("rows_of_teacher", [VOCAB + 24, VOCAB - 24])
def test_vocabularies_padded_to_other_sizes_meet_in_their_common_rows(rows_of_teacher: int):
    teacher = large_model(rows_of_teacher)
    learner = DistillationLearner(tiny_model(), teacher, tiny_tokenizer(), OPTIM)
    metrics = distillation_step(learner, pack_step(sequences(), 100, learner.device), 0.1)
    assert math.isfinite(metrics["kl/teacher"]) and metrics["grad_norm"] > 0


# The stage


@pytest.fixture
def task(tmp_path: Path) -> str:
    rows = [{"prompt": f"Make {i}", "answer": "23", "scorer": "number", "split": "train"} for i in range(12)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "sums.jsonl")


@pytest.fixture
def cfg(tmp_path: Path, task: str) -> DistillConfig:
    """On-policy: a tiny student, and a larger teacher with other weights."""
    save_model(tiny_model(tie=True), tiny_tokenizer(), tmp_path / "student-base")
    save_model(large_model(), tiny_tokenizer(), tmp_path / "teacher")
    student = SFTConfig(
        model=str(tmp_path / "student-base"), optim=OptimConfig(lr=1e-2, schedule="cosine"), save_every=3,
        tokens_per_microbatch=512, device="cpu", dtype="fp32",
    )  # fmt: skip
    on_policy = OnPolicyConfig(tasks=(task,), steps=6, problems_per_step=4, group_size=2, max_new_tokens=12)
    return DistillConfig(
        run=tmp_path / "run", method="on-policy", teacher=str(tmp_path / "teacher"), sft=student, on_policy=on_policy
    )


def test_the_student_comes_nearer_to_its_teacher(cfg: DistillConfig, capsys: pytest.CaptureFixture[str]):
    distill.main(replace(cfg, on_policy=replace(cfg.on_policy, steps=30)))
    found = rows(cfg.run / "student")
    assert [row["step"] for row in found] == list(range(1, 31))
    kl = [row["kl/teacher"] for row in found]
    assert min(kl) >= 0
    assert sum(kl[-5:]) < sum(kl[:5]) / 2
    assert {"reward/mean", "length/mean", "length/truncated", "lr", "grad_norm"} <= found[0].keys()
    assert "distill 30/30" in capsys.readouterr().out
    assert find_model(cfg.run) == cfg.run / "student" / "checkpoints" / "step-000030"
    assert (cfg.run / "student" / "samples.jsonl").exists()


@pytest.mark.parametrize("stops", [(2,), (3, 5)])
def test_a_stopped_run_ends_as_an_uninterrupted_one(cfg: DistillConfig, stops: tuple[int, ...]):
    straight = replace(cfg, run=cfg.run.with_name("straight"))
    distill.main(straight)
    for stop in stops:
        distill.main(replace(cfg, sft=replace(cfg.sft, stop_after=stop)))
    distill.main(cfg)
    assert rows(cfg.run / "student") == rows(straight.run / "student")
    assert weights(cfg.run / "student", 6) == weights(straight.run / "student", 6)
    samples, expected = (run / "student" / "samples.jsonl" for run in (cfg.run, straight.run))
    assert samples.read_text() == expected.read_text()


@pytest.mark.parametrize(("temperature", "alike"), [(1e-3, True), (1.0, False)])
def test_the_student_samples_and_the_loss_falls_on_its_completions_alone(
    cfg: DistillConfig, task: str, temperature: float, alike: bool
):
    cfg = replace(cfg, on_policy=replace(cfg.on_policy, temperature=temperature))
    student = tiny_model(tie=True)
    sampler = LocalSampler(tiny_tokenizer())
    sampler.load_weights(student, version=0)
    problems = [load_problems(task, "train", 0)]
    groups, metrics = distill.sample_student(sampler, tiny_tokenizer(), problems, cfg, 0, lambda done, total: None)
    completions = [sample.completion.tokens for group in groups for sample in group]
    assert [len(group) for group in groups] == [2, 2, 2, 2]
    assert all((group[0].completion.tokens == group[1].completion.tokens) == alike for group in groups)
    assert metrics["length/mean"] == sum(map(len, completions)) / 8
    learner = DistillationLearner(student, large_model(), tiny_tokenizer(), OPTIM)
    labels = [
        tuple(batch.labels_N[batch.sequence_N == i].tolist())
        for batch in distill.make_batches(groups, learner, 100)
        for i in range(batch.num_sequences)
    ]
    assert sorted(labels) == sorted(completions)


def test_the_temperature_is_that_of_both_distributions(cfg: DistillConfig):
    """At a low temperature they are sharp, and further apart."""
    on_policy = replace(cfg.on_policy, steps=1, temperature=0.05)
    distill.main(replace(cfg, on_policy=on_policy))
    distill.main(replace(cfg, on_policy=replace(on_policy, temperature=1.0), run=cfg.run.with_name("warm")))
    [cold], [warm] = rows(cfg.run / "student"), rows(cfg.run.with_name("warm") / "student")
    assert cold["kl/teacher"] > 3 * warm["kl/teacher"]


def test_another_teacher_or_task_on_resume_is_refused(cfg: DistillConfig, tmp_path: Path):
    distill.main(replace(cfg, sft=replace(cfg.sft, stop_after=3)))
    save_model(large_model(), tiny_tokenizer(), tmp_path / "other")
    for changed in (
        replace(cfg, teacher=str(tmp_path / "other")),
        replace(cfg, on_policy=replace(cfg.on_policy, group_size=4)),
    ):
        with pytest.raises(ValueError, match="begun with other settings"):
            distill.main(changed)


def test_tokenizers_must_be_the_same(cfg: DistillConfig, tmp_path: Path):
    other = train_tokenizer((*DOCUMENTS, "zebra zebra zebra " * 50), VOCAB)
    save_model(large_model(), other, tmp_path / "other")
    with pytest.raises(ValueError, match=r"tokens of the student .* have different ids, such as '.*--method sft"):
        distill.main(replace(cfg, teacher=str(tmp_path / "other")))
    longer = train_tokenizer(DOCUMENTS, VOCAB)
    longer.add_tokens(["<tool>"])
    save_model(large_model(VOCAB + 1), longer, tmp_path / "longer")
    expected = rf"1 tokens of .*such as '<tool>' \(none and {len(tiny_tokenizer())}\)"
    with pytest.raises(ValueError, match=expected):
        distill.main(replace(cfg, teacher=str(tmp_path / "longer")))
    assert not cfg.run.exists()


def test_the_student_stops_wherever_the_teacher_ends(cfg: DistillConfig, tmp_path: Path):
    """As a base and an instruct model of one family: the saved student ends with the teacher's token, too."""
    end = train_tokenizer(DOCUMENTS, VOCAB)
    end.eos_token = "<|pad|>"
    save_model(large_model(), end, tmp_path / "end")
    cfg = replace(cfg, teacher=str(tmp_path / "end"))
    expected = r"end ends with '<\|pad\|>', the student .* stops at '<\|endoftext\|>' only.*generation_config\.json"
    with pytest.raises(ValueError, match=expected):
        distill.main(cfg)
    assert not cfg.run.exists()
    path = Path(cfg.sft.model) / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [0, 1]}))
    distill.main(cfg)
    saved = find_model(cfg.run) / "generation_config.json"
    assert json.loads(saved.read_text())["eos_token_id"] == [0, 1]


def test_what_is_wrong_is_found_before_any_compute(cfg: DistillConfig):
    with pytest.raises(ValueError, match="no task 'sums'"):
        distill.main(replace(cfg, on_policy=replace(cfg.on_policy, tasks=("sums",))))
    with pytest.raises(ValueError, match="--on-policy.tasks is empty"):
        distill.main(replace(cfg, on_policy=replace(cfg.on_policy, tasks=())))
    with pytest.raises(ValueError, match="temperature is 0; give a value above 0"):
        distill.main(replace(cfg, on_policy=replace(cfg.on_policy, temperature=0)))
    with pytest.raises(ValueError, match="no chat template"):
        distill.main(replace(cfg, sft=replace(cfg.sft, template="chat")))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        distill.main(replace(cfg, teacher=str(cfg.run.with_name("nowhere"))))
    assert not cfg.run.exists()


@pytest.mark.parametrize(("cap", "whose"), [(110, "teacher's context of 96"), (127, "student's context of 128")])
def test_a_cap_beyond_either_context_is_named_before_the_weights_load(
    cfg: DistillConfig, monkeypatch: pytest.MonkeyPatch, cap: int, whose: str
):
    monkeypatch.setattr(distill, "open_model", lambda *_: pytest.fail("the weights were loaded"))
    with pytest.raises(ValueError, match=rf"with --on-policy.max-new-tokens {cap} .* the {whose} tokens; lower --on-p"):
        distill.main(replace(cfg, on_policy=replace(cfg.on_policy, max_new_tokens=cap)))
    with pytest.raises(ValueError, match="leave long prompts out with --sft.filter.max-prompt-tokens 2"):
        distill.main(replace(cfg, on_policy=replace(cfg.on_policy, max_new_tokens=94)))
    with pytest.raises(ValueError, match="all 12 train prompts are longer than 2 tokens"):
        short = replace(cfg.sft, filter=FilterConfig(max_prompt_tokens=2))
        distill.main(replace(cfg, sft=short, on_policy=replace(cfg.on_policy, max_new_tokens=94)))
    assert not cfg.run.exists()


def test_a_sample_beyond_the_teachers_context_says_what_to_lower():
    """Of a generated task only the first problems are looked at before the weights load."""
    sample = Sample(
        Problem("p", "t", (), "23", "number"),
        (5,) * 90,
        Completion((6,) * 10, (), "x", "length"),
        Score(0.0, "wrong", ""),
    )
    learner = SimpleNamespace(teacher=SimpleNamespace(config=SimpleNamespace(context=96)), device="cpu")
    with pytest.raises(ValueError, match="100 tokens, above the teacher's context 96; lower .*max-new-tokens by 4"):
        distill.make_batches([[sample]], learner, 512)  # type: ignore[arg-type]


def test_the_students_evaluation_has_room_too(cfg: DistillConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distill, "open_model", lambda *_: pytest.fail("the weights were loaded"))
    evaluation = replace(cfg.sft.eval, num_problems=2, max_new_tokens=120)
    with pytest.raises(ValueError, match=r"with --eval.max-new-tokens 120 .* the model's context of 128 tokens"):
        distill.main(replace(cfg, sft=replace(cfg.sft, eval_every=3, eval=evaluation)))
    assert not cfg.run.exists()


@pytest.fixture
def on_samples(cfg: DistillConfig, tmp_path: Path, task: str) -> DistillConfig:
    """sft: the teacher answers 23, which is right, or 24."""
    save_scripted_model(tmp_path / "scripted", TEACHER)
    samples = RejectConfig(tasks=(task,), num_problems=12, num_samples=4, max_new_tokens=12, device="cpu", dtype="fp32")
    student = replace(cfg.sft, epochs=12, batch_size=4, max_tokens=60)
    return replace(cfg, method="sft", teacher=str(tmp_path / "scripted"), samples=samples, sft=student)


def test_the_student_learns_the_teachers_right_answers(on_samples: DistillConfig):
    distill.main(on_samples)
    run = on_samples.run
    data = [json.loads(line) for line in (run / "samples" / "sft.jsonl").read_text().splitlines()]
    assert len(data) > 6 and all("<answer>23</answer>" in row["messages"][-1]["content"] for row in data)
    found = rows(run / "student")
    assert found[-1]["loss/nll"] < 0.1 < 3 < found[0]["loss/nll"]
    sampler = LocalSampler(tiny_tokenizer())
    sampler.load_weights(open_model(str(run), "cpu", "fp32")[0], version=0)
    prompt = tiny_tokenizer()("User: Make 3\nAssistant:", add_special_tokens=False)["input_ids"]
    params = SamplingParams(temperature=0, max_new_tokens=12, stop_tokens=(token_id("<|endoftext|>"),))
    [[completion]] = sampler.generate([Prompt(tuple(prompt), 0)], params, 1)  # type: ignore[arg-type]
    assert completion.text.endswith("<answer>23</answer>") and completion.finish_reason == "stop"


def test_a_stop_while_the_student_trains_does_not_sample_again(
    on_samples: DistillConfig, monkeypatch: pytest.MonkeyPatch
):
    on_samples = replace(on_samples, sft=replace(on_samples.sft, epochs=2))
    straight = replace(on_samples, run=on_samples.run.with_name("straight"))
    distill.main(straight)
    distill.main(replace(on_samples, sft=replace(on_samples.sft, stop_after=3)))
    monkeypatch.setattr(reject, "sample_batches", lambda *arguments: pytest.fail("sampled again"))
    distill.main(on_samples)
    last = rows(straight.run / "student")[-1]["step"]
    assert rows(on_samples.run / "student") == rows(straight.run / "student")
    assert weights(on_samples.run / "student", int(last)) == weights(straight.run / "student", int(last))


def test_with_data_there_is_no_teacher_to_sample(on_samples: DistillConfig, tmp_path: Path):
    file = tmp_path / "data.jsonl"
    file.write_text('{"prompt": "Make 1", "completion": " 23"}\n' * 4)
    cfg = replace(on_samples, teacher="", sft=replace(on_samples.sft, data=(str(file),), epochs=1))
    distill.main(cfg)
    assert (cfg.run / "student" / "checkpoints").is_dir() and not (cfg.run / "samples").exists()


def test_a_bad_student_is_found_before_the_teacher_is_sampled(on_samples: DistillConfig):
    with pytest.raises(ValueError, match="no template 'shirt'"):
        distill.main(replace(on_samples, sft=replace(on_samples.sft, template="shirt")))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        distill.main(replace(on_samples, sft=replace(on_samples.sft, model=str(on_samples.run.with_name("nowhere")))))
    assert not on_samples.run.exists()
