"""Repair of a study: a log that is lost is made again from the parts, and files that are lost are dropped.

Whatever it does is one commit, made as a driver's, under the study's lock: a kill leaves the study as it was,
or repaired. No file is changed or removed.
"""

__all__ = ["Cleared", "Repaired", "clear", "drop_unfit", "repair", "unnamed"]

import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.store.adopt import adoptable, part_names
from orchestrator.store.commit import NewerCommitError
from orchestrator.store.guard import lost_log, make_format
from orchestrator.store.lock import Holder, locked
from orchestrator.store.log import CommitLog
from orchestrator.store.notes import examined
from orchestrator.store.plans import Agree, chosen_plan, known_plans
from orchestrator.store.rebuild import Gathered, gather, rebuilt
from orchestrator.store.state import State
from orchestrator.store.storage import LocalStorage, Storage
from workers.errors import StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """Outcome of a repair."""

    lines: tuple[str, ...]
    """In words, one thing a line; none where nothing was to be done."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """File of rows that no commit names."""

    name: str
    size_bytes: int
    what: str
    """Kind of file, in words."""


def repair(
    root: Path, storage: Storage | None = None, *, agree: Agree = lambda first, second: True
) -> Repaired:
    """Repair the study in `root`; on one that is whole nothing is done.

    `agree` tells of two plans whether the second goes on from the first: two copies of a study that were both
    changed have plans that do not, and rows of the one mean something else in the other.

    Raises:
        HeldError: a driver is at work.
        StoreError: there is no study, a newer swapyard wrote it, or it cannot be read or written.
    """
    with _held(root, storage) as (used, holder):
        is_mended = make_format(used, root, mend=True)
        lines = ["format.json was missing or damaged, and is there again"] if is_mended else []
        log = CommitLog(used, checkpoints=False)
        why = _what_is_lost(log, used)
        found = gather(used, log)
        damaged = found.damaged()
        if why is not None or found.has_rows_of(damaged):
            return Repaired(lines=(*lines, *_rebuild(log, used, holder, found, why, agree)))
        adopted = adoptable(used, log.state, epoch=log.state.seq + 1)
        if damaged or adopted:
            epoch = log.open_epoch(holder)
            if damaged:
                lines += _dropped(log, damaged)
                log.append(epoch, "drop", drop=damaged)
                # What went with them may lie in files of its own.
                adopted = adoptable(used, log.state, epoch=epoch)
            if adopted:
                log.append(epoch, "adopt", add=adopted)
                lines.append(f"{len(adopted):,} parts that no commit named are added")
        return Repaired(lines=tuple(lines))


def drop_unfit(
    root: Path, unfit: Callable[[State], Collection[str]], storage: Storage | None = None
) -> Repaired:
    """Drop the files that `unfit` gives of a log that is whole: what commits say of them cannot be.

    Raises:
        HeldError: a driver is at work.
        StoreError: the log is broken, or cannot be written.
    """
    with _held(root, storage) as (used, holder):
        log = CommitLog(used, checkpoints=False)
        if not (files := tuple(sorted(unfit(log.refresh())))):
            return Repaired(lines=())
        num_rows = sum(log.state.files[path].rows for path in log.state.dropped_with(files))
        log.append(log.open_epoch(holder), "drop", drop=files)
        what = f"{len(files):,} files with {num_rows:,} rows do not fit the plan and are dropped"
        return Repaired(lines=(f"{what}: the next run makes their jobs again",))


def unnamed(root: Path, storage: Storage | None = None) -> tuple[Cleared, ...]:
    """The files of rows that no commit names, while no driver is at work.

    Raises:
        HeldError: a driver is at work.
        StoreError: the log is broken, so that nobody knows which these are.
    """
    with _held(root, storage) as (used, _):
        return tuple(_unnamed(used))


def clear(root: Path, names: Collection[str], storage: Storage | None = None) -> tuple[Cleared, ...]:
    """Remove those of the files `names` that `unnamed` gives still, and give them.

    Raises:
        HeldError: a driver is at work.
        StoreError: the log is broken, or one cannot be removed.
    """
    with _held(root, storage) as (used, _):
        found = tuple(one for one in _unnamed(used) if one.name in names)
        for one in found:
            used.remove(one.name)
        return found


@contextmanager
def _held(root: Path, storage: Storage | None) -> Iterator[tuple[Storage, Holder]]:
    if not root.is_dir():
        raise StoreError(f"there is no folder {root}; name a study that there is")
    with locked(root) as holder:
        yield storage or LocalStorage(root), holder


def _unnamed(storage: Storage) -> Iterator[Cleared]:
    log = CommitLog(storage, checkpoints=False)
    state = log.refresh()
    if (why := lost_log(storage, state)) is not None:
        raise StoreError(f"part of the log is lost ({why}), so that nobody knows what may go; --repair first")
    for name in part_names(storage):
        if name in state.files or name in state.replaced:
            continue
        data = storage.read(name) or b""
        found = examined(data)
        num_rows = sum(part.rows for part in found.parts)
        what = {
            "whole": f"{num_rows:,} rows",
            "silent": "a file of an earlier version",
            "torn": "a file whose writer was killed",
            "damaged": "a damaged file",
        }
        yield Cleared(name, len(data), what[found.status])


def _what_is_lost(log: CommitLog, storage: Storage) -> str | None:
    """Why the log must be made anew; None where it need not be."""
    try:
        return lost_log(storage, log.refresh())
    except NewerCommitError:
        raise
    except StoreError as error:
        return str(error).partition(";")[0]


def _dropped(log: CommitLog, damaged: tuple[str, ...]) -> list[str]:
    gone = log.state.dropped_with(damaged)
    num_rows = sum(log.state.files[path].rows for path in gone)
    return [
        f"{len(gone):,} files with {num_rows:,} rows are lost or damaged and are dropped: the next run makes"
        " their jobs again"
    ]


def _rebuild(
    log: CommitLog, storage: Storage, holder: Holder, found: Gathered, why: str | None, agree: Agree
) -> Iterator[str]:
    """Open the study with all that its files hold, and tell what that is."""
    plans = known_plans(storage, found.plans)
    num_rows_of: Counter[str | None] = Counter()
    for one in found.carriers:
        num_rows_of[one.plan] += sum(part.rows for part in one.parts)
    chosen = chosen_plan(plans, found.state.plan, num_rows_of, agree)
    plan = None if chosen is None else chosen.plan
    ids = found.state.plans | (frozenset() if chosen is None else chosen.lineage(plans, agree))
    # Rows of a plan that is lost, or of another copy's, mean nothing here, and would be taken for others.
    meant = tuple(one for one in found.carriers if (one.plan in ids if one.plan is not None else bool(ids)))
    num_strange = len(found.carriers) - len(meant)
    found = replace(found, carriers=meant)
    study = found.study or uuid.uuid4().hex
    snapshot, num_lost = rebuilt(found, study, plan, ids, time.time())
    seq = 1 + max((log.state.seq, *log.numbers(), *found.seqs), default=0)
    log.rebuild(holder, seq, snapshot)
    yield f"the log is made again{'' if why is None else f', as {why}'}"
    num_rows = sum(part.rows for part in snapshot.parts if not part.is_retry)
    yield f"{num_rows:,} rows in {len(snapshot.parts):,} parts are in it, and {len(plans):,} plans"
    if num_lost:
        yield f"{num_lost:,} rows are lost or damaged: the next run makes their jobs again"
    if num_strange:
        yield (
            f"{num_strange:,} files of rows stay as they are: the plan that says what they hold is lost, or"
            " of another copy of the study; the next run makes their jobs again"
        )
    silent = Counter(found.unknown.values())["silent"]
    if silent:
        yield f"{silent:,} files of an earlier version, which say nothing of themselves, stay as they are"
