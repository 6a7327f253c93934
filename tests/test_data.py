"""Facts about data sets: where rows are found, which column is which, what is left out and why."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from r1kit.config import ColumnsConfig, FilterConfig
from r1kit.data.filters import Evaluated, Seen, words
from r1kit.data.known import KNOWN
from r1kit.data.layouts import conversation_of, problem_of
from r1kit.data.rows import check_source, is_source, parts_of, read_rows
from r1kit.data.spool import IN_MEMORY, Spool
from r1kit.rewards.accuracy import gold_fault, score_answer
from r1kit.rewards.knights import judge, knights_fault
from r1kit.tasks import load_problems
from r1kit.training.conversations import read_conversations
from r1kit.types import Message

SHARED = Path(__file__).parents[2] / "shared" / "data"
DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\nWhat is $1+1$?\n\nRemember to put your "
    'answer on its own line after "Answer:".'
)


def shared(name: str) -> str:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here: public data for trials, not part of the repository")
    return str(path)


def write(path: Path, rows: list[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


# Where rows are


def test_every_kind_of_file_has_the_same_rows(tmp_path: Path):
    rows = [{"prompt": "a,\u2028b", "answer": "1"}, {"prompt": 'c "d"', "answer": "2"}]
    sources = [write(tmp_path / name, rows) for name in ("a.jsonl", "a.jsonl.gz", "a.json")]
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.csv").write_text('prompt,answer\n"a,\u2028b",1\n"c ""d""",2\n')
    (tmp_path / "a.tsv").write_text('prompt\tanswer\na,\u2028b\t1\nc "d"\t2\n')
    for source in (*sources, *(str(tmp_path / name) for name in ("lines.json", "a.csv", "a.tsv"))):
        assert [row.fields for row in read_rows(source)] == rows, source
        assert {row.split for row in read_rows(source)} == {""}
    assert [row.where for row in read_rows(sources[2])] == [f"{sources[2]}:1", f"{sources[2]}:2"]


def test_parquet_is_read_in_parts_and_only_the_columns_that_are_used(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow", reason="pip install 'r1kit[data]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"prompt": [f"{n}?" for n in range(600)], "answer": ["1"] * 600, "huge": ["x" * 1000] * 600}
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table(columns), path, row_group_size=100)
    rows = list(read_rows(str(path), names=("prompt", "answer")))
    assert (
        len(rows) == 600 and rows[599].fields == {"prompt": "599?", "answer": "1"} and rows[599].where == f"{path}:600"
    )
    assert "huge" in next(iter(read_rows(str(path)))).fields
    assert len(list(read_rows(str(path), first=7))) == 7
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="a.parquet: not a whole Parquet file .*fetch it again"):
        list(read_rows(str(path)))


def test_a_table_without_a_line_of_names_has_numbers_for_columns(tmp_path: Path):
    (tmp_path / "a.tsv").write_text("1+1?\t2\n2+2?\t4\n")
    columns = ColumnsConfig(prompt="1", answer="2", scorer="number")
    assert [row.fields["answer"] for row in read_rows(str(tmp_path / "a.tsv"), columns)] == ["2", "4"]
    (tmp_path / "b.csv").write_text("prompt,answer\n1,2,3\n")
    with pytest.raises(ValueError, match=r"b.csv:2: 3 columns, the first line has 2; is it a .csv file\?"):
        list(read_rows(str(tmp_path / "b.csv")))


def test_the_names_of_a_folders_files_are_its_splits(tmp_path: Path):
    def rows(*names: str) -> list[dict[str, str]]:
        return [{"prompt": name, "answer": "1"} for name in names]

    write(tmp_path / "set" / "train-00000-of-00002.jsonl", rows("a"))
    write(tmp_path / "set" / "train-00001-of-00002.jsonl", rows("b"))
    write(tmp_path / "set" / "test.jsonl", rows("c"))
    source = str(tmp_path / "set")
    found = {row.fields["prompt"]: row.split for row in read_rows(source)}
    assert found == {"a": "train", "b": "train", "c": "heldout"}
    assert [row.fields["prompt"] for row in read_rows(source, training_only=True)] == ["a", "b"]
    assert [row.fields["prompt"] for row in read_rows(f"{source}@test")] == ["c"]
    with pytest.raises(FileNotFoundError, match="no file has 'dev' in its name"):
        list(read_rows(f"{source}@dev"))
    write(tmp_path / "one" / "train" / "a.jsonl", rows("a"))
    assert {row.split for row in read_rows(str(tmp_path / "one"))} == {""}, "one in ten will be held out"
    assert load_problems(f"{tmp_path / 'set' / 'test.jsonl'}@test", "heldout", 0).first(1)[0].task == "test"
    with pytest.raises(ValueError, match=r"none of its 1 problems is in the train split; .* write .*test.jsonl@train"):
        load_problems(f"{tmp_path / 'set' / 'test.jsonl'}@test", "train", 0)


