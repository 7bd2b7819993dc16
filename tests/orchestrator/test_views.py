"""Promise: the views show what is there under one name each, whatever users call their columns."""

import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_store
from click.testing import CliRunner, Result
from small_store import LAYERS, PAIRS, POSITIONS, SITES, jobs, make_study

from orchestrator.api import open_results
from orchestrator.cli import cli
from orchestrator.query.columns import names_in_results, union
from orchestrator.query.connection import VIEWS, connect
from orchestrator.query.statements import named_queries, run_query
from orchestrator.store import encode_part
from studies import Study
from studies.names import PAIR_COLUMNS, RESERVED, RESULT_COLUMNS
from workers.errors import QueryError, StoreError, StudyError

NUM_RESULTS = len(list(jobs()))
INTERNAL = (
    *("given", "pair", "class", "lane", "point", "cell", "pair_0", "axis_0", "_given", "rowid"),
    *("read_at", "symbolic", "cellset", "jobs"),
)
"""Names that the plan and the views use within."""


def ask(sql: str, *roots: Path) -> list[tuple[Any, ...]]:
    return run_query(connect(roots), sql).fetchall()


def columns(view: str, *roots: Path) -> list[str]:
    return list(run_query(connect(roots), f"FROM {view}").columns)


def values_of(names: Sequence[str]) -> dict[str, list[str]]:
    """A column for each name, whose values say whose they are."""
    return {name: [f"{name} of {n}" for n in range(PAIRS)] for name in names}


@pytest.mark.versions
def test_results_have_the_columns_that_are_reserved_and_no_other(tmp_path: Path) -> None:
    found = columns("results", make_study(tmp_path / "s"))
    own = [*PAIR_COLUMNS, "span.country", "site", "layer", "position"]
    assert sorted(found) == sorted([*RESULT_COLUMNS, *own])
    for view in ("scores", "activations", "cells", "failures"):
        assert {*columns(view, tmp_path / "s")} <= {*RESERVED, *own}


