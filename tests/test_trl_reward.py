"""Facts about r1kit's verdicts inside TRL and verl."""

from __future__ import annotations

import importlib.util
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from r1kit.config import RewardConfig
from r1kit.rewards import trl_reward, verl_compute_score
from scripted import ANSWERS, save_scripted_model

DOC = Path(__file__).parents[1] / "docs" / "verifiers.md"
MISSING = [name for name in ("trl", "datasets", "accelerate") if importlib.util.find_spec(name) is None]
needs_trl = pytest.mark.skipif(bool(MISSING), reason=f"pip install {' '.join(MISSING)}")


def test_plain_completions():
    reward = trl_reward("math", gold="solution")
    rewards = reward(
        prompts=["1+1?"] * 4,
        completions=["The answer is 2.", "\\boxed{3}", "nothing", "<think>\\boxed{2}"],
        solution=["2"] * 4,
        difficulty=[1] * 4,
        trainer_state=None,
    )
    assert rewards == [1.0, 0.0, 0.0, 0.0]
    assert reward.__name__ == "math_reward"


def test_conversational_completions():
    prompt = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "1+1?"}]
    turns: list[list[dict[str, Any]]] = [
        [{"role": "assistant", "content": "<think>hm</think><answer>2</answer>"}],
        [{"role": "assistant", "content": "<think>hm</think><answer>1</answer>"}],
        [{"role": "assistant", "content": "The answer is 3."}, {"role": "assistant", "content": "The answer is 2."}],
        [
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "The answer is "}, {"type": "text", "text": "2."}],
            }
        ],
        [{"role": "assistant", "reasoning_content": "It is 3.", "content": "\\boxed{2}"}],
        [{"role": "assistant", "content": None}],
        [],
    ]
    rewards = trl_reward("math")(prompts=[prompt] * 7, completions=turns, answer=["2"] * 7)
    assert rewards == [1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0]


def test_undecided_is_none():
    seen: dict[str, list[str]] = {}
    rewards = trl_reward("number")(
        prompts=["?"] * 2, completions=["2", "2"], answer=["two", "2"], log_extra=seen.__setitem__
    )
    assert rewards == [None, 1.0]
    assert seen["verdict"] == ["undecided", "right"] and "give a number" in seen["reason"][0]


def test_a_prefilled_thought_that_is_not_closed_has_no_answer():
    """The template's <think> is not in the completion."""
    inside, closed = "Perhaps \\boxed{2}.", "Perhaps \\boxed{3}.</think>\\boxed{2}"
    chat = [{"role": "user", "content": "1+1?"}]
    turns = [[{"role": "assistant", "content": text}] for text in (inside, closed)]
    assert trl_reward("math", prefill="<think>\n")(prompts=[chat] * 2, completions=turns, answer=["2"] * 2) == [0, 1]
    assert trl_reward("math")(prompts=["1+1?<think>\n"] * 2, completions=[inside, closed], answer=["2"] * 2) == [0, 1]
    formatted = trl_reward("math", reward=RewardConfig(format="r1", format_weight=0.5), prefill="<think>")
    assert formatted(prompts=[chat], completions=[turns[1]], answer=["2"]) == [1.5]
    again = [[{"role": "assistant", "content": "<think>" + closed}]]
    assert formatted(prompts=[chat], completions=again, answer=["2"]) == [1.5]


def test_mistakes_of_the_caller_are_named():
    with pytest.raises(ValueError, match="scorer 'maths' does not exist"):
        trl_reward("maths")
    with pytest.raises(ValueError, match=r"no column 'answer' \(columns: solution\)"):
        trl_reward("math")(prompts=["?"], completions=["2"], solution=["2"])
    with pytest.raises(ValueError, match=r"row 1: answer is 'two'; give a number .* \(2 such rows\)"):
        trl_reward("number").check(["1", "two", None])
    trl_reward("number").check(["1", "2"])


def test_the_length_reward_gets_trls_tokens():
    reward = trl_reward("math", reward=RewardConfig(format="free", length="cosine", length_max=10))
    assert reward(prompts=["?"], completions=["2"], completion_ids=[[5] * 10], answer=["2"]) == [0.5]


