"""Manifests: a worker's of the part that it wrote, a driver's of a merged file, and both as stored files."""

__all__ = [
    "PART",
    "PLAIN_NAME",
    "Digest",
    "Manifest",
    "MergedFile",
    "Nonce",
    "PartName",
    "StoredFile",
    "WrittenBytes",
    "strict",
]

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, NamedTuple, TypedDict

from pydantic import ConfigDict, Field, StringConstraints
from pydantic.dataclasses import dataclass

from workers.metrics import METRIC_FAMILIES

PLAIN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""Name of a lane (a model variant) or of a plan's file: one part of a path, and never ``.`` or ``..``."""

strict = ConfigDict(extra="forbid", strict=True, validate_by_name=True)
"""Validation of everything in a commit: no unknown key, no conversion."""

Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
"""A SHA-256, in hexadecimal."""

Nonce = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
"""32 hexadecimal digits that nobody else drew."""

PART = re.compile(rf"data/[1-9][0-9]*/{PLAIN_NAME}/[0-9a-f]{{32}}\.parquet")
"""Name of a file of rows: ``data/<epoch>/<lane>/<uuid>.parquet``, relative to the study."""

PartName = Annotated[str, StringConstraints(pattern=f"^{PART.pattern}$")]


class WrittenBytes(TypedDict):
    """Size and hash of a file that was written."""

    size_bytes: int
    sha256: str


LaneName = Annotated[str, StringConstraints(pattern=f"^{PLAIN_NAME}$")]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True, config=strict)
class Manifest:
    """Manifest of one part: the rows of one slice of a tile, for some metric families."""

    path: PartName
    size_bytes: int = Field(ge=1, validation_alias="bytes", serialization_alias="bytes")
    sha256: Digest
    families: tuple[str, ...]
    """The metric families whose columns it has, in the order of ``METRIC_FAMILIES``."""
    lane: LaneName
    tile: Count
    """The tile's number, store-wide and never reused."""
    k_lo: Count
    k_hi: Count
    """Cells ``[k_lo, k_hi)`` of the tile, each with all of the tile's pairs."""
    rows: Annotated[int, Field(ge=1)]
    failed: Count
    """Number of rows that hold an error."""
    tiers: Mapping[str, int]
    """Rows by the engine tier that made them."""
    tier_reason: str = ""
    """Why the worker's model has the tier that it has: what was found when it was loaded."""
    capability: str = ""
    """Abilities of the worker's model, as `Capability.to_json` writes them; empty in older parts."""
    timings: Mapping[str, Seconds]
    """Seconds by phase."""
    worker: str
    host: str
    attempt: Annotated[int, Field(ge=0, le=255)] = 0
    """0 for jobs that were never done, 1 for a retry."""
    replaces: PartName | None = None
    """The part whose failed rows these rows replace; None for jobs that were never done."""
    jobs: tuple[tuple[Count, Count], ...] = ()
    """The jobs of a retry, as sorted half-open ranges of ``k * P + j`` (the j-th of the tile's P pairs)."""

    def __post_init__(self) -> None:
        _check_place(self.path, self.lane, self.families)
        if self.k_lo >= self.k_hi:
            raise ValueError(f"cells [{self.k_lo}, {self.k_hi}) are none")
        if self.failed > self.rows:
            raise ValueError(f"{self.failed} of {self.rows} rows cannot have failed")
        if not (self.is_retry == bool(self.jobs) == (self.attempt > 0)):
            raise ValueError("a retry, and nothing else, has an attempt, the part that it replaces, and jobs")
        if self.is_retry:
            _check_jobs(self.jobs, self.rows)

    @property
    def is_retry(self) -> bool:
        """Whether its rows replace failed ones."""
        return self.replaces is not None

    @property
    def file(self) -> "StoredFile":
        """The file that it was written as."""
        return _stored(self)

    def overlaps(self, other: "Manifest") -> bool:
        """Whether some job has a metric family in both; a retry overlaps only with retries of its part."""
        if self.tile != other.tile or self.replaces != other.replaces:
            return False
        if self.is_retry:
            return any(a < d and c < b for a, b in self.jobs for c, d in other.jobs)
        return (
            self.k_lo < other.k_hi
            and other.k_lo < self.k_hi
            and not set(self.families).isdisjoint(other.families)
        )


@dataclass(frozen=True, slots=True, kw_only=True, config=strict)
class MergedFile:
    """Merged file: the rows of several files in one; only where bytes lie changes."""

    path: PartName
    size_bytes: int = Field(ge=1, validation_alias="bytes", serialization_alias="bytes")
    sha256: Digest
    families: tuple[str, ...]
    lane: LaneName
    rows: Annotated[int, Field(ge=1)]
    is_retry: bool
    """Whether its rows are those of retries."""
    of: tuple[PartName, ...]
    """The files that it takes the place of: parts, or files merged earlier."""

    def __post_init__(self) -> None:
        _check_place(self.path, self.lane, self.families)
        if len(set(self.of)) < max(2, len(self.of)) or self.path in self.of:
            raise ValueError("a merged file takes the place of two others or more, each named once")

    @property
    def file(self) -> "StoredFile":
        """The same as any other file."""
        return _stored(self)


class StoredFile(NamedTuple):
    """File that holds rows now: a part as it was written, or several merged."""

    path: str
    size_bytes: int
    sha256: str
    families: tuple[str, ...]
    lane: str
    rows: int
    is_retry: bool


def _stored(written: Manifest | MergedFile) -> StoredFile:
    return StoredFile(
        path=written.path,
        size_bytes=written.size_bytes,
        sha256=written.sha256,
        families=written.families,
        lane=written.lane,
        rows=written.rows,
        is_retry=written.is_retry,
    )


def _check_place(path: str, lane: str, families: tuple[str, ...]) -> None:
    if path.split("/")[2] != lane:
        raise ValueError(f"{path} does not lie in the folder of lane {lane!r}")
    if not families or families != tuple(f for f in METRIC_FAMILIES if f in families):
        raise ValueError(f"families {families} are not some of {METRIC_FAMILIES}, in that order")


def _check_jobs(jobs: Sequence[tuple[int, int]], rows: int) -> None:
    if any(lo >= hi for lo, hi in jobs) or any(a[1] > b[0] for a, b in pairwise(jobs)):
        raise ValueError(f"jobs {jobs} are not sorted ranges")
    if sum(hi - lo for lo, hi in jobs) != rows:
        raise ValueError(f"jobs {jobs} are not {rows} rows")
