"""Promise: each thing that a view's numbers rest on is held by a test: take it away, and that test fails.

The studies run once; what changes is how their rows are read.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants import TORCH, Mutant, Nursery, nursery
from views import studied

SQL, SIDES = "orchestrator/query/view_sql.py", "orchestrator/query/join_tables.py"
FITS, TABLES = "orchestrator/stages/fit/tables.py", "orchestrator/query/tables.py"
METRICS = "workers/metrics.py"


def seen_in(view: str) -> str:
    """The test that compares a view with plain torch."""
    test = "test_every_column_of_every_row_is_what_plain_torch_gives"
    return f"orchestrator/views/test_numbers.py::{test}[{view}]"


RESULTS, SCORES, RUNS, SCREENING, OF_FITS = map(seen_in, ("results", "scores", "runs", "screening", "fits"))

MUTANTS = {
    "a run's label and base label are taken for each other": Mutant(
        METRICS, '"label_logit": "{label}"', '"label_logit": "{base_label}"', RESULTS
    ),
    "the base run and the source run are taken for each other": Mutant(
        SIDES, "FILTER (run = '{run}')", "FILTER (run <> '{run}')", RESULTS
    ),
    "a difference of logits has the other sign": Mutant(
        METRICS,
        'sql="({label} - {base_label})::DOUBLE"',
        'sql="({base_label} - {label})::DOUBLE"',
        RESULTS,
    ),
    "clean runs are those of another model": Mutant(
        SQL, "ON q.lane = p.lane AND q.pair = r.pair", "ON q.lane <= p.lane AND q.pair = r.pair", RESULTS
    ),
    "clean runs are those of another read": Mutant(
        SQL,
        "q.pair = r.pair AND q.read_at = c.read_at",
        "q.pair = r.pair AND q.read_at <= c.read_at",
        RESULTS,
    ),
    "clean runs are those of another pair": Mutant(
        SQL, "q.lane = p.lane AND q.pair = r.pair", "q.lane = p.lane AND q.pair = r.pair + 1", RESULTS
    ),
    "words are those of another model": Mutant(
        SQL, "tokens t ON t.lane = p.lane AND t.id", "tokens t ON t.lane = 0 AND t.id", RESULTS
    ),
    "the words of clean runs are those of another model": Mutant(
        SQL, "tokens t ON t.lane = r.lane AND t.id", "tokens t ON t.lane = 0 AND t.id", RUNS
    ),
    "cells are shown with pairs of another class": Mutant(
        SQL,
        "ON c.class = p.class AND c.cell = r.cell\n        LEFT",
        "ON c.cell = r.cell\n        LEFT",
        RESULTS,
    ),
    "a pair that was given twice has a row of clean values for each": Mutant(
        SQL, "(SELECT DISTINCT lane, pair, pair_id FROM", "(SELECT lane, pair, pair_id FROM", RUNS
    ),
    "a logit is taken for its log probability": Mutant(
        METRICS, "exp(({label} - r.logsumexp)", "exp(({label})", RESULTS
    ),
    "where there is no label there is a number": Mutant(
        SQL, "nullif({value}, 'NaN'::FLOAT)", "nullif({value}, 0::FLOAT)", RUNS
    ),
    "only the first of several labels counts": Mutant(
        SQL, "list_contains(p.label_ids, r.pred_id)", "r.pred_id = p.label_id", RESULTS
    ),
    "the base label beats the label": Mutant(
        METRICS, "{label} > {base_label}", "{label} < {base_label}", RESULTS
    ),
    "a flip counts where both labels are the same words": Mutant(
        METRICS, "WHEN NOT p.has_one_label", "WHEN p.has_one_label IS NOT NULL", RESULTS
    ),
    "what did not change changed": Mutant(METRICS, "r.pred_id <> q.base", "r.pred_id = q.base", RESULTS),
    "what changed is told by the source's run": Mutant(
        METRICS, "<> q.base_run_pred_id", "<> q.source_run_pred_id", RESULTS
    ),
    "near ties are told as in float32": Mutant(SIDES, "CASE {lane}.dtype", "CASE 'float32'", RESULTS),
    "a job is called by its pair and then its cell": Mutant(
        SQL,
        "c.cell_id::VARCHAR || '/' || p.pair_id::VARCHAR",
        "p.pair_id::VARCHAR || '/' || c.cell_id::VARCHAR",
        RESULTS,
    ),
    "where values are taken is where they are written": Mutant(
        SQL, "coalesce(l.{side}_positions, c.{side}", "coalesce(l.base_positions, c.{side}", RESULTS
    ),
    "the estimate is that of another pair": Mutant(
        SQL, "ON e.cell = r.cell AND e.pair = r.pair", "ON e.cell = r.cell AND e.pair = r.pair + 1", RESULTS
    ),
    "each label has the other's probability": Mutant(
        SQL,
        '(("base_label", "base_prob"), ("label", "prob"))',
        '(("base_label", "prob"), ("label", "base_prob"))',
        SCORES,
    ),
    "only one of the labels is there": Mutant(
        SQL, "WHERE {role}_id IS NOT NULL", "WHERE label_id IS NOT NULL AND {role}_id IS NOT NULL", SCORES
    ),
    "an effect is the size of a mean": Mutant(
        SQL, "avg(abs(change)) AS exact_effect", "abs(avg(change)) AS exact_effect", SCREENING
    ),
    "an estimated effect is the size of a mean": Mutant(
        SQL, "avg(abs(e.estimate::DOUBLE)) AS", "abs(avg(e.estimate::DOUBLE)) AS", SCREENING
    ),
    "an answer needs both labels": Mutant(
        SQL, "coalesce({label} - {base_label}, {label}, -{base_label})", "({label} - {base_label})", SCREENING
    ),
    "what a base label alone gets counts for it": Mutant(
        SQL, "{label}, -{base_label})", "{label}, {base_label})", SCREENING
    ),
    "a change is from the source's run": Mutant(
        SQL, 'f"q.base_run_{role}_logit"', 'f"q.source_run_{role}_logit"', SCREENING
    ),
    "pairs to fit and pairs held out are taken for each other": Mutant(
        FITS, 'len(fits[row["fit"]].held_out)', 'len(fits[row["fit"]].pairs)', OF_FITS
    ),
    "a fit that failed counts as made": Mutant(
        FITS, 'row["method"] == "sae" or found', 'row["method"] != "sae" or found', OF_FITS
    ),
    "a fit of no pairs has the one that shows its width": Mutant(
        FITS, 'row["method"] in WITHOUT_PAIRS else', 'row["method"] == "sae" else', OF_FITS
    ),
    "what a fit does not read is shown as read": Mutant(
        FITS, 'if row["method"] in TRAINED else', 'if row["method"] else', OF_FITS
    ),
    "models have the dtype of another": Mutant(
        TABLES,
        "texts([spec.dtype for spec in specs]",
        "texts([spec.dtype for spec in reversed(specs)]",
        RESULTS,
    ),
}


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """A nursery whose tests find the studies done."""
    folder: Path = tmp_path_factory.mktemp("mutants")
    (folder / "studies").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWAPYARD_CACHE", str(folder / "cache"))
        done = studied.run(folder / "studies")
        studied.keep(done, studied.by_hand(done))
    with nursery(folder / "copies", TORCH, {studied.KEPT: str(folder / "studies")}) as made:
        yield made


@pytest.mark.parametrize("name", MUTANTS)
def test_what_a_mutant_changes_stands_there_once(name: str) -> None:
    assert MUTANTS[name].count() == 1


@pytest.mark.night
def test_without_a_change_all_of_these_tests_pass(mutants: Nursery) -> None:
    done = mutants.unchanged({mutant.test for mutant in MUTANTS.values()})
    assert done.status == pytest.ExitCode.OK, done.output


@pytest.mark.night
@pytest.mark.parametrize("name", MUTANTS)
def test_a_change_is_noticed(name: str, mutants: Nursery) -> None:
    done = mutants.changed(MUTANTS[name])
    # The test ran and failed, and not because the changed SQL is none.
    assert done.status == pytest.ExitCode.TESTS_FAILED, done.output
    assert "Parser Error" not in done.output and "Binder Error" not in done.output, done.output
