"""Whether a folder holds a study, and one that this version reads: ``format.json``."""

__all__ = ["check_format", "is_study", "make_format", "refuse_without_format"]

import hashlib
import json
import re
from pathlib import Path

from orchestrator.store.adopt import part_names
from orchestrator.store.storage import Storage, named
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
        storage.create(f"{_FORMAT_NAME}.{hashlib.sha256(data).hexdigest()[:8]}.damaged", data)
        storage.remove(_FORMAT_NAME)
    return storage.create(_FORMAT_NAME, json.dumps({"format": _FORMAT, "version": _VERSION}).encode())


def _without_format(root: Path, why: str = "is missing") -> StoreError:
    study = named(root)
    return StoreError(
        f"the study in {root} is damaged: {_FORMAT_NAME} {why}; restore it from a copy, or make it again"
        f" with: swapyard doctor --repair {study}"
    )