def test_a_copy_of_a_hub_set_is_read_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("R1KIT_DATA", str(tmp_path))
    rows = [{"question": f"{n}?", "answer": f"so\n#### 1,00{n}"} for n in range(3)]
    write(tmp_path / "openai" / "gsm8k" / "main" / "train.jsonl", rows[:2])
    write(tmp_path / "openai" / "gsm8k" / "main" / "test.jsonl", rows[2:])
    write(tmp_path / "openai" / "gsm8k" / "socratic" / "train.jsonl", [{"question": "other", "answer": "#### 1"}] * 9)
    train = load_problems("gsm8k", "train", 0)
    assert sorted(problem.gold for problem in train.first(2)) == ["1000", "1001"]
    [heldout] = load_problems("gsm8k", "heldout", 0).first(1)
    assert (heldout.task, heldout.scorer, heldout.gold) == ("gsm8k", "number", "1002")
    assert [row.split for row in read_rows("openai/gsm8k:main")] == ["heldout", "train", "train"]
    with pytest.raises(ValueError, match="asked for, it has 2"):
        load_problems("gsm8k@train", "train", 0).first(3)
    write(tmp_path / "HuggingFaceH4" / "MATH-500" / "test.jsonl", [{"problem": "p", "solution": "s", "answer": "1"}])
    assert load_problems("math500", "heldout", 0).first(1)[0].task == "math500"
    with pytest.raises(ValueError, match="none of its 1 problems is in the train split"):
        load_problems("math500", "train", 0)


def test_a_file_that_changes_is_read_again(tmp_path: Path):
    file = write(tmp_path / "a.jsonl", [{"prompt": "a", "answer": "1", "split": "train"}])
    assert load_problems(file, "train", 0).first(1)[0].gold == "1"
    write(tmp_path / "a.jsonl", [{"prompt": "a", "answer": "22", "split": "train"}])
    assert load_problems(file, "train", 0).first(1)[0].gold == "22"


def test_what_is_missing_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl: no such file or folder; give a file"):
        list(read_rows(str(tmp_path / "nowhere.jsonl")))
    with pytest.raises(FileNotFoundError, match="has no data files; give files of .jsonl"):
        list(read_rows(str(tmp_path)))
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"gsm8k is no file or folder here; .* pip install 'r1kit\[data\]'"):
        parts_of("openai/gsm8k")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(ModuleNotFoundError, match=r"a.parquet is a Parquet file; .* pip install 'r1kit\[data\]'"):
        list(read_rows(str(tmp_path / "a.parquet")))
    check_source("org/name")
    with pytest.raises(FileNotFoundError, match="no such file"):
        check_source("data.jsonl")
    with pytest.raises(ValueError, match="no task 'gsm8'.*did you mean gsm8k.*math500"):
        load_problems("gsm8", "train", 0)


