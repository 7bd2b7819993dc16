"""Promise: a manifest that exists makes sense."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.store import Manifest

MakeManifest = Callable[..., Manifest]
PART = f"data/1/lane/{'0' * 32}.parquet"


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "data/1/lane/../../../etc/passwd"},
        {"path": "/data/1/lane/" + "0" * 32 + ".parquet"},
        {"path": "data/1/../" + "0" * 32 + ".parquet", "lane": ".."},
        {"path": "data/1/other/" + "0" * 32 + ".parquet"},
        {"lane": "../up"},
        {"sha256": "F" * 64},
        {"size_bytes": 0},
        {"families": ()},
        {"families": ("logit",)},
        {"families": ("kl", "logits")},
        {"families": ("kl", "kl")},
        {"tile": -1},
        {"k_lo": 4, "k_hi": 4},
        {"rows": 0},
        {"rows": "8"},
        {"failed": 9},
        {"attempt": 256},
        {"timings": {"run": float("nan")}},
        {"replaces": "commits/0000000001.json"},
        {"replaces": PART, "attempt": 1},
        {"replaces": PART, "jobs": ((0, 8),)},
        {"attempt": 1, "jobs": ((0, 8),)},
        {"jobs": ((0, 8),)},
        {"replaces": PART, "attempt": 1, "jobs": ((0, 7),)},
        {"replaces": PART, "attempt": 1, "jobs": ((0, 4), (3, 7))},
        {"replaces": PART, "attempt": 1, "jobs": ((4, 8), (0, 4))},
        {"replaces": PART, "attempt": 1, "jobs": ((0, 8), (9, 9))},
        {"replaces": PART, "attempt": 1, "jobs": ((-1, 7),)},
        {"colour": "red"},
    ],
)
def test_an_impossible_manifest_is_refused(manifest: MakeManifest, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        manifest(**changes)


def test_parts_overlap_where_tile_cells_and_a_family_meet(manifest: MakeManifest) -> None:
    part = manifest(k_lo=2, k_hi=6, families=("logits", "kl"))
    assert part.overlaps(manifest(k_lo=5, k_hi=9, families=("kl",)))
    assert not part.overlaps(manifest(k_lo=6, k_hi=9))
    assert not part.overlaps(manifest(k_lo=2, k_hi=6, tile=1))
    assert not manifest(families=("kl",)).overlaps(manifest(families=("logits",)))


def test_retries_overlap_where_they_share_a_job_of_one_part(manifest: MakeManifest) -> None:
    def retry(*jobs: tuple[int, int], of: str = PART) -> Manifest:
        rows = sum(hi - lo for lo, hi in jobs)
        return manifest(replaces=of, attempt=1, jobs=jobs, rows=rows)

    assert retry((0, 2), (5, 6)).overlaps(retry((1, 3)))
    assert not retry((0, 2), (5, 6)).overlaps(retry((2, 5), (6, 8)))
    assert not retry((0, 2)).overlaps(retry((0, 2), of=PART.replace("0", "1")))
    assert not retry((0, 2)).overlaps(manifest())
