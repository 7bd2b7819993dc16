"""Cells compiled to a model's modules and columns, and then to one pair's tokens and spans: jobs.

Shapes: T tokens, C columns of a place.
"""

__all__ = ["CompiledCell", "CompiledRun", "CompiledUnit", "compile_cell", "example_of", "kept_at", "resolve"]

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.errors import RunError
from workers.intervene.jobs import Change, Job, PriorRun, RunKey, Step, located, read_of, source_read, zipped
from workers.intervene.model_resources import ModelResources
from workers.intervene.operations import COLLECT
from workers.intervene.regions import Region
from workers.intervene.subspaces import Coordinated
from workers.intervene.values import ZERO, Constant, Drawn, FromRun, Value
from workers.model.hooks import Tap
from workers.model.layout import Dims, Target
from workers.model.loading import LoadedModel
from workers.vocabulary import Cell, CellUnit, NamedRun, Pair, Place, Vectors, is_function, is_pooled

NOISE, FIT = "noise", "fit"
"""The words of `CellUnit.run` for values that are drawn, or made by a fit."""

RunNumbers = dict[tuple[NamedRun, ...], int]
"""A number for each run together with those before it."""


@dataclass(frozen=True, slots=True, eq=False)
class CompiledUnit:
    """CellUnit compiled to a model's modules and columns, for any pair."""

    unit: CellUnit
    step: Step
    vector: Tensor | None = None
    """Vector of a fit: [1, C] for every token, or [T, C]."""
    deviation: float = 0.0
    """Standard deviation of noise, in units of the activations."""


