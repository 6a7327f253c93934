"""Facts about published data sets: their real files are read whole, and knights are judged. See test_data.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1kit.config import ColumnsConfig, FilterConfig
from r1kit.rewards.accuracy import gold_fault, score_answer
from r1kit.rewards.knights import judge, knights_fault
from r1kit.tasks import load_problems
from r1kit.training.conversations import read_conversations

SHARED = Path(__file__).parents[2] / "shared" / "data"


def shared(name: str) -> str:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here: public data for trials, not part of the repository")
    return str(path)


# Knights and knaves


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("(1) Zoey is a knight\n(2) Owen is a knave", "right"),
        ("Owen is a knave, and Zoey is a knight.", "right"),
        ("**Zoey**: knight; **Owen**: knave", "right"),
        ("zoey = Knight, owen = KNAVE", "right"),
        ("Zoey is a knight", "wrong"),
        ("Zoey is a knave and Owen is a knave", "wrong"),
        ("Zoey is a knight. Zoey is a knave. Owen is a knave.", "wrong"),
        ("Zoey is a knight. Owen is a knave. Owen is a knight.", "wrong"),
        ("Zoey is not a knight, Owen is a knave", "wrong"),
        ("", "wrong"),
    ],
)
def test_knights_are_right_when_all_are(answer: str, verdict: str):
    gold = {"Zoey": "knight", "Owen": "knave"}
    assert judge(answer, gold)[0] == verdict
    if answer:
        assert score_answer("knights", answer, gold).verdict == verdict
    if verdict == "right":
        assert score_answer("knights", answer, gold).extracted == "Zoey: knight, Owen: knave", (
            "equal answers vote together"
        )


def test_golds_of_knights():
    assert not knights_fault({"Zoey": "knight"})
    for gold in ({}, None, "Zoey is a knight", {"Zoey": True}):
        assert "give {" in knights_fault(gold)


# Real files


REAL = {
    "math_bench/gsm8k_train.jsonl@train": (7473, "math"),
    "math_bench/gsm8k_test.jsonl@test": (1319, "math"),
    "math_bench/math500.jsonl@test": (500, "math"),
    "math_bench/aime24.jsonl@test": (30, "math"),
    "math_bench/cmath_dev_zh.jsonl@test": (600, "math"),
    "rl_prompts/math_train_7.5k.json@train": (7469, "math"),
    "rl_prompts/countdown_train_8k.parquet@train": (8001, "countdown"),
    "rl_prompts/simplerl_math_lv3-5_8k.parquet@train": (8519, "math"),
    "rl_prompts/logic_rl_kk_3ppl_train.parquet@train": (900, "knights"),
}


@pytest.mark.parametrize("name", REAL)
def test_real_sets(name: str):
    source, _, split = name.partition("@")
    if source.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="pip install 'r1kit[data]'")
    count, scorer = REAL[name]
    spec = f"{shared(source)}@{split}"
    problems = load_problems(spec, "train" if split == "train" else "heldout", 0).problems  # type: ignore[attr-defined]
    unread = 20 if scorer == "math" else 0  # how many golds a scorer of mathematics can read changes with the scorer
    assert count - unread <= len(problems) <= count + unread and {problem.scorer for problem in problems} == {scorer}
    assert not any(gold_fault(problem.scorer, problem.gold) for problem in problems)
    assert all(problem.messages[-1].content.strip() for problem in problems)
    text = problems[0].messages[-1].content
    assert "<think>" not in text and "<|im_start|>" not in text and "####" not in text


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_gold_of_gsm8k_is_right_however_it_is_written(split: str):
    """In the ways that models write a number; the number beside it is wrong."""
    side = "train" if split == "train" else "heldout"
    problems = load_problems(f"{shared(f'math_bench/gsm8k_{split}.jsonl')}@{split}", side, 0).problems  # type: ignore[attr-defined]
    golds = [problem.gold for problem in problems]
    assert len(golds) == {"train": 7473, "test": 1319}[split] and not any("," in gold for gold in golds)
    assert (split == "test") or any(gold.startswith("-") for gold in golds)
    written = ("{0}", "{0:,}", "{0} dollars", "**{0}**", "\\${0}", "The answer is {0}.")
    for gold in golds if split == "test" else [gold for gold in golds if not gold.isdecimal() or int(gold) > 999]:
        number = int(gold)
        answers = [(form.format(number), "right") for form in written] + [(f"{number + 1}", "wrong")]
        judged = {answer: score_answer("math", answer, gold).verdict for answer, _ in answers}
        assert judged == dict(answers)


def test_mgsm_has_no_line_of_names():
    spec = f"{shared('math_bench/mgsm_zh.tsv')}@test"
    columns = ColumnsConfig(prompt="1", answer="2", scorer="number")
    problems = load_problems(spec, "heldout", 0, columns=columns).first(250)
    assert len({problem.id for problem in problems}) == 250


def test_math500_is_found_in_math_training_problems():
    """MATH-500 is of MATH's test split: some training problems share ten words with it, and itself does with all."""
    math500, train = shared("math_bench/math500.jsonl"), shared("rl_prompts/math_train_7.5k.json")
    filters = FilterConfig(decontaminate=(math500,))
    problems = load_problems(f"{train}@train", "train", 0, filters=filters)
    [dropped] = [part for part in problems.summary.split("; ") if "share 10 words" in part]  # type: ignore[attr-defined]
    count = int(dropped.removeprefix("dropped ").split()[0].replace(",", ""))
    assert 0 < count < 0.3 * 7469
    with pytest.raises(ValueError, match="500 rows read, 0 kept; .*loosen --filter"):
        load_problems(f"{math500}@train", "train", 0, filters=filters)


def test_real_conversations():
    assert len(read_conversations([shared("cot_traces/star1_r1_safety_1000.jsonl")])) == 1000
    assert len(read_conversations([shared("cot_traces/marco_o1_cot_demo.json")])) == 125
    with pytest.raises(ValueError, match="50 rows read, 0 kept; dropped .* that have a message"):
        read_conversations([shared("cot_traces/reason_tool_use_demo_50.jsonl")])
    talks = read_conversations([shared("math_bench/gsm8k_test.jsonl")])
    assert len(talks) == 1319 and "####" in talks[0].messages[-1].content
