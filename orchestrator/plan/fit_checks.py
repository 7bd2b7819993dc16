"""Checks of fits against the study, the model's config and the pairs: ranks, widths, classes, tokens."""

__all__ = ["check_fits", "check_parts", "check_tokens", "named"]

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from orchestrator.plan.autoencoders import weights_at
from orchestrator.plan.fits import LaneFits, MadeFit
from orchestrator.plan.prepare import Input
from studies.language.expand import Expansion, PairClass, Point
from studies.language.resolve import Dims
from studies.language.values import looked_at, tokens_at
from workers.errors import StudyError, counted
from workers.model.facts import ModelFacts
from workers.model.sites import width_of
from workers.vocabulary import Place, Position, locate

Names = Mapping[str, MadeFit]
"""The fits that cells name, by identity."""

_PCA_RUNS = ("base", "source")
"""Whose activations principal components are made from where the study does not say."""


def check_fits(fits: LaneFits, facts: ModelFacts) -> None:
    """Refuse a fit with more directions than its place or its activations have, or without its classes.

    Raises:
        StudyError: naming the fit, what was asked for, and what there is.
    """
    inputs = {one.given: one for one in fits.inputs}
    for made in fits.made.values():
        _check_rank(made, facts)
        if made.spec["method"] == "pca":
            _check_activations(made, inputs)
        if made.spec["method"] == "sae":
            _check_file(made, facts)
        if made.spec["method"] in ("probe", "mean_difference"):
            _check_classes(made)


def check_parts(points: Sequence[Point], fits: Names, facts: ModelFacts) -> None:
    """Refuse parts of a fit's coordinates that are not there, and vectors of another width than the place.

    Raises:
        StudyError: naming the block, the fit, what was asked for, and what there is.
    """
    seen: set[object] = set()
    for point in points:
        for unit in point.cell.every_unit():
            if unit.fit is None and unit.value_fit is None:
                continue
            key = (unit.fit, unit.value_fit, unit.dims, unit.place.site, unit.place.heads)
            if key in seen:
                continue
            seen.add(key)
            if unit.fit is not None and unit.dims is not None:
                _check_part(point.block, fits[unit.fit], unit.dims, facts)
            if unit.value_fit is not None:
                _check_vector(point.block, fits[unit.value_fit], unit.place, facts)


def check_tokens(
    expansions: Mapping[PairClass, Expansion], members: Mapping[PairClass, Sequence[Input]], fits: LaneFits
) -> None:
    """Refuse a mean by position at a token that none of the pairs which it is made from has.

    Raises:
        StudyError: naming the block, the fit, the token, and a pair.
    """
    names = named(fits)
    inputs = {one.given: one for one in fits.inputs}
    known: dict[str, set[int]] = {}
    for kind, expansion in expansions.items():
        for block, fit, position in _by_position(expansion.points, names):
            made = names[fit]
            if fit not in known:
                run = made.spec.get("of", "base")
                known[fit] = {at for one in _fitted(made, inputs) for at in _looked(made, one, run)}
            for one in members[kind]:
                _check_known(block, made, known[fit], position, one)


def named(fits: LaneFits) -> Names:
    """Each fit by its identity, under the first of its names."""
    return {identity: made for (identity, _), made in reversed(fits.made.items())}


def _check_part(block: str, made: MadeFit, dims: Dims, facts: ModelFacts) -> None:
    count = _num_coordinates(made, facts)
    if count is not None and dims[-1][1] > count:
        written = ", ".join(f"{lo}:{hi}" for lo, hi in dims)
        raise StudyError(
            f"{block}: subspace {made.name}[{written}] reaches beyond the fit {made.name!r}"
            f" ({made.spec['method']}), which has {counted(count, 'coordinate')} at {_at(made)}; end it at"
            f" {count} or before"
        )


def _check_vector(block: str, made: MadeFit, place: Place, facts: ModelFacts) -> None:
    there = width_of(place.site, facts, of_head=place.heads is not None)
    made_of = _width(made, facts)
    if there is None or made_of is None:
        return
    wanted, given = there * len(place.heads or (0,)), made_of * len(made.place.heads or (0,))
    if wanted != given:
        raise StudyError(
            f"{block}: the fit {made.name!r} is a vector of {given} dimensions, made at {_at(made)}, for the"
            f" {wanted} of {place.site} of {facts.ref}; make it where there are as many"
        )


def _check_known(block: str, made: MadeFit, known: Collection[int], position: Position, one: Input) -> None:
    missing = [token for token in locate(position, one.spans.get("base", {})) if token not in known]
    if missing:
        raise StudyError(
            f"{block}: the fit {made.name!r} has a mean for each token, and saw no pair with token"
            f" {missing[0]} at {_at(made)}, which pair {one.given} needs; it saw {_ranges(known)}. Fit it on"
            " pairs that have the token, or leave 'position' out of its per"
        )


