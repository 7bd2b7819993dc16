"""Checks across keys: whether the names that a study uses exist, and its units are complete."""

__all__ = ["COORDINATES", "find_problems", "name_problems", "names_of", "values_of", "written"]

from collections.abc import Iterator, Mapping

from studies.language.blocks import (
    AXES,
    UNIT_AXES,
    Block,
    UnitKeys,
    UnitSpec,
    ValueSpec,
    is_source,
    named_axes,
)
from studies.language.grammar import is_reference, parse_subspace, references
from studies.language.models import Task
from studies.language.part_checks import (
    aligned_block_problems,
    place_problems,
    plot_problems,
    size_problems,
    train_problems,
)
from studies.language.schema import StudyKeys
from studies.language.variables import has_no_place
from studies.names import NAME_RULE, RESERVED, is_name
from studies.problems import Problem, shown
from studies.yaml import KeyPath
from workers.errors import nearest
from workers.model.sites import is_module_path

COORDINATES = (*UNIT_AXES, "coordinates")
"""The keys of a unit that take a written value; ``from`` is the other one."""

_VALUES = ("source", "source_2", "base", "zero", "mean")

_WORDS = (*_VALUES, "noise", "fit")
"""Names that say where a value comes from, in a file or in a plan: nothing else can be called so."""

_VECTORS = ("mean", "mean_difference")
"""The methods that make a vector, which can be a value."""


def written(unit: UnitKeys) -> Iterator[tuple[KeyPath, object]]:
    """Every written value of a unit with its path below the unit, those inside ``from`` too."""
    for key in COORDINATES:
        if getattr(unit, key) is not None:
            yield (key,), getattr(unit, key)
    if unit.from_ is not None:
        for key in ValueSpec.model_fields:
            if getattr(unit.from_, key) is not None:
                yield ("from",) if key == "run" else ("from", key), getattr(unit.from_, key)


def name_problems(study: StudyKeys) -> Iterator[Problem]:
    """Names of plots, fits, trainings and blocks that are no names of files: see `studies.names`."""
    named: list[tuple[KeyPath, str]] = [
        ((key, name), name) for key in ("plots", "fits", "train") for name in getattr(study, key) or {}
    ]
    named += [(("sweep", n, "name"), block.name) for n, block in enumerate(study.sweep) if block.name]
    for path, name in named:
        if not is_name(name):
            yield Problem(path, f"{shown(name)} is not allowed as a name here; allowed: {NAME_RULE}")


def find_problems(study: StudyKeys, blocks: tuple[Block, ...]) -> list[Problem]:
    """Everything that is wrong with the names in `study`, whose merged blocks are `blocks`."""
    problems = list(_inputs(study, blocks))
    for name in study.fits or {}:
        problems.extend(_name_problems(study, name, ("fits", name)))
    problems.extend(place_problems(study.alignment or {}, ("alignment",)))
    for name, aligned in (study.alignment or {}).items():
        problems.extend(_fit_problems(study, aligned.subspace, ("alignment", name, "subspace")))
    problems.extend(train_problems(study))
    problems.extend(plot_problems(study, blocks))
    problems.extend(size_problems(study))
    names: set[str] = set()
    spellings: dict[str, str] = {}
    for index, (raw, block) in enumerate(zip(study.sweep, blocks, strict=True)):
        if block.name in names:
            problems.append(
                Problem(("sweep", index), f"two blocks are named {block.name!r}; names must differ")
            )
        names.add(block.name or "")
        for name in named_axes(block.for_):
            if spellings.setdefault(name.casefold(), name) != name:
                text = f"{name!r} is {spellings[name.casefold()]!r} elsewhere; write an axis in one way"
                problems.append(Problem(("sweep", index, "for", name), text))
        problems.extend(_block_problems(study, raw, block, ("sweep", index)))
    return problems


