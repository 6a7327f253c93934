"""Facts about what is left out of data sets and why: repeats, contamination, length; and what is held on disk."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from r1kit.config import ColumnsConfig, FilterConfig
from r1kit.data.filters import Evaluated, Seen, words
from r1kit.data.spool import IN_MEMORY, Spool
from r1kit.tasks import load_problems
from r1kit.training.conversations import prepare, read_conversations
from r1kit.training.prompts import shorter_prompts
from tiny import tiny_tokenizer


def write(path: Path, rows: list[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def test_ten_words_on_end_are_contamination_and_nine_are_not():
    known = Evaluated(10)
    question = "A train leaves the station at nine, and travels for two hours at 60 km/h."
    known.add("test", [question, "What is 2+2?", "小明有三个苹果和五个梨一共多少"])
    assert words("A train, (leaves) $x^2$!") == ["a", "train", "leaves", "x", "2"]
    nine, ten = "a TRAIN leaves the station at nine and travels", "a TRAIN leaves: the station at nine and travels for"
    assert known.shared_with([f"Once {ten} ever."]) == "test"
    assert known.shared_with([f"Once {nine} ever."]) == ""
    assert known.shared_with([ten]) == known.shared_with([f"Once {ten}"]) == "test", "the last ten words as well"
    assert known.shared_with(["", "..."]) == ""
    assert known.shared_with(["So: what is 2+2? It is four, as all of us have known for years."]) == ""
    assert known.shared_with(["what is 2 + 2"]) == "test", "a short question is one only as a whole"
    assert known.shared_with(["问:小明有三个苹果和五个梨吗"]) == "test"


def test_training_rows_that_share_words_with_an_evaluation_set_are_dropped(tmp_path: Path):
    secret = "Janet's ducks lay sixteen eggs per day and she eats three for breakfast"
    solution = "She sells the rest of the eggs at the market for two dollars"
    test = write(tmp_path / "test.jsonl", [{"question": secret + "?", "answer": solution + "\n#### 18"}])
    rows = [
        {"prompt": f"Look: {secret} every day.", "answer": "1"},
        {"prompt": "Another one", "answer": "2"},
        {"prompt": "Third", "answer": "3"},
    ]
    filters = FilterConfig(decontaminate=(test,))
    problems = load_problems(f"{write(tmp_path / 'a.jsonl', rows)}@train", "train", 0, filters=filters)
    assert {p.gold for p in problems.problems} == {"2", "3"}  # type: ignore[attr-defined]
    assert "dropped 1 that share 10 words on end with" in problems.summary  # type: ignore[attr-defined]
    talks = [{"prompt": "q", "completion": f"Well. {solution}."}, {"prompt": "q", "completion": "Fine."}]
    found = read_conversations([write(tmp_path / "sft.jsonl", talks)], None, filters)
    assert [one.messages[-1].content for one in found] == ["Fine."] and "2 rows read, 1 kept" in found.summary
    with pytest.raises(ValueError, match="--filter.decontaminate countdown: give a data set"):
        read_conversations([str(tmp_path / "sft.jsonl")], None, FilterConfig(decontaminate=("countdown",)))


def test_equal_rows_and_near_ones():
    exact, near = Seen(), Seen(near=True)
    story = "Tom has {} apples and gives {} of them to his sister who lives in the next street over there"
    assert not exact.again("What is 2+3?") and exact.again("what  is\n2+3?") and not exact.again("What is 2-3?")
    assert not near.again(story.format(3, 2)) and near.again(story.format(3, 2) + " today")
    assert not near.again("Something else altogether, about a bird that nobody has ever seen in this old town")
    assert not exact.again(story.format(3, 2)) and not exact.again(story.format(3, 2) + " today")


def test_a_prompt_on_both_sides_of_a_published_split_is_held_out(tmp_path: Path):
    write(tmp_path / "set" / "a-train.jsonl", [{"prompt": p, "answer": "1"} for p in ("a", "b")])
    write(tmp_path / "set" / "b-test.jsonl", [{"prompt": p, "answer": "1"} for p in ("b", "c")])
    source = str(tmp_path / "set")
    train, heldout = (load_problems(source, split, 0) for split in ("train", "heldout"))
    clean = load_problems(source, "heldout", 0, filters=FilterConfig(decontaminate=(source,)))
    assert len(clean.first(2)) == 2, "what is held out is not training data"
    assert [p.messages[0].content for p in train.first(1)] == ["a"]
    assert {p.messages[0].content for p in heldout.first(2)} == {"b", "c"}
    assert "4 rows read, 3 kept; dropped 1 that repeat a prompt" in train.summary  # type: ignore[attr-defined]


def test_rows_of_fine_tuning_data(tmp_path: Path):
    rows = [{"prompt": "q", "completion": "a"}, {"prompt": "Q", "completion": " a"}, {"prompt": "q", "completion": "b"}]
    file = write(tmp_path / "a.jsonl", rows)
    assert len(read_conversations([file])) == 3, "without filters all are there"
    found = read_conversations([file, file], None, FilterConfig())
    assert [one.messages[-1].content for one in found] == ["a", "b"]
    assert found.summary.splitlines()[1].endswith("3 rows read, 0 kept; dropped 3 that repeat a row (first: a.jsonl:1)")
    assert len(read_conversations([file], None, FilterConfig(first=1))) == 1


def test_rows_without_a_reply_are_counted_and_empty_columns_are_none(tmp_path: Path):
    rows = [
        {"problem": "1+1?", "solution": None},
        {"problem": "1+2?", "solution": None, "answer": "3"},
        {"messages": None, "prompt": "1+3?", "completion": "4"},
    ]
    found = read_conversations([write(tmp_path / "a.jsonl", rows)])
    assert [one.messages[-1].content for one in found] == ["3", "4"]
    assert "3 rows read, 2 kept; dropped 1 that have no reply (first: a.jsonl:1)" in found.summary
    mapped = [{"q": "1+1?", "a": None, "messages": []}, {"q": "1+2?", "a": "3", "messages": []}]
    found = read_conversations([write(tmp_path / "b.jsonl", mapped)], ColumnsConfig(prompt="q", completion="a"))
    assert [one.messages[-1].content for one in found] == ["3"]
    with pytest.raises(ValueError, match="give what is to be learnt"):
        read_conversations([write(tmp_path / "c.jsonl", [{"prompt": "1+1?", "completion": " "}])])


def test_memory_does_not_grow_with_the_conversations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("r1kit.data.spool.IN_MEMORY", 2**20)
    file = tmp_path / "large.jsonl"
    with file.open("w") as lines:
        for number in range(600):
            lines.write(json.dumps({"prompt": f"{number}?", "completion": "x" * 30_000}) + "\n")
    tracemalloc.start()
    found = read_conversations([str(file)], None, FilterConfig())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 600 and file.stat().st_size > 15 * 2**20 and peak < 6 * 2**20


def test_records_on_disk_are_a_list():
    spool: Spool[tuple[int, str]] = Spool()
    for number in range(300):
        spool.append((number, "x" * 1000 * (number % 3)))
    assert len(spool) == 300 and spool[299] == (299, "x" * 2000) and spool[-1] == spool[299]
    assert spool[2:4] == [(2, "x" * 2000), (3, "")] and [number for number, _ in spool] == list(range(300))
    spool.append((1, "y" * IN_MEMORY))
    assert spool._file._rolled and spool[300][1][-1] == "y" and spool[5] == (5, "x" * 2000)
    with pytest.raises(IndexError):
        spool[301]


def test_longer_prompts_are_left_out_and_counted(tmp_path: Path):
    tokenizer = tiny_tokenizer()
    rows = [{"prompt": "1" + "+1" * number + "?", "answer": "1", "split": "train"} for number in range(20)]
    problems = load_problems(write(tmp_path / "a.jsonl", rows), "train", 0)
    longest = len(tokenizer("User: 1" + "+1" * 7 + "?\nAssistant:").input_ids)
    kept = shorter_prompts(problems, tokenizer, "short", longest)
    assert len(kept.problems) == 8 and "; 12 train prompts longer than" in kept.summary  # type: ignore[attr-defined]
    assert shorter_prompts(problems, tokenizer, "short", 0) is problems
    with pytest.raises(ValueError, match="all 20 train prompts are longer than 3 tokens .*raise --filter.max-prompt"):
        shorter_prompts(problems, tokenizer, "short", 3)
    talks = [{"prompt": row["prompt"], "completion": "ok"} for row in rows]
    read = read_conversations([write(tmp_path / "b.jsonl", talks)])
    data = prepare(read, tokenizer, "short", 10_000, max_prompt_tokens=longest)
    assert len(data.rendered) == 8 and "12" in data.summary()
