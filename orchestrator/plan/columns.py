"""Columns of values that users gave, whatever their forms."""

__all__ = ["given_column"]

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa


def given_column(values: Sequence[Any]) -> pa.Array:
    """A column as given; where forms are mixed (a label, or several), other values than text become JSON."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([v if v is None or isinstance(v, str) else _json(v) for v in values], pa.string())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=list)
