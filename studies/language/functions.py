"""Code that a study names: functions, checked without being run, and code in the folders of models."""

__all__ = [
    "check_functions",
    "functions_of",
    "model_folder",
    "named_in",
    "names_columns",
    "remote_code",
    "trusting_models",
]

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from studies.language.blocks import Block, UnitKeys, ValueSpec
from studies.language.grammar import references
from studies.language.models import ModelSpec
from studies.language.schema import with_models
from studies.language.scope import values_of
from studies.language.study import Study
from studies.tasks.causal import CAUSAL, model_name
from workers.code.function_kinds import GETTER, MODEL, OPERATION, SETTER, FunctionKind
from workers.code.named import check_named
from workers.code.places import Code, own_file
from workers.errors import StudyError
from workers.vocabulary import Cell, is_function

Function = tuple[str, FunctionKind]
"""A name, and what is wanted of it."""


def functions_of(study: Study) -> list[Function]:
    """The functions of the study's own words, each once; what a column of the pairs names is not there."""
    found = [(name, MODEL) for name in _models(study)]
    for block in study.blocks():
        found += [one for unit in _units(block) for one in _of_unit(block, unit)]
    return list(dict.fromkeys(found))


def names_columns(study: Study) -> bool:
    """Whether a column of the pairs may name a function."""
    return any(
        name.startswith("pair.")
        for block in study.blocks()
        for unit in _units(block)
        for value in (*values_of(block, "$intervention"), unit.intervention, unit.coordinates, unit.from_)
        for name in references(value.coordinates if isinstance(value, ValueSpec) else value)
    )


def model_folder(study: Study) -> Path | None:
    """The folder that the file of the study's causal model lies below; None where it has none of its own."""
    modules = [name.partition(":")[0] for name in _models(study)]
    for folder in study.code.folders if modules else ():
        if any(own_file(folder, module) is not None for module in modules):
            return folder
    return None


def _models(study: Study) -> list[str]:
    return [name for task in study.all_tasks() if (name := _model_of(task.name, task.options))]


def _units(block: Block) -> list[UnitKeys]:
    """The block itself, its units, and those of its runs."""
    return [block, *(block.units or ()), *(unit for run in (block.runs or {}).values() for unit in run)]


def named_in(cells: Iterable[Cell]) -> list[Function]:
    """The functions that resolved cells name, each once."""
    found: dict[Function, None] = {}
    for cell in cells:
        for unit in cell.every_unit():
            if is_function(unit.operation):
                found[unit.operation, OPERATION] = None
            for place in (unit.place, unit.origin):
                if place is not None and isinstance(place.coordinates, tuple):
                    get, put = place.coordinates
                    found.update({(get, GETTER): None, (put, SETTER): None})
    return list(found)


def check_functions(functions: Iterable[Function], code: Code) -> None:
    """Accept functions that are where a study's may lie, and may be what is wanted; none of them is run.

    Raises:
        StudyError: a line for each that cannot be.
    """
    wrong: list[str] = []
    for name, kind in functions:
        try:
            check_named(name, kind, code)
        except StudyError as error:
            wrong.append(str(error))
    if wrong:
        raise StudyError("\n".join(dict.fromkeys(wrong)))


def _model_of(task: str, options: Mapping[str, object]) -> str | None:
    name = model_name(options) if task == CAUSAL else None
    return name if name is not None and is_function(name) else None


def _of_unit(block: Block, unit: UnitKeys) -> Iterator[Function]:
    for name in (*values_of(block, "$intervention"), *values_of(block, unit.intervention)):
        if isinstance(name, str) and is_function(name):
            yield name, OPERATION
    written = [unit.coordinates, None if unit.from_ is None else unit.from_.coordinates]
    for one in written:
        # An axis of coordinates gives several.
        for value in (one,) if isinstance(one, Mapping) else values_of(block, one):
            named = value if isinstance(value, Mapping) else {}
            for key, kind in ("get", GETTER), ("set", SETTER):
                for name in values_of(block, named.get(key)):
                    if isinstance(name, str) and is_function(name):
                        yield name, kind


def remote_code(study: Study) -> frozenset[str]:
    """References of the models of a study whose own code may be run."""
    trained = [one.model for one in (study.train or {}).values()]
    return frozenset(
        model.ref
        for model in (*study.lanes(), *trained)
        if isinstance(model, ModelSpec) and model.trust_remote_code
    )


def trusting_models(study: Study) -> Study:
    """The study, all of whose models may run the code in their folders."""
    train = study.train and {
        name: one.model_copy(update={"model": one.model and _trusted(one.model)})
        for name, one in study.train.items()
    }
    return with_models(study, _trusted).model_copy(update={"train": train})


def _trusted(model: ModelSpec | str) -> ModelSpec | str:
    """A model that may run its code; a reference to an axis stays as it is."""
    return model.trusting((model.ref,)) if isinstance(model, ModelSpec) else model
