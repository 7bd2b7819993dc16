"""Units, as a researcher writes them: where a run is changed, in which coordinates, by which value.

The words are those of study files. The intervention, the coordinates and the value are three separate things.
"""

__all__ = ["From", "IntervenedRun", "Mean", "Noise", "Run", "Unit", "UnitValue", "heads_of", "is_input"]

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, TypeGuard

from torch import Tensor

from workers.errors import StudyError, nearest
from workers.intervene.inputs import Given
from workers.intervene.operations import COLLECT, SKIP, Operation
from workers.intervene.positions import PerExample, PositionForm, check_position
from workers.intervene.regions import Coordinates
from workers.intervene.subspaces import Coordinated, Part, Subspace, Wanted, as_ranges
from workers.model.sites import check_site, is_module_path
from workers.vocabulary import OPERATIONS, is_source

Kind = Literal["token", "step"]

_RUNS = "write 'source', 'source_2' …, 'base', sy.IntervenedRun(…), sy.Mean(…)"


@dataclass(frozen=True, slots=True)
class Noise:
    """Normal noise for a value: drawn from the seed, the example's number, the place and the token.

    So it does not depend on how examples are batched, and units of several calls share it.
    """

    scale: float
    """Standard deviations of the model's token embeddings: 3 in causal tracing. In a model that has none the
    deviation itself; see `workers.model.weight_values`."""
    seed: int = 0
    first_example: int = 0
    """The number of the batch's first example, for examples that are run in several batches."""

    def __post_init__(self) -> None:
        is_number = isinstance(self.scale, int | float) and not isinstance(self.scale, bool)
        if not is_number or not self.scale > 0:
            raise StudyError(f"noise of scale {self.scale!r}; write a number above 0")


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """The mean over runs, for a value: over a batch's examples, and the positions that a unit takes."""

    inputs: Given
    """A batch, in any form that a base has."""


@dataclass(frozen=True, slots=True, eq=False)
class IntervenedRun:
    """An intervened run, to take values from: its units are applied to one of the call's inputs first."""

    units: Sequence["Unit"]
    base: str = "base"
    """Input that is run: ``base``, ``source``, ``source_2`` …"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", tuple(self.units))
        if not is_input(self.base):
            raise StudyError(f"a run on {self.base!r}; write 'base', 'source', 'source_2' …")


Run = str | IntervenedRun | Mean
"""A run that values come from: the clean run of an input, ``"source"``, ``"source_2"`` …, ``"base"``; an
intervened run; runs to average."""


@dataclass(frozen=True, slots=True, eq=False)
class From:
    """A run, and where in it the value is taken; what is not said is as at the unit's own place."""

    run: Run = "source"
    site: str | None = None
    _: KW_ONLY
    layer: int | None = None
    head: int | Sequence[int] | None = None
    position: PositionForm | None = None
    """Position in the same forms as the unit's; the two are zipped."""
    coordinates: Coordinates | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.run, IntervenedRun | Mean) and not is_input(self.run):
            raise StudyError(f"a run {self.run!r}; {_RUNS}")
        if self.site is not None:
            check_place(self.site)
        if self.position is not None:
            object.__setattr__(self, "position", check_position(self.position))
        object.__setattr__(self, "head", heads_of(self.head))


