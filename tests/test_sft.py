"""Facts about fine-tuning: what is read, where the loss falls, what a step trains on, what a stop changes: nothing."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from r1kit.algo.packing import Packable, pack
from r1kit.config import EvalConfig, OptimConfig, SFTConfig
from r1kit.model.hf import save_model
from r1kit.stages import sft
from r1kit.training.conversations import Conversation, SFTData, encode, prepare, read_conversations, render
from r1kit.training.supervised import batch_of_step, nll_step, pack_step, steps_per_epoch
from r1kit.types import Message
from scripted import ANSWERS, save_scripted_model
from tiny import CONTEXT, make_learner, tiny_model, tiny_tokenizer

TIMINGS = ("time", "seconds/", "tokens_per_second")
CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


def talk(*contents: str) -> Conversation:
    """A user and an assistant in turn."""
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[i % 2], text) for i, text in enumerate(contents)), "data.jsonl:1")  # type: ignore[arg-type]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def rows(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(TIMINGS)} for row in lines]


def weights(run: Path, step: int) -> dict[str, bytes]:
    tensors = load_file(run / "checkpoints" / f"step-{step:06d}" / "model.safetensors")
    return {name: tensor.float().numpy().tobytes() for name, tensor in tensors.items()}


# What is trained on


def test_the_loss_falls_on_the_assistants_tokens_and_the_end_alone():
    tokenizer = tiny_tokenizer()
    [packable] = encode([render(talk("Make 23", " <think>8*3=24</think>No"), "short", tokenizer)], tokenizer)
    batch = pack([packable])
    assert tokenizer.decode(batch.labels_N) == " <think>8*3=24</think>No<|endoftext|>"
    assert tokenizer.decode(list(packable.tokens)) == "User: Make 23\nAssistant: <think>8*3=24</think>No<|endoftext|>"
    assert batch.tokens_T[batch.predict_N + 1].equal(batch.labels_N)


def test_the_prompt_has_the_tokens_that_a_policy_is_sampled_on(monkeypatch: pytest.MonkeyPatch):
    """In one go, the last word of this prompt and the first of the text would be one token."""
    tokenizer = tiny_tokenizer()
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages[0].content }}:Assist")
    rendered = render(talk("Make", "ant"), "chat", tokenizer)
    prompt, whole = (
        cast("list[int]", tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in (rendered.prompt, rendered.prompt + rendered.completion)
    )
    assert whole[: len(prompt)] != prompt, "or the case shows nothing"
    [packable] = encode([rendered], tokenizer)
    assert list(packable.tokens[: packable.prompt_length]) == prompt


def test_an_end_that_the_data_write_out_is_not_doubled():
    tokenizer = tiny_tokenizer()
    packables = encode([render(talk("a", text), "short", tokenizer) for text in ("b", "b<|endoftext|>")], tokenizer)
    assert packables[0] == packables[1]
    assert packables[0].tokens.count(cast(int, tokenizer.eos_token_id)) == 1


def test_the_text_is_kept_as_the_data_have_it():
    for text in (" <think>a</think>b", "<think>a</think>b", "\n b \n"):
        assert render(talk("q", text), "short", tiny_tokenizer()).completion == text


@pytest.mark.parametrize(
    ("template", "text", "whole"),
    [
        ("short-prefilled", "<think>a</think>b", "Assistant: <think>a</think>b"),
        ("short-prefilled", " <think>\na</think>b", "Assistant: <think>\na</think>b"),
        ("r1-zero-prefilled", " <think>\na</think>b", "Assistant: <think>\na</think>b"),
        ("r1-zero-prefilled", "<think>a</think>b", "Assistant: <think>\na</think>b"),
    ],
)
def test_a_template_that_opens_the_thought_does_not_open_it_twice(template: str, text: str, whole: str):
    rendered = render(talk("q", text), template, tiny_tokenizer())
    assert (rendered.prompt + rendered.completion).endswith(whole)
    assert (rendered.prompt + rendered.completion).split("Assistant:")[-1].count("<think>") == 1


def test_an_answer_without_a_thought_does_not_fit_a_template_that_opens_one():
    with pytest.raises(ValueError, match=r"data.jsonl:1: .*opens the thought with '<think>'.*begins with 'Hello'"):
        render(talk("q", "Hello"), "short-prefilled", tiny_tokenizer())


def test_earlier_turns_are_the_prompt_where_the_template_holds_them(monkeypatch: pytest.MonkeyPatch):
    tokenizer = tiny_tokenizer()
    with pytest.raises(ValueError, match="data.jsonl:1: template short holds one question"):
        render(talk("a", "b", "c", "d"), "short", tokenizer)
    with pytest.raises(ValueError, match="data.jsonl:1: .* has no chat template"):
        render(talk("a", "b"), "chat", tokenizer)
    monkeypatch.setattr(tokenizer, "chat_template", CHAT)
    rendered = render(talk("a", "b", "c", "d"), "chat", tokenizer)
    assert (rendered.prompt, rendered.completion) == ("[user]a[assistant]b[user]c[assistant]", "d")
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match="data.jsonl:1: .*template refuses .'user'.: roles must alternate"):
        render(talk("a", "b"), "chat", tokenizer)


def test_longer_ones_are_dropped_and_counted():
    tokenizer = tiny_tokenizer()
    conversations = [talk("q", text) for text in ("a", "the" * 40, "b", "the" * 50)]
    lengths = [len(p.tokens) for p in encode([render(c, "short", tokenizer) for c in conversations], tokenizer)]
    data = prepare(conversations, tokenizer, "short", lengths[1])
    assert [one.completion for one in data.rendered] == ["a", "the" * 40, "b"], "the limit itself is allowed"
    assert (data.too_long, data.num_tokens) == (1, sum(lengths[:3]))
    assert data.num_trained == 2 + (lengths[1] - lengths[0] + 2) + 2
    assert f"3 conversations, {sum(lengths[:3])} tokens" in data.summary()
    assert f"dropped 1 longer than {lengths[1]} tokens" in data.summary()
    with pytest.raises(ValueError, match=f"all 4 conversations are longer than 5 tokens .*shortest has {lengths[0]}"):
        prepare(conversations, tokenizer, "short", 5)


# Reading


def test_every_layout_gives_the_same_conversation(tmp_path: Path):
    question, answer = turns("q", "a")
    rows = [
        {"messages": [question, answer], "id": "1", "domain": "x", "tokens": 3},
        {"prompt": "q", "completion": "a"},
        {"prompt": [question], "completion": [answer]},
        {"prompt": "q", "completion": answer},
        {"prompt": "something else", "messages": [question, answer]},
    ]
    (tmp_path / "run").mkdir()
    write(tmp_path / "run" / "sft.jsonl", [rows[0], "", rows[1]])
    found = read_conversations([write(tmp_path / "a.jsonl", rows), str(tmp_path / "run")])
    assert [one.messages for one in found] == [(Message("user", "q"), Message("assistant", "a"))] * 7
    assert [one.where for one in found[4:]] == [
        f"{tmp_path}/a.jsonl:5", f"{tmp_path}/run/sft.jsonl:1", f"{tmp_path}/run/sft.jsonl:3",
    ]  # fmt: skip


def test_a_line_separator_in_a_text_ends_no_line(tmp_path: Path):
    row = json.dumps({"prompt": "a\u2028b", "completion": "c\u2029d"}, ensure_ascii=False)
    [one] = read_conversations([write(tmp_path / "a.jsonl", ["\ufeff" + row])])
    assert [message.content for message in one.messages] == ["a\u2028b", "c\u2029d"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("{oops", "not JSON .*column 2.*one object a line"),
        ("[1]", r"'\[1\]' is not an object; write one object a line"),
        ({"text": "x", "n": 1}, "found only n, text; give `messages`"),
        ({"prompt": "q"}, "found only prompt; give"),
        ({"messages": "hello"}, "messages is 'hello'; give a list"),
        ({"messages": []}, "messages is '.*'; give a list"),
        ({"messages": turns("q")}, "the last message is of role 'user'; end with the assistant's"),
        ({"messages": turns("q", "a", "q")}, "the last message is of role 'user'"),
        ({"messages": turns("q", " \n")}, r"the assistant's text is ' \\n'; give what is to be learnt"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "no message of the user's"),
        ({"messages": [{"role": "robot", "content": "q"}]}, "'robot'.*needs \"role\" .one of system, user, assistant"),
        ({"messages": [*turns("q"), {"role": "assistant", "content": None}]}, 'None.*needs "role".*"content"'),
        ({"messages": ["q", "a"]}, "message 'q' in messages needs"),
        ({"prompt": "q", "completion": 3}, "completion is '3'; give a text or a list of messages"),
        ({"prompt": "q", "completion": turns("q")}, "the last message is of role 'user'"),
        ({"prompt": None, "completion": "a"}, "prompt is 'None'; give a text"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: Any, expected: str):
    file = write(tmp_path / "a.jsonl", [{"prompt": "q", "completion": "a"}, row])
    with pytest.raises(ValueError, match=rf"a\.jsonl:2: .*{expected}"):
        read_conversations([file])


def test_missing_and_empty_data_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match="--data is empty; give files, folders"):
        read_conversations([])
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl: no such file"):
        read_conversations([str(tmp_path / "nowhere.jsonl")])
    with pytest.raises(FileNotFoundError, match="has no sft.jsonl; give a finished run"):
        read_conversations([str(tmp_path)])
    with pytest.raises(ValueError, match=r"empty.jsonl: the file is empty"):
        read_conversations([write(tmp_path / "empty.jsonl", ["", " "])])
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}')
    with pytest.raises(ValueError, match="latin.jsonl: byte 12 is not UTF-8"):
        read_conversations([str(tmp_path / "latin.jsonl")])


# Steps


def test_every_epoch_trains_on_each_conversation_once_in_another_order():
    assert steps_per_epoch(10, 4) == 3
    epochs = [[batch_of_step(10, 4, step, seed=7) for step in range(e * 3, e * 3 + 3)] for e in range(3)]
    assert [len(batch) for batch in epochs[0]] == [4, 4, 2]
    orders = [[i for batch in epoch for i in batch] for epoch in epochs]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert batch_of_step(10, 4, 4, seed=7) == epochs[1][1] != batch_of_step(10, 4, 4, seed=8)


def test_micro_batches_change_nothing():
    """The loss is a mean over the step's tokens: not over micro-batches, nor over conversations."""
    packables = [Packable(tuple(range(5, 5 + length)), prompt) for length, prompt in ((20, 4), (7, 6), (12, 2), (9, 1))]
    metrics, params = [], []
    for budget in (1000, 21, 1):
        learner = make_learner()
        metrics.append(nll_step(learner, pack_step(packables, budget, learner.device), 0.1))
        params.append(torch.cat([p.detach().flatten() for p in learner.params]))
    learner = make_learner()
    token_nll = -torch.cat([learner.logprobs(pack([packable])) for packable in packables])
    assert metrics[0]["loss/nll"] == pytest.approx(token_nll.mean().item(), rel=1e-5)
    for other in (1, 2):
        assert metrics[other]["grad_norm"] == pytest.approx(metrics[0]["grad_norm"], rel=1e-4)
        torch.testing.assert_close(params[other], params[0], atol=2e-3, rtol=0)  # AdamW's first step is lr x sign


