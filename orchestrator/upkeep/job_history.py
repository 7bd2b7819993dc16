"""Story of one job: how far it is, who ran it, and what the log says of that.

A job is found in the plan by its hash, and its rows by the parts that hold its cell: of a million rows two or
three are read.
"""

__all__ = ["Attempt", "FoundJob", "OpenStudy", "find_jobs", "story"]

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np

from orchestrator.plan.tables import Plan, read_plan
from orchestrator.store import Manifest, State, StudyStore
from orchestrator.store.commit import Commit
from orchestrator.store.storage import named
from orchestrator.store.study_dirs import LeaveOut, read_each
from orchestrator.store.verify import fault_of
from orchestrator.text_tables import plain
from orchestrator.upkeep.logs import SlicePlace, find_logs, slices_of
from orchestrator.upkeep.lost import remedy_for
from workers.errors import QueryError, StoreError
from workers.metrics import families_in

MOST_JOBS = 5
"""Number of jobs that are named where the beginning of an ID fits several."""
MOST_UNFINISHED = 3
"""Number of slices shown that did not bring a job to its end."""

_ID = re.compile(r"[0-9a-f]{8,32}")
_FIND = f"""
SELECT DISTINCT left(sha256(c.cell_id::VARCHAR || '/' || i.pair_id::VARCHAR), 32)::UUID::VARCHAR,
       c.cell_id::VARCHAR, i.pair_id::VARCHAR, c.lane, c.cell, i.pair, i.class
FROM (SELECT DISTINCT class, cell FROM grid) g
JOIN cells c ON c.cell = g.cell
JOIN (SELECT DISTINCT lane, class, pair, pair_id FROM inputs WHERE kept) i
     ON i.class = g.class AND i.lane = c.lane
WHERE starts_with(sha256(c.cell_id::VARCHAR || '/' || i.pair_id::VARCHAR), $digits)
LIMIT {MOST_JOBS}
"""
_AXES = """
SELECT p.* FROM points p JOIN grid g ON g.point = p._point WHERE g.class = $class AND g.cell = $cell LIMIT 1
"""
_GIVEN = "SELECT given FROM inputs WHERE lane = $lane AND pair = $pair AND kept LIMIT 1"
_ROW = """
SELECT error->>'type', error->>'message', tier FROM read_parquet($file) WHERE cell = $cell AND pair = $pair
"""


