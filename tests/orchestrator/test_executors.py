"""Promise: a worker does a slice, or the first cells of it, and says exactly what it did."""

from pathlib import Path
from typing import NamedTuple

import pytest
from running import capital_pairs, write_study

import swapyard as sy
from orchestrator.loading import Engines
from orchestrator.plan.tables import Plan, read_plan
from orchestrator.run.executors import Failed, Finished, InlineExecutor
from orchestrator.run.schedule import Slice
from orchestrator.run.worker import StudyWorker
from orchestrator.store import StudyStore
from workers.errors import ModelError
from workers.vocabulary import METRIC_FAMILIES


class World(NamedTuple):
    """A study that is planned and run, and a worker that can run any of it again."""

    store: StudyStore
    plan: Plan
    worker: StudyWorker

    def whole(self) -> Slice:
        """All of the first tile."""
        tile = self.plan.tiles[0]
        num_cells = len(self.plan.cellsets[tile.cellset])
        return Slice(tile=0, lane=tile.lane, k_lo=0, k_hi=num_cells, families=METRIC_FAMILIES)


@pytest.fixture
def world(tmp_path: Path, tiny_folder: Path) -> World:
    path = write_study(tmp_path, "small", tiny_folder, capital_pairs())
    sy.run(str(path), store=tmp_path, executor="inline", quiet=True)
    return reopened(StudyStore(tmp_path / "small"))


def reopened(store: StudyStore) -> World:
    ref = store.latest_plan()
    assert ref is not None
    worker = StudyWorker(store.root, ref, epoch=1, engines=Engines(threads=1, num_sharing=1))
    return World(store, read_plan(store, ref), worker)


def test_a_report_says_what_lies_in_its_part(world: World) -> None:
    executor = InlineExecutor(world.worker)
    (worker,) = executor.start()
    executor.submit(worker, world.whole(), 60.0)
    (event,) = executor.wait(0)
    assert isinstance(event, Finished)
    assert (event.worker, event.taken) == (worker, world.whole())
    manifest = event.report.manifest
    num_cells = world.whole().k_hi
    assert event.report.num_cells == num_cells
    assert (manifest.k_lo, manifest.k_hi, manifest.rows, manifest.failed) == (0, num_cells, num_cells * 12, 0)
    assert sum(manifest.tiers.values()) == manifest.rows
    part = world.store.read_part(manifest)
    cells = world.plan.cellsets[world.plan.tiles[0].cellset]
    jobs = list(zip(part["cell"].to_pylist(), part["pair"].to_pylist(), strict=True))
    assert jobs == [(cell, pair) for cell in cells for pair in world.plan.tiles[0].pairs]
    assert executor.wait(0) == []


def test_a_slice_far_past_its_target_ends_with_whole_cells(world: World) -> None:
    report = world.worker.run(world.whole(), target_s=1e-9)
    assert 1 <= report.num_cells < world.whole().k_hi
    assert report.manifest.k_hi == report.num_cells
    assert world.store.read_part(report.manifest).num_rows == report.num_cells * 12


def test_loading_the_model_does_not_count_as_work(world: World) -> None:
    first, second = (world.worker.run(world.whole(), 60.0).seconds for _ in range(2))
    assert first < 20 * second


def test_a_call_that_raises_leaves_the_worker_alive(world: World) -> None:
    executor = InlineExecutor(world.worker)
    nowhere = Slice(tile=99, lane=0, k_lo=0, k_hi=1, families=METRIC_FAMILIES)
    executor.submit(0, nowhere, 60.0)
    assert executor.wait(0) == [Failed(0, nowhere, "KeyError: 99")]
    executor.submit(0, world.whole(), 60.0)
    assert isinstance(executor.wait(0)[0], Finished)
    executor.close()


def test_an_error_that_no_other_try_can_mend_ends_the_run(world: World, tiny_folder: Path) -> None:
    config = tiny_folder / "config.json"
    before = config.read_bytes()
    config.write_bytes(before + b"\n")
    try:
        executor = InlineExecutor(reopened(world.store).worker)
        executor.submit(0, world.whole(), 60.0)
        with pytest.raises(
            ModelError, match=r"the plan was made for .* at revision .*, which this machine does not have"
        ):
            executor.wait(0)
    finally:
        config.write_bytes(before)
