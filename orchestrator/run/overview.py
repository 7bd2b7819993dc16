"""Overview of a study before it runs, for `swapyard plan`: its plan, how far it is, and its cost."""

__all__ = ["Expense", "Overview", "overview"]

import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from orchestrator.plan.costs import may_resume
from orchestrator.plan.fit_tables import planned_fits
from orchestrator.plan.pair_remarks import of_table
from orchestrator.plan.planner import Draft, Planner
from orchestrator.plan.remaining import Counts, counts_of, finished_cells
from orchestrator.plan.tables import Plan, read_plan
from orchestrator.plan.trainings import planned_trainings
from orchestrator.run.baseline_scorers import CachedScorer, ChildScorer, kept_runs
from orchestrator.run.device_setup import Setup, fitting_s, set_up, threads_here
from orchestrator.run.options import RunOptions
from orchestrator.run.plan_store import num_open, refuse_stranger
from orchestrator.run.progress import describe
from orchestrator.run.throughput import known_rate
from orchestrator.run.trained import trained_of
from orchestrator.stages.fit.store import FitFolder
from orchestrator.stages.train.store import TrainingFolder
from orchestrator.store import State, StudyStore, part_columns
from orchestrator.store.storage import LocalStorage
from orchestrator.store.study_dirs import home_of
from studies import Study
from workers.errors import StoreError, counted

_FEW_ROWS = 1_000
"""Rows up to which the heads of files are most of what they take."""
_HEAD_BYTES = 6_000
"""Of a file of rows, besides its rows."""
_MOST_FILES = 500
"""More files than that are merged."""
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Expense:
    """Work that is left of a plan, and what it will take."""

    fits: Mapping[str, int]
    """Fits to be made, by name."""
    trainings: Mapping[str, int]
    """Trainings to be made, by name."""
    seconds: float | None
    """Of all jobs and fits left; None where nothing like them ran on this machine before."""
    num_open: int
    """Jobs left."""
    size_bytes: float
    """Bytes on the disk of the rows that are left."""
    is_measured: bool
    """Whether that is by the rows that the study has already, or by what their columns take at most."""

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "num_fits_left": sum(self.fits.values()),
            "num_trainings_left": sum(self.trainings.values()),
            "expected_s": None if self.seconds is None else round(self.seconds, 1),
            "expected_bytes": round(self.size_bytes),
        }

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{_total(found, what)} to be made" for found, what in self._made() if found]
        if not self.num_open and not self.fits and not self.trainings:
            return lines
        if self.seconds is None:
            time = "not known before the first run of such jobs on this machine"
        else:
            time = f"{_time(self.seconds)}, by earlier runs on this machine"
        if self.trainings:
            time += ", and the trainings"
        by = "by the rows that are there" if self.is_measured else "by the columns of rows"
        return [*lines, f"time: {time}", f"disk: about {_size(self.size_bytes)}, {by}"]

    def _made(self) -> tuple[tuple[Mapping[str, int], str], ...]:
        return (self.fits, "fit"), (self.trainings, "training")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Overview:
    """A plan, how far it is, and how it would be run."""

    plan: Plan
    exact: bool
    counts: Counts
    setup: Setup
    resuming: Mapping[str, bool]
    """For each model, whether its jobs are expected to be resumed."""
    expense: Expense
    """Work that is left, and its cost."""
    refused: str | None = None
    """Why the study cannot be run where it lies; None where it can."""

    def __str__(self) -> str:
        return "\n".join([f"study {self.plan.head['study']}", *self.lines()])

    def __repr__(self) -> str:
        return f"<Overview of the {'; '.join(str(self).splitlines())}>"

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "study": self.plan.head["study"],
            "num_cells": self.plan.tables["cells"].num_rows,
            "num_pairs": len(self.plan.pairs),
            "num_jobs": self.counts.num_jobs,
            "num_done": self.counts.num_done,
            "num_estimates": self.counts.num_estimates,
            "num_estimated": self.counts.num_estimated,
            "exact": self.exact,
            "left_out": [
                {"count": one.count, "reason": one.reason, "pairs": list(one.pairs)}
                for one in of_table(self.plan.tables["inputs"])
            ],
            "num_tiles": len(self.plan.tiles),
            "executor": self.setup.executor,
            "num_workers": self.setup.num_workers,
            "resuming": dict(self.resuming),
            "notes": list(self.plan.head.get("notes", ())),
            **self.expense.to_json(),
        }

    def lines(self) -> list[str]:
        """For people."""
        lines = describe(self.plan)
        if not self.exact:
            lines.append(
                "these are upper bounds: which pairs the filter keeps only the model can tell;"
                " swapyard plan --prepare asks it"
            )
        num_done, _, what = self.counts.now
        if num_done:
            verb = "is" if num_done == 1 else "are"
            lines.append(f"{counted(num_done, what.removesuffix('s'))} {verb} done already")
        for ref, may in self.resuming.items():
            expected = "resumed from what they change, if a check at load agrees" if may else "run in full"
            lines.append(f"{ref}: jobs are {expected}")
        lines.append(f"to be run {self.setup.where} ({self.setup.why})")
        lines += self.expense.lines()
        return lines if self.refused is None else [*lines, f"note: {self.refused}"]


