"""A unit as written, turned into the resolved units of each cell."""

__all__ = ["Lack", "Setting", "UnitTemplate", "named_runs", "places_of", "written_of", "written_read"]

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from studies.language.blocks import AXES, Block, UnitKeys, ValueSpec
from studies.language.grammar import Names, is_reference, parse_range
from studies.language.resolve import (
    Axes,
    Prompts,
    Slot,
    in_order,
    once,
    read_coordinates,
    read_heads,
    read_layers,
    read_positions,
    read_subspace,
    read_texts,
    stretch,
    zip_heads,
    zip_positions,
)
from studies.language.values import (
    FIT,
    NOISE,
    UNTAKEN,
    ZERO,
    FitNames,
    FitPlace,
    Valued,
    as_written,
    read_value,
    written_value,
)
from workers.errors import StudyError
from workers.model.facts import ModelFacts
from workers.model.sites import is_module_path, num_heads
from workers.vocabulary import CellUnit, NamedRun, Place, Position, Region

T = TypeVar("T")

_Heads = tuple[int, ...] | None

SKIP = "skip"
_WITHOUT_VALUE = ("collect", SKIP)
"""The operations that write no value of another run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Model, class of pairs and names that the units of a block are resolved with."""

    facts: ModelFacts
    prompts: Prompts
    """Prompts of the pairs' runs, and of the block's own ``runs``."""
    axes: Axes
    """The names that vary."""
    scope: Names
    """The values of the other names."""
    fits: FitNames | None
    """The study's fits; None where it has none."""
    fit_names: Collection[str]

    def slot(self, written: object, resolve: Callable[[object, Names], T]) -> Slot[T]:
        """A written value in this setting."""
        return Slot(written, self.axes, self.scope, resolve)


class Lack(Exception):  # noqa: N818  (no error: it says that a point does not exist for a class of pairs)
    """A prompt of the class lacks the position, as written, in the run; None: the class lacks the run."""

    def __init__(self, position: object, run: str):
        super().__init__(position, run)
        self.position = position
        self.run = run


def written_of(unit: UnitKeys, block: Block, key: str) -> Any:
    """Written value of a key: the unit's, or its block's; a block that is its own unit takes its axes too."""
    for spec in (unit, block):
        if getattr(spec, key) is not None:
            return getattr(spec, key)
    if unit is block and key in AXES and getattr(block, AXES[key]) is not None:
        return f"${key}"
    return None


def places_of(block: Block) -> Block:
    """The defaults of the units of a block's runs: its place, and nothing of what is done there."""
    return block.model_copy(update={"subspace": None, "intervention": None, "from_": None})


def written_read(block: Block) -> Any:
    """Position at which a block reads, as written: the last token where it does not say."""
    return "$read" if block.reads is not None else -1 if block.read is None else block.read


