"""Promise: an answer of any of DuckDB's types is shown, exported and read from Python."""

import io
import json
from typing import Any

import duckdb
import pytest

from orchestrator.query.formats import WRITERS, for_arrow, for_frames, table_text

ODD: dict[str, tuple[str, Any]] = {
    "INTERVAL 1 DAY": ("1 day", "1 day"),
    "'infinity'::DATE": ("infinity", "infinity"),
    "'-infinity'::TIMESTAMP": ("-infinity", "-infinity"),
    "'infinity'::TIMESTAMPTZ": ("infinity", "infinity"),
    "'290000-01-01'::DATE": ("290000-01-01", "290000-01-01"),
    "170141183460469231731687303715884105727::HUGEINT": (
        "170141183460469231731687303715884105727",
        170141183460469231731687303715884105727,
    ),
    "340282366920938463463374607431768211455::UHUGEINT": (
        "340282366920938463463374607431768211455",
        "340282366920938463463374607431768211455",
    ),
    "MAP{'a': 1}": ("{'a': 1}", {"a": 1}),
    "MAP{[1]: 1}": ("{'[1]': 1}", {"[1]": 1}),
    "MAP{}": ("{}", {}),
    "union_value(a := 1)": ("1", "1"),
    "'1010'::BIT": ("1010", "1010"),
    "'10:00:00+02'::TIMETZ": ("10:00:00+02", "10:00:00+02"),
    "'24:00:00'::TIME": ("24:00:00", "24:00:00"),
    "'a'::ENUM('a', 'b')": ("a", "a"),
    "row(1, INTERVAL 1 DAY)": ("(1, 1 day)", "(1, 1 day)"),
    "[{'a': [INTERVAL 1 DAY], 'b': MAP{1: 'infinity'::DATE}}]": (
        "[{'a': ['1 day'], 'b': {1: 'infinity'}}]",
        [{"a": ["1 day"], "b": {"1": "infinity"}}],
    ),
}


@pytest.mark.parametrize("value", ODD)
def test_a_value_is_shown_and_exported(value: str) -> None:
    shown, plain = ODD[value]
    connection = duckdb.connect()
    sql = f"SELECT {value} AS x"
    assert table_text(connection.sql(sql), rows=1, width=200)[0].splitlines()[-1].strip() == shown
    sinks = {name: io.BytesIO() for name in WRITERS}
    for name, write in WRITERS.items():
        write(connection.sql(sql), sinks[name])
    assert json.loads(sinks["json"].getvalue()) == [{"x": plain}]
    assert sinks["csv"].getvalue().startswith(b'"x"\n') and sinks["parquet"].getvalue().startswith(b"PAR1")
    assert for_arrow(connection.sql(sql)).to_arrow_table().num_rows == 1
    assert len(for_frames(connection.sql(sql)).df()) == 1


def test_columns_of_one_name_are_shown_both() -> None:
    relation = duckdb.connect().sql("SELECT 1 AS x, INTERVAL 1 DAY AS x")
    assert table_text(relation, rows=1, width=None)[0].splitlines()[-1].split(maxsplit=1) == ["1", "1 day"]
