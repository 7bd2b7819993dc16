"""Identity of a study, whatever its folder is called: ``identity.json``.

A study begins as the nonce of its first commit. A copy that is to be a study of its own gets another
identity and a name in ``identity.json``; its log and its files of rows go on naming the nonce.
"""

__all__ = ["Identity", "fresh_identity", "read_identity", "write_identity"]

import contextlib
import uuid
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from orchestrator.store.commit import checked, is_checked, unchecked
from orchestrator.store.disk import Disk
from orchestrator.store.manifest import Nonce, strict
from orchestrator.store.storage import Storage, explained
from workers.errors import StoreError

_NAME = "identity.json"


@dataclass(frozen=True, slots=True, kw_only=True, config=strict)
class Identity:
    """A study's identity, and its name."""

    study: Nonce
    """32 hex digits: no two studies have the same."""
    name: str
    """Name of the study in study files."""


def fresh_identity(name: str) -> Identity:
    """Identity of a study that nobody has seen."""
    return Identity(study=uuid.uuid4().hex, name=name)


def read_identity(storage: Storage, root: Path) -> Identity | None:
    """The identity that a study was given; None where it is still the one that it began with.

    Raises:
        StoreError: it is damaged.
    """
    data = storage.read(_NAME)
    if data is None:
        return None
    content = unchecked(data) if is_checked(data) else None
    if content is not None:
        with contextlib.suppress(ValidationError):
            return _IDENTITY.validate_json(content)
    raise StoreError(
        f"{root / _NAME} is damaged; restore it from a copy, or remove it: the study then counts as the one"
        " that it was copied from"
    )


def write_identity(root: Path, identity: Identity) -> None:
    """Give the study in the folder `root` an identity, in the place of the one that it has.

    Raises:
        StorageFullError, StoreError: it cannot be written; the study stays as it was.
    """
    target = root / _NAME
    temporary = root / f".tmp-{uuid.uuid4().hex}"
    disk = Disk()
    with explained(target):
        try:
            descriptor = disk.create(temporary)
            try:
                disk.write(descriptor, memoryview(checked(_IDENTITY.dump_json(identity))))
                disk.sync(descriptor)
            finally:
                disk.close(descriptor)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        disk.sync_folder(root)


_IDENTITY = TypeAdapter(Identity)
