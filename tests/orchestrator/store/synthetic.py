"""A study without a model, driven to its end through the store's public calls: what crashes are tried on."""

import contextlib
import functools
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from orchestrator.store import UNWRITTEN, Driver, Manifest, StudyStore, encode_part, part_columns

from .checker import History, check

TILES, CELLS, PAIRS = 2, 3, 2
MOST_CELLS = 2
"""In one part."""
FAMILY = "logits"
LANE = "0"
PLAN = {"plan.json": b"{}", "cells.parquet": b"cells" * 40}
Job = tuple[int, int, int]
"""A tile, the place of its cell, the place of its pair."""
JOBS = [(tile, k, j) for tile in range(TILES) for k in range(CELLS) for j in range(PAIRS)]
BROKEN: Job = (1, 1, 0)
"""The one job that fails when it is first run."""
Told = Callable[[str, str], None]
"""Is told what was acknowledged: what happened, and to what."""


def drive(store: StudyStore, told: Told = lambda what, name: None, *, take_over: bool = False) -> None:
    """Open the study and do all that is left: plan, parts, the retry, a merge, clearing."""
    with store.open_driver(take_over=take_over) as driver:
        told("opened", str(driver.epoch))
        if driver.state.plan is None:
            told("planned", driver.write_plan(PLAN).id)
        for tile in range(TILES):
            commit(driver, told, [write_part(store, driver, *work) for work in left_of(driver, tile)])
        commit(driver, told, [write_retry(store, driver, part) for part in failed_parts(driver)])
        if (merge := driver.next_merge(most_files=2)) is not None:
            merged = store.merge(driver.epoch, merge).file
            assert merged is not None
            driver.commit_merged(merged)
        told("clearing", "")
        driver.collect_garbage(grace_s=-1)


@contextlib.contextmanager
def new_folders() -> Iterator[Iterator[Path]]:
    """Paths for new folders, on a disk in memory where there is one: hundreds of drivers sync there."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield (Path(folder) / str(number) for number in itertools.count())


def left_of(driver: Driver, tile: int) -> list[tuple[int, int, int]]:
    """The slices of a tile that nobody did: the tile, and its cells from and to."""
    return [
        (tile, lo, min(lo + MOST_CELLS, k_hi))
        for k_lo, k_hi in driver.state.done(FAMILY, tile).subtract_from(0, CELLS)
        for lo in range(k_lo, k_hi, MOST_CELLS)
    ]


def failed_parts(driver: Driver) -> list[Manifest]:
    """The parts with a failed row that was not retried."""
    return [
        part
        for part in driver.state.live.values()
        if part.failed and not part.is_retry and not driver.state.retried(part.path)
    ]


def write_part(store: StudyStore, driver: Driver, tile: int, k_lo: int, k_hi: int) -> Manifest:
    """What a worker does with a slice: it runs the jobs, writes the part, and reports it."""
    jobs = tuple((tile, k, j) for k in range(k_lo, k_hi) for j in range(PAIRS))
    num_failed = jobs.count(BROKEN)
    draft = Manifest(
        path=store.fresh_path(driver.epoch, LANE),
        **UNWRITTEN,
        families=(FAMILY,),
        lane=LANE,
        tile=tile,
        k_lo=k_lo,
        k_hi=k_hi,
        rows=len(jobs),
        failed=num_failed,
        tiers={"hooked": len(jobs)},
        timings={},
        worker="1",
        host="here",
    )
    return written(store, driver, draft, encoded(jobs, attempt=0))


def written(store: StudyStore, driver: Driver, draft: Manifest, data: bytes) -> Manifest:
    """The part, written with all that is said of it."""
    state = driver.state
    plan = None if state.plan is None else state.plan.id
    return store.write_rows(draft, data, study=state.study, seq=state.seq, plan=plan)


def write_retry(store: StudyStore, driver: Driver, part: Manifest) -> Manifest:
    """The same for the failed job of a part, which succeeds this time."""
    tile, k, j = BROKEN
    draft = Manifest(
        path=store.fresh_path(driver.epoch, LANE),
        **UNWRITTEN,
        families=(FAMILY,),
        lane=LANE,
        tile=tile,
        k_lo=k,
        k_hi=k + 1,
        rows=1,
        failed=0,
        tiers={"hooked": 1},
        timings={},
        worker="1",
        host="here",
        attempt=1,
        replaces=part.path,
        jobs=((k * PAIRS + j, k * PAIRS + j + 1),),
    )
    return written(store, driver, draft, encoded((BROKEN,), attempt=1))


def commit(driver: Driver, told: Told, parts: Iterable[Manifest]) -> None:
    """Commit parts one after another; none may be refused."""
    for part in parts:
        told("written", part.path)
        assert driver.commit([part]) == ()
        told("added", part.path)


def finished(root: Path) -> History:
    """Check that the study in `root` holds each job once, with the value that it must have."""
    history = check(root)
    assert set(history.rows) == {(FAMILY, *numbers(job)) for job in JOBS}
    for (_, cell, pair), row in history.rows.items():
        assert row["error"] is None and row["label_logit"] == oracle(cell, pair)
    return history


def numbers(job: Job) -> tuple[int, int]:
    """The numbers of a job's cell and pair."""
    tile, k, j = job
    return tile * CELLS + k, tile * PAIRS + j


def oracle(cell: int, pair: int) -> float:
    """What a job gives, whoever runs it and whenever."""
    return 10.0 * cell + pair


@functools.cache
def encoded(jobs: tuple[Job, ...], attempt: int) -> bytes:
    """The part of these jobs."""
    rows = [numbers(job) for job in jobs]
    failed = [job == BROKEN and attempt == 0 for job in jobs]
    columns: dict[str, list[object]] = dict.fromkeys(part_columns((FAMILY,)), [None] * len(jobs))
    columns["cell"], columns["pair"] = [cell for cell, _ in rows], [pair for _, pair in rows]
    columns["attempt"], columns["tier"] = [attempt] * len(jobs), ["hooked"] * len(jobs)
    columns["error"] = ['{"type": "ValueError", "message": "broken"}' if fails else None for fails in failed]
    columns["label_logit"] = [
        None if fails else oracle(*row) for row, fails in zip(rows, failed, strict=True)
    ]
    return encode_part(columns, (FAMILY,))
