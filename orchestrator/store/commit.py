"""Commits: the steps of a study, as they lie in ``commits/<sequence>.json``.

Its bytes end with a SHA-256 of all before it, and it names that of the commit before: a flipped bit, a cut,
or a commit of another log is noticed. Earlier versions wrote neither.
"""

__all__ = [
    "REMEDY",
    "Commit",
    "FileRef",
    "NewerCommitError",
    "PlanRef",
    "Snapshot",
    "checked",
    "commit_name",
    "is_checked",
    "unchecked",
]

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from orchestrator.store.lock import Holder
from orchestrator.store.manifest import PLAIN_NAME, Digest, Manifest, MergedFile, Nonce, PartName, strict
from workers.digests import digest_of
from workers.errors import StoreError
from workers.libraries.pydantic import faults

_CONTENT = {
    "open": ("holder",),
    "plan": ("plan",),
    "add": ("add",),
    "compact": ("merged",),
    "adopt": ("add",),
    "drop": ("drop",),
    "rebuild": ("holder", "rebuilt"),
}
_OPENING = ("open", "rebuild")
_CHECK = re.compile(rb',"check":"([0-9a-f]{64})"\}\Z')
_CHECK_BYTES = 76
"""Length of that."""


class NewerCommitError(StoreError):
    """Whole commit that a newer version wrote."""


@dataclass(frozen=True, slots=True, kw_only=True, config=strict)
class FileRef:
    """Reference to a file of a plan, by its contents."""

    size_bytes: int = Field(ge=0, validation_alias="bytes", serialization_alias="bytes")
    sha256: Digest

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Reference to a file with the content `data`."""
        return cls(size_bytes=len(data), sha256=digest_of(data))


@dataclass(frozen=True, slots=True, kw_only=True, config=strict)
class PlanRef:
    """Reference to a plan: the folder ``plan/<id>/`` and the files that it must hold."""

    id: Nonce
    files: Mapping[Annotated[str, StringConstraints(pattern=f"^{PLAIN_NAME}$")], FileRef]

    def path(self, name: str) -> str:
        """Path of the plan's file `name`, relative to the study."""
        return f"plan/{self.id}/{name}"


