"""Selecting and joining: what is kept of each problem and why the rest is not, and the general data."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from r1kit.config import EndpointConfig, ReadableConfig, RewardConfig
from r1kit.curation.general import join_general, num_general, read_general
from r1kit.curation.rewrite import Rewriter, Rewritten
from r1kit.curation.select import Candidate, Judge, Selection, Tally, curate
from r1kit.rewards.format import parse_completion
from r1kit.rewards.language import language_consistency
from r1kit.rewards.reward import score_completion
from r1kit.tasks import is_heldout, load_problems
from r1kit.types import Completion, FinishReason, Message, Problem, Sample, Verdict

SERVER = EndpointConfig(url="http://localhost:1/v1", model="judge")


# curate: one group at a time


def sum_problem(number: int = 1, *, scorer: str = "number") -> Problem:
    return Problem(f"s{number}", "sums", (Message("user", f"What is {number} and 1?"),), str(number + 1), scorer)


def group(problem: Problem, *texts: str, finish: FinishReason = "stop") -> list[Sample]:
    """A scored group; a completion's tokens are its words."""
    samples = []
    for text in texts:
        made = Completion((), (), text, finish, error="lost" if finish == "error" else "")
        samples.append(Sample(problem, (), made, score_completion(problem, made, "", RewardConfig())))
    return samples


def selection(
    *,
    keep: int = 1,
    judge: Judge | None = None,
    rewriter: Rewriter | None = None,
    readable: ReadableConfig | None = None,
) -> Selection:
    return Selection(
        readable or ReadableConfig(max_paragraph_chars=300),
        keep,
        lambda texts: [len(text.split()) for text in texts],
        judge,
        rewriter,
    )


def think(thought: str, answer: str = "2") -> str:
    return f" <think>{thought}</think><answer>{answer}</answer>"


def kept(groups: Sequence[list[Sample]], chosen: Selection) -> tuple[list[str], Tally]:
    """Texts of the rows, and the tally, which must account for every completion."""
    tally = Tally()
    rows = curate(groups, [""] * len(groups), chosen, tally)
    assert tally.total("sampled") == sum(map(len, groups)) == sum(tally.dropped.values()) + tally.total("kept")
    assert tally.total("kept") == len(rows)
    assert set(tally.examples) == set(tally.dropped)
    return [row["messages"][-1]["content"] for row in rows], tally


def test_the_first_right_and_readable_completion_is_kept_whatever_its_length():
    texts = [
        think("I know that one", "3"),
        think("```\nprint(2)\n``` so it is"),
        think("我 说 二"),
        think("I count the apples and then the pears, slowly"),
        think("two it is"),
        think("First I count the pears, then the apples, and that is how I come to see that they are two"),
        " <answer>2</answer>",
    ]
    rows, tally = kept([group(sum_problem(), *texts)], selection())
    assert rows == [texts[3]]
    assert tally.tasks == {"sums": {"problems": 1, "sampled": 7, "right": 5, "readable": 3, "kept": 1}}
    assert tally.dropped == {
        "wrong": 1,
        "format, no <think>": 1,
        "unreadable, code block": 1,
        "unreadable, language mix": 1,
        "more than --keep-per-problem": 2,
    }
    assert tally.examples["wrong"] == "answered 3, gold 2; format: ok"


def test_as_many_are_kept_as_asked_for_of_each_problem_in_the_order_they_were_sampled():
    thoughts = ["one more apple makes them two", "count: first, second", "the answer is obvious to me, surely two"]
    groups = [group(sum_problem(), *map(think, thoughts)), group(sum_problem(2), *(think(t, "3") for t in thoughts))]
    rows, _ = kept(groups, selection(keep=2))
    assert rows == [think(thoughts[i], answer) for answer in ("2", "3") for i in (0, 1)]


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "cut off at the length cap"), ("error", "no completion")]
)  # fmt: skip
def test_a_completion_that_did_not_end_is_dropped_even_if_right(finish: FinishReason, reason: str):
    rows, tally = kept([group(sum_problem(), think("I see two"), finish=finish)], selection())
    assert (rows, tally.dropped) == ([], {reason: 1})
    assert tally.total("right") == 0


LONG = "First I look at the numbers, then I think about what adding one would do to them, and I write it down."


