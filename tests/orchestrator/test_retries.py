"""Promise: a failed job runs again when asked for, once, by the type of its error; its row gives way."""

from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pytest
from histories import BOTH, History

from orchestrator.plan.remaining import counts_of
from orchestrator.plan.tables import Plan
from orchestrator.query.connection import connect
from orchestrator.stages.sweep.retries import retry_work
from orchestrator.stages.sweep.work import TileWork
from workers.errors import RunError, StoreError

OOM, VALUE = "OutOfMemoryError", "ValueError"


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History.begin(tmp_path)


def work(history: History, *types: str, plan: Plan | None = None) -> list[TileWork]:
    return retry_work(plan or history.plan, history.driver.state, history.store, types)


def test_where_nothing_failed_nothing_is_retried(history: History) -> None:
    assert work(history) == []
    history.add(0, 0, 30)
    assert work(history, OOM) == []


def test_each_part_with_failures_is_work_of_its_own(history: History) -> None:
    first = history.add(0, 2, 6, failing={9: OOM, 10: OOM, 12: VALUE, 23: OOM})
    second = history.add(0, 6, 10, ("kl",), failing={24: OOM})
    history.add(1, 0, 30, failing={})
    one, two = work(history)
    assert (one.tile, one.lane, one.num_pairs, one.replaces) == (0, history.plan.tiles[0].lane, 4, first.path)
    assert one.todo == [(2, 4, BOTH), (5, 6, BOTH)]
    assert one.jobs == ((9, 11), (12, 13), (23, 24))
    assert one.costs.tolist() == history.plan.costs[history.plan.tiles[0].cellset].tolist()
    assert (two.todo, two.jobs, two.replaces) == ([(6, 7, ("kl",))], ((24, 25),), second.path)


def test_types_are_retried_one_after_the_other_each_job_once(history: History) -> None:
    part = history.add(0, 0, 3, failing={1: OOM, 2: VALUE, 9: OOM})
    assert [one.jobs for one in work(history, VALUE)] == [((2, 3),)]
    assert [one.jobs for one in work(history, OOM)] == [((1, 2), (9, 10))]
    history.retry(part, [1, 9], failing={9: OOM})
    assert work(history, OOM) == [], "a job that failed again is not run a third time"
    assert [one.jobs for one in work(history)] == [((2, 3),)]
    history.retry(part, [2])
    assert work(history) == []
    assert history.seen() == history.expected()
    assert history.failed_jobs(part) == {9: OOM}
    assert counts_of(history.plan, history.driver.state).num_failed == 1


def test_an_error_type_that_is_not_there_is_named_with_those_that_are(history: History) -> None:
    history.add(0, 0, 1, failing={0: OOM, 1: VALUE})
    with pytest.raises(
        RunError,
        match=r"no job failed with 'ValeError'; jobs failed with OutOf.*, ValueError; did you mean 'Val",
    ):
        work(history, OOM, "ValeError")


def test_failures_are_found_where_their_rows_lie_now(history: History) -> None:
    parts = [history.add(0, k, k + 1, failing={4 * k + k % 4: OOM}) for k in range(8)]
    before = work(history)
    merged = history.merge()
    assert merged is not None and len(merged.of) == 8
    for part in parts:
        history.store.locate(part.path).unlink()
    assert [(one.todo, one.jobs, one.replaces) for one in work(history)] == [
        (one.todo, one.jobs, one.replaces) for one in before
    ]


def test_a_damaged_file_is_an_error_and_not_fewer_failures(history: History) -> None:
    part = history.add(0, 0, 1, failing={0: OOM})
    path = history.store.locate(part.path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match="is damaged"):
        work(history)


def test_only_what_the_plan_still_wants_is_retried(history: History) -> None:
    history.add(0, 0, 4, failing=dict.fromkeys(range(16), OOM))
    plan = history.plan
    inputs = plan.tables["inputs"]
    dropped = inputs.filter(pc.invert(pc.equal(inputs["pair"], plan.tiles[0].pairs[1])))
    fewer_pairs = replace(plan, tables={**plan.tables, "inputs": dropped})
    assert [one.jobs for one in work(history, plan=fewer_pairs)] == [
        ((0, 1), (2, 5), (6, 9), (10, 13), (14, 16))
    ]
    fewer_cells = replace(plan)
    fewer_cells.tiles[0] = replace(plan.tiles[0], selected=((1, 2, 4), (3, 30, 4)))
    assert [one.todo for one in work(history, plan=fewer_cells)] == [[(1, 2, BOTH), (3, 4, BOTH)]]
    del fewer_cells.tiles[0]
    assert work(history, plan=fewer_cells) == []


def test_a_retry_takes_its_rows_place_in_every_view(history: History) -> None:
    logits = history.add(0, 0, 30, ("logits",), failing={0: OOM, 5: OOM})
    history.add(0, 0, 30, ("kl",), failing={7: VALUE})
    history.add(1, 0, 30)
    history.retry(logits, [0, 5], failing={5: VALUE})
    assert history.seen() == history.expected()
    with connect([history.store.root]) as connection:
        found = connection.sql("SELECT error_type, attempt FROM failures ORDER BY attempt").fetchall()
        assert found == [(VALUE, 0), (VALUE, 1)]
        scores = connection.sql("SELECT count(*) FROM scores WHERE role = 'label'").fetchall()
        assert scores == [(240 - 2,)]
        done = connection.sql("SELECT sum(num_done), sum(num_jobs) FROM cells").fetchall()
        assert done == [(240, 240)]


def test_batches_say_where_the_rows_of_each_part_lie_now(history: History) -> None:
    parts = [history.add(0, k, k + 1, failing={4 * k: OOM}) for k in range(3)]
    merged = history.merge()
    retry = history.retry(parts[0], [0])
    assert merged is not None
    with connect([history.store.root]) as connection:
        rows = connection.sql("SELECT path, file, attempt, num_rows FROM batches").fetchall()
    assert rows == [*((part.path, merged.path, 0, 4) for part in parts), (retry.path, retry.path, 1, 1)]


def test_a_file_that_is_missing_or_cut_is_named_before_any_query(history: History) -> None:
    part = history.add(0, 0, 1)
    path = history.store.locate(part.path)
    path.write_bytes(path.read_bytes()[:-1])
    message = rf"{part.path} has .* bytes where .* were committed; .*: swapyard doctor --repair study --store"
    with pytest.raises(StoreError, match=message):
        connect([history.store.root])
    path.unlink()
    with pytest.raises(StoreError, match="was committed and is missing"):
        connect([history.store.root])
