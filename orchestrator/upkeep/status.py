"""Progress of studies, read from their folders while anyone may be running them."""

__all__ = ["Rates", "StatusReader", "StudyStatus", "hints", "is_running", "read_status", "show"]

import fcntl
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.plan.remaining import counts_of
from orchestrator.plan.tables import Plan, read_plan
from orchestrator.run.left import left_text, read_left
from orchestrator.run.logs import DRIVER
from orchestrator.store import CommitLog, PlanRef, State, StudyStore, explained
from orchestrator.store.commit import commit_name
from orchestrator.store.storage import JsonObject
from orchestrator.store.study_dirs import read_each, study_folders
from orchestrator.text_tables import table
from orchestrator.upkeep.logs import error_of
from orchestrator.upkeep.lost import find_lost
from workers.errors import SwapyardError
from workers.limits import is_our_limit
from workers.model.capability import Capability

RATE_OVER_S = 30.0
"""Of looks at a study that is watched, over which its rate is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStatus:
    """Status of one study."""

    study: str
    num_jobs: int
    num_done: int
    num_failed: int
    num_estimates: int
    """Jobs that are estimated first, in a screened study."""
    num_estimated: int
    is_selected: bool
    """Whether it is known which jobs run; before, ``num_jobs`` is 0."""
    num_parts: int
    age_s: float
    """Since the last commit."""
    driver: str
    """Process that opened the study last."""
    is_running: bool | None
    """Whether a driver is at work now; None where the file system cannot tell."""
    logs: str
    """The folder of its logs, of which older runs may have made none."""
    models: Mapping[str, JsonObject]
    """Capability of each model, as the last driver's workers found it: see `workers.model.capability`."""
    error: str | None
    """Error that ended the last driver; None where there was none, or it was killed."""
    left_s: float | None = None
    """Time left as the driver at work reckons it; None where nobody knows, or is at it."""
    damaged: str | None = None
    """Damage of the study's folder, and its remedy; None where nothing is seen at a glance."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do; a study without a plan has everything before it."""
        return self.damaged is None and self.is_selected and 0 < self.num_jobs <= self.num_done

    @property
    def activity(self) -> str:
        """Whether anyone is at it, in a word."""
        if self.damaged is not None:
            return "damaged"
        if self.is_running is None:
            return "unknown"
        if self.is_running:
            return "running"
        return "done" if self.is_complete else "stopped"

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


class StatusReader:
    """Reader that looks at studies again and again, and then reads only what is new."""

    def __init__(self) -> None:
        self._logs: dict[Path, tuple[bytes, CommitLog]] = {}
        self._plans: dict[Path, tuple[PlanRef, Plan]] = {}

    def read(self, folder: Path) -> StudyStatus:
        """The study in `folder` as it is now.

        Raises:
            StoreError: it cannot be read.
        """
        state = self._log(folder).refresh()
        plan = None if state.plan is None else self._plan(folder, state.plan)
        lost = None if plan is None else find_lost(folder, state, plan, verify=False)
        there = state if lost is None else state.without(one.path for one in lost.damaged)
        counts = None if plan is None else counts_of(plan, there)
        running = is_running(folder)
        is_done = counts is not None and counts.is_complete and lost is None
        logs = folder / "logs"
        return StudyStatus(
            study=folder.name,
            num_jobs=counts.num_jobs if counts else 0,
            num_done=counts.num_done if counts else 0,
            num_failed=counts.num_failed if counts else 0,
            num_estimates=counts.num_estimates if counts else 0,
            num_estimated=counts.num_estimated if counts else 0,
            is_selected=counts.is_selected if counts else True,
            num_parts=len(state.live),
            age_s=round(max(0.0, time.time() - state.time_s), 1),
            driver=str(state.holder),
            is_running=running,
            logs=str(logs),
            models={} if plan is None else _capabilities(plan, state),
            damaged=None if lost is None else f"{lost.summary}; {lost.where}; {lost.remedy}",
            # What a later command was refused is no matter of a study that is done.
            error=None if running or is_done else error_of(logs / str(state.epoch) / f"{DRIVER}.log"),
            left_s=read_left(logs / str(state.epoch)) if running else None,
        )

    def _log(self, folder: Path) -> CommitLog:
        """The study's log, read before or opened now; another study may have come into the same folder."""
        store = StudyStore(folder)
        path = store.locate(commit_name(1))
        # It holds a nonce: no two studies begin alike.
        with explained(path):
            first = path.read_bytes() if path.exists() else b""
        known = self._logs.get(folder)
        if known is None or known[0] != first:
            known = self._logs[folder] = (first, store.open_reader())
            self._plans.pop(folder, None)
        return known[1]

    def _plan(self, folder: Path, ref: PlanRef) -> Plan:
        known = self._plans.get(folder)
        if known is None or known[0].id != ref.id:
            known = self._plans[folder] = (ref, read_plan(StudyStore(folder), ref))
        return known[1]


def _capabilities(plan: Plan, state: State) -> dict[str, JsonObject]:
    """By model, the report on the part that was committed last."""
    reported = [part for part in state.live.values() if part.capability]
    newest = {part.lane: part.capability for part in reported}
    lanes = {str(number): lane.spec.title for number, lane in plan.lanes.items()}
    return {lanes[lane]: json.loads(text) for lane, text in newest.items() if lane in lanes}


def read_status(
    root: Path,
    names: Sequence[str],
    *,
    reader: StatusReader | None = None,
) -> list[StudyStatus]:
    """The studies below `root`, or only those named; one that cannot be read is there as damaged.

    A `reader` that was given before reads only what is new.

    Raises:
        StoreError: there is no such study.
    """
    read = (reader or StatusReader()).read
    return [_whole_or_damaged(folder, read) for folder in study_folders(root, names)]


