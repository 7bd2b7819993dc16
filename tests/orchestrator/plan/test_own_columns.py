"""Promise: own columns of every type that Parquet has come back from SQL as they were, or as text and that is
said; and what they hold tells two studies apart."""

import datetime
import io
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.plan.pair_columns import given_column, holding, told
from studies.language.identity import canonical_json
from studies.pairs.pair_rows import read_pairs


def through(column: pa.Array) -> Any:
    """A column after the plan's table and SQL."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"own": column}), sink)
    table = pq.ParquetFile(sink, pre_buffer=False).read(use_threads=False)
    with duckdb.connect() as connection:
        connection.register("pairs", table)
        return connection.sql("SELECT own FROM pairs").to_arrow_table()["own"].to_pylist()


def read(folder: Path, column: pa.Array, said: list[str]) -> list[dict[str, Any]]:
    bases = [[1]] * len(column)
    pq.write_table(pa.table({"base_ids": bases, "own": column}), folder / "p.parquet")
    return list(holding(read_pairs("p.parquet", folder), said.append))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.date32(), datetime.date(2024, 1, 1)),
        (pa.timestamp("us"), datetime.datetime(2024, 1, 1, 12, 30)),
        (pa.time64("us"), datetime.time(12, 30)),
        (pa.decimal128(9, 2), Decimal("1.50")),
        (pa.binary(), b"\xff\x00"),
        (pa.binary(2), b"ab"),
        (pa.uint64(), 2**64 - 1),
        (pa.large_string(), "a"),
        (pa.dictionary(pa.int8(), pa.string()), "a"),
        (pa.list_(pa.date32()), [datetime.date(2024, 1, 1), None]),
        (pa.list_(pa.int8(), 2), [1, 2]),
        (pa.struct([("a", pa.binary()), ("b", pa.int8())]), {"a": b"x", "b": 1}),
        (pa.map_(pa.string(), pa.int32()), [("a", 1)]),
        (pa.float64(), float("inf")),
    ],
    ids=str,
)
def test_a_type_comes_back_from_sql_as_it_was(tmp_path: Path, kind: pa.DataType, value: Any) -> None:
    said: list[str] = []
    rows = read(tmp_path, pa.array([value, None], kind), said)
    assert through(given_column([row.get("own") for row in rows])) == [value, None]
    assert said == []
    assert canonical_json(told(rows[0]["own"])) != canonical_json(told("a different value"))


def test_a_type_that_sql_has_not_is_text_and_that_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    rows = read(tmp_path, pa.array([Decimal(10) ** 50, None], pa.decimal256(60, 2)), said)
    assert through(given_column([row.get("own") for row in rows])) == [f"1{'0' * 50}.00", None]
    assert said == ["the pairs' column 'own' is kept as text: SQL holds no decimal256(60, 2)"]


@pytest.mark.parametrize(
    ("value", "text"),
    [({}, "{}"), ([{}], "[{}]"), ({"": 1}, '{"": 1}'), ({"a": 1, "A": 2}, '{"a": 1, "A": 2}')],
)
def test_mappings_that_parquet_or_sql_would_change_are_json(value: Any, text: str) -> None:
    assert through(given_column([value, None])) == [text, None]


def test_what_is_no_number_of_an_identity_has_a_name_in_it_all_the_same() -> None:
    odd = [
        float("nan"),
        float("inf"),
        [1.0, float("nan")],
        {"\u00e9": 1, "e\u0301": 2},
        {"x": [float("-inf")]},
    ]
    assert len({canonical_json(told(value)) for value in odd}) == len(odd)


def test_plain_values_are_named_as_they_always_were() -> None:
    for value in ("a", 1, 1.5, True, None, [1, "a"], {"a": [1, {"b": None}]}):
        assert canonical_json(told(value)) == canonical_json(value)
