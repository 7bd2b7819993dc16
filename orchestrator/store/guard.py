"""The state of the folder before a driver opens it: whether part of its log is lost."""

__all__ = ["lost_log", "refuse_lost_log", "telling_names"]

from collections.abc import Sequence
from pathlib import Path

from orchestrator.store.adopt import epoch_of, part_names
from orchestrator.store.notes import read_tail
from orchestrator.store.plans import INDEX, index_seq
from orchestrator.store.state import State
from orchestrator.store.storage import Storage, named
from workers.errors import StoreError


def refuse_lost_log(storage: Storage, state: State, root: Path, names: Sequence[str] | None = None) -> None:
    """Accept a folder whose log may be all that there was; `names` as in `lost_log`.

    Raises:
        StoreError: there are parts and no log, or parts that know of a later commit than the log has.
    """
    why = lost_log(storage, state, names)
    if why is not None:
        study = named(root)
        raise StoreError(
            f"part of the log of the study in {root} is lost: {why}. Nothing was changed; restore commits/"
            f" from a copy, or rebuild the log from the parts with: swapyard doctor --repair {study}"
        )


def telling_names(storage: Storage) -> list[str]:
    """The files that tell whether part of the log is lost: of rows, and what plans say of themselves."""
    plans = [name for name in storage.list("plan") if name.endswith(f"/{INDEX}")]
    return [*part_names(storage), *plans]


def lost_log(storage: Storage, state: State, names: Sequence[str] | None = None) -> str | None:
    """How it shows that part of the log is lost; None where nothing does.

    `names` are what `telling_names` gives; beside a driver at work they were listed before the log was read.
    """
    listed = telling_names(storage) if names is None else names
    names = [name for name in listed if name.startswith("data/")]
    plans = [name for name in listed if name.startswith("plan/") and name.split("/")[1] not in state.plans]
    if state.seq == 0 and listed:
        what = f"{len(names):,} files of rows" if names else "plans"
        return f"there are {what} and no commit"
    for name in plans:
        if (seq := index_seq(storage.read(name) or b"")) > state.seq:
            return f"{name} was written when there were {seq:,} commits, and there are {state.seq:,}"
    if not names:
        return None
    newest = max(map(epoch_of, names))
    if newest > state.epoch:
        return f"rows were written in epoch {newest}, and the last that commits know is {state.epoch}"
    for name in names:
        if name in state.files or name in state.replaced:
            continue
        tail = read_tail(storage, name)
        if tail.study == state.study and tail.seq > state.seq:
            return f"{name} was made when there were {tail.seq:,} commits, and there are {state.seq:,}"
    return None
