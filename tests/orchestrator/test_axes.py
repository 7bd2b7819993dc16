"""Promise: no mean runs over an axis unseen. Tables group by every axis that varies, pictures say over what.

The numbers: a job hits its label or not by the parity of the places that its values have on all axes. So any
mean that merges two neighbours on one axis is 0.5, and nothing else is.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner, Result
from small_store import PAIRS, make_study

from orchestrator.cli import cli
from orchestrator.plots import default_plot, defaults, draw, draw_study
from orchestrator.plots.data import Grid, read_grid
from orchestrator.query.axes import ColumnKind, kinds_of_columns, means_over, varying
from orchestrator.query.connection import VIEWS, connect
from orchestrator.query.statements import named_queries, run_query
from orchestrator.query.summary import answer
from studies.language.results import Plot

VALUES: Mapping[str, tuple[Any, ...]] = {
    "dtype": ("float32", "bfloat16"),
    "block": ("one", "two"),
    "site": ("query_output", "attention_value_output"),
    "layer": (0, 1, 2),
    "position": (3, 4),
    "head": (0, 1),
    "subspace": ("R", "R[0:1]"),
    "intervention": ("vanilla", "add"),
    "fit_rank": (1, 2),
    "seed": (0, 1),
    "k": (1, 2),
}
SHOWN = (*(name if name != "position" else "base_position" for name in VALUES), "from")
"""The columns that vary: blocks differ in where their values are from."""
PLURALS = {"k": "values of k", "from": "origins", "fit_rank": "fit ranks", "base_position": "base positions"}
NUM_PLACES = 2**10 * 3


def parity(axes: Mapping[str, Any], given: int) -> bool:
    """Whether a job of a cell with these axes hits: the same for all pairs."""
    named = {**axes, "dtype": VALUES["dtype"][axes["_lane"]], "block": axes["_block"]}
    return sum(values.index(named[name]) for name, values in VALUES.items()) % 2 == 1


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study in which everything varies."""
    block: dict[str, Any] = {"sites": list(VALUES["site"]), "heads": "all", "positions": [3, 4]}
    block |= {"subspaces": list(VALUES["subspace"]), "interventions": list(VALUES["intervention"])}
    # Two values of an axis that nothing names would be one cell, as would blocks that say the same.
    blocks = [
        {**block, "name": name, "for": {"k": [1, 2]}, "from_": {"run": run, "position": "$k"}}
        for name, run in (("one", "source"), ("two", "base"))
    ]
    return make_study(
        tmp_path_factory.mktemp("runs") / "everything",
        None,
        dtypes=VALUES["dtype"],
        block=blocks[0],
        more_blocks=blocks[1:],
        fits={"R": {"method": "random_rotation", "ranks": [1, 2], "seeds": [0, 1]}},
        hit=parity,
    )


@pytest.fixture(scope="module")
def connection(root: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect([root]) as opened:
        yield opened


def asked(connection: duckdb.DuckDBPyConnection, name: str) -> list[dict[str, Any]]:
    relation = run_query(connection, named_queries()[name].sql)
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def shown(grid: Grid) -> set[float]:
    """The values of a picture, where there are any."""
    values = grid.facets[0].values.ravel()
    return {*values[~np.isnan(values)].tolist()}


def cli_run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False)


def test_every_axis_that_varies_is_found_and_no_other(connection: duckdb.DuckDBPyConnection) -> None:
    assert {*varying(connection)} == {*SHOWN}
    assert {*varying(connection, "scores")} == {*SHOWN, "role"}
    assert {*varying(connection, "cells")} == {*VALUES, "from"}


