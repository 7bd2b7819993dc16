"""What a cell would change, to first order, from clean runs and their gradients.

Attribution patching (Nanda 2023; Syed, Rager and Conmy 2023, arXiv 2310.10348): with m the answer of the
base run, a what it holds at a unit's place and a' what the unit would make of it,

    m(after) - m(before)  ≈  Σ_units Σ (a' - a) · ∂m/∂a

over the unit's tokens and columns. Every a' is made of clean values; units at one place see and override
each other as they do in a run.

Shapes: B pairs, T tokens, P positions of a tap, W width; N changed points (pair, position), C columns.
"""

__all__ = ["BaselineRun", "Estimator"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.change.jobs import located, zipped
from workers.change.operations import put
from workers.change.ready import FIT, CompiledCell, CompiledUnit
from workers.engine.traces import Trace
from workers.errors import RunError, SwapyardError
from workers.model.hooks import Tap
from workers.model.layout import Target
from workers.model.windows import positions_at
from workers.vocabulary import Pair

_Index = tuple[Tensor, Tensor]
"""Which row [N] and which position [N] of values [B, P, W]."""


@dataclass(frozen=True, slots=True)
class BaselineRun:
    """The clean runs of one name: what they hold, and which row is each pair's."""

    trace: Trace
    rows: Sequence[int]
    """Of each pair; pairs share the run of a prompt that they share."""


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    """What a unit changes in all pairs."""

    base: _Index
    origin: _Index | None
    """Where the values lie; None for values that are taken from no run."""
    pool: Tensor | None
    """[M]: the pair of each of the origin's M points, whose mean is taken."""
    failed: Mapping[int, SwapyardError]
    """The pairs of which none of this holds."""


class Estimator:
    """Estimates cells on the pairs whose clean runs are at hand.

    Args:
        pairs: of one class.
        runs: the clean runs by name; ``base`` with gradients, a row for each pair.
    """

    def __init__(self, pairs: Sequence[Pair], runs: Mapping[str, BaselineRun]) -> None:
        self._pairs = pairs
        self._runs = runs
        self._base = runs["base"].trace
        self._points: dict[tuple[object, ...], _Points] = {}
        self._device = next(iter(self._base.values.values())).device if self._base.values else None

    def estimate(self, cell: CompiledCell) -> tuple[Tensor, dict[int, SwapyardError]]:
        """The change [B] of each pair's answer, and the pairs of which it cannot be told.

        Raises:
            SwapyardError: it can be told of none.
        """
        taps = [_place(unit).tap for unit in cell.units]
        total: Tensor | None = None
        changed: dict[Tap, Tensor] = {}
        failed: dict[int, SwapyardError] = {}
        for unit, tap in zip(cell.units, taps, strict=True):
            values = self._base.at(tap)
            points = self._points_of(unit, values)
            failed.update(points.failed)
            old, new = self._change(unit, changed.get(tap, values), points)
            if taps.count(tap) > 1:
                changed[tap] = changed.get(tap, values).index_put(points.base, new)
                continue
            # What a unit leaves as it is adds nothing: whole rows are simpler than columns.
            terms = ((new - old).float() * self._base.gradients[tap][points.base]).sum(-1)
            total = _added(total, terms, points.base[0], len(self._pairs))
        for tap, new in changed.items():
            terms = ((new - self._base.at(tap)).float() * self._base.gradients[tap]).sum((1, 2))
            total = terms if total is None else total + terms
        assert total is not None
        return total, failed

    def _change(self, unit: CompiledUnit, values: Tensor, points: _Points) -> tuple[Tensor, Tensor]:
        """The rows [N, W] of `values` that the unit changes, and what it makes of them."""
        rows = values[points.base]
        columns = _place(unit).columns(rows.shape[-1], rows.device)
        old = rows[:, columns]
        return rows, put(rows, columns, unit.step.exchanged(old, self._other(unit, old, points)))

    def _other(self, unit: CompiledUnit, old: Tensor, points: _Points) -> Tensor:
        """The values [N, C] that the unit writes, or changes `old` by."""
        if points.origin is None:
            if unit.vector is None:
                return torch.zeros_like(old)
            rows = unit.vector.expand(len(old), -1) if len(unit.vector) == 1 else unit.vector[points.base[1]]
            return rows.to(old.dtype)
        origin = unit.step.origin
        assert isinstance(origin, Target)
        rows = self._runs[unit.unit.run].trace.at(origin.tap)[points.origin]
        if points.pool is not None:
            rows = _means(rows, points.pool, len(self._pairs))[points.base[0]]
        return rows[:, origin.columns(rows.shape[-1], rows.device)]

    def _points_of(self, unit: CompiledUnit, values: Tensor) -> _Points:
        """The points of a unit at a place with these `values` [B, P, W].

        Raises:
            SwapyardError: the unit has none in any pair.
        """
        origin, tap = unit.unit.origin, _place(unit).tap
        there = None
        # Where the pairs have no such run, each of them says so.
        if origin is not None and unit.unit.run in self._runs:
            assert isinstance(unit.step.origin, Target)
            there = self._runs[unit.unit.run].trace.at(unit.step.origin.tap).shape[1]
        most = None if unit.vector is None or len(unit.vector) == 1 else len(unit.vector)
        position = None if origin is None else origin.position
        key = (unit.unit.place.position, unit.unit.run, position, values.shape[1], there, most)
        if key not in self._points:
            self._points[key] = self._located(unit, tap, values.shape[1], there, most)
        found = self._points[key]
        if len(found.failed) == len(self._pairs):
            raise next(iter(found.failed.values()))
        return found

    def _located(
        self, unit: CompiledUnit, tap: Tap, width: int, there: int | None, most: int | None
    ) -> _Points:
        base: list[tuple[int, int]] = []
        origin: list[tuple[int, int]] = []
        pool: list[int] = []
        failed: dict[int, SwapyardError] = {}
        for number, pair in enumerate(self._pairs):
            try:
                tokens, origins = _tokens(unit, pair)
                here = positions_at(tokens, len(pair.tokens["base"]), width, tap)
                _check_vector(unit, here, most)
                if there is not None:
                    assert isinstance(unit.step.origin, Target)
                    num_tokens = len(pair.tokens[unit.unit.run])
                    origins = positions_at(origins, num_tokens, there, unit.step.origin.tap)
            except SwapyardError as error:
                failed[number] = error
                continue
            base += [(number, at) for at in here]
            if there is not None:
                row = self._runs[unit.unit.run].rows[number]
                origin += [(row, at) for at in origins]
                pool += [number] * len(origins)
        return _Points(
            base=self._index(base),
            origin=None if there is None else self._index(origin),
            pool=torch.tensor(pool, device=self._device) if unit.step.is_pooled else None,
            failed=failed,
        )

    def _index(self, points: Sequence[tuple[int, int]]) -> _Index:
        numbers = torch.tensor(points, device=self._device, dtype=torch.long).reshape(-1, 2)
        return numbers[:, 0], numbers[:, 1]


def _tokens(unit: CompiledUnit, pair: Pair) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of the pair's base that the unit changes, and those that it takes values from."""
    place, origin = unit.unit.place, unit.unit.origin
    tokens = located(place.position, pair, "base")
    if origin is None:
        return tuple(dict.fromkeys(tokens)), ()
    origins = located(origin.position, pair, unit.unit.run)
    if unit.step.is_pooled:
        return tuple(dict.fromkeys(tokens)), origins
    return zipped(tokens, origins, unit.unit.run)


def _check_vector(unit: CompiledUnit, tokens: Sequence[int], most: int | None) -> None:
    """A fit with a vector for each token has one for these."""
    if unit.unit.run == FIT and most is not None and max(tokens) >= most:
        raise RunError(
            f"the fit {unit.unit.value_fit} has a value for {most} tokens, none for token {max(tokens)}"
        )


def _place(unit: CompiledUnit) -> Target:
    place = unit.step.place
    assert isinstance(place, Target)
    return place


def _means(rows: Tensor, groups: Tensor, count: int) -> Tensor:
    """The mean row of each group [count, W] of `rows` [M, W]."""
    sums = torch.zeros(count, rows.shape[-1], device=rows.device).index_add(0, groups, rows.float())
    sizes = torch.bincount(groups, minlength=count).clamp_min(1)
    return (sums / sizes[:, None]).to(rows.dtype)


def _added(total: Tensor | None, terms: Tensor, pairs: Tensor, count: int) -> Tensor:
    total = torch.zeros(count, device=terms.device) if total is None else total
    return total.index_add(0, pairs, terms)
