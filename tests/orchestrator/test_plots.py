"""Promise: pictures show the numbers that SQL gives, blank where there is none, the same bytes each time."""

import html
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner
from small_store import FAILED, LAYERS, PAIRS, POSITIONS, SITES, is_hit, jobs, label_logit, make_study

from orchestrator.cli.plot import plot as plot_command
from orchestrator.plots import default_plot, draw, draw_study, own_plots
from orchestrator.plots.data import read_grid
from orchestrator.plots.defaults import changed
from orchestrator.plots.heatmap import scale_of
from orchestrator.plots.labels import caption, facet_text, position_texts, tick_texts
from orchestrator.query.connection import connect
from orchestrator.query.statements import run_query
from studies.language.results import Plot
from workers.errors import QueryError, StudyError

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture
def connection(root: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect([root]) as opened:
        yield opened


def heatmap(**changes: Any) -> Plot:
    plain = {"kind": "heatmap", "x": "base_position", "y": "layer", "facet": "site", "fill": "iia"}
    return Plot(**{**plain, **changes})


def expected(site: str, value: Any) -> np.ndarray:
    """The mean of `value` over the pairs at each layer and position."""
    grid = np.full((LAYERS, POSITIONS), np.nan)
    for layer in range(LAYERS):
        for position in range(POSITIONS):
            found = [value(*job) for job in jobs() if job[:3] == (site, layer, position)]
            grid[layer, position] = np.mean(found)
    return grid


def texts_of(svg: Path) -> list[str]:
    """The texts of a picture, which matplotlib leaves as comments beside their outlines."""
    return [html.unescape(text) for text in re.findall(r"<!-- (.*?) -->", svg.read_text("utf-8"))]


def test_a_grid_holds_the_mean_of_each_place_with_its_count(connection: duckdb.DuckDBPyConnection) -> None:
    grid = read_grid(connection, heatmap(fill=["iia", "logit_diff"]))
    assert grid.across.keys == tuple((p,) for p in range(POSITIONS))
    assert grid.down.keys == tuple((n,) for n in range(LAYERS))
    assert [(f.key, f.value) for f in grid.facets] == [
        ((site,), value) for site in sorted(SITES) for value in ("iia", "logit_diff")
    ]
    for facet in grid.facets:
        wanted = is_hit if facet.value == "iia" else lambda *job: label_logit(*job) - 3.0
        np.testing.assert_allclose(facet.values, expected(str(facet.key[0]), wanted))
        counts = np.full((LAYERS, POSITIONS), PAIRS)
        if facet.key[0] == FAILED[0]:
            counts[FAILED[1], FAILED[2]] -= 1
        np.testing.assert_array_equal(facet.counts, counts)
    assert caption(grid, heatmap()) == "n = 3 to 4 pairs each"


def test_aggregates_stay_and_recovered_is_a_ratio_of_sums(connection: duckdb.DuckDBPyConnection) -> None:
    ratio = "sum(logit_diff - base_run_logit_diff) / sum(source_run_logit_diff - base_run_logit_diff)"
    first, second = read_grid(connection, heatmap(facet=None, fill=["recovered", ratio])).facets
    np.testing.assert_allclose(first.values, second.values)
    job = [label_logit(*job) - 3.0 + 4.0 for job in jobs() if job[1:3] == (0, 0)]
    assert first.values[0, 0] == pytest.approx(sum(job) / (12.0 * len(job)))


def test_what_does_not_exist_is_blank_and_not_zero(connection: duckdb.DuckDBPyConnection) -> None:
    (facet,) = read_grid(connection, heatmap(facet=None, where="layer <> 1 OR base_position <> 2")).facets
    assert np.isnan(facet.values[1, 2]) and facet.counts[1, 2] == 0
    assert np.isfinite(facet.values).sum() == LAYERS * POSITIONS - 1


def test_null_and_infinite_values_are_blank(connection: duckdb.DuckDBPyConnection) -> None:
    nothing, infinite = read_grid(connection, heatmap(facet=None, fill=["kl_source", "sum(iia) / 0"])).facets
    assert np.isnan(nothing.values).all() and np.isnan(infinite.values).all()
    assert (nothing.counts == 0).all()


def test_several_columns_make_joint_labels(connection: duckdb.DuckDBPyConnection) -> None:
    grid = read_grid(connection, heatmap(view="scores", y=["layer", "site"], facet="role", fill="prob"))
    assert tick_texts(grid.down, {})[:2] == ["0 · block_output", "0 · mlp_output"]
    assert [facet_text(grid, facet) for facet in grid.facets] == ["base_label", "label"]
    (number, *_) = read_grid(connection, heatmap(facet="layer")).facets
    assert facet_text(read_grid(connection, heatmap(facet="layer")), number) == "layer 0"


def test_positions_show_the_shared_token_or_the_span(connection: duckdb.DuckDBPyConnection) -> None:
    texts = position_texts(connection, heatmap(), range(POSITIONS))
    assert texts == {0: "0 The", 1: "1 capital", 2: "2 of", 3: "3 ⟨country⟩", 4: "4 is"}
    assert position_texts(connection, heatmap(where="base = 'The capital of Peru is'"), [3])[3] == "3 Peru"


def test_a_position_without_shared_token_or_span_is_left_open_and_one_without_words_a_number() -> None:
    connection = duckdb.connect()
    connection.execute(
        "CREATE TABLE results AS FROM (VALUES ('s', 1, 0, ['a', chr(10)], 1.0),"
        " ('s', 2, 0, ['b', chr(10)], 0.0), ('s', 1, 1, ['a', chr(10)], 0.0),"
        " ('s', 2, 1, ['b', chr(10)], 0.0))"
        " t(study, pair_id, base_position, base_tokens, iia)"
    )
    connection.execute(
        "CREATE TABLE inputs AS FROM (VALUES ('s', 1, ['a', '$'], '{\"base\": {\"x\": [0, 1]}}'),"
        " ('s', 2, ['b', '$'], '{}')) t(study, pair_id, base_tokens, spans)"
    )
    assert position_texts(connection, heatmap(), range(POSITIONS)) == {0: "0 …", 1: "1 ⏎"}
    connection.execute("UPDATE results SET base_tokens = []")
    assert position_texts(connection, heatmap(), range(POSITIONS)) == {0: "0", 1: "1"}


def test_bars_have_the_first_x_along_and_the_others_as_series(connection: duckdb.DuckDBPyConnection) -> None:
    grid = read_grid(connection, Plot(kind="bars", x=["layer", "site"], y="iia", where="base_position = 3"))
    assert grid.across.keys == ((0,), (1,), (2,))
    assert grid.down.keys == (("block_output",), ("mlp_output",))
    np.testing.assert_allclose(grid.facets[0].values, [[1.0, 0.75, 0.5], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("values", "columns", "shared", "wanted"),
    [
        ([-1.0, 3.0], ["logit_diff"], True, (-3.0, 3.0, "RdBu_r")),
        ([1.0, 3.0], ["logit_diff"], True, (1.0, 3.0, "viridis")),
        ([0.0, 0.1], ["iia"], True, (0.0, 1.0, "viridis")),
        ([0.0, 0.1], ["iia"], False, (0.0, 0.1, "viridis")),
        ([2.0, 2.0], ["kl_base"], True, (2.0, 4.0, "viridis")),
        ([np.nan], ["kl_base"], True, (0.0, 1.0, "viridis")),
    ],
)
def test_scales_diverge_around_zero_where_both_signs_occur(
    values: list[float], columns: Sequence[str], shared: bool, wanted: tuple[float, float, str]
) -> None:
    scale = scale_of([np.array(values)], columns, log=False, shared=shared)
    assert (scale.low, scale.high, scale.colours) == wanted


def test_a_logarithmic_scale_of_both_signs_is_linear_around_zero() -> None:
    scale = scale_of([np.array([-1.0, 0.0, 4.0])], ["logit_diff"], log=True, shared=False)
    assert (scale.low, scale.high, scale.colours) == (-4.0, 4.0, "RdBu_r")
    small, large = scale.norm(0.04) - scale.norm(0.0), scale.norm(4.0) - scale.norm(3.96)
    assert scale.norm(0.0) == 0.5
    assert small > 20 * large


def test_a_logarithmic_scale_needs_positive_values() -> None:
    scale = scale_of([np.array([0.0, 1e-3, 1.0])], ["prob"], log=True, shared=True)
    assert (scale.low, scale.high) == (1e-3, 1.0) and scale.clips(np.array([0.0]))
    with pytest.raises(QueryError, match="log: fill needs positive values, and logit_diff has none"):
        scale_of([np.array([-1.0, 0.0])], ["logit_diff"], log=True, shared=True)


def test_a_picture_says_what_it_shows_and_is_the_same_each_time(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    wanted = heatmap(title="Costs $5 and $6", scale="own", fill="prob", where="layer < 2")
    png, svg = draw(connection, wanted, tmp_path / "new" / "first")
    assert png.name == "first.png" and png.read_bytes().startswith(PNG)
    texts = texts_of(svg)
    assert {"Costs $5 and $6", "block_output", "mlp_output", "⟨country⟩", "The", "layer"} <= set(texts)
    assert "n = 4 pairs each, where layer < 2" in texts
    assert texts.count("probability") == 2
    again = draw(connection, wanted, tmp_path / "second")
    assert [path.read_bytes() for path in again] == [png.read_bytes(), svg.read_bytes()]


def test_shared_scales_have_one_colour_bar(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    _, svg = draw(connection, heatmap(), tmp_path / "shared")
    assert texts_of(svg).count("interchange accuracy") == 1


def test_logarithmic_pictures_have_plain_numbers(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    _, svg = draw(connection, heatmap(fill="prob", log="fill"), tmp_path / "map")
    assert not any("mathdefault" in text for text in texts_of(svg))
    _, svg = draw(connection, Plot(kind="bars", x=["layer", "site"], y="prob", log="y"), tmp_path / "bars")
    assert {"block_output", "mlp_output", "site"} <= set(texts_of(svg))


def test_drawing_leaves_matplotlib_as_it_was(root: Path) -> None:
    # In a process of its own: reading all settings, as other tests may, makes matplotlib load pyplot.
    code = (
        "import sys; from pathlib import Path; import matplotlib; from orchestrator.plots import draw_study;"
        "before = matplotlib.rcParams.copy(); draw_study(Path(sys.argv[1]));"
        "print(matplotlib.rcParams.copy() == before, 'matplotlib.pyplot' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, str(root)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.split() == ["True", "False"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fill": "iiaa"}, "did you mean 'iia'"),
        ({"where": "layer > 99"}, "nothing to draw: view results has no rows where layer > 99"),
        ({"facet": "job_id"}, "facets, and 24 can be drawn"),
        ({"log": "y"}, "heatmap takes log: fill"),
        ({"fill": "iia)) FROM results; COPY results TO 'x' --"}, "the SQL has 2 statements"),
    ],
)
def test_what_cannot_be_drawn_says_why(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(QueryError) as error:
        draw(connection, heatmap(**changes), tmp_path / "none")
    assert said in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_study_draws_its_own_plots(root: Path) -> None:
    assert list(own_plots(root)) == ["map", "last"]
    paths = draw_study(root)
    assert paths == [root / "plots" / f"{name}.{kind}" for name in ("map", "last") for kind in ("png", "svg")]
    assert all(path.stat().st_size for path in paths)


def test_a_study_without_plots_gets_a_heat_map(tmp_path: Path) -> None:
    root = make_study(tmp_path / "bare", plots=None)
    assert draw_study(root) == [root / "plots" / "heatmap.png", root / "plots" / "heatmap.svg"]
    with connect([root]) as connection:
        chosen = default_plot(connection, "heatmap")
    assert (chosen.x, chosen.y, chosen.facet, chosen.fill) == ("base_position", "layer", ("site",), "iia")


def test_changes_are_validated_and_drop_the_title() -> None:
    own = heatmap(title="Accuracy", where="layer < 3")
    new = changed(own, {"fill": ("kl_base",)})
    assert (new.fill, new.title, new.where) == (("kl_base",), None, "layer < 3")
    with pytest.raises(StudyError, match="view"):
        changed(own, {"view": "nothing"})


def test_the_command_prints_what_it_wrote(root: Path, tmp_path: Path) -> None:
    stem = tmp_path / "mine"
    given = [
        "heatmap",
        "small",
        "--store",
        root.parent,
        "--fill",
        "recovered",
        "--fill",
        "iia",
        "-o",
        f"{stem}.png",
    ]
    outcome = CliRunner().invoke(plot_command, [str(word) for word in given])
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stdout == f"{stem}.png\n{stem}.svg\n"
    assert "block_output · share of the effect recovered" in texts_of(Path(f"{stem}.svg"))


def test_all_and_bars_draw_below_the_study(root: Path) -> None:
    store = ["--store", str(root.parent)]
    assert len(CliRunner().invoke(plot_command, ["all", "small", *store]).stdout.splitlines()) == 4
    drawn = CliRunner().invoke(plot_command, ["bars", "small", *store])
    assert drawn.stdout.splitlines() == [f"{root}/plots/bars.png", f"{root}/plots/bars.svg"]


def test_the_picture_and_the_named_query_give_the_same_numbers(connection: duckdb.DuckDBPyConnection) -> None:
    from orchestrator.query.statements import named_queries

    grid = read_grid(connection, heatmap())
    drawn = {
        (facet.key[0], layer, position): facet.values[layer, position]
        for facet in grid.facets
        for layer in range(LAYERS)
        for position in range(POSITIONS)
    }
    rows = run_query(connection, named_queries()["accuracy"].sql).fetchall()
    assert drawn == {row[:3]: row[3] for row in rows}
