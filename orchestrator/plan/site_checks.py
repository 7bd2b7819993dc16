"""Places that a model does not have, or has in another width: refused while planning, without its weights."""

__all__ = ["check_dims", "check_refused", "check_sites", "check_skips", "check_widths"]

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches

from studies.language.expand import Point
from studies.language.values import FitPlace
from workers.errors import ModelError, StudyError, nearest
from workers.model.facts import ModelFacts
from workers.model.families import family_of, sites_of
from workers.model.site_identities import Identities
from workers.model.sites import is_module_path, num_heads, split_path, width_of
from workers.vocabulary import CellUnit, Place


def check_sites(
    points: Sequence[Point], facts: ModelFacts, modules: Callable[[], Collection[str] | None]
) -> None:
    """Refuse named sites that the model's family does not have, and paths of modules that are not there.

    Args:
        points: of the sweep.
        facts: of the model.
        modules: the paths of its modules, asked for where a point names one; None where nobody knows.

    Raises:
        ModelError: naming the block, the site and those that there are.
    """
    blocks: dict[str, str] = {}
    for point in points:
        for unit in point.cell.every_unit():
            for place in (unit.place, unit.origin):
                if place is not None:
                    blocks.setdefault(place.site, point.block)
    paths = {site: block for site, block in blocks.items() if is_module_path(site)}
    named = {site: block for site, block in blocks.items() if site not in paths}
    there = sites_of(facts) if named else {}
    for site, block in named.items():
        if site not in there:
            raise ModelError(
                f"{block}: {facts.ref} ({facts.model_type}) has no site {site!r}; it has {', '.join(there)}"
                f"{nearest(site, there)}"
            )
    known = modules() if paths else None
    if known is not None:
        _check_paths(paths, known, facts)


def check_refused(
    points: Sequence[Point],
    fits: Iterable[tuple[str, FitPlace]],
    facts: ModelFacts,
    line_of: Callable[[int, str], str | None],
) -> None:
    """Refuse named sites that do not hold what their names promise, as far as tables and the config tell.

    Args:
        points: of the sweep, whose named sites the model has.
        fits: names of fits, each with where it is made.
        facts: of the model.
        line_of: where a block of the sweep writes a word; None where nobody knows.

    Raises:
        ModelError: naming the file and line, the block, the site, the reason and what to write instead.
    """
    try:
        known = Identities.of(facts, family_of(facts.model_type))
    except ModelError:
        return
    if not known.refusals:
        return

    def why(place: Place | FitPlace, *, changes: bool) -> str | None:
        count = num_heads(place.site, facts)
        found = known.refusal(place.site, heads=place.heads, num_heads=count, changes=changes)
        return None if found is None else f"{facts.ref} ({facts.model_type}): {found}"

    for point, place, changes in _places(points):
        if (text := why(place, changes=changes)) is not None:
            line = line_of(point.index, place.site)
            raise ModelError(f"{point.block if line is None else f'{line}: {point.block}'}: {text}")
    for name, made_at in fits:
        if (text := why(made_at, changes=False)) is not None:
            raise ModelError(f"fits.{name}: {text}")


def check_dims(points: Sequence[Point], facts: ModelFacts) -> None:
    """Refuse dimensions that a site, or each of its heads, does not have, as far as the model's config tells.

    Raises:
        StudyError: naming the block, the dimensions, the site and its width.
    """
    seen: set[tuple[str, bool, tuple[tuple[int, int], ...] | None]] = set()
    for point in points:
        for unit in point.cell.every_unit():
            # What a fit makes of a place has a width of its own.
            dims = None if unit.fit is not None else unit.dims
            for place in (unit.place, unit.origin):
                if place is None or dims is None:
                    continue
                key = (place.site, place.heads is not None, dims)
                if key not in seen:
                    seen.add(key)
                    _check_width(point.block, place, dims, facts)


def check_widths(points: Sequence[Point], facts: ModelFacts) -> None:
    """Refuse values that are taken where there are more dimensions, or fewer, than where they are written.

    Raises:
        StudyError: naming the block, both sites and their widths.
    """
    seen: set[object] = set()
    for point in points:
        for unit in point.cell.every_unit():
            if unit.origin is None or unit.origin is unit.place:
                continue
            ends = (unit.place, unit.origin)
            key = (*((place.site, place.heads) for place in ends), unit.dims, unit.fit is None)
            if key in seen:
                continue
            seen.add(key)
            written, taken = (_num_columns(unit, place, facts) for place in ends)
            if written is not None and taken is not None and written != taken:
                raise StudyError(
                    f"{point.block}: a value of {taken} dimensions, from {_named(unit.origin)}, for the"
                    f" {written} of {_named(unit.place)} of {facts.ref}; take it where there are as many"
                )


