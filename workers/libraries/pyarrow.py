"""Names and defaults of pyarrow that may move: on which threads it reads, checksums of pages, paths of what
lies inside lists. pyarrow itself is imported only where it is used."""

__all__ = ["PLACES", "float_paths", "open_parquet", "read_all", "write_checked"]

import inspect
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from workers.libraries import LibraryPlace

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    import pyarrow.parquet as pq

_PRE_BUFFER, _VERIFY = "pre_buffer", "page_checksum_verification"
_WRITE_CHECKSUM, _COMPLIANT, _SPLIT = (
    "write_page_checksum",
    "use_compliant_nested_type",
    "use_byte_stream_split",
)
_ITEM = ".list.element"
"""Name of a list's elements in a Parquet file, where nested types are compliant."""


def open_parquet(source: "Path | BinaryIO", *, checked: bool = False) -> "pq.ParquetFile":
    """A Parquet file, read on the calling thread alone: pyarrow's own abort a process that ends soon after.

    Args:
        source: a path, or an open file.
        checked: whether pages that were written with a checksum are compared with it.

    Raises:
        pyarrow.ArrowException, OSError: it is none.
    """
    import pyarrow.parquet as pq

    wanted = {_PRE_BUFFER: False} | ({_VERIFY: True} if checked else {})
    return pq.ParquetFile(source, **_known(pq.ParquetFile.__init__, wanted))


def read_all(file: "pq.ParquetFile", columns: Sequence[str] | None = None) -> "pa.Table":
    """Some columns of a file, or all, read on the calling thread alone; raises as `open_parquet` does."""
    return file.read(columns=None if columns is None else list(columns), use_threads=False)


def write_checked(table: "pa.Table", sink: BinaryIO, *, dictionary: Sequence[str], rows_a_group: int) -> None:
    """Write a table with a checksum for each page and its floats by bytes, which compresses them better."""
    import pyarrow.parquet as pq

    wanted = {_WRITE_CHECKSUM: True, _COMPLIANT: True, _SPLIT: float_paths(table.schema)}
    pq.write_table(
        table,
        sink,
        compression="zstd",
        row_group_size=rows_a_group,
        use_dictionary=list(dictionary),
        **_known(pq.write_table, wanted),
    )


def float_paths(schema: "pa.Schema") -> list[str]:
    """Paths of all columns of 32-bit floats, those inside lists and structs too."""
    return [path for field in schema for path in _float_paths(field.name, field.type)]


def _float_paths(path: str, kind: Any) -> list[str]:
    import pyarrow as pa

    if pa.types.is_float32(kind):
        return [path]
    if pa.types.is_list(kind):
        return _float_paths(path + _ITEM, kind.value_type)
    if pa.types.is_struct(kind):
        return [one for field in kind for one in _float_paths(f"{path}.{field.name}", field.type)]
    return []


def _known(function: Any, wanted: dict[str, Any]) -> dict[str, object]:
    """Arguments among these that a function of this pyarrow takes."""
    takes = inspect.signature(function).parameters
    return {name: value for name, value in wanted.items() if name in takes}


# What is tried by `make versions`


def _written() -> bytes:
    import pyarrow as pa

    vector = pa.struct({"vector": pa.list_(pa.float32())})
    rows = [[{"vector": [float(i), 0.5]}] for i in range(100)]
    table = pa.table({"a": pa.array(range(100), pa.float32()), "v": pa.array(rows, pa.list_(vector))})
    sink = io.BytesIO()
    write_checked(table, sink, dictionary=[], rows_a_group=1000)
    return sink.getvalue()


def _probe_threads() -> str | None:
    import pyarrow.parquet as pq

    if read_all(open_parquet(io.BytesIO(_written()))).num_rows != 100:
        raise LookupError("a table that was written is read otherwise")
    if not _known(pq.ParquetFile.__init__, {_PRE_BUFFER: False}):
        return "files are read ahead on threads of its own, and a short command may abort at its end"
    return None


def _probe_checksums() -> str | None:
    import pyarrow as pa

    data = bytearray(_written())
    column = open_parquet(io.BytesIO(bytes(data))).metadata.row_group(0).column(0)
    data[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    try:
        read_all(open_parquet(io.BytesIO(bytes(data)), checked=True))
    except (pa.ArrowException, OSError) as error:
        is_told = "checksum" in str(error).lower() or "crc" in str(error).lower()
        return None if is_told else "a flipped bit is found only where it cannot be unpacked"
    return "a flipped bit in a file of pairs is not found; committed rows have a hash of their own"


def _probe_paths() -> str | None:
    group = open_parquet(io.BytesIO(_written())).metadata.row_group(0)
    lost = [
        column.path_in_schema
        for column in (group.column(i) for i in range(group.num_columns))
        if "BYTE_STREAM_SPLIT" not in column.encodings
    ]
    return f"larger files: {', '.join(lost)} are not split by bytes" if lost else None


_SEEN = "24.0.0 to 26.0.1"

PLACES = (
    LibraryPlace(
        library="pyarrow",
        name="ParquetFile(pre_buffer=False) and read(use_threads=False)",
        used_for="reading on the calling thread: pyarrow's own abort a process that ends right after",
        seen_with=_SEEN,
        without="files are read ahead, and a short command may abort at its end, after its answer",
        marks=(_PRE_BUFFER, "ParquetFile("),
        probe=_probe_threads,
    ),
    LibraryPlace(
        library="pyarrow",
        name="write_page_checksum and page_checksum_verification",
        used_for="finding flipped bits, in files of pairs that others wrote too",
        seen_with=_SEEN,
        without="committed rows are compared with their hash, as always; files of pairs are not checked",
        marks=(_WRITE_CHECKSUM, _VERIFY),
        probe=_probe_checksums,
    ),
    LibraryPlace(
        library="pyarrow",
        name="paths such as v.list.element.vector, and their encoding by bytes",
        used_for="small files of collected vectors",
        seen_with=_SEEN,
        without="files are larger, with the same numbers",
        marks=(_ITEM, _SPLIT, _COMPLIANT),
        probe=_probe_paths,
    ),
)
