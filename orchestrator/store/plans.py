"""What a plan's folder says of itself: ``plan/<id>/files.json``, written after all of the plan's files.

With it a plan is known to be whole, though the commit that named it is lost.
"""

__all__ = ["INDEX", "KnownPlan", "chosen_plan", "encode_index", "index_seq", "known_plans"]

import hashlib
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from orchestrator.store.commit import FileRef, PlanRef, checked, is_checked, unchecked
from orchestrator.store.manifest import Count, strict
from orchestrator.store.storage import Storage

INDEX = "files.json"


@dataclass(frozen=True, slots=True, kw_only=True, config=strict)
class PlanIndex:
    """A plan, and how many commits there were when it was written."""

    seq: Count
    plan: PlanRef


def encode_index(plan: PlanRef, seq: int) -> bytes:
    """The content of the file `INDEX`."""
    return checked(_INDEX.dump_json(PlanIndex(seq=seq, plan=plan), by_alias=True))


def index_seq(data: bytes) -> int:
    """How many commits there were when a plan was written, by its file `INDEX`; 0 where that is damaged."""
    content = unchecked(data) if is_checked(data) else None
    try:
        return 0 if content is None else _INDEX.validate_json(content).seq
    except ValidationError:
        return 0


class KnownPlan(NamedTuple):
    """A plan that a commit names, or that says itself what it is."""

    seq: int
    """The number of its commit, about."""
    plan: PlanRef
    is_whole: bool
    """Whether all of its files are as they were committed."""


def known_plans(storage: Storage, known: Sequence[tuple[int, PlanRef]]) -> list[KnownPlan]:
    """All plans that are known of, the latest last: those that commits name, and those that say so."""
    found = {plan.id: (seq, plan) for seq, plan in sorted(known, key=lambda one: one[0])}
    folders: dict[str, list[str]] = {}
    for name in storage.list("plan"):
        folders.setdefault(name.split("/")[1], []).append(name)
    for id_, names in folders.items():
        if id_ not in found and (one := _of_folder(storage, id_, names)) is not None:
            found[id_] = one
    ordered = sorted(found.values(), key=lambda one: one[0])
    return [KnownPlan(seq, plan, _is_whole(storage, plan)) for seq, plan in ordered]


def chosen_plan(plans: Sequence[KnownPlan], needed: Collection[str | None]) -> PlanRef | None:
    """The plan that a study follows: the latest that is whole, or without which rows mean nothing.

    `needed` are the plans of the rows, None for those that do not say. Under an earlier plan they would be
    taken for others: rather the study waits until the files of its plan are there again.
    """
    for one in reversed(plans):
        if one.is_whole or one.plan.id in needed or None in needed:
            return one.plan
    return None


def _of_folder(storage: Storage, id_: str, names: Sequence[str]) -> tuple[int, PlanRef] | None:
    """What a folder says of its plan; one of an earlier version is taken as it lies there."""
    data = storage.read(f"plan/{id_}/{INDEX}")
    try:
        if data is not None:
            content = unchecked(data) if is_checked(data) else None
            index = None if content is None else _INDEX.validate_json(content)
            return None if index is None or index.plan.id != id_ else (index.seq + 1, index.plan)
        if f"plan/{id_}/plan.json" not in names:
            return None
        files = {PurePosixPath(name).name: _ref(storage.read(name) or b"") for name in names}
        return -1, PlanRef(id=id_, files=files)
    except ValidationError:
        return None


def _is_whole(storage: Storage, plan: PlanRef) -> bool:
    return all(_ref(storage.read(plan.path(name)) or b"") == ref for name, ref in plan.files.items())


def _ref(data: bytes) -> FileRef:
    return FileRef(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


_INDEX = TypeAdapter(PlanIndex)