def _inputs(study: StudyKeys, blocks: tuple[Block, ...]) -> Iterator[Problem]:
    """The model and the pairs, which every block needs."""
    has_task = [block.task is not None or block.tasks is not None for block in blocks]
    if study.pairs is not None and any(has_task):
        yield Problem(("pairs",), "both pairs and a task are here; allowed: one of the two")
    if study.pairs is None and not all(has_task):
        yield Problem((), "the key 'task' or 'pairs' is missing; one of them is required")
    for block in blocks:
        if block.model is None and block.models is None:
            yield Problem((), f"the key 'model' is missing; {block.name} has none")
        names = [task.name for task in block.tasks or () if isinstance(task, Task)]
        if len(set(names)) < len(names):
            yield Problem(("tasks",), "two tasks have one name; allowed: each name once")


def _block_problems(study: StudyKeys, raw: Block, block: Block, path: KeyPath) -> Iterator[Problem]:
    units: list[tuple[KeyPath, UnitKeys]] = [
        ((*path, "units", index), unit) for index, unit in enumerate(block.units or ())
    ]
    yield from _axis_problems(raw, block, path)
    yield from _run_problems(study, raw, block, path)
    for key, value in written(block):
        where = (*path, *key) if getattr(raw, _attribute(key[0])) is not None else key
        yield from _value_problems(study, block, key, value, where)
    for place, unit in units:
        for key, value in written(unit):
            yield from _value_problems(study, block, key, value, (*place, *key))
    if block.units is None and isinstance(block.subspaces, tuple):
        where = (*path, "subspaces") if raw.subspaces is not None else ("subspaces",)
        for index, value in enumerate(block.subspaces):
            yield from _value_problems(study, block, ("subspace",), value, (*where, index))
    for name, aligned in (raw.alignment or {}).items():
        yield from _fit_problems(study, aligned.subspace, (*path, "alignment", name, "subspace"))
    yield from place_problems(raw.alignment or {}, (*path, "alignment"))
    if has_no_place(block):
        yield from aligned_block_problems(study, raw, block, path)
    else:
        for place, unit in units or [(path, block)]:
            yield from _missing_coordinates(block, unit, place)


def _run_problems(study: StudyKeys, raw: Block, block: Block, path: KeyPath) -> Iterator[Problem]:
    """Names and units of the block's runs; a run takes values from those listed before it only."""
    before: list[str] = []
    for name, units in (block.runs or {}).items():
        own = raw.runs is not None and name in raw.runs
        where: KeyPath = (*(path if own else ()), "runs", name)
        yield from _name_problems(study, name, where)
        for index, unit in enumerate(units):
            place = (*where, index)
            for key, value in written(unit):
                yield from _value_problems(study, block, key, value, (*place, *key))
            yield from _later_runs(block, unit, before, (*place, "from"))
            if "collect" in values_of(block, unit.intervention):
                text = "'collect' in a run, which is there to change things; write it in a unit of the block"
                yield Problem((*place, "intervention"), text)
            yield from _missing_coordinates(block, unit, place)
        before.append(name)


def _name_problems(study: StudyKeys, name: str, path: KeyPath) -> Iterator[Problem]:
    """A run or a fit whose name means something else."""
    if name in _WORDS or is_source(name):
        yield Problem(path, f"{name!r} says where a value comes from already; give it a name of its own")
    if path[-2] == "fits" and name == "all":
        yield Problem(path, "'all' is all dimensions already, as a subspace; give it a name of its own")
    if path[-2] == "runs" and name in (study.fits or {}):
        yield Problem(path, f"{name!r} is a fit, too; give the run a name of its own")


def _later_runs(block: Block, unit: UnitSpec, before: list[str], path: KeyPath) -> Iterator[Problem]:
    """Values of a run that is not there yet when this one is made."""
    run = None if unit.from_ is None else unit.from_.run
    for found in values_of(block, run) if run is not None else ():
        if found in (block.runs or {}) and found not in before:
            known = ", ".join(before) or "none"
            yield Problem(path, f"the run {found!r} is not there yet; runs listed before this one: {known}")