class FoundJob(NamedTuple):
    """One cell on one pair, of one study."""

    job_id: str
    cell_id: str
    pair_id: str
    lane: int
    cell: int
    """The store's number of the cell."""
    pair: int
    pair_class: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Attempt at a job that was run and committed."""

    part: Manifest
    file: str
    """File of its row now, relative to the study."""
    committed_s: float | None
    """Time of its commit by the driver, in seconds since 1970; None where that commit is lost."""
    tier: str
    error: str | None
    """Type and message; None for a success."""
    lost: str | None = None
    """Why its row cannot be read."""

    @property
    def outcome(self) -> str:
        """End of the attempt, in words."""
        return "its row is lost" if self.lost is not None else self.error or "a success"

    @property
    def epoch(self) -> int:
        """The epoch of the driver that it ran for."""
        return int(self.part.path.split("/")[1])


class OpenStudy(NamedTuple):
    """A study opened for questions about its jobs."""

    folder: Path
    store: StudyStore
    state: State
    plan: Plan
    sql: duckdb.DuckDBPyConnection


def find_jobs(
    folders: Sequence[Path], job_id: str, *, leave_out: LeaveOut | None = None
) -> list[tuple[OpenStudy, FoundJob]]:
    """The job of that ID, or of one that begins so, in each of the studies that has it.

    A study that cannot be read goes to `leave_out`; without it, it is an error.

    Raises:
        QueryError: it is no ID, no study has it, or it is the beginning of several.
        StoreError: a study cannot be read.
    """
    digits = job_id.strip().lower().replace("-", "")
    if not _ID.fullmatch(digits):
        raise QueryError(
            f"{job_id!r} is no job's ID; give a job_id as the views results and failures have it, or at least"
            " its first 8 digits (0-9, a-f)"
        )
    opened = [study for _, study in read_each(folders, _open, leave_out)]
    found = [(study, job) for study in opened if study is not None for job in _jobs_of(study, digits)]
    ids = list(dict.fromkeys(job.job_id for _, job in found))
    if not ids:
        names = ", ".join(folder.name for folder in folders)
        raise QueryError(
            f"no job of {names} has the ID {job_id!r}; job_id is a column of the views results and failures"
        )
    if len(ids) > 1:
        raise QueryError(
            f"{job_id!r} is the beginning of several jobs, such as {', '.join(ids[:MOST_JOBS])}; give more"
            " digits"
        )
    return found


def story(study: OpenStudy, job: FoundJob, *, lost: LeaveOut | None = None) -> Iterator[str]:
    """Story of a job, line by line, each of its attempts with the lines of the log.

    A row of it that is lost goes to `lost`, as one line; without it, it is an error.

    Raises:
        StoreError: a part, a commit or a log cannot be read.
    """
    runs = list(_runs(study, job))
    for run in runs:
        if run.lost is not None:
            why = f"{study.store.locate(run.file)} {run.lost}; {remedy_for(study.folder)}"
            if lost is None:
                raise StoreError(why)
            lost(why)
    yield from _identity(study, job)
    yield _line("state", _state(study.plan, runs))
    for run in runs:
        yield from _run_lines(study.folder, run)
    if not runs:
        yield from _unfinished(study, job)


def _jobs_of(study: OpenStudy, digits: str) -> list[FoundJob]:
    return [FoundJob(*row) for row in study.sql.execute(_FIND, {"digits": digits}).fetchall()]


def _open(folder: Path) -> OpenStudy | None:
    """None for a study without a plan, which has no jobs yet."""
    store = StudyStore(folder)
    state = store.state()
    if state.plan is None:
        return None
    plan = read_plan(store, state.plan)
    connection = duckdb.connect()
    for name in ("grid", "cells", "inputs", "points"):
        connection.register(name, plan.tables[name])
    return OpenStudy(folder, store, state, plan, connection)


def _identity(study: OpenStudy, job: FoundJob) -> Iterator[str]:
    spec = study.plan.lanes[job.lane].spec
    yield _line("job", job.job_id)
    yield _line("study", study.folder.name)
    yield _line("model", f"{spec.title} ({spec.dtype}, revision {spec.revision})")
    yield _line("cell", f"{job.cell_id}: {_axes(study, job)}")
    yield _line("pair", job.pair_id)
    row = study.sql.execute(_GIVEN, {"lane": job.lane, "pair": job.pair}).fetchone()
    assert row is not None
    given = study.plan.tables["pairs"].slice(row[0], 1).to_pylist()[0]
    for name in ("base", "source", "base_label", "label"):
        if given.get(name) is not None:
            yield _line(name, str(given[name]))


def _axes(study: OpenStudy, job: FoundJob) -> str:
    """The cell as written: its block, and each axis that it uses."""
    relation = study.sql.execute(_AXES, {"class": job.pair_class, "cell": job.cell})
    names = [column[0] for column in relation.description or ()]
    row = relation.fetchone()
    assert row is not None
    point: dict[str, object] = dict(zip(names, row, strict=True))
    axes = [(name, point[name]) for name in names if name not in ("_point", "_lane", "_block", "model")]
    return ", ".join(
        [str(point["_block"]), *(f"{name} {value}" for name, value in axes if value is not None)]
    )


def _runs(study: OpenStudy, job: FoundJob) -> Iterator[Attempt]:
    """The job's committed runs, in the order in which they were committed."""
    for part in _parts(study, job):
        file = study.state.file_of(part.path)
        lost = fault_of(study.store.locate(file.path), file)
        row = _row(study, file.path, job) if lost is None else (None, None, "")
        # A change of the study may have left the pair out of the part's tile.
        if row is not None:
            kind, message, tier = row
            yield Attempt(
                part=part,
                file=file.path,
                committed_s=_committed_s(study.store, part.path),
                tier=tier,
                error=None if kind is None else f"{kind}: {message}",
                lost=lost,
            )


