"""What a study would do, without doing it: for `swapyard plan`."""

__all__ = ["Overview", "overview"]

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.machine import num_cores
from orchestrator.plan.clean import CachedScorer, ChildScorer, kept_runs
from orchestrator.plan.planner import Draft, Planner
from orchestrator.plan.tables import Plan, read_plan
from orchestrator.remaining import Counts, counts_of
from orchestrator.run.progress import describe
from orchestrator.run.setup import RunOptions, Setup, set_up
from orchestrator.run.trained import trained_of
from orchestrator.store import State, StudyStore
from studies import Study


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A plan, how far it is, and how it would be run."""

    plan: Plan
    exact: bool
    counts: Counts
    setup: Setup

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "study": self.plan.head["study"],
            "num_cells": self.plan.tables["cells"].num_rows,
            "num_pairs": len(self.plan.pairs),
            "num_jobs": self.counts.num_jobs,
            "num_done": self.counts.num_done,
            "exact": self.exact,
            "num_tiles": len(self.plan.tiles),
            "executor": self.setup.executor,
            "num_workers": self.setup.num_workers,
        }

    def lines(self) -> list[str]:
        """For people."""
        lines = describe(self.plan)
        if not self.exact:
            lines.append(
                "these are upper bounds: which pairs the filter keeps only the model can tell;"
                " swapyard plan --prepare asks it"
            )
        if self.counts.num_done:
            lines.append(f"{self.counts.num_done:,} jobs are done already")
        lines.append(f"to be run {self.setup.where} ({self.setup.why})")
        return lines


def overview(loaded: Study, root: Path, *, prepare: bool, say: Callable[[str], None]) -> Overview:
    """What a study would do in its folder below `root`.

    Raises:
        StudyError, ModelError: the study cannot be planned.
    """
    planner = Planner(loaded, store=root, say=say)
    store = StudyStore(root / loaded.study)
    state = store.state() if store.exists() else State()
    earlier = read_plan(store, state.plan) if state.plan is not None else None
    if earlier is not None and earlier.head["digest"] == planner.digest:
        draft = Draft(earlier, exact=True, complete=True)
    else:
        draft = _draft(planner, store.root, earlier, state, prepare=prepare)
    counts = counts_of(draft.plan, state)
    setup = set_up(draft.plan, counts.num_jobs - counts.num_done, RunOptions())
    return Overview(plan=draft.plan, exact=draft.exact, counts=counts, setup=setup)


def _draft(planner: Planner, root: Path, earlier: Plan | None, state: State, *, prepare: bool) -> Draft:
    with ExitStack() as stack:
        child = stack.enter_context(ChildScorer(threads=num_cores(), root=root)) if prepare else None
        return planner.draft(
            CachedScorer(kept_runs(), child), earlier, state, trained_of(root, planner.trained_paths)
        )