@dataclass(frozen=True, slots=True, eq=False)
class CompiledRun:
    """Named intervened run, compiled to a model."""

    name: str
    number: int
    """See `RunKey`."""
    units: tuple[CompiledUnit, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledCell:
    """Cell compiled to a model, for any pair."""

    units: tuple[CompiledUnit, ...]
    runs: tuple[CompiledRun, ...]
    read: int | str


def compile_cell(cell: Cell, model: LoadedModel, stock: ModelResources, numbers: RunNumbers) -> CompiledCell:
    """Compile a cell to the model; `numbers` grows by the runs that it does not know yet.

    Raises:
        ModelError: the model has no such place.
        SwapyardError: a fit or a function is not there, or is not what the unit needs.
    """
    runs = [
        CompiledRun(
            name=run.name,
            number=numbers.setdefault(cell.runs[: at + 1], len(numbers)),
            units=tuple(_ready_unit(unit, model, stock) for unit in run.units),
        )
        for at, run in enumerate(cell.runs)
    ]
    return CompiledCell(
        units=tuple(_ready_unit(unit, model, stock) for unit in cell.units),
        runs=tuple(runs),
        read=cell.read,
    )


def resolve(row: int, pair_index: int, cell: CompiledCell, pair: Pair) -> Job:
    """Resolve the cell on a pair: the job that runs.

    Raises:
        RunError: a token, a run or a value that the pair does not have.
        StudyError: a span that the pair does not have.
    """
    keys: dict[str, RunKey] = {}
    priors: list[PriorRun] = []
    for run in cell.runs:
        key = RunKey(run.number, pair_index)
        priors.append(PriorRun(key, tuple(_change(unit, pair, keys) for unit in run.units)))
        keys[run.name] = key
    return Job(
        row=row,
        pair=pair_index,
        read=read_of(cell.read, pair),
        source_read=source_read(cell.read, pair),
        changes=tuple(_change(unit, pair, keys) for unit in cell.units),
        priors=tuple(priors),
    )


def example_of(pair: Pair) -> int:
    """Number that noise is drawn by, of the base's prompt and the labels alone, so alike in every store."""
    base = pair.tokens["base"]
    prompt = base.digest if isinstance(base, Vectors) else list(base)
    content = json.dumps([prompt, sorted(set(pair.label_ids)), sorted(set(pair.base_label_ids))])
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big")


def _ready_unit(unit: CellUnit, model: LoadedModel, stock: ModelResources) -> CompiledUnit:
    place, origin = unit.place, unit.origin
    # With a fit, dims are its coordinates, and the place is whole.
    dims = unit.dims if unit.fit is None else None
    step = Step(
        place=_where(place, dims, model, stock, changes=unit.operation != COLLECT),
        operation=stock.function(unit.operation) if is_function(unit.operation) else unit.operation,
        origin=_where(origin, dims, model, stock, changes=False) if origin else None,
        is_pooled=origin is not None and is_pooled(origin.position),
        subspace=None if unit.fit is None else _coordinates(unit.fit, unit.dims, stock),
    )
    if unit.run == NOISE:
        return CompiledUnit(unit, step, deviation=(unit.scale or 0.0) * stock.embedding_std)
    if unit.run == FIT:
        assert unit.value_fit is not None
        vector = stock.vector(unit.value_fit) * (1.0 if unit.scale is None else unit.scale)
        num_heads = 1 if place.heads is None else len(place.heads)
        return CompiledUnit(unit, step, vector=_in_dims(vector, dims, num_heads))
    return CompiledUnit(unit, step)


def kept_at(place: Place, model: LoadedModel, stock: ModelResources) -> Tap | Region:
    """Tap or region to cache of a run whose values are taken at the place.

    Raises:
        SwapyardError: the model has no such place, or a function is not there.
    """
    found = _where(place, None, model, stock, changes=False)
    return found.tap if isinstance(found, Target) else found


def _where(
    place: Place, dims: Dims | None, model: LoadedModel, stock: ModelResources, *, changes: bool
) -> Target | Region:
    target = model.target(place.site, place.layer, place.heads, dims, changes=changes)
    if place.coordinates is None:
        return target
    if target.tap.per_step:
        raise RunError(
            f"coordinates at {place.site}, whose module runs once for each time step; write position there"
        )
    return Region(target.tap, stock.coordinates(place.coordinates))


def _coordinates(fit: str, dims: Dims | None, stock: ModelResources) -> Coordinated:
    """The subspace of a fit, or the part of it that `dims` name."""
    subspace = stock.subspace(fit)
    return subspace if dims is None else subspace[[f"{low}:{high}" for low, high in dims]]


def _in_dims(vector: Tensor, dims: Dims | None, num_heads: int) -> Tensor:
    """The columns [T, C] of a vector over whole heads that `dims` name of each."""
    if dims is None:
        return vector
    by_head = vector.reshape(len(vector), num_heads, -1)
    width = by_head.shape[-1]
    if dims[-1][1] > width:
        raise RunError(f"dimensions {dims[-1][0]}:{dims[-1][1]} of a vector that has {width}, from 0")
    return torch.cat([by_head[..., low:high] for low, high in dims], -1).flatten(-2)


def _change(ready: CompiledUnit, pair: Pair, keys: Mapping[str, RunKey]) -> Change:
    """The unit's change of the pair's base; `keys` are the runs that come before it."""
    unit, step = ready.unit, ready.step
    tokens = located(unit.place.position, pair, "base")
    if unit.origin is None:
        tokens = tuple(dict.fromkeys(tokens))
        return Change(step, tokens, _untaken(ready, tokens, pair))
    key = keys.get(unit.run)
    run = unit.run if key is None else "base"
    origin_tokens = located(unit.origin.position, pair, run)
    prompt = pair.tokens[run]
    if step.is_pooled:
        tokens = tuple(dict.fromkeys(tokens))
    else:
        tokens, origin_tokens = zipped(tokens, origin_tokens, unit.run)
    return Change(step, tokens, FromRun(prompt if key is None else key, origin_tokens, len(prompt)))


def _untaken(ready: CompiledUnit, tokens: tuple[int, ...], pair: Pair) -> Value:
    """A value that is taken from no run."""
    unit, vector = ready.unit, ready.vector
    if unit.run == NOISE:
        assert unit.seed is not None
        return Drawn(ready.deviation, unit.seed, example_of(pair), tokens)
    if vector is None:
        return ZERO
    if len(vector) == 1:
        return Constant(vector)
    if max(tokens) >= len(vector):
        raise RunError(
            f"the fit {unit.value_fit} has a value for {len(vector)} tokens, none for token {max(tokens)}"
        )
    return Constant(vector[list(tokens)])
