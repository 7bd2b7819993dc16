"""Promise: a screened study runs the selected cells and no other, with the numbers that they have anyway;
killed anywhere it goes on with the same selection; and the recall is what the sample says."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from running import assert_same_rows, capital_pairs, environment, rows, start, swapyard, write_study

import swapyard as sy
from orchestrator.query.statements import named_queries
from orchestrator.query.summary import recall_lines
from orchestrator.run.device_setup import RunOptions
from orchestrator.run.driver import run_study
from orchestrator.run.progress import Progress
from orchestrator.upkeep.status import read_status
from studies import load_study

SCREEN = {"method": "attribution", "keep": 6, "sample": 5, "seed": 1}
SWEEP = [{"sites": ["mlp_output", "attention_input"], "layers": "all", "positions": [2, 3, 4]}]
SKIPPED = [
    {"name": "skipped", "sites": ["mlp_output"], "layers": [1], "positions": [4], "intervention": "skip"}
]
NUM_ESTIMATED, NUM_PAIRS = 18, 12


def study_file(folder: Path, model: Path, name: str = "small", **keys: Any) -> Path:
    return write_study(folder, name, model, capital_pairs(), **{"sweep": SWEEP + SKIPPED, **keys})


def run(file: Path, store: Path) -> sy.Results:
    return sy.run(str(file), store=store, executor="inline", quiet=True)


def fates(found: sy.Results) -> dict[str, list[str]]:
    """What was selected: cells by the word for it."""
    answer = found.sql("SELECT selected, list_sort(list(cell_id::VARCHAR)) FROM screening GROUP BY ALL")
    return dict(answer.fetchall())


def test_the_selected_cells_run_with_the_numbers_that_they_have_anyway(
    tmp_path: Path, tiny_folder: Path
) -> None:
    whole = run(study_file(tmp_path, tiny_folder), tmp_path / "whole")
    found = run(study_file(tmp_path, tiny_folder, screen=SCREEN), tmp_path / "screened")
    assert {word: len(cells) for word, cells in fates(found).items()} == {
        "kept": 6,
        "sampled": 5,
        "left": 7,
        "exact": 1,
    }
    ran = {cell for word in ("kept", "sampled", "exact") for cell in fates(found)[word]}
    results = found.arrow()
    assert results.num_rows == (6 + 5 + 1) * NUM_PAIRS
    assert {str(cell) for cell in results["cell_id"].to_pylist()} == ran
    theirs = whole.arrow()
    is_wanted = np.isin([str(cell) for cell in theirs["cell_id"].to_pylist()], list(ran))
    for name in ("job_id", "pred_id"):
        assert sorted(results[name].to_pylist()) == sorted(theirs.filter(is_wanted)[name].to_pylist())
    # Whatever runs was estimated, but for what cannot be.
    lacking = found.sql("SELECT DISTINCT block FROM results WHERE estimate IS NULL").fetchall()
    assert lacking == [("skipped",)]


def test_the_views_say_what_was_estimated_and_what_was_found(tmp_path: Path, tiny_folder: Path) -> None:
    found = run(study_file(tmp_path, tiny_folder, screen=SCREEN), tmp_path)
    exact = """
        SELECT cell_id, avg(abs(logit_diff - base_run_logit_diff)), avg(logit_diff - base_run_logit_diff),
               avg(abs(estimate)), count(*) FROM results WHERE block = 'block0' GROUP BY ALL ORDER BY 1"""
    told = """
        SELECT cell_id, exact_effect, exact_change, estimated_effect, num_exact FROM screening
        WHERE selected IN ('kept', 'sampled') ORDER BY 1"""
    for one, other in zip(found.sql(told).fetchall(), found.sql(exact).fetchall(), strict=True):
        assert one[0] == other[0]
        assert one[1:] == pytest.approx(other[1:])
    least = "SELECT min(estimated_effect) FROM screening WHERE selected = 'kept'"
    most = "SELECT max(estimated_effect) FROM screening WHERE selected IN ('sampled', 'left')"
    assert found.sql(least).fetchall() >= found.sql(most).fetchall()
    (counts,) = found.sql("SELECT sum(num_estimates), sum(num_exact), sum(weight) FROM screening").fetchall()
    assert counts == (NUM_ESTIMATED * NUM_PAIRS, 12 * NUM_PAIRS, pytest.approx(NUM_ESTIMATED))
    (tiers,) = found.sql("SELECT sum(num_estimated), sum(num_rows) FROM batches").fetchall()
    assert tiers == (NUM_ESTIMATED * NUM_PAIRS, (NUM_ESTIMATED + 12) * NUM_PAIRS)
    cells = found.sql("SELECT selected, c.num_jobs, c.num_done FROM cells c JOIN screening USING (cell_id)")
    assert set(cells.fetchall()) == {
        *((word, NUM_PAIRS, NUM_PAIRS) for word in ("kept", "sampled", "exact")),
        ("left", 0, 0),
    }
    (line,) = recall_lines(tmp_path / "small")
    assert "6 cells were kept; recall" in line


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> sy.Results:
    """Results of the screened study, which nobody killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWAPYARD_CACHE", str(folder / "cache"))
        return run(study_file(folder, tiny_folder, screen=SCREEN), folder)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("worker.written=kill@1", marks=pytest.mark.night),
        pytest.param("driver.commit.after=kill@1", marks=pytest.mark.night),
        pytest.param("commit.plan.before=kill@2", marks=pytest.mark.night),
        "commit.plan.after=kill@2",
        pytest.param("worker.written=kill@2", marks=pytest.mark.night),
    ],
)
def test_killed_anywhere_it_goes_on_with_the_same_selection(
    tmp_path: Path, tiny_folder: Path, undisturbed: sy.Results, fault: str
) -> None:
    """Before the estimates are committed, after, around the selection, and while the selected cells run."""
    file = study_file(tmp_path, tiny_folder, screen=SCREEN)
    command = ("run", file, "--executor", "inline", "--no-plots", "--store", tmp_path / "killed")
    cache = tmp_path / "cache"
    killed = swapyard(*command, cwd=tmp_path, cache=cache, env=environment(cache, SWAPYARD_FAULTS=fault))
    assert killed.returncode == -9, killed.stderr
    again = swapyard(*command, cwd=tmp_path, cache=cache)
    assert again.returncode == 0, again.stderr
    assert fates(sy.open_results("small", store=tmp_path / "killed")) == fates(undisturbed)
    assert undisturbed.outcome is not None
    whole = rows(undisturbed.outcome.root.parent, "small")
    assert_same_rows(rows(tmp_path / "killed", "small"), whole)


