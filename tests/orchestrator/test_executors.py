"""Promise: a worker does a slice, or the first cells of it, and says exactly what it did."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from running import capital_pairs, write_study

import swapyard as sy
from orchestrator.plan.tables import Plan, read_plan
from orchestrator.run.engines import Engines
from orchestrator.run.executors import Died, Event, Finished, InlineExecutor, Joined, Ready
from orchestrator.run.worker import StudyWorker
from orchestrator.stages.sweep.partial_slice import run_selected
from orchestrator.stages.sweep.work import Slice
from orchestrator.store import StudyStore
from workers.engine.batch import Batch
from workers.errors import ModelError
from workers.vocabulary import Cell, Pair

EXACT = ("logits", "kl")


class World(NamedTuple):
    """A study that is planned and run, and a worker that can run any of it again."""

    store: StudyStore
    plan: Plan
    worker: StudyWorker

    def whole(self) -> Slice:
        """All of the first tile."""
        tile = self.plan.tiles[0]
        num_cells = len(self.plan.cellsets[tile.cellset])
        return Slice(tile=0, lane=tile.lane, k_lo=0, k_hi=num_cells, families=EXACT)

    def inputs(self, taken: Slice) -> tuple[list[tuple[int, Cell]], list[Pair]]:
        """The cells of a slice and the pairs of its tile."""
        numbers = self.plan.cellsets[0].tolist()[taken.k_lo : taken.k_hi]
        cells = [(number, self.plan.cells[number]) for number in numbers]
        return cells, [self.plan.pairs[number] for number in self.plan.tiles[0].pairs]

    def batch(self, taken: Slice) -> Batch:
        """All jobs of a slice."""
        cells, pairs = self.inputs(taken)
        return Batch(cells=cells, pairs=pairs, families=EXACT)


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


def begun(executor: InlineExecutor, worker: int, taken: Slice) -> list[Event]:
    """What comes of a slice once the worker has said that its model is ready."""
    executor.submit(worker, taken, 60.0)
    (ready,) = executor.wait(0)
    assert isinstance(ready, Ready)
    assert (ready.worker, ready.taken) == (worker, taken)
    assert ready.capability.ability("resumed").has
    executor.proceed(worker)
    return executor.wait(0)


def test_a_model_is_reported_on_once_and_before_any_work(world: World) -> None:
    executor = InlineExecutor(lambda share: world.worker)
    (worker,) = executor.start()
    executor.wait(0)
    parts = set(world.store.root.rglob("*.parquet"))
    executor.submit(worker, world.whole(), 60.0)
    assert [type(event) for event in executor.wait(0)] == [Ready]
    assert set(world.store.root.rglob("*.parquet")) == parts
    executor.proceed(worker)
    assert [type(event) for event in executor.wait(0)] == [Finished]
    executor.submit(worker, world.whole(), 60.0)
    assert [type(event) for event in executor.wait(0)] == [Finished]


def test_a_retired_worker_does_nothing_more(world: World) -> None:
    executor = InlineExecutor(lambda share: world.worker)
    (worker,) = executor.start()
    executor.wait(0)
    parts = set(world.store.root.rglob("*.parquet"))
    executor.submit(worker, world.whole(), 60.0)
    executor.wait(0)
    executor.retire(worker)
    assert executor.wait(0) == []
    assert set(world.store.root.rglob("*.parquet")) == parts
    executor.close()


def test_a_report_says_what_lies_in_its_part(world: World) -> None:
    executor = InlineExecutor(lambda share: world.worker)
    (worker,) = executor.start()
    assert executor.wait(0) == [Joined(worker)]
    (event,) = begun(executor, worker, world.whole())
    assert isinstance(event, Finished)
    assert (event.worker, event.taken) == (worker, world.whole())
    manifest = event.report.manifests[0]
    num_cells = world.whole().k_hi
    assert event.report.num_steps == num_cells
    assert (manifest.k_lo, manifest.k_hi, manifest.rows, manifest.failed) == (0, num_cells, num_cells * 12, 0)
    assert sum(manifest.tiers.values()) == manifest.rows
    part = world.store.read_part(manifest)
    cells = world.plan.cellsets[world.plan.tiles[0].cellset]
    jobs = list(zip(part["cell"].to_pylist(), part["pair"].to_pylist(), strict=True))
    assert jobs == [(cell, pair) for cell in cells for pair in world.plan.tiles[0].pairs]
    assert executor.wait(0) == []


def test_a_slice_far_past_its_target_ends_with_whole_cells(world: World) -> None:
    report = world.worker.run(world.whole(), 1e-9, 0)
    assert 1 <= report.num_steps < world.whole().k_hi
    assert report.manifests[0].k_hi == report.num_steps
    assert world.store.read_part(report.manifests[0]).num_rows == report.num_steps * 12


def test_loading_the_model_does_not_count_as_work(world: World) -> None:
    first, second = (world.worker.run(world.whole(), 60.0, 0).seconds for _ in range(2))
    assert first < 20 * second


def test_a_worker_whose_call_raises_is_taken_for_dead_and_replaced(world: World) -> None:
    shares: list[float] = []

    def make(share: float) -> StudyWorker:
        shares.append(share)
        return world.worker

    executor = InlineExecutor(make)
    (worker,) = executor.start()
    assert executor.wait(0) == [Joined(worker)]
    nowhere = Slice(tile=99, lane=0, k_lo=0, k_hi=1, families=EXACT)
    assert begun(executor, worker, nowhere) == [Died(worker, nowhere, "KeyError: 99", is_guilty=True)]
    fresh = executor.add(0.5)
    assert executor.wait(0) == [Joined(fresh)]
    assert isinstance(begun(executor, fresh, world.whole())[0], Finished)
    assert shares == [1.0, 0.5]
    executor.close()


def test_an_error_that_no_other_try_can_mend_ends_the_run(world: World, tiny_folder: Path) -> None:
    config = tiny_folder / "config.json"
    before = config.read_bytes()
    config.write_bytes(before + b"\n")
    try:
        executor = InlineExecutor(lambda share: reopened(world.store).worker)
        (worker,) = executor.start()
        executor.wait(0)
        executor.submit(worker, world.whole(), 60.0)
        with pytest.raises(
            ModelError, match=r"the plan was made for .* at revision .*, which this machine does not have"
        ):
            executor.wait(0)
    finally:
        config.write_bytes(before)


def test_careful_jobs_are_noted_one_by_one_and_those_given_up_are_not_run(world: World) -> None:
    taken = replace(world.whole(), k_hi=2, careful=True, given_up=((3, 4),))
    noted: list[int] = []
    trial = world.worker.trial(7)
    engine = world.worker._bench.engines.of(world.plan.lanes[0])
    whole = engine.run(world.batch(taken))
    found = run_selected(engine, taken, *world.inputs(taken), note=noted.append, deadline_s=60.0)
    assert noted == [job for job in range(24) if job != 3]
    assert found.num_failed == 1 and found.num_cells == 2
    assert json.loads(found.columns["error"][3])["type"] == "WorkerDied"
    for name in ("cell", "pair"):
        assert found.columns[name].tolist() == whole.columns[name].tolist()
    others = [row for row in range(24) if row != 3]
    for name in ("label_logit", "kl_base"):
        np.testing.assert_allclose(found.columns[name][others], whole.columns[name][others], atol=1e-4)
    report = world.worker.run(taken, 60.0, 7)
    assert (report.manifests[0].failed, report.manifests[0].rows, trial.job) == (1, 24, None)


def test_a_retry_runs_its_jobs_and_no_others(world: World) -> None:
    jobs = ((2, 5), (13, 14), (30, 31))
    taken = replace(world.whole(), k_hi=3, jobs=jobs, replaces="data/1/0/" + "0" * 32 + ".parquet")
    manifest = world.worker.run(taken, 60.0, 0).manifests[0]
    assert (manifest.jobs, manifest.rows, manifest.attempt, manifest.k_hi) == (jobs, 5, 1, 3)
    part = world.store.read_part(manifest)
    cells, pairs = world.plan.cellsets[0].tolist(), world.plan.tiles[0].pairs
    expected = [(cells[job // 12], pairs[job % 12]) for lo, hi in jobs for job in range(lo, hi)]
    assert list(zip(part["cell"].to_pylist(), part["pair"].to_pylist(), strict=True)) == expected
    assert set(part["attempt"].to_pylist()) == {1}