@dataclass(frozen=True, slots=True, kw_only=True, config=strict)
class Snapshot:
    """Snapshot of all that a study holds, as one value, to which a lost log is rebuilt."""

    study: Nonce
    """The nonce of the study's very first commit."""
    plan: PlanRef | None = None
    """The latest plan."""
    plans: tuple[Nonce, ...] = ()
    """The ids of all plans, sorted."""
    parts: tuple[Manifest, ...] = ()
    """Every part that counts, in order."""
    merged: tuple[MergedFile, ...] = ()
    """Files that hold the rows of several of the parts, which each names."""
    replaced: Mapping[PartName, float] = field(default_factory=dict)
    """Files whose rows lie in a merged one, and since when."""
    lost: Mapping[PartName, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    """Jobs of parts, of which a retry was dropped."""


@dataclass(frozen=True, slots=True, kw_only=True, config=strict)
class Commit:
    """Commit: one step of a study, by which a driver opens it, plans, adds parts, merges files or repairs.

    ``adopt`` adds parts that an earlier driver left uncommitted, ``drop`` takes out files that are lost or
    damaged, and ``rebuild`` opens the study anew with all that was found, whatever the log said before.
    """

    seq: Annotated[int, Field(ge=1)]
    epoch: Annotated[int, Field(ge=1)]
    """The number of the ``open`` commit of the driver that made this one."""
    nonce: Nonce
    """Tells its maker, after a doubtful write, whether the commit under this number is its own."""
    kind: Literal["open", "plan", "add", "compact", "adopt", "drop", "rebuild"]
    time_s: float
    """Time of its making, in seconds since 1970."""
    holder: Holder | None = None
    plan: PlanRef | None = None
    add: tuple[Manifest, ...] = ()
    merged: tuple[MergedFile, ...] = ()
    drop: tuple[PartName, ...] = ()
    rebuilt: Snapshot | None = None
    prev: Digest | None = None
    """The SHA-256 of the commit before; None in the first, in a ``rebuild``, and of earlier versions."""

    def __post_init__(self) -> None:
        contents = ("holder", "plan", "add", "merged", "drop", "rebuilt")
        given = {name for name in contents if getattr(self, name)}
        if given != set(_CONTENT[self.kind]):
            raise ValueError(
                f"a commit of kind {self.kind!r} holds {_CONTENT[self.kind]}, not {sorted(given)}"
            )
        if (self.kind in _OPENING) != (self.epoch == self.seq) or self.epoch > self.seq:
            raise ValueError(f"commit {self.seq} of kind {self.kind!r} cannot be of epoch {self.epoch}")
        # Whoever opens the study later may clear what earlier epochs left uncommitted.
        written = [*(part.path for part in self.add), *(file.path for file in self.merged)]
        epochs = {int(path.split("/")[1]) for path in written}
        if self.kind == "adopt":
            if any(epoch >= self.epoch for epoch in epochs):
                raise ValueError(f"a commit of epoch {self.epoch} adopts only files of earlier epochs")
        elif epochs - {self.epoch}:
            raise ValueError(f"a commit of epoch {self.epoch} adds only files written in that epoch")

    def to_json(self) -> bytes:
        """The commit as one JSON object, without what it does not hold; its checksum comes last."""
        return checked(_COMMIT.dump_json(self, by_alias=True, exclude_defaults=True))

    @classmethod
    def from_json(cls, data: bytes, seq: int) -> "Commit":
        """Commit that `to_json` wrote, found under the number `seq`.

        Raises:
            StoreError: it is damaged, or nothing that this version writes.
        """
        has_check = is_checked(data)
        content = unchecked(data)
        if content is None:
            raise StoreError(f"{commit_name(seq)} is damaged (its checksum is another); {REMEDY}")
        try:
            commit = _COMMIT.validate_json(content)
        except ValidationError as error:
            first = faults(error)[0]
            where = ".".join(str(part) for part in first.where) or "the whole"
            if has_check:
                raise NewerCommitError(
                    f"{commit_name(seq)} was written by a newer swapyard ({where}: {first.wanted}); upgrade"
                    " swapyard"
                ) from None
            raise StoreError(
                f"{commit_name(seq)} is damaged, or written by a newer swapyard ({where}: {first.wanted}); "
                f"upgrade swapyard, or {REMEDY}"
            ) from None
        if not has_check and (commit.prev is not None or commit.kind not in _UNCHECKED_KINDS):
            raise StoreError(f"{commit_name(seq)} is damaged (it has no checksum); {REMEDY}")
        if commit.seq != seq:
            raise StoreError(f"{commit_name(seq)} says that it is commit {commit.seq}; {REMEDY}")
        return commit


def commit_name(seq: int) -> str:
    """The name under which commit `seq` lies; names sort as numbers do."""
    return f"commits/{seq:010d}.json"


def checked(data: bytes) -> bytes:
    """A JSON object with a last key ``check``: the SHA-256 of its bytes without that key."""
    return data[:-1] + f',"check":"{digest_of(data)}"}}'.encode()


def is_checked(data: bytes) -> bool:
    """Whether bytes end with a checksum, right or wrong."""
    return _CHECK.search(data, max(0, len(data) - _CHECK_BYTES)) is not None


def unchecked(data: bytes) -> bytes | None:
    """Bytes that `checked` was given; the same where there is no checksum, and None where that is wrong."""
    found = _CHECK.search(data, max(0, len(data) - _CHECK_BYTES))
    if found is None:
        return data
    content = data[: found.start()] + b"}"
    return content if digest_of(content) == found[1].decode() else None


REMEDY = "restore it from a copy, or rebuild the log from the parts with: swapyard doctor --repair STUDY"
"""Remedy for a commit that is lost or damaged."""
_UNCHECKED_KINDS = ("open", "plan", "add", "compact")
"""Kinds that earlier versions wrote, without a checksum."""
_COMMIT = TypeAdapter(Commit)
