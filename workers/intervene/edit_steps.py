"""Edits at positions and regions: a unit's intervention, done in several rows of a forward at once.

Shapes: B rows, T tokens or steps, P positions of a window, W width of a tap; N changed points (row,
position), n of them in one row, C columns.
"""

__all__ = ["Edit", "ForwardContext", "edit_of"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.errors import RunError
from workers.intervene.jobs import Change, Step
from workers.intervene.operations import COLLECT, SKIP, put
from workers.intervene.regions import Region
from workers.intervene.values import ActivationLookup, Constant, Drawn, FromRun, FromRunByRow, Zero, draw
from workers.model.hooks import Tap
from workers.model.layout import Target
from workers.model.windows import Window, positions_at, window_of


@dataclass(slots=True)
class Collected:
    """Activations that a unit collected in one row, a part for each call of the module."""

    parts: list[tuple[list[int], Tensor]] = field(default_factory=list)

    def whole(self) -> Tensor:
        """[n, C], in the order in which the tokens were named."""
        numbers = [number for part, _ in self.parts for number in part]
        rows = torch.cat([values for _, values in self.parts])
        return rows[sorted(range(len(numbers)), key=numbers.__getitem__)]


@dataclass(slots=True, kw_only=True)
class ForwardContext:
    """State of one forward that its edits share: the rows that run, cached activations, collected ones."""

    num_rows: Callable[[Tap], int]
    """Number of rows that a hook at a tap sees."""
    num_tokens: int | None
    """T, of the whole run."""
    held: ActivationLookup
    first: int = 0
    """The token that the run begins at."""
    given: dict[Tap, Tensor] = field(default_factory=dict)
    """Last inputs of the modules that are skipped."""
    collected: dict[tuple[int, int], Collected] = field(default_factory=dict)
    """Collected activations by number of the unit and row."""

    def window(self, tensor: Tensor, tap: Tap, call: int) -> Window:
        """Window [B, P, W] of the run that a module's tensor shows.

        Raises:
            ModelError: it has none of the forms that show one.
        """
        return window_of(tensor, tap, call, self.num_rows(tap), self.num_tokens, self.first)

    def collect(self, number: int, row: int, numbers: list[int], values: Tensor) -> None:
        """Keep what a unit found in a row: `values` [n, …], of its tokens with these numbers."""
        # A module further on may write into what was seen: only a copy stays what it was.
        self.collected.setdefault((number, row), Collected()).parts.append((numbers, values.clone()))


@dataclass(frozen=True, slots=True)
class Edit(ABC):
    """One step, done in several rows at once; their values are of one kind."""

    number: int
    """Number of the unit in its row."""
    step: Step
    changes: tuple[tuple[int, Change], ...]
    """Row of the forward, and its change."""

    @abstractmethod
    def apply(self, tensor: Tensor, call: int, scene: ForwardContext) -> Tensor:
        """Apply the edit to `tensor`, seen at a module's `call`: a changed copy, or the tensor itself.

        Raises:
            ModelError: the tensor is not what the step's place needs.
            RunError: the value does not fit.
        """


def edit_of(number: int, step: Step, changes: Sequence[tuple[int, Change]]) -> Edit:
    """The edit that the kind of the step's place asks for."""
    if isinstance(changes[0][1].value, FromRunByRow):
        return RowsEdit(number, step, tuple(changes))
    kind = RegionEdit if isinstance(step.place, Region) else PointEdit
    return kind(number, step, tuple(changes))


@dataclass(frozen=True, slots=True)
class _Hit:
    """Positions of one change in a window."""

    row: int
    change: Change
    num_tokens: int
    """Number of tokens that the change has at this place."""
    numbers: list[int]
    """Numbers of those that lie in the window."""
    columns: list[int]
    """Columns of the window, one for each of `numbers`."""


class PointEdit(Edit):
    """An edit at positions, in columns."""

    __slots__ = ()

    def apply(self, tensor: Tensor, call: int, scene: ForwardContext) -> Tensor:
        """Apply the edit as `Edit` says; at a recurrent step that no change names, return the tensor."""
        place = self.step.place
        assert isinstance(place, Target)
        window = scene.window(tensor, place.tap, call)
        hits = self._hits(window, place.tap, scene.num_tokens)
        if not hits:
            return tensor
        rows = _index([hit.row for hit in hits for _ in hit.numbers], tensor.device)
        at = _index([column for hit in hits for column in hit.columns], tensor.device)
        picked = window.values[rows, at]  # [N, W]
        columns = place.columns(picked.shape[-1], tensor.device)
        old = picked[:, columns]
        if self.step.operation == COLLECT:
            self._collect(hits, old, scene)
            return tensor
        if self.step.operation == SKIP:
            other = self._given(window, call, scene)[rows, at][:, columns]
        else:
            other = self._values(hits, old, picked.shape[-1], scene)
        new = self.step.exchanged(old, other)
        return window.restore(torch.index_put(window.values, (rows, at), put(picked, columns, new)))

    def _hits(self, window: Window, tap: Tap, num_tokens: int | None) -> list[_Hit]:
        """Positions of each change in the window, where it has any.

        Raises:
            ModelError, RunError: the place has no such positions.
        """
        hits: list[_Hit] = []
        for row, change in self.changes:
            tokens = _checked(change.tokens, num_tokens, window.num_positions, tap)
            found = window.columns(tokens)
            if found:
                numbers, columns = (list(part) for part in zip(*found, strict=True))
                hits.append(_Hit(row, change, len(tokens), numbers, columns))
        return hits

    def _collect(self, hits: Sequence[_Hit], old: Tensor, scene: ForwardContext) -> None:
        sizes = [len(hit.numbers) for hit in hits]
        for hit, values in zip(hits, torch.split(self.step.seen(old), sizes), strict=True):
            scene.collect(self.number, hit.row, hit.numbers, values)

    def _given(self, window: Window, call: int, scene: ForwardContext) -> Tensor:
        """Input of the skipped module [B, P, W], in the place of its output.

        Raises:
            RunError: it has another shape than what the module returns.
        """
        tap = self.step.place.tap
        given = scene.given.get(tap)
        if given is None or given.shape != window.shape:
            what = "no tensor" if given is None else f"{list(given.shape)}"
            raise RunError(
                f"skip at {tap}: the module was given {what} and returns {list(window.shape)}; skip works "
                "where both have one shape"
            )
        return scene.window(given, tap, call).values

    def _values(self, hits: Sequence[_Hit], old: Tensor, width: int, scene: ForwardContext) -> Tensor:
        """The values to write [N, C], for a place in a tensor of `width`."""
        kind, place = hits[0].change.value, self.step.place
        if isinstance(kind, Zero):
            return torch.zeros_like(old)
        values = torch.cat([self._value(hit, width, scene) for hit in hits]).to(old.device)  # [N, …]
        if isinstance(kind, Constant):
            return values
        target = place if isinstance(kind, Drawn) else self.step.origin
        assert isinstance(target, Target)
        return values[:, target.columns(values.shape[-1], values.device)]

    def _value(self, hit: _Hit, width: int, scene: ForwardContext) -> Tensor:
        """Values of one change in the window, before columns are chosen: [n, …].

        Raises:
            RunError: there are not as many values as tokens.
        """
        value = hit.change.value
        if isinstance(value, FromRun):
            assert self.step.origin is not None
            rows = value.rows(scene.held, self.step.origin.tap, is_pooled=self.step.is_pooled)
        elif isinstance(value, Drawn):
            rows = draw(value, self.step.place.tap, width)
        else:
            assert isinstance(value, Constant)
            rows = value.rows
        num_rows = rows.shape[0]
        if num_rows == 1:
            return rows if len(hit.numbers) == 1 else rows.expand(len(hit.numbers), -1)
        if num_rows != hit.num_tokens:
            raise RunError(
                f"{num_rows} values for {hit.num_tokens} positions at {self.step.place.tap}; give one for "
                "each, or one for all"
            )
        return rows if len(hit.numbers) == num_rows else rows[_index(hit.numbers, rows.device)]


class RowsEdit(Edit):
    """An edit at the same positions of all rows, in columns: one change that all of them share."""

    __slots__ = ()

    def apply(self, tensor: Tensor, call: int, scene: ForwardContext) -> Tensor:
        """Apply the edit as `Edit` says."""
        place, origin, ((_, change),) = self.step.place, self.step.origin, self.changes
        assert isinstance(place, Target) and isinstance(origin, Target)
        value = change.value
        assert isinstance(value, FromRunByRow)
        window = scene.window(tensor, place.tap, call)
        found = window.columns(_checked(change.tokens, scene.num_tokens, window.num_positions, place.tap))
        if not found:
            return tensor
        kept = scene.held(value.run, origin.tap).values  # [B, P, W] or [1, P, W]
        taken = _checked(value.tokens, value.num_tokens, kept.shape[1], origin.tap)
        at = _index([column for _, column in found], tensor.device)
        picked = window.values.index_select(1, at)  # [B, n, W]
        from_ = _index([taken[number if len(taken) > 1 else 0] for number, _ in found], kept.device)
        other = kept.index_select(1, from_).to(tensor.device).expand(len(picked), -1, -1).flatten(0, 1)
        whole = picked.flatten(0, 1)  # [N, W]
        columns = place.columns(whole.shape[-1], tensor.device)
        origin_columns = origin.columns(other.shape[-1], tensor.device)
        new = self.step.exchanged(whole[:, columns], other[:, origin_columns])
        changed = put(whole, columns, new).view_as(picked)
        return window.restore(window.values.index_copy(1, at, changed))


class RegionEdit(Edit):
    """An edit of whatever a getter finds, in whole rows."""

    __slots__ = ()

    def apply(self, tensor: Tensor, call: int, scene: ForwardContext) -> Tensor:
        """Apply the edit as `Edit` says."""
        place = self.step.place
        assert isinstance(place, Region)
        rows = _index([row for row, _ in self.changes], tensor.device)
        old = place.read(tensor[rows])  # [N, …]
        if self.step.operation == COLLECT:
            for (row, _), values in zip(self.changes, self.step.seen(old), strict=True):
                scene.collect(self.number, row, [0], values[None])
            return tensor
        return place.write(tensor, rows, self.step.exchanged(old, self._values(old, scene)))

    def _values(self, old: Tensor, scene: ForwardContext) -> Tensor:
        """The values to write, of the shape of `old` [N, …].

        Raises:
            RunError: they have another shape, or are of a kind that regions do not take.
        """
        values = [change.value for _, change in self.changes]
        if isinstance(values[0], Zero):
            return torch.zeros_like(old)
        if isinstance(values[0], FromRun):
            origin = self.step.origin
            assert isinstance(origin, Region)
            found = [scene.held(value.run, origin).values for value in values if isinstance(value, FromRun)]
        elif isinstance(values[0], Constant):
            found = [value.rows[0] for value in values if isinstance(value, Constant)]
        else:
            raise RunError(f"noise at {self.step.place.tap}: it is drawn by position; leave coordinates out")
        for one in found:
            if not _expands(one.shape, old.shape[1:]):
                raise RunError(
                    f"a value of {list(one.shape)} at {self.step.place.tap}, where the base has "
                    f"{list(old.shape[1:])}; give one of that shape"
                )
        return torch.stack([one.expand(old.shape[1:]) for one in found]).to(old.device)


def _checked(tokens: Sequence[int], num_tokens: int | None, num_positions: int, tap: Tap) -> tuple[int, ...]:
    """Positions of `tokens` of a run of `num_tokens` at a tap that holds `num_positions` of it.

    Raises:
        ModelError, RunError: the place has no such positions.
    """
    found = positions_at(tokens, num_positions if num_tokens is None else num_tokens, num_positions, tap)
    if any(not 0 <= token < num_positions for token in found):
        raise RunError(f"position {max(found)} at {tap}: it has 0 to {num_positions - 1}")
    return found


def _expands(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Whether a tensor of `shape` can stand for one of the shape `to`."""
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(own in (1, wanted) for own, wanted in pairs)


def _index(numbers: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(numbers, device=device, dtype=torch.long)
