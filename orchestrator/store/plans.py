"""Index of a plan's folder: ``plan/<id>/files.json``, written after all of the plan's files.

With it a plan is known to be whole, though the commit that named it is lost.
"""

__all__ = [
    "INDEX",
    "Agree",
    "KnownPlan",
    "before_plan",
    "chosen_plan",
    "damaged_plan_files",
    "encode_index",
    "index_seq",
    "known_plans",
]

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from orchestrator.store.commit import FileRef, PlanRef, checked, is_checked, unchecked
from orchestrator.store.log import CommitLog
from orchestrator.store.manifest import Count, strict
from orchestrator.store.state import State
from orchestrator.store.storage import LocalStorage, Storage
from workers.errors import StoreError

INDEX = "files.json"

Agree = Callable[[PlanRef, PlanRef], bool]
"""Whether all numbers of the first plan mean the same in the second, which was made later."""


@dataclass(frozen=True, slots=True, kw_only=True, config=strict)
class PlanIndex:
    """Plan, with the commits and plans that there were when it was written."""

    seq: Count
    """Number of commits."""
    plan: PlanRef
    after: tuple[str, ...]
    """The ids of all plans before it."""


def encode_index(plan: PlanRef, seq: int, after: Collection[str]) -> bytes:
    """The content of the file `INDEX`."""
    index = PlanIndex(seq=seq, plan=plan, after=tuple(sorted(after)))
    return checked(_INDEX.dump_json(index, by_alias=True, exclude_none=True))


def index_seq(data: bytes) -> int:
    """Number of commits when a plan was written, by its file `INDEX`; 0 where that is damaged."""
    index = _index_of(data)
    return 0 if index is None else index.seq


class KnownPlan(NamedTuple):
    """A plan that a commit names, or that says itself what it is."""

    seq: int
    """The number of its commit, about."""
    plan: PlanRef
    is_whole: bool
    """Whether all of its files are as they were committed."""
    after: frozenset[str] | None
    """The ids of the plans before it; None where nobody knows."""

    def lineage(self, plans: Iterable["KnownPlan"], agree: Agree) -> frozenset[str]:
        """The ids of the plans whose numbers mean the same in this one, its own among them.

        Of two copies of a study that were both planned anew, neither's plan is in the other's lineage.
        """
        if self.after is not None:
            return self.after | {self.plan.id}
        before = (one.plan for one in plans if one.plan.id != self.plan.id)
        return frozenset({self.plan.id, *(plan.id for plan in before if agree(plan, self.plan))})


def known_plans(storage: Storage, known: Sequence[tuple[int, PlanRef]]) -> list[KnownPlan]:
    """All plans that are known of, the latest last: those that commits name, and those that say so."""
    found = {plan.id: (seq, plan) for seq, plan in sorted(known, key=lambda one: one[0])}
    folders: dict[str, list[str]] = {id_: [] for id_ in found}
    for name in storage.list("plan"):
        folders.setdefault(name.split("/")[1], []).append(name)
    after: dict[str, frozenset[str] | None] = {}
    for id_, names in folders.items():
        index = _index_of(storage.read(f"plan/{id_}/{INDEX}") or b"")
        after[id_] = None if index is None else frozenset(index.after)
        if id_ not in found and (one := _of_folder(storage, id_, names)) is not None:
            found[id_] = one
    ordered = sorted(found.values(), key=lambda one: one[0])
    return [KnownPlan(seq, plan, not any(_damaged(storage, plan)), after[plan.id]) for seq, plan in ordered]


def chosen_plan(
    plans: Sequence[KnownPlan], own: PlanRef | None, num_rows: Mapping[str | None, int], agree: Agree
) -> KnownPlan | None:
    """The plan that a study follows: the one under which most rows mean something; of several the latest.

    It may be damaged. Under an earlier one its rows would be taken for others: rather the study waits until
    the files of its plan are there again.

    Args:
        plans: all that are known of, the latest last; some may be of another copy of the study.
        own: the one that the log names, as far as it can be read; the choice is that, or goes on from it.
        num_rows: how many rows there are of each plan.
        agree: for plans that do not say themselves what they go on from.
    """
    lines = {one.plan.id: one.lineage(plans, agree) for one in plans}
    may = [one for one in plans if own is None or own.id in lines[one.plan.id]]

    def rank(one: KnownPlan) -> tuple[int, bool, int]:
        return sum(num_rows.get(id_, 0) for id_ in lines[one.plan.id]), one.is_whole, one.seq

    return max(may, key=rank, default=None)


def _index_of(data: bytes) -> PlanIndex | None:
    """Index of a folder's plan; None where it is missing, damaged, or of a newer version."""
    content = unchecked(data) if is_checked(data) else None
    try:
        return None if content is None else _INDEX.validate_json(content)
    except ValidationError:
        return None


def _of_folder(storage: Storage, id_: str, names: Sequence[str]) -> tuple[int, PlanRef] | None:
    """Plan of a folder, with its number; one of an earlier version is taken as it lies there."""
    data = storage.read(f"plan/{id_}/{INDEX}")
    try:
        if data is not None:
            index = _index_of(data)
            return None if index is None or index.plan.id != id_ else (index.seq + 1, index.plan)
        if f"plan/{id_}/plan.json" not in names:
            return None
        files = {PurePosixPath(name).name: FileRef.of(storage.read(name) or b"") for name in names}
        return -1, PlanRef(id=id_, files=files)
    except ValidationError:
        return None


def _damaged(storage: Storage, plan: PlanRef) -> Iterator[tuple[str, str]]:
    """The files of a plan that are not as they were committed, each with what is wrong with it."""
    for name, ref in plan.files.items():
        data = storage.read(plan.path(name))
        if data is None:
            yield name, "was committed and is missing"
        elif FileRef.of(data) != ref:
            yield name, "is damaged: its bytes are not those committed"


def damaged_plan_files(storage: LocalStorage, plan: PlanRef) -> list[str]:
    """Fault of each file of a plan that is not as it was committed; none where all are."""
    return [f"{storage.locate(plan.path(name))} {why}" for name, why in _damaged(storage, plan)]


def before_plan(storage: Storage, plan: PlanRef) -> State | None:
    """State of a study when `plan` was committed first; None where the log does not tell any more."""
    with contextlib.suppress(StoreError):
        log = CommitLog(storage, checkpoints=False)
        return log.read_until(lambda one: one.plan is not None and one.plan.files == plan.files)
    return None


_INDEX = TypeAdapter(PlanIndex)
