"""What a column of a view should hold, and whether it does."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Near", "OneOf", "Table", "faults", "is_as"]


class Near(NamedTuple):
    """A number, and how far what is found may be from it."""

    value: float
    within: float


class OneOf(NamedTuple):
    """One of several values, where rounding decides which."""

    values: frozenset[Any]


def is_as(wanted: Any, found: Any) -> bool:
    """Whether a value is what it should be."""
    if isinstance(wanted, Near):
        # NaN is near nothing.
        return isinstance(found, int | float) and abs(found - wanted.value) <= wanted.within
    if isinstance(wanted, OneOf):
        # A list, which is in no set, is none of them.
        return not isinstance(found, list) and found in wanted.values
    return type(found) is type(wanted) and found == wanted


@dataclass(frozen=True)
class Table:
    """A view as it should be and as it is: the same rows in the same order."""

    columns: Sequence[str]
    wanted: Sequence[Mapping[str, Any]]
    found: Sequence[Mapping[str, Any]]

    @classmethod
    def of(
        cls,
        wanted: Iterable[Mapping[str, Any]],
        found: Iterable[Mapping[str, Any]],
        columns: Sequence[str],
        key: Sequence[str],
    ) -> "Table":
        """Rows are put beside each other by the columns of `key`, which are never the same twice."""
        wanted_by, found_by = (_by_key(list(rows), key) for rows in (wanted, found))
        lacking, extra = wanted_by.keys() - found_by.keys(), found_by.keys() - wanted_by.keys()
        assert not lacking and not extra, (len(lacking), len(extra), [*lacking][:3], [*extra][:3])
        wanted = list(wanted_by.values())
        for row in wanted:
            assert row.keys() == set(columns), set(columns) ^ row.keys()
        return cls(columns, wanted, [found_by[one] for one in wanted_by])

    def column(self, name: str) -> list[Any]:
        """What was found in a column."""
        return [row[name] for row in self.found]

    def faults(self, name: str) -> list[str]:
        """Where a column is not as it should be."""
        return [
            f"{name}: {one!r} instead of {row[name]!r} in {_where(row)}"
            for row, one in zip(self.wanted, self.column(name), strict=True)
            if not is_as(row[name], one)
        ]

    def notices(self, name: str, values: Sequence[Any]) -> bool:
        """Whether other values in the place of a column's would be seen."""
        return any(not is_as(row[name], one) for row, one in zip(self.wanted, values, strict=True))


def faults(table: Table) -> list[str]:
    """All that is wrong with a view."""
    return [fault for name in table.columns for fault in table.faults(name)]


def _by_key(
    rows: Sequence[Mapping[str, Any]], key: Sequence[str]
) -> dict[tuple[str, ...], Mapping[str, Any]]:
    found = {tuple(str(row[name]) for name in key): row for row in rows}
    assert len(found) == len(rows), f"{len(rows) - len(found)} rows are there twice"
    return found


def _where(row: Mapping[str, Any]) -> str:
    names = ("study", "model", "dtype", "block", "n", "site", "layer", "position", "name", "run", "read")
    return ", ".join(f"{name} {row[name]}" for name in names if name in row)
