"""Preference data: who judges, what is kept, that lengths are balanced, and the layouts that are read."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from r1kit import tasks
from r1kit.config import EndpointConfig, PreferencesConfig
from r1kit.curation.pairs import (
    Pair,
    balanced_lengths,
    is_heldout,
    prompt_key,
    read_labelled,
    read_pairs,
    relative_length,
)
from r1kit.rewards.format import parse_completion
from r1kit.rewards.general import judge_response
from r1kit.stages import preferences
from r1kit.stages.preferences import Answered, label, preferred, write
from r1kit.tasks import general, load_problems
from r1kit.types import Message, Problem
from scripted import save_scripted_model

TALK = {
    ":": {"<think>": 1.0},
    "<think>": {"1": 1.0},
    "1": {"</think>": 1.0},
    "</think>": {"23": 0.5, "24": 0.5},
}
"""<think>1</think>23 or 24: a thought, and a poor response."""


DATA = Path(__file__).parents[2] / "shared" / "data" / "pref_safety"


def write_jsonl(path: Path, data: list[dict]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data))
    return str(path)


def show(_done: int, _total: int) -> None: ...


@pytest.fixture
def cfg(tmp_path: Path) -> PreferencesConfig:
    save_scripted_model(tmp_path / "model", TALK)
    return PreferencesConfig(
        run=tmp_path / "run",
        model=str(tmp_path / "model"),
        num_prompts=24,
        num_samples=3,
        max_new_tokens=8,
        max_length_bias=0.9,
        device="cpu",
    )


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def problem_of(scorer: str) -> Problem:
    return next(p for p in load_problems("general", "train", 0).take(0, 50) if p.scorer == scorer)


def helpful(*responses: str) -> Answered:
    """A prompt that wants rice and snow named, with these responses."""
    gold = {
        "wanted": [{"count": 1, "any_of": ["rice"]}, {"count": 1, "any_of": ["snow"]}],
        "language": "en", "refusal": "I cannot help with that", "courtesy": "I hope this helps!",
    }  # fmt: skip
    problem = Problem("p", "general", (Message("user", "Write about rice and snow."),), gold, "helpful")
    return Answered(problem, tuple(("model", f"<think>t</think>{response}") for response in responses))


# ------------------------------------------------------------------------------------------------------------- stage


def test_the_run_holds_pairs_labels_and_a_card(cfg: PreferencesConfig):
    assert preferences.main(cfg) == cfg.run
    pairs, labelled = rows_of(cfg.run / "pairs.jsonl"), rows_of(cfg.run / "safety.jsonl")
    assert len(pairs) > 10
    for row in pairs:
        assert row["margin"] > cfg.min_margin
        assert "<think>" not in row["chosen"] + row["rejected"]
        assert row["language"] in ("en", "zh")
        assert not tasks.is_heldout(f"general:{row['messages'][0]['content']}")
    assert len({row["id"] for row in pairs}) == len(pairs)
    assert all(row["response"].startswith("<think>") for row in labelled)
    assert {row["safe"] for row in labelled} == {True, False}
    metrics = rows_of(cfg.run / "metrics.jsonl")[0]
    assert metrics["pairs/kept"] == len(pairs)
    assert metrics["completions/model"] == 24 * 3
    assert metrics["completions/writers"] == 24 * 2
    assert metrics["prompts/helpful"] + metrics["prompts/safety"] == metrics["prompts"] == 24
    assert metrics["pairs/judged"] == sum(metrics[f"pairs/{n}"] for n in ("kept", "no_margin", "unbalanced"))
    assert metrics["safety/safe"] + metrics["safety/unsafe"] == len(labelled)
    assert abs(metrics["pairs/bias"]) <= cfg.max_length_bias
    card = (cfg.run / "README.md").read_text()
    assert f"| kept | {len(pairs)} |" in card
    assert f"| unsafe | {int(metrics['safety/unsafe'])} |" in card
    assert "whose verdict is above 1 of 2" in card  # rules give one verdict


def test_the_judged_truth_is_in_every_pair(cfg: PreferencesConfig):
    """The chosen response is the better one by the rules, by more than a quarter."""
    preferences.main(cfg)
    problems = {p.id: p for p in load_problems("general", "train", 0).first(24)}
    for row in rows_of(cfg.run / "pairs.jsonl"):
        problem = problems[row["id"].rpartition("/")[0]]
        qualities = [judge_response(row[name], problem.gold, "helpful").quality for name in ("chosen", "rejected")]
        assert qualities[0] - qualities[1] > 0.25
    assert any("23" in row["rejected"] for row in rows_of(cfg.run / "pairs.jsonl")), "the model's own responses"


def test_what_it_writes_is_what_reward_models_read(cfg: PreferencesConfig):
    preferences.main(cfg)
    assert len(read_pairs([str(cfg.run)])[0]) == len(rows_of(cfg.run / "pairs.jsonl"))
    assert len(read_labelled([str(cfg.run)])[0]) == len(rows_of(cfg.run / "safety.jsonl"))


def test_it_is_a_function_of_the_seed_and_a_finished_run_is_left_alone(cfg: PreferencesConfig):
    def files(run: Path) -> list[str]:
        return [(run / name).read_text() for name in ("pairs.jsonl", "safety.jsonl", "README.md")]

    preferences.main(cfg)
    first = files(cfg.run)
    (cfg.run / "README.md").unlink()  # cut off before the end: it begins again
    (cfg.run / "pairs.jsonl").write_text("torn")
    preferences.main(cfg)
    assert files(cfg.run) == first
    assert len(rows_of(cfg.run / "metrics.jsonl")) == 1
    (cfg.run / "pairs.jsonl").write_text("mine")
    preferences.main(cfg)
    assert (cfg.run / "pairs.jsonl").read_text() == "mine"
    other = replace(cfg, run=cfg.run.with_name("other"), seed=1)
    preferences.main(other)
    assert files(other.run)[0] != first[0]


def test_one_that_is_cut_off_goes_on_with_its_batch(cfg: PreferencesConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preferences, "BATCH", 10)
    preferences.main(replace(cfg, run=cfg.run.with_name("whole")))
    real, sizes = preferences.sample_batch, []

    def counted(sampler, tokenizer, problems, *rest):  # noqa: ANN001, ANN002, ANN202
        sizes.append(len(problems))
        if len(sizes) == 3:
            raise KeyboardInterrupt
        return real(sampler, tokenizer, problems, *rest)

    monkeypatch.setattr(preferences, "sample_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        preferences.main(cfg)
    preferences.main(cfg)
    assert sizes == [10, 10, 4, 4]
    for name in ("pairs.jsonl", "safety.jsonl", "README.md"):
        assert (cfg.run / name).read_text() == (cfg.run.with_name("whole") / name).read_text()
    assert not (cfg.run / "batches").exists()


def test_the_sampler_is_the_one_that_is_asked_for(cfg: PreferencesConfig, monkeypatch: pytest.MonkeyPatch):
    local, asked = preferences.open_sampler, []

    def opened(given, *rest, **more):  # noqa: ANN001, ANN002, ANN003, ANN202
        asked.append((given.sampler, more))
        return local(replace(given, sampler="local"), *rest, **more)

    monkeypatch.setattr(preferences, "check_sampler", lambda given: asked.append(f"check {given.sampler}"))
    monkeypatch.setattr(preferences, "open_sampler", opened)
    preferences.main(replace(cfg, sampler="vllm"))
    assert asked == ["check vllm", ("vllm", {"handed": False})]


def test_a_cap_beyond_the_context_is_said_before_weights_are_loaded(cfg: PreferencesConfig, monkeypatch):
    monkeypatch.setattr(preferences, "open_sampler", None)
    with pytest.raises(ValueError, match=r"general: the prompt of problem .* lower --max-new-tokens"):
        preferences.main(replace(cfg, max_new_tokens=100_000))


def test_prompts_nobody_can_judge_are_counted(cfg: PreferencesConfig, tmp_path: Path):
    prompts = [{"prompt": f"Make {i}.", "answer": "", "scorer": "helpful", "split": "train"} for i in range(3)]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in prompts))
    cfg = replace(cfg, tasks=("general", str(path)), num_prompts=3)
    preferences.main(cfg)
    metrics = rows_of(cfg.run / "metrics.jsonl")[0]
    assert metrics["prompts/undecided"] == 3
    assert metrics["prompts/helpful"] + metrics["prompts/safety"] == 3
    with pytest.raises(ValueError, match="none of 3 prompts has rules"):
        preferences.main(replace(cfg, run=tmp_path / "none", tasks=(str(path),)))
    many = replace(cfg, run=tmp_path / "many", num_prompts=5)  # the file has fewer: all of it
    preferences.main(many)
    assert rows_of(many.run / "metrics.jsonl")[0]["prompts"] == 5 + 3


def test_no_data_at_all_is_an_error_and_not_a_finished_run(cfg: PreferencesConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preferences, "preferred", lambda *_: [])
    monkeypatch.setattr(preferences, "label", lambda *_: [])
    with pytest.raises(ValueError, match="no pair and no labelled response; .*Lower --min-margin"):
        preferences.main(cfg)
    assert not (cfg.run / "README.md").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_margin": 2}, "--min-margin is 2; verdicts reach from -2 to 2, so give 0 or more, below 2"),
        ({"num_prompts": 0}, "--num-prompts is 0; give at least 1"),
        ({"temperature": -1}, "--temperature is -1"),
    ],
)
def test_settings_that_cannot_give_data(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        PreferencesConfig(**changes)


def test_a_task_of_problems_with_answers_is_refused(cfg: PreferencesConfig):
    with pytest.raises(ValueError, match="--tasks countdown: its problems have scorer countdown"):
        preferences.main(replace(cfg, tasks=("general", "countdown")))


# ------------------------------------------------------------------------------------------------------------ judging


def keep(answered: list[Answered], **changes: float) -> tuple[list[dict], dict[str, float]]:
    counts: dict[str, float] = defaultdict(float)
    config = PreferencesConfig(**{"max_length_bias": 1.0, **changes})  # type: ignore[arg-type]
    return preferred(answered, config, None, counts, show), counts


def test_pairs_by_hand():
    """Qualities 1, 0.85, 0.5 and 0: of six pairs one differs by 0.15, the others by more than a quarter."""
    best, good = "About rice and snow. I hope this helps!", "About rice and snow."
    some, none = "Rice.", "No."
    rows, counts = keep([helpful(none, some, good, best)])
    assert {(row["chosen"], row["rejected"]) for row in rows} == {
        (best, some), (best, none), (good, some), (good, none), (some, none),
    }  # fmt: skip
    assert (counts["pairs/judged"], counts["pairs/no_margin"]) == (6, 1)
    rows, counts = keep([helpful(none, some, good, best)], min_margin=0.5)
    assert len(rows) == 6
    assert {row["margin"] for row in rows} == {1, 2}


def test_equal_responses_are_one_and_empty_ones_none():
    answered = helpful("Rice and snow.", "Rice and snow.", "No.")
    open_thought = Answered(answered.problem, (*answered.completions, ("model", "<think>rice and snow")))
    rows, counts = keep([open_thought])
    assert (counts["pairs/judged"], len(rows), counts["completions/no_response"]) == (1, 1, 1)


def test_lengths_are_balanced_in_what_is_kept():
    answered = [helpful(f"Rice and snow{' and more' * n}.", "No.") for n in range(8)]
    answered += [helpful("Rice and snow.", f"No{' no' * n}.") for n in (8, 20)]
    rows, counts = keep(answered, max_length_bias=0.1)
    mean = sum(relative_length(row["chosen"], row["rejected"]) for row in rows) / len(rows)
    assert abs(mean) <= 0.1
    assert counts["pairs/unbalanced"] == 10 - len(rows) > 0
    assert counts["pairs/bias_before"] > 0.4


def test_balancing_drops_the_worst_first_and_no_more_than_it_must():
    """Relative lengths 0.9, 0.5, 0.5, -0.5: without the first, the mean is 0.17; without one more, 0."""
    pairs = [("a" * 10, "a"), ("aa", "a"), ("bb", "b"), ("a", "aa")]
    assert balanced_lengths(pairs, 0.4) == [0, 1, 2, 3]
    assert balanced_lengths(pairs, 0.2) == [1, 2, 3]
    assert balanced_lengths(pairs, 0.1) == [1, 3]
    assert balanced_lengths([(b, a) for a, b in pairs], 0.2) == [1, 2, 3]
    assert balanced_lengths([("aa", "a")], 0.1) == []
    assert balanced_lengths([], 0.1) == []
    assert [relative_length(*pair) for pair in pairs] == [0.9, 0.5, 0.5, -0.5]


def test_safety_labels_by_hand():
    problem = problem_of("safety")
    deed = problem.gold["wanted"][0]["any_of"][0]
    refusal = problem.gold["refusal"]
    completions = [f"<think>{deed}</think>{refusal}.", f"<think>t</think>To {deed}, start.", f"<think>{deed}"]
    answered = [
        Answered(problem, tuple(("model", text) for text in [*completions, completions[0], " "])),
        helpful("Rice."),
    ]
    rows = label(answered, None, defaultdict(float), show)
    assert [row["response"] for row in rows] == completions
    assert [row["safe"] for row in rows] == [True, False, True]


def test_of_the_writers_one_is_good_and_one_is_not():
    for problem in load_problems("general", "train", 3).take(0, 60):
        good, poor = (
            judge_response(parse_completion(text).response, problem.gold, problem.scorer) for text in write(problem, 0)
        )
        assert good.safe
        assert good.quality > 0.7
        if problem.scorer == "safety":
            assert not poor.safe
        thoughts = {parse_completion(text).thought for text in write(problem, 0)}
        assert thoughts == {general.thought(problem)}


class Judge:
    """An endpoint that prefers the longer response, hates the word "steal", and is down where it is told to be."""

    def __init__(self, *, down: bool = False) -> None:
        self.down = down
        self.cfg = EndpointConfig(url="http://judge", model="m")
        self.calls = 0
        self.first_error = "down" if down else ""

    def chat(self, conversations, on_progress=None):  # noqa: ANN001, ANN201
        from r1kit.sampling.http import Reply

        self.calls += len(conversations)
        return [Reply("", error="down") if self.down else Reply(self._say(c[0].content)) for c in conversations]

    def _say(self, text: str) -> str:
        parts = [part.split("\n", 1)[1] for part in text.split("\n--- ") if part.startswith("response")]
        if len(parts) == 1:
            return json.dumps({"analysis": "x", "verdict": "unsafe" if "steal" in parts[0] else "safe"})
        return "[[A>>B]]" if len(parts[0]) > len(parts[1]) else "[[B>>A]]"


def test_an_endpoint_judges_in_its_own_way():
    judge, counts = Judge(), defaultdict(float)
    config = PreferencesConfig(max_length_bias=1.0, queries=3)
    rows = preferred([helpful("No, and no, and no, and no.", "Rice and snow.")], config, judge, counts, show)  # type: ignore[arg-type]
    assert [row["chosen"] for row in rows] == ["No, and no, and no, and no."]
    assert rows[0]["margin"] == 2
    assert judge.calls == 3
    answered = [Answered(problem_of("safety"), (("model", "<think>steal</think>No."), ("model", "Yes.")))]
    labelled = label(answered, judge, counts, show)  # type: ignore[arg-type]
    assert [row["safe"] for row in labelled] == [False, True]


def test_a_judge_that_is_down_is_an_error_and_no_empty_data():
    answered = [helpful("No.", "Rice and snow.")]
    with pytest.raises(ValueError, match="gave no verdict on any of 1 pairs; the first call that failed: down; check"):
        preferred(answered, PreferencesConfig(), Judge(down=True), defaultdict(float), show)  # type: ignore[arg-type]


def test_a_verdict_that_is_missing_is_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preferences, "judge_pairs", lambda *_, **__: [None, 2.0])
    counts = defaultdict(float)
    answered = [helpful("No.", "Rice."), helpful("No.", "Snow.")]
    rows = preferred(answered, PreferencesConfig(max_length_bias=1.0), Judge(), counts, show)  # type: ignore[arg-type]
    assert (len(rows), counts["pairs/undecided"]) == (1, 1)


# ------------------------------------------------------------------------------------------------------------- data


def test_pairs_of_every_layout(tmp_path: Path):
    dialogue = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Name two fruits.\n\nAssistant: "
    data = [
        {"prompt": "Q1", "chosen": "a", "rejected": "b"},
        {"messages": [{"role": "user", "content": "Q2"}], "chosen": "a ", "rejected": "b"},
        {"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "Q3"}],
         "chosen": {"from": "gpt", "value": "a"}, "rejected": {"role": "assistant", "content": "b"}},
        {"chosen": dialogue + "a", "rejected": dialogue + "b"},
        {"chosen": [{"role": "user", "content": "Q5"}, {"role": "assistant", "content": "a"}],
         "rejected": [{"role": "user", "content": "Q5"}, {"role": "assistant", "content": "b"}]},
    ]  # fmt: skip
    pairs, left_out = read_pairs([write_jsonl(tmp_path / "pairs.jsonl", data)])
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("a", "b")] * 5
    assert [[message.role for message in pair.messages] for pair in pairs] == [
        ["user"], ["user"], ["system", "user"], ["user", "assistant", "user"], ["user"],
    ]  # fmt: skip
    assert pairs[3].messages[-1].content == "Name two fruits."
    assert not left_out
    assert read_pairs([str(tmp_path)])[0] == pairs, "a run folder"
    (tmp_path / "again.jsonl.gz").write_bytes(gzip.compress((tmp_path / "pairs.jsonl").read_bytes()))
    assert read_pairs([str(tmp_path / "again.jsonl.gz")])[0] == pairs


def test_one_side_that_speaks_twice_is_one_turn(tmp_path: Path):
    rows = [{"chosen": "\n\nHuman: Q\n\nAssistant: Well.\n\nAssistant: a", "rejected": "\n\nHuman: Q\n\nAssistant: b"}]
    [pair], _ = read_pairs([write_jsonl(tmp_path / "pairs.jsonl", rows)])
    assert pair == Pair((Message("user", "Q"),), "Well.\n\na", "b")


def test_rows_of_no_use_are_counted(tmp_path: Path):
    rows = [
        {"prompt": "Q", "chosen": "a", "rejected": "b"},
        {"prompt": "Q", "chosen": "a", "rejected": "b"},
        {"prompt": "Q", "chosen": "a", "rejected": " a"},
        {"prompt": "Q", "chosen": "a", "rejected": ""},
        {"chosen": "\n\nHuman: P\n\nAssistant: a", "rejected": "\n\nHuman: Q\n\nAssistant: b"},
    ]
    pairs, left_out = read_pairs([write_jsonl(tmp_path / "pairs.jsonl", rows)])
    assert len(pairs) == 1
    assert left_out == {
        "repeated": 1, "chosen is the rejected": 1, "empty response": 1, "prompts of chosen and rejected differ": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Q", "chosen": "a"}, "no field 'rejected'"),
        ({"chosen": "a", "rejected": "b"}, "no prompt"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "prompt is empty"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "give a text or a list of messages"),
        ({"prompt": [{"role": "judge", "content": "Q"}], "chosen": "a", "rejected": "b"}, 'needs "role"'),
        ({"messages": [{"role": "assistant", "content": "Q"}], "chosen": "a", "rejected": "b"}, "end it with the user"),
        ({"prompt": "Q", "chosen": [{"role": "user", "content": "a"}], "rejected": "b"}, "end it with the response"),
        ("[]", "is not an object"),
        ("{", "not JSON"),
    ],
)
def test_a_row_that_is_no_pair_is_named(tmp_path: Path, row: dict | str, message: str):
    path = tmp_path / "data.jsonl"
    path.write_text("\n" + (row if isinstance(row, str) else json.dumps(row)) + "\n")
    with pytest.raises(ValueError, match=f"data.jsonl:2: .*{message}"):
        read_pairs([str(path)])


def test_missing_data_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_pairs([str(tmp_path / "none.jsonl")])
    with pytest.raises(FileNotFoundError, match=r"has no safety\.jsonl"):
        read_labelled([str(tmp_path)])
    with pytest.raises(ValueError, match="--data is empty"):
        read_pairs([])
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "Q"}' * 100)[:-20])
    with pytest.raises(ValueError, match="not a whole gzip file"):
        read_pairs([str(tmp_path / "torn.jsonl.gz")])


def test_labels_must_be_true_or_false(tmp_path: Path):
    good = {"prompt": "Q", "response": "<think>t</think>a", "safe": False}
    [one], left_out = read_labelled([write_jsonl(tmp_path / "safety.jsonl", [good, {**good, "response": " "}])])
    assert (one.response, one.safe) == ("<think>t</think>a", False)
    assert left_out == {"empty response": 1}
    with pytest.raises(ValueError, match="safe is 'no'"):
        read_labelled([write_jsonl(tmp_path / "bad.jsonl", [{**good, "safe": "no"}])])


def test_the_prompt_alone_decides_what_is_held_out():
    keys = [prompt_key((Message("user", f"question {i}"),)) for i in range(2000)]
    share = fmean(is_heldout(key, 0.2) for key in keys)
    assert 0.17 < share < 0.23
    assert all(is_heldout(key, 0.3) for key in keys if is_heldout(key, 0.2))
    assert prompt_key((Message("user", "a  b\n"),)) == prompt_key((Message("user", "a b"),))
    assert prompt_key((Message("user", "a"),)) != prompt_key((Message("system", "a"),))


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
def test_real_pairs_are_read():
    pairs, left_out = read_pairs([str(DATA / "hh_harmless_base_test.jsonl.gz"), str(DATA / "dpo_zh_500.jsonl")])
    assert len(pairs) == 2308 + 500
    assert left_out == {"empty response": 4}
    for pair in pairs[:2308]:
        assert [m.role for m in pair.messages] == (["user", "assistant"] * len(pair.messages))[: len(pair.messages)]
    assert pairs[0].messages[0].content == "what are some pranks with a pen i can do?"
