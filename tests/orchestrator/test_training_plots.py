"""Promise: the pictures of trainings show what SQL gives, and say so where there is nothing to show."""

import html
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_trainings import IIT, STUDY, run, study

import swapyard as sy
from orchestrator.cli.plot import plot
from orchestrator.plots import draw_study
from orchestrator.query.axes import kinds_of_columns
from orchestrator.query.connection import VIEWS, connect
from orchestrator.query.statements import named_queries
from orchestrator.query.summary import answer
from workers.errors import QueryError, StudyError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    run(study(STUDY), folder)
    return folder


def texts(path: Path) -> list[str]:
    """The texts of a picture, which matplotlib leaves as comments beside their outlines."""
    return [html.unescape(text) for text in re.findall(r"<!-- (.*?) -->", path.read_text("utf-8"))]


def drawn(store: Path, kind: str, *options: str) -> list[str]:
    done = CliRunner().invoke(plot, [kind, "sums", "--store", str(store), *options], catch_exceptions=False)
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert [path.suffix for path in paths] == [".png", ".svg"]
    return texts(paths[1])


def test_the_alignment_shows_every_variable_and_the_accuracy_that_was_measured(store: Path) -> None:
    found = drawn(store, "alignment")
    results = sy.open_results("sums", store=store)
    rows = results.sql(
        "SELECT interchange, read, variable, avg(iia) FROM results GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    assert [text for text in found if re.fullmatch(r"\d\.\d\d", text)] == [f"{row[-1]:.2f}" for row in rows]
    # In the graph of each of the four models, those that are aligned in the network as well.
    assert {name: found.count(name) for name in "xyzSO"} == {"x": 8, "S": 8, "y": 4, "z": 4, "O": 4}
    assert {"interchange 0.0 · read T1", "interchange 1.0 · read T2", "layer 2", "input"} <= set(found)


def test_a_study_that_trains_is_drawn_at_its_end(store: Path) -> None:
    done = CliRunner().invoke(plot, ["all", "sums", "--store", str(store)], catch_exceptions=False)
    assert {Path(line).name for line in done.stdout.splitlines()} == {
        f"{kind}.{suffix}" for kind in ("curves", "alignment") for suffix in ("png", "svg")
    }


def test_plots_of_trainings_are_named_in_the_study(tmp_path: Path) -> None:
    shown = {"kind": "alignment", "where": "read = 'T2' AND interchange = 1.0", "title": "Only T2"}
    run(study(STUDY, plots={"places": shown}), tmp_path)
    done = CliRunner().invoke(plot, ["all", "sums", "--store", str(tmp_path)], catch_exceptions=False)
    found = texts(Path(done.stdout.splitlines()[1]))
    assert "Only T2" in found and len([text for text in found if re.fullmatch(r"\d\.\d\d", text)]) == 2
    # What a command does not say is as in the study's plot of that kind.
    assert drawn(tmp_path, "alignment") == found
    with pytest.raises(StudyError, match="curves does not use 'fill'; allowed: where, title"):
        study(STUDY, plots={"c": {"kind": "curves", "fill": "value"}})


def test_each_alignment_is_drawn_with_its_own_places(tmp_path: Path) -> None:
    places = {"S": {"site": "block_output", "layer": "$depth", "subspace": "0:12"}}
    grid = {**IIT, "alignment": places, "for": {"depth": [0, 1]}, "num_epochs": 1}
    grid["losses"] = IIT["losses"][:1]
    sweep = [{**STUDY["sweep"][0], "reads": ["T1"]}]
    made = study({**STUDY, "alignment": None}, train={"iit": grid}, sweep=sweep)
    run(made, tmp_path)
    found = drawn(tmp_path, "alignment")
    assert {"depth 0", "depth 1"} <= set(found)
    # The variable in both causal models, and in a layer of each network: at another height.
    svg = (tmp_path / "sums" / "plots" / "alignment.svg").read_text("utf-8")
    heights = [
        float(y) for y in re.findall(r"<!-- S -->\s*<g[^>]*transform=\"translate\([\d.]+ ([\d.]+)\)", svg)
    ]
    assert len(heights) == 4 and len({round(y) for y in heights}) == 3


def test_the_curves_have_a_facet_for_each_metric_and_a_line_for_each_model(store: Path) -> None:
    found = drawn(store, "curves", "--where", "split = 'test' AND head = 'T1'", "--title", "Sums")
    assert {"task accuracy", "interchange accuracy", "task loss", "interchange loss", "Sums"} <= set(found)
    assert {f"interchange {weight} · variable {name}" for weight in (0.0, 1.0) for name in "xS"} <= set(found)


def test_there_is_nothing_to_draw_without_an_alignment_or_a_training(tmp_path: Path) -> None:
    made = {
        "study": "sums",
        "task": STUDY["task"],
        "model": {
            "ref": "zoo:mlp",
            "vocab_size": 4,
            "num_inputs": 3,
            "width": 6,
            "num_layers": 1,
            "outputs": 10,
            "seed": 0,
        },
        "sweep": [
            {"variable": "S", "site": "block_output", "layer": 0, "position": 0, "where": "split = 'test'"}
        ],
    }
    run(sy.Study(**made), tmp_path)
    with pytest.raises(StudyError, match="no block interchanges variables at the places of an alignment"):
        drawn(tmp_path, "alignment")
    with pytest.raises(QueryError, match="there is no curve to draw yet"):
        drawn(tmp_path, "curves")


def test_the_models_of_another_study_are_drawn_where_they_were_aligned(tmp_path: Path) -> None:
    run(study(STUDY), tmp_path)
    more = {"study": "more", "task": STUDY["task"], "model": "artifact:sums/iit"}
    made = sy.Study(**more, sweep=[{"variables": "all", "reads": ["T1", "T2"], "where": "split = 'test'"}])
    results = run(made, tmp_path)
    done = CliRunner().invoke(plot, ["alignment", "more", "--store", str(tmp_path)], catch_exceptions=False)
    shown = texts(Path(done.stdout.splitlines()[1]))
    rows = results.sql(
        "SELECT interchange, read, variable, avg(iia) FROM results GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    assert [text for text in shown if re.fullmatch(r"\d\.\d\d", text)] == [f"{row[-1]:.2f}" for row in rows]
    # Its table tells models apart as theirs does; it trained nothing itself.
    assert "interchange" in str(answer(tmp_path / "more")).splitlines()[0]
    assert results.sql("SELECT count(*) FROM trainings").fetchall() == [(0,)]


def test_one_plot_that_cannot_be_drawn_spares_the_others(tmp_path: Path) -> None:
    bad = {"kind": "curves", "where": "step < 0"}
    run(
        study(
            STUDY,
            plots={"bad": bad, "good": {"kind": "alignment"}, "worse": {**bad, "where": "split = 'none'"}},
        ),
        tmp_path,
    )
    told: list[str] = []
    drawn_paths = draw_study(tmp_path / "sums", lambda name, error: told.append(f"{name}: {error}"))
    assert [path.name for path in drawn_paths] == ["good.png", "good.svg"]
    assert [line.partition(":")[0] for line in told] == ["bad", "worse"]


def test_seeds_are_told_apart_in_tables_and_pictures_say_that_they_are_not(store: Path) -> None:
    results = sy.open_results("sums", store=store)
    axes = ["interchange", "seed", "read", "variable"]
    wanted = results.sql(f"SELECT {', '.join(axes)}, avg(iia), count(*) FROM results GROUP BY ALL").fetchall()
    relation = results.sql(named_queries()["accuracy"].sql)
    found = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
    assert {(*(row[axis] for axis in axes), row["iia"], row["n"]) for row in found} == {*wanted}
    head, _, *lines = str(answer(store / "sums")).splitlines()
    assert {*axes, "iia", "jobs"} <= {*head.split()} and len(lines) == len(wanted)
    with connect([store / "sums"]) as connection:
        for view in VIEWS:
            assert None not in kinds_of_columns(connection, view).values()
    said = CliRunner().invoke(plot, ["all", "sums", "--store", str(store)], catch_exceptions=False).stderr
    assert said.splitlines() == ["curves: mean over 2 seeds", "alignment: mean over 2 seeds"]
    assert "mean over 2 seeds" in drawn(store, "alignment") and "mean over 2 seeds" in drawn(store, "curves")