def check_skips(points: Sequence[Point], facts: ModelFacts) -> None:
    """Refuse to skip what no module returns as it was given.

    Raises:
        StudyError: naming the block, the site and what can be skipped.
    """
    seen: set[str] = set()
    for point in points:
        for unit in point.cell.every_unit():
            site = unit.place.site
            if unit.operation == "skip" and site not in seen:
                seen.add(site)
                if (fault := _unskippable(site, facts)) is not None:
                    raise StudyError(
                        f"{point.block}: skip at {site} of {facts.ref}: {fault}; skip what a module returns,"
                        f" as wide as what it is given: {_skippable(facts)}"
                    )


def _places(points: Sequence[Point]) -> Iterator[tuple[Point, Place, bool]]:
    """Each site with its heads once, with the first point that names it, and whether it is changed there."""
    seen: set[tuple[str, tuple[int, ...] | None, bool]] = set()
    for point in points:
        for unit in point.cell.every_unit():
            for place, changes in ((unit.place, unit.operation != "collect"), (unit.origin, False)):
                if place is not None and (key := (place.site, place.heads, changes)) not in seen:
                    seen.add(key)
                    yield point, place, changes


def _check_width(block: str, place: Place, dims: tuple[tuple[int, int], ...], facts: ModelFacts) -> None:
    reach, width = max(hi for _, hi in dims), width_of(place.site, facts, of_head=place.heads is not None)
    if width is not None and reach > width:
        written = ", ".join(f"{lo}:{hi}" for lo, hi in dims)
        each = "" if place.heads is None else "a head of "
        raise StudyError(
            f"{block}: subspace {written} reaches beyond {each}{place.site} of {facts.ref}, which has {width}"
            f" dimensions; end it at {width} or before"
        )


def _num_columns(unit: CellUnit, place: Place, facts: ModelFacts) -> int | None:
    """Dimensions that the unit has at a place, at one token; None where only the loaded model tells."""
    num_heads = 1 if place.heads is None else len(place.heads)
    if unit.dims is not None and unit.fit is None:
        return num_heads * sum(hi - lo for lo, hi in unit.dims)
    width = width_of(place.site, facts, of_head=place.heads is not None)
    return None if width is None else num_heads * width


def _named(place: Place) -> str:
    return place.site if place.heads is None else f"{place.site}, heads {', '.join(map(str, place.heads))}"


def _unskippable(site: str, facts: ModelFacts) -> str | None:
    """Why the module that computes a site cannot be skipped; None where it can, as far as is known."""
    if is_module_path(site):
        return "that is what a module is given" if split_path(site)[1] == "input" else None
    spot = family_of(facts.model_type).sites[site]
    if spot.side == "input":
        return "that is what a module is given"
    if spot.part is not None:
        return "one module makes queries, keys and values"
    if spot.times is not None:
        return f"that is what a module returns, times {spot.times}"
    width = width_of(site, facts)
    return None if width in (None, facts.width) else f"it is {width} wide, made from {facts.width}"


def _skippable(facts: ModelFacts) -> str:
    try:
        sites = family_of(facts.model_type).sites
        named = [site for site in sites_of(facts) if _unskippable(site, facts) is None]
    except ModelError:
        named = []
    # Sites that are one module's output are named once.
    first = {sites[site]: site for site in reversed(named)}
    return ", ".join([*reversed(first.values()), "or a module path without ':input'"])


def _check_paths(paths: Mapping[str, str], known: Collection[str], facts: ModelFacts) -> None:
    missing = [site for site in paths if split_path(site)[0] not in known]
    if missing:
        (first, *others), block = missing, paths[missing[0]]
        module = split_path(first)[0]
        close = get_close_matches(module, known, n=3)
        more = f" (nor those of {len(others):,} more sites of the study)" if others else ""
        raise ModelError(
            f"{block}: {facts.ref} has no module {module!r}{more}; near it are {', '.join(close)}"
            if close
            else f"{block}: {facts.ref} has no module {module!r}{more}; it has {', '.join(_tops(known))}"
        )


def _tops(known: Collection[str]) -> list[str]:
    """The modules next to the model itself, and those next to them."""
    return [path for path in known if path and path.count(".") < 2 and not path[-1].isdigit()]
