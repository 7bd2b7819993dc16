"""A unit as written, turned into the resolved units of each cell."""

__all__ = ["Lack", "UnitTemplate", "written_of"]

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from studies.axes import Names
from studies.blocks import AXES, Block, Coordinates, ValueSpec
from studies.forms import is_reference, parse_range
from studies.slots import (
    Axes,
    Prompts,
    Slot,
    read_dims,
    read_heads,
    read_layers,
    read_positions,
    read_texts,
)
from workers.errors import StudyError
from workers.facts import ModelFacts
from workers.sites import is_module_path, num_heads
from workers.vocabulary import Place, Position, Unit, is_pooled

_Heads = tuple[int, ...] | None


class Lack(Exception):  # noqa: N818  (no error: it says that a point does not exist for a class of pairs)
    """A prompt of the class lacks the position, as written, in the run; None: the class lacks the run."""

    def __init__(self, position: Any, run: str):
        super().__init__(position, run)
        self.position = position
        self.run = run


def written_of(unit: Coordinates, block: Block, key: str) -> Any:
    """What a unit says for a key, or its block; a block that is its own unit takes its axes too."""
    for spec in (unit, block):
        if getattr(spec, key) is not None:
            return getattr(spec, key)
    if unit is block and key in AXES and getattr(block, AXES[key]) is not None:
        return f"${key}"
    return None


class UnitTemplate:
    """One unit of a block, for one model and one class of pairs."""

    def __init__(
        self,
        unit: Coordinates,
        block: Block,
        *,
        facts: ModelFacts,
        prompts: Prompts,
        axes: Axes,
        scope: Names,
    ):
        """Prepare the slots; `axes` are the names that vary, `scope` the values of the others."""
        slot = partial(Slot[Any], axes=axes, scope=scope)
        value = written_of(unit, block, "from_") or ValueSpec(run="source")
        self._prompts = prompts
        self._position = written_of(unit, block, "position")
        self._origin_written = self._position if value.position is None else value.position
        self._sites = slot(written_of(unit, block, "site"), resolve=read_texts)
        self._layers = _layers(slot, written_of(unit, block, "layer"), facts)
        self._heads = _HeadSlots(slot, written_of(unit, block, "head"), facts)
        self._dims = slot(written_of(unit, block, "subspace"), resolve=read_dims)
        self._operation = slot(written_of(unit, block, "intervention") or "vanilla", resolve=read_texts)
        self._run = slot(value.run, resolve=read_texts)
        self._at = _position_slots(slot, self._position, prompts)
        self._from_at = self._at if value.position is None else _position_slots(slot, value.position, prompts)
        self._from_sites = self._sites if value.site is None else slot(value.site, resolve=read_texts)
        self._from_layers = self._layers if value.layer is None else _layers(slot, value.layer, facts)
        self._from_heads = self._heads if value.head is None else _HeadSlots(slot, value.head, facts)
        self._zips_heads = value.head is not None
        self._elsewhere = (value.site, value.layer, value.head) != (None, None, None)
        self._takes_all = _is_all(self._origin_written, block)

    def units(self, names: Names) -> list[Unit]:
        """The units at a point: one for each of its sites and layers; none where a range is empty.

        Raises:
            Lack: the class lacks a position.
            StudyError: what no class could have.
        """
        (run,) = self._run.at(names)
        position = self._at["base"].at(names)
        if position is None:
            raise Lack(_as_written(self._position, names), "base")
        from_position = None if run == "zero" else self._origin_position(run, names)
        if from_position is not None and from_position != position:
            position, from_position = _zip_positions(position, from_position)
        elif len(position) > 1:
            position = _once(position)
            from_position = None if from_position is None else position
        if not position:
            return []
        dims, (operation,) = self._dims.at(names), self._operation.at(names)
        return [
            Unit(place, dims, operation, run, origin)
            for place, origin in self._places(names, position, from_position)
        ]

    def _origin_position(self, run: str, names: Names) -> Position:
        """Where in `run` the value is taken."""
        prompt = self._prompts.get(run)
        if prompt is None:
            raise Lack(None, run)
        num_base = self._prompts["base"].num_tokens
        if self._takes_all and prompt.num_tokens != num_base:
            raise StudyError(
                f"position all with values from another prompt needs equal token counts; here the base has "
                f"{num_base} and {run} {prompt.num_tokens}; name spans instead: 'positions: spans.last'"
            )
        found: Position | None = self._from_at[run].at(names)
        if found is None:
            raise Lack(_as_written(self._origin_written, names), run)
        return found

    def _places(
        self, names: Names, position: Position, from_position: Position | None
    ) -> list[tuple[Place, Place | None]]:
        """Each place of the unit, with the place where its value is taken."""
        coordinates = _cross(self._sites.at(names), self._layers.at(names), self._heads, names)
        places = [Place(site, layer, heads, position) for site, layer, heads in coordinates]
        if not self._zips_heads:
            places = [_in_order(place) for place in places]
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
            origins = [_in_order(origin) for origin in origins]
        zipped = zip(places, _stretch(origins, places), strict=True)
        return [_zip_heads(place, origin) for place, origin in zipped]


