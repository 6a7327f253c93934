"""Facts about reward functions of one's own: what they are given, what their number is, what happens when they fail."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from r1kit import cli
from r1kit.config import RewardConfig, RLConfig
from r1kit.graph import key_of, resolve
from r1kit.recipes import Recipe
from r1kit.rewards import VerdictPool
from r1kit.rewards.own import own_function
from r1kit.rewards.reward import score_completion, score_text
from r1kit.tasks import load_problems
from r1kit.types import Completion, Message, Problem

FILE = """
import os, time

def given(prompt, completion, answer):
    raise KeyError(f"{prompt}|{completion}|{answer}|{os.getpid()}")

def near(completion, answer, **others):
    return 1 / (1 + abs(int(completion.split()[-1]) - answer))

def same(prompt, completion, answer):
    return completion.endswith(str(answer))

def brief(prompt, completion, answer):
    return -len(completion)

def unsure(prompt, completion, answer):
    return answer if answer is None or isinstance(answer, str) else float(answer["value"])

def slow(prompt, completion, answer):
    while True:
        pass

def gone(prompt, completion, answer):
    os._exit(3)

def odd(text):
    return 1.0

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "my_rewards.py"
    path.write_text(FILE)
    return str(path)


@pytest.fixture(scope="module")
def pool() -> Any:
    with VerdictPool(workers=1, seconds=1) as pool:
        yield pool


def problem(scorer: str, gold: Any) -> Problem:
    return Problem("p", "t", (Message("system", "s"), Message("user", "1+1?")), gold, scorer)


def test_a_scorer_of_ones_own_gives_the_accuracy_and_the_verdict(file: str, pool: VerdictPool):
    right, close = (pool.score(problem(f"{file}:near", 2), text) for text in ("<think>hm</think>it is 2", "is it 5"))
    assert (right.verdict, right.reward, right.extracted) == ("right", 1.0, "it is 2")
    assert (close.verdict, close.reward, close.parts) == ("wrong", 0.25, {"accuracy": 0.25})
    assert close.reason == "near returned 0.25"
    assert pool.score(problem(f"{file}:same", 5), "is it 5").verdict == "right", "True is 1"
    tagged = score_text(problem(f"{file}:same", "</answer>"), "<think>a</think><answer> 7 </answer>")
    assert (tagged.verdict, tagged.extracted) == ("right", "7"), "the answer votes in cons@k"


def test_it_is_given_the_question_the_whole_completion_and_the_answer_in_another_process(file: str, pool: VerdictPool):
    completion = Completion((1, 2), (0.0, 0.0), "hm</think>4", "stop")
    item = (problem(f"{file}:given", {"a": 1}), completion, "<think>")
    [score] = pool.score_completions([item], RewardConfig())
    assert score.verdict == "undecided" and score.reward == 0
    told = score.reason.partition("KeyError: ")[2].partition(";")[0].strip("\"'").split("|")
    assert told[:3] == ["1+1?", "<think>hm</think>4", "{'a': 1}"] and int(told[3]) != os.getpid()
    with pytest.raises(KeyError):
        score_completion(*item, RewardConfig())


@pytest.mark.parametrize("value", [None, "1", {"value": "nan"}, {"value": "inf"}])
def test_what_is_no_number_is_undecided(file: str, pool: VerdictPool, value: Any):
    score = pool.score(problem(f"{file}:unsure", value), "x")
    assert (score.verdict, score.reward) == ("undecided", 0.0) and score.reason.startswith("unsure returned ")


@pytest.mark.parametrize(("name", "reason"), [("slow", "time limit: "), ("gone", "exit code 3")])
def test_a_function_that_hangs_or_ends_its_process_hurts_nothing_else(
    file: str, pool: VerdictPool, name: str, reason: str
):
    score = pool.score(problem(f"{file}:{name}", 1), "x")
    assert score.verdict == "undecided" and reason in score.reason
    assert pool.score(problem(f"{file}:near", 2), "2").verdict == "right"


