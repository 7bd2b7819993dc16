"""What a worker reports of a part that it wrote, and what a commit keeps of it."""

__all__ = ["PLAIN_NAME", "Digest", "Manifest", "PartName", "strict"]

from collections.abc import Mapping
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints
from pydantic.dataclasses import dataclass

from workers.vocabulary import METRIC_FAMILIES

PLAIN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""A lane's or a plan file's name: one part of a path, and never ``.`` or ``..``."""

strict = ConfigDict(extra="forbid", strict=True, validate_by_name=True)
"""How everything in a commit is validated: no unknown key, no conversion."""

Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
"""A SHA-256, in hexadecimal."""

PartName = Annotated[
    str, StringConstraints(pattern=rf"^data/[1-9][0-9]*/{PLAIN_NAME}/[0-9a-f]{{32}}\.parquet$")
]
"""``data/<epoch>/<lane>/<uuid>.parquet``, relative to the study."""

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True, config=strict)
class Manifest:
    """One part: the rows of one slice of a tile, for some metric families."""

    path: PartName
    size_bytes: int = Field(ge=1, validation_alias="bytes", serialization_alias="bytes")
    sha256: Digest
    families: tuple[str, ...]
    """The metric families whose columns it has, in the order of ``METRIC_FAMILIES``."""
    lane: Annotated[str, StringConstraints(pattern=f"^{PLAIN_NAME}$")]
    tile: Count
    """The tile's number, store-wide and never reused."""
    k_lo: Count
    k_hi: Count
    """Cells ``[k_lo, k_hi)`` of the tile, each with all of the tile's pairs."""
    rows: Annotated[int, Field(ge=1)]
    failed: Count
    """How many of the rows hold an error."""
    tiers: Mapping[str, int]
    """Rows by the engine tier that made them."""
    timings: Mapping[str, Seconds]
    """Seconds by phase."""
    worker: str
    host: str
    attempt: Annotated[int, Field(ge=0, le=255)] = 0
    replaces: PartName | None = None
    """The part whose failed rows these rows replace; None for jobs that were never done."""

    def __post_init__(self) -> None:
        if self.path.split("/")[2] != self.lane:
            raise ValueError(f"{self.path} does not lie in the folder of lane {self.lane!r}")
        if self.k_lo >= self.k_hi:
            raise ValueError(f"cells [{self.k_lo}, {self.k_hi}) are none")
        if self.failed > self.rows:
            raise ValueError(f"{self.failed} of {self.rows} rows cannot have failed")
        if not self.families or self.families != tuple(f for f in METRIC_FAMILIES if f in self.families):
            raise ValueError(f"families {self.families} are not some of {METRIC_FAMILIES}, in that order")

    def overlaps(self, other: "Manifest") -> bool:
        """Whether some job has a metric family in both."""
        return (
            self.tile == other.tile
            and self.k_lo < other.k_hi
            and other.k_lo < self.k_hi
            and not set(self.families).isdisjoint(other.families)
        )