class UnitTemplate:
    """One unit of a block, for one model and one class of pairs."""

    def __init__(self, unit: UnitKeys, block: Block, setting: Setting):
        """Prepare the slots."""
        slot = setting.slot
        value = written_of(unit, block, "from_") or ValueSpec(run="source")
        self._setting = setting
        self._prompts = setting.prompts
        region = written_of(unit, block, "coordinates")
        self._region = slot(region, read_coordinates)
        self._from_region = (
            self._region if value.coordinates is None else slot(value.coordinates, read_coordinates)
        )
        self._position = None if region is not None else written_of(unit, block, "position")
        self._origin_written = self._position if value.position is None else value.position
        self._sites = slot(written_of(unit, block, "site"), read_texts)
        self._layers = self._layer_slot(written_of(unit, block, "layer"))
        self._heads = _HeadSlots(setting, None if region is not None else written_of(unit, block, "head"))
        self._subspace = slot(
            None if region is not None else written_of(unit, block, "subspace"), read_subspace
        )
        self._operation = slot(written_of(unit, block, "intervention") or "vanilla", read_texts)
        read = partial(read_value, runs=block.runs or (), fits=setting.fit_names)
        self._value = slot(written_value(value, block), read)
        self._read = slot(written_read(block), as_written)
        self._at = self._position_slots(self._position)
        self._from_at = self._at if value.position is None else self._position_slots(value.position)
        self._from_sites = self._sites if value.site is None else slot(value.site, read_texts)
        self._from_layers = self._layers if value.layer is None else self._layer_slot(value.layer)
        self._from_heads = self._heads if value.head is None else _HeadSlots(setting, value.head)
        self._zips_heads = value.head is not None
        self._elsewhere = (value.site, value.layer, value.head) != (None, None, None)
        self._takes_all = _is_all(self._origin_written, block)

    def fits(self, names: Names) -> tuple[str, ...]:
        """The names of the fits that the unit uses at a point."""
        used = (self._subspace.at(names)[0], self._valued(names).fit)
        return tuple(name for name in used if name is not None)

    def units(self, names: Names) -> list[CellUnit]:
        """The units at a point: one for each of its sites and layers; none where a range is empty.

        Raises:
            Lack: the class lacks a position.
            StudyError: what no class could have.
        """
        value, region = self._valued(names), self._region.at(names)
        if region is not None:
            return self._regions(names, value, region)
        position = self._at["base"].at(names)
        if position is None:
            raise Lack(_as_written(self._position, names), "base")
        from_position = None if value.run in UNTAKEN else self._origin_position(value.run, names)
        if from_position is not None and from_position != position:
            position, from_position = zip_positions(position, from_position)
        elif len(position) > 1:
            position = once(position)
            from_position = None if from_position is None else position
        if not position:
            return []
        (fit, dims), (operation,) = self._subspace.at(names), self._operation.at(names)
        if fit is None and value.fit is None:
            return [
                CellUnit(place, dims, operation, value.run, origin, None, None, value.scale, value.seed)
                for place, origin in self._places(names, position, from_position)
            ]
        # A vector is made where a value would be taken, but it is taken from no run.
        made_at = position if value.fit is not None else from_position
        return [
            CellUnit(
                place=place,
                dims=dims,
                operation=operation,
                run=value.run,
                origin=None if value.fit is not None else origin,
                fit=self._identity(fit, place, self._position, names),
                value_fit=self._identity(value.fit, origin or place, self._origin_written, names),
                scale=value.scale,
                seed=value.seed,
            )
            for place, origin in self._places(names, position, made_at)
        ]

    def _regions(self, names: Names, value: Valued, region: Region) -> list[CellUnit]:
        """The units at a point of one that has coordinates and no positions.

        Raises:
            Lack, StudyError: as `units` does.
        """
        (operation,) = self._operation.at(names)
        if value.run in (NOISE, FIT) or operation == SKIP:
            raise StudyError(
                "with coordinates, a value is taken from a run or is zero; leave coordinates out for noise, "
                "fits and skip, which know positions only"
            )
        is_taken = value.run not in UNTAKEN
        if is_taken and value.run not in self._prompts:
            raise Lack(None, value.run)
        origin_region = self._from_region.at(names)
        return [
            CellUnit(
                place=replace(place, coordinates=region),
                dims=None,
                operation=operation,
                run=value.run,
                origin=None if origin is None else replace(origin, coordinates=origin_region),
            )
            for place, origin in self._places(names, (), () if is_taken else None)
        ]

    def _valued(self, names: Names) -> Valued:
        (operation,) = self._operation.at(names)
        found: Valued = Valued(ZERO) if operation in _WITHOUT_VALUE else self._value.at(names)
        return found

    def _identity(self, fit: str | None, place: Place, position: object, names: Names) -> str | None:
        """The identity of a fit made at a place, its position as written."""
        if fit is None:
            return None
        fits, known = self._setting.fits, {**self._setting.scope, **names}
        assert fits is not None, "a study that names fits is expanded with them"
        (read,) = self._read.at(names)
        made_at = FitPlace(
            site=place.site,
            layer=place.layer,
            heads=place.heads,
            position=as_written(position, known),
            read=read,
        )
        return fits.identity(fit, made_at, known)

    def _layer_slot(self, written: object) -> Slot[tuple[int, ...] | None]:
        return self._setting.slot(written, partial(read_layers, count=self._setting.facts.num_layers))

    def _position_slots(self, written: object) -> dict[str, Slot[Position | None]]:
        """A slot of the written positions for each run."""
        return {
            run: self._setting.slot(written, partial(read_positions, prompt=prompt))
            for run, prompt in self._prompts.items()
        }

    def _origin_position(self, run: str, names: Names) -> Position:
        """The position in `run` at which the value is taken."""
        prompt = self._prompts.get(run)
        if prompt is None:
            raise Lack(None, run)
        num_base = self._prompts["base"].num_tokens
        if self._takes_all and prompt.num_tokens != num_base:
            raise StudyError(
                f"position all with values from another prompt needs equal token counts; here the base has "
                f"{num_base} and {run} {prompt.num_tokens}; name spans instead: 'positions: spans.last'"
            )
        found = self._from_at[run].at(names)
        if found is None:
            raise Lack(_as_written(self._origin_written, names), prompt.run)
        return found

    def _places(
        self, names: Names, position: Position, from_position: Position | None
    ) -> list[tuple[Place, Place | None]]:
        """Each place of the unit, with the place where its value is taken."""
        coordinates = _cross(self._sites.at(names), self._layers.at(names), self._heads, names)
        places = [Place(site, layer, heads, position) for site, layer, heads in coordinates]
        if not self._zips_heads:
            places = [in_order(place) for place in places]
        if from_position is None:
            return [(place, None) for place in places]
        if not self._elsewhere and from_position == position:
            return [(place, place) for place in places]
        if not self._elsewhere:
            return [(place, Place(place.site, place.layer, place.heads, from_position)) for place in places]
        sites, layers = self._from_sites.at(names), self._from_layers.at(names)
        origins = [
            Place(site, layer, heads, from_position)
            for site, layer, heads in _cross(sites, layers, self._from_heads, names)
        ]
        if not self._zips_heads:
            origins = [in_order(origin) for origin in origins]
        zipped = zip(places, stretch(origins, places), strict=True)
        return [zip_heads(place, origin) for place, origin in zipped]


