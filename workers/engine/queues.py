"""Jobs waiting for a forward: sorted by what they have to share, and handed out in packs of a good size."""

__all__ = ["Pack", "PackKind", "QueuedJob", "Queues"]

from collections.abc import Iterator
from dataclasses import dataclass, field

from workers.change.jobs import Job
from workers.engine.pacing import BatchSizer
from workers.replay.resume import Resume
from workers.replay.start import is_confined

_MOST_WAITING = 1 << 14
"""Jobs, each of about a thousand bytes."""


@dataclass(frozen=True, slots=True)
class PackKind:
    """What the jobs of a forward have in common."""

    first: int = 0
    """The token that they run from."""
    is_resumed: bool = False
    block: int | None = None
    """The block that all begin at, for models whose forwards do not grow."""


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job that waits."""

    job: Job
    start: int
    """The block that it begins at, or the one before it where it goes ahead; 0 where it runs whole."""
    cost: float
    """In runs of one block over one token."""
    is_confined: bool = False
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
    """Of all that wait, in runs of one block over one token (of whole runs, where no job is resumed)."""
    _queues: dict[PackKind, list[QueuedJob]] = field(default_factory=dict)

    def add(self, job: Job, block: int | None, first: int) -> None:
        """A job that begins at `block` and token `first`; that runs whole where `block` is None."""
        num_tokens = self.num_tokens - first
        if self.resume is None or block is None:
            self._put(PackKind(), QueuedJob(job, 0, self._whole_cost))
        else:
            # A run of one token has nothing to gain.
            confined = num_tokens > 1 and is_confined(job, block, first, self.resume)
            cost = self.resume.cost(block + confined, num_tokens) + confined
            kind = PackKind(first, is_resumed=True, block=None if self.resume.grows else block)
            self._put(kind, QueuedJob(job, block, cost, confined))

    def again(self, waiting: QueuedJob) -> None:
        """A job whose resumed run failed: it runs whole, which says why."""
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