def overview(loaded: Study, root: Path, *, prepare: bool, say: Callable[[str], None]) -> Overview:
    """Overview of a study in its folder below `root`.

    Raises:
        StudyError, ModelError: the study cannot be planned.
    """
    planner = Planner(loaded, store=root, say=say)
    store = StudyStore(home_of(root, loaded.study, say))
    state = store.state() if store.exists() else State()
    earlier = read_plan(store, state.plan) if state.plan is not None else None
    if earlier is not None and earlier.head["digest"] == planner.digest:
        draft = Draft(earlier, exact=True, complete=True)
    else:
        draft = _draft(planner, store.root, earlier, state, say, prepare=prepare)
    counts = counts_of(draft.plan, state)
    setup = set_up(draft.plan, num_open(draft.plan, state), RunOptions())
    resuming = {spec.ref: may_resume(facts.model_type) for spec, facts in planner.models}
    return Overview(
        plan=draft.plan,
        exact=draft.exact,
        counts=counts,
        setup=setup,
        resuming=resuming,
        expense=_expense_of(draft.plan, counts, state, store.root, setup),
        refused=None if earlier is None or not state.files else _stranger(draft.plan, earlier, store),
    )


def _stranger(plan: Plan, earlier: Plan, store: StudyStore) -> str | None:
    """Why the results that are there are of another study; None where they are of this one."""
    try:
        refuse_stranger(plan, earlier, store)
    except StoreError as error:
        return str(error)
    return None


def _draft(
    planner: Planner,
    root: Path,
    earlier: Plan | None,
    state: State,
    say: Callable[[str], None],
    *,
    prepare: bool,
) -> Draft:
    with ExitStack() as stack:
        child = stack.enter_context(ChildScorer(threads=threads_here(), root=root)) if prepare else None
        return planner.draft(
            CachedScorer(kept_runs(), child, say), earlier, state, trained_of(root, planner.trained_paths)
        )


def _expense_of(plan: Plan, counts: Counts, state: State, root: Path, setup: Setup) -> Expense:
    """Work that is left of `plan`, of which the study in `root` holds `state`, as `setup` would run it."""
    fits = planned_fits(plan.tables) if plan.has_fits else {}
    folder, trained = FitFolder(LocalStorage(root)), TrainingFolder(LocalStorage(root))
    open_fits = [fit.spec["method"] for key, fit in fits.items() if folder.about(key) is None]
    own = planned_trainings(plan.tables)
    open_trainings = [one.training.name for key, one in own.items() if trained.done(key) is None]
    bytes_per_row, is_measured = _bytes_per_row(plan, state)
    return Expense(
        fits=Counter(open_fits),
        trainings=Counter(open_trainings),
        seconds=_seconds(plan, state, setup, len(open_fits) / max(1, len(fits))),
        num_open=counts.num_open,
        size_bytes=counts.num_open * bytes_per_row + _HEAD_BYTES * min(len(plan.tiles), _MOST_FILES),
        is_measured=is_measured,
    )


def _seconds(plan: Plan, state: State, setup: Setup, share_of_fits: float) -> float | None:
    rates = {number: known_rate(lane, setup.threads) for number, lane in plan.lanes.items()}
    found = 0.0
    for tile in plan.tiles.values():
        costs = plan.costs[tile.cellset] * tile.num_selected * ~finished_cells(plan, state, tile)
        cost = float(costs.sum())
        rate = rates[tile.lane]
        if cost and rate is None:
            return None
        found += cost / rate if rate else 0.0
    return (found + share_of_fits * fitting_s(plan)) / (setup.num_workers or 1)


def _bytes_per_row(plan: Plan, state: State) -> tuple[float, bool]:
    """Bytes of a row, and whether they were measured."""
    num_rows = sum(file.rows for file in state.files.values())
    if num_rows >= _FEW_ROWS:
        return sum(file.size_bytes for file in state.files.values()) / num_rows, True
    columns = part_columns(plan.families)
    return sum(_width(kind) for kind in columns.values()), False


def _width(kind: str) -> float:
    """Bytes of a value of an Arrow type; text and lists, which hardly any row has, are one."""
    found = re.search(r"(8|16|32|64)$", kind)
    return int(found[1]) / 8 if found else 1.0


def _total(found: Mapping[str, int], what: str) -> str:
    named = ", ".join(f"{count:,} {name}" for name, count in found.items())
    return f"{counted(sum(found.values()), what)} ({named})"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"about {max(1.0, seconds):,.0f} s"
    return f"about {seconds / 60:,.0f} min" if seconds < 7200 else f"about {seconds / 3600:,.1f} h"


def _size(size_bytes: float) -> str:
    for unit, name in _UNITS:
        if size_bytes >= unit:
            return f"{size_bytes / unit:,.1f} {name}"
    return f"{size_bytes:,.0f} bytes"
