"""`r1kit score TASK FILE.jsonl`: what it writes and prints, and how it answers wrong input."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from r1kit.cli import main
from r1kit.config import ScoreConfig
from r1kit.rewards import VerdictPool
from r1kit.rewards import code as code_module
from r1kit.sandbox import Sandbox, SandboxUnavailable
from r1kit.stages import score

DATA = Path(__file__).parents[2] / "shared" / "data"


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def verdicts(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def answer(text: str, gold: Any = "42", **more: Any) -> dict[str, Any]:
    return {**more, "gold": gold, "completion": f"<think>a</think><answer>{text}</answer>"}


def grade(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[str, str]:
    assert main(["score", *map(str, args)]) == 0
    out, err = capsys.readouterr()
    return out, err


def refused(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    assert main(["score", *map(str, args)]) == 2
    out, err = capsys.readouterr()
    assert not out and "Traceback" not in err
    return err


def test_a_verdict_a_line_in_order_and_the_counts(tmp_path, capsys):
    rows = [answer("42", id="a"), answer("41", id=7), answer("forty", 42), answer("42.0", gold=42)]
    file = write(tmp_path / "outputs.jsonl", *rows)
    out, err = grade(capsys, "number", file)
    assert verdicts(tmp_path / "outputs.verdicts.jsonl") == [
        {"line": 1, "id": "a", "verdict": "right", "extracted": "42", "reason": "answered 42, gold 42"},
        {"line": 2, "id": 7, "verdict": "wrong", "extracted": "41", "reason": "answered 41, gold 42"},
        {"line": 3, "verdict": "wrong", "extracted": "forty", "reason": "'forty' is not a number, gold 42"},
        {"line": 4, "verdict": "right", "extracted": "42", "reason": "answered 42, gold 42"},
    ]
    assert out.split("\n")[:4] == [
        f"{file}: 4 completions, scorer number",
        "  right      2   50.00%  (95% interval 15.00% to 85.00%)",
        "  wrong      2   50.00%",
        "  undecided  0    0.00%",
    ]
    assert not err


def test_rows_end_at_line_feeds_only_and_blank_lines_are_skipped(tmp_path, capsys):
    first = answer("4\u2028 2\x85", "4 2")
    text = "\ufeff" + json.dumps(first, ensure_ascii=False) + "\r\n\n" + json.dumps(answer("B", "b")) + "\n\n"
    (tmp_path / "o.jsonl").write_text(text, encoding="utf-8")
    grade(capsys, "exact", tmp_path / "o.jsonl")
    found = verdicts(tmp_path / "o.verdicts.jsonl")
    assert [(row["line"], row["verdict"]) for row in found] == [(1, "right"), (3, "right")]


def test_half_a_surrogate_pair_survives(tmp_path, capsys):
    line = '{"gold": "x", "id": "\\ud800", "completion": "<answer>\\ud83d</answer>"}\n'
    (tmp_path / "o.jsonl").write_text(line)
    grade(capsys, "exact", tmp_path / "o.jsonl")
    (row,) = verdicts(tmp_path / "o.verdicts.jsonl")
    assert (row["id"], row["verdict"], row["extracted"]) == ("\ud800", "wrong", "\ud83d")


def test_names_of_fields_and_of_the_result(tmp_path, capsys):
    file = write(tmp_path / "o.jsonl", {"gt": "42", "text": "<answer>42</answer>", "gold": 1, "completion": None})
    out, _ = grade(
        capsys, "number", file, "--gold-field", "gt", "--completion-field", "text", "--out", tmp_path / "new/v.jsonl"
    )
    assert verdicts(tmp_path / "new/v.jsonl")[0]["verdict"] == "right"
    assert str(tmp_path / "new/v.jsonl") in out
    assert not (tmp_path / "o.verdicts.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("a.jsonl", "a.verdicts.jsonl"),
        ("a.jsonl.gz", "a.verdicts.jsonl"),
        ("a.b.jsonl", "a.b.verdicts.jsonl"),
        ("a", "a.verdicts.jsonl"),
    ],
)
def test_the_file_of_verdicts_stands_beside(name, result):
    assert score.verdicts_file(Path("x") / name) == Path("x") / result


def test_a_compressed_file(tmp_path, capsys):
    with gzip.open(tmp_path / "o.jsonl.gz", "wt") as file:
        file.write(json.dumps(answer("42")) + "\n")
    assert "1 completions" in grade(capsys, "number", tmp_path / "o.jsonl.gz")[0]


def test_a_gold_that_cannot_be_used_is_undecided_and_counted(tmp_path, capsys):
    rows = [answer("42"), *[answer("n/a", gold) for gold in ("n/a", None, "", [1], "n/a", True)], answer("1", "2")]
    file = write(tmp_path / "o.jsonl", *rows)
    out, err = grade(capsys, "number", file)
    found = [row["verdict"] for row in verdicts(tmp_path / "o.verdicts.jsonl")]
    assert found == ["right", *["undecided"] * 6, "wrong"]
    assert "  undecided  6   75.00%" in out
    assert "3 x gold is …; give a number such as …" in out and "(first in line 2)" in out
    assert "warning: the gold of 6 of 8 rows cannot be used" in err
    assert "lines 2, 3, 4, 5, 6 and 1 more" in err


def test_a_null_completion_is_a_failed_call_and_undecided(tmp_path, capsys):
    file = write(tmp_path / "o.jsonl", answer("41"), {"gold": "42", "completion": None}, answer("42"))
    out, err = grade(capsys, "number", file)
    found = [(row["line"], row["verdict"]) for row in verdicts(tmp_path / "o.verdicts.jsonl")]
    assert found == [(1, "wrong"), (2, "undecided"), (3, "right")]
    assert "1 x no completion: it is null (first in line 2)" in out and not err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"completion": "x"}', "no field 'gold' among ['completion']; name the right one with --gold-field"),
        ('{"gold": "x", "output": "y"}', "no field 'completion' among ['gold', 'output']; name the right one"),
        ('{"gold": "x", "completion": ["y"]}', "completion is \"['y']\" (list); give the model's output as one text"),
        ('{"gold": "x", "completion": 42}', "completion is '42' (int)"),
        ('{"gold": "x",', "not JSON"),
        ('["gold"]', 'is not an object; write {"gold": ..., "completion": "..."}'),
    ],
)
def test_a_bad_row_is_named_before_anything_is_graded(tmp_path, capsys, line, message):
    file = tmp_path / "o.jsonl"
    file.write_text(json.dumps(answer("42")) + "\n\n" + line + "\n" + json.dumps(answer("42")) + "\n")
    err = refused(capsys, "number", file)
    assert f"{file}:3: " in err and message in err
    assert [path.name for path in tmp_path.iterdir()] == ["o.jsonl"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["number", "none.jsonl"], "none.jsonl: no such file; give the path"),
        (
            ["number", "empty.jsonl"],
            'empty.jsonl: the file is empty; give one {"gold": ..., "completion": "..."} object',
        ),
        (["maths", "o.jsonl"], "no scorer or task 'maths'; give one of exact, number, math, choice"),
        (["number", "o.jsonl", "--out", "o.jsonl"], "is the file that is read"),
        (["number", "o.jsonl", "--out", "./../T/o.jsonl"], "is the file that is read"),
        (["number", "o.jsonl", "--out", "o.jsonl/v"], "o.jsonl/v cannot be written (File exists); name another file"),
        (["number", "o.jsonl", "--seconds", "0"], "--seconds is 0"),
        (["number", "o.jsonl", "--workers", "-1"], "--workers is -1"),
        (["number", "o.jsonl", "--gold-field", "completion"], "the output cannot be its own gold"),
        ([], "needs a scorer (math, choice, code, ...) and a .jsonl file first: r1kit score TASK FILE"),
        (["number"], "needs the .jsonl file after the scorer"),
        (["number", "--seconds", "3"], "needs the .jsonl file after the scorer"),
    ],
)
def test_a_wrong_command_says_what_to_do(tmp_path, monkeypatch, capsys, args, message):
    folder = tmp_path / "T"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "empty.jsonl").write_text("\n\n")
    write(folder / "o.jsonl", answer("42"))
    try:
        assert main(["score", *args]) == 2
    except SystemExit as exit:  # tyro's, for a config that refuses its values
        assert exit.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert verdicts(folder / "o.jsonl") == [answer("42")]


def test_what_fails_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    file = write(tmp_path / "o.jsonl", *[answer("42")] * 6)
    (tmp_path / "o.verdicts.jsonl").write_text("old")
    monkeypatch.setattr(score, "BATCH", 2)
    graded = VerdictPool.score_many
    calls = []

    def once(self: VerdictPool, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return graded(self, *args)

    monkeypatch.setattr(VerdictPool, "score_many", once)
    assert main(["score", "number", str(file)]) == 130
    assert (tmp_path / "o.verdicts.jsonl").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.jsonl", "o.verdicts.jsonl"]


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_long_files_are_graded_in_pieces_and_stay_in_order(tmp_path, monkeypatch, capsys, batch):
    monkeypatch.setattr(score, "BATCH", batch)
    file = write(tmp_path / "o.jsonl", *[answer(str(n % 3), str(n % 2), id=n) for n in range(10)])
    grade(capsys, "number", file)
    found = verdicts(tmp_path / "o.verdicts.jsonl")
    assert [row["id"] for row in found] == list(range(10))
    assert [row["verdict"] == "right" for row in found] == [n % 3 == n % 2 for n in range(10)]


def test_completions_of_one_problem_count_once_for_the_interval(tmp_path, capsys):
    file = write(tmp_path / "o.jsonl", *[answer("42" if n % 2 else "41", id=n // 5) for n in range(20)])
    out, _ = grade(capsys, "number", file)
    assert "20 completions of 4 problems" in out
    assert "50.00%  (95% interval 15.00% to 85.00%)" in out  # as wide as for 4 completions


def test_wilsons_interval_by_hand():
    # 8 of 10: centre 0.8 + 0.19208, half 1.96 sqrt(0.016 + 0.009604), over 1.38416
    assert score.interval(8, 10, 10) == pytest.approx((0.4901, 0.9433), abs=1e-4)
    assert score.interval(0, 10, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert score.interval(10, 10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_tasks_name_their_scorer(tmp_path, capsys):
    assert [score.scorer_of(name) for name in ("countdown", "remainder", "reasoning_gym:chain_sum", "math")] == [
        "countdown", "number", "reasoning_gym", "math",
    ]  # fmt: skip
    file = write(tmp_path / "o.jsonl", answer("8*3*1", {"numbers": [8, 3, 1], "target": 24}))
    assert "1  100.00%" in grade(capsys, "countdown", file)[0]


def test_answers_of_any_form(tmp_path, capsys):
    texts = {
        r"We get $\boxed{\frac{1}{2}}$.": "right",
        "Therefore, the answer is 0.5.": "right",
        "<think>It is 0.4.</think>The final answer is $1/2$.": "right",
        "<answer>0.5</answer>": "right",
        "<think>The answer is 0.5.</think>I do not know.": "wrong",
        "The answer is 0.4.": "wrong",
        "": "wrong",
    }
    file = write(tmp_path / "o.jsonl", *[{"gold": r"\frac12", "completion": text} for text in texts])
    grade(capsys, "math", file, "--workers", "1")
    found = [row["verdict"] for row in verdicts(tmp_path / "o.verdicts.jsonl")]
    assert dict(zip(texts, found, strict=True)) == texts


SUMS = {"stdio": [{"input": "1 2\n", "output": "3\n"}]}
PROGRAM = {"gold": SUMS, "completion": "```python\nprint(sum(map(int, input().split())))\n```"}


def test_programs_are_run_in_the_sandbox(tmp_path, capsys):
    try:
        Sandbox().close()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    file = write(tmp_path / "o.jsonl", PROGRAM, {"gold": SUMS, "completion": "```python\nprint(4)\n```"})
    grade(capsys, "code", file)
    assert [row["verdict"] for row in verdicts(tmp_path / "o.verdicts.jsonl")] == ["right", "wrong"]


def test_without_isolation_programs_are_refused_unless_asked_for(tmp_path, monkeypatch, capsys):
    class Nowhere(Sandbox):
        def __init__(self, *, unsafe: bool = False) -> None:
            if not unsafe:
                raise SandboxUnavailable("no isolation here; --unsafe-code runs the code without isolation")
            super().__init__(unsafe=True)

    monkeypatch.setattr(code_module, "Sandbox", Nowhere)
    monkeypatch.setattr(code_module, "_shared", {})
    file = write(tmp_path / "o.jsonl", PROGRAM)
    assert "no isolation here" in refused(capsys, "code", file)
    grade(capsys, "code", file, "--unsafe-code")
    assert verdicts(tmp_path / "o.verdicts.jsonl")[0]["verdict"] == "right"


def test_published_outputs_are_graded_as_published(tmp_path, capsys):
    published = DATA / "graded_outputs" / "skythought_qwen2.5-math-7b_aime24.jsonl"
    if not published.exists():
        pytest.skip(f"no {published}")
    rows = verdicts(published)
    file = write(tmp_path / "o.jsonl", *[{"gold": row["gt"], "completion": row["code"][0]} for row in rows])
    grade(capsys, "math", file)
    found = [row["verdict"] == "right" for row in verdicts(tmp_path / "o.verdicts.jsonl")]
    assert found == [row["score"][0] for row in rows] and len(found) == 30


def test_the_config_is_checked_when_it_is_made():
    with pytest.raises(ValueError, match="--workers is -2; give 0"):
        ScoreConfig(workers=-2)