@pytest.mark.parametrize("name", ["accuracy", "recovered", "best"])
def test_named_queries_merge_nothing_but_pairs(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    rows = asked(connection, name)
    assert {*SHOWN} <= rows[0].keys() and all(row["n"] == PAIRS for row in rows)
    assert not {"study", "model", "revision", "position"} & rows[0].keys(), "what does not vary takes room"
    for row in rows:
        place = {**row, "_lane": VALUES["dtype"].index(row["dtype"]), "_block": row["block"]}
        if name != "recovered":
            assert row["iia"] == parity({**place, "position": row["base_position"]}, 0)
    if name != "best":
        assert len(rows) == NUM_PLACES
    else:
        # Five of each site and dtype, as the models differ in that; numbers come first.
        assert len(rows) == 2 * 2 * 5 and all(row["iia"] == 1 for row in rows)
        assert list(rows[0])[:4] == ["iia", "recovered", "n", "near_ties"]


def test_the_table_at_the_end_merges_nothing_but_pairs(root: Path) -> None:
    head, _, *lines = str(answer(root)).splitlines()
    names = head.split()
    assert {*SHOWN} <= {*names} and "iia" in names
    assert {line.split()[names.index("iia")] for line in lines} == {"1"}
    assert {line.split()[names.index("jobs")] for line in lines} == {str(PAIRS)}
    # Three of each dtype, block, site and intervention.
    assert len(lines) == 3 * 2**4


def test_the_table_of_a_plain_study_fits_a_terminal(tmp_path: Path) -> None:
    root = make_study(tmp_path / "s", None, dtypes=("float32", "bfloat16"), margin=1e-9)
    lines = str(answer(root)).splitlines()
    assert max(map(len, lines)) <= 80
    names = lines[0].split()
    assert {"dtype", "site", "layer", "base_position", "iia", "jobs", "near_ties"} <= {*names}
    assert lines[2].split()[names.index("near_ties")] == str(PAIRS)


def test_near_ties_are_counted_beside_means(tmp_path: Path) -> None:
    with connect([make_study(tmp_path / "s", None, margin=1e-9)]) as connection:
        assert all(row["near_ties"] == row["n"] for row in asked(connection, "accuracy"))
        _, svg = draw(connection, default_plot(connection, "heatmap"), tmp_path / "map")
    assert ", 119 near ties" in svg.read_text("utf-8")


@pytest.mark.parametrize("axis", [name for name in SHOWN if name != "from"])
def test_a_picture_without_an_axis_says_so(
    connection: duckdb.DuckDBPyConnection, axis: str, tmp_path: Path
) -> None:
    """All others along the axes: only the one that is left out is averaged over, and only that is said."""
    gone = {axis, "from"} if axis == "block" else {axis}
    others = [name for name in SHOWN if name not in gone]
    plot = Plot(kind="heatmap", x=others[:5], y=others[5:], fill="iia")
    grid = read_grid(connection, plot)
    number = len(VALUES["position" if axis == "base_position" else axis])
    also = ", 2 origins" if axis == "block" else ""
    assert grid.over_text == f"mean over {number} {PLURALS.get(axis, f'{axis}s')}{also}"
    assert shown(grid) <= {1 / 3, 0.5, 2 / 3}
    every = read_grid(connection, Plot(kind="heatmap", x=others[:5], y=[*others[5:], *gone], fill="iia"))
    assert every.over_text == "" and shown(every) == {0.0, 1.0}


def test_the_default_pictures_say_what_they_run_over(
    connection: duckdb.DuckDBPyConnection, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pictures of as many facets as can be drawn would take a quarter of a minute.
    monkeypatch.setattr(defaults, "MAX_FACETS", 2)
    told: dict[str, str] = {}
    _, svg = draw_study(root, told=lambda name, over: told.update({name: over}))
    plot = default_plot(connection, "heatmap")
    drawn = {plot.x, plot.y, *(plot.facet or ())}
    for axis in SHOWN:
        text = f" {PLURALS.get(axis, f'{axis}s')}"
        assert (text in told["heatmap"]) == (axis not in drawn), axis
    assert told["heatmap"].startswith("mean over 2 ") and "2 seeds" in told["heatmap"]
    words = " ".join(svg.read_text("utf-8").split())
    assert "mean over" in words and "seeds" in words
    bars = cli_run("plot", "bars", "everything", "--store", root.parent)
    assert bars.stderr.startswith("mean over 2 ") and len(bars.stdout.splitlines()) == 2


def test_heads_of_one_position_lie_along_the_axis(tmp_path: Path) -> None:
    block = {"sites": ["query_output"], "heads": "all", "positions": [4]}
    root = make_study(tmp_path / "heads", None, block=block, hit=lambda axes, pair: axes["head"] == 1)
    with connect([root]) as connection:
        plot = default_plot(connection, "heatmap")
        grid = read_grid(connection, plot)
    assert (plot.x, plot.y, plot.facet) == ("head", "layer", None) and grid.over_text == ""
    assert grid.facets[0].values.tolist() == [[0.0, 1.0]] * 3


def test_a_ratio_is_no_mean_and_says_what_it_is_over(connection: duckdb.DuckDBPyConnection) -> None:
    plot = Plot(kind="heatmap", x="base_position", y="layer", fill=["recovered", "max(iia)"])
    assert read_grid(connection, plot).over_text.startswith("each over 2 dtypes, 2 blocks")


def test_the_least_and_the_most_are_said_where_means_are_over_unequally_many() -> None:
    assert means_over(["head", "seed"], [[12, 1], [8, 1]]) == "mean over 8 to 12 heads"
    assert means_over(["head"], [[1]]) == "" and means_over([], [[]]) == ""
    assert means_over(["size"], [[2]]) == "mean over 2 values of size"


def test_several_studies_with_other_axes_are_told_apart_by_all_of_them(tmp_path: Path) -> None:
    block = {"sites": ["query_output"], "positions": [4]}
    heads = {**block, "heads": "all", "from_": "source"}
    make_study(tmp_path / "heads", None, block=heads, hit=lambda axes, pair: axes["head"] == 1)
    sized = {**block, "for": {"size": [1, 2]}, "from_": {"run": "source", "position": "$size"}}
    make_study(tmp_path / "sizes", None, block=sized, hit=lambda axes, pair: axes["size"] == 2)
    rows = cli_run("query", "accuracy", "--store", tmp_path, "--format", "csv").stdout.splitlines()
    assert rows[0].replace('"', "") == "study,layer,head,size,iia,logit_diff_change,n,near_ties"
    found = [row.replace('"', "").split(",") for row in rows[1:]]
    assert len(found) == 12 and {row[4] for row in found} == {"0", "1"}
    assert {(row[0], row[2], row[3], row[4]) for row in found} == {
        *(("heads", head, "", head) for head in "01"),
        *(("sizes", "", size, str(int(size) - 1)) for size in "12"),
    }
    best = cli_run("query", "best", "--store", tmp_path).stdout.splitlines()
    assert max(map(len, best)) <= 80 and len(best) == 2 + 2 * 5
    one = cli_run("query", "accuracy", "--study", "heads", "--store", tmp_path, "--format", "csv")
    assert one.stdout.replace('"', "").splitlines()[0].split(",")[:3] == ["layer", "head", "iia"]


def test_a_study_of_one_cell_has_an_answer(tmp_path: Path) -> None:
    block = {"sites": ["mlp_output"], "layers": [1], "positions": [3]}
    root = make_study(tmp_path / "one", None, block=block, hit=lambda axes, pair: pair == 0)
    with connect([root]) as connection:
        assert varying(connection) == ()
        assert asked(connection, "best") == [
            {"iia": 0.25, "recovered": 0.03125, "n": 4, "near_ties": 0, "study": "one"}
        ]
        assert default_plot(connection, "heatmap").facet is None
    assert str(answer(root)).splitlines()[0].split()[:2] == ["block", "iia"]


def test_one_cell_written_twice_shows_both_ways_to_write_it(tmp_path: Path) -> None:
    """Positions -1 and 4 of five tokens: neither row counts the other's jobs."""
    block = {"sites": ["mlp_output"], "layers": [1], "positions": [-1, 4, 3]}
    with connect([make_study(tmp_path / "s", None, block=block)]) as connection:
        rows = asked(connection, "accuracy")
        assert [(row["position"], row["base_position"], row["n"]) for row in rows] == [
            (-1, 4, 4),
            (3, 3, 4),
            (4, 4, 4),
        ]
        grid = read_grid(connection, Plot(kind="heatmap", x="base_position", y="layer", fill="iia"))
        assert grid.over_text == "mean over 1 to 2 positions"


def test_every_column_of_every_view_is_of_a_kind(connection: duckdb.DuckDBPyConnection) -> None:
    for view in VIEWS:
        kinds = kinds_of_columns(connection, view)
        assert [name for name, kind in kinds.items() if kind is None] == [], view
    kinds = kinds_of_columns(connection, "results")
    assert {name for name, kind in kinds.items() if kind is ColumnKind.AXIS} == {
        *("study", "model", "revision", "position"),
        *SHOWN,
    }
    assert kinds["span.country"] is ColumnKind.LABEL and kinds["tier"] is ColumnKind.PROVENANCE


def test_a_column_that_nobody_put_in_a_class_is_of_no_kind(connection: duckdb.DuckDBPyConnection) -> None:
    """What the test above would find: a new column of ours, which no study and no pair has."""
    connection.execute("CREATE TEMP VIEW more AS SELECT *, 1 AS heat FROM results")
    assert [name for name, kind in kinds_of_columns(connection, "more").items() if kind is None] == ["heat"]
