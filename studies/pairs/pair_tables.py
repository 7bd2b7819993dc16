"""Tables of pairs, of Arrow and in data frames, as the rows that a list of pairs would have.

A value whose type Python would lose stays as Arrow has it. pyarrow is imported only where a table is there:
reading a study must stay quick.
"""

__all__ = ["is_table", "rows_in_memory", "rows_of_batches", "said_of"]

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from studies.names import INPUT, LABEL, SPAN, TEXT, problems_of_names
from studies.plain_values import is_missing, unwrapped
from studies.problems import Problem, ProblemsError

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, object]


def rows_of_batches(batches: Iterable["pa.RecordBatch"]) -> Iterator[tuple[Row, Mapping[str, str]]]:
    """Each row by column, and why values of it could not be read.

    A user's own column of a type that plain data has not (a date, a decimal, bytes, a map) comes as Arrow's
    scalars, so that it stays what it is.
    """
    for batch in batches:
        names = batch.schema.names
        columns = [_values(name, batch.column(at)) for at, name in enumerate(names)]
        for at in range(batch.num_rows):
            row, left = {}, {}
            for name, (values, unread) in zip(names, columns, strict=True):
                row[name] = values[at]
                if at in unread:
                    left[name] = unread[at]
            yield row, left


def _values(name: str, column: "pa.Array") -> tuple[list[object], dict[int, str]]:
    """The values of a column, None for what cannot be read, and why that is so by place."""
    is_ours = any(p.fullmatch(name) for p in (INPUT, LABEL, SPAN)) or name in TEXT
    if not is_ours and not _is_plain(column.type):
        return [value if value.is_valid else None for value in column], {}
    try:
        return _listed(column), {}
    except (ValueError, OverflowError):
        values: list[object] = []
        unread: dict[int, str] = {}
        for at, value in enumerate(column):
            try:
                values.append(value.as_py())
            except (ValueError, OverflowError) as error:
                values.append(None)
                unread[at] = _reason(error)
        return values, unread


def _listed(column: "pa.Array") -> list[object]:
    found: list[object] = column.to_pylist()
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte 0x{error.object[error.start]:02x} in it is no UTF-8"
    return str(error)


def _is_plain(kind: "pa.DataType") -> bool:
    """Whether Python's values say all that a type does: text, numbers, and lists and mappings of them."""
    import pyarrow as pa

    is_ = pa.types
    if is_.is_uint64(kind):
        return False
    if any(test(kind) for test in (is_.is_null, is_.is_boolean, is_.is_integer, is_.is_floating)):
        return True
    if is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind):
        return True
    if (
        is_.is_dictionary(kind)
        or is_.is_list(kind)
        or is_.is_large_list(kind)
        or is_.is_fixed_size_list(kind)
    ):
        return _is_plain(kind.value_type)
    if is_.is_struct(kind):
        names = [one.name for one in kind]
        return bool(names) and len({*names}) == len(names) and all(_is_plain(one.type) for one in kind)
    return False


def said_of(value: object) -> object:
    """Plain data that differs wherever two of Arrow's scalars do."""
    import pyarrow as pa

    if not isinstance(value, pa.Scalar):
        return value
    if not value.is_valid:
        return None
    if isinstance(value, pa.UInt64Scalar):
        return value.as_py()
    if isinstance(value, pa.ExtensionScalar):
        return [str(value.type), said_of(value.value)]
    if isinstance(value, pa.MapScalar):
        return ["map", [said_of(one) for one in value.values]]
    if isinstance(value, pa.ListScalar):
        return [said_of(one) for one in value.values]
    if isinstance(value, pa.StructScalar):
        return [
            "struct",
            [[str(one), said_of(item)] for one, item in zip(value.type, _items(value), strict=True)],
        ]
    if isinstance(value, pa.DictionaryScalar):
        return said_of(value.value)
    if isinstance(value, pa.BinaryScalar | pa.FixedSizeBinaryScalar):
        return [str(value.type), value.as_buffer().to_pybytes().hex()]
    number = getattr(value, "value", None)
    return [str(value.type), number if isinstance(number, int) else str(value.as_py())]


def _items(value: "pa.StructScalar") -> Iterator[object]:
    return (value[at] for at in range(len(value.type)))


def is_table(value: object) -> bool:
    """Whether it is a data frame or an Arrow table, of whichever library."""
    is_arrow = hasattr(value, "to_pylist") and hasattr(value, "schema")
    return is_arrow or (hasattr(value, "columns") and hasattr(value, "to_dict"))


def rows_in_memory(table: Any) -> list[dict[str, object]]:
    """The rows of a data frame or an Arrow table, what is missing in them left out.

    A data frame's index is no column of it. What is missing there is NaN, so NaN is nothing here.

    Raises:
        ProblemsError: names of columns are wrong: no list of rows could have them.
    """
    if hasattr(table, "to_pylist"):
        names = list(table.schema.names)
        _check(names)
        return [dict(row) for row in table.to_pylist()]
    names = list(table.columns)
    _check(names)
    if hasattr(table, "rows"):  # polars
        listed = table.rows()
    else:
        listed = zip(*(table[name].tolist() for name in names), strict=True)
    return [
        {
            name: plain
            for name, value in zip(names, row, strict=True)
            if not is_missing(plain := unwrapped(value))
        }
        for row in listed
    ]


def _check(names: list[object]) -> None:
    if problems := problems_of_names(names):
        raise ProblemsError([Problem((), text) for _, text in problems])