def test_one_more_part_of_the_reward(file: str, pool: VerdictPool):
    cfg = RewardConfig(format="free", function=f"{file}:brief", function_weight=0.1)
    score = pool.score(problem("number", "7"), "<answer>7</answer>", cfg)
    assert score.verdict == "right" and score.parts == {"accuracy": 1.0, "function": -18.0}
    assert score.reward == pytest.approx(1 - 1.8) and score.reason.endswith("; brief returned -18")
    idle = RewardConfig(format="free", function=f"{file}:slow", function_weight=0)
    off = pool.score(problem("number", "7"), "<answer>7</answer>", idle)
    assert off.parts == {"accuracy": 1.0}, "a part of weight 0 is not computed"


def test_a_part_that_fails_makes_the_score_undecided(file: str, pool: VerdictPool):
    cfg = RewardConfig(format="free", function=f"{file}:unsure")
    score = pool.score(problem("exact", "7"), "<answer>7</answer>", cfg)
    assert (score.verdict, score.reward) == ("undecided", 0.0) and "unsure returned '7'" in score.reason


def test_what_is_wrong_is_said_before_anything_is_computed(file: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r"my_rewards.py has no function 'bref'; its functions are: brief, given"):
        own_function(f"{file}:bref")
    with pytest.raises(ValueError, match="no function 'number'"):
        own_function(f"{file}:number")
    with pytest.raises(ValueError, match=r"odd cannot be called .*; write def odd\(prompt, completion, answer\)"):
        own_function(f"{file}:odd")
    with pytest.raises(FileNotFoundError, match=r"no such file .*others.py; give FILE.py:NAME"):
        own_function(f"{tmp_path}/others.py:near")
    with pytest.raises(ValueError, match="--reward.function is 'brief'; give FILE.py:NAME"):
        RewardConfig(function="brief")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "1+1?", "answer": None, "scorer": f"{file}:bref"}))
    with pytest.raises(ValueError, match=r"rows.jsonl:1: .*no function 'bref'"):
        load_problems(str(rows), "train", 0)
    assert cli.main(["rl", "tiny", "--model", "nowhere", "--reward.function", f"{file}:bref"]) == 2


def test_a_file_that_has_changed_is_read_again(file: str, pool: VerdictPool):
    assert pool.score(problem(f"{file}:same", 5), "6").verdict == "wrong"
    Path(file).write_text(FILE.replace("endswith(str(answer))", "endswith('6')"))
    os.utime(file, (1, 1))
    assert pool.score(problem(f"{file}:same", 5), "6").verdict == "right"
    assert not list(Path(file).parent.glob("__pycache__"))


def test_a_relative_path_is_seen_from_the_callers_folder(file: str, pool: VerdictPool, monkeypatch: pytest.MonkeyPatch):
    assert pool.score(problem(f"{file}:near", 2), "2").verdict == "right", "the worker has started"
    monkeypatch.chdir(Path(file).parent)
    assert pool.score(problem("my_rewards.py:near", 2), "2").verdict == "right"


def test_a_stage_of_a_pipeline_depends_on_the_functions_file(file: str, tmp_path: Path):
    config = RLConfig(model="demo-base", reward=RewardConfig(function=f"{file}:brief"))
    stages = resolve(Recipe({"zero": config}), tmp_path / "run", 0)
    before = key_of(stages[0], stages)
    Path(file).write_text(FILE + "\n")
    assert before != key_of(stages[0], stages)


def test_verdicts_from_the_command_line(file: str, tmp_path: Path):
    rows = tmp_path / "outputs.jsonl"
    rows.write_text(json.dumps({"gold": 4, "completion": "it is 4"}) + "\n")
    assert cli.main(["score", f"{file}:near", str(rows)]) == 0
    assert json.loads((tmp_path / "outputs.verdicts.jsonl").read_text())["verdict"] == "right"
