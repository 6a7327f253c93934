"""Facts about data sets: where rows are found, which column is which, what is left out and why."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from r1kit.config import ColumnsConfig
from r1kit.data.known import KNOWN
from r1kit.data.layouts import conversation_of, problem_of
from r1kit.data.rows import check_source, is_source, parts_of, read_rows
from r1kit.tasks import load_problems
from r1kit.training.conversations import read_conversations
from r1kit.types import Message

DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\nWhat is $1+1$?\n\nRemember to put your "
    'answer on its own line after "Answer:".'
)


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
    hint = "in a table without a line of names columns are numbers: --columns.prompt 1"
    with pytest.raises(ValueError, match=f"a.tsv:2: no field 'prompt' among .*1\\+1.*{hint}"):
        load_problems(str(tmp_path / "a.tsv"), "train", 0)
    with pytest.raises(ValueError, match=f"a.tsv:2: found only .*1\\+1.*{hint}"):
        read_conversations([str(tmp_path / "a.tsv")])
    with pytest.raises(ValueError, match=f"a.tsv:2: no column 'ask' .*1\\+1.*{hint}"):
        read_conversations([str(tmp_path / "a.tsv")], ColumnsConfig(prompt="ask"))
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
    assert (heldout.task, heldout.scorer, heldout.gold) == ("gsm8k", "math", "1002")
    assert [row.split for row in read_rows("openai/gsm8k:main")] == ["heldout", "train", "train"]
    with pytest.raises(ValueError, match="asked for, it has 2"):
        load_problems("gsm8k@train", "train", 0).first(3)
    write(tmp_path / "HuggingFaceH4" / "MATH-500" / "test.jsonl", [{"problem": "p", "solution": "s", "answer": "1"}])
    assert load_problems("math500", "heldout", 0).first(1)[0].task == "math500"
    with pytest.raises(ValueError, match="math500: MATH-500, for evaluation .*; take another set for training"):
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
        ({"question": "q", "answer": "It is 2.\n#### 1,234"}, "q", "1234", ""),
        ({"question": "q", "answer": "#### Step 1\nSo $3 - 10$.\n#### -7\n"}, "q", "-7", ""),
        ({"question": "q", "answer": "Both fit.\n#### (1,000, 2)"}, "q", "(1,000, 2)", ""),
        ({"question": "q", "answer": "First \\frac12+\\frac14, so it is \\boxed{\\frac34}."}, "q", "\\frac34", ""),
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
    rows = [*good, {"question": "how?", "answer": "#### not found"}, {"problem": "why?", "solution": "no box at all"}]
    problems = load_problems(write(tmp_path / "a.jsonl", rows), "train", 0)
    assert problems.summary.endswith(  # type: ignore[attr-defined]
        "a.jsonl: 32 rows read, 30 kept; dropped 2 that have no usable answer (first: a.jsonl:31)"
    )
    with pytest.raises(ValueError, match="2 rows read, 0 kept; .* is --columns.answer the column with the answers"):
        load_problems(write(tmp_path / "b.jsonl", rows[30:]), "train", 0)


@pytest.mark.parametrize("answer", ["proof", "NotFound", " proof "])
def test_a_problem_without_a_final_answer_is_left_out(tmp_path: Path, answer: str):
    rows = [{"problem": "Show it.", "answer": answer}, {"problem": "1+1?", "answer": "2"}]
    problems = load_problems(f"{write(tmp_path / 'a.jsonl', rows)}@train", "train", 0)
    assert "2 rows read, 1 kept; dropped 1 that have no usable answer" in problems.summary  # type: ignore[attr-defined]


RATIONALE = "First \\frac12+\\frac14 of it is gone, so what is left is "


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("She sold 48/2 = <<48/2=24>>24.\nTogether 48+24 = 72.\n#### 72", "72"),
        ("#### 1,234", "1234"),
        (f"{RATIONALE}$\\boxed{{\\frac34}}$.", "\\frac34"),
        (f"{RATIONALE}$\\boxed{{1}}$ and $\\boxed{{2}}$.", "1, 2"),
        (f"{RATIONALE}$\\boxed{{1}}$. No: it is $\\boxed{{2}}$.", "2"),
        ("x=3\n\\boxed{3}", "3"),
        ("\\boxed{5}", "5"),
        ("$\\boxed{\\frac{1}{2}}$", "\\frac{1}{2}"),
        ("\\boxed{1} and \\boxed{2}", "\\boxed{1} and \\boxed{2}"),
        ("\\boxed{5}\\text{ cm}", "\\boxed{5}\\text{ cm}"),
        ("5 red apples and 3 more", "5 red apples and 3 more"),
        (" 42 ", " 42 "),
        (42, 42),
    ],
)
@pytest.mark.parametrize("mapped", [False, True])
def test_a_whole_solution_as_the_answer_ends_with_the_gold(answer: Any, gold: Any, mapped: bool):
    given = problem_of("f:1", {"prompt": "q", "answer": answer}, mapped=mapped)
    assert (given.gold, given.own) == (gold, not mapped)
    assert given.solution == (answer if gold != answer else ""), "an evaluation set's solutions are looked for"
    for scorer in ("code", "exact"):  # code has comments, and what is exact is as it stands
        assert problem_of("f:1", {"prompt": "q", "answer": answer, "scorer": scorer}).gold == answer


def test_gsm8k_with_other_names_of_columns_is_read(tmp_path: Path):
    rows = [{"q_text": f"{n}+1?", "full_solution": f"{n}+1 = {n + 1}\n#### {n + 1}"} for n in range(20)]
    rows += [{"q_text": "Why?", "full_solution": "proof"}]
    spec = f"{write(tmp_path / 'a.jsonl', rows)}@train"
    columns = ColumnsConfig(prompt="q_text", answer="full_solution")
    problems = load_problems(spec, "train", 0, columns=columns)
    assert [p.gold for p in problems.problems] == [str(n + 1) for n in range(20)]  # type: ignore[attr-defined]
    assert "21 rows read, 20 kept; dropped 1 that have no usable answer" in problems.summary  # type: ignore[attr-defined]
    own = [{"prompt": row["q_text"], "answer": row["full_solution"], "id": f"mine-{n}"} for n, row in enumerate(rows)]
    problems = load_problems(f"{write(tmp_path / 'b.jsonl', own)}@train", "train", 0)
    assert [(p.id, p.gold) for p in problems.problems][:2] == [("mine-0", "1"), ("mine-1", "2")]  # type: ignore[attr-defined]
    assert "21 rows read, 20 kept" in problems.summary  # type: ignore[attr-defined]


def test_rows_with_roles_that_no_template_has_are_counted(tmp_path: Path):
    ask, say = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    rows = [
        {"messages": [ask, say]},
        {"messages": [ask, {"role": "tool", "content": [{"type": "text", "text": "4"}]}, say]},
        {"messages": [{"role": "developer", "content": "Be brief."}, ask, say]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{}"}]},
        {"prompt": [ask, {"role": "tool", "content": None}], "completion": [say]},
        {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}, say]},
        {"messages": [ask, {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add"}}]}]},
        {"messages": [ask, {"role": "assistant", "content": "", "function_call": {"name": "add"}}, ask, say]},
        {"messages": [ask, {**say, "tool_calls": None, "function_call": None}]},
    ]
    found = read_conversations([write(tmp_path / "a.jsonl", rows)])
    assert len(found) == 2
    assert "9 rows read, 2 kept; dropped 2 that have a message of role tool (first: a.jsonl:2)" in found.summary
    assert "1 that have a message of role developer (first: a.jsonl:3)" in found.summary
    assert "1 that have a message of role function_call" in found.summary
    assert "1 that have a message with a part of type image" in found.summary
    assert "1 that have a message with tool_calls in place of a text (first: a.jsonl:7)" in found.summary
    assert "1 that have a message with function_call in place of a text (first: a.jsonl:8)" in found.summary
    mistaken = [*rows, {"messages": [{"role": "asistant", "content": "a"}]}]
    with pytest.raises(ValueError, match="b.jsonl:10: .*asistant.*one of system, user, assistant"):
        read_conversations([write(tmp_path / "b.jsonl", mistaken)])


def test_the_scorer_is_the_rows_then_the_flags_then_the_layouts(tmp_path: Path):
    rows = [{"question": "1+1?", "answer": "so\n#### 2"}, {"prompt": "1+2?", "answer": "3", "scorer": "math"}]
    spec = f"{write(tmp_path / 'a.jsonl', rows)}@train"
    for flag, expected in (("", ["math", "math"]), ("number", ["number", "math"]), ("exact", ["exact", "math"])):
        problems = load_problems(spec, "train", 0, columns=ColumnsConfig(scorer=flag)).problems  # type: ignore[attr-defined]
        assert [problem.scorer for problem in problems] == expected


def test_a_python_file_with_make_problem_is_a_task(tmp_path: Path):
    file = tmp_path / "sums.py"
    file.write_text(
        "from r1kit.types import Message, Problem\n"
        "def make_problem(rng):\n"
        "    n = rng.randint(1, 99)\n"
        "    return Problem(f'sums:{n}', 'sums', (Message('user', f'{n}+1?'),), str(n + 1), 'number')\n"
    )
    train, heldout = (load_problems(str(file), split, 0) for split in ("train", "heldout"))
    assert train.take(0, 3) == load_problems(str(file), "train", 0).take(0, 3)
    assert {p.id for p in train.take(0, 80)}.isdisjoint(p.id for p in heldout.first(3))
    with pytest.raises(FileNotFoundError, match=r"no such file; give a Python file with make_problem\(rng\)"):
        load_problems(str(tmp_path / "none.py"), "train", 0)


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
