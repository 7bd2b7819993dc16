"""Small Arrow tables made without `pyarrow.array`, which loads pandas where it is installed: half a second of
CPU and 50 MB that no query needs."""

__all__ = ["no_rows", "numbers", "texts", "values_of"]

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa


def no_rows(schema: pa.Schema) -> pa.Table:
    """A table of these columns without any row."""
    return pa.Table.from_batches([], schema=schema)


def numbers(values: "np.ndarray[Any, Any]") -> pa.Array:
    """A column of numbers; shape (rows,)."""
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, buffer])


def values_of(column: pa.ChunkedArray, kind: "np.dtype[Any]") -> "np.ndarray[Any, Any]":
    """The numbers of a column without NULL, in another type; shape (rows,)."""
    pieces = [
        np.frombuffer(chunk.buffers()[1], chunk.type.to_pandas_dtype(), len(chunk), chunk.offset * width)
        for chunk in column.chunks
        for width in [chunk.type.bit_width // 8]
        if len(chunk)
    ]
    return np.concatenate(pieces).astype(kind) if pieces else np.empty(0, kind)


def texts(values: Sequence[str | None]) -> pa.Array:
    """A column of texts, NULL where there is none."""
    data = [b"" if text is None else text.encode() for text in values]
    ends = np.cumsum([0, *map(len, data)], dtype=np.int32)
    there = np.packbits(np.array([text is not None for text in values], bool), bitorder="little")
    buffers = [pa.py_buffer(there), pa.py_buffer(ends), pa.py_buffer(b"".join(data))]
    return pa.Array.from_buffers(pa.string(), len(data), buffers)
