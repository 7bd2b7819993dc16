"""Base class of the parts of a study: keys are checked when they are read, and written back as plain data."""

__all__ = ["Spec"]

from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from studies.problems import Problem, ProblemsError, explain, refuse, shown
from studies.yaml import Text
from workers.errors import nearest
from workers.libraries.pydantic import outermost_only


class Spec(BaseModel):
    """A frozen, keyword-only part of a study; unknown keys and impossible values are refused.

    Raises:
        StudyError: when built in Python from values that are not allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)

    if not TYPE_CHECKING:

        @outermost_only
        def __init__(self, **data: Any) -> None:
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

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: Any) -> Any:
        if isinstance(data, BaseModel):
            return data
        if not isinstance(data, dict):
            refuse(data, f"a mapping with {', '.join(cls.key_names())}")
        data = cls._from_short(data)
        known = {*cls.key_names(), *cls.model_fields}
        unknown = [key for key in data if key not in known]
        if unknown:
            raise ProblemsError([cls._unknown(key) for key in unknown])
        return data

    @classmethod
    def _from_short(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Turn what a file may write for convenience into fields; here nothing."""
        return data

    @classmethod
    def _unknown(cls, key: Any) -> Problem:
        allowed = cls.key_names()
        text = f"the key {shown(key)} is not allowed here; allowed: {', '.join(allowed)}"
        return Problem((key,), text + nearest(str(key), allowed))