@pytest.mark.parametrize(
    ("thoughts", "left"),
    [
        (["I count to two", "I count to two"], 1),
        (["I count to two", "i  COUNT to\ntwo"], 1),
        ([LONG, LONG.replace("down", "up")], 1),
        ([LONG, LONG[: len(LONG) // 2]], 2),
        (["8*3=24\n24-1=23 no", "8+3=11\n11-1=10 no"], 2),
    ],
)
def test_repeated_and_nearly_repeated_thoughts_are_kept_once(thoughts: list[str], left: int):
    rows, tally = kept([group(sum_problem(), *map(think, thoughts))], selection(keep=9))
    assert len(rows) == left and rows[0] == think(thoughts[0])
    assert tally.dropped["repeats another completion"] == len(thoughts) - left


def test_equal_thoughts_on_different_problems_are_both_kept():
    groups = [group(sum_problem(1), think("I add one")), group(sum_problem(2), think("I add one", "3"))]
    assert len(kept(groups, selection())[0]) == 2


def test_without_a_judge_problems_without_a_rule_are_left_out():
    rows, tally = kept([group(sum_problem(scorer="helpful"), think("I like pears"))], selection())
    assert (rows, tally.dropped) == ([], {"no rule judges it, and no --judge.url is given": 1})


def test_the_judge_sees_what_no_rule_decides_and_is_readable():
    seen: list[str] = []

    def judge(candidates: Sequence[Candidate]) -> list[tuple[Verdict, str]]:
        seen.extend(candidate.text for candidate in candidates)
        return [
            ("right" if "pears" in c.text else "undecided" if "plums" in c.text else "wrong", "so") for c in candidates
        ]

    open_ = [think(f"I like {fruit} best of all the fruits") for fruit in ("pears", "plums", "figs")]
    code = think("```pears```")
    groups = [group(sum_problem(scorer="helpful"), *open_, code), group(sum_problem(2), think("I see pears", "3"))]
    rows, tally = kept(groups, selection(judge=judge))
    assert seen == open_
    assert rows == [open_[0], think("I see pears", "3")]
    assert tally.dropped == {"judged undecided": 1, "judged wrong": 1, "unreadable, code block": 1}
    assert (tally.total("right"), tally.total("readable")) == (2, 2)


def test_the_next_completion_takes_the_place_of_one_that_is_not_rewritten():
    thoughts = {
        "the one that no rule knows": Rewritten("", "no rule to rewrite: this"),
        "the one after it": Rewritten(think("fine now")),
    }
    asked: list[list[str]] = []

    def rewriter(candidates: Sequence[Candidate]) -> list[Rewritten]:
        asked.append([parse_completion(candidate.text).thought for candidate in candidates])
        return [thoughts[thought] for thought in asked[-1]]

    texts = [think(thought) for thought in ("the one that no rule knows", "the one after it", "the last")]
    rows, tally = kept([group(sum_problem(), *texts)], selection(rewriter=rewriter))
    assert rows == [think("fine now")]
    assert asked == [["the one that no rule knows"], ["the one after it"]]
    assert tally.dropped == {"no rule to rewrite": 1, "more than --keep-per-problem": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (think("fine now", "3"), "rewritten, wrong"),
        ("<answer>2</answer>", "rewritten, format, no <think>"),
        (think("这样就好了"), "rewritten, unreadable, language mix"),
    ],
)
def test_what_is_rewritten_must_still_be_right_and_readable(text: str, reason: str):
    rewrite: Rewriter = lambda candidates: [Rewritten(text) for _ in candidates]  # noqa: E731
    rows, tally = kept([group(sum_problem(), think("I see"))], selection(rewriter=rewrite))
    assert (rows, tally.dropped) == ([], {reason: 1})


def test_what_is_rewritten_without_a_rule_is_judged_again():
    rewrite: Rewriter = lambda candidates: [Rewritten(c.text.replace("old", "new")) for c in candidates]  # noqa: E731
    judge: Judge = lambda candidates: [("wrong" if "new" in c.text else "right", "so") for c in candidates]  # noqa: E731
    problem = sum_problem(scorer="helpful")
    rows, tally = kept([group(problem, think("old"))], selection(rewriter=rewrite, judge=judge))
    assert (rows, tally.dropped) == ([], {"rewritten, judged wrong": 1})
    assert len(kept([group(problem, think("fine"))], selection(rewriter=rewrite, judge=judge))[0]) == 1


def test_equal_rewritten_texts_are_kept_once_and_tokens_are_those_of_the_new_text():
    rewrite: Rewriter = lambda candidates: [Rewritten(think("fine, now it is")) for _ in candidates]  # noqa: E731
    tally = Tally()
    samples = group(sum_problem(), think("count the apples"), think("quite another way of seeing it"))
    (row,) = curate([samples], [""], selection(keep=2, rewriter=rewrite), tally)
    assert tally.dropped == {"repeats another completion": 1}
    assert row["tokens"] == len(think("fine, now it is").split())
    assert (row["id"], row["domain"], row["language"]) == ("sums/s1/0", "sums", "en")


def test_a_prefilled_thought_is_part_of_the_data():
    tally = Tally()
    made = Completion((), (), "I add</think>\\boxed{2}", "stop")
    problem = sum_problem()
    sample = Sample(problem, (), made, score_completion(problem, made, "<think>\n", RewardConfig()))
    (row,) = curate([[sample]], ["<think>\n"], selection(), tally)
    assert row["messages"] == [
        {"role": "user", "content": "What is 1 and 1?"},
        {"role": "assistant", "content": "<think>\nI add</think>\\boxed{2}"},
    ]


# general data


def count_words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def general_file(path: Path, count: int) -> str:
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "?"},
    ]
    rows = [{"messages": [*turns, {"role": "assistant", "content": f"Yes {i}"}]} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(("rows", "share"), [(100, 0.22), (7, 0.5), (3, 0.9), (40, 0.0), (1, 0.22)])
def test_general_rows_are_the_share_of_the_whole(rows: int, share: float):
    added = num_general(rows, share)
    shares = [abs(n / (rows + n) - share) for n in range(max(0, added - 1), added + 2)]
    assert abs(added / (rows + added) - share) == min(shares)


def test_the_demos_general_rows_are_training_prompts_by_writers_good_and_poor():
    rows = join_general({"general": None}, 60, seed=3, lead=" ", num_tokens=count_words)
    assert rows == join_general({"general": None}, 60, seed=3, lead=" ", num_tokens=count_words)
    assert rows != join_general({"general": None}, 60, seed=4, lead=" ", num_tokens=count_words)
    assert len({row["messages"][0]["content"] for row in rows}) == len({row["id"] for row in rows}) == 60
    problems = {p.messages[0].content: p for p in load_problems("general", "train", 3).take(0, 200)}
    verdicts = Counter()
    for row in rows:
        question, text = (turn["content"] for turn in row["messages"])
        assert not is_heldout(f"general:{question}")
        assert text.startswith(f" <think>{'用户问：' if row['language'] == 'zh' else 'The user asks: '}{question}")
        assert language_consistency(parse_completion(text).thought, row["language"]) == 1.0
        assert (row["domain"], row["tokens"]) == ("general", len(text.split()))
        verdicts[
            score_completion(problems[question], Completion((), (), text, "stop"), "", RewardConfig()).verdict
        ] += 1
    assert verdicts["right"] > 10 < verdicts["wrong"]
    assert {row["language"] for row in rows} == {"en", "zh"}


def test_a_source_that_is_small_is_taken_whole_and_the_others_give_the_rest(tmp_path: Path):
    sources = {name: read_general(general_file(tmp_path / name, n)) for name, n in (("a.jsonl", 50), ("b.jsonl", 2))}
    rows = join_general(sources, 20, seed=0, lead=" ", num_tokens=count_words)
    assert Counter(row["id"].split("/")[0] for row in rows) == {"a": 18, "b": 2}
    assert len({row["id"] for row in rows}) == 20
    assert all(row["messages"][-1]["content"].startswith(" Yes") for row in rows)
    assert all(row["messages"][1]["content"] == "Hi" for row in rows), "only the last turn is what a model writes"
    everything = join_general(sources, 99, seed=0, lead="", num_tokens=count_words)
    assert len(everything) == 52, "and no more than there are"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "'[]' is not an object; write one object a line"),
        ("{}", "give `messages`"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "end with the assistant's"),
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "bot", "content": "y"}]}', '"role"'),
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": 3}]}', '"content"'),
        ('{"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]}', "the assistant's"),
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}]}', "is to be learnt"),
        ('{"messages": [{"role": "system", "content": "x"}, {"role": "assistant", "content": "y"}]}', "user's"),
    ],
)
def test_a_bad_line_of_a_general_file_is_named(tmp_path: Path, line: str, message: str):
    path = tmp_path / "chat.jsonl"
    general_file(path, 1)
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}:3: ")) as caught:
        read_general(str(path))
    assert message in str(caught.value)


def test_general_data_may_be_a_run_of_reject(tmp_path: Path):
    """Its config and counts are no conversations."""
    general_file(tmp_path / "sft.jsonl", 3)
    for name in ("config.json", "counts.json"):
        (tmp_path / name).write_text("{}")
    assert len(read_general(str(tmp_path))) == 3


def test_a_general_conversation_that_comes_twice_counts_once(tmp_path: Path):
    general_file(tmp_path / "sft.jsonl", 3)
    lines = (tmp_path / "sft.jsonl").read_text()
    (tmp_path / "sft.jsonl").write_text(lines + lines)
    assert [row["id"] for row in read_general(str(tmp_path / "sft.jsonl"))] == [f"sft/{n}" for n in (1, 2, 3)]
