"""A study: a model, pairs, and a sweep of interventions. The same in YAML and in Python."""

__all__ = ["Study", "is_study_name"]

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, PrivateAttr, ValidationInfo, model_validator

from studies.blocks import AXES, Block, Settings
from studies.dump import plain
from studies.fields import checked, one_of, required
from studies.fits import Fit
from studies.models import ModelSpec, Task
from studies.names import NAME_RULE, is_name
from studies.origin import Origin
from studies.pair_files import SUFFIXES, other_kind
from studies.pairs import check_inline
from studies.plots import Generate, Metric, Plot
from studies.problems import ProblemsError, refuse, refuse_odd
from studies.require import Required
from studies.scope import find_problems, name_problems
from studies.screen import Screened
from studies.tables import is_table, rows_in_memory
from studies.train import Train
from studies.yaml import Path, Text, dump_yaml
from workers.code.places import Code, caller_code

_PAIR_FILES = tuple(SUFFIXES)


def is_study_name(value: Any) -> bool:
    """Whether a study, and its folder, may have this name."""
    return is_name(value)


def check_study_name(value: Any) -> str:
    """A name that is also a safe folder name."""
    if not is_study_name(value):
        refuse(value, NAME_RULE)
    return str(value)


def check_pairs(value: Any) -> str | tuple[Mapping[str, Any], ...]:
    """A file's path, a list of pairs, or a table of them in memory."""
    path = str(value) if isinstance(value, PurePath) else value
    if isinstance(path, str) and path.lower().endswith(_PAIR_FILES) and "\n" not in path:
        return path
    listed = rows_in_memory(value) if is_table(value) else value
    if isinstance(listed, list | tuple) and listed:
        return check_inline(listed)
    allowed = f"a path that ends in {', '.join(_PAIR_FILES)}, or a list of pairs that is not empty"
    refuse(value, allowed + (other_kind(path) if isinstance(path, str) else ""))


class Study(Settings):
    """A whole study. What `Settings` holds are the defaults of its blocks.

    Raises:
        StudyError: an unknown key, a wrong type, or a value that cannot be.
    """

    study: Annotated[str, required(check_study_name)]
    """Its name, which is also that of its folder."""
    pairs: Annotated[str | Sequence[Mapping[str, Any]] | None, checked(check_pairs)] = None
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
    _origin: Origin = PrivateAttr(default_factory=Origin)

    @classmethod
    def from_text(cls, text: Text, *, is_stored: bool = False) -> Self:
        """As `Spec.from_text`; the study then knows the lines that it was written in.

        One that `is_stored` was accepted by the rules of its day, and may have names of then.
        """
        if not is_stored:
            refuse_odd(text)
        study = super().from_text(text, is_stored=is_stored)
        study._origin = Origin.of(text)
        return study

    @model_validator(mode="after")
    def _check_whole(self, info: ValidationInfo) -> "Study":
        problems = find_problems(self, self.blocks())
        if not info.context:
            problems = [*name_problems(self), *problems]
        if problems:
            raise ProblemsError(problems)
        return self

    def blocks(self) -> tuple[Block, ...]:
        """The sweep's blocks, named, each with the study's defaults for what it does not say."""
        return tuple(_merge(self, block, index) for index, block in enumerate(self.sweep))

    def line_of(self, block: int, word: str) -> str | None:
        """``FILE:LINE`` at which a block says `word`; None of a study that was made in Python."""
        return self._origin.at(block, word)

    def line_at(self, path: Path) -> str | None:
        """``FILE:LINE`` of what stands at a path of keys; None of a study that was made in Python."""
        return self._origin.line(path)

    def place_of(self, said: str) -> str | None:
        """``FILE:LINE`` of what an error of planning is about; None of a study that was made in Python, or
        where the error says it itself."""
        return self._origin.place_of(said, AXES)

    def is_about(self, said: str) -> bool:
        """Whether an error begins with something that the study defines: a block, a fit, a key."""
        return self._origin.text is not None and self._origin.path_of(said, AXES) != ()

    def path_of(self, block: int, key: str) -> Path:
        """The path at which a block, by its number in the sweep, or the study for it, writes a key."""
        return self._origin.path_of(f"{self.blocks()[block].name}: {key}", AXES)

    @property
    def code(self) -> Code:
        """Folders of its functions: that of its file, or those of its caller."""
        return self._origin.code or caller_code()

    def with_code(self, code: Code) -> Self:
        """The same study, whose functions lie there."""
        made = self.model_copy()
        made._origin = replace(self._origin, code=code)
        return made

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

    def to_yaml(self) -> str:
        """The study as YAML that reads back equal."""
        return dump_yaml(plain(self))


def _merge(study: Study, block: Block, index: int) -> Block:
    """The block with the study's settings for what it does not say; either form of a pair says it."""
    values: dict[str, Any] = {"name": block.name or f"block{index}", "units": block.units}
    plurals = {plural: singular for singular, plural in AXES.items()}
    for key in Settings.model_fields:
        forms = (key, AXES.get(key, key), plurals.get(key, key))
        said = any(getattr(block, form) is not None for form in forms)
        values[key] = getattr(block if said else study, key)
    return Block.model_construct(**values)
