"""What every view of a study shows, as text that tells any two values apart, one line a column.

Rows stand in the order of their own text, so that it does not matter in which order a view gives them.
"""

__all__ = ["Dump", "dump_study", "read_dumps", "write_dumps"]

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Dump:
    """A view: its columns' names with DuckDB's types, and its rows as plain values."""

    types: Mapping[str, str]
    rows: list[list[Any]]

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """Each column's values, in the order of the rows."""
        return {name: [row[at] for row in self.rows] for at, name in enumerate(self.types)}

    def select(self, names: list[str]) -> "Dump":
        """These columns in this order, and the rows in the order that follows."""
        rows = [[self.columns[name][at] for name in names] for at in range(len(self.rows))]
        return Dump({name: self.types[name] for name in names}, sorted(rows, key=exact))


AMENDED: Mapping[str, tuple[str, ...]] = {
    "runs": (
        *("label_logit", "base_label_logit", "label_rank", "base_label_rank"),
        *("label_logprob", "base_label_logprob", "logit_diff"),
    )
}
"""By view, the columns that said NaN or -1 where a pair has no such label, and say NULL since: an average
over ranks of -1 was a wrong number. Nothing else may differ from what was shown."""


def dump_study(connection: duckdb.DuckDBPyConnection, views: tuple[str, ...]) -> dict[str, Dump]:
    """All columns and rows of every view of an open study."""
    return {view: _dump(connection.sql(f"SELECT * FROM {view}")) for view in views}


def write_dumps(folder: Path, dumps: Mapping[str, Dump]) -> None:
    """A file for each view; a column that is the same in all rows says so once."""
    folder.mkdir(parents=True)
    for view, dump in dumps.items():
        lines = [_line(name, kind, dump.columns[name]) for name, kind in dump.types.items()]
        text = f'{{"rows": {len(dump.rows)}, "columns": [\n' + ",\n".join(lines) + "\n]}\n"
        (folder / f"{view}.json").write_text(text, "utf-8")


def read_dumps(folder: Path) -> dict[str, Dump]:
    """What `write_dumps` wrote."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text("utf-8"))
        columns = {
            one["name"]: one["values"] if "values" in one else [one["all"]] * data["rows"]
            for one in data["columns"]
        }
        for name in AMENDED.get(path.stem, ()):
            columns[name] = [None if _is_missing(value) else value for value in columns[name]]
        types = {one["name"]: one["type"] for one in data["columns"]}
        rows = [[values[at] for values in columns.values()] for at in range(data["rows"])]
        found[path.stem] = Dump(types, rows)
    return found


def _is_missing(value: Any) -> bool:
    return value == -1 or value != value


def exact(value: Any) -> str:
    """Text that two values share only where they are the same: NaN is NaN, and 0.0 is neither 0 nor -0.0."""
    return json.dumps(value, ensure_ascii=False)


def _line(name: str, kind: str, values: list[Any]) -> str:
    alike = len({exact(value) for value in values}) == 1
    said = {"all": values[0]} if alike else {"values": values}
    return exact({"name": name, "type": kind, **said})


def _dump(relation: duckdb.DuckDBPyRelation) -> Dump:
    types = {name: str(kind) for name, kind in zip(relation.columns, relation.types, strict=True)}
    table = relation.to_arrow_table()
    columns = [
        [None if value is None else plain(value) for value in column.to_pylist()]
        for column, plain in ((column, _plain(column.type)) for column in table.columns)
    ]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Dump(types, sorted(rows, key=exact))


def _plain(kind: pa.DataType) -> Callable[[Any], Any]:
    """Values of an Arrow type as JSON's. A float32 is written as shortly as a float32 can be."""
    if pa.types.is_float32(kind):
        return lambda value: float(str(np.float32(value)))
    if pa.types.is_list(kind):
        inner = _plain(kind.value_type)
        return lambda value: [None if one is None else inner(one) for one in value]
    if pa.types.is_struct(kind):
        fields = {field.name: _plain(field.type) for field in kind}
        return lambda value: {
            name: None if value[name] is None else plain(value[name]) for name, plain in fields.items()
        }
    if pa.types.is_map(kind):
        return lambda value: [[str(key), exact(item)] for key, item in value]
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return lambda value: value
    return str