def _by_position(points: Sequence[Point], fits: Names) -> Iterator[tuple[str, str, Position]]:
    """The block, the fit and the base's tokens of each unit that takes a mean by position, each once."""
    if not any(made.spec.get("by_position") for made in fits.values()):
        return
    seen: dict[tuple[str, str, Position], None] = {}
    for point in points:
        for unit in point.cell.every_unit():
            if unit.value_fit is not None and fits[unit.value_fit].spec.get("by_position"):
                seen[point.block, unit.value_fit, unit.place.position] = None
    yield from seen


def _check_rank(made: MadeFit, facts: ModelFacts) -> None:
    rank, width = made.spec.get("rank"), _width(made, facts)
    if rank is not None and width is not None and rank > width:
        each = "" if made.place.heads is None else "a head of "
        raise StudyError(
            f"fits.{made.name}: rank {rank} at {each}{_at(made)} of {facts.ref}, which has {width}"
            f" dimensions; take a rank of at most {width}"
        )


def _check_activations(made: MadeFit, inputs: Mapping[int, Input]) -> None:
    of = made.spec.get("of")
    runs = _PCA_RUNS if of is None else (of,)
    each = len(made.place.heads or (0,))
    count = each * sum(len(_looked(made, one, run)) for one in _fitted(made, inputs) for run in runs)
    rank = made.spec["rank"]
    if rank > count:
        raise StudyError(
            f"fits.{made.name}: rank {rank} of {counted(count, 'activation')} (of"
            f" {counted(len(made.pairs.fitted), 'pair')} at {_at(made)}, {' and '.join(runs)}); take a rank"
            f" of at most {count}, or more pairs"
        )


def _check_file(made: MadeFit, facts: ModelFacts) -> None:
    file, width = weights_at(Path(made.spec["path"])), _width(made, facts)
    if width is not None and file.width != width:
        raise StudyError(
            f"fits.{made.name}: {made.spec['path']} is for {file.width} dimensions, and {_at(made)} of"
            f" {facts.ref} has {width}; name its own place"
        )


def _check_classes(made: MadeFit) -> None:
    """A probe tells at least two classes apart, a difference just two, or none where no pair has any."""
    classes, is_probe = made.pairs.classes, made.spec["method"] == "probe"
    if not classes and not is_probe:
        return
    number = len(made.pairs.fitted)
    lacking = [
        given
        for given, pair in zip(made.pairs.fitted, classes or ((None,),) * number, strict=True)
        if None in pair
    ]
    if lacking:
        others = "" if is_probe else ", or to none"
        raise StudyError(
            f"fits.{made.name}: a {made.spec['method']} needs the columns base_class and source_class, and"
            f" {len(lacking):,} of the {number:,} pairs that it is made from lack one, such as pair"
            f" {min(lacking)}; give them to every pair{others}"
        )
    names = sorted(Counter(str(name) for pair in classes for name in pair))
    if len(names) < 2 or (len(names) > 2 and not is_probe):
        needed = "two classes or more" if is_probe else "two classes"
        raise StudyError(
            f"fits.{made.name}: a {made.spec['method']} is between {needed}, and base_class and source_class"
            f" of its {number:,} pairs name {', '.join(map(repr, names))}"
        )


def _num_coordinates(made: MadeFit, facts: ModelFacts) -> int | None:
    """Number of coordinates of the fit; None where only the loaded model tells."""
    method, rank = made.spec["method"], made.spec.get("rank")
    if method == "sae":
        return weights_at(Path(made.spec["path"])).num_features
    if method == "probe":
        return len({name for pair in made.pairs.classes for name in pair}) - 1
    if method == "mean_difference":
        return 1
    return rank if rank is not None else _width(made, facts)


def _width(made: MadeFit, facts: ModelFacts) -> int | None:
    return width_of(made.place.site, facts, of_head=made.place.heads is not None)


def _fitted(made: MadeFit, inputs: Mapping[int, Input]) -> Iterator[Input]:
    return (inputs[given] for given in made.pairs.fitted)


def _looked(made: MadeFit, one: Input, run: str) -> tuple[int, ...]:
    """The tokens of a run at which the fit looks; none where the pair has no such run."""
    if run not in one.tokens or run not in looked_at(made.spec["method"], made.spec.get("of"), one.tokens):
        return ()
    return tokens_at(made.place.position, len(one.tokens[run]), one.spans.get(run, {})) or ()


def _at(made: MadeFit) -> str:
    """A fit's place in words."""
    place = made.place
    layer = "" if place.layer is None else f", layer {place.layer}"
    position = ", ".join(map(str, place.position))
    return f"{place.site}{layer}{f', position {position}' if position else ''}"


def _ranges(tokens: Collection[int]) -> str:
    """``0 to 2, 5``."""
    ends: list[list[int]] = []
    for token in sorted(tokens):
        if ends and token == ends[-1][1] + 1:
            ends[-1][1] = token
        else:
            ends.append([token, token])
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in ends)