def _axis_problems(raw: Block, block: Block, path: KeyPath) -> Iterator[Problem]:
    """Axes that reach no unit would only repeat cells; names that mean two things mislead."""
    used = _used(block)
    for name in named_axes(block.for_):
        if name.casefold() in (*AXES, "from", "pair"):
            yield Problem((*path, "for", name), f"{name!r} is a key already; allowed: a name of your own")
        if name.casefold() in RESERVED:
            text = f"{name!r} is a column of the views already; allowed: a name of your own"
            yield Problem((*path, "for", name), text)
    for singular in UNIT_AXES:
        plural = AXES[singular]
        if raw.units is not None and getattr(raw, plural) is not None and singular not in used:
            text = f"no unit uses this axis; write '{singular}: ${singular}' in a unit"
            yield Problem((*path, plural), text)
    for name, values in names_of(block).items():
        # A path among the sites may hold the layer, where there is one.
        held = {"layer"} & names_of(block).keys() if name == "site" else set()
        if any(not found.startswith("pair.") for found in references(values) - held):
            text = (
                "the values of an axis cannot name other axes; allowed: $pair.COLUMN, $layer in a path of"
                " sites beside layer or layers, or units that do"
            )
            where = ("for", name) if name not in AXES else (AXES[name],)
            yield Problem((*path, *where), text)
    yield from _repeated_layers(block, path)


def _repeated_layers(block: Block, path: KeyPath) -> Iterator[Problem]:
    """Module paths that are the same at every layer of an axis, which nothing else of the unit uses."""
    elsewhere = references([value for _, value in written(block)])
    if block.units is not None or block.layers is None or "layer" in elsewhere:
        return
    for sites in _sites_of(block, block):
        if all(_is_path(site) and "layer" not in references(site) for site in sites):
            text = (
                f"the module path {sites[0]!r} has no '$layer', so the axis 'layers' cannot reach it;"
                " write '$layer' in it, or give it a block of its own"
            )
            yield Problem((*path, "site" if block.sites is None else "sites"), text)


def _sites_of(block: Block, unit: UnitKeys) -> list[tuple[object, ...]]:
    """The sites that a unit has at once, for each value of the axis that they come from, if any.

    None at all where they stand in a column of the pairs.
    """
    own = unit.site if unit.site is not None else block.site
    found = values_of(block, own or "$site") if own is None or is_reference(own) else (own,)
    return [sites if isinstance(sites, tuple) else (sites,) for sites in found]


def _is_path(site: object) -> bool:
    return isinstance(site, str) and is_module_path(site)


def _used(block: Block) -> frozenset[str]:
    """The names that the units use, those in the values of an axis of sites too."""
    units: list[UnitSpec] = [*(block.units or ()), *(u for run in (block.runs or {}).values() for u in run)]
    used = frozenset[str]().union(*(references(value) for unit in units for _, value in written(unit)))
    return used | references(block.sites) if "site" in used else used


def _value_problems(
    study: StudyKeys, block: Block, key: KeyPath, value: object, path: KeyPath
) -> Iterator[Problem]:
    """Names after ``$``, runs and fits that do not exist."""
    known = names_of(block)
    for name in sorted(references(value)):
        if name not in known and not name.startswith("pair."):
            allowed = ", ".join(f"${n}" for n in sorted(known)) or "none here"
            text = f"{shown(value)} is not allowed here; allowed names: {allowed}, $pair.COLUMN"
            yield Problem(path, text + nearest(name, known))
    for found in values_of(block, value):
        if key == ("from",):
            yield from _unknown_run(study, block, found, path)
            yield from _wrong_method(study, found, True, path)
        if key == ("subspace",):
            yield from _fit_problems(study, found, path)
        if key == ("from", "fit"):
            yield from _unknown_fit(study, found, (), path)
            yield from _wrong_method(study, found, True, path)
    if key == ("from", "noise") and block.seed is None and block.seeds is None:
        yield Problem(path, "noise is drawn, and nothing says from which seed; write seed: 0, or seeds")


def _fit_problems(study: StudyKeys, subspace: object, path: KeyPath) -> Iterator[Problem]:
    """Fits that a subspace names, or each of several at once, and that are not there."""
    for one in subspace if isinstance(subspace, tuple) else (subspace,):
        parsed = parse_subspace(one) if isinstance(one, str) and not is_reference(one) else None
        fit = parsed[0] if parsed else None
        yield from _unknown_fit(study, fit, ("all",), path)
        yield from _wrong_method(study, fit, False, path)