def test_a_reward_function_can_be_pickled():
    reward = pickle.loads(pickle.dumps(trl_reward("math")))
    assert reward(prompts=["?"], completions=["2"], answer=["2"]) == [1.0]


# verl


def test_verl_gets_the_score_and_the_verdict():
    found = verl_compute_score("openai/gsm8k", "So it is #### 23", "23", {"scorer": "math"})
    assert found["score"] == 1.0 and found["acc"] is True and (found["verdict"], found["pred"]) == ("right", "23")
    wrong = verl_compute_score("anything", "<think>\\boxed{23}", "23", None, scorer="math", split="train")
    assert (wrong["score"], wrong["verdict"]) == (0.0, "wrong") and wrong.keys() == found.keys()
    gold = '{"numbers": [8, 3, 1], "target": 24}'
    assert verl_compute_score("countdown", "<think>a</think><answer>8*3*1</answer>", gold)["score"] == 1.0
    assert verl_compute_score("countdown", "<answer>8</answer>", "no JSON")["verdict"] == "undecided"
    assert verl_compute_score("x", "[0, 1]", "[0, 1]", scorer="math")["verdict"] == "right"
    inside = verl_compute_score("x", "\\boxed{2}", "2", scorer="math", prefill="<think>\n")
    assert inside["verdict"] == "wrong"
    with pytest.raises(ValueError, match="no scorer for data source 'openai/gsm8k'; set custom_reward_function"):
        verl_compute_score("openai/gsm8k", "23", "23")


# TRL itself


def trained(rewards: Any, prompts: list[Any], folder: Path, template: str | None) -> list[dict[str, float]]:
    """What GRPOTrainer logs of two steps of a model that says `<answer>23</answer>` seven times in ten, else 24."""
    from datasets import Dataset  # type: ignore[import-not-found]
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found]

    save_scripted_model(folder / "model", ANSWERS, chat_template=template)
    args = GRPOConfig(
        output_dir=str(folder / "out"), max_steps=2, per_device_train_batch_size=16, num_generations=8,
        max_completion_length=40, logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, bf16=False,
        seed=0,
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": prompt, "answer": "23"} for prompt in prompts])
    trainer = GRPOTrainer(model=str(folder / "model"), reward_funcs=rewards, args=args, train_dataset=data)
    trainer.train()
    return [row for row in trainer.state.log_history if "reward" in row]


@needs_trl
def test_grpo_trainer_takes_steps_with_plain_prompts(tmp_path: Path):
    logs = trained(trl_reward("math"), ["User: 8*3-1?\nAssistant:", "User: 7*3+2?\nAssistant:"], tmp_path, None)
    assert len(logs) == 2
    means = [row["rewards/math_reward/mean"] for row in logs]
    assert all(0.2 < mean < 1 for mean in means) and any(row["grad_norm"] > 0 for row in logs)


@needs_trl
def test_grpo_trainer_takes_steps_with_conversations_and_a_prefilled_thought(tmp_path: Path):
    template = "{% for m in messages %}User: {{ m.content }}\nAssistant:{% endfor %}"
    prompts = [[{"role": "user", "content": text}] for text in ("8*3-1?", "7*3+2?")]
    logs = trained([trl_reward("number"), trl_reward("math")], prompts, tmp_path, template)
    assert [row["rewards/number_reward/mean"] == row["rewards/math_reward/mean"] for row in logs] == [True, True]
    assert all(0.2 < row["rewards/math_reward/mean"] < 1 for row in logs)


@needs_trl
def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (code,) = [
        body for body in re.findall(r"^```py\n(.*?)^```$", DOC.read_text(), re.M | re.S) if "GRPOTrainer" in body
    ]
    monkeypatch.chdir(tmp_path)
    save_scripted_model(tmp_path / "model", ANSWERS)
    for line, tiny in (
        ('model="Qwen/Qwen2.5-0.5B"', 'model="model"'),
        ("max_steps=100", 'max_steps=1, use_cpu=True, bf16=False, report_to="none", max_completion_length=40'),
    ):
        assert line in code
        code = code.replace(line, tiny)
    names: dict[str, Any] = {}
    exec(compile(code, str(DOC), "exec"), names)
    assert any("rewards/math_reward/mean" in row for row in names["trainer"].state.log_history) or (
        names["trainer"].state.global_step == 1
    )
