"""A plan whose files are lost or damaged, made again: bit for bit the one that was committed, or not at all.

What rows mean hangs on the numbers that their plan gave to cells, pairs and tiles. So a plan made anew counts
only where each file that is lost comes out with the very hash that its commit names.
"""

__all__ = ["mend_plan"]

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from orchestrator.plan.screening import CellChoice
from orchestrator.plan.tables import Plan, encode_plan, read_plan
from orchestrator.stages.estimate.selection import select
from orchestrator.store import Driver, PlanRef, State, StudyStore
from orchestrator.store.adopt import part_names
from orchestrator.store.plans import before_plan, damaged_plan_files
from orchestrator.store.storage import LocalStorage
from studies import Study
from workers.digests import digest_of
from workers.errors import StoreError, SwapyardError


class MakeDraft(Protocol):
    """Plans a study that goes on from an earlier plan and what was done then."""

    def __call__(
        self, earlier: Plan | None, state: State, selection: Mapping[int, CellChoice] | None = None
    ) -> Plan:
        """The plan, complete; `selection` is what was selected of the cells of a screened study."""


def mend_plan(
    study: Study, store: StudyStore, driver: Driver, draft: MakeDraft, say: Callable[[str], None]
) -> PlanRef | None:
    """The committed plan, committed once more where its files are lost; None where there is none to follow.

    Raises:
        StoreError: it cannot be made again; nothing was changed.
    """
    ref, storage = driver.state.plan, LocalStorage(store.root)
    damaged = [] if ref is None else damaged_plan_files(storage, ref)
    if ref is None or not damaged:
        return ref
    if not driver.state.live and not part_names(storage):
        say(f"{damaged[0]}; nothing was done yet, and the study is planned anew")
        return None
    say(f"{damaged[0]}; the plan is made again")
    whole = {name: data for name, data in _files(store, ref).items() if data is not None}
    lost = {name: file.sha256 for name, file in ref.files.items() if name not in whole}
    why = "the study, its pairs, its models or this version are not what they were"
    try:
        for files in _attempts(study, store, driver.state, draft):
            made = {name: files[name] for name in lost if name in files}
            if {name: digest_of(data) for name, data in made.items()} == lost:
                say("it is the same, bit for bit")
                return driver.write_plan({name: {**whole, **made}[name] for name in ref.files})
    except SwapyardError as error:
        why = str(error)
    raise StoreError(
        f"{damaged[0]}, and the same plan cannot be made again ({why}): restore the file from a copy; without"
        " one, run the study in another folder (--store). What was done stays on the disk, unchanged"
    )


def _files(store: StudyStore, ref: PlanRef) -> dict[str, bytes | None]:
    """The files of a plan, None for those that are lost."""
    found: dict[str, bytes | None] = {}
    for name in ref.files:
        try:
            found[name] = store.read_plan_file(ref, name)
        except StoreError:
            found[name] = None
    return found


def _attempts(study: Study, store: StudyStore, state: State, draft: MakeDraft) -> Iterator[dict[str, bytes]]:
    """The files of plans that may be it, made of what there was when it was committed."""
    assert state.plan is not None
    before = before_plan(LocalStorage(store.root), state.plan)
    if before is None and state.plans == {state.plan.id}:
        before = State()
    if before is None:
        return
    earlier = None if before.plan is None else read_plan(store, before.plan)
    text = {"study.yaml": study.to_yaml().encode()}
    yield {**encode_plan(draft(earlier, before)), **text}
    if earlier is not None and not earlier.is_selected:
        yield {**encode_plan(draft(earlier, before, select(earlier, before, store, study))), **text}
