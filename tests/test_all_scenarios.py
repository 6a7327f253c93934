"""RL beyond R1-Zero: R1's format, the language part, general prompts from a step on, and the reward models' part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from r1kit.config import RewardConfig, RLConfig
from r1kit.model.chat import RenderedPrompt
from r1kit.rewards.format import parse_completion
from r1kit.rewards.reward import score_completion, with_preference
from r1kit.stages.rl import draw_problems
from r1kit.tasks import load_problems
from r1kit.training import preference
from r1kit.training.rollout import with_preferences
from r1kit.types import Completion, Message, Problem, Sample

SUM = Problem("sum:1", "sum", (Message("user", "What is 1 plus 1?"),), "2", "number")
PROMPT = Problem("general:1", "general", (Message("user", "Say something kind."),), None, "helpful")
R1 = RewardConfig(format="r1", language_weight=1.0)


def completion(text: str, finish: str = "stop") -> Completion:
    return Completion((1,), (0.0,), text, finish)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<think>one</think>So it is <answer>2</answer>.", ""),
        ("<think>one</think>A kind word.", ""),
        ("<think>one</think> ", "empty response"),
        ("<think> </think>two", "empty thought"),
        ("one</think>two", "no <think>"),
        ("<think>one", "no </think>"),
        ("hm <think>one</think>two", "text before <think>"),
        ("<think>one<answer>2</answer></think>two", "an answer tag stands before </think>"),
        ("<think>one</think><answer>2</answer><answer>3</answer>", "2 times <answer>, 2 times </answer>"),
        ("<think>one</think><answer>2", "1 times <answer>, 0 times </answer>"),
        ("<think>one</think><answer> </answer>", "empty answer"),
    ],
)
def test_r1s_format(text: str, reason: str):
    parsed = parse_completion(text, "r1")
    assert (parsed.reason, parsed.format_ok) == (reason, not reason)


def test_the_response_is_what_follows_the_thought():
    assert parse_completion("<think>one</think> two ").response == "two"
    assert parse_completion(" two ").response == "two"
    assert parse_completion("<think>one").response == ""


def test_the_language_part_is_the_share_of_words_in_the_prompts_language():
    mixed = score_completion(SUM, completion("<think>one 二 and two</think><answer>2</answer>"), "", R1)
    assert mixed.parts == {"accuracy": 1.0, "format": 1.0, "language": 0.75} and mixed.reward == 2.75
    silent = score_completion(SUM, completion("<think>1+1=2</think><answer>2</answer>"), "", R1)
    assert silent.parts["language"] == 0  # silence is no way to stay in one language
    without = score_completion(
        SUM, completion("<think>one 二</think><answer>2</answer>"), "", RewardConfig(format="r1")
    )
    assert "language" not in without.parts


def test_a_general_prompt_has_no_accuracy_part_and_a_preference():
    cfg = replace(R1, preference_weight=0.5, helpful_model="x")
    score = score_completion(PROMPT, completion("<think>be kind</think>You are kind."), "", cfg)
    assert score.parts == {"format": 1.0, "language": 1.0} and score.verdict == "undecided"
    assert with_preference(score, -3.0, cfg).reward == 2.0 - 1.5


def test_only_general_prompts_with_a_completion_go_to_the_reward_models():
    cfg = RewardConfig(format="r1", preference_weight=1.0, helpful_model="x")
    texts = {"a": "<think>x</think>A.", "b": "<think>x</think>B."}

    def sample(problem: Problem, one: Completion) -> Sample:
        return Sample(problem, (1,), one, score_completion(problem, one, "<think>", cfg))

    groups = [
        [sample(SUM, completion(texts["a"]))],
        [sample(PROMPT, completion("x</think>A.")), sample(PROMPT, completion("", "error"))],
    ]
    seen: list[tuple[Problem, str]] = []

    def scorer(items):  # noqa: ANN001, ANN202
        seen.extend(items)
        return [7.0] * len(items)

    made = with_preferences(groups, [RenderedPrompt("p", ""), RenderedPrompt("p <think>", "<think>")], scorer, cfg)
    assert seen == [(PROMPT, "<think>x</think>A.")]  # the prefill belongs to what is judged
    assert made[0] == groups[0] and made[1][1] == groups[1][1]
    assert made[1][0].score.parts["preference"] == 7.0 and made[1][0].score.reward == 8.0


def test_general_prompts_take_part_from_a_step_on():
    cfg = RLConfig(problems_per_step=8, general_tasks=("general",), general_share=0.25, general_from=5)
    reasoning = [load_problems(task, "train", 0) for task in cfg.tasks]
    general = [load_problems("general", "train", 0)]

    def tasks(step: int, rounds: int = 1) -> list[str]:
        return [problem.task for problem in draw_problems(reasoning, general, cfg, step, rounds)]

    assert "general" not in tasks(4) and len(tasks(4)) == 8
    assert tasks(5).count("general") == 2 and len(tasks(5)) == 8
    assert [tasks(5, 2)[start : start + 8].count("general") for start in (0, 8)] == [2, 2]
    only = replace(cfg, tasks=(), general_share=1.0, general_from=0)
    assert [p.task for p in draw_problems([], general, only, 0, 1)] == ["general"] * 8


@pytest.mark.parametrize(("minibatches", "inner_epochs", "rounds"), [(1, 1, 1), (4, 1, 1), (2, 2, 1), (1, 1, 3)])
def test_no_problem_is_passed_over_or_seen_twice(minibatches: int, inner_epochs: int, rounds: int):
    steps = minibatches * inner_epochs
    cfg = RLConfig(
        problems_per_step=4, minibatches=minibatches, inner_epochs=inner_epochs, steps=6 * steps, save_every=steps,
        eval_every=0, general_tasks=("general",), general_share=0.25, general_from=2 * steps,
    )  # fmt: skip
    reasoning, general = Positions("sum"), Positions("general")
    for step in range(0, cfg.steps, steps):
        draw_problems([reasoning], [general], cfg, step, rounds)  # type: ignore[list-item]
    size = 4 * minibatches * rounds
    assert reasoning.taken == list(range(5 * size)) and general.taken == list(range(size))


class Positions:
    """A set of problems that remembers which of its positions were taken."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.taken: list[int] = []

    def take(self, start: int, count: int) -> list[Problem]:
        self.taken += range(start, start + count)
        return [replace(SUM, id=f"{self.name}:{start + i}", task=self.name) for i in range(count)]


def test_each_prompt_is_scored_by_the_model_of_its_set(monkeypatch: pytest.MonkeyPatch):
    class Scorer:
        def __init__(self, kind: str) -> None:
            self.kind = kind

        def score(self, items):  # noqa: ANN001, ANN202
            return [{"helpful": 1.0, "safety": 2.0}[self.kind]] * len(items)

    monkeypatch.setattr(preference, "load_reward_model", lambda folder, device, dtype: Scorer(Path(folder).name))
    both = preference.load_preference(RewardConfig(helpful_model="a/helpful", safety_model="a/safety"), "cpu", "fp32")
    safety = replace(PROMPT, scorer="safety")
    assert both([(safety, "x"), (PROMPT, "y"), (safety, "z")]) == [2.0, 1.0, 2.0]
    one = preference.load_preference(RewardConfig(helpful_model="a/helpful"), "cpu", "fp32")
    with pytest.raises(ValueError, match="scorer 'safety' have no reward model; give --reward.safety-model"):
        one([(safety, "x")])
    with pytest.raises(ValueError, match="--reward.helpful-model a/safety is a safety reward model"):
        preference.load_preference(RewardConfig(helpful_model="a/safety"), "cpu", "fp32")
