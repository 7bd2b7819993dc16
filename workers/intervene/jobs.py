"""Jobs: one intervened run of one pair, as changes of activations and the runs that these take values from.

Shapes: N changed points, C columns of a place.
"""

__all__ = ["Change", "Job", "PriorRun", "RunKey", "Step", "located", "read_of", "source_read", "zipped"]

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from workers.errors import RunError, StudyError
from workers.intervene.operations import Operation, exchange
from workers.intervene.regions import Region
from workers.intervene.subspaces import Coordinated, coordinates_of
from workers.intervene.values import Value
from workers.model.hooks import Tap
from workers.model.layout import Target
from workers.vocabulary import Pair, locate, read_in


@dataclass(frozen=True, slots=True)
class Step:
    """Intervention of a unit in a model, whichever tokens and runs it is done with."""

    place: Target | Region
    operation: Operation
    origin: Target | Region | None
    """Place in its run that the value is taken from; None for values that are taken from no run."""
    is_pooled: bool = False
    """Whether the mean over the origin's tokens goes to each of the place's."""
    subspace: Coordinated | None = None
    """Coordinates, of each head where heads are named; None for the dimensions as they are."""

    @property
    def kept(self) -> Tap | Region | None:
        """Tap or region to cache of the run that the value is taken from; None without such a run."""
        return self.origin.tap if isinstance(self.origin, Target) else self.origin

    @property
    def calls_functions(self) -> bool:
        """Whether an operation, or a getter and a setter, is called that may fail of one row's values."""
        return callable(self.operation) or isinstance(self.place, Region)

    def exchanged(self, old: Tensor, other: Tensor) -> Tensor:
        """`old` [N, …, C] changed by `other` [N, …, C]: the operation, in the subspace of each head.

        Raises:
            RunError: the values do not fit.
        """
        if self.subspace is None:
            return exchange(None, self.operation, old, other)
        new = exchange(self.subspace, self.operation, self._by_head(old), self._by_head(other))
        return new.reshape(old.shape)

    def seen(self, old: Tensor) -> Tensor:
        """Values that a collection hands out: `old` [N, …, C], or its coordinates, head after head."""
        if self.subspace is None:
            return old
        return coordinates_of(self.subspace, self._by_head(old)).reshape(*old.shape[:-1], -1)

    def _by_head(self, values: Tensor) -> Tensor:
        """[N, …, C] as rows of one head's width."""
        heads = self.place.heads if isinstance(self.place, Target) else None
        return values.reshape(-1, values.shape[-1] // len(heads or (0,)))


@dataclass(frozen=True, slots=True)
class Change:
    """A step on one example."""

    step: Step
    tokens: tuple[int, ...]
    """Tokens of the base, each at most once; none at a region."""
    value: Value
    """Value that is written, for each of `tokens`."""


@dataclass(frozen=True, slots=True)
class RunKey:
    """Key of a named intervened run on one pair: values that are taken from the run name it by this."""

    number: int
    """Number of the run and all that come before it: runs with one number change a pair alike."""
    pair: int
    """Index of the pair in the batch."""


@dataclass(frozen=True, slots=True)
class PriorRun:
    """An intervened run of the job's base that comes before the job."""

    key: RunKey
    changes: tuple[Change, ...]
    """Changes in the order in which they apply; they may take values from priors before this one."""


@dataclass(frozen=True, slots=True)
class Job:
    """One cell on one pair, ready to run."""

    row: int
    """Row of the results that its scores go to."""
    pair: int
    """Index of the pair in the batch."""
    read: int
    """Token of the base whose next-token logits are read."""
    source_read: int | None
    """Token of the first source that corresponds to `read`; None where there is none."""
    changes: tuple[Change, ...]
    """Changes in the order in which they apply."""
    priors: tuple[PriorRun, ...] = ()
    """Intervened runs in the order in which they run."""


def zipped(
    tokens: Sequence[int], origin_tokens: Sequence[int], run: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens of the base and of `run`, pair by pair; a base token named twice takes its last value.

    Raises:
        RunError: there are not as many of each.
    """
    if len(tokens) != len(origin_tokens):
        raise RunError(
            f"{len(origin_tokens)} tokens of {run} cannot change {len(tokens)} of the base: "
            "name as many of each, or one pooled span"
        )
    # As a later unit overrides an earlier one.
    last = dict(zip(tokens, origin_tokens, strict=True))
    return tuple(last), tuple(last.values())


def located(position: tuple[int | str, ...], pair: Pair, run: str) -> tuple[int, ...]:
    """Token indices in a run of the pair, all of which exist.

    Raises:
        RunError, StudyError: the pair has no such run, the run no such span or token.
    """
    if run not in pair.tokens:
        raise RunError(f"pair {pair.pair} has no run {run!r}; it has {', '.join(pair.tokens)}")
    tokens = locate(position, pair.spans.get(run, {}))
    length = len(pair.tokens[run])
    for token in tokens:
        if not 0 <= token < length:
            raise RunError(f"token {token} of {run} in pair {pair.pair}: it has tokens 0 to {length - 1}")
    return tokens


def read_of(read: int | str, pair: Pair) -> int:
    """The one token of the base at which the cell reads.

    Raises:
        RunError, StudyError: the base has no such token, or several.
    """
    tokens = located((read,), pair, "base")
    if len(tokens) != 1:
        raise RunError(f"read {read!r} is {len(tokens)} tokens in pair {pair.pair}; name one, as in 'x.last'")
    return tokens[0]


def source_read(read: int | str, pair: Pair) -> int | None:
    """The token of the first source that answers to the cell's `read`; None where there is none."""
    if "source" not in pair.tokens:
        return None
    try:
        return read_in(pair, "source", read)
    except StudyError:
        return None