def test_a_run_that_is_stopped_before_the_selection_says_so(tmp_path: Path, tiny_folder: Path) -> None:
    file = study_file(tmp_path, tiny_folder, screen=SCREEN)
    cache = tmp_path / "cache"
    swapyard(
        *("run", file, "--executor", "inline", "--store", tmp_path),
        cwd=tmp_path,
        cache=cache,
        env=environment(cache, SWAPYARD_FAULTS="driver.plan=kill@2"),
    )
    (status,) = read_status(tmp_path, ["small"])
    assert (status.num_estimated, status.num_jobs) == (NUM_ESTIMATED * NUM_PAIRS, 0)
    assert not status.is_complete
    shown = swapyard("status", "--store", tmp_path, cwd=tmp_path, cache=cache).stdout
    assert "216 of 216 estimates" in shown
    planned = swapyard("plan", file, "--store", tmp_path, cwd=tmp_path, cache=cache).stdout
    assert "216 estimates; about 144 jobs run: 6 cells for their estimates, 5 as a sample" in planned
    assert "and 1 that are not estimated" in planned


def test_more_cells_can_be_kept_later(tmp_path: Path, tiny_folder: Path) -> None:
    first = run(study_file(tmp_path, tiny_folder, screen=SCREEN), tmp_path)
    before = dict(first.sql("SELECT job_id, pred_logprob FROM results").fetchall())
    file = study_file(tmp_path, tiny_folder, screen={**SCREEN, "keep": 12})
    outcome = run_study(
        load_study(str(file)), tmp_path / "small", RunOptions(executor="inline"), Progress(quiet=True)
    )
    found = sy.open_results("small", store=tmp_path)
    assert len(fates(found)["kept"]) == 12
    after = dict(found.sql("SELECT job_id, pred_logprob FROM results").fetchall())
    assert before.items() <= after.items(), "what ran before is still there, as it was"
    assert outcome.num_ran == len(after) - len(before)


