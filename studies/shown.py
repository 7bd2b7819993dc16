"""Columns of a point in the views: names that are the same at every point of a block, lists as text."""

__all__ = ["constants_of", "same_everywhere", "scalar_of", "singulars_of"]

import json
from collections.abc import Sequence
from typing import Any

from studies.blocks import AXES, UNIT_AXES, Block, UnitKeys
from studies.fields import Scalar
from studies.fitted import NOISE
from studies.forms import is_reference, references
from studies.models import Task
from studies.scope import names_of
from studies.units import written_of
from workers.vocabulary import ModelSpec


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
