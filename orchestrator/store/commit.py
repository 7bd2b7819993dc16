"""One step of a study, as it lies in ``commits/<sequence>.json``."""

__all__ = ["Commit", "FileRef", "PlanRef", "commit_name"]

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from orchestrator.store.lock import Holder
from orchestrator.store.manifest import PLAIN_NAME, Digest, Manifest, MergedFile, strict
from workers.errors import StoreError
from workers.libraries.pydantic import faults

_HEX = StringConstraints(pattern="^[0-9a-f]{32}$")
_CONTENT = {"open": ("holder",), "plan": ("plan",), "add": ("add",), "compact": ("merged",)}


@dataclass(frozen=True, slots=True, kw_only=True, config=strict)
class FileRef:
    """A file of a plan, by its contents."""

    size_bytes: int = Field(ge=0, validation_alias="bytes", serialization_alias="bytes")
    sha256: Digest


@dataclass(frozen=True, slots=True, kw_only=True, config=strict)
class PlanRef:
    """A plan: the folder ``plan/<id>/`` and the files that it must hold."""

    id: Annotated[str, _HEX]
    files: Mapping[Annotated[str, StringConstraints(pattern=f"^{PLAIN_NAME}$")], FileRef]

    def path(self, name: str) -> str:
        """Where the plan's file `name` lies, relative to the study."""
        return f"plan/{self.id}/{name}"


@dataclass(frozen=True, slots=True, kw_only=True, config=strict)
class Commit:
    """One step of a study: a driver opened it, planned, added parts, or merged files."""

    seq: Annotated[int, Field(ge=1)]
    epoch: Annotated[int, Field(ge=1)]
    """The number of the ``open`` commit of the driver that made this one."""
    nonce: Annotated[str, _HEX]
    """Tells its maker, after a doubtful write, whether the commit under this number is its own."""
    kind: Literal["open", "plan", "add", "compact"]
    time_s: float
    """When it was made, in seconds since 1970."""
    holder: Holder | None = None
    plan: PlanRef | None = None
    add: tuple[Manifest, ...] = ()
    merged: tuple[MergedFile, ...] = ()

    def __post_init__(self) -> None:
        given = {name for name in ("holder", "plan", "add", "merged") if getattr(self, name)}
        if given != set(_CONTENT[self.kind]):
            raise ValueError(
                f"a commit of kind {self.kind!r} holds {_CONTENT[self.kind]}, not {sorted(given)}"
            )
        if (self.kind == "open") != (self.epoch == self.seq):
            raise ValueError(f"commit {self.seq} of kind {self.kind!r} cannot be of epoch {self.epoch}")
        # Whoever opens the study later may clear what earlier epochs left uncommitted.
        written = [*(part.path for part in self.add), *(file.path for file in self.merged)]
        if not all(path.startswith(f"data/{self.epoch}/") for path in written):
            raise ValueError(f"a commit of epoch {self.epoch} adds only files written in that epoch")

    def to_json(self) -> bytes:
        """The commit as one JSON object, without what it does not hold."""
        return _COMMIT.dump_json(self, by_alias=True, exclude_defaults=True)

    @classmethod
    def from_json(cls, data: bytes, seq: int) -> "Commit":
        """What `to_json` wrote, found under the number `seq`.

        Raises:
            StoreError: it is damaged, or nothing that this version writes.
        """
        try:
            commit = _COMMIT.validate_json(data)
        except ValidationError as error:
            first = faults(error)[0]
            where = ".".join(str(part) for part in first.where) or "the whole"
            raise StoreError(
                f"{commit_name(seq)} is damaged, or written by a newer swapyard ({where}: {first.wanted}); "
                "restore it from a copy, or upgrade swapyard"
            ) from None
        if commit.seq != seq:
            raise StoreError(
                f"{commit_name(seq)} says that it is commit {commit.seq}; restore it from a copy"
            )
        return commit


def commit_name(seq: int) -> str:
    """The name under which commit `seq` lies; names sort as numbers do."""
    return f"commits/{seq:010d}.json"


_COMMIT = TypeAdapter(Commit)
