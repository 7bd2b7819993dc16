"""Blocks that end up without cells, and ranges that are cut to the model: said, with the reason and the line.

A block that has nothing to do is a mistake nine times in ten (a value that no pair has, a range written
backwards). Where other blocks have cells the study still means something, so that it is a note; where nothing
at all is left it is an error, with the reason of each block.
"""

__all__ = ["Lacking", "notes_of", "reasons_of"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.plan.pair_classes import meant
from orchestrator.plan.pair_columns import Row
from studies import Study
from studies.language.blocks import AXES, Block, UnitKeys
from studies.language.expand import PairClass
from studies.language.grammar import parse_every_span, parse_range
from studies.language.variables import VARIABLE, is_about
from studies.problems import shown
from workers.errors import ModelError, counted
from workers.model.facts import ModelFacts
from workers.model.sites import is_module_path, num_heads

_RANGES = ("layer", "head", "position", "seed")
"""The keys whose values may be ranges of numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lacking:
    """Models and pairs on which the blocks of a study were tried, and the points that they had."""

    study: Study
    rows: Sequence[Row]
    """The given pairs."""
    lanes: Sequence[tuple[str, ModelFacts, Sequence[PairClass]]]
    """Of each lane its model's name, what is known of it, and the class of each kept pair."""
    counts: Mapping[tuple[int, str], int]
    """(place of the lane, block) → how many points it has."""

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """The blocks with their numbers; of several of one name, which training makes of one, the first."""
        names: set[str] = set()
        for index, block in enumerate(self.study.blocks()):
            if block.name not in names:
                names.add(str(block.name))
                yield index, block


def reasons_of(lacking: Lacking) -> list[str]:
    """Why each block without a cell has none, a line each that begins with its name."""
    return [
        f"{block.name}: {_reason(lacking, index, block)}"
        for index, block in lacking.blocks()
        if not any(lacking.counts.get((lane, str(block.name))) for lane in range(len(lacking.lanes)))
    ]


def notes_of(lacking: Lacking) -> list[str]:
    """Notes on blocks that do not do what is written: blocks without cells, and ranges that are cut."""
    found = [
        reason.replace(": ", ": no cell, only other blocks have some: ", 1) for reason in reasons_of(lacking)
    ]
    for _, block in lacking.blocks():
        found += [f"{block.name}: {text}" for text in _cuts(lacking, block)]
    return list(dict.fromkeys(found))


def _reason(lacking: Lacking, index: int, block: Block) -> str:
    kinds = [kind for _, _, found in lacking.lanes for kind in found]
    mine = [kind for kind in kinds if kind.blocks is None or index in kind.blocks]
    if not mine and block.where is not None:
        hint = meant(lacking.rows, block.where)
        told = f"where: {shown(block.where)} keeps 0 of {counted(len(kinds), 'pair')}"
        return f"{told}: {hint}" if hint else told
    about = [kind for kind in mine if is_about(block, _variable(kind))]
    if not about:
        written = block.variable if block.variables is None else block.variables
        return f"variable {shown(written)}: none of {counted(len(mine), 'pair')} is about it"
    for key, written in _written(block):
        if (why := _nothing(lacking, block, key, written)) is not None:
            return why
    return "its axes leave no cell for these pairs and models; widen them"


def _variable(kind: PairClass) -> str | None:
    own = dict(kind.columns).get(VARIABLE)
    return None if own is None else str(own)


def _written(block: Block) -> Iterator[tuple[str, str]]:
    """Each text that says a range, with its key: of the block's axes, of its units, of their values."""
    units: list[UnitKeys] = [block, *(block.units or ())]
    units += [unit for run in (block.runs or {}).values() for unit in run]
    for unit in units:
        for key in _RANGES:
            for form in (key, AXES[key]):
                for spec in (unit, unit.from_):
                    written = getattr(spec, form, None)
                    for item in written if isinstance(written, tuple) else (written,):
                        if isinstance(item, str) and "$" not in item:
                            yield form, item


def _nothing(lacking: Lacking, block: Block, form: str, written: str) -> str | None:
    """Why a text of an axis or a unit means nothing for any model and pair; None where it means something."""
    if parse_every_span(written) is not None:
        has_none = all(not kind.spans for _, _, kinds in lacking.lanes for kind in kinds)
        return f"{form} {written!r}: the pairs have no spans" if has_none else None
    found = parse_range(written)
    if found is None:
        return None
    start, stop = found.bounds(lambda name: 0)
    counts = [count for _, count in _counts(lacking, block, form)]
    if form in ("seed", "seeds") or not counts:
        is_empty = start is not None and stop is not None and start >= stop
    else:
        is_empty = not any(found.indices(count, lambda name: 0) for count in counts)
    if not is_empty:
        return None
    if start is not None and stop is not None and start >= stop:
        return f"{form} {written!r} is empty: a range is 'START:STOP' with START below STOP"
    return f"{form} {written!r} is empty: there are {max(counts)} {_spoken(form)}, 0 to {max(counts) - 1}"


def _cuts(lacking: Lacking, block: Block) -> Iterator[str]:
    """Ranges of layers and heads that reach beyond the model."""
    for form, written in _written(block):
        found = parse_range(written)
        if found is None or form not in ("layer", "layers", "head", "heads"):
            continue
        start, stop = found.bounds(lambda name: 0)
        for model, count in _counts(lacking, block, form):
            if stop is not None and stop > count and (start or 0) < count:
                there = f"{model} has {counted(count, _spoken(form)[:-1])}"
                yield f"{form} {written!r} is cut to '{start or 0}:{count}', for {there}"


def _counts(lacking: Lacking, block: Block, form: str) -> Iterator[tuple[str, int]]:
    """Reach of a key, for each model: its layers, its heads, the tokens of the longest prompt."""
    for model, facts, kinds in lacking.lanes:
        names = [getattr(spec, "ref", None) for spec in block.models or (block.model,)]
        if model not in names:
            continue
        if form in ("layer", "layers"):
            yield model, facts.num_layers
        elif form in ("head", "heads"):
            yield from ((model, count) for count in _head_counts(block, facts))
        elif kinds:
            yield model, max(count for kind in kinds for _, count in kind.lengths)


def _head_counts(block: Block, facts: ModelFacts) -> Iterator[int]:
    """Number of heads of the sites that a block names, where all have as many."""
    specs: list[UnitKeys] = [block, *(block.units or ())]
    written = [getattr(spec, form, None) for spec in specs for form in ("site", "sites")]
    sites = [item for one in written for item in (one if isinstance(one, tuple) else (one,))]
    found = set()
    for site in sites:
        if isinstance(site, str) and "$" not in site and not is_module_path(site):
            try:
                found.add(num_heads(site, facts))
            except ModelError:
                return
    if len(found) == 1 and (count := found.pop()) is not None:
        yield count


def _spoken(form: str) -> str:
    return "tokens" if form.startswith("position") else f"{form.removesuffix('s')}s"
