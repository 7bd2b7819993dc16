"""Promise: no two workers make one fit at a time, and the driver sees from outside how far fits are and how
long the rest takes."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from small_store import make_study
from test_fits import DAS, PLACE, study

import swapyard as sy
from orchestrator.plan.tables import Plan, read_plan
from orchestrator.run.engines import Engines
from orchestrator.run.schedule import WorkSchedule
from orchestrator.run.stopping import never
from orchestrator.run.worker import StudyWorker
from orchestrator.stages.fit import making as making_module
from orchestrator.stages.fit.fits_left import FIT_S, STEP_S, FitsLeft
from orchestrator.stages.fit.making import FitNote, Making
from orchestrator.stages.fit.stage import fit_units
from orchestrator.stages.fit.store import FitFolder
from orchestrator.stages.sweep.work import Slice, open_work
from orchestrator.stages.units import Piece
from orchestrator.store import StudyStore
from orchestrator.store.storage import LocalStorage

FIT = "a" * 32
RATE = 1000.0


def test_a_fit_is_claimed_by_one_worker(tmp_path: Path) -> None:
    mine, other = Making(tmp_path, 1), Making(tmp_path, 1)
    with mine.claimed(FIT, 0) as claim:
        assert claim is not None
        with other.claimed(FIT, 1) as second:
            assert second is None
        with Making(tmp_path, 2).claimed(FIT, 1) as later:
            assert later is not None, "notes of another run say nothing"
        assert mine.notes().keys() == {FIT}
    assert other.notes() == {}
    with other.claimed(FIT, 1) as claim:
        assert claim is not None


def test_a_note_says_how_far_a_fit_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making_module, "TOUCH_S", 0.02)
    making = Making(tmp_path, 1)
    with making.claimed(FIT, 3) as claim:
        assert claim is not None
        assert making.notes()[FIT].left_s is None
        claim.tick(1, 40)
        time.sleep(0.2)
        claim.tick(10, 40)
        deadline = time.monotonic() + 10
        while making.notes().get(FIT, FitNote(3, 0, 0, 0.0, 0.0)).step != 10:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        note = making.notes()[FIT]
    assert (note.worker, note.num_steps) == (3, 40)
    # Nine steps in 0.2 s: what came before the first says nothing of the others.
    assert note.left_s == pytest.approx(30 * 0.2 / 9, rel=0.5)


def test_what_nobody_touches_any_more_is_anybodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    making = Making(tmp_path, 1)
    path = StudyStore(tmp_path).logs(1) / f"{FIT}.making"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"worker": 7, "step": 1, "num_steps": 2, "seconds": 1.0, "step_s": 0.0}))
    assert making.is_held(FIT) and making.notes()[FIT].worker == 7
    monkeypatch.setattr(making_module, "STALE_S", 0.05)
    time.sleep(0.06)
    assert not making.is_held(FIT) and making.notes() == {}
    os.utime(path, ns=(1, 1))
    assert making.is_held(FIT), "its worker lives"
    making.forget(6)
    assert path.exists()
    making.forget(7)
    assert not path.exists()


def test_a_worker_makes_another_fit_rather_than_wait_for_one(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = study(tiny_folder, [{**PLACE, "subspaces": ["one"]}], one=DAS)
    sy.run(made, store=tmp_path, executor="inline", quiet=True, limits=sy.Limits(jobs=1))
    root = tmp_path / "fitted"
    store = StudyStore(root)
    ref = store.latest_plan()
    assert ref is not None
    for path in (root / "fits").iterdir():
        path.unlink()
    plan = read_plan(store, ref)
    tile = next(iter(plan.tiles.values()))
    layer_of = dict(
        zip(plan.tables["fits"]["layer"].to_pylist(), plan.tables["fits"]["fit"].to_pylist(), strict=True)
    )
    held = layer_of[2]
    with Making(root, 9).claimed(held, 0):
        fits = FitsLeft(root, plan, Making(root, 9), {}, {0: RATE})
        worker = StudyWorker(root, ref, epoch=9, engines=Engines(threads=1, num_sharing=1))
        pulses: list[int] = []
        worker.listen(
            lambda: pulses.append(len(list((root / "fits").glob("*.json")))), lambda: False, at_once=never
        )
        looked: list[int] = []

        def sleep(seconds: float) -> None:
            """Where the worker has nothing left but to wait: by then it made both of the others."""
            looked.append(len(list((root / "fits").glob("*.json"))))
            (store.logs(9) / f"{held}.making").unlink(missing_ok=True)

        monkeypatch.setattr("orchestrator.stages.fit.stage.time.sleep", sleep)
        k = [plan.cells[n].units[0].place.layer for n in plan.cellsets[tile.cellset].tolist()].index(2)
        tiles = open_work(plan, store.state())
        for one in tiles:
            one.uses = lambda k, tile=one.tile: tuple(("fit", fit) for fit in fits.of(tile, k))
            # The held one is what its next cell waits for.
            one.todo = [(k, k + 1, plan.families), (0, k, plan.families)]
        schedule = WorkSchedule([*tiles, *fit_units(fits)])
        schedule.join(1)
        while isinstance(taken := schedule.next_part(1, 2.0), Piece):
            report = worker.run(taken, 2.0, 1)
            schedule.report(1, taken, report.num_steps, report.seconds, is_over=report.is_over)
        assert isinstance(taken, Slice) and (taken.k_lo, taken.k_hi) == (k, k + 1)
    assert looked and looked[0] == 2 and len(list((root / "fits").glob("*.json"))) == 3
    assert len(pulses) == 3 * DAS["num_steps"]


def planned(root: Path, **fits: Mapping[str, Any]) -> Plan:
    """The plan of a study of these fits at all three layers, which nobody made."""
    block = {"sites": ["block_output"], "positions": [4], "subspaces": list(fits)}
    store = StudyStore(make_study(root, None, block=block, fits=fits))
    ref = store.latest_plan()
    assert ref is not None
    return read_plan(store, ref)


def left(root: Path, plan: Plan) -> FitsLeft:
    return FitsLeft(root, plan, Making(root, 1), {}, {0: RATE})


def test_a_fit_costs_its_steps_forwards_and_back_and_the_clean_runs_of_its_pairs(tmp_path: Path) -> None:
    das = {"method": "das", "rank": 2, "num_steps": 10, "batch_size": 4}
    plan = planned(tmp_path / "s", das=das, random={"method": "random_rotation", "rank": 2})
    found = left(tmp_path / "s", plan)
    # In a model of which nothing is known: 3 forwards of 4 prompts of 5 tokens a step, and 4 clean runs.
    wanted = 3 * (10 * 3 * 4 * 5 + 4 * 5) / RATE + 3 * 10 * STEP_S + 6 * FIT_S
    assert found.num == 6 and not found.is_measured
    assert found.left_s(1.0) == (pytest.approx(wanted), 0.0)
    assert found.left_s(3.0)[0] == pytest.approx(3 * wanted)


def test_fits_that_were_made_tell_how_long_the_others_take(tmp_path: Path) -> None:
    root = tmp_path / "s"
    plan = planned(root, das={"method": "das", "rank": 2, "num_steps": 10, "batch_size": 4})
    found = left(root, plan)
    folder, fits = FitFolder(LocalStorage(root)), plan.tables["fits"]["fit"].to_pylist()
    folder.write(fits[0], b"", {"report": {"seconds": 30.0}})
    found.look()
    assert found.num == 2 and found.is_measured
    assert found.left_s(1.0) == (pytest.approx(60.0, rel=0.02), 0.0)
    assert found.lacking(Slice(0, 0, 0, 3, plan.families)) == frozenset(fits[1:])
    assert found.are_open(fits) and not found.are_open(fits[:1])
    found.used(Slice(0, 0, 0, 3, plan.families))
    assert found.num == 0 and found.left_s(1.0) == (0.0, 0.0), "one that cannot be made is not waited for"
    assert left(root, plan).num == 2, "what is there already is not made again"


def test_a_fit_that_is_being_made_tells_by_its_steps(tmp_path: Path) -> None:
    root = tmp_path / "s"
    plan = planned(root, das={"method": "das", "rank": 2, "num_steps": 10, "batch_size": 4})
    found = left(root, plan)
    fit = plan.tables["fits"]["fit"].to_pylist()[0]
    path = StudyStore(root).logs(1) / f"{fit}.making"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"worker": 0, "step": 4, "num_steps": 10, "seconds": 20.0, "step_s": 5.0}))
    found.look()
    assert found.is_measured
    all_s, longest_s = found.left_s(1.0)
    assert longest_s == pytest.approx(30.0)
    assert all_s == pytest.approx(30.0 + 2 * 50.0, rel=0.1)
