"""How far studies are, read from their folders while anyone may be running them."""

__all__ = ["StudyStatus", "read_status", "show"]

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.lines import table
from orchestrator.plan.tables import read_plan
from orchestrator.reading import LeaveOut, read_each
from orchestrator.remaining import counts_of
from orchestrator.roots import study_folders
from orchestrator.store import StudyStore


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStatus:
    """One study."""

    study: str
    num_jobs: int
    num_done: int
    num_failed: int
    num_parts: int
    age_s: float
    """Since the last commit."""
    driver: str
    """Who opened the study last."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do; a study without a plan has everything before it."""
        return 0 < self.num_jobs <= self.num_done

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def read_status(root: Path, names: Sequence[str], *, leave_out: LeaveOut | None = None) -> list[StudyStatus]:
    """The studies below `root`, or only those named; one that cannot be read goes to `leave_out`.

    Raises:
        StoreError: there is no such study, or one cannot be read and `leave_out` is None.
    """
    return [found for _, found in read_each(study_folders(root, names), _read, leave_out)]


def _read(folder: Path) -> StudyStatus:
    store = StudyStore(folder)
    state = store.state()
    counts = counts_of(read_plan(store, state.plan), state) if state.plan is not None else None
    return StudyStatus(
        study=folder.name,
        num_jobs=counts.num_jobs if counts else 0,
        num_done=counts.num_done if counts else 0,
        num_failed=counts.num_failed if counts else 0,
        num_parts=len(state.live),
        age_s=round(max(0.0, time.time() - state.time_s), 1),
        driver=str(state.holder),
    )


def show(found: Sequence[StudyStatus]) -> str:
    """A table for people."""
    rows = [
        [
            one.study,
            f"{one.num_done:,} of {one.num_jobs:,}" if one.num_jobs else "not planned yet",
            f"{100 * one.num_done / one.num_jobs:.1f} %" if one.num_jobs else "",
            f"{one.num_failed:,}",
            f"{one.num_parts:,}",
            f"{one.age_s:,.0f} s ago",
        ]
        for one in found
    ]
    return table(["study", "jobs done", "", "failed", "parts", "last commit"], rows)