# The stage


@pytest.fixture
def cfg(tmp_path: Path) -> SFTConfig:
    """A tiny model and ten conversations: 3 steps an epoch."""
    save_model(tiny_model(tie=True), tiny_tokenizer(), tmp_path / "model")
    rows = [{"messages": turns(f"Make {i}", f" <think>{i}</think>{i * 7}")} for i in range(10)]
    return SFTConfig(
        run=tmp_path / "run", model=str(tmp_path / "model"), data=(write(tmp_path / "data.jsonl", rows),), epochs=2,
        batch_size=4, max_tokens=60, optim=OptimConfig(lr=1e-2, schedule="cosine", warmup_steps=2), save_every=2,
        tokens_per_microbatch=64, device="cpu", dtype="fp32",
    )  # fmt: skip


def test_metrics_of_every_step(cfg: SFTConfig, capsys: pytest.CaptureFixture[str]):
    sft.main(cfg)
    found = rows(cfg.run)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in found] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    assert found[0]["lr"] == pytest.approx(0.005) and found[1]["lr"] == 0.01 and found[-1]["lr"] == pytest.approx(0.001)
    assert all(row["grad_norm"] > 0 for row in found)
    raw = json.loads((cfg.run / "metrics.jsonl").read_text().splitlines()[0])
    assert raw["tokens_per_second"] > 0 and raw["seconds/step"] > 0
    output = capsys.readouterr().out
    assert "10 conversations" in output and "sft 6/6" in output and "loss" in output
    sft.main(cfg)  # it is done
    assert rows(cfg.run) == found


