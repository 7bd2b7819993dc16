"""Checks of a folder before it is opened: whether it holds a study that this version reads (``format.json``),
and whether part of its log is lost."""

__all__ = [
    "check_format",
    "is_study",
    "lost_log",
    "make_format",
    "refuse_lost_log",
    "refuse_without_format",
    "telling_names",
]

import json
import re
from collections.abc import Sequence
from pathlib import Path

from orchestrator.store.adopt import epoch_of, part_names
from orchestrator.store.notes import read_tail
from orchestrator.store.plans import INDEX, index_seq
from orchestrator.store.state import State
from orchestrator.store.storage import Storage, named
from workers.digests import digest_of
from workers.errors import StoreError

_FORMAT_NAME = "format.json"
_COMMIT = re.compile(r"commits/[0-9]+\.json")
_PLAN = re.compile(r"plan/[0-9a-f]{32}/(?:plan|files)\.json")
_FORMAT = "swapyard study"
_VERSION = 1


def is_study(storage: Storage) -> bool:
    """Whether there is a study, also one that is damaged."""
    return storage.exists(_FORMAT_NAME) or looks_like_study(storage)


def check_format(storage: Storage, root: Path) -> None:
    """Accept a study that this version reads.

    Raises:
        StoreError: there is none, it is damaged, or a newer swapyard made it.
    """
    data = storage.read(_FORMAT_NAME)
    if data is None:
        if looks_like_study(storage):
            raise _without_format(root)
        raise StoreError(f"{root} holds no study; run one first, or name another folder with --store")
    version = _version_of(data)
    if version is None:
        if looks_like_study(storage):
            raise _without_format(root, "is damaged")
        raise StoreError(f"{root / _FORMAT_NAME} is not that of a study; name another folder with --store")
    if version > _VERSION:
        raise StoreError(
            f"the study in {root} has format {version}, and this version reads up to {_VERSION}; "
            "upgrade swapyard"
        )


def refuse_without_format(storage: Storage, root: Path) -> None:
    """Accept a study, or a folder in which one may be made.

    Raises:
        StoreError: it holds other things, or a study whose ``format.json`` is lost.
    """
    if storage.exists(_FORMAT_NAME) or not root.is_dir():
        return
    if looks_like_study(storage):
        raise _without_format(root)
    strangers = sorted(p.name for p in root.iterdir() if not p.name.startswith("."))
    if strangers:
        raise StoreError(
            f"{root} holds no study but other things ({strangers[0]!r}); name an empty or a new "
            "folder with --store"
        )


def looks_like_study(storage: Storage) -> bool:
    """Whether there are commits, files of rows, or a plan."""
    return (
        any(_COMMIT.fullmatch(name) for name in storage.list("commits"))
        or bool(part_names(storage))
        or any(_PLAN.fullmatch(name) for name in storage.list("plan"))
    )


def _version_of(data: bytes) -> int | None:
    """The version that ``format.json`` says; None where it is not that of a study, or damaged."""
    try:
        content = json.loads(data)
        return int(content["version"]) if content["format"] == _FORMAT else None
    except (ValueError, KeyError, TypeError):
        return None


def make_format(storage: Storage, root: Path, *, mend: bool = False) -> bool:
    """Write ``format.json`` if it is not there, and say whether it was.

    With `mend` only into a study, and also where it is damaged: that one stays beside it under another name.

    Raises:
        StoreError: there is no study to mend, or a newer version's.
    """
    data = storage.read(_FORMAT_NAME)
    if data is not None and not (mend and _version_of(data) is None):
        if mend:
            check_format(storage, root)
        return False
    if mend and not looks_like_study(storage):
        raise StoreError(f"{root} holds no study; name one that there is")
    if data is not None:
        storage.create(f"{_FORMAT_NAME}.{digest_of(data)[:8]}.damaged", data)
        storage.remove(_FORMAT_NAME)
    return storage.create(_FORMAT_NAME, json.dumps({"format": _FORMAT, "version": _VERSION}).encode())


def _without_format(root: Path, why: str = "is missing") -> StoreError:
    study = named(root)
    return StoreError(
        f"the study in {root} is damaged: {_FORMAT_NAME} {why}; restore it from a copy, or make it again"
        f" with: swapyard doctor --repair {study}"
    )


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
    """Sign that part of the log is lost; None where there is none.

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
