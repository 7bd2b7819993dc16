"""Promise: whatever a pairs file holds, it is read, or refused with its line and what to do; columns that are
users' own refuse none."""

import math
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studies.pairs.pair_rows import read_pairs
from workers.errors import StudyError

DEEP = "[" * 5000 + "]" * 5000


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.csv", b"base;label\na;b\n", "p.csv:1: the header 'base;label' has ';' between the names"),
        ("p.csv", b"base\tlabel\na\tb\n", "p.csv:1: the header 'base\\tlabel' has tabs between the names"),
        ("p.csv", b"sep=,\nbase\na\n", "p.csv:1: the line 'sep=,' is Excel's own; leave it out"),
        ("p.csv", b",base\n0,a\n", "p.csv:1: column 1 has no name"),
        (
            "p.csv",
            b"text\na\nb\n",
            "p.csv:1: the column 'base' is missing; a pair needs base, base_ids or base_",
        ),
        (
            "p.csv",
            b'base,x\na,b\nc,"d\ne\n',
            "p.csv:3: this is no CSV: a quote that is opened in the row that",
        ),
        ("p.csv", b"base,x\na\nb,c,d\n", "p.csv:3: the line has 3 fields, and the header has 2; put quotes"),
        ("p.csv", "base\na\n".encode("utf-16"), "p.csv:1: this is UTF-16; save it as UTF-8"),
        ("p.csv", b"base\na\n\xe9\n", "p.csv:3: byte 1 of the line, 0xe9, is no UTF-8"),
        ("p.csv", b"PK\x03\x04", "p.csv:1: this is a ZIP archive, as those of Excel are"),
        ("p.csv", b"", "p.csv: no pairs; the file is empty"),
        ("p.csv", b"base\n", "p.csv: no pairs; a study needs at least one"),
        ("p.jsonl", b'[{"base": "a"}]', "p.jsonl:1: this is a JSON array; write one object a line"),
        ("p.jsonl", b'{\n"base": "a"\n}', "p.jsonl:1: this is no JSON: Expecting property name"),
        ("p.jsonl", b'{"base": "a"}\n3\n', "p.jsonl:2: pair: 3 is not allowed here; allowed: a mapping"),
        ("p.jsonl", b'{"base": "a", "base": "b"}', "p.jsonl:1: base: the key is there twice in this pair"),
        ("p.jsonl", b'{"base": "\\ud800"}', "p.jsonl:1: base: '\\ud800' is not allowed here; allowed: whole"),
        (
            "p.jsonl",
            f'{{"base": {DEEP}}}'.encode(),
            "p.jsonl:1: base: its value cannot be read: its lists are",
        ),
        (
            "p.jsonl",
            b'{"base": "a", "k": 1}\n{"base": "a", "K": 1}\n',
            "p.jsonl:2: 'K' is 'k' in another pair",
        ),
        (
            "p.jsonl",
            b'{"base": "a", "label": 1}\n{"base": "a", "lable": 1}\n',
            "p.jsonl:2: the column 'lable'",
        ),
        ("p.parquet", b"base\na\n", "p.parquet: this is no Parquet"),
        ("p.json", b"[]", "unknown kind of file; allowed: .jsonl, .csv, .parquet; write one object a line"),
    ],
)
def test_a_file_is_refused_with_its_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(StudyError) as caught:
        read_pairs(name, tmp_path)
    assert message in str(caught.value)


def test_several_problems_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"base": 3}\n' * 22)
    with pytest.raises(StudyError) as caught:
        read_pairs("p.jsonl", tmp_path)
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0].rpartition(":")[2] for line in lines[:-1]] == ["1", "2", "3", "4", "5"]
    assert lines[-1] == "... and 17 more"


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    for name, message in (
        ("pipe.csv", "this is a pipe, a socket or a device; give a file"),
        ("folder.csv", "this is a folder; give a file"),
        ("folders.csv", "there is no such file; did you mean 'folder.csv'?"),
        ("n" * 300 + ".csv", "File name too long"),
        ("a\0b.csv", "embedded null byte"),
        ("~nobody-at-all/p.csv", "the pairs cannot be read"),
    ):
        with pytest.raises(StudyError) as caught:
            read_pairs(name, tmp_path)
        assert message in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfbase,x\na,1\n",
        b"base,x\r\na,1\r\n",
        b"base,x\n\na,1\n,\n\n",
        b'"base","x"\n"a","1"\n',
    ],
    ids=["byte order mark", "line ends", "blank lines", "quotes"],
)
def test_what_spreadsheets_write_is_read(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "p.csv").write_bytes(data)
    assert read_pairs("p.csv", tmp_path) == [{"base": "a", "x": "1"}]


def test_own_columns_of_text_files_hold_what_they_hold(tmp_path: Path) -> None:
    long = "x" * 300_000
    (tmp_path / "p.csv").write_text(f"base,note\na,{long}\n")
    assert read_pairs("p.csv", tmp_path) == [{"base": "a", "note": long}]
    digits = "9" * 5000
    line = (
        f'\ufeff{{"base": "a", "n": NaN, "i": -Infinity, "big": {2**70}, "more": {digits}, "z": "\\u0000"}}'
    )
    (tmp_path / "p.jsonl").write_text(line)
    (row,) = read_pairs("p.jsonl", tmp_path)
    assert math.isnan(row.pop("n"))
    assert row == {"base": "a", "i": -math.inf, "big": 2**70, "more": digits, "z": "\0"}


def test_what_cannot_be_kept_of_own_columns_is_left_out_and_said(tmp_path: Path) -> None:
    first = f'{{"base": "a", "deep": {DEEP}, "half": ["\\ud800"], "twice": {{"k": 1, "k": 2}}, "kept": 1}}'
    (tmp_path / "p.jsonl").write_text(first + '\n{"base": "b", "half": "\\udfff", "kept": 2}\n')
    said: list[str] = []
    assert read_pairs("p.jsonl", tmp_path, said.append) == [
        {"base": "a", "kept": 1},
        {"base": "b", "kept": 2},
    ]
    path = tmp_path / "p.jsonl"
    assert sorted(line.partition(" is left out: ")[0] for line in said) == [
        f"{path}:1: 'deep': the value of this pair",
        f"{path}:1: 'half': the value of this pair and of 1 more",
        f"{path}:1: 'twice': the value of this pair",
    ]


def test_bytes_of_parquet_that_are_no_text_are_left_out_of_own_columns_alone(tmp_path: Path) -> None:
    offsets, data = pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, data])
    pq.write_table(pa.table({"base": ["x", "y"], "own": broken}), tmp_path / "p.parquet")
    said: list[str] = []
    assert read_pairs("p.parquet", tmp_path, said.append) == [{"base": "x", "own": "a"}, {"base": "y"}]
    (line,) = said
    assert line.endswith(": row 1: 'own': the value of this pair is left out: byte 0xff in it is no UTF-8")
    pq.write_table(pa.table({"base": broken}), tmp_path / "p.parquet")
    with pytest.raises(
        StudyError, match="row 1: base: its value cannot be read: byte 0xff in it is no UTF-8"
    ):
        read_pairs("p.parquet", tmp_path)


def test_two_columns_of_one_name_in_parquet_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([["a"], ["b"]], names=["base", "base"]), tmp_path / "p.parquet")
    with pytest.raises(StudyError, match=r"p.parquet: the name 'base' is there twice, in columns 1 and 2"):
        read_pairs("p.parquet", tmp_path)