def _unknown_run(study: StudyKeys, block: Block, run: object, path: KeyPath) -> Iterator[Problem]:
    known = [*_VALUES, *(block.runs or {}), *(study.fits or {})]
    if is_reference(run) or (isinstance(run, str) and (run in known or is_source(run))):
        return
    text = f"{shown(run)} is not allowed here; allowed: {', '.join(known)}{nearest(str(run), known)}"
    yield Problem(path, text)


def _unknown_fit(study: StudyKeys, fit: object, others: tuple[str, ...], path: KeyPath) -> Iterator[Problem]:
    known = [*others, *(study.fits or {})]
    if fit is not None and not is_reference(fit) and fit not in known:
        allowed = ", ".join(known) or "none, for the study has no fits"
        yield Problem(path, f"no fit {shown(fit)}; allowed: {allowed}{nearest(str(fit), known)}")


def _wrong_method(study: StudyKeys, fit: object, is_value: bool, path: KeyPath) -> Iterator[Problem]:
    """A fit that is no vector as a value, or one that has no coordinates as a subspace."""
    made = (study.fits or {}).get(fit) if isinstance(fit, str) else None
    if made is None:
        return
    method = made.method
    if is_value and method not in _VECTORS:
        text = f"the fit {fit!r} ({method}) is no vector; values are fits of {', '.join(_VECTORS)}"
        yield Problem(path, text)
    if not is_value and method == "mean":
        yield Problem(path, f"the fit {fit!r} is a mean, which has no coordinates; write 'from: {fit}'")


def _missing_coordinates(block: Block, unit: UnitKeys, path: KeyPath) -> Iterator[Problem]:
    """A unit needs a site, a position or coordinates, and a layer where its site is a name."""

    def has(key: str) -> bool:
        axis_reaches = unit is block and getattr(block, AXES[key]) is not None
        return getattr(unit, key) is not None or getattr(block, key) is not None or axis_reaches

    is_region = unit.coordinates is not None or block.coordinates is not None
    yield from _both_coordinates(unit, is_region, path)
    needed = ["site"] if is_region else ["site", "position"]
    if not has("site") or not all(_is_path(site) for sites in _sites_of(block, unit) for site in sites):
        needed.append("layer")
    for key in needed:
        if not has(key):
            yield Problem(path, f"the key {key!r} or {AXES[key]!r} is missing; a unit needs it")


def _both_coordinates(unit: UnitKeys, is_region: bool, path: KeyPath) -> Iterator[Problem]:
    """Positions, heads or dimensions beside coordinates, in a unit or where its value is taken."""
    told = ("head", "position", "subspace")
    own = [key for one in told for key in (one, AXES[one]) if getattr(unit, key, None) is not None]
    value = unit.from_
    if is_region and own:
        yield Problem(
            (*path, own[0]), f"{own[0]!r} beside coordinates; with coordinates leave {', '.join(told)} out"
        )
    if value is None:
        return
    if is_region and (value.head is not None or value.position is not None):
        yield Problem(
            (*path, "from"), "with coordinates a value is taken at a site, a layer and coordinates alone"
        )
    if not is_region and value.coordinates is not None:
        yield Problem((*path, "from"), "coordinates of a value only beside coordinates of the unit")


def names_of(block: Block) -> dict[str, tuple[object, ...]]:
    """The names that ``$`` can reach in a block, with the values that are written for them."""
    found: dict[str, tuple[object, ...]] = {}
    for singular, plural in AXES.items():
        one, many = getattr(block, singular), getattr(block, plural)
        if many is not None:
            found[singular] = tuple(many) if isinstance(many, list | tuple) else (many,)
        elif one is not None and not references(one):
            found[singular] = (one,)
    found.update({name: tuple(values) for name, values in named_axes(block.for_).items()})
    return found


def values_of(block: Block, value: object) -> tuple[object, ...]:
    """The values that a written value can have: itself, or each of its axis."""
    if is_reference(value):
        return names_of(block).get(value[1:], ())
    if isinstance(value, Mapping):
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _attribute(key: object) -> str:
    return "from_" if key == "from" else str(key)
