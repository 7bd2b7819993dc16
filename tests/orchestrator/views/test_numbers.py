"""Promise: what the views show is what plain torch gives: every column of every row of five studies, whose
numbers differ so that another column, row or sign in its place is seen."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from views import studied
from views.expected import Near, Table, faults

VIEWS = tuple(studied.KEYS)
EMPTY: Mapping[str, frozenset[str]] = {
    "results": frozenset({"generated"}),
    "scores": frozenset({"generated"}),
    "screening": frozenset({"subspace", "read", "seed", "fit_rank", "value", "how", "a"}),
}
"""Columns that hold nothing: text that no version generates yet, and axes of other studies."""
ONE_VALUE: Mapping[str, frozenset[str]] = {
    "screening": frozenset({"study", "dtype"}),
    "fits": frozenset({"study", "dtype"}),
}
"""Columns that hold one value: of one study in one dtype."""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> studied.Tables:
    """The views beside what they should be."""
    if studied.KEPT in os.environ:
        return studied.kept(Path(os.environ[studied.KEPT]))
    folder: Path = tmp_path_factory.mktemp("views")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWAPYARD_CACHE", str(folder / "cache"))
        done = studied.run(folder)
        return studied.Tables(done, studied.by_hand(done))


@pytest.mark.parametrize("view", VIEWS)
def test_every_column_of_every_row_is_what_plain_torch_gives(view: str, tables: studied.Tables) -> None:
    found = faults(tables[view])
    assert not found, f"{len(found)} values are wrong, such as\n" + "\n".join(found[:20])


def test_a_column_that_is_not_reckoned_by_hand_is_an_error(tables: studied.Tables) -> None:
    table, key = tables["fits"], studied.KEYS["fits"]
    with pytest.raises(AssertionError, match="novel"):
        Table.of(table.wanted, table.found, [*table.columns, "novel"], key)


def test_a_row_that_is_there_twice_or_not_at_all_is_an_error(tables: studied.Tables) -> None:
    table, key = tables["fits"], studied.KEYS["fits"]
    for found, what in (
        ([*table.found, table.found[0]], "1 rows are there twice"),
        (table.found[1:], "(1, 0,"),
    ):
        with pytest.raises(AssertionError, match=re.escape(what)):
            Table.of(table.wanted, found, table.columns, key)


@pytest.mark.parametrize("view", VIEWS)
def test_each_column_tells_rows_apart_so_that_one_in_anothers_place_is_seen(
    view: str, tables: studied.Tables
) -> None:
    table = tables[view]
    unseen = {name for name in table.columns if not table.notices(name, _moved(table.column(name)))}
    assert unseen == EMPTY.get(view, frozenset()) | ONE_VALUE.get(view, frozenset())


@pytest.mark.parametrize("view", VIEWS)
def test_no_column_can_stand_for_another(view: str, tables: studied.Tables) -> None:
    table = tables[view]
    values = {name: table.column(name) for name in table.columns if name not in EMPTY.get(view, ())}
    alike = [
        (one, other)
        for one in values
        for other in values
        if one != other and not table.notices(one, values[other])
    ]
    assert not alike


@pytest.mark.parametrize("view", VIEWS)
def test_no_number_can_have_the_other_sign(view: str, tables: studied.Tables) -> None:
    table = tables[view]
    numbers = [name for name in table.columns if _is_number(table.wanted, name)]
    unseen = [name for name in numbers if not table.notices(name, [_negative(v) for v in table.column(name)])]
    assert numbers and not unseen


def _moved(values: list[Any]) -> list[Any]:
    """Each row has what another has."""
    return values[1:] + values[:1]


def _is_number(rows: Any, name: str) -> bool:
    return any(isinstance(row[name], Near) for row in rows)


def _negative(value: Any) -> Any:
    return None if value is None else -value
