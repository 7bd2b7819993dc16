"""Inputs and pairs drawn for a causal model: from a seed, evenly over values, filtered, split by input.

Shapes: N examples drawn.
"""

__all__ = ["SPLITS", "Sampler"]

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.causal.model import CausalModel, Values
from workers.errors import StudyError

SPLITS = ("train", "test")

_CHUNK = 8192
"""Examples that are drawn at once: fixed, so that asking for more only adds to what there was."""
_MOST_FRUITLESS = 500
"""Chunks in a row that may add nothing before a sampler gives up."""
_MOST_WAITING = 256
"""Rounds that examples may be ahead of the rarest combination of values."""
_TEST_BITS = 2**53

Where = Callable[..., object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Draws inputs of a causal model, alone or in pairs. The same arguments draw the same, everywhere.

    An input belongs to ``train`` or to ``test`` by a hash of its values and `split_seed` alone, so the two
    never share one, whatever is drawn, with whichever seed.

    Raises:
        StudyError: an argument that cannot be.
    """

    model: CausalModel
    seed: int
    balance: Sequence[str] = ()
    """Variables whose combinations of values come equally often. Of pairs the bases are balanced exactly, and
    the sources on average, before `where` chooses; within a combination every input is equally likely."""
    where: Where | None = None
    """Filter of examples: a function of the values of all variables by name, in the base and in each source,
    that says true or false for each."""
    split: str | None = None
    """``train`` or ``test``; None draws from both."""
    test_share: float = 0.2
    """Share of the inputs that is in ``test``."""
    split_seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in (None, *SPLITS):
            raise StudyError(f"split {self.split!r}; splits are {' and '.join(SPLITS)}")
        if not 0 < self.test_share < 1:
            raise StudyError(f"test_share {self.test_share!r}; give a number between 0 and 1")
        for name in self.balance:
            self.model.domain(name)

    def inputs(self, num: int) -> Values:
        """`num` inputs: the values [N] of each; they may repeat."""
        return self.pairs(num, num_sources=0)[0]

    def pairs(self, num: int, *, num_sources: int = 1) -> list[Values]:
        """`num` bases with their sources: for each run the values [N] of the inputs.

        Raises:
            StudyError: `where` or the split lets nothing pass, or a combination to balance never occurs.
        """
        found: list[list[Values]] = []
        num_found = 0
        for chunk in self.chunks(num_sources):
            found.append(chunk)
            num_found += len(chunk[0][self.model.inputs[0]])
            if num_found >= num:
                break
        return [
            {name: np.concatenate([runs[at][name] for runs in found])[:num] for name in self.model.inputs}
            for at in range(1 + num_sources)
        ]

    def chunks(self, num_sources: int = 1) -> Iterator[list[Values]]:
        """Pairs without end, many at a time; see `pairs`."""
        stream = np.random.PCG64(self.seed)
        source = _Drawn(self.model, tuple(self.balance))
        fruitless = 0
        waiting = [np.empty((0, len(self.model.inputs)), np.int64)] * (1 + num_sources)
        while True:
            drawn = self._passing([self._own(source.draw(stream, _CHUNK)) for _ in waiting])
            waiting = [np.concatenate(both) for both in zip(waiting, drawn, strict=True)]
            rounds, num_whole = self._rounds(waiting[0], source)
            ready = np.flatnonzero(rounds < num_whole)
            ready = ready[np.argsort(rounds[ready], kind="stable")]
            if len(ready):
                yield [dict(zip(self.model.inputs, runs[ready].T, strict=True)) for runs in waiting]
            # What is far ahead of the rarest would only pile up.
            later = (rounds >= num_whole) & (rounds < num_whole + _MOST_WAITING)
            waiting = [runs[later] for runs in waiting]
            fruitless = 0 if len(ready) else fruitless + 1
            if fruitless == _MOST_FRUITLESS:
                raise StudyError(self._gave_up(waiting[0], source))

    def in_test(self, inputs: object) -> NDArray[np.bool_]:
        """Whether each of the inputs [..., I] belongs to ``test``."""
        mixed = _mixed(np.uint64(self.split_seed % 2**64))
        for at in range(len(self.model.inputs)):
            mixed = _mixed(mixed ^ np.asarray(inputs)[..., at].astype(np.int64).view(np.uint64))
        return np.asarray((mixed >> np.uint64(11)) < np.uint64(round(self.test_share * _TEST_BITS)))

    def _own(self, inputs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Inputs of the split."""
        return inputs if self.split is None else inputs[self.in_test(inputs) == (self.split == "test")]

    def _passing(self, runs: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """As many examples as every run has an input for, without those that `where` drops."""
        num = min(map(len, runs))
        paired = [inputs[:num] for inputs in runs]
        if self.where is None:
            return paired
        passed = np.asarray(self.where(*(self.model.run(inputs) for inputs in paired)), np.bool_)
        if passed.shape not in ((num,), ()):
            raise StudyError(f"where returned {list(passed.shape)}; return true or false for each example")
        return [inputs[np.broadcast_to(passed, (num,))] for inputs in paired]

    def _rounds(self, bases: NDArray[np.int64], source: "_Drawn") -> tuple[NDArray[np.int64], int]:
        """The round of each base, and how many are whole; a round has each combination of values once."""
        if not self.balance:
            return np.zeros(len(bases), np.int64), 1
        classes = source.classes_of(bases)
        order = np.argsort(classes, kind="stable")
        counts = np.bincount(classes, minlength=source.num_classes)
        rounds = np.empty(len(bases), np.int64)
        rounds[order] = np.arange(len(bases)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rounds, int(counts.min())

    def _gave_up(self, bases: NDArray[np.int64], source: "_Drawn") -> str:
        tried = f"in {_MOST_FRUITLESS * _CHUNK:,} draws"
        if not len(bases):
            split = "" if self.split is None else f" of the split {self.split!r} (try another split_seed)"
            return f"no example{split} passes {tried}; choose less narrowly"
        counts = np.bincount(source.classes_of(bases), minlength=source.num_classes)
        lacking = dict(zip(self.balance, source.values[int(counts.argmin())].tolist(), strict=True))
        return f"too few examples have {lacking} {tried}; balance fewer variables, or choose less narrowly"


class _Drawn:
    """Inputs evenly over the combinations of values of `targets`; over all inputs where there are none."""

    def __init__(self, model: CausalModel, targets: tuple[str, ...]) -> None:
        self._model = model
        self._targets = targets
        self._tables = _Tables(model)
        if targets:
            self._top = self._tables.of(targets)
            self.values = self._top.values
            """The combinations, in order."""
            self.num_classes = len(self.values)

    def draw(self, stream: np.random.PCG64, num: int) -> NDArray[np.int64]:
        """[num, I]."""
        found: dict[str, NDArray[np.int64]] = {}
        if self._targets:
            chosen = _below(stream, num, self.num_classes)
            self._fill(stream, self._top, chosen, found)
        for name in self._model.inputs:
            if name not in found:
                domain = self._model.domain(name)
                found[name] = domain[_below(stream, num, len(domain))]
        return np.stack([found[name] for name in self._model.inputs], -1)

    def classes_of(self, inputs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Combination of values of each input [N, I]: its row in `values`."""
        ran = self._model.run(inputs)
        return self._top.numbers(np.stack([ran[name] for name in self._targets], -1))

    def _fill(
        self, stream: np.random.PCG64, table: "_Table", chosen: NDArray[np.int64], into: dict[str, Any]
    ) -> None:
        """Draw the variables of a table so that its value is the chosen one, and then what they come from."""
        rows = table.draw(stream, chosen)
        for name in table.names:
            values = table.rows[name][rows]
            if name in self._model.inputs:
                into[name] = values
            else:
                below = self._tables.of((name,))
                self._fill(stream, below, below.numbers(values[:, None]), into)


class _Table:
    """Values that independent variables make of `targets`: each combination of their values, and how many
    inputs there are of it."""

    def __init__(self, rows: Values, made: NDArray[np.int64], counts: NDArray[np.float64]) -> None:
        self.names = tuple(rows)
        self.rows = rows
        occurs = counts > 0
        self.values, classes = np.unique(made[occurs], axis=0, return_inverse=True)
        """[K, targets] the combinations of values that occur, in order."""
        self._order = np.flatnonzero(occurs)[np.argsort(classes.ravel(), kind="stable")]
        self._ends = np.cumsum(counts[self._order])
        self._last = np.cumsum(np.bincount(classes.ravel())) - 1
        self._starts = np.concatenate([[0.0], self._ends[self._last][:-1]])
        self.counts = self._ends[self._last] - self._starts
        """[K] how many inputs have each."""

    def numbers(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of `values` that each of [N, targets] is."""
        keys, radix = np.zeros(len(self.values), np.int64), np.zeros(len(values), np.int64)
        for at in range(self.values.shape[1]):
            known, ours = np.unique(self.values[:, at], return_inverse=True)
            keys = keys * len(known) + ours.ravel()
            radix = radix * len(known) + np.searchsorted(known, values[:, at])
        return np.searchsorted(keys, radix)

    def draw(self, stream: np.random.PCG64, chosen: NDArray[np.int64]) -> NDArray[np.intp]:
        """For each value a row that makes it; all inputs of a value are equally likely."""
        at = self._starts[chosen] + _unit(stream, len(chosen)) * self.counts[chosen]
        found = np.minimum(np.searchsorted(self._ends, at, side="right"), self._last[chosen])
        return np.asarray(self._order[found])


class _Tables:
    """Tables of a model's variables, each made once."""

    def __init__(self, model: CausalModel) -> None:
        self._model = model
        self._made: dict[tuple[str, ...], _Table] = {}

    def of(self, targets: tuple[str, ...]) -> _Table:
        """The table of `targets` over variables that share no input.

        These are their parents, or several targets themselves, where they share none; else the inputs.
        """
        if targets not in self._made:
            self._made[targets] = self._make(targets)
        return self._made[targets]

    def _make(self, targets: tuple[str, ...]) -> _Table:
        model = self._model
        names = (model.parents[targets[0]] or targets) if len(targets) == 1 else targets
        ancestors = [model.ancestors(name) for name in names]
        used = frozenset[str]().union(*ancestors)
        if len(used) < sum(map(len, ancestors)):
            names = tuple(name for name in model.inputs if name in used)
        rows = model.all_inputs(names)
        if set(names) <= set(model.inputs):
            ran = model.run({**{name: model.domain(name)[0] for name in model.inputs}, **rows})
            made = np.stack([ran[name] for name in targets], -1)
        elif names == targets:
            made = np.stack([rows[name] for name in names], -1)
        else:
            made = model.compute(targets[0], *(rows[name] for name in names))[:, None]
        return _Table(rows, made, np.prod([self._counts(name, rows[name]) for name in names], axis=0))

    def _counts(self, name: str, values: NDArray[np.int64]) -> NDArray[np.float64]:
        """Number of values of the inputs that give the variable each of `values`."""
        if name in self._model.inputs:
            return np.ones(len(values))
        table = self.of((name,))
        known = table.values[:, 0]
        at = np.searchsorted(known, values).clip(max=len(known) - 1)
        return np.where(known[at] == values, table.counts[at], 0.0)


def _unit(stream: np.random.PCG64, num: int) -> NDArray[np.float64]:
    """[num] numbers in [0, 1). Bits and not numpy's own: those may change with its version."""
    bits = stream.random_raw(num)
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53)


def _below(stream: np.random.PCG64, num: int, size: int) -> NDArray[np.int64]:
    """[num] whole numbers from 0 below `size`."""
    return (_unit(stream, num) * size).astype(np.int64)


def _mixed(bits: Any) -> Any:
    """Bits that no pattern is left in (SplitMix64's last step: Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        bits = bits + np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
