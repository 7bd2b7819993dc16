"""First-order estimates of what a cell changes, from clean runs and their gradients.

Attribution patching (Nanda 2023; Syed, Rager and Conmy 2023, arXiv 2310.10348): with m the answer of the
base run, a what it holds at a unit's place and a' what the unit would make of it,

    m(after) - m(before)  ≈  Σ_units Σ (a' - a) · ∂m/∂a

over the unit's tokens and columns. Every a' is made of clean values; units at one place see and override
each other as they do in a run.

Shapes: B pairs, T tokens, P positions of a tap, W width; N changed points (pair, position), C columns.
"""

__all__ = ["BaselineRun", "Estimator", "Trace", "difference", "trace", "widths"]

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.engine.scoring import Labels
from workers.errors import ModelError, RunError, SwapyardError
from workers.intervene.compile import FIT, CompiledCell, CompiledUnit
from workers.intervene.jobs import located, zipped
from workers.intervene.operations import put
from workers.intervene.regions import joined
from workers.model.hooks import Tap, Visit
from workers.model.layout import Target
from workers.model.loading import LoadedModel
from workers.model.windows import positions_at, window_of
from workers.vocabulary import Pair


@dataclass(slots=True)
class Trace:
    """Activations, and gradients of the answer, of the clean runs of some prompts."""

    values: dict[Tap, Tensor]
    """[B, P, W] at each tap, in the model's dtype."""
    gradients: dict[Tap, Tensor] = field(default_factory=dict)
    """Gradients of each prompt's answer with respect to its values, [B, P, W], float32."""
    answers: Tensor | None = None
    """[B], float32; NaN where a prompt has no label."""
    broken: Mapping[Tap, ModelError] = field(default_factory=dict)
    """Taps with nothing to read by position, and why."""

    def at(self, tap: Tap) -> Tensor:
        """The values at a tap [B, P, W].

        Raises:
            ModelError: there are none.
        """
        if tap in self.broken:
            raise self.broken[tap]
        return self.values[tap]


def difference(logits: Tensor, labels: Labels, base_labels: Labels) -> Tensor:
    """The answer [B] in logits [B, V]: what the label gets less what the base label gets.

    Of a prompt with one of the two labels it is what that one gets (negative for the base label), with
    neither NaN. A label's logit is the logsumexp over its ids, as in `workers.engine.scoring.score`.
    """
    answer = torch.zeros(len(logits), device=logits.device)
    for sign, which in ((1.0, labels), (-1.0, base_labels)):
        rows = which.given.any(-1).nonzero()[:, 0]
        own = logits[rows].float().gather(-1, which.ids[rows])
        scores = own.masked_fill(~which.given[rows], -torch.inf).logsumexp(-1)
        answer = answer.index_add(0, rows, sign * scores)
    is_answered = labels.given.any(-1) | base_labels.given.any(-1)
    return answer.masked_fill(~is_answered, torch.nan)


def trace(
    model: LoadedModel,
    prompts: Tensor,
    taps: Collection[Tap],
    *,
    reads: Tensor | None = None,
    labels: tuple[Labels, Labels] | None = None,
) -> Trace:
    """One forward of `prompts` [B, T] or [B, T, E]; with labels one backward, too.

    Args:
        model: which one.
        prompts: what is run.
        taps: where values are kept, and gradients of each prompt's `difference`.
        reads: [B, 1], the token at which each prompt's answer is read; needed with `labels`.
        labels: labels and base labels of each prompt.
    """
    watch = _Watch(prompts.shape[0], prompts.shape[1], with_gradients=labels is not None)
    visits = [(tap, watch.visit(tap)) for tap in sorted(taps, key=str)]
    at = torch.zeros(len(prompts), 1, dtype=torch.long, device=prompts.device) if reads is None else reads
    if labels is None:
        _, seen = model.forward(prompts, at, visits)
        return Trace(watch.values(), broken=watch.broken | seen.faults())
    with torch.inference_mode(False), torch.enable_grad():
        logits, seen = model.forward(prompts, at, visits, gradients=True)
        answers = difference(logits[:, 0], *labels)
        found = Trace(watch.values(), broken=watch.broken | seen.faults(), answers=answers.detach())
        found.gradients = watch.gradients(answers)
    return found


def widths(model: LoadedModel, prompt: Tensor, taps: Collection[Tap]) -> dict[Tap, int]:
    """Numbers that each tap holds for one position, seen in a run of `prompt` [1, T] or [1, T, E]."""
    found = trace(model, prompt, taps)
    return {tap: values.shape[-1] for tap, values in found.values.items()}


class _Watch:
    """Hooks that keep activations at taps in one forward of `num_rows` × `num_tokens`."""

    def __init__(self, num_rows: int, num_tokens: int, *, with_gradients: bool) -> None:
        self._shape = (num_rows, num_tokens)
        self._with_gradients = with_gradients
        self._kept: dict[Tap, list[Tensor]] = {}
        self._probes: dict[Tap, list[Tensor]] = {}
        """Zeros that were added to what is there, one for each call: their gradients are its own."""
        self.broken: dict[Tap, ModelError] = {}

    def visit(self, tap: Tap) -> Visit:
        def keep(tensor: Tensor, call: int) -> Tensor | None:
            try:
                window = window_of(tensor, tap, call, *self._shape)
            except ModelError as error:
                self.broken[tap] = error
                return None
            # A module further on may write into this tensor: only a copy stays what it was.
            self._kept.setdefault(tap, []).append(window.values.detach().clone())
            if not self._with_gradients:
                return None
            probe = torch.zeros_like(tensor, requires_grad=True)
            self._probes.setdefault(tap, []).append(probe)
            return tensor + probe

        return keep

    def values(self) -> dict[Tap, Tensor]:
        """The steps of a run side by side; what came whole is not copied once more."""
        kept, self._kept = self._kept, {}
        return {tap: joined(parts) for tap, parts in kept.items()}

    def gradients(self, answers: Tensor) -> dict[Tap, Tensor]:
        """Gradients of each prompt's own answer (prompts do not meet) at every tap [B, P, W]."""
        probes = [(tap, probe) for tap, parts in self._probes.items() for probe in parts]
        if not probes:
            return {}
        # Where nothing that is kept reaches the answer, the sum alone would have no gradient at all.
        total = answers.nan_to_num().sum() + sum(0.0 * probe.sum() for _, probe in probes)
        found = torch.autograd.grad(total, [probe for _, probe in probes])
        parts: dict[Tap, list[Tensor]] = {}
        for (tap, probe), gradient in zip(probes, found, strict=True):
            shaped = gradient if probe.dim() == 3 else gradient.reshape(len(probe), 1, -1)
            parts.setdefault(tap, []).append(shaped.float())
        return {tap: torch.cat(steps, 1) for tap, steps in parts.items()}


_Index = tuple[Tensor, Tensor]
"""Rows [N] and positions [N] of values [B, P, W]."""


@dataclass(frozen=True, slots=True)
class BaselineRun:
    """Clean runs of one name, and the row of each pair in them."""

    trace: Trace
    rows: Sequence[int]
    """Row of each pair; pairs share the run of a prompt that they share."""


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    """Points of all pairs that a unit changes."""

    base: _Index
    origin: _Index | None
    """Points that the values are taken from; None for values that are taken from no run."""
    pool: Tensor | None
    """Pair [M] of each of the origin's M points, whose mean is taken."""
    failed: Mapping[int, SwapyardError]
    """Errors of the pairs that have no such points."""


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
