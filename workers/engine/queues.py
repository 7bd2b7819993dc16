"""Queues of jobs that wait for a forward: sorted by where they resume, handed out in packs of a good size.

A job resumes at the first block and the first token that it changes or reads.
"""

__all__ = [
    "Pack",
    "PackKind",
    "QueuedJob",
    "Queues",
    "changes_at",
    "changes_from",
    "first_block",
    "first_token",
    "is_token_local",
    "moved",
]

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from workers.engine.batch_size import BatchSizer
from workers.intervene.compile import NOISE, CompiledCell, CompiledUnit
from workers.intervene.jobs import Change, Job
from workers.intervene.operations import COLLECT, SKIP
from workers.intervene.regions import Region
from workers.model.hooks import Tap
from workers.model.layout import Target
from workers.model.resume import Resume


def first_block(cell: CompiledCell, resume: Resume) -> int | None:
    """The first block that the cell changes; None where it changes a region, or what is in no block."""
    if any(isinstance(ready.step.place, Region) for ready in cell.units):
        return None
    blocks = [resume.block_of.get(ready.step.place.tap.module) for ready in cell.units]
    known = [block for block in blocks if block is not None]
    return min(known, default=resume.num_blocks - 1) if len(known) == len(blocks) else None


def first_token(job: Job) -> int:
    """The first token that the job changes or reads."""
    return min([job.read, *(token for change in job.changes for token in change.tokens)])


def changes_at(job: Job, block: int, resume: Resume) -> tuple[Change, ...]:
    """The changes inside a block, in their order."""
    return tuple(one for one in job.changes if resume.block_of.get(one.step.place.tap.module) == block)


def changes_from(job: Job, block: int, resume: Resume) -> tuple[Change, ...]:
    """The changes from a block on, in their order; of a job that changes nothing outside the blocks."""
    return tuple(one for one in job.changes if resume.block_of[one.step.place.tap.module] >= block)


def is_token_local(job: Job, block: int, first: int, resume: Resume) -> bool:
    """Whether all that the job changes in its first block stays with the one token that it begins at.

    That token can then go through the block alone. Not the jobs that collect, whose units count by number.
    """
    return block + 1 < resume.num_blocks and all(
        change.step.operation != COLLECT
        and (resume.block_of[change.step.place.tap.module] > block or _stays(change, first, resume))
        for change in job.changes
    )


def _stays(change: Change, token: int, resume: Resume) -> bool:
    place = change.step.place
    return (
        isinstance(place, Target) and place.tap.unscaled in resume.token_local and change.tokens == (token,)
    )


def moved(cell: CompiledCell, resume: Resume) -> CompiledCell:
    """Cell whose changes of a block's output are made at the next block's input.

    The two are one tensor, and the job then begins a block later. Not where it would show: noise is drawn by
    place, and units at both places would change their order.
    """
    if not resume.is_chain:
        return cell
    there = {tap: resume.block_of[tap.module] for tap in _outputs(cell.units, resume)}
    taken = {ready.step.place.tap for ready in cell.units}
    free = {
        tap: resume.input_of(block + 1)
        for tap, block in there.items()
        if block + 1 < resume.num_blocks
        and resume.input_of(block + 1) not in taken
        and all(_can_move(ready) for ready in cell.units if ready.step.place.tap == tap)
    }
    if not free:
        return cell
    return replace(cell, units=tuple(_aimed(ready, free.get(ready.step.place.tap)) for ready in cell.units))


def _outputs(units: Iterable[CompiledUnit], resume: Resume) -> set[Tap]:
    """The taps of the units that are what a whole block returns."""
    taps = {ready.step.place.tap for ready in units}
    return {
        tap
        for tap in taps
        if tap.side == "output" and tap.module == resume.input_of(resume.block_of.get(tap.module, -1)).module
    }


def _can_move(ready: CompiledUnit) -> bool:
    if not isinstance(ready.step.place, Target):
        return False
    return ready.unit.run != NOISE and ready.step.operation != SKIP


