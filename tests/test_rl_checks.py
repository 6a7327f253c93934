"""What would stop a run of RL later is found before its first step, and its evaluation's flags are taken or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config

from r1kit import presets
from r1kit.config import ColumnsConfig, EvalConfig, FilterConfig, RewardConfig, RLConfig, VllmConfig
from r1kit.model.chat import render_prompt
from r1kit.model.generic import NO_LIMIT
from r1kit.model.hf import load_model
from r1kit.model.tokenizer import load_tokenizer
from r1kit.stages import rl
from r1kit.tasks import load_problems
from r1kit.training.checks import Room, check_reward_models, check_room
from r1kit.training.models import model_context, resolve_model
from scripted import Table, save_scripted_model
from tiny import ARCHITECTURES, hf_from_config, hf_model

PLAIN: Table = {":": {"23": 0.5, "24": 0.5}}


def write_rows(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def sums(split: str, count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{split} {i}", "answer": "23", "scorer": "number", "split": split, **more} for i in range(count)
    ]


@pytest.fixture
def cfg(tmp_path: Path) -> RLConfig:
    """A run of one step of a model with a context of 256 tokens."""
    save_scripted_model(tmp_path / "model", PLAIN)
    task = write_rows(tmp_path / "sums.jsonl", [*sums("train", 8), *sums("heldout", 4)])
    return replace(
        presets.RL["tiny"][1], run=tmp_path / "run", model=str(tmp_path / "model"), tasks=(task,), steps=1,
        problems_per_step=2, group_size=2, max_new_tokens=4, eval_every=1, save_every=1, device="cpu", dtype="fp32",
        eval=EvalConfig(num_problems=4, num_samples=2, max_new_tokens=4),
    )  # fmt: skip


def evaluation(run: Path, step: int = 0) -> dict[str, Any]:
    return json.loads((run / "evals" / f"step-{step:06d}.json").read_text())


def test_a_run_is_evaluated_in_the_form_that_it_is_rewarded_for(cfg: RLConfig):
    rl.main(replace(cfg, reward=RewardConfig(format="free")))
    assert evaluation(cfg.run)["policy"]["format"] == "free"
    assert 0 < evaluation(cfg.run)["results"]["sums"]["pass@1"] < 1
    tagged = replace(cfg, run=cfg.run.with_name("tagged"))
    rl.main(tagged)
    assert evaluation(tagged.run)["policy"]["format"] == "r1-zero"
    assert evaluation(tagged.run)["results"]["sums"]["pass@1"] == 0


def with_long_row(cfg: RLConfig, tmp_path: Path, split: str) -> RLConfig:
    """One row of 300 words, which no rollout of one step need draw."""
    long = {"id": "too-long", "prompt": "word " * 300, "answer": "23", "scorer": "number", "split": split}
    return replace(cfg, tasks=(write_rows(tmp_path / "long.jsonl", [*sums("train", 8), *sums("heldout", 4), long]),))


def test_a_prompt_that_leaves_no_room_is_named_with_both_flags_before_the_weights_load(
    cfg: RLConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    cfg = with_long_row(cfg, tmp_path, "train")
    with monkeypatch.context() as patched, pytest.raises(ValueError) as caught:
        patched.setattr(rl, "open_model", lambda *_: pytest.fail("the weights were loaded"))
        rl.main(cfg)
    said = str(caught.value)
    assert "problem too-long has" in said and "--max-new-tokens 4" in said and "context of 256" in said
    assert said.endswith("leave long prompts out with --filter.max-prompt-tokens 252") and "lower" not in said
    assert not cfg.run.exists()
    rl.main(replace(cfg, filter=FilterConfig(max_prompt_tokens=252)))
    assert "1 train prompts longer than 252 tokens dropped" in capsys.readouterr().out


def test_a_long_heldout_prompt_is_named_with_the_evaluations_flag(cfg: RLConfig, tmp_path: Path):
    cfg = with_long_row(cfg, tmp_path, "heldout")
    every = replace(cfg, eval=replace(cfg.eval, num_problems=5))
    with pytest.raises(ValueError, match=r"too-long.*--eval\.max-new-tokens 4 .*--filter\.max-prompt-tokens 252"):
        rl.main(every)
    rl.main(replace(cfg, filter=FilterConfig(max_prompt_tokens=252)))
    rl.main(replace(cfg, run=tmp_path / "unevaluated", eval_every=0))


def test_a_heldout_prompt_that_is_not_asked_may_be_long(cfg: RLConfig, tmp_path: Path):
    cfg = with_long_row(cfg, tmp_path, "heldout")
    asked = [load_problems(cfg.tasks[0], "heldout", cfg.eval.seed).first(n)[-1].id for n in range(1, 6)]
    before = asked.index("too-long")
    few = replace(cfg, eval=replace(cfg.eval, num_problems=max(before, 1)))
    if before:
        rl.main(few)
    with pytest.raises(ValueError, match="too-long"):
        rl.main(replace(few, run=tmp_path / "more", eval=replace(cfg.eval, num_problems=before + 1)))


@pytest.mark.parametrize("name", [*ARCHITECTURES, "gpt2"])
def test_the_context_is_known_before_the_weights_load(name: str, tmp_path: Path):
    if name == "gpt2":
        model = hf_from_config(GPT2Config(n_layer=1, n_head=2, n_embd=8, n_positions=77, vocab_size=50))
    else:
        model = hf_model(name)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, torch.float32)
    (tmp_path / "model.safetensors").unlink()
    assert model_context(tmp_path) == loaded.config.context


def test_a_model_that_only_vllm_knows_has_no_context_here(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "of-tomorrow", "max_position_embeddings": 8}')
    assert model_context(tmp_path) == NO_LIMIT


def test_a_raised_cap_above_the_context_is_refused_at_the_start(cfg: RLConfig):
    raised = replace(cfg, steps=4, raise_cap_at=2, raised_cap=255)
    with pytest.raises(
        ValueError, match=r"with --raised-cap 255 that is more than the model's context of 256 tokens; low"
    ):
        rl.main(raised)
    with pytest.raises(ValueError, match="--raised-cap 300 .*; lower --raised-cap to"):
        rl.main(replace(raised, raised_cap=300))
    generated = replace(raised, tasks=("countdown",), eval_every=0)
    with pytest.raises(ValueError, match="countdown: the prompt of problem .*--raised-cap 255") as caught:
        rl.main(generated)
    assert "--filter" not in str(caught.value)  # which does nothing to generated problems
    rl.main(replace(raised, raise_cap_at=4, run=cfg.run.with_name("never-raised")))


def test_vllms_own_limit_counts(cfg: RLConfig):
    served = replace(cfg, sampler="vllm", vllm=VllmConfig(max_len=5))
    tokenizer, problems = load_tokenizer(resolve_model(cfg.model)), [load_problems(cfg.tasks[0], "train", 0)]
    rl.check_prompts(cfg, 256, tokenizer, problems, [])
    with pytest.raises(ValueError, match="more than --vllm.max-len of 5 tokens"):
        rl.check_prompts(served, 256, tokenizer, problems, [])


@pytest.mark.parametrize(
    ("context", "cap", "advice"),
    [
        (
            40,
            36,
            "lower --max-new-tokens to 2[0-9] or less, or leave long prompts out with --filter.max-prompt-tokens 4$",
        ),
        (40, 40, "lower --max-new-tokens to 2[0-9] or less$"),
        (5, 4, "5 tokens; leave long prompts out with --filter.max-prompt-tokens 1$"),
        (5, 5, "lower --max-new-tokens, which alone exceeds it"),
    ],
)
def test_advice_is_only_what_can_help(cfg: RLConfig, context: int, cap: int, advice: str):
    tokenizer, problems = load_tokenizer(resolve_model(cfg.model)), load_problems(cfg.tasks[0], "train", 0)
    assert all(
        11 <= len(tokenizer(render_prompt("short", problem.messages, tokenizer).text)["input_ids"]) <= 20
        for problem in problems.first(8)
    )
    with pytest.raises(ValueError, match=advice):
        check_room([problems], tokenizer, "short", Room(context, "the context", cap, "--max-new-tokens"))


def test_general_prompts_of_a_kind_without_a_reward_model_are_found_before_the_weights_load(
    cfg: RLConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def load(*_: object) -> None:
        raise AssertionError("something was loaded")

    monkeypatch.setattr(rl, "open_model", load)
    monkeypatch.setattr(rl, "load_preference", load)
    reward = RewardConfig(preference_weight=1.0, helpful_model="helpful-rm")
    general = replace(cfg, steps=4, general_tasks=("general",), general_from=2, reward=reward)
    with pytest.raises(ValueError, match=r"general has prompts of scorer 'safety'.*--reward\.safety-model"):
        rl.main(general)
    rows = [{"prompt": f"Say {i}", "answer": None, "scorer": "safety", "split": "train"} for i in range(3)]
    prompts = load_problems(write_rows(tmp_path / "prompts.jsonl", rows), "train", 0)
    with pytest.raises(ValueError, match="scorer 'safety'"):
        check_reward_models([prompts], reward)
    check_reward_models([prompts], replace(reward, safety_model="safety-rm"))
    check_reward_models([prompts], RewardConfig())  # no reward model scores anything
    with pytest.raises(ValueError, match="no problem is a general prompt, of scorer helpful or safety; give --general"):
        check_reward_models([load_problems("countdown", "train", 0)], reward)
    own = tmp_path / "mine.py"
    own.write_text("from r1kit.tasks.countdown import make_problem\n")
    check_reward_models([load_problems(str(own), "train", 0)], reward)  # it may yet make one


def test_too_few_heldout_problems_are_found_before_the_weights_load(cfg: RLConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rl, "open_model", lambda *_: pytest.fail("the weights were loaded"))
    with pytest.raises(ValueError, match="5 heldout problems asked for, it has 4"):
        rl.main(replace(cfg, eval=replace(cfg.eval, num_problems=5)))
    assert not cfg.run.exists()


def test_the_evaluation_has_tasks_of_its_own(cfg: RLConfig, tmp_path: Path):
    rows = [{"q": f"q {i}", "answer": "23"} for i in range(4)]
    other = write_rows(tmp_path / "other.jsonl", rows) + "@test"
    columns = ColumnsConfig(prompt="q", scorer="number")
    rl.main(replace(cfg, eval=replace(cfg.eval, tasks=(other,), columns=columns)))
    assert list(evaluation(cfg.run)["results"]) == ["other"]
    own = rl.eval_config(replace(cfg, columns=columns, filter=FilterConfig(first=3)))
    assert (own.tasks, own.columns, own.filter.first) == (cfg.tasks, columns, 3)
    shorter = rl.eval_config(replace(cfg, columns=columns, eval=replace(cfg.eval, filter=FilterConfig(first=2))))
    assert (shorter.tasks, shorter.columns, shorter.filter.first) == (cfg.tasks, columns, 2)
    same = rl.eval_config(replace(cfg, columns=columns, eval=replace(cfg.eval, tasks=cfg.tasks)))
    assert (same.tasks, same.columns) == (cfg.tasks, columns)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "r1-zero"}, r"--eval\.template is 'r1-zero' and the run's --template 'short'"),
        ({"system_prompt": "Be brief."}, r"--eval\.system-prompt is 'Be brief\.' and the run's --system-prompt ''"),
    ],
)
def test_a_run_evaluates_as_it_trains(cfg: RLConfig, changes: dict[str, str], message: str):
    with pytest.raises(ValueError, match=message):
        rl.main(replace(cfg, eval=replace(cfg.eval, **changes)))  # type: ignore[arg-type]
    run = replace(cfg, template="r1-zero", system_prompt="Be brief.")
    assert rl.eval_config(run).template == "r1-zero"  # nothing was asked of the evaluation
    assert rl.eval_config(replace(run, eval=replace(cfg.eval, **changes))).system_prompt == "Be brief."  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(presets.RL))
def test_a_preset_evaluates_as_its_run_asks(name: str):
    """Who gives a preset another template or other tasks gives them to its evaluation too."""
    cfg = replace(presets.RL[name][1], template="short", tasks=("countdown",), general_tasks=())
    evaluation = rl.eval_config(cfg)
    assert (evaluation.template, evaluation.tasks) == ("short", ("countdown",))
