"""Base class of the parts of a study: keys are checked when they are read, and written back as plain data."""

__all__ = ["Spec", "SpecWithOptions", "plain"]

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from studies.problems import Problem, ProblemsError, explain, refuse, unknown_key
from studies.yaml import Text
from workers.libraries.pydantic import outermost_only
from workers.vocabulary import ModelSpec

Keys = dict[str, Any]
"""Keys of a part of a study, as written."""


class Spec(BaseModel):
    """A frozen, keyword-only part of a study; unknown keys and impossible values are refused.

    Raises:
        StudyError: when built in Python from values that are not allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)

    if not TYPE_CHECKING:

        @outermost_only
        def __init__(self, **data: object) -> None:
            try:
                super().__init__(**data)
            except ValidationError as error:
                raise explain(error, Text(type(self).__name__, data, {})) from None

    @classmethod
    def key_names(cls) -> tuple[str, ...]:
        """The keys as a file writes them."""
        return tuple(info.alias or name for name, info in cls.model_fields.items())

    @classmethod
    def from_text(cls, text: Text, *, is_stored: bool = False) -> Self:
        """The spec that a YAML document says; of one that `is_stored` names are not judged again.

        Raises:
            StudyError: with the file and line of each of the first few problems.
        """
        try:
            return cls.model_validate(text.data, context={"is_stored": True} if is_stored else None)
        except ValidationError as error:
            raise explain(error, text) from None

    def as_plain(self) -> object:
        """The spec as a file would write it; what has its default is left out."""
        return self._given()

    def _given(self) -> Keys:
        return {
            info.alias or name: plain(getattr(self, name))
            for name, info in type(self).model_fields.items()
            if info.is_required() or getattr(self, name) != info.default
        }

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: object) -> object:
        if isinstance(data, BaseModel):
            return data
        if not isinstance(data, dict):
            refuse(data, f"a mapping with {', '.join(cls.key_names())}")
        data = cls._from_short(data)
        known = {*cls.key_names(), *cls.model_fields}
        unknown: list[Problem] = [unknown_key(key, cls.key_names()) for key in data if key not in known]
        if unknown:
            raise ProblemsError(unknown)
        return data

    @classmethod
    def _from_short(cls, data: Keys) -> Keys:
        """Turn what a file may write for convenience into fields; here nothing."""
        return data


class SpecWithOptions(Spec):
    """A part of a study with ``options`` of its own, which a file writes beside its other keys."""

    def as_plain(self) -> object:
        """The spec as a file would write it, its options among its keys."""
        return self._given_with_options()

    def _given_with_options(self) -> Keys:
        given = self._given()
        options: Keys = given.pop("options", {})
        return {**given, **options}

    @classmethod
    def _from_short(cls, data: Keys) -> Keys:
        known = {key: value for key, value in data.items() if key in cls.model_fields}
        others = {key: value for key, value in data.items() if key not in cls.model_fields}
        return {**known, "options": {**known.get("options", {}), **others}} if others else known


def plain(value: object) -> Any:
    """Mappings, lists and scalars that read back as `value`; what has its default is left out."""
    if isinstance(value, ModelSpec):
        return _plain_model(value)
    if isinstance(value, Spec):
        return value.as_plain()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _plain_model(model: ModelSpec) -> object:
    """The model as a file writes it: its options lie beside the other keys."""
    given = model.model_dump(exclude_defaults=True, exclude={"options", "trust_remote_code"})
    given.update({key: plain(value) for key, value in model.options.items()})
    return model.ref if list(given) == ["ref"] else given
