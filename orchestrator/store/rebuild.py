"""A study's state, made of its files: one by one, by the rules that accept a commit."""

__all__ = ["choose", "rebuilt"]

from collections import Counter
from collections.abc import Collection, Sequence

from orchestrator.store.adopt import epoch_of
from orchestrator.store.commit import PlanRef, Snapshot
from orchestrator.store.gather import Carrier, Gathered
from orchestrator.store.manifest import Manifest, MergedFile
from orchestrator.store.state import State


def rebuilt(
    found: Gathered, study: str, plan: PlanRef | None, plans: Collection[str], time_s: float
) -> tuple[Snapshot, int]:
    """The state that the files make, and how many rows known of are in none.

    `plan` is the one that the study follows, and `plans` are the ids of all.
    """
    chosen = choose(found.carriers, list(found.state.live.values()), found.named)
    places = {path: number for number, path in enumerate(found.state.live)}
    accepted = {part.path: part for carrier in chosen for part in carrier.parts}
    parts = sorted(
        accepted.values(),
        key=lambda part: (part.is_retry, places.get(part.path, len(places)), epoch_of(part.path), part.path),
    )
    names = {carrier.name for carrier in chosen}
    snapshot = Snapshot(
        study=study,
        plan=plan,
        plans=tuple(sorted(plans)),
        parts=tuple(parts),
        merged=tuple(_merged(carrier) for carrier in chosen if carrier.name not in accepted),
        replaced={
            carrier.name: time_s
            for carrier in found.carriers
            if carrier.name not in names and all(part.path in accepted for part in carrier.parts)
        },
        lost=_lost_retries(found, accepted),
    )
    lost = [part for path, part in found.known.items() if path not in accepted and not part.is_retry]
    done = State.of(snapshot, seq=1, epoch=1, holder=None, time_s=time_s)
    return snapshot, sum(part.rows for part in lost if done.accepts(part))


def choose(
    carriers: Sequence[Carrier], live: Sequence[Manifest], named: Sequence[Manifest] = ()
) -> list[Carrier]:
    """Files that hold every row that is to be had once.

    What the log has, `live`, comes before all else; then what commits beyond its end have `named`, so that no
    part that was acknowledged gives way to one that a killed driver left.
    """
    holders = Counter(part.path for carrier in carriers for part in carrier.parts)
    anchor = State()
    for part in live:
        # Only what is still to be had stands against others.
        if part.path in holders and (part.replaces is None or part.replaces in anchor.live):
            anchor.put(part)
    for part in named:
        if part.path in holders and part.path not in anchor.live and anchor.accepts(part):
            anchor.put(part)
    trial = State()
    chosen: list[Carrier] = []
    for carrier in sorted(carriers, key=lambda one: _rank(one, holders, anchor)):
        taken: list[Manifest] = []
        for part in carrier.parts:
            if not trial.accepts(part, taken) or not (part.path in anchor.live or _is_free(part, anchor)):
                break
            taken.append(part)
        else:
            chosen.append(carrier)
            for part in taken:
                trial.put(part)
    return chosen


def _rank(carrier: Carrier, holders: Counter[str], anchor: State) -> tuple[bool, int, int, int, str]:
    """Retries come after all parts; first the files without which some row would be lost, then the large."""
    num_alone = sum(part.rows for part in carrier.parts if holders[part.path] == 1)
    num_rows = sum(part.rows for part in carrier.parts)
    is_known = any(part.path in anchor.live for part in carrier.parts)
    return (carrier.is_retry, -num_alone, -num_rows, -int(is_known), carrier.name)


def _is_free(part: Manifest, anchor: State) -> bool:
    """Whether the log says of none of a part's jobs that another part did them."""
    if part.replaces is None:
        return anchor.accepts(part)
    retried = anchor.retried(part.replaces)
    return not any(retried.overlaps(lo, hi) for lo, hi in part.jobs)


def _merged(carrier: Carrier) -> MergedFile:
    first = carrier.parts[0]
    return MergedFile(
        path=carrier.name,
        size_bytes=carrier.size_bytes,
        sha256=carrier.sha256,
        families=first.families,
        lane=first.lane,
        rows=sum(part.rows for part in carrier.parts),
        is_retry=first.is_retry,
        of=tuple(part.path for part in carrier.parts),
    )


def _lost_retries(found: Gathered, accepted: dict[str, Manifest]) -> dict[str, tuple[tuple[int, int], ...]]:
    """The jobs whose retries are known of and lost, by the part whose rows failed."""
    gone = dict(found.state.lost_retries)
    for path, part in found.known.items():
        if part.replaces in accepted and path not in accepted:
            gone[part.replaces] = (*gone.get(part.replaces, ()), *part.jobs)
    there = {path: jobs for path, jobs in gone.items() if path in accepted}
    return {path: tuple(sorted(jobs)) for path, jobs in there.items()}
