"""Rows of .jsonl files: what is a line, where it is, and how a fault is named."""

import gzip
import re
from pathlib import Path

import pytest

from r1kit.jsonl import json_rows


def test_a_row_comes_with_its_file_and_line(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n\n  \n{"n": "a\xe2\x80\xa8b\xc2\x85c\\u2028d"}\n{"n": 3}')
    assert list(json_rows(path)) == [
        (f"{path}:1", {"n": 1}), (f"{path}:4", {"n": "a\u2028b\x85c\u2028d"}), (f"{path}:5", {"n": 3}),
    ]  # fmt: skip


def test_a_blank_file_has_no_rows(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("\ufeff\n \n")
    assert list(json_rows(tmp_path / "a.jsonl")) == []


def test_a_compressed_file_has_the_same_rows(tmp_path: Path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress('\ufeff{}\n\n{"text": "读"}\n'.encode()))
    assert list(json_rows(path)) == [(f"{path}:1", {}), (f"{path}:3", {"text": "读"})]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{}\n{"a": 1,\n', "a.jsonl:2: not JSON (Expecting property name enclosed in double quotes, column 9); write"),
        (b"\xef\xbb\xbf{} {}", "a.jsonl:1: not JSON (Extra data, column 4); write one object a line"),
        (b"{}\n\n [1] \n", "a.jsonl:3: '[1]' is not an object; give it a name"),
        (b'"' + b"x" * 99 + b'"', "a.jsonl:1: '\"" + "x" * 59 + "' is not an object; give it a name"),
        (b'\xef\xbb\xbf{}\n\n{"a": "\xe9"}\n', "a.jsonl: byte 14 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, content: bytes, fault: str):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/{fault}")):
        list(json_rows(path, "give it a name"))


def test_rows_before_a_fault_are_given(tmp_path: Path):
    """Files are as large as a disk: a row is there before the next one is read."""
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n{')
    rows = json_rows(tmp_path / "a.jsonl")
    assert next(rows)[1] == {"n": 1}
    with pytest.raises(ValueError, match="a.jsonl:2: not JSON"):
        next(rows)


WHOLE = gzip.compress(b"".join(b'{"n": %d}\n' % (7919 * n % 1009) for n in range(1000)))


@pytest.mark.parametrize(
    "content",
    [b'{"n": 1}\n', WHOLE[:-100], WHOLE[:-1], WHOLE[:60] + b"\xff" * 60 + WHOLE[120:], WHOLE[:-8] + b"\0" * 8],
    ids=["not compressed", "cut off", "cut at the end", "damaged", "another checksum"],
)
def test_a_gzip_file_that_is_not_whole_is_named(tmp_path: Path, content: bytes):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path}: not a whole gzip file (")):
        list(json_rows(path))