def test_a_limit_counts_what_runs(tmp_path: Path, tiny_folder: Path) -> None:
    file = study_file(tmp_path, tiny_folder, screen=SCREEN)
    found = swapyard(
        *("run", file, "--executor", "inline", "--limit", "24", "--store", tmp_path),
        cwd=tmp_path,
        cache=tmp_path / "cache",
    )
    assert "stopped by --limit at 24 of 144 jobs" in found.stderr


SQL = named_queries()["recall"].sql


def recall_of(cells: list[tuple[str, float | None, float | None]]) -> dict[str, Any]:
    """The query on cells by hand: what was selected of each, its weight, its exact effect."""
    connection = duckdb.connect()
    connection.execute(
        "CREATE TABLE screening (study TEXT, model TEXT, dtype TEXT, revision TEXT, cell_id INT,"
        " selected TEXT, weight DOUBLE, exact_effect DOUBLE)"
    )
    connection.executemany(
        "INSERT INTO screening VALUES ('s', 'm', 'float32', 'r', ?, ?, ?, ?)",
        [(number, *cell) for number, cell in enumerate(cells)],
    )
    relation = connection.sql(SQL)
    (row,) = relation.fetchall()
    return dict(zip(relation.columns, row, strict=True))


def test_the_recall_weighs_each_sampled_cell_by_those_that_it_stands_for() -> None:
    kept = [("kept", 1.0, effect) for effect in (9, 8, 7, 6, 5, 4, 3, 2, 1, 0.5)]
    sampled = [("sampled", 3.0, effect) for effect in (6.5, 0.2, 0.2, 0.1)]
    found = recall_of([*kept, *sampled, ("left", None, None), ("exact", None, 99.0)])
    # The ten largest of 22: 9, 8, 7, three like 6.5, and of the kept 6, 5, 4, 3.
    assert (found["kept"], found["others"], found["sampled"], found["sampled_in_top"]) == (10, 12, 4, 1)
    assert found["recall"] == pytest.approx(0.7)
    share, z, n = 0.25, 1.96, 4
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    assert found["at_least"] == pytest.approx(max(0, 1 - 12 / 10 * (centre + reach)))
    assert found["at_most"] == pytest.approx(1 - 12 / 10 * (centre - reach))


def test_where_all_of_the_others_ran_the_recall_is_known() -> None:
    kept = [("kept", 1.0, effect) for effect in (9.0, 8.0, 1.0, 0.5)]
    found = recall_of([*kept, *(("sampled", 1.0, effect) for effect in (7.0, 0.1, 0.2))])
    assert [found[name] for name in ("recall", "at_least", "at_most")] == pytest.approx([0.75] * 3)


def test_a_cell_of_the_sample_at_the_edge_counts_for_what_is_left_of_the_top() -> None:
    kept = [("kept", 1.0, effect) for effect in (9.0, 8.0, 7.0, 1.0)]
    found = recall_of([*kept, *(("sampled", 50.0, effect) for effect in (6.0, 0.1))])
    assert found["recall"] == pytest.approx(0.75)


@pytest.mark.smollm2
def test_screening_of_smollm2_by_command_line(tmp_path: Path) -> None:
    file = tmp_path / "recall.yaml"
    file.write_text(
        "study: recall\n"
        "model: smollm2-135m\n"
        "task: {name: capitals, num_pairs: 8, seed: 0}\n"
        "screen: {method: attribution, keep: 12, sample: 12}\n"
        "sweep: [{sites: [mlp_output, attention_input], layers: all, positions: [3, 4]}]\n",
        encoding="utf-8",
    )
    process = start(
        *("run", file, "--executor", "inline", "--no-plots", "--store", tmp_path),
        cwd=tmp_path,
        cache=tmp_path,
        env=None,
        num_cores=None,
    )
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "screening of smollm2-135m: 12 cells were kept; recall" in err
    found = sy.open_results("recall", store=tmp_path).sql(SQL).to_arrow_table()
    # Far better than one in ten, which is what drawing 12 of 120 cells would find.
    assert found["recall"][0].as_py() > 0.5
