"""Promise: pairs from every kind of file are the same rows, and a wrong one is named with its place."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studies.pairs.pair_rows import check_row, num_sources, read_pairs
from workers.errors import StudyError
from workers.vocabulary import Vectors

ROWS: list[dict[str, Any]] = [
    {"base": "a b", "source": "a c", "base_label": " x", "label": [" y", " z"], "span.n": "b", "topic": "t"},
    {"base": "d", "source": "e", "source_label": " w", "span.n": [0, 1]},
]
READ = [ROWS[0], {**ROWS[1], "label": " w"}]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return
    lines = [",".join(columns)]
    for row in rows:
        fields = [row.get(c, "") if isinstance(row.get(c, ""), str) else json.dumps(row[c]) for c in columns]
        lines.append(",".join('"' + field.replace('"', '""') + '"' for field in fields))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_rows_of_text_files_are_read_and_completed(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"p{suffix}", ROWS)
    assert read_pairs(f"p{suffix}", tmp_path) == READ


def test_rows_of_parquet_are_read_without_their_nulls(tmp_path: Path) -> None:
    rows = [
        {"base": "a", "source": "b", "base_ids": None, "source_label": " w", "split": None},
        {"base": "c", "split": "test"},
    ]
    write(tmp_path / "p.parquet", rows)
    assert read_pairs("p.parquet", tmp_path) == [
        {"base": "a", "source": "b", "source_label": " w", "label": " w"},
        {"base": "c", "split": "test"},
    ]


def test_pairs_in_place_are_completed_too() -> None:
    assert read_pairs(ROWS) == READ


def test_a_label_is_derived_only_from_a_single_source() -> None:
    two = {"base": "a", "source": "b", "source_2": "c", "source_label": " x"}
    assert num_sources(two) == 2
    assert "label" not in read_pairs([two])[0]
    assert "label" not in read_pairs([{"base": "a", "source_label": " x"}])[0]


def test_token_ids_stand_for_text() -> None:
    assert read_pairs([{"base_ids": [1, 2], "source_ids": [3]}]) == [{"base_ids": [1, 2], "source_ids": [3]}]


def test_spans_need_text_only_in_their_own_run() -> None:
    assert list(check_row({"base": "a b", "source_ids": [3], "span.n": "b", "source.span.n": None})) == []


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ""])
def test_vectors_are_read_as_float32_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    rows = [{"base_embeds": [[0.5, 1], [0.1, -3.0]], "source_embeds": [[0.25, 2.0]], "label": 1}]
    if suffix:
        write(tmp_path / f"p{suffix}", rows)
    (found,) = read_pairs(f"p{suffix}", tmp_path) if suffix else read_pairs(rows)
    assert found["base_embeds"] == Vectors.of([[0.5, 1.0], [float(np.float32(0.1)), -3.0]])
    assert found["base_embeds"].shape == (2, 2)
    assert found["source_embeds"] == Vectors.of([[0.25, 2.0]])
    assert num_sources(found) == 1


@pytest.mark.parametrize(
    ("row", "column", "allowed"),
    [
        ({"base": 3}, "base", "text"),
        ({"base_ids": [-1]}, "base_ids", "a list of token ids"),
        ({"base": "a", "base_ids": [1]}, "base_ids", "both 'base' and 'base_ids'"),
        ({"base_embeds": []}, "base_embeds", "a list with a list of finite numbers"),
        ({"base_embeds": [0.5, 1.0]}, "base_embeds", "a list with a list of finite numbers"),
        ({"base_embeds": [[0.5], [1.0, 2.0]]}, "base_embeds", "all equally long"),
        (
            {"base_embeds": [[float("nan")]]},
            "base_embeds",
            "a list with a list of finite numbers, up to 3.4e+38",
        ),
        ({"base_embeds": [[1e39]]}, "base_embeds", "a list with a list of finite numbers, up to 3.4e+38"),
        ({"base_embeds": [[0.5]], "span.n": "a"}, "span.n", "'base_embeds' gives none"),
        ({"base": "a", "source_2": 5}, "source_2", "text"),
        ({"base": "a", "label": 1.5}, "label", "text, a class's number, or a list of them"),
        ({"base": "a", "label.Country": []}, "label.Country", "text, a class's number"),
        ({"base": "a", "span.n": [3, 3]}, "span.n", "a substring that occurs once, or [start, end)"),
        ({"base": "a", "source.span.n": 1}, "source.span.n", "a substring that occurs once"),
        ({"base_ids": [1], "span.n": [0, 1]}, "span.n", "give 'base' as text, or leave the span out"),
        ({"base": "a", "source_ids": [1], "source.span.n": "a"}, "source.span.n", "'source_ids' gives none"),
        ({"base": "a", "split": 0.5}, "split", "text"),
        ({"source": "a"}, "", "the column 'base' is missing"),
        (["a"], "", "a mapping with at least base"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(row: Any, column: str, allowed: str) -> None:
    ((found, text),) = check_row(row)
    assert found == column
    assert allowed in text


def test_an_empty_prompt_or_label_is_left_to_the_check_of_prompts(tmp_path: Path) -> None:
    """It ends no other pair: which pairs are of use is decided in one place."""
    rows: list[dict[str, Any]] = [{"base": ""}, {"base_ids": []}, {"base": "a", "label": ""}]
    assert [list(check_row(row)) for row in rows] == [[], [], []]
    (tmp_path / "p.csv").write_text("base,source,label\n,b,c\nd,,\n", encoding="utf-8")
    assert read_pairs("p.csv", tmp_path) == [{"base": "", "source": "b", "label": "c"}, {"base": "d"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", '{"base": "a"}\n{"base": 1}\n', "p.jsonl:2: base: 1 is not allowed here"),
        ("p.jsonl", '{"base": "a"}\n{"base"\n', "p.jsonl:2: this is no JSON"),
        ("p.jsonl", "\n", "p.jsonl: no pairs; a study needs at least one"),
        (
            "p.csv",
            "base,label\na,b\nc\n",
            "p.csv:3: the line has 1 field, and the header has 2; leave no field out",
        ),
        ("p.csv", 'base,span.n\na,"[3, 1]"\n', "p.csv:2: span.n: [3, 1] is not allowed here"),
        ("p.parquet", "PAR0", "p.parquet: this is no Parquet"),
        ("p.txt", "base", "p.txt: unknown kind of file; allowed: .jsonl, .csv, .parquet"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(StudyError) as caught:
        read_pairs(name, tmp_path)
    assert message in str(caught.value)


def test_a_wrong_row_of_parquet_is_named_by_number(tmp_path: Path) -> None:
    write(tmp_path / "p.parquet", [{"base": "a", "base_label": 1}, {"base": "b", "base_label": -1}])
    with pytest.raises(StudyError, match=r"p.parquet: row 1: base_label: -1 is not allowed here"):
        read_pairs("p.parquet", tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"p.csv: the pairs cannot be read"):
        read_pairs("p.csv", tmp_path)
