"""What became of a study, against a calm run of the same study and against what it acknowledged itself."""

__all__ = ["Verdict", "judge", "judge_study", "leftovers"]

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.orchestrator.running import DISCRETE, FLOATS, TOLERANCE, values
from tests.torture.history import History, read_part

_IDENTITY = ("cell", "pair")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How many rows of a study are not as they must be."""

    lost: int
    """Jobs without a result, though the calm run has one or a commit had named one."""
    doubled: int
    """Rows beyond the first of a job, in the results or in the committed files."""
    wrong: int
    """Jobs whose row has other values than the calm run's, or than it had when it was acknowledged, or is
    in no committed file, or in no calm run."""
    reasons: tuple[str, ...]
    """What is wrong, in words."""


def judge(found: pa.Table, expected: pa.Table, acknowledged: pa.Table, committed: pa.Table) -> Verdict:
    """Compare the results `found` with the calm run's, and with the study's own files.

    Args:
        found, expected: Results by ``job_id``, with the columns of ``running.rows``.
        acknowledged: The rows of every part that was ever committed, as they were then, by ``job_id``.
        committed: The rows in the files that hold the study now, by ``job_id``.
    """
    seen, there = Counter(_ids(found)), Counter(_ids(committed))
    known = set(_ids(expected))
    lost = (known | _succeeded(acknowledged)) - seen.keys()
    doubled = sum(max(seen[job], there[job]) - 1 for job in seen.keys() | there.keys())
    wrong = {
        "that no calm run has": seen.keys() - known,
        "in no committed file": (seen.keys() - there.keys()) | _changed(found, committed, ("label_logit",)),
        "with values that the calm run does not have": _off(found, expected),
        "changed since they were acknowledged": _changed(acknowledged, committed, _written(acknowledged)),
    }
    reasons = [f"{len(jobs):,} rows {what}, such as {min(jobs)}" for what, jobs in wrong.items() if jobs]
    if lost:
        reasons.append(f"{len(lost):,} jobs without a row, such as {min(lost)}{_why(committed, lost)}")
    return Verdict(
        lost=len(lost), doubled=doubled, wrong=len(set().union(*wrong.values())), reasons=tuple(reasons)
    )


def judge_study(history: History, found: pa.Table, expected: pa.Table) -> Verdict:
    """As `judge`, with the study's own files, of which `history` knows."""
    now = (read_part(history.folder / path) for path in sorted(history.files))
    return judge(
        found,
        expected,
        acknowledged=_rows_of_parts(history, history.acknowledged.values()),
        committed=_rows_of_parts(history, now),
    )


def _rows_of_parts(history: History, parts: Iterable[pa.Table]) -> pa.Table:
    """Rows as written, with their ``job_id`` in place of their numbers."""
    plan = history.folder / "plan" / history.plans[-1]
    cells, pairs = (
        dict(zip(table[number].to_pylist(), map(str, table[name].to_pylist()), strict=True))
        for table, number, name in (
            (read_part(plan / "cells.parquet"), "cell", "cell_id"),
            (read_part(plan / "inputs.parquet"), "pair", "pair_id"),
        )
    )
    rows = pa.concat_tables(parts)
    numbers = zip(*(rows[name].to_pylist() for name in _IDENTITY), strict=True)
    jobs = [_job_id(cells[cell], pairs[pair]) for cell, pair in numbers]
    return rows.drop_columns(list(_IDENTITY)).append_column("job_id", pa.array(jobs, pa.string()))


def leftovers(history: History) -> list[str]:
    """Files below a study that neither a commit nor the layout accounts for."""
    folder = history.folder
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return [name for name in names if not _belongs(name, history)]


def _belongs(name: str, history: History) -> bool:
    top, *rest = name.split("/")
    match top:
        case "format.json" | ".lock":
            return not rest
        case "data":
            known = name in history.files | history.removed or Path(name).name in history.harmed
            return known or _repeats(history, name)
        case "plan":
            return rest[0] in history.plans
        case "commits":
            return not rest[0].startswith(".") and int(Path(name).stem) <= history.seq
        case "logs":
            return name.endswith(".log")
        case "checkpoints":
            return not rest[-1].startswith(".")
    return False


def _repeats(history: History, name: str) -> bool:
    """Whether a part that no commit names holds only jobs that others did: a run leaves what can be read."""
    try:
        mine = _numbers_of(read_part(history.folder / name))
    except (OSError, pa.ArrowException):
        return False
    there: set[tuple[int, int]] = set()
    for path in history.files:
        there |= _numbers_of(read_part(history.folder / path))
    return mine <= there


def _numbers_of(rows: pa.Table) -> set[tuple[int, int]]:
    return set(zip(*(rows[name].to_pylist() for name in _IDENTITY), strict=True))


def _job_id(cell_id: str, pair_id: str) -> str:
    return str(uuid.UUID(hashlib.sha256(f"{cell_id}/{pair_id}".encode()).hexdigest()[:32]))


def _ids(table: pa.Table) -> list[str]:
    return [str(job) for job in table["job_id"].to_pylist()]


def _common(left: pa.Table, right: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows of `left` whose job `right` has too, beside the first row of that job there."""
    place: dict[str, int] = {}
    for index, job in enumerate(_ids(right)):
        place.setdefault(job, index)
    ours = [index for index, job in enumerate(_ids(left)) if job in place]
    theirs = [place[job] for job in _ids(left) if job in place]
    return left.take(pa.array(ours, pa.int64())), right.take(pa.array(theirs, pa.int64()))


def _off(found: pa.Table, expected: pa.Table) -> set[str]:
    """Jobs of both whose values differ by more than sharing a forward with other jobs explains."""
    ours, theirs = _common(found, expected)
    if not ours.num_rows:
        return set()
    scale = max(np.nanmax(np.abs(values(expected, name))) for name in ("label_logit", "base_label_logit"))
    bound = TOLERANCE * scale
    off = np.zeros(ours.num_rows, bool)
    for name in FLOATS:
        off |= ~np.isclose(values(ours, name), values(theirs, name), rtol=0, atol=bound, equal_nan=True)
    clear = values(theirs, "margin") > 2 * bound
    for name in DISCRETE:
        same = np.isclose(values(ours, name), values(theirs, name), rtol=0, atol=0, equal_nan=True)
        off |= clear & ~same
    return _where(ours, off)


def _changed(left: pa.Table, right: pa.Table, columns: Collection[str]) -> set[str]:
    """Jobs of both that differ in some of `columns` in any bit."""
    ours, theirs = _common(left, right)
    changed = np.zeros(ours.num_rows, bool)
    for name in columns:
        pairs = zip(ours[name].to_pylist(), theirs[name].to_pylist(), strict=True)
        changed |= np.array([json.dumps(a) != json.dumps(b) for a, b in pairs], bool)
    return _where(ours, changed)


def _where(table: pa.Table, chosen: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> set[str]:
    return set(_ids(table.filter(pa.array(chosen))))


def _succeeded(table: pa.Table) -> set[str]:
    return {job for job, error in zip(_ids(table), table["error"].to_pylist(), strict=True) if error is None}


def _written(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name != "job_id"]


def _why(committed: pa.Table, lost: Collection[str]) -> str:
    """The error of a job that failed, where some of the lost ones did."""
    errors = zip(_ids(committed), committed["error"].to_pylist(), strict=True)
    return next((f" ({error})" for job, error in errors if error is not None and job in lost), "")