def _row(study: OpenStudy, file: str, job: FoundJob) -> tuple[str | None, str | None, str] | None:
    """Error type, message and tier of the job's row in a file of the study; None where it has none."""
    path = study.store.locate(file)
    try:
        found = study.sql.execute(_ROW, {"file": str(path), "cell": job.cell, "pair": job.pair})
        return found.fetchone()
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise StoreError(
            f"{path} cannot be read ({reason}); what is damaged says: swapyard doctor {named(study.folder)}"
        ) from None


def _parts(study: OpenStudy, job: FoundJob) -> Iterator[Manifest]:
    """The committed parts that hold the job."""
    places = {tile: (k, ordinal) for tile, k, ordinal in _places(study.plan, job)}
    for part in study.state.live.values():
        k, ordinal = places.get(part.tile, (-1, -1))
        if part.k_lo <= k < part.k_hi and (
            part.replaces is None or any(lo <= ordinal < hi for lo, hi in part.jobs)
        ):
            yield part


def _places(plan: Plan, job: FoundJob) -> Iterator[tuple[int, int, int]]:
    """Each tile that has the job: its number, the cell's place in it, and the job's ordinal there."""
    for tile in plan.tiles.values():
        if tile.lane == job.lane and job.pair in tile.pairs:
            for k in np.flatnonzero(plan.cellsets[tile.cellset] == job.cell).tolist():
                yield tile.tile, k, k * len(tile.pairs) + tile.pairs.index(job.pair)


def _committed_s(store: StudyStore, path: str) -> float | None:
    """Time of a part's commit: its driver's commits come after the one that gave the epoch.

    After a repair that commit may be gone, or damaged.
    """
    epoch = int(path.split("/")[1])
    for file in sorted(store.locate("commits").glob("*.json")):
        seq = int(file.stem) if file.stem.isdecimal() else 0
        if seq <= epoch or path.encode() not in (data := file.read_bytes()):
            continue
        with suppress(StoreError):
            commit = Commit.from_json(data, seq)
            if any(part.path == path for part in commit.add):
                return commit.time_s
    return None


def _state(plan: Plan, runs: Sequence[Attempt]) -> str:
    """State of the job in words; the last attempt of each metric family counts."""
    last = {family: run for run in runs for family in families_in(run.part.families)}
    lacking = [family for family in plan.families if family not in last]
    error = next((run.error for run in last.values() if run.error is not None), None)
    if not runs:
        return "not done yet"
    if any(run.lost is not None for run in last.values()):
        return "done, and lost: its row cannot be read"
    state = "done" if error is None else f"failed: {error}"
    return f"{state}; not done yet for {', '.join(lacking)}" if lacking else state


def _run_lines(folder: Path, run: Attempt) -> Iterator[str]:
    part = run.part
    when = (
        "nobody knows when"
        if run.committed_s is None
        else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.committed_s))
    )
    log = StudyStore(folder).logs(run.epoch) / f"{part.host}-{part.worker}.log"
    yield ""
    yield _line(
        "attempt",
        f"{part.attempt}: {run.outcome} ({', '.join(filter(None, (run.tier, '+'.join(part.families))))})",
    )
    yield _line("part", f"{part.path}: tile {part.tile}, cells [{part.k_lo}, {part.k_hi})")
    if run.file != part.path:
        yield _line("merged", run.file)
    yield _line("committed", f"{when}, of epoch {run.epoch}")
    yield _line("worker", f"process {part.worker} on {part.host}")
    yield from _log_lines(log, next(slices_of(log, part), None))


def _log_lines(log: Path, lines: Sequence[str] | None) -> Iterator[str]:
    if lines is None:
        yield _line("log", f"{log} says nothing of it" if log.exists() else f"{log} is not there")
        return
    yield _line("log", str(log))
    yield from (f"  {line}" for line in lines)


def _unfinished(study: OpenStudy, job: FoundJob) -> Iterator[str]:
    """The last slices that held the job and were not committed: killed, failed, cut short or lost."""
    places = [SlicePlace(tile, k) for tile, k, _ in _places(study.plan, job)]
    begun = [
        (log.path, lines)
        for log in find_logs(study.folder)
        for place in places
        for lines in slices_of(log.path, place)
    ]
    for path, lines in begun[-MOST_UNFINISHED:]:
        yield ""
        yield "begun, and never committed"
        yield from _log_lines(path, lines)


def _line(name: str, text: str) -> str:
    return f"{name:<12}{plain(text)}"
