"""Models and tasks as a study writes them: a name, or a mapping with options of its own."""

__all__ = ["Model", "ModelSpec", "Task", "check_model", "check_task"]

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from studies.language.base import SpecWithOptions
from studies.language.fields import (
    Count,
    check_name,
    check_path,
    check_seed,
    checked,
    freeze,
    one_of,
    required,
)
from studies.problems import Problem, ProblemsError, problems_of, refuse, unknown_key
from studies.tasks import TASKS
from workers.errors import nearest
from workers.libraries.pydantic import Fault, faults
from workers.vocabulary import ModelSpec

_FILTERS = ("both_correct", "none")
_MODEL_KEYS = tuple(key for key in ModelSpec.model_fields if key not in ("options", "trust_remote_code"))
_NO_KEY = (
    "the key 'trust_remote_code' is not allowed in a study, for a study is data; take it out, and where you"
    " trust the code in the model's folder run with --trust-remote-code (in Python: trust_remote_code=True)"
)
_MADE = ("zoo:", "artifact:")
"""Prefixes of models that are made here: their seed is an option, or an axis."""


def check_model(value: object) -> ModelSpec:
    """A model's name, or a mapping of `ModelSpec`'s fields; a built-in model's options lie beside them, and
    the values of a training's axes."""
    if isinstance(value, ModelSpec):
        return value
    if isinstance(value, str) and value.strip():
        return ModelSpec(ref=check_path(value))
    if not isinstance(value, dict) or not isinstance(value.get("ref"), str):
        refuse(value, f"a model's name, or a mapping with ref and maybe {', '.join(_MODEL_KEYS[1:])}")
    if "trust_remote_code" in value:
        raise ProblemsError([Problem(("trust_remote_code",), _NO_KEY)])
    check_path(value["ref"])
    is_made = value["ref"].startswith(_MADE)
    keys = tuple(key for key in _MODEL_KEYS if key != "seed" or not is_made)
    others = [key for key in value if key not in (*keys, "options")]
    if others and not is_made:
        raise ProblemsError([unknown_key(key, keys) for key in others])
    options = {**value.get("options", {}), **{key: value[key] for key in others}}
    given = {key: value[key] for key in keys if key in value}
    if given.get("seed") is not None:
        given["seed"] = check_seed(given["seed"])
    try:
        return ModelSpec(**given, options=freeze(options))
    except ValidationError as error:
        raise ProblemsError([_from_model(fault) for fault in faults(error)]) from None


class Task(SpecWithOptions):
    """Task that makes the pairs: its name, how many pairs, and the seed of their order."""

    name: Annotated[str, required(check_name)]
    num_pairs: Count = None
    """Number of pairs that are kept, counted after the filter."""
    seed: Annotated[int | None, checked(check_seed)] = None
    filter: Annotated[str | None, checked(one_of(_FILTERS))] = None
    """``both_correct``, ``none``, or the task's own default."""
    options: Annotated[Mapping[str, Any], required(freeze)] = Field(default_factory=dict)
    """The task's own options; a file writes them beside the other keys."""

    def as_plain(self) -> object:
        """The task as a file writes it: its name alone where nothing else is said."""
        given = self._given_with_options()
        return self.name if list(given) == ["name"] else given

    @model_validator(mode="after")
    def _check_known(self) -> "Task":
        """Check the options of a bundled task; those of others cannot be known."""
        task = TASKS.get(self.name)
        if task is None:
            return self
        allowed = [key for key in Task.key_names() if key != "options"] + list(task.options)
        unknown = [key for key in self.options if key not in allowed]
        if unknown:
            raise ProblemsError([unknown_key(key, allowed) for key in unknown])
        is_counted = self.options.keys() & {"num_train", "num_test"}
        for key in ("seed",) if is_counted else ("num_pairs", "seed"):
            if getattr(self, key) is None:
                raise ProblemsError(
                    [Problem((), f"the key {key!r} is missing; the task {self.name!r} needs it")]
                )
        return self


def check_task(value: object) -> Task:
    """A task's name, or a mapping with its name, number of pairs, seed and options."""
    if isinstance(value, Task):
        return value
    data = {"name": value} if isinstance(value, str) else value
    try:
        return Task.model_validate(data)
    except ValidationError as error:
        raise ProblemsError([problem for fault in faults(error) for problem in problems_of(fault)]) from None


Model = Annotated[ModelSpec | str | None, checked(check_model)]


def _from_model(fault: Fault) -> Problem:
    """A fault that pydantic finds in a `ModelSpec`, in our words."""
    if fault.kind == "carried":  # of keys that do not go together, in our words already
        return Problem((), fault.wanted)
    hint = nearest(str(fault.given), fault.choices)
    return Problem(fault.where, f"{fault.given!r} is not allowed here; allowed: {fault.wanted}{hint}")