def test_the_hub_is_read_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets", reason="pip install 'r1kit[data]'")
    rows = [{"prompt": f"{n}", "answer": "1", "huge": "x"} for n in range(5)]
    for split in ("train", "test"):
        write(tmp_path / "set" / f"{split}.jsonl", rows)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    asked, real, real_names = [], datasets.load_dataset, datasets.get_dataset_split_names

    def load(name: str, configuration: str | None, *, split: str, streaming: bool) -> Any:
        """The hub's set is this folder: all else is the real library."""
        asked.append((name, configuration, split, streaming))
        return real(str(tmp_path / "set"), split=split, streaming=streaming)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(
        datasets, "get_dataset_split_names", lambda name, configuration: real_names(str(tmp_path / "set"))
    )
    found = list(read_rows("org/name:config", names=("prompt", "answer")))
    assert [row.split for row in found] == ["train"] * 5 + ["heldout"] * 5
    assert found[0].fields == {"prompt": "0", "answer": "1"} and found[0].where == "org/name@train:1"
    assert asked == [("org/name", "config", "train", False), ("org/name", "config", "test", False)]
    assert len(list(read_rows("org/name@test", first=2))) == 2 and asked[-1] == ("org/name", None, "test", True)

    def offline(name: str, configuration: str | None) -> list[str]:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "get_dataset_split_names", offline)
    with pytest.raises(FileNotFoundError, match="no data set of that name could be read .*no network.*R1KIT_DATA"):
        list(read_rows("org/name"))


def test_known_sets_are_named_as_the_hub_wants_it():
    for name, known in KNOWN.items():
        assert is_source(name) and (known.train or known.heldout)
        for source in filter(None, (known.train, known.heldout)):
            assert is_source(source) and source.partition("@")[0].partition(":")[0].count("/") == 1


# Layouts of problems


@pytest.mark.parametrize(
    ("row", "prompt", "gold", "scorer"),
    [
        ({"prompt": "a", "answer": 2, "scorer": "number"}, "a", 2, "number"),
        ({"question": "q", "answer": "It is 2.\n#### 1,234"}, "q", "1234", "number"),
        ({"problem": "q", "solution": "so $\\boxed{\\frac{1}{2}}$", "level": "Level 5"}, "q", "\\frac{1}{2}", ""),
        ({"problem": "q", "solution": "so \\boxed{3}", "answer": "3"}, "q", "3", ""),
        ({"Problem": "q", "Solution": "long", "Answer": 204}, "q", 204, ""),
        ({"input": "问", "golden": "9"}, "问", "9", ""),
        (
            {"prompt": [{"role": "user", "content": DAPO}], "reward_model": {"ground_truth": "2"}},
            "What is $1+1$?",
            "2",
            "",
        ),
        ({"prompt": "What is it?", "solution": "34", "data_source": "math_dapo"}, "What is it?", "34", ""),
        ({"prompt": "<|im_start|>q", "question": "q", "reward_model": {"ground_truth": ["5"]}}, "q", "5", ""),
        ({"prompt": "w", "reward_model": {"ground_truth": "5"}, "extra_info": {"question": "q"}}, "q", "5", ""),
        (
            {"nums": [44, 19], "target": 63, "prompt": "wrapped"},
            "Using the numbers [44, 19], create an equation that equals 63. You can use basic arithmetic operations "
            "(+, -, *, /) and each number can only be used once.",
            {"numbers": [44, 19], "target": 63},
            "countdown",
        ),
        (
            {"quiz": "Who?", "names": ["Zoey", "Owen"], "solution": [True, False]},
            "Who? Answer for each of Zoey, Owen, one a line: NAME is a knight, or NAME is a knave.",
            {"Zoey": "knight", "Owen": "knave"},
            "knights",
        ),
    ],
)
def test_problems_of_public_sets_are_known_by_their_columns(row: dict[str, Any], prompt: str, gold: Any, scorer: str):
    found = problem_of("file:1", row)
    assert (found.messages, found.gold, found.scorer) == ((Message("user", prompt),), gold, scorer)
    assert found.own == (row.keys() == {"prompt", "answer", "scorer"})


def test_flags_name_the_columns(tmp_path: Path):
    rows = [
        {"ask": f"{n}+1?", "result": str(n + 1), "prompt": "wrapped", "reward_model": {"ground_truth": "0"}, "id": 5}
        for n in range(20)
    ]
    file = write(tmp_path / "a.jsonl", rows)
    columns = ColumnsConfig(prompt="ask", answer="result", scorer="number")
    problems = load_problems(file, "train", 0, columns=columns).problems  # type: ignore[attr-defined]
    assert problems[0].messages == (Message("user", "0+1?"),) and problems[0].scorer == "number"
    assert {problem.gold for problem in problems} <= {str(n + 1) for n in range(20)}
    with pytest.raises(ValueError, match=r"a.jsonl:1: no column 'answers' \(--columns.answer\) among ask, id, prompt"):
        load_problems(file, "train", 0, columns=ColumnsConfig(answer="answers"))
    openr1 = {"problem": "q", "solution": "s", "messages": [{"role": "user", "content": "other"}]}
    [one] = read_conversations(
        [write(tmp_path / "b.jsonl", [openr1])], ColumnsConfig(prompt="problem", completion="solution")
    )
    assert [message.content for message in one.messages] == ["q", "s"]


