"""Repair of a study by all that is known of it: its log and files, and then its plan."""

__all__ = ["repair_study"]

from collections.abc import Collection
from pathlib import Path

from orchestrator.plan.accord import agree, misfits
from orchestrator.plan.tables import read_plan
from orchestrator.store import PlanRef, State, StudyStore
from orchestrator.store.repair import drop_unfit, repair
from workers.errors import SwapyardError


def repair_study(root: Path) -> tuple[str, ...]:
    """Repair the study in `root`, and tell what was done, one thing a line; nothing on one that is whole.

    A plan that is damaged is not made again here: that takes the study's file, and so its run does it.

    Raises:
        HeldError: a driver is at work.
        StoreError: there is no study, a newer swapyard wrote it, or it cannot be read or written.
    """
    store = StudyStore(root)

    def agreed(first: PlanRef, second: PlanRef) -> bool:
        return _agree(store, first, second)

    lines = repair(root, agree=agreed).lines
    if not _unfit(store, store.state()):
        return lines
    dropped = drop_unfit(root, lambda state: _unfit(store, state)).lines
    # What such a file says of itself may be right: then it is added as one that no commit names.
    return (*lines, *dropped, *repair(root, agree=agreed).lines)


def _agree(store: StudyStore, first: PlanRef, second: PlanRef) -> bool:
    """Whether one plan went on from the other; of one that cannot be read nobody knows."""
    try:
        return agree(read_plan(store, first), read_plan(store, second))
    except (SwapyardError, LookupError, TypeError, ValueError):
        return False


def _unfit(store: StudyStore, state: State) -> Collection[str]:
    """The files of which commits say what the plan does not allow; none where the plan cannot be read."""
    if state.plan is None:
        return ()
    try:
        return misfits(read_plan(store, state.plan), state).keys()
    except SwapyardError:
        return ()