@pytest.mark.versions
@pytest.mark.parametrize(("num_old", "filled"), [(0, 2), (1, 1), (2, 0)])
def test_rows_written_before_a_metric_was_added_have_null_there(
    num_old: int, filled: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two parts, `num_old` are of a version that did not write the column."""
    written = itertools.count()

    def encode(columns: Any, families: Any) -> bytes:
        data = encode_part(columns, families)
        if next(written) >= num_old:
            return data
        table, sink = pq.ParquetFile(io.BytesIO(data)).read(), io.BytesIO()
        pq.write_table(table.drop_columns(["tv_base"]), sink)
        return sink.getvalue()

    monkeypatch.setattr(small_store, "encode_part", encode)
    root = make_study(tmp_path / "s", dtypes=("float32", "bfloat16"))
    counts = "count(DISTINCT dtype), count(*), count(kl_base)"
    sql = f"SELECT {counts} FROM results WHERE tv_base IS NOT DISTINCT FROM"
    assert ask(f"{sql} 0.25", root) == [(filled, filled * NUM_RESULTS, filled * NUM_RESULTS)]
    assert ask(f"{sql} NULL", root) == [(num_old, num_old * NUM_RESULTS, num_old * NUM_RESULTS)]


def test_no_column_of_a_pair_hides_one_of_ours(tmp_path: Path) -> None:
    names = [*sorted(RESERVED - {*PAIR_COLUMNS, "iia"}), "IIA", "layer", "pair.tier"]
    plain = make_study(tmp_path / "plain")
    full = make_study(tmp_path / "full", columns=values_of(names))
    ours = ", ".join(RESULT_COLUMNS[1:])
    sql = f"SELECT {ours} FROM results ORDER BY ALL"
    assert repr(ask(sql, full)) == repr(ask(sql, plain))
    for name in ("IIA", "job_id", "label_id", "layer", "token"):
        found = ask(f'SELECT DISTINCT "pair.{name}" FROM results ORDER BY 1', full)
        assert found == [(f"{name} of {n}",) for n in range(PAIRS)]
    shown = columns("results", full)
    assert len(set(map(str.casefold, shown))) == len(shown)
    assert set(columns("scores", plain)) < set(columns("scores", full))


def test_two_spellings_and_a_taken_prefix_lose_nothing(tmp_path: Path) -> None:
    """No study has two spellings of one name any more; studies of before have."""
    names = names_in_results(["pair.iia", "iia", "IIA", "Label", "label"], ["layer"])
    assert names == {
        "pair.iia": "pair.iia",
        "iia": "pair.pair.iia",
        "IIA": "pair.pair.pair.IIA",
        "Label": "pair.Label",
        "label": "label",
    }
    root = make_study(tmp_path / "s", columns=values_of(["pair.iia", "iia"]))
    assert {"pair.iia", "pair.pair.iia"} <= {*columns("results", root)}
    assert ask('SELECT DISTINCT "pair.pair.iia" FROM results WHERE pair_id IS NOT NULL ORDER BY 1', root)[
        0
    ] == ("iia of 0",)


def test_every_column_is_in_pairs_under_its_own_name(tmp_path: Path) -> None:
    names = [*sorted(RESERVED - {*PAIR_COLUMNS, "study"}), *INTERNAL]
    root = make_study(tmp_path / "s", columns=values_of(names))
    shown = ", ".join(f'"{name}"' for name in names)
    rows = ask(f"SELECT {shown} FROM pairs ORDER BY iia", root)
    assert rows == [tuple(f"{name} of {n}" for name in names) for n in range(PAIRS)]
    assert ask(
        'SELECT DISTINCT study, "pair.study" FROM pairs',
        make_study(tmp_path / "t", columns=values_of(["study"])),
    )


@pytest.mark.versions
def test_columns_called_as_internal_ones_stay_with_their_pair(tmp_path: Path) -> None:
    root = make_study(tmp_path / "s", columns=values_of(INTERNAL))
    shown = ", ".join(f'"{name}"' for name in INTERNAL)
    rows = ask(f"SELECT DISTINCT base_label, {shown} FROM results ORDER BY 1", root)
    assert rows == [(f" city{n}", *(f"{name} of {n}" for name in INTERNAL)) for n in range(PAIRS)]
    for view in VIEWS:
        is_empty = view in ("fits", "activations", "screening", "trainings", "curves")
        assert bool(ask(f"FROM {view}", root)) != is_empty, view


@pytest.mark.parametrize("name", ["prob", "IIA", "tier", "base", "block", "dtype", "units", "token", "_lane"])
def test_an_axis_cannot_be_called_as_a_column(name: str) -> None:
    with pytest.raises(StudyError, match=rf"'{name}' is a column of the views already"):
        study_with_axes(name)


def test_an_axis_is_written_in_one_way() -> None:
    with pytest.raises(StudyError, match="'Size' is 'size' elsewhere"):
        study_with_axes("size", "Size")
    with pytest.raises(StudyError, match="'Layer' is a key already"):
        study_with_axes("Layer")


def study_with_axes(*names: str) -> Study:
    axes = {name: [1, 2] for name in names}
    block = {"site": "block_output", "layers": "all", "position": 0, "for": axes}
    return Study(study="s", model="small", pairs=[{"base": "a", "source": "b"}], sweep=[block])


def test_axes_may_be_called_as_internal_columns(tmp_path: Path) -> None:
    axes = {name: [f"{name} 1"] for name in ("point", "lane", "cell", "pair_0", "given")}
    root = make_study(tmp_path / "s", block={"for": axes})
    shown = ", ".join(axes)
    wanted = tuple(f"{name} 1" for name in axes)
    for view, count in (
        ("results", NUM_RESULTS),
        ("cells", len(SITES) * LAYERS * POSITIONS),
        ("failures", 1),
    ):
        assert ask(f"SELECT {shown}, count(*) FROM {view} GROUP BY ALL", root) == [(*wanted, count)]


def test_a_column_called_as_an_axis_is_the_pairs(tmp_path: Path) -> None:
    root = make_study(tmp_path / "s", columns=values_of(["size"]), block={"for": {"size": [1]}})
    assert ask('SELECT DISTINCT size, "pair.size" FROM results ORDER BY ALL', root)[0] == (1, "size of 0")


def test_models_are_told_apart_by_dtype_and_revision(tmp_path: Path) -> None:
    root = make_study(tmp_path / "s", dtypes=("float32", "bfloat16"))
    for view in ("results", "scores", "cells", "inputs", "runs", "failures", "batches"):
        rows = ask(f"SELECT model, dtype, revision, count(*) FROM {view} GROUP BY ALL ORDER BY ALL", root)
        assert [row[:3] for row in rows] == [("small", "bfloat16", "0"), ("small", "float32", "0")]
        assert rows[0][3] == rows[1][3]
    for name in ("accuracy", "recovered", "best", "timings", "failures"):
        one, two = (ask(named_queries()[name].sql, r) for r in (make_study(tmp_path / name), root))
        assert len(two) == 2 * len(one)


@pytest.mark.versions
def test_inputs_runs_and_batches_have_no_numbers_of_ours(tmp_path: Path) -> None:
    root = make_study(tmp_path / "s")
    for view in ("inputs", "runs", "batches"):
        assert not {"lane", "pair", "class", "given"} & {*columns(view, root)}
    assert {"tile", "k_lo", "k_hi"} <= {*columns("batches", root)}
    assert ask("SELECT base, base_tokens[4] FROM inputs WHERE kept ORDER BY 1", root)[0] == (
        "The capital of France is",
        " France",
    )
    assert ask("SELECT run, count(*) FROM runs GROUP BY ALL ORDER BY 1", root) == [
        ("base", PAIRS),
        ("source", PAIRS),
    ]


def test_columns_of_different_forms_become_text_in_all_studies(tmp_path: Path) -> None:
    forms: dict[str, dict[str, list[Any]]] = {
        "text": {"x": ["a"] * PAIRS, "y": [1] * PAIRS, "z": [[1]] * PAIRS},
        "lists": {"x": [[1, 2]] * PAIRS, "y": [0.5] * PAIRS, "z": [[0.5]] * PAIRS},
        "maps": {"x": [{"k": [1]}] * PAIRS, "y": [2] * PAIRS, "z": [None] * PAIRS},
        "none": {"x": [None] * PAIRS},
    }
    roots = [make_study(tmp_path / name, columns=found) for name, found in forms.items()]
    rows = ask("SELECT DISTINCT study, x, y, z FROM results ORDER BY 1", *roots)
    assert [row[0] for row in rows] == ["lists", "maps", "none", "text"]
    assert [json.loads(row[1]) for row in rows[:2]] == [[1, 2], {"k": [1]}]
    assert [row[1] for row in rows[2:]] == [None, "a"]
    assert [row[2:] for row in rows] == [(0.5, [0.5]), (2, None), (None, None), (1, [1])]


def test_only_forms_without_a_common_type_become_text() -> None:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("CREATE VIEW a AS SELECT {'p': 1, 'q': [1]} AS s, {'p': 'a'} AS t, NULL AS n")
        connection.execute("CREATE VIEW b AS SELECT {'p': 2, 'r': 'x'} AS S, {'p': [1]} AS t, NULL AS n")
        types = connection.sql(union(connection, ["a", "b"])).to_arrow_table().schema.types
    assert pa.types.is_struct(types[0]) and types[1:] == [pa.string(), pa.string()]


def test_flip_is_null_where_both_labels_are_one_set(tmp_path: Path) -> None:
    assert ask("SELECT count(flip) FROM results", make_study(tmp_path / "s")) == [(NUM_RESULTS,)]
    base, label = (8, 9, 8), (9, 8)
    root = make_study(tmp_path / "same", label_ids=(label, base))
    assert ask("SELECT count(*), count(flip) FROM results", root) == [(NUM_RESULTS, 0)]


@pytest.mark.parametrize(
    ("base_label", "label", "tokens"),
    [
        ("a", ["b", "c"], {"a", '["b","c"]'}),
        (["a"], "b", {'["a"]', "b"}),
        (["a"], ["b", "c"], {("a",), ("b", "c")}),
        (1, ["b"], {"1", '["b"]'}),
        (1, 2, {1, 2}),
        (None, ["b"], {("b",)}),
    ],
)
def test_labels_of_different_forms_stand_in_one_column_of_scores(
    base_label: Any, label: Any, tokens: set[Any], tmp_path: Path
) -> None:
    forms = {"base_label": [base_label] * PAIRS, "label": [label] * PAIRS}
    root = make_study(tmp_path / "s", columns=forms)
    found = [token for (token,) in ask("SELECT token FROM scores WHERE token IS NOT NULL", root)]
    assert {tuple(token) if isinstance(token, list) else token for token in found} == tokens


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A good study, and three that cannot be read."""
    for name in ("good", "damaged", "newer", "planned"):
        make_study(tmp_path / name)
    max((tmp_path / "damaged" / "commits").iterdir()).write_text("{")
    format_file = next(f for f in (tmp_path / "newer").iterdir() if f.is_file() and "format" in f.read_text())
    format_file.write_text(json.dumps({**json.loads(format_file.read_text()), "version": 99}))
    for part in (tmp_path / "planned" / "data").rglob("*.parquet"):
        part.unlink()
    return tmp_path


def run(command: str, *arguments: object) -> Result:
    return CliRunner().invoke(cli, [command, *map(str, arguments)])


@pytest.mark.versions
def test_a_study_that_cannot_be_read_is_left_out_and_named(store: Path) -> None:
    shown = run("query", "SELECT DISTINCT study FROM results", "--format", "json", "--store", store)
    assert json.loads(shown.stdout) == [{"study": "good"}]
    assert shown.exit_code == 1
    lines = shown.stderr.splitlines()
    assert [line.split(" is left out: ")[0] for line in lines[:2]] == ["the study damaged", "the study newer"]
    assert lines[2].startswith(f"study planned: {NUM_RESULTS + 1} rows are lost: ")


def test_status_shows_a_study_that_cannot_be_read_as_damaged(store: Path) -> None:
    shown = run("status", "--json", "--store", store)
    found = {one["study"]: one["damaged"] for one in json.loads(shown.stdout)}
    assert list(found) == ["damaged", "good", "newer", "planned"] and shown.exit_code == 1
    assert found["good"] is None and all(why for study, why in found.items() if study != "good")


def test_a_study_that_is_asked_for_is_never_left_out(store: Path) -> None:
    for name, kind in (("damaged", StoreError), ("newer", StoreError), ("planned", StoreError)):
        with pytest.raises(kind, match=name):
            connect([store / "good", store / name])
    for command in (("query", "FROM results", "--study", "damaged"), ("status", "damaged")):
        assert run(*command, "--store", store).exit_code == 1


def test_from_python_a_study_that_cannot_be_read_is_a_warning_where_a_part_is_enough(store: Path) -> None:
    with pytest.warns(UserWarning) as warned:
        assert open_results(store=store, partial=True).arrow("results").num_rows == NUM_RESULTS
    assert [" is left out" in str(one.message) for one in warned] == [True, True, False]
    for names in ((), ("damaged",), ("good", "planned")):
        with pytest.raises(StoreError):
            open_results(*names, store=store).arrow()


def test_whole_views_fail_with_our_error(tmp_path: Path) -> None:
    make_study(tmp_path / "s")
    results = open_results("s", store=tmp_path)
    for read in (results.arrow, results.df):
        with pytest.raises(QueryError, match="did you mean 'results'"):
            read("resluts")


def test_a_study_that_goes_while_it_is_read_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_study(tmp_path / "s")

    def union_of_what_goes(*arguments: Any) -> str:
        if root.exists():
            root.rename(tmp_path / "elsewhere")
        return union(*arguments)

    monkeypatch.setattr("orchestrator.query.connection.union", union_of_what_goes)
    with pytest.raises(StoreError, match=r"was moved or removed \(.*No files found.*\); ask again"):
        connect([root])
