"""Whether a folder holds a study, and one that this version reads: ``format.json``."""

__all__ = ["check_format", "is_study", "make_format", "refuse_without_format"]

import json
import shlex
from pathlib import Path

from orchestrator.store.adopt import part_names
from orchestrator.store.storage import Storage
from workers.errors import StoreError

_FORMAT_NAME = "format.json"
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
    try:
        content = json.loads(data)
        made_by_us, version = content["format"] == _FORMAT, int(content["version"])
    except (ValueError, KeyError, TypeError):
        made_by_us, version = False, 0
    if not made_by_us:
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
    """Whether there are commits, or files of rows."""
    return bool({"json"} & {name.rpartition(".")[2] for name in storage.list("commits")}) or bool(
        part_names(storage)
    )


def make_format(storage: Storage, root: Path, *, mend: bool = False) -> bool:
    """Write ``format.json`` if it is not there, and say whether it was; with `mend`, only into a study.

    Raises:
        StoreError: there is no study to mend, or a newer version's.
    """
    if storage.read(_FORMAT_NAME) is not None:
        if mend:
            check_format(storage, root)
        return False
    if mend and not looks_like_study(storage):
        raise StoreError(f"{root} holds no study; name one that there is")
    return storage.create(_FORMAT_NAME, json.dumps({"format": _FORMAT, "version": _VERSION}).encode())


def _without_format(root: Path) -> StoreError:
    study = shlex.join([root.name, "--store", str(root.parent)])
    return StoreError(
        f"the study in {root} is damaged: {_FORMAT_NAME} is missing; restore it from a copy, or make it again"
        f" with: swapyard doctor --repair {study}"
    )