def _aimed(ready: CompiledUnit, tap: Tap | None) -> CompiledUnit:
    if tap is None:
        return ready
    place = ready.step.place
    assert isinstance(place, Target)
    return replace(ready, step=replace(ready.step, place=replace(place, tap=tap)))


_MOST_WAITING = 1 << 14
"""Most jobs that wait, each of about a thousand bytes."""


@dataclass(frozen=True, slots=True)
class PackKind:
    """Kind of forward that jobs share: the token that it begins at, and whether it is resumed."""

    first: int = 0
    """Token that they run from."""
    is_resumed: bool = False
    block: int | None = None
    """Block that all begin at, for models where rows cannot begin at different ones."""


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """Job that waits for a forward."""

    job: Job
    start: int
    """First block that its forward computes, 0 where it runs whole; where it is token-local, that block runs
    for its one token alone, and from the next block on all tokens do."""
    cost: float
    """Cost in runs of one block over one token."""
    is_token_local: bool = False
    """Whether all that it changes in that block stays with its first token."""
    is_rerun: bool = False
    """Whether its resumed run failed before."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Jobs for one forward, in the order of the blocks that they begin at."""

    kind: PackKind
    jobs: list[QueuedJob]
    is_full: bool
    """Whether there are as many as the pacer asked for."""


@dataclass(slots=True)
class Queues:
    """The jobs of one call that still wait.

    Args:
        pacer: how many rows a forward has.
        num_tokens: T, of the bases.
        resume: how forwards begin in the middle; None where none do.
    """

    pacer: BatchSizer
    num_tokens: int
    resume: Resume | None
    cost: float = 0.0
    """Cost of all that wait, in runs of one block over one token (of whole runs, where no job is resumed)."""
    _queues: dict[PackKind, list[QueuedJob]] = field(default_factory=dict)

    def add(self, job: Job, block: int | None, first: int) -> None:
        """Add a job that begins at `block` and token `first`; that runs whole where `block` is None."""
        num_tokens = self.num_tokens - first
        if self.resume is None or block is None:
            self._put(PackKind(), QueuedJob(job, 0, self._whole_cost))
        else:
            # A run of one token has nothing to gain.
            token_local = num_tokens > 1 and is_token_local(job, block, first, self.resume)
            cost = self.resume.cost(block + token_local, num_tokens) + token_local
            kind = PackKind(first, is_resumed=True, block=None if self.resume.grows else block)
            self._put(kind, QueuedJob(job, block, cost, token_local))

    def again(self, waiting: QueuedJob) -> None:
        """Add a job whose resumed run failed: it runs whole, which says why."""
        self._put(PackKind(), QueuedJob(waiting.job, 0, self._whole_cost, is_rerun=True))

    def full(self) -> Iterator[Pack]:
        """Packs as large as forwards should be; all that waits, where that is too much to hold."""
        if sum(map(len, self._queues.values())) > _MOST_WAITING:
            yield from self.rest()
        for kind in list(self._queues):
            while len(self._queues[kind]) >= (size := self._size(kind)):
                yield self._take(kind, size)

    def rest(self) -> Iterator[Pack]:
        """All that waits, resumed jobs first: what fails there joins those that run whole."""
        for is_resumed in (True, False):
            for kind in [kind for kind in self._queues if kind.is_resumed == is_resumed]:
                while self._queues[kind]:
                    yield self._take(kind, self._size(kind))

    @property
    def _whole_cost(self) -> float:
        return 1.0 if self.resume is None else self.resume.cost(0, self.num_tokens)

    def _put(self, kind: PackKind, waiting: QueuedJob) -> None:
        self._queues.setdefault(kind, []).append(waiting)
        self.cost += waiting.cost

    def _size(self, kind: PackKind) -> int:
        return self.pacer.rows(self.num_tokens - kind.first, resumed=kind.is_resumed)

    def _take(self, kind: PackKind, size: int) -> Pack:
        queue = self._queues[kind]
        taken, self._queues[kind] = queue[:size], queue[size:]
        self.cost -= sum(waiting.cost for waiting in taken)
        return Pack(kind, sorted(taken, key=lambda waiting: waiting.start), len(taken) == size)
