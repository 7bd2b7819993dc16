"""State of a study, made of its files alone: rows, parts and plans, whatever became of its log."""

__all__ = ["Carrier", "Gathered", "choose", "gather", "rebuilt"]

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.store.adopt import check_rows, epoch_of, part_names
from orchestrator.store.commit import Commit, PlanRef, Snapshot, commit_name
from orchestrator.store.log import CommitLog
from orchestrator.store.manifest import Manifest, MergedFile
from orchestrator.store.notes import ExaminedFile, examined
from orchestrator.store.state import State
from orchestrator.store.storage import Storage
from workers.digests import digest_of
from workers.errors import StoreError


class Carrier(NamedTuple):
    """Whole file of rows, and the parts whose rows it holds."""

    name: str
    size_bytes: int
    sha256: str
    parts: tuple[Manifest, ...]
    plan: str | None = None
    """The plan whose work it is, where it says so."""

    @property
    def is_retry(self) -> bool:
        """Whether its rows are those of retries."""
        return self.parts[0].is_retry


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """Content of a study's files and commits, as far as they can be read."""

    state: State
    """As far as the log can be read from its begin."""
    study: str
    """The nonce of the study's first commit, by whoever knows it; empty where nobody does."""
    carriers: tuple[Carrier, ...]
    named: tuple[Manifest, ...]
    """Parts that commits beyond where the log is broken acknowledged, in their order, and did not drop."""
    known: Mapping[str, Manifest]
    """Every part that some commit or some file names, by path."""
    plans: Sequence[tuple[int, PlanRef]]
    """The plans that commits name, each with its number."""
    unknown: Mapping[str, str]
    """Files of which it is not known what they hold, and the status of each."""
    seqs: tuple[int, ...]
    """Numbers of commits that somebody knows of."""

    def damaged(self) -> tuple[str, ...]:
        """The files that the log names, and that are lost or not what it says."""
        whole = {carrier.name: carrier for carrier in self.carriers}
        held = self.state.parts_by_file()

        def is_whole(path: str, sha256: str) -> bool:
            found = whole.get(path)
            return found is not None and found.sha256 == sha256 and _same(found.parts, held[path])

        return tuple(path for path, file in self.state.files.items() if not is_whole(path, file.sha256))

    def has_rows_of(self, damaged: Sequence[str]) -> bool:
        """Whether rows of these files lie in others as well."""
        held = self.state.parts_by_file() if damaged else {}
        lost = {part.path for path in damaged for part in held[path]}
        return any(part.path in lost for carrier in self.carriers for part in carrier.parts)


def _same(parts: Iterable[Manifest], others: Iterable[Manifest]) -> bool:
    """Whether a file says of itself what the log says of it."""
    one, other = (sorted(each, key=lambda part: part.path) for each in (parts, others))
    return one == other


def gather(storage: Storage, log: CommitLog) -> Gathered:
    """Read every file of rows, to the last bit, and all commits that can be read beyond where `log` ends.

    Raises:
        StoreError: a file cannot be read.
    """
    state = log.state
    commits = list(_commits_beyond(storage, log))
    adds = [part for commit in commits for part in commit.add]
    merges = {file.path: file for commit in commits for file in commit.merged}
    for commit in commits:
        if commit.rebuilt is not None:
            adds += commit.rebuilt.parts
            merges |= {file.path: file for file in commit.rebuilt.merged}
    known = {**{part.path: part for part in adds}, **state.live}
    held = state.parts_by_file()
    read: dict[str, tuple[ExaminedFile, int, str]] = {}
    for name in part_names(storage):
        data = storage.read(name) or b""
        found = examined(data)
        is_new = found.note is not None and found.note.part is not None and name not in state.files
        if is_new and check_rows(data, found.parts) is not None:
            found = ExaminedFile("damaged")
        read[name] = (found, len(data), digest_of(data))
    notes = [found.note for found, _, _ in read.values() if found.note is not None]
    first = next((commit.nonce for commit in commits if commit.seq == 1), "")
    said = Counter(note.study for note in notes).most_common(1)
    study = state.study or first or (said[0][0] if said else "")
    carriers: list[Carrier] = []
    for name, (found, size_bytes, sha256) in read.items():
        parts = _parts_of(name, found, sha256, study, state, held, known, merges)
        if parts:
            plan = None if found.note is None else found.note.plan
            carriers.append(Carrier(name, size_bytes, sha256, parts, plan))
    for part in (part for carrier in carriers for part in carrier.parts):
        known.setdefault(part.path, part)
    whole = {carrier.name for carrier in carriers}
    plans = [(commit.seq, commit.plan) for commit in commits if commit.plan is not None]
    plans += [
        (commit.seq, commit.rebuilt.plan)
        for commit in commits
        if commit.rebuilt is not None and commit.rebuilt.plan is not None
    ]
    if state.plan is not None:
        plans.append((state.seq, state.plan))
    return Gathered(
        state=state,
        study=study,
        carriers=tuple(carriers),
        named=_named(commits, known, merges),
        known=known,
        plans=plans,
        unknown={name: found.status for name, (found, _, _) in read.items() if name not in whole},
        seqs=(*(note.seq for note in notes if note.study == study), *map(epoch_of, read)),
    )


def _named(
    commits: Sequence[Commit], known: Mapping[str, Manifest], merges: Mapping[str, MergedFile]
) -> tuple[Manifest, ...]:
    """The parts that these commits acknowledge and do not drop, in their order."""
    named: dict[str, Manifest] = {}
    for commit in commits:
        if commit.rebuilt is not None:
            named = {part.path: part for part in commit.rebuilt.parts}
        named |= {part.path: part for part in commit.add}
        for part in _expanded(commit.drop, known, merges):
            named.pop(part.path, None)
    return tuple(named.values())


def _commits_beyond(storage: Storage, log: CommitLog) -> Iterator[Commit]:
    """The commits after where the log is broken, as far as they can be read."""
    for seq in log.numbers():
        data = storage.read(commit_name(seq)) if seq > log.state.seq else None
        if data is not None:
            with contextlib.suppress(StoreError):
                yield Commit.from_json(data, seq)


def _parts_of(
    name: str,
    found: ExaminedFile,
    sha256: str,
    study: str,
    state: State,
    held: Mapping[str, tuple[Manifest, ...]],
    known: Mapping[str, Manifest],
    merges: Mapping[str, MergedFile],
) -> tuple[Manifest, ...]:
    """The parts whose rows a file holds; none where nobody knows, or it is not what those say."""
    note = found.note
    if note is not None:
        file = note.part or note.merged
        is_own = note.study == study and file is not None and file.path == name
        return found.parts if is_own else ()
    if name in state.files:
        return held[name] if state.files[name].sha256 == sha256 else ()
    if name in known:
        return (known[name],) if known[name].sha256 == sha256 else ()
    if name in merges and merges[name].sha256 == sha256:
        return tuple(_expanded(merges[name].of, known, merges))
    return ()


def _expanded(
    paths: Iterable[str], known: Mapping[str, Manifest], merges: Mapping[str, MergedFile]
) -> Iterator[Manifest]:
    """The parts that files were made of, at last."""
    for path in paths:
        if path in known:
            yield known[path]
        elif path in merges:
            yield from _expanded(merges[path].of, known, merges)


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