def test_it_learns_what_it_is_told(cfg: SFTConfig):
    sft.main(replace(cfg, epochs=12, save_every=100))
    found = rows(cfg.run)
    assert found[-1]["loss/nll"] < 1 < 3 < found[0]["loss/nll"]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("stops", [(1,), (2, 5)])
def test_a_stopped_run_ends_as_an_uninterrupted_one(cfg: SFTConfig, dtype: Any, stops: tuple[int, ...]):
    """1 is before the first checkpoint, 5 between two: those steps are made again."""
    cfg = replace(cfg, dtype=dtype)
    straight = replace(cfg, run=cfg.run.with_name("straight"))
    sft.main(straight)
    for stop in stops:
        sft.main(replace(cfg, stop_after=stop))
    sft.main(cfg)
    assert rows(cfg.run) == rows(straight.run)
    assert weights(cfg.run, 6) == weights(straight.run, 6)


def test_other_data_on_resume_are_refused(cfg: SFTConfig):
    sft.main(replace(cfg, stop_after=2))
    file = Path(cfg.data[0])
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"run was begun on other conversations.*9 conversations.*another --run"):
        sft.main(cfg)
    file.write_text("".join(lines))
    sft.main(cfg)
    assert len(rows(cfg.run)) == 6


def test_the_models_context_limits_conversations_too(cfg: SFTConfig, monkeypatch: pytest.MonkeyPatch):
    limits = []

    def spy(*arguments: Any, **options: Any) -> SFTData:
        limits.append(arguments[-1])
        return prepare(*arguments, **options)

    monkeypatch.setattr(sft, "prepare", spy)
    sft.main(replace(cfg, max_tokens=32_768, stop_after=1))
    sft.main(replace(cfg, run=cfg.run.with_name("other"), stop_after=1))
    assert limits == [CONTEXT, 60]


