"""Positions and reads that the pairs or the model do not have: refused while planning."""

__all__ = [
    "check_positions",
    "check_reads",
    "check_spans",
    "check_whole",
]

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from orchestrator.plan.prepare import Input
from studies import Study
from studies.language.expand import Expansion, Missing, PairClass, Point
from workers.errors import StudyError, counted
from workers.model.facts import ModelFacts
from workers.model.families import num_positions
from workers.vocabulary import ModelSpec, Place, Position, is_pooled, locate

Expansions = Mapping[PairClass, Expansion]
Members = Mapping[PairClass, Sequence[Input]]

_Swap = tuple[Position, str, Position | None]
"""Positions in the base, the run whose values they take, and where in it (None: nowhere)."""


def check_positions(study: Study, expansions: Expansions, members: Members) -> None:
    """Refuse positions and runs that some pairs lack, unless the block skips them, or that no pair has.

    Raises:
        StudyError: naming the position or the run, how many pairs lack it, and one of them.
    """
    lacking: dict[Missing, list[Input]] = defaultdict(list)
    for kind, expansion in expansions.items():
        for missing in expansion.missing:
            lacking[missing] += members[kind]
    for missing, inputs in lacking.items():
        total = _num_about(study, missing.block, members)
        if missing.skip and len(inputs) < total:
            continue
        advice = "" if missing.skip else ", or set missing: skip to leave such pairs out"
        what, name = ("run", missing.run) if missing.position is None else ("position", missing.position)
        raise StudyError(
            f"{missing.block}: {what} {name!r} does not exist in {len(inputs):,} of"
            f" {counted(total, 'pair')}, such as pair {_shown(inputs[0], missing.run)}; take another"
            f" {what}{advice}"
        )


def check_reads(study: Study, model: ModelSpec, facts: ModelFacts) -> None:
    """Refuse to read somewhere in a model that answers once for the whole run.

    Raises:
        StudyError: naming the block and what it reads.
    """
    for block in study.blocks():
        read = block.read if block.reads is None else block.reads
        if facts.reads == "run" and read is not None and model in (block.models or (block.model,)):
            raise StudyError(
                f"{block.name}: read {read!r}: {facts.ref} classifies the run as a whole, so there is one"
                " answer to read; leave read out"
            )


def check_whole(points: Sequence[Point], facts: ModelFacts, lengths: Mapping[str, int]) -> None:
    """Refuse some tokens of a site that has one position for the whole run.

    Raises:
        StudyError: naming the block, the site and the position.
    """
    for point in points:
        for unit in point.cell.every_unit():
            for place, run in ((unit.place, "base"), (unit.origin, unit.run)):
                num_tokens = lengths.get(run, lengths["base"])
                if place is not None and not _is_there(place, facts, num_tokens):
                    raise StudyError(
                        f"{point.block}: position {_written(place.position)}: {place.site} of {facts.ref} has"
                        " one for the whole run; write 'position: 0', and a subspace for a part of it"
                    )


def check_spans(study: Study, expansions: Expansions, members: Members) -> None:
    """Refuse what named spans cannot give: a token that some span is too short for, or whole spans that
    take their values from spans of another length.

    Raises:
        StudyError: naming the position, how many pairs it fails in, and one of them.
    """
    broken: dict[tuple[str, _Swap], list[tuple[Input, str]]] = defaultdict(list)
    for kind, expansion in expansions.items():
        for block, swap in _symbolic(expansion.points):
            faults = ((one, _fault(one, *swap)) for one in members[kind])
            broken[block, swap] += [(one, fault) for one, fault in faults if fault is not None]
    for (block, (position, _, _)), found in broken.items():
        if found:
            (one, fault), total = found[0], _num_about(study, block, members)
            raise StudyError(
                f"{block}: position {_written(position)} fails in {len(found):,} of"
                f" {counted(total, 'pair')}, such as pair {one.given}: {fault}"
            )


def _is_there(place: Place, facts: ModelFacts, num_tokens: int) -> bool:
    """Whether the site holds every token, or all of them are meant at once, or none, as with coordinates."""
    has_each = num_positions(place.site, facts, num_tokens) == num_tokens
    return has_each or place.position in ((), (0,), tuple(range(num_tokens)))


def _num_about(study: Study, block: str, members: Members) -> int:
    """Number of pairs that a block is about."""
    index = [each.name for each in study.blocks()].index(block)
    return sum(len(ones) for kind, ones in members.items() if kind.blocks is None or index in kind.blocks)


def _shown(one: Input, run: str) -> str:
    if run not in one.tokens:
        return f"{one.given}, which has only {', '.join(one.tokens)}"
    spans = "".join(f", {name!r}" for name in one.spans.get(run, ())).removeprefix(", ")
    return f"{one.given} whose {run} has {len(one.tokens[run])} tokens and the spans {spans or 'none'}"


def _symbolic(points: Sequence[Point]) -> Iterator[tuple[str, _Swap]]:
    """The block and the positions of each unit that names spans, and of each read that does, once."""
    seen: dict[tuple[str, _Swap], None] = {}
    for point in points:
        for unit in point.cell.every_unit():
            origin = None if unit.origin is None else unit.origin.position
            if any(isinstance(item, str) for item in (*unit.place.position, *(origin or ()))):
                seen[point.block, (unit.place.position, unit.run, origin)] = None
        if isinstance(point.cell.read, str):
            seen[point.block, ((point.cell.read,), "base", None)] = None
    yield from seen


def _fault(one: Input, position: Position, run: str, origin: Position | None) -> str | None:
    """Why a pair cannot have its tokens at `position` changed by those at `origin`; None where it can."""
    try:
        num_base = len(locate(position, one.spans["base"]))
        # A named run is one of the base's prompt.
        num_origin = (
            None if origin is None else len(locate(origin, one.spans[run if run in one.spans else "base"]))
        )
    except StudyError as error:
        return f"{error}; take another token, such as .first or .last"
    if origin is None or is_pooled(origin) or num_origin == num_base:
        return None
    return (
        f"{counted(num_base, 'token')} in the base and {num_origin} in {run}; spans of unequal length need"
        " .first, .last or .mean"
    )


def _written(position: Position) -> str:
    return ", ".join(str(item) for item in position)
