"""Promise: studies that an earlier version left behind are read as it read them, to the last bit; those that
it left half done are gone on with, nothing done is touched or done again, and they end as it ended them.

The studies are in ``tests/data/golden``; ``tests/golden/make.py`` says how commit a55d0fc made them.
"""

import hashlib
import itertools
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from running import swapyard
from safetensors.numpy import load_file

import swapyard as sy
from orchestrator.plan.tables import Plan, read_plan
from orchestrator.query.connection import VIEWS, connect
from orchestrator.run.device_setup import RunOptions
from orchestrator.run.overview import overview
from orchestrator.run.plan_store import commit_plan
from orchestrator.store import StudyStore
from orchestrator.upkeep.status import read_status
from studies import load_study
from tests.golden.compare import (
    TOLERANCE,
    TRAINED_TOLERANCE,
    Views,
    assert_ended_alike,
    assert_nothing_ran_twice,
    assert_rows_are_left,
    assert_shown_as_before,
    same_columns,
)
from tests.golden.dumps import dump_study, read_dumps

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
ALL = sorted(path.parent.name for path in GOLDEN.glob("*/study.yaml"))
HALF_DONE = [name for name in ALL if (GOLDEN / name / "finished").is_dir()]


@pytest.fixture
def study(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the golden study that the parameter names, which is the current folder."""
    folder = tmp_path / "copy" / request.param
    shutil.copytree(GOLDEN / request.param, folder)
    shutil.copytree(GOLDEN / "shared", folder, dirs_exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield folder
    sys.modules.pop("golden_picky", None)


def each(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("study", names, indirect=True)


def test_every_kind_of_study_is_there() -> None:
    """Whatever is lost here is lost for good: no later version can write what this one wrote."""
    assert set(ALL) >= {
        *("collected", "done", "fits", "fits-half", "format1", "grown", "half", "merged", "retried"),
        *("screened", "selected", "trained", "training"),
    }
    assert set(ALL) - set(HALF_DONE) == {"done", "fits", "grown", "trained"}


def shown(folder: Path) -> Views:
    with connect([folder / "store" / folder.name]) as connection:
        return dump_study(connection, tuple(VIEWS))


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """When each file was written, and its bytes."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.mark.versions
@each(ALL)
def test_every_view_shows_what_it_showed_and_reading_writes_nothing(study: Path) -> None:
    before = files(study / "store")
    assert_shown_as_before(shown(study), read_dumps(study / "dump"))
    read_status(study / "store", [study.name])
    overview(load_study("study.yaml"), study / "store", prepare=False, say=lambda line: None)
    assert files(study / "store") == before


@pytest.mark.versions
@each(HALF_DONE)
def test_the_same_command_goes_on_and_ends_as_it_would_have(study: Path) -> None:
    before = files(study / "store")
    go_on(study)
    now, expected = shown(study), read_dumps(study / "finished")
    assert_rows_are_left(now, read_dumps(study / "dump"))
    assert_nothing_ran_twice(now, expected)
    tolerance = TRAINED_TOLERANCE if study.name in ("fits-half", "format1", "training") else TOLERANCE
    assert_ended_alike(now, expected, tolerance=tolerance)
    assert_only_leftovers_went(study, before)
    for path in (study / "finished").glob("artifacts/*.safetensors"):
        assert_same_model(study, set(before), path)


def go_on(study: Path) -> None:
    """The command that the study was left with: in one case typed, in the others by its function."""
    if study.name == "half":
        options = ("--executor", "inline", "--no-plots", "--store", "store")
        done = swapyard("run", "study.yaml", *options, cwd=study, cache=study / "cache")
        assert done.returncode == 0, done.stderr
        assert "half: 48 jobs done, 32 of them in these" in done.stderr
    else:
        found = sy.run(
            "study.yaml", store="store", executor="inline", quiet=True, trust=True, on_failure="keep"
        )
        assert found.outcome is not None and found.outcome.stopped is None
        assert found.outcome.counts.is_complete and found.outcome.num_retried == 0


def assert_only_leftovers_went(study: Path, before: dict[Path, tuple[int, bytes]]) -> None:
    """What counts is where it was; only what no commit names, or a merged file replaced, may go."""
    store = StudyStore(study / "store" / study.name)
    now = files(study / "store")
    gone = {path for path in before if path not in now}
    assert {path: it for path, it in now.items() if path in before} == {
        path: it for path, it in before.items() if path not in gone
    }
    counts = {store.locate(path) for path in store.state().files}
    for path in gone:
        assert path not in counts
        assert path.suffix == ".parquet" or path.name.startswith("checkpoint-"), path


def assert_same_model(study: Path, before: set[Path], wanted: Path) -> None:
    """What a training that went on from its middle has left is what it would have left."""
    found = (study / "store" / study.name / "artifacts").glob("*.safetensors")
    (new,) = (path for path in found if path not in before)
    ours, theirs = load_file(new), load_file(wanted)
    assert ours.keys() == theirs.keys()
    for name, weights in theirs.items():
        atol = TRAINED_TOLERANCE * np.abs(weights).max()
        np.testing.assert_allclose(ours[name], weights, rtol=0, atol=atol, err_msg=name)


@each(ALL)
def test_planned_anew_it_is_of_the_same_cells_pairs_jobs_fits_and_trainings(study: Path) -> None:
    store = StudyStore(study / "fresh" / study.name)
    loaded = load_study("study.yaml")
    with store.open_driver() as driver:
        commit_plan(loaded, store, driver, RunOptions(executor="inline"), lambda line: None)
    with connect([store.root]) as connection:
        now = dump_study(connection, tuple(VIEWS))
    before = read_dumps(study / ("finished" if study.name in HALF_DONE else "dump"))
    ref = store.latest_plan()
    assert ref is not None
    plan = read_plan(store, ref)
    for view, dump in before.items():
        if names := [name for name in dump.types if planned(view, name)]:
            kept = dump.select(names)
            assert same_columns(view, now, kept).rows == kept.rows, view
    ran = {job for view in ("results", "failures") for job in before[view].columns["job_id"]}
    assert ran == jobs_of(plan) if plan.is_selected else ran < jobs_of(plan)


def planned(view: str, name: str) -> bool:
    """Whether a column of a view is known before anything runs, whatever is selected later."""
    later = {
        "cells": ("num_jobs", "num_done"),
        "fits": ("made", "num_steps", "loss", "held_out_iia", "num_parameters", "seconds"),
        "trainings": (
            *("status", "step", "num_attempts", "resumed_from", "num_executed", "num_parameters"),
            *("artifact", "error_type", "error_message"),
        ),
    }
    return view in ("pairs", "inputs") or (view in later and name not in later[view])


def jobs_of(plan: Plan) -> set[str]:
    """The ids of all jobs that a plan may run, each a hash of the cell's and the pair's."""
    cells, inputs = plan.tables["cells"], plan.tables["inputs"].filter(plan.tables["inputs"]["kept"])
    cell_ids = dict(zip(cells["cell"].to_pylist(), cells["cell_id"].to_pylist(), strict=True))
    pair_ids = dict(zip(inputs["pair"].to_pylist(), inputs["pair_id"].to_pylist(), strict=True))
    jobs = (
        (cell, pair)
        for tile in plan.tiles.values()
        for lo, hi in tile.wanted
        for cell in plan.cellsets[tile.cellset][lo:hi].tolist()
        for pair in tile.pairs
    )
    return {
        str(uuid.UUID(hashlib.sha256(f"{cell_ids[cell]}/{pair_ids[pair]}".encode()).hexdigest()[:32]))
        for cell, pair in (jobs if plan.is_selected else itertools.product(cell_ids, pair_ids))
    }
