"""Units bound to a batch of examples: the same steps and changes that the engine makes of a study's cells.

Shapes: B examples, P positions of a unit, C columns of its place.
"""

__all__ = ["Call", "bind", "origin_position", "run_of", "wants_of"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from workers.errors import ModelError, RunError
from workers.intervene.inputs import Inputs
from workers.intervene.jobs import Change, Step, zipped
from workers.intervene.operations import COLLECT, SKIP
from workers.intervene.positions import PerExample, PositionForm
from workers.intervene.regions import Coordinates, Region
from workers.intervene.subspaces import Coordinated, Part, Subspace, as_ranges
from workers.intervene.units import From, IntervenedRun, Mean, Noise, Run, Unit, heads_of
from workers.intervene.values import ZERO, Constant, Drawn, FromRun, FromRunByRow, Value
from workers.model.hooks import Tap
from workers.model.layout import Dims, Target
from workers.model.places import Places


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Inputs of one call of an `IntervenableModel`, and what its units may ask of the model."""

    places: Places
    inputs: Mapping[str, Inputs]
    """``base``, and ``source``, ``source_2`` … where they are given."""
    mean: Callable[[Unit, Mean, Target], Tensor]
    """The mean [1, C] that such a unit takes at its origin."""
    embedding_std: Callable[[], float]
    """Standard deviation of the token embeddings: the unit of noise."""

    def inputs_of(self, source: str | IntervenedRun) -> Inputs:
        """The inputs of a run.

        Raises:
            RunError: they are not given.
        """
        name = source if isinstance(source, str) else source.base
        if name not in self.inputs:
            raise RunError(f"a unit needs {name!r}, but only {', '.join(self.inputs)} is given")
        return self.inputs[name]


def run_of(unit: Unit) -> Run | None:
    """The run that a unit takes its value from; None where it takes it from none."""
    if unit.intervention in (COLLECT, SKIP) or not isinstance(unit.from_, From):
        return None
    return unit.from_.run


def wants_of(units: Sequence[Unit], places: Places) -> dict[Run, set[Tap | Region]]:
    """Taps and regions to cache of each run that values come from, of those that other runs need too.

    Raises:
        ModelError: a place that the model does not have.
    """
    wants: dict[Run, set[Tap | Region]] = {}
    for unit in units:
        source = run_of(unit)
        if source is None:
            continue
        origin = _origin(unit, None, places)
        wants.setdefault(source, set()).add(origin.tap if isinstance(origin, Target) else origin)
        if isinstance(source, IntervenedRun):
            for inner, kept in wants_of(source.units, places).items():
                wants.setdefault(inner, set()).update(kept)
    return wants


def bind(units: Sequence[Unit], base: Inputs, call: Call) -> list[list[Change]]:
    """Bind units to the examples of `base`: changes of each, one a unit; one without effect has no tokens.

    Raises:
        ModelError: a place that the model does not have.
        RunError: positions, values or inputs that do not fit.
    """
    columns = [list(_changes(unit, base, call)) for unit in units]
    return [[column[row] for column in columns] for row in range(base.num_rows)]


def _changes(unit: Unit, base: Inputs, call: Call) -> Iterator[Change]:
    """The unit's change of each example."""
    source = run_of(unit)
    run = None if source is None or isinstance(source, Mean) else call.inputs_of(source)
    steps = _steps(unit, base.num_rows, call.places)
    if unit.coordinates is not None:
        for row, step in enumerate(steps):
            yield Change(step, (), _region_value(unit, row, run))
        return
    if isinstance(unit.from_, Tensor):
        _check_numbers(unit.from_, base.num_rows)
    if run is not None and base.is_even and run.is_even and _is_shared(unit):
        yield from [_shared(unit, steps[0], base, run)] * base.num_rows
        return
    tokens = base.tokens(unit.position, base.num_rows)
    taken = tokens if run is None else run.tokens(origin_position(unit), base.num_rows)
    for row, (step, own, origin) in enumerate(zip(steps, tokens, taken, strict=True)):
        if own is None or origin is None:
            yield Change(step, (), ZERO)
            continue
        own, origin = zipped(own, origin, source if isinstance(source, str) else "the run")
        value = _value(unit, step, row, own, call) if run is None else _taken(source, row, origin, run)
        yield Change(step, base.padded(row, own), value)


def _is_shared(unit: Unit) -> bool:
    """Whether a unit that takes its value from a run does the same in every example of one shape."""
    forms = (unit.subspace, unit.position, origin_position(unit))
    return not any(isinstance(form, PerExample) for form in forms)


def _shared(unit: Unit, step: Step, base: Inputs, run: Inputs) -> Change:
    """The one change of all rows; see `FromRunByRow`."""
    source = run_of(unit)
    own = base.tokens(unit.position, base.num_rows)[0]
    origin = run.tokens(origin_position(unit), base.num_rows)[0]
    assert own is not None and origin is not None
    own, origin = zipped(own, origin, source if isinstance(source, str) else "the run")
    start, origin_start = base.padded(0, own), run.padded(0, origin)
    return Change(step, start, FromRunByRow((source, None), origin_start, run.num_tokens))


def _taken(source: Run | None, row: int, origin: Sequence[int], run: Inputs) -> FromRun:
    """Activations of a run at an example's own tokens."""
    return FromRun((source, row % run.num_rows), run.padded(row, origin), run.num_tokens)


def _region_value(unit: Unit, row: int, run: Inputs | None) -> Value:
    """Value that the unit writes in a region of an example."""
    if isinstance(unit.from_, Tensor):
        return Constant(unit.from_[None])
    return ZERO if run is None else _taken(run_of(unit), row, (), run)


def _value(unit: Unit, step: Step, row: int, own: Sequence[int], call: Call) -> Value:
    """Value that the unit writes at an example's own tokens, where it comes from no run."""
    if isinstance(unit.from_, Noise):
        noise, std = unit.from_, call.embedding_std()
        return Drawn(noise.scale * std, noise.seed, noise.first_example + row, tuple(own))
    if isinstance(unit.from_, Tensor):
        return Constant(_numbers(unit.from_, row))
    if isinstance(mean := run_of(unit), Mean):
        assert isinstance(step.origin, Target)
        return Constant(call.mean(unit, mean, step.origin))
    return ZERO


def _check_numbers(numbers: Tensor, num_rows: int) -> None:
    """Accept a value [C], or [B, C] or [B, P, C] for B examples or for one that serves all.

    Raises:
        RunError: it has another shape.
    """
    if numbers.dim() == 1 or (numbers.dim() in (2, 3) and numbers.shape[0] in (1, num_rows)):
        return
    raise RunError(
        f"a value of {list(numbers.shape)} for {num_rows} examples: give [width], [examples, width] or "
        "[examples, positions, width]"
    )


def _numbers(numbers: Tensor, row: int) -> Tensor:
    """A given value's rows for an example: [1, C], or [P, C]."""
    if numbers.dim() == 1:
        return numbers[None]
    own = numbers[row % numbers.shape[0]]
    return own[None] if numbers.dim() == 2 else own


def _steps(unit: Unit, num_rows: int, places: Places) -> list[Step]:
    """The unit's step in each row: one for all, unless each example has its own subspace.

    Raises:
        RunError: there is not one subspace for each example.
    """
    if not isinstance(unit.subspace, PerExample):
        return [_step(unit, unit.subspace, places)] * num_rows
    if len(unit.subspace) != num_rows:
        raise RunError(f"{len(unit.subspace)} subspaces for {num_rows} examples; give one for each")
    return [_step(unit, one, places) for one in unit.subspace]


def _step(unit: Unit, subspace: object, places: Places) -> Step:
    learned: Coordinated | None = subspace if isinstance(subspace, Subspace | Part) else None
    dims = None if learned is not None or subspace is None else as_ranges(subspace, None)  # type: ignore[arg-type]
    return Step(
        place=_place(unit, dims, places),
        operation=unit.intervention,
        origin=None if run_of(unit) is None else _origin(unit, dims, places),
        subspace=learned,
    )


def _place(unit: Unit, dims: Dims | None, places: Places) -> Target | Region:
    changes = unit.intervention != COLLECT
    target = places.target(unit.site, unit.layer, heads_of(unit.head), dims, changes=changes)
    return _as_written(target, unit, unit.coordinates, places)


def _origin(unit: Unit, dims: Dims | None, places: Places) -> Target | Region:
    """Place in its run that the value is taken from: the unit's own, but for what is said."""
    origin = unit.from_
    assert isinstance(origin, From)
    site = unit.site if origin.site is None else origin.site
    is_path = places.is_path(site)
    layer = unit.layer if origin.layer is None and not is_path else origin.layer
    heads = unit.head if origin.head is None and not is_path else origin.head
    region = unit.coordinates if origin.coordinates is None else origin.coordinates
    target = places.target(site, layer, heads_of(heads), dims, changes=False)
    return _as_written(target, unit, region, places)


def _as_written(target: Target, unit: Unit, region: Coordinates | None, places: Places) -> Target | Region:
    """The target as a region, or by time step, where the unit says so.

    Raises:
        ModelError: the site has tokens and no time steps.
    """
    if region is not None:
        return Region(target.tap, region)
    if unit.kind != "step":
        return target
    if not places.is_path(unit.site) and not target.tap.per_step:
        raise ModelError(f"site {unit.site!r} has tokens, no time steps; leave kind out")
    return places.by_step(target)


def origin_position(unit: Unit) -> PositionForm:
    """Position in its run that the unit's value is taken from, as written."""
    written = unit.from_.position if isinstance(unit.from_, From) else None
    return unit.position if written is None else written