class _HeadSlots:
    """A slot of heads for each site, since sites differ in how many heads they have."""

    __slots__ = ("_setting", "_slots", "_written")

    def __init__(self, setting: Setting, written: object):
        self._setting = setting
        self._written = written
        self._slots: dict[str, Slot[_Heads]] = {}

    def at(self, site: str, names: Names) -> _Heads:
        if self._written is None:
            return None
        if site not in self._slots:
            count = num_heads(site, self._setting.facts)
            self._slots[site] = self._setting.slot(self._written, partial(read_heads, count=count, site=site))
        return self._slots[site].at(names)


def named_runs(
    units: Sequence[CellUnit], templates: Mapping[str, Sequence[UnitTemplate]], names: Names
) -> tuple[NamedRun, ...]:
    """The runs that `units` take values from, and those that these take values from, in order.

    Args:
        units: of a cell.
        templates: the units of each of the block's runs, which take values from earlier ones only.
        names: the point.

    Raises:
        Lack, StudyError: as `UnitTemplate.units` does.
    """
    wanted = {unit.run for unit in units}
    made: dict[str, tuple[CellUnit, ...]] = {}
    for name in reversed(list(templates)):
        if name in wanted:
            made[name] = tuple(unit for template in templates[name] for unit in template.units(names))
            wanted |= {unit.run for unit in made[name]}
    return tuple(NamedRun(name, made[name]) for name in templates if name in made)


def _cross(
    sites: Sequence[str], layers: Sequence[int] | None, heads: _HeadSlots, names: Names
) -> list[tuple[str, int | None, _Heads]]:
    """Every site at every layer; a module path has no layer."""
    found: list[tuple[str, int | None, _Heads]] = []
    for site in sites:
        if is_module_path(site):
            found.append((site, None, heads.at(site, names)))
        elif layers is None:
            raise StudyError(f"the site {site!r} needs a layer; write layer or layers")
        else:
            here = heads.at(site, names)
            found.extend([(site, layer, here) for layer in layers])
    return found


def _is_all(written: object, block: Block) -> bool:
    """Whether the positions are every token, be it at once or by an axis."""
    if is_reference(written) and written == "$position":
        written = block.positions if block.positions is not None else block.position
    if not isinstance(written, str):
        return False
    found = parse_range(written)
    return written == "all" or (found is not None and found.stop is None)


def _as_written(written: object, names: Names) -> object:
    return names.get(written[1:], written) if is_reference(written) else written
