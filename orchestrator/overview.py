"""Overview of a study before it runs, for `swapyard plan`: its plan, how far it is, and its cost."""

__all__ = ["Overview", "overview"]

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from orchestrator.expense import Expense, expense_of
from orchestrator.plan.costs import may_resume
from orchestrator.plan.planner import Draft, Planner
from orchestrator.plan.reasons import of_table
from orchestrator.plan.tables import Plan, read_plan
from orchestrator.remaining import Counts, counts_of
from orchestrator.roots import home_of
from orchestrator.run.baseline_scorers import CachedScorer, ChildScorer, kept_runs
from orchestrator.run.committed import num_open, refuse_stranger
from orchestrator.run.options import RunOptions
from orchestrator.run.progress import describe
from orchestrator.run.setup import Setup, set_up
from orchestrator.run.threads import threads_here
from orchestrator.run.trained import trained_of
from orchestrator.store import State, StudyStore
from studies import Study
from workers.errors import StoreError, counted


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
        expense=expense_of(draft.plan, counts, state, store.root, setup),
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
