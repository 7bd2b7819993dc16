"""Variables of a causal model in a sweep: which label a cell is judged by, and where its variable is.

A pair is given once for each variable that the sweep names, with the label of that variable: so a label
stays part of a pair, and a cell is only about the pairs of its variable.
"""

__all__ = [
    "VARIABLE",
    "has_no_place",
    "interchanged",
    "is_about",
    "is_aligned",
    "per_variable",
    "placed",
    "placed_everywhere",
]

from collections.abc import Iterator, Mapping, Sequence

from studies.language.blocks import Aligned, Block, UnitSpec
from studies.language.schema import StudyKeys
from workers.errors import StudyError, nearest

VARIABLE = "variable"
"""The column of a pair that says whose label it has; ``x+S`` where several variables are interchanged."""

_LABEL = "label"
_JOINED = "+"


def per_variable(study: StudyKeys, rows: Sequence[Mapping[str, object]]) -> Sequence[Mapping[str, object]]:
    """Each of `rows` once for every variable that the sweep names, with its label; neighbours stay so.

    Raises:
        StudyError: no pair has a label for a variable, or the pairs have a column of the name `VARIABLE`.
    """
    wanted = list(dict.fromkeys(name for block in study.blocks() for name in _wanted(block, rows)))
    if wanted in ([], [None]):
        return rows
    if any(VARIABLE in row for row in rows):
        raise StudyError(f"the pairs have a column {VARIABLE!r}, which the sweep's variables need; rename it")
    _check_labels(wanted, rows)
    return [
        row if name is None else _labelled(row, name)
        for row in rows
        for name in wanted
        if name is None or row.get(_column(name)) is not None
    ]


def interchanged(study: StudyKeys) -> list[str | list[str]] | None:
    """The variables that the sweep is about, as a causal task takes them; None for whichever there are."""
    blocks = study.blocks()
    names = [_names(block) for block in blocks]
    if any(
        block.alignment is None and written == "all" for block, written in zip(blocks, names, strict=True)
    ):
        return None
    found: dict[str, None] = {}
    for block, written in zip(blocks, names, strict=True):
        found |= dict.fromkeys(block.alignment or ())
        found |= dict.fromkeys(name for name in (written or ()) if written != "all" and name != _LABEL)
    return [name.split(_JOINED) if _JOINED in name else name for name in found]


def is_about(block: Block, variable: str | None) -> bool:
    """Whether a block is about the pairs of `variable`; None for pairs as they are given."""
    names = _names(block)
    if names == "all":
        return variable is not None and (block.alignment is None or variable in block.alignment)
    return variable in (names or (None,))


def is_aligned(block: Block) -> bool:
    """Whether the places of the block's variables are those of its alignment: it says none itself."""
    return block.alignment is not None and has_no_place(block)


def has_no_place(block: Block) -> bool:
    """Whether the block names variables, and says nowhere itself where they are."""
    return _names(block) is not None and (block.units, block.site, block.sites) == (None, None, None)


def placed(block: Block, variable: str | None) -> Block:
    """The block at one variable; see `is_aligned` for where its units are.

    Raises:
        StudyError: the alignment has no place for it.
    """
    if variable is None:
        return block
    units = block.units
    if is_aligned(block):
        units = tuple(_unit(name, block) for name in variable.split(_JOINED))
    return block.model_copy(update={"variable": variable, "variables": None, "units": units})


def placed_everywhere(study: StudyKeys) -> Iterator[Block]:
    """The blocks with every unit that they may have, whichever the variable."""
    for block in study.blocks():
        yield placed(block, _JOINED.join(block.alignment or ())) if is_aligned(block) else block


def _unit(name: str, block: Block) -> UnitSpec:
    alignment = block.alignment or {}
    if name not in alignment:
        raise StudyError(
            f"the alignment has no place for the variable {name!r}; it has {', '.join(alignment)}"
            f"{nearest(name, alignment)}"
        )
    place = {key: getattr(alignment[name], key) for key in Aligned.model_fields}
    if place["position"] is None and block.position is None:
        place["position"] = "all"
    return UnitSpec.model_construct(**place)


def _names(block: Block) -> Sequence[str] | str | None:
    """The variables that a block names, ``all``, or None where it names none."""
    if block.variables == "all":
        return "all"
    written = block.variables if block.variables is not None else (block.variable,)
    found = [_JOINED.join(one) if isinstance(one, tuple) else one for one in written if one is not None]
    return [str(name) for name in found] or None


def _wanted(block: Block, rows: Sequence[Mapping[str, object]]) -> Sequence[str | None]:
    names = _names(block)
    if names is None:
        return (None,)
    if names != "all":
        return tuple(names)
    return tuple(block.alignment if block.alignment is not None else _labels(rows))


def _labels(rows: Sequence[Mapping[str, object]]) -> dict[str, None]:
    prefix = f"{_LABEL}."
    columns = dict.fromkeys(column for row in rows for column in row)
    return {column.removeprefix(prefix): None for column in columns if column.startswith(prefix)}


def _check_labels(wanted: Sequence[str | None], rows: Sequence[Mapping[str, object]]) -> None:
    known = _labels(rows)
    for name in wanted:
        if name is not None and all(row.get(_column(name)) is None for row in rows):
            raise StudyError(
                f"no pair has a {_column(name)!r}, which the variable {name!r} needs; there are labels of"
                f" {', '.join(known) or 'no variable'}{nearest(name, known)}"
            )


def _column(name: str) -> str:
    """The column of a variable's label; the variable ``label`` means the pair's own."""
    return _LABEL if name == _LABEL else f"{_LABEL}.{name}"


def _labelled(row: Mapping[str, object], name: str) -> dict[str, object]:
    return {**row, _LABEL: row[_column(name)], VARIABLE: name}