def test_rows_of_public_sets_that_no_scorer_can_use_are_counted(tmp_path: Path):
    good = [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(30)]
    rows = [*good, {"question": "how?", "answer": "#### many"}, {"problem": "why?", "solution": "no box at all"}]
    problems = load_problems(write(tmp_path / "a.jsonl", rows), "train", 0)
    assert problems.summary.endswith(  # type: ignore[attr-defined]
        "a.jsonl: 32 rows read, 30 kept; dropped 2 that have no usable answer (first: a.jsonl:31)"
    )
    with pytest.raises(ValueError, match="2 rows read, 0 kept; .* is --columns.answer the column with the answers"):
        load_problems(write(tmp_path / "b.jsonl", rows[30:]), "train", 0)


def test_a_system_prompt_is_put_before_prompts_that_have_none(tmp_path: Path):
    rows = [
        {"prompt": "a", "answer": "1", "split": "train"},
        {"prompt": [{"role": "system", "content": "own"}, {"role": "user", "content": "b"}], "answer": "1"},
    ]
    rows[1]["split"] = "train"
    file = write(tmp_path / "a.jsonl", rows)
    told = load_problems(file, "train", 0, system_prompt="Think.").problems  # type: ignore[attr-defined]
    assert [problem.messages[0].content for problem in told] == ["Think.", "own"]
    assert [p.id for p in told] == [p.id for p in load_problems(file, "train", 0).problems]  # type: ignore[attr-defined]
    [drawn] = load_problems("countdown", "train", 0, system_prompt="Think.").take(0, 1)
    [plain] = load_problems("countdown", "train", 0).take(0, 1)
    assert drawn.messages == (Message("system", "Think."), *plain.messages) and drawn.id == plain.id
    [one] = read_conversations(
        [write(tmp_path / "b.jsonl", [{"prompt": "q", "completion": "a"}])], None, None, "Think."
    )
    assert one.messages[0] == Message("system", "Think.")


# Layouts of conversations


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"prompt": "q", "completion": "a"},
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        {"instruction": "q", "input": "", "output": "a"},
        {"question": "q", "response": "a"},
        {"Problem": "q", "Solution": "a"},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "q"}]},
                {"role": "assistant", "content": "a"},
            ]
        },
    ],
)
def test_conversations_of_public_layouts(row: dict[str, Any]):
    assert conversation_of("file:1", row) == (Message("user", "q"), Message("assistant", "a"))


def test_what_else_a_conversation_may_have():
    alpaca = conversation_of("f:1", {"instruction": "Add.", "input": "1, 2", "output": "3", "system": "Short."})
    assert [message.content for message in alpaca] == ["Short.", "Add.\n\n1, 2", "3"]
    apart = {"role": "assistant", "content": "3", "reasoning_content": "1 and 2\n"}
    [_, answer] = conversation_of("f:1", {"messages": [{"role": "user", "content": "q"}, apart]})
    assert answer.content == "<think>\n1 and 2\n</think>\n\n3"
    with pytest.raises(ValueError, match="f:1: message .*tool.* in messages needs"):
        conversation_of("f:1", {"messages": [{"role": "user", "content": "q"}, {"role": "tool", "content": "x"}]})
    with pytest.raises(ValueError, match="f:1: found only text; give `messages` .*--columns.prompt"):
        conversation_of("f:1", {"text": "no prompt"})


# What is left out


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
    "math_bench/gsm8k_train.jsonl@train": (7473, "number"),
    "math_bench/gsm8k_test.jsonl@test": (1319, "number"),
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
    talks = read_conversations([shared("math_bench/gsm8k_test.jsonl")])
    assert len(talks) == 1319 and "####" in talks[0].messages[-1].content