class _HeadSlots:
    """A slot of heads for each site, since sites differ in how many heads they have."""

    __slots__ = ("_facts", "_slot", "_slots", "_written")

    def __init__(self, slot: Any, written: Any, facts: ModelFacts):
        self._slot = slot
        self._written = written
        self._facts = facts
        self._slots: dict[str, Slot[_Heads]] = {}

    def at(self, site: str, names: Names) -> _Heads:
        if self._written is None:
            return None
        if site not in self._slots:
            count = num_heads(site, self._facts)
            self._slots[site] = self._slot(self._written, resolve=partial(read_heads, count=count, site=site))
        return self._slots[site].at(names)


def _layers(slot: Any, written: Any, facts: ModelFacts) -> Any:
    return slot(written, resolve=partial(read_layers, count=facts.num_layers))


def _position_slots(slot: Any, written: Any, prompts: Prompts) -> dict[str, Any]:
    return {
        run: slot(written, resolve=partial(read_positions, prompt=prompt)) for run, prompt in prompts.items()
    }


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


def _stretch(origins: list[Place], places: list[Place]) -> list[Place]:
    """One origin for each place: as many are zipped, one alone serves all."""
    if len(origins) == 1:
        origins = origins * len(places)
    if len(origins) != len(places):
        raise StudyError(
            f"from names {len(origins)} places for {len(places)}; lists are zipped, so name as many"
        )
    return origins


def _in_order(place: Place) -> Place:
    """The place with its heads in one spelling."""
    if place.heads is None or len(place.heads) < 2:
        return place
    return replace(place, heads=tuple(sorted(set(place.heads))))


def _zip_heads(place: Place, origin: Place) -> tuple[Place, Place]:
    """Both in the order of the place's heads, so that one swap has one spelling."""
    given, taken = place.heads, origin.heads
    if given is None and taken is None:
        return place, origin
    if given is None or taken is None or len(given) != len(taken):
        counts = [0 if heads is None else len(heads) for heads in (taken, given)]
        raise StudyError(f"from names {counts[0]} heads for {counts[1]}; lists are zipped, so name as many")
    if len(set(given)) < len(given):
        raise StudyError(f"the heads {list(given)} name one twice; name each once")
    pairs = sorted(zip(given, taken, strict=True))
    return (
        replace(place, heads=tuple(head for head, _ in pairs)),
        replace(origin, heads=tuple(head for _, head in pairs)),
    )


def _zip_positions(position: Position, origin: Position) -> tuple[Position, Position]:
    """Both in the order of the base's positions, so that one swap has one spelling."""
    symbolic = any(isinstance(item, str) for item in (*position, *origin))
    if len(position) != len(origin) and not (symbolic or is_pooled(origin)):
        raise StudyError(
            f"{len(position)} positions take values from {len(origin)}; lists are zipped, so name as many"
        )
    if symbolic or len(position) < 2:
        return position, origin
    pairs = sorted(zip(position, origin, strict=True))
    _once(position)
    return tuple(at for at, _ in pairs), tuple(at for _, at in pairs)


def _once(position: Position) -> Position:
    """Token indices in order.

    Raises:
        StudyError: one is there twice.
    """
    if len(set(position)) < len(position):
        raise StudyError(f"the positions {list(position)} name one token twice; name each once")
    return position if any(isinstance(item, str) for item in position) else tuple(sorted(position))


def _is_all(written: Any, block: Block) -> bool:
    """Whether the positions are every token, be it at once or by an axis."""
    if is_reference(written) and written == "$position":
        written = block.positions if block.positions is not None else block.position
    if not isinstance(written, str):
        return False
    found = parse_range(written)
    return written == "all" or (found is not None and found.stop is None)


def _as_written(written: Any, names: Names) -> Any:
    return names.get(written[1:], written) if is_reference(written) else written