UnitValue = Run | From | Tensor | Noise
"""A run, or one with a place in it; ``"zero"``; numbers; noise."""


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One change of the base's run.

    Raises:
        StudyError: a form that is not known; the message lists those that are.
        ModelError: no such site.
    """

    site: str
    """A named site, or a module path: ``"layers.1"`` is what it returns, ``"layers.1:input"`` what it is
    given."""
    _: KW_ONLY
    layer: int | None = None
    """The block's number; None for a module path."""
    head: int | Sequence[int] | None = None
    """One head or several at once, where the site has heads; None for the whole width."""
    position: PositionForm = "all"
    """Tokens that are changed: see `workers.intervene.positions`."""
    kind: Kind | None = None
    """``"step"`` says that the module at the path runs once for each time step, so that a position is a step;
    named sites know it themselves."""
    subspace: Wanted | Coordinated | PerExample | None = None
    """Coordinates: None for all dimensions, ``"0:16"`` or a list for some, a `Subspace` or a part of
    one, or `per_example` of these. Where heads are named, of each head."""
    intervention: Operation = "vanilla"
    """``vanilla``, ``add``, ``subtract``, ``collect``, ``skip``, or a function of the old and the other value
    that returns a new tensor of their shape."""
    from_: UnitValue = "source"
    """Run that the other value comes from, at this place: ``"source"``, ``"source_2"`` …, ``"base"`` (its
    clean run) or another run; `From`, where in its run it is taken elsewhere; ``"zero"``, `Noise`, or
    numbers: [C], [examples, C] or [examples, positions, C] for a place of C dimensions; 1 example serves
    all."""
    coordinates: Coordinates | None = None
    """A getter and a setter, or ``Box[0:4, 10:20]``, for what is no position: then `position`, `head` and
    ranges of dimensions are left out."""

    def __post_init__(self) -> None:
        check_place(self.site)
        object.__setattr__(self, "position", check_position(self.position))
        object.__setattr__(self, "head", heads_of(self.head))
        _check_layer(self.layer)
        _check_intervention(self.intervention)
        object.__setattr__(self, "from_", _from(self.from_))
        object.__setattr__(self, "subspace", _subspace(self.subspace))
        if self.kind not in (None, "token", "step"):
            raise StudyError(f"kind {self.kind!r}; kinds are 'token' and 'step'")
        if self.coordinates is not None:
            self._check_region()

    def subspaces(self) -> list[Subspace]:
        """The learned subspaces that it uses, those of the runs it takes values from included."""
        run = self.from_.run if isinstance(self.from_, From) else None
        inner = run.units if isinstance(run, IntervenedRun) else ()
        forms = self.subspace if isinstance(self.subspace, PerExample) else (self.subspace,)
        own = [form.of if isinstance(form, Part) else form for form in forms]
        return [form for form in own if isinstance(form, Subspace)] + [
            found for unit in inner for found in unit.subspaces()
        ]

    def _check_region(self) -> None:
        is_learned = self.subspace is None or isinstance(self.subspace, Subspace | Part)
        if self.head is not None or self.position != "all" or not is_learned or self.kind == "step":
            raise StudyError("with coordinates, leave head, position, kind and ranges of dimensions out")
        is_averaged = isinstance(self.from_, From) and isinstance(self.from_.run, Mean)
        if is_averaged or isinstance(self.from_, Noise) or self.intervention == SKIP:
            raise StudyError("with coordinates, a value is taken from a run, zero or a tensor")


def is_input(name: object) -> TypeGuard[str]:
    """Whether `name` is that of an input: ``base``, ``source``, ``source_2`` …."""
    return isinstance(name, str) and (name == "base" or is_source(name))


def check_place(site: str) -> None:
    """Accept the name of a site, or what may be a module's path.

    Raises:
        StudyError: it is no text.
    """
    if not isinstance(site, str):
        raise StudyError(f"site {site!r}; write a name such as 'block_output', or a module's path")
    if is_module_path(site):
        check_site(site)


def heads_of(head: object) -> tuple[int, ...] | None:
    """Heads, all at once; None for the whole width.

    Raises:
        StudyError: they are no numbers.
    """
    if head is None:
        return None
    listed = head if isinstance(head, list | tuple | range) else (head,)
    if not listed or any(isinstance(one, bool) or not isinstance(one, int) for one in listed):
        raise StudyError(f"head {head!r}; write a number from 0, or a list of them")
    if len(set(listed)) < len(listed):
        raise StudyError(f"head {head!r} names one twice; name each once")
    return tuple(listed)


def _check_layer(layer: object) -> None:
    if layer is not None and (isinstance(layer, bool) or not isinstance(layer, int)):
        raise StudyError(f"layer {layer!r}; write a block's number, from 0")


def _check_intervention(intervention: object) -> None:
    known = (*OPERATIONS, COLLECT, SKIP)
    if callable(intervention) or intervention in known:
        return
    raise StudyError(
        f"intervention {intervention!r}; interventions are {', '.join(known)}, or a function of the old and "
        f"the other value{nearest(str(intervention), known)}"
    )


def _from(given: object) -> UnitValue:
    """The value as written, a run as one with nothing said about the place.

    Raises:
        StudyError: it has none of the forms.
    """
    if isinstance(given, From | Tensor | Noise) or (isinstance(given, str) and given == "zero"):
        return given
    if isinstance(given, IntervenedRun | Mean) or is_input(given):
        return From(given)
    raise StudyError(f"from_ {given!r}; {_RUNS}, sy.From(…), 'zero', a tensor or sy.Noise(…)")


def _subspace(form: Any) -> Any:
    """A subspace; ranges of dimensions in one spelling, such as ``("0:16",)``.

    Raises:
        StudyError: it names no dimensions.
    """
    if form is None or isinstance(form, Subspace | Part):
        return form
    if isinstance(form, PerExample):
        return PerExample(_subspace(one) for one in form)
    return tuple(f"{low}:{high}" for low, high in as_ranges(form, None))