def _whole_or_damaged(folder: Path, read: Callable[[Path], StudyStatus]) -> StudyStatus:
    try:
        ((_, found),) = read_each([folder], read, None)
    except SwapyardError as error:
        if is_our_limit(error):
            raise
        return StudyStatus(
            study=folder.name,
            num_jobs=0,
            num_done=0,
            num_failed=0,
            num_estimates=0,
            num_estimated=0,
            is_selected=True,
            num_parts=0,
            age_s=0.0,
            driver="",
            is_running=is_running(folder),
            logs=str(folder / "logs"),
            models={},
            error=None,
            damaged=str(error),
        )
    return found


def is_running(folder: Path) -> bool | None:
    """Whether a driver holds the study in `folder` now; None where its file system has no locks.

    A driver at work is not disturbed: its lock is tried, shared, and let go within microseconds.
    """
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


class Rates:
    """Jobs a second of studies, between one look at them and the next."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[float, int]]] = {}

    def of(self, found: Sequence[StudyStatus]) -> dict[str, float]:
        """The rate of each study that is running, over the last half minute of looks."""
        now = time.monotonic()
        rates = {}
        for one in found:
            done = one.num_done if one.is_selected else one.num_estimated
            seen = self._seen.setdefault(one.study, [])
            seen.append((now, done))
            while len(seen) > 2 and now - seen[1][0] > RATE_OVER_S:
                del seen[0]
            if one.is_running and now > seen[0][0]:
                rates[one.study] = max(0.0, (done - seen[0][1]) / (now - seen[0][0]))
        return rates

    @staticmethod
    def lines(found: Sequence[StudyStatus], rates: Mapping[str, float]) -> list[str]:
        """A line a study, for whoever reads no table that is drawn in place."""
        return [
            " · ".join(part for part in (f"{one.study}: {' '.join(_done(one)).strip()}", *_pace(one, rates)))
            for one in found
        ]


def _pace(one: StudyStatus, rates: Mapping[str, float]) -> list[str]:
    failed = [f"{one.num_failed:,} failed"] if one.num_failed else []
    rate = [f"{rates[one.study]:,.0f}/s"] if one.study in rates else []
    return [*failed, *rate, left_text(one.left_s) if one.is_running else one.activity]


def show(found: Sequence[StudyStatus], rates: Mapping[str, float] | None = None) -> str:
    """A table for people; with `rates`, where studies are watched, what changes stands first."""
    columns: dict[str, list[str]] = {
        "study": [one.study for one in found],
        "jobs done": [_done(one)[0] for one in found],
        "share": [_done(one)[1] for one in found],
        "failed": [f"{one.num_failed:,}" for one in found],
        "parts": [f"{one.num_parts:,}" for one in found],
        "last commit": [
            f"{one.age_s:,.0f} s ago" if one.num_jobs or one.num_estimates else "" for one in found
        ],
        "tier": [_tier(one) for one in found],
        "driver": [one.activity for one in found],
        "left": [left_text(one.left_s) if one.is_running else "" for one in found],
    }
    if not any(columns["left"]):
        del columns["left"]
    if rates is not None:
        columns["rate"] = [f"{rates[one.study]:,.0f}/s" if one.study in rates else "" for one in found]
        first = [
            name for name in ("study", "jobs done", "share", "rate", "left", "driver") if name in columns
        ]
        columns = {name: columns[name] for name in dict.fromkeys((*first, *columns))}
    names = ["" if name in ("share", "left") else name for name in columns]
    return table(names, [list(row) for row in zip(*columns.values(), strict=True)])


def _done(one: StudyStatus) -> tuple[str, str]:
    """Number of jobs done, and the share; of a study that is not selected from yet, of its estimates."""
    if not one.is_selected:
        return (
            f"{one.num_estimated:,} of {one.num_estimates:,} estimates",
            f"{100 * one.num_estimated / one.num_estimates:.1f} %",
        )
    if not one.num_jobs:
        return "not known" if one.damaged is not None else "not planned yet", ""
    return f"{one.num_done:,} of {one.num_jobs:,}", f"{100 * one.num_done / one.num_jobs:.1f} %"


def _tier(one: StudyStatus) -> str:
    """Tier of the study's models, in a word or two; empty where no part says it."""
    tiers = {
        Capability.from_json(json.dumps(report)).tier.partition(":")[0] for report in one.models.values()
    }
    return "+".join(sorted({tier.partition(",")[0] for tier in tiers}))


def hints(found: Sequence[StudyStatus], root: Path) -> list[str]:
    """Hints where something went wrong, line by line; none where all is well."""
    return [line for one in found for line in _hints(one, root)]


def _hints(one: StudyStatus, root: Path) -> Iterator[str]:
    where = ["--store", str(root)]
    if one.damaged is not None:
        yield f"{one.study} is damaged: {one.damaged}"
    if one.error is not None:
        yield f"{one.study}: the last run ended with {one.error}"
        yield f"  its log:     {shlex.join(['swapyard', 'logs', one.study, '--driver', *where])}"
    if one.num_failed:
        failures = ["swapyard", "query", "FROM failures", "--study", one.study, *where]
        yield f"{one.study}: {one.num_failed:,} job{'' if one.num_failed == 1 else 's'} failed"
        yield f"  why:         {shlex.join(failures)}"
        yield f"  one of them: {shlex.join(['swapyard', 'logs', one.study, *where])} --job JOB_ID"
    for model, report in one.models.items():
        first, *lost = Capability.from_json(json.dumps(report)).lines(model)
        if lost or "hooked" in first:
            yield from (f"{one.study}: {line}" for line in (first, *lost))
    if one.error is not None or one.num_failed:
        yield f"  all logs:    {one.logs}"
