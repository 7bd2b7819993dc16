"""Keys of a study file, each with its type and check; names and units are checked once all of it is read."""

__all__ = ["StudyKeys", "with_models"]

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field

from studies.language.blocks import OTHER_FORM, Block, Settings
from studies.language.fields import checked, one_of, required
from studies.language.fits import Fit
from studies.language.models import ModelSpec, Task
from studies.language.results import Generate, Metric, Plot, Required, Screened
from studies.language.train import Train
from studies.names import NAME_RULE, is_name
from studies.pairs.pair_files import SUFFIXES, other_kind
from studies.pairs.pair_rows import check_inline
from studies.pairs.pair_tables import is_table, rows_in_memory
from studies.problems import refuse

_PAIR_FILES = tuple(SUFFIXES)


def check_study_name(value: object) -> str:
    """A name that is also a safe folder name."""
    if not is_name(value):
        refuse(value, NAME_RULE)
    return str(value)


def check_pairs(value: object) -> str | tuple[Mapping[str, object], ...]:
    """A file's path, a list of pairs, or a table of them in memory."""
    path = str(value) if isinstance(value, PurePath) else value
    if isinstance(path, str) and path.lower().endswith(_PAIR_FILES) and "\n" not in path:
        return path
    listed = rows_in_memory(value) if is_table(value) else value
    if isinstance(listed, list | tuple) and listed:
        return check_inline(listed)
    allowed = f"a path that ends in {', '.join(_PAIR_FILES)}, or a list of pairs that is not empty"
    refuse(value, allowed + (other_kind(path) if isinstance(path, str) else ""))


_StudyT = TypeVar("_StudyT", bound="StudyKeys")


class StudyKeys(Settings):
    """All that a study file says. What `Settings` holds are the defaults of its blocks."""

    study: Annotated[str, required(check_study_name)]
    """Its name, which is also that of its folder."""
    pairs: Annotated[str | Sequence[Mapping[str, object]] | None, checked(check_pairs)] = None
    """A file of pairs, or the pairs themselves."""
    label_tokens: Annotated[str | None, checked(one_of(("first", "all")))] = None
    """Labels of several tokens: score the first or all; without it each must be one token."""
    filter: Annotated[str | None, checked(one_of(("both_correct", "none")))] = None
    """Filter of the pairs: the task's default where not said."""
    metrics: Annotated[Sequence[Metric] | None, AfterValidator(lambda given: given and tuple(given))] = None
    """Metrics that are measured; without it all but ``generated``."""
    require: Required = None
    """Abilities that a worker's loaded model must have, such as ``resumed``; without them it gets no job."""
    screen: Screened = None
    """Choice of the cells that run, where all are too many; without it all do."""
    generate: Generate | None = None
    fits: Mapping[str, Fit] | None = None
    train: Mapping[str, Train] | None = None
    sweep: Annotated[Sequence[Block], Field(min_length=1), AfterValidator(tuple)]
    plots: Mapping[str, Plot] | None = None

    def blocks(self) -> tuple[Block, ...]:
        """The sweep's blocks, named, each with the study's defaults for what it does not say."""
        return tuple(_merge(self, block, index) for index, block in enumerate(self.sweep))

    def lanes(self) -> tuple[ModelSpec, ...]:
        """Every model that the study runs, in order, each once."""
        found: list[ModelSpec] = []
        for block in self.blocks():
            models = block.models or (block.model,)
            found.extend(m for m in models if isinstance(m, ModelSpec) and m not in found)
        return tuple(found)

    def all_tasks(self) -> tuple[Task, ...]:
        """Every task that makes the study's pairs, in order, each once; none where pairs are given."""
        found: list[Task] = []
        for block in self.blocks():
            tasks = block.tasks or (block.task,)
            found.extend(t for t in tasks if isinstance(t, Task) and t not in found)
        return tuple(found)


def with_models(study: _StudyT, change: Callable[[ModelSpec | str], ModelSpec | str]) -> _StudyT:
    """The study with a change of every model that it, or a block, names."""

    def changed(settings: Settings) -> dict[str, object]:
        models = settings.models and tuple(change(model) for model in settings.models)
        return {"model": settings.model and change(settings.model), "models": models}

    sweep = tuple(block.model_copy(update=changed(block)) for block in study.sweep)
    return study.model_copy(update={"sweep": sweep, **changed(study)})


def _merge(study: StudyKeys, block: Block, index: int) -> Block:
    """The block with the study's settings for what it does not say; either form of a pair says it."""
    values: dict[str, Any] = {"name": block.name or f"block{index}", "units": block.units}
    for key in Settings.model_fields:
        forms = (key, OTHER_FORM.get(key, key))
        said = any(getattr(block, form) is not None for form in forms)
        values[key] = getattr(block if said else study, key)
    return Block.model_construct(**values)
