"""Axes of a block: their values for one model and class of pairs, their product, columns of its points."""

__all__ = [
    "AxisExtent",
    "Row",
    "SweepAxis",
    "axes_of",
    "combine",
    "constants_of",
    "same_everywhere",
    "scalar_of",
    "singulars_of",
]

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studies.bounds import MOST_AXIS_VALUES, MOST_CELLS, product_text
from studies.language.blocks import AXES, UNIT_AXES, Block, UnitKeys
from studies.language.fields import Scalar
from studies.language.grammar import Names, is_reference, parse_every_span, parse_range, references
from studies.language.models import Task
from studies.language.scope import names_of
from studies.language.units import written_of
from studies.language.values import NOISE
from studies.problems import shown
from workers.errors import StudyError
from workers.vocabulary import ModelSpec

Row = tuple[Any, ...]
"""Values of the names of one or several axes, at one point."""


@dataclass(frozen=True, slots=True)
class SweepAxis:
    """Names that vary together, and their rows of values, which may depend on the axes before."""

    names: tuple[str, ...]
    rows: Callable[[Names], Sequence[Row]]
    constant: bool = True
    """Whether the rows are the same at every point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisExtent:
    """Counts of layers, tokens and heads, and spans, that axes written as text (``all``) reach."""

    num_layers: int
    num_tokens: int
    spans: tuple[str, ...]
    """The base's spans."""
    num_heads: Callable[[Names], int]
    """The number of heads at the site of a point."""


def axes_of(block: Block, extent: AxisExtent, scope: Names) -> list[SweepAxis]:
    """The axes in the order in which they are crossed; `scope` holds what is constant in the block."""
    found = _for_axes(block)
    for singular, plural in AXES.items():
        written = getattr(block, plural)
        if written is not None and singular not in ("model", "task"):
            found.append(_axis(singular, written, extent, scope))
    return found


def combine(
    axes: Sequence[SweepAxis], scope: Names, most: int = MOST_CELLS
) -> tuple[tuple[str, ...], list[Row]]:
    """The product of the axes: their names, and a row of values for each point.

    Raises:
        StudyError: there are more than `most` points; they are counted before they are made.
    """
    names: tuple[str, ...] = ()
    rows: list[Row] = [()]
    sizes: dict[str, int] = {}
    for axis in axes:
        if axis.constant:
            more = axis.rows(scope)
            sizes["+".join(axis.names)] = len(more)
            if len(rows) * len(more) > most:
                raise _too_many(sizes, most)
            rows = [row + values for row in rows for values in more]
        else:
            made: list[Row] = []
            for row in rows:
                found = axis.rows({**scope, **dict(zip(names, row, strict=True))})
                if len(made) + len(found) > most:
                    raise _too_many({**sizes, "+".join(axis.names): len(found)}, most)
                made += [row + values for values in found]
            sizes["+".join(axis.names)] = len(made) // max(1, len(rows))
            rows = made
        names += axis.names
    return names, rows


def _too_many(sizes: Mapping[str, int], most: int) -> StudyError:
    return StudyError(
        f"the axes make {product_text(sizes)} cells, maybe times others; a study has at most"
        f" {MOST_CELLS:,} of one model, of which {most:,} are left here: take fewer, or several studies"
    )


def _for_axes(block: Block) -> list[SweepAxis]:
    if block.for_ is None:
        return []
    if isinstance(block.for_, Mapping):
        return [_constant((name,), [(value,) for value in values]) for name, values in block.for_.items()]
    names = tuple(block.for_[0])
    return [_constant(names, [tuple(row[name] for name in names) for row in block.for_])]


def _constant(names: tuple[str, ...], rows: list[Row]) -> SweepAxis:
    return SweepAxis(names, lambda scope: rows)


def _axis(name: str, written: str | Sequence[object], extent: AxisExtent, scope: Names) -> SweepAxis:
    if not isinstance(written, str):
        return _constant((name,), [(value,) for value in written])
    part = parse_every_span(written) if name == "position" else None
    if part is not None:
        return _constant((name,), [(f"{span}{part}",) for span in extent.spans])

    def rows(names: Names) -> list[Row]:
        found = _indices(written, _count(name, extent, names), names)
        # The length of a range beyond what a machine counts cannot be asked for.
        if found and found[-1] - found[0] >= MOST_AXIS_VALUES:
            raise StudyError(
                f"{AXES[name]} {shown(written)} has {found[-1] - found[0] + 1:,} values; an axis has at most"
                f" {MOST_AXIS_VALUES:,}"
            )
        return [(index,) for index in found]

    if name == "head" or "$" in written:
        return SweepAxis((name,), rows, constant=False)
    return _constant((name,), rows(scope))


def _count(name: str, extent: AxisExtent, names: Names) -> int:
    if name == "head":
        return extent.num_heads(names)
    # Seeds have no end of their own: their range has both ends.
    return {"layer": extent.num_layers, "position": extent.num_tokens}.get(name, 2**63)


def _indices(written: str, count: int, names: Names) -> range:
    if written == "all":
        return range(count)
    found = parse_range(written)
    if found is None:
        raise StudyError(f"{shown(written)} is no range; write all, or a range such as '8:18'")
    return found.clipped(count, names.__getitem__)


def constants_of(block: Block, model: ModelSpec, columns: Sequence[tuple[str, Scalar]]) -> dict[str, Scalar]:
    """The names that are the same at every point of the block."""
    found: dict[str, Scalar] = {"model": model.ref}
    if not model.ref.startswith("zoo:"):
        # Those of a model that was trained say which one it is.
        found.update(model.options)
    tasks = [task.name for task in block.tasks or (block.task,) if isinstance(task, Task)]
    if tasks:
        found["task"] = tasks[0] if len(tasks) == 1 else dict(columns)["task"]
    for key in ("variable", "read", "seed", "step"):
        value = getattr(block, key)
        if value is not None and not isinstance(value, tuple):
            found[key] = value
    return found


def singulars_of(block: Block) -> dict[str, object]:
    """Values of singular keys: the meaning of ``$layer`` where the block's layer is one value."""
    found = {key: getattr(block, key) for key in AXES if key not in ("model", "task")}
    return {key: value for key, value in found.items() if value is not None and not references(value)}


def same_everywhere(
    block: Block, units: Sequence[UnitKeys]
) -> tuple[dict[str, Scalar], list[tuple[str, str]]]:
    """Values that all units write alike: the scalars, and the keys that repeat the value of another name."""
    constants: dict[str, Scalar] = {}
    copies: list[tuple[str, str]] = []
    varying = {singular for singular, plural in AXES.items() if getattr(block, plural) is not None}
    for key in (*UNIT_AXES, "from"):
        if key in varying:
            continue
        values = [_written_scalar(unit, block, key) for unit in units]
        first = values[0]
        if first is None or isinstance(first, tuple) or any(value != first for value in values):
            continue
        if is_reference(first) and not first.startswith("$pair.") and first[1:] in names_of(block):
            copies.append((key, first[1:]))
        elif not references(first):
            constants[key] = first
    return constants, copies


def _written_scalar(unit: UnitKeys, block: Block, key: str) -> Any:
    if key != "from":
        return written_of(unit, block, key)
    value = written_of(unit, block, "from_")
    return None if value is None else value.run or value.fit or NOISE


def scalar_of(value: Any) -> Scalar:
    """A value as a column shows it: lists as JSON text."""
    return json.dumps(value) if isinstance(value, tuple) else value
