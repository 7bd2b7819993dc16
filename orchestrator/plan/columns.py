"""Columns of values that users gave, whatever their forms, and of what runs are given."""

__all__ = ["given_column", "prompt_columns", "prompts_of"]

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.plan.held import holds
from workers.vocabulary import Prompt, Vectors


def given_column(values: Sequence[Any]) -> pa.Array:
    """A column as given; where forms are mixed (a label, or several), or are none that Parquet and SQL hold,
    other values than text become JSON."""
    if any(isinstance(value, Vectors) for value in values):
        return _vectors_column(values)
    if any(isinstance(value, pa.Scalar) for value in values):
        return _typed_column(values)
    try:
        column = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        column = None
    if column is None or (pa.types.is_nested(column.type) and not holds(column)):
        return pa.array([v if v is None or isinstance(v, str) else _json(v) for v in values], pa.string())
    return column


def prompt_columns(prompts: Sequence[Mapping[str, Prompt]]) -> dict[str, pa.Array]:
    """What each row's runs are given: ``tokens``, a struct of each run's ids, and ``vectors`` where some
    are given as vectors."""
    runs = sorted({run for row in prompts for run in row})
    ids = pa.struct([(run, pa.list_(pa.int32())) for run in runs])
    tokens = [{run: p for run, p in row.items() if not isinstance(p, Vectors)} for row in prompts]
    columns = {"tokens": pa.array(tokens, ids)}
    if any(isinstance(prompt, Vectors) for row in prompts for prompt in row.values()):
        vectors = [_vectors_column([row.get(run) for row in prompts]) for run in runs]
        columns["vectors"] = pa.StructArray.from_arrays(vectors, runs)
    return columns


def prompts_of(table: pa.Table) -> list[dict[str, Prompt]]:
    """What `prompt_columns` wrote, row by row."""
    found: list[dict[str, Prompt]] = [
        {run: tuple(ids) for run, ids in row.items() if ids is not None}
        for row in table["tokens"].to_pylist()
    ]
    if "vectors" in table.column_names:
        column = table["vectors"].combine_chunks()
        for field in column.type:
            for row, value in zip(found, column.field(field.name), strict=True):
                if value.is_valid:
                    row[field.name] = _vectors(value.values)
    return found


def _typed_column(values: Sequence[Any]) -> pa.Array:
    """A column of Arrow's scalars of one type, NULL where there is none."""
    kind = next(value.type for value in values if isinstance(value, pa.Scalar))
    column = pa.array([value if isinstance(value, pa.Scalar) else None for value in values], kind)
    return column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column


def _vectors_column(values: Sequence[Any]) -> pa.Array:
    """A list of lists of float32 for each `Vectors`; NULL for anything else."""
    given = [value if isinstance(value, Vectors) else None for value in values]
    numbers = np.frombuffer(b"".join(one.data for one in given if one is not None), "<f4")
    widths = [one.shape[1] for one in given if one is not None for _ in range(len(one))]
    starts = [0, *accumulate(0 if one is None else len(one) for one in given)]
    rows = pa.ListArray.from_arrays(pa.array([0, *accumulate(widths)], pa.int32()), pa.array(numbers))
    is_null = pa.array([one is None for one in given])
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), rows, mask=is_null)


def _vectors(rows: pa.ListArray) -> Vectors:
    numbers = rows.flatten().to_numpy()
    return Vectors((len(rows), len(numbers) // len(rows)), numbers.astype("<f4").tobytes())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=list)
