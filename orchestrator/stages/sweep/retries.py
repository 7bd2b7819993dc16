"""Retries of failed jobs: each failed job once, by the type of its error."""

__all__ = ["lost_retry_work", "retry_work"]

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from orchestrator.plan.tables import Plan, Tile, mask, stretches
from orchestrator.stages.sweep.work import TileWork
from orchestrator.store import Manifest, State, StoredFile, StudyStore
from workers.errors import RunError, nearest
from workers.metrics import families_in


class _Failures(NamedTuple):
    """The failed rows of one file, sorted by key."""

    keys: np.ndarray
    """``cell << 32 | pair``, shape (num_failed,), uint64."""
    types: np.ndarray
    """The types of the errors, shape (num_failed,), object."""


class _Failed(NamedTuple):
    """The jobs of one part that failed and may be retried, in order."""

    part: Manifest
    jobs: np.ndarray
    """``k * P + j``, shape (num_failed,)."""
    types: np.ndarray
    """The types of their errors, shape (num_failed,), object."""


def retry_work(
    plan: Plan, state: State, store: StudyStore, error_types: Sequence[str] = ()
) -> list[TileWork]:
    """The failed jobs that the plan still wants and that no retry has replaced, part by part.

    Only failures of `error_types` (such as ``OutOfMemoryError``); without any, all.

    Raises:
        RunError: jobs failed, but none with one of these types.
        StoreError: a file of rows is missing or damaged.
    """
    found = list(_failed(plan, state, store))
    known = {kind for one in found for kind in one.types}
    if found:
        _check_types(error_types, known)
    wanted = set(error_types) or known
    work = (_work(plan, state, one, wanted) for one in found)
    return [one for one in work if one.todo]


def lost_retry_work(plan: Plan, state: State, store: StudyStore) -> list[TileWork]:
    """The failed jobs whose retries were lost, with the file that they lay in: they are to run again.

    Raises:
        StoreError: a file of rows is missing or damaged.
    """
    lost = state.lost_retries
    if not lost:
        return []
    work = []
    for one in _failed(plan, state, store, frozenset(lost)):
        mine = np.zeros(len(one.jobs), bool)
        for lo, hi in lost[one.part.path]:
            mine |= (lo <= one.jobs) & (one.jobs < hi)
        found = _Failed(one.part, one.jobs[mine], one.types[mine])
        if len(found.jobs):
            work.append(_work(plan, state, found, set(found.types)))
    return [one for one in work if one.todo]


def _failed(
    plan: Plan, state: State, store: StudyStore, only: Collection[str] | None = None
) -> Iterator[_Failed]:
    """The failed jobs of each part, or of some, those that were retried included."""
    by_file: dict[StoredFile, list[Manifest]] = defaultdict(list)
    for part in state.live.values():
        if only is not None and part.path not in only:
            continue
        if part.failed and not part.is_retry and _is_wanted(plan, part):
            by_file[state.file_of(part.path)].append(part)
    for file, parts in by_file.items():
        failures = _read_failures(store, file)
        for part in parts:
            jobs, types = _jobs_of(plan, part, failures)
            if len(jobs):
                yield _Failed(part, jobs, types)


def _is_wanted(plan: Plan, part: Manifest) -> bool:
    tile = plan.tiles.get(part.tile)
    return tile is not None and not families_in(part.families).isdisjoint(plan.families_of(tile))


def _read_failures(store: StudyStore, file: StoredFile) -> _Failures:
    import pyarrow.compute as pc

    table = store.read_part(file, ("cell", "pair", "error"))
    table = table.filter(pc.is_valid(table["error"]))
    keys = _keys(table["cell"].to_numpy(), table["pair"].to_numpy())
    types = np.array([json.loads(text)["type"] for text in table["error"].to_pylist()], object)
    order = np.argsort(keys)
    return _Failures(keys[order], types[order])


def _jobs_of(plan: Plan, part: Manifest, failures: _Failures) -> tuple[np.ndarray, np.ndarray]:
    """Jobs of a part that the plan wants and that have failed, as ``k * P + j``, and of what."""
    tile = plan.tiles[part.tile]
    numbers = plan.cellsets[tile.cellset][part.k_lo : part.k_hi]
    keys = _keys(np.repeat(numbers, len(tile.pairs)), np.tile(tile.pairs, len(numbers)))
    at = np.searchsorted(failures.keys, keys)
    at[at == len(failures.keys)] = 0
    has_failed = failures.keys[at] == keys if len(failures.keys) else np.zeros(len(keys), bool)
    jobs = np.flatnonzero(has_failed & _selected(plan, tile, part))
    return jobs + part.k_lo * len(tile.pairs), failures.types[at[jobs]]


def _selected(plan: Plan, tile: Tile, part: Manifest) -> np.ndarray:
    """Mask of the jobs of a part that the plan wants; shape (num_cells * num_pairs,), bool."""
    cells = mask(tile.num_cells, tile.wanted)[part.k_lo : part.k_hi]
    pairs = np.array([pair in plan.pairs for pair in tile.pairs])
    return np.outer(cells, pairs).ravel()


def _work(plan: Plan, state: State, failed: _Failed, wanted: Collection[str]) -> TileWork:
    part, tile = failed.part, plan.tiles[failed.part.tile]
    num_pairs = len(tile.pairs)
    chosen = np.zeros(tile.num_jobs, bool)
    chosen[failed.jobs[[kind in wanted for kind in failed.types]]] = True
    for lo, hi in state.retried(part.path).intervals():
        chosen[lo:hi] = False
    cells = np.zeros(tile.num_cells, bool)
    cells[np.flatnonzero(chosen) // num_pairs] = True
    return TileWork(
        tile=tile.tile,
        lane=tile.lane,
        num_pairs=num_pairs,
        costs=plan.costs[tile.cellset],
        todo=[(lo, hi, part.families) for lo, hi in stretches(cells) if cells[lo]],
        replaces=part.path,
        estimates=tile.estimates,
        jobs=tuple((lo, hi) for lo, hi in stretches(chosen) if chosen[lo]),
    )


def _keys(cells: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """One number for each job, whichever tile it is in."""
    keys: np.ndarray = cells.astype(np.uint64) << np.uint64(32) | pairs.astype(np.uint64)
    return keys


def _check_types(given: Sequence[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            there = ", ".join(sorted(known))
            raise RunError(f"no job failed with {name!r}; jobs failed with {there}{nearest(name, known)}")