@pytest.mark.parametrize(("every", "steps"), [(0, []), (2, [0, 2, 3]), (3, [0, 3])])
def test_evaluations_come_before_the_first_step_and_after_the_last(tmp_path: Path, every: int, steps: list[int]):
    save_scripted_model(tmp_path / "model", ANSWERS)
    problem = {"prompt": "Problem", "answer": "23", "scorer": "number", "split": "heldout"}
    task = write(tmp_path / "sums.jsonl", [problem])
    data = write(tmp_path / "data.jsonl", [{"prompt": f"{i}", "completion": " 24"} for i in range(6)])
    evaluation = EvalConfig(tasks=(task,), num_problems=1, num_samples=3, max_new_tokens=9, template="r1-zero")
    cfg = SFTConfig(
        run=tmp_path / "run", model=str(tmp_path / "model"), data=(data,), epochs=1, batch_size=2, max_tokens=99,
        optim=OptimConfig(lr=0.0), eval=evaluation, eval_every=every, save_every=1, device="cpu", dtype="fp32",
    )  # fmt: skip
    sft.main(cfg)
    found = [row for row in rows(cfg.run) if "eval/all/pass@1" in row]
    assert [row["step"] for row in found] == steps
    assert len({row["eval/all/pass@1"] for row in found}) <= 1, "at learning rate 0 nothing changes"
    names = sorted(path.name for path in (cfg.run / "evals").glob("*.json"))
    assert names == [f"step-{step:06d}.json" for step in steps]
    for name in names:
        policy = json.loads((cfg.run / "evals" / name).read_text())["policy"]
        assert policy["template"] == "short", "the run's own"


def test_a_bad_task_or_template_is_found_before_any_step(cfg: SFTConfig):
    with pytest.raises(ValueError, match="no task 'countdwn'.*did you mean countdown"):
        sft.main(replace(cfg, eval=EvalConfig(tasks=("countdwn",)), eval_every=1))
    with pytest.raises(ValueError, match="no template 'shirt'"):
        sft.main(replace(cfg, template="shirt"))
    assert not cfg.run.exists()


def test_an_infinite_gradient_says_what_to_do(cfg: SFTConfig, tmp_path: Path):
    model = tiny_model(tie=True)
    with torch.no_grad():
        model.norm.weight.fill_(float("inf"))
    save_model(model, tiny_tokenizer(), tmp_path / "broken")
    with pytest.raises(FloatingPointError, match="step 1: gradient norm is .*lower --optim.lr"):
        sft.main(replace(cfg, model=str(tmp_path / "broken")))


def test_a_step_is_a_shuffled_part_of_the_data(cfg: SFTConfig, monkeypatch: pytest.MonkeyPatch):
    """Over two epochs every conversation is seen twice, whatever the batch size."""
    seen: Counter[str] = Counter()

    def spy(rendered: Any, tokenizer: Any) -> list[Packable]:
        seen.update(one.completion for one in rendered)
        return encode(rendered, tokenizer)

    monkeypatch.setattr(sft, "encode", spy)
    sft.main(cfg)
    assert seen == {f" <think>{i}</think>{i * 7}": 2 for i in range(10)}
