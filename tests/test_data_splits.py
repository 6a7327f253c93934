"""Facts about `@train` and `@test`: what a split may be called, and what to do where a set has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from r1kit.data.rows import HELDOUT_NAMES, read_rows
from r1kit.tasks import load_problems


def write(path: Path, rows: list[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ROWS = [{"prompt": "a", "answer": "1"}]


@pytest.mark.parametrize("wanted", ["trian", "tset", "train_sft", "Train"])
def test_a_split_that_a_file_or_a_known_set_cannot_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
):
    """Were a mistyped @test taken for no split at all, a run would train on nine in ten of the test problems."""
    monkeypatch.setenv("R1KIT_DATA", str(tmp_path))
    file = write(tmp_path / "a.jsonl", ROWS)
    write(tmp_path / "run" / "sft.jsonl", ROWS)
    write(tmp_path / "openai" / "gsm8k" / "main" / "train.jsonl", ROWS)
    write(tmp_path / "org" / "set" / f"{wanted}-00000-of-00001.jsonl", ROWS)
    for source in (file, "gsm8k", str(tmp_path / "run")):
        with pytest.raises(ValueError, match=f"@{wanted}: no split is called '{wanted}'; write @train, or @test"):
            list(read_rows(f"{source}@{wanted}", in_run="sft.jsonl"))
    assert len(list(read_rows(f"org/set@{wanted}"))) == 1, "a published split may have any name"
    assert len(list(read_rows(f"{tmp_path / 'org' / 'set'}@{wanted}"))) == 1
    for name in HELDOUT_NAMES:
        assert [row.split for row in read_rows(f"{file}@{name}")] == ["heldout"]
    assert [row.split for row in read_rows("gsm8k@train")] == ["train"]


def test_a_set_without_problems_for_a_split_says_what_would_give_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("R1KIT_DATA", str(tmp_path))
    for split in ("train", "test"):
        write(tmp_path / "openai" / "gsm8k" / "main" / f"{split}.jsonl", [{"question": split, "answer": "#### 1"}])
    main = str(tmp_path / "openai" / "gsm8k" / "main")
    for source in ("gsm8k", "openai/gsm8k:main", main):
        with pytest.raises(ValueError, match="1 problems is in the train split; @test takes the heldout part alone: "):
            load_problems(f"{source}@test", "train", 0)
        with pytest.raises(ValueError, match="in the heldout split; @train takes the train part alone: leave it out$"):
            load_problems(f"{source}@train", "heldout", 0)
        assert load_problems(source, "train", 0).first(1)[0].messages[0].content == "train"
    write(tmp_path / "set" / "test.jsonl", ROWS)
    with pytest.raises(ValueError, match='split; add "split": "train" to the rows meant for it, or give more'):
        load_problems(str(tmp_path / "set"), "train", 0)
    file = write(tmp_path / "with@sign" / "all.jsonl", [{**ROWS[0], "split": "heldout"}])
    with pytest.raises(ValueError, match="to the rows meant for it, write .*with@sign/all.jsonl@train if all are"):
        load_problems(file, "train", 0)
