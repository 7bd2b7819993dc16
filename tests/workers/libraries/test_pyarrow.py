"""Promise: where pyarrow lacks an option, files are read and written without it, with the same numbers."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workers.libraries.covering import outcome, without
from workers.libraries import pyarrow as library

pytestmark = pytest.mark.versions

TABLE = pa.table({"a": pa.array([1.5, None], pa.float32()), "b": ["x", "y"]})


class PlainFile(pq.ParquetFile):  # type: ignore[misc]
    """A reader that takes no options."""

    def __init__(self, source: Any) -> None:
        super().__init__(source)


def plain_writer(table: Any, where: Any, compression: str, row_group_size: int, use_dictionary: Any) -> None:
    """One that takes few."""
    real(table, where, compression=compression, row_group_size=row_group_size, use_dictionary=use_dictionary)


real = pq.write_table


def written() -> bytes:
    sink = io.BytesIO()
    library.write_checked(TABLE, sink, dictionary=["b"], rows_a_group=10)
    return sink.getvalue()


@without("pyarrow", "ParquetFile(pre_buffer=False)")
def test_files_are_read_without_options_that_are_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = written()
    monkeypatch.setattr(pq, "ParquetFile", PlainFile)
    assert library.read_all(library.open_parquet(io.BytesIO(data), checked=True)).equals(TABLE)
    assert library.read_all(library.open_parquet(io.BytesIO(data)), ["b"]).column_names == ["b"]
    (tmp_path / "pairs.parquet").write_bytes(data)
    assert library.read_all(library.open_parquet(tmp_path / "pairs.parquet")).num_rows == 2
    assert outcome("pyarrow", "ParquetFile").told.startswith("files are read ahead on threads of its own")


@without("pyarrow", "write_page_checksum")
@without("pyarrow", "paths such as")
def test_files_are_written_without_options_that_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with_all = written()
    monkeypatch.setattr(pq, "write_table", plain_writer)
    without_any = written()
    tables = [library.read_all(library.open_parquet(io.BytesIO(data))) for data in (with_all, without_any)]
    assert tables[0].equals(TABLE) and tables[1].equals(TABLE)
    assert outcome("pyarrow", "write_page_checksum").state == "degraded"
    assert outcome("pyarrow", "paths such as").told.startswith("larger files: a, v.list.element.vector")


def test_floats_inside_lists_are_found_by_their_paths() -> None:
    inside = pa.struct({"unit": pa.uint8(), "vector": pa.list_(pa.float32())})
    schema = pa.schema({"a": pa.float32(), "b": pa.float64(), "c": pa.list_(inside)})
    assert library.float_paths(schema) == ["a", "c.list.element.vector.list.element"]
