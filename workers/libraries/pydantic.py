"""Names of pydantic that may move: kinds and texts of what it finds wrong, how nested models are built."""

__all__ = ["PLACES", "CarryingError", "Fault", "faults", "outermost_only"]

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from workers.libraries import LibraryPlace

_Init = TypeVar("_Init", bound=Callable[..., None])

Kind = Literal["missing", "unknown", "empty", "raised", "carried", "other"]

_CARRIED = "swapyard"
_LOAD = "carried"
_KINDS: Mapping[str, Kind] = {
    "missing": "missing",
    "extra_forbidden": "unknown",
    "too_short": "empty",
    "value_error": "raised",
    _CARRIED: "carried",
}
_SAYINGS: Mapping[str, Kind] = {
    "Field required": "missing",
    "Extra inputs are not permitted": "unknown",
}
"""By what a fault says, where its kind has another name."""
_PREFIX = "Input should be "
_LIST = "a list (in a file: '- ' before each of its items)"
_WORDS: Mapping[str, str] = {
    "an instance of Sequence": _LIST,
    "'str' instances are not allowed as a Sequence value": _LIST,
    "a valid list": _LIST,
    "a valid tuple": _LIST,
    "a valid mapping": "a mapping from names",
    "an instance of Mapping": "a mapping from names",
    "a valid dictionary": "a mapping",
    "a valid string": "text",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true, false",
}
"""Words of study files for what is wanted; what is not here is told in pydantic's."""
_RAISED = "Value error, "
_CHOICE = re.compile(r"'([^']*)'")


class CarryingError(PydanticCustomError):
    """An error for validators, whose `load` comes out of pydantic with the place where it was raised."""

    def __new__(cls, text: str, load: object) -> "CarryingError":
        """With `text` for whoever sees no load."""
        return super().__new__(cls, _CARRIED, "{text}", {"text": text, _LOAD: load})

    @property
    def load(self) -> Any:
        """Content; None where pydantic has lost it."""
        return (getattr(self, "context", None) or {}).get(_LOAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that pydantic finds wrong with a value."""

    where: tuple[str | int, ...]
    """Keys and indices that lead to it; those of unions and validators are among them."""
    kind: Kind
    type: str
    """As pydantic calls the kind, or as whoever raised the error does."""
    given: object
    wanted: str
    """Description of what would be right, in pydantic's words: "greater than 0"; or what was said by whoever
    raised it."""
    choices: tuple[str, ...]
    """The texts that would be right, where there are some."""
    load: Any
    """Content of a `CarryingError`."""


def faults(error: ValidationError) -> list[Fault]:
    """All that pydantic found, in its order."""
    return [_fault(entry) for entry in error.errors(include_url=False)]


def _fault(entry: Mapping[str, Any]) -> Fault:
    said, context = str(entry.get("msg", "")), entry.get("ctx") or {}
    kind = _KINDS.get(str(entry.get("type"))) or _SAYINGS.get(said, "other")
    load = context.get(_LOAD)
    raised = context.get("error")
    if kind == "raised":
        wanted = said.removeprefix(_RAISED) if raised is None else str(raised)
    else:
        wanted = _WORDS.get(said.removeprefix(_PREFIX), said.removeprefix(_PREFIX))
    return Fault(
        where=tuple(entry.get("loc", ())),
        kind="other" if kind == "carried" and load is None else kind,
        type=str(entry.get("type", "")),
        given=entry.get("input"),
        wanted=wanted,
        choices=tuple(_CHOICE.findall(str(context.get("expected", "")))),
        load=load,
    )


def outermost_only(init: _Init) -> _Init:
    """An ``__init__`` of a model that is called for the outermost model alone.

    pydantic then builds those inside without it, so that all that is wrong is found at once; else each tells
    of its own faults, one at a time, and without the line of the file.
    """
    init.__pydantic_base_init__ = True  # type: ignore[attr-defined]
    return init


# What is tried by `make versions`


class _Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int = Field(gt=0)
    word: Literal["one", "two", "three"] = "one"
    some: list[int] = Field(default=[1], min_length=1)


class _Sample(BaseModel):
    number: int

    @model_validator(mode="after")
    def _check(self) -> "_Sample":
        if self.number == 1:
            raise ValueError("not this one")
        raise CarryingError("carried", [self.number])


def _found(model: type[BaseModel], data: Mapping[str, object]) -> Fault:
    try:
        model.model_validate(data)
    except ValidationError as error:
        return faults(error)[0]
    raise LookupError(f"{data} is not refused")


def _probe_kinds() -> str | None:
    wanted: list[tuple[type[BaseModel], Mapping[str, object], Kind]] = [
        (_Inner, {}, "missing"),
        (_Inner, {"number": 1, "other": 2}, "unknown"),
        (_Inner, {"number": 1, "some": []}, "empty"),
        (_Sample, {"number": 1}, "raised"),
    ]
    lost: list[str] = [kind for model, data, kind in wanted if _found(model, data).kind != kind]
    if _found(_Sample, {"number": 1}).wanted != "not this one":
        lost.append("what a check says")
    return f"told in pydantic's own words: {', '.join(lost)}" if lost else None


def _probe_texts() -> str | None:
    if _found(_Inner, {"number": 0}).wanted != "greater than 0":
        return "messages keep words of pydantic's"
    choices = _found(_Inner, {"number": 1, "word": "four"}).choices
    return None if choices == ("one", "two", "three") else "the nearest spelling of a choice"


def _probe_carried() -> str | None:
    return None if _found(_Sample, {"number": 2}).load == [2] else "only the first problem of a part is told"


def _probe_outermost() -> str | None:
    made: list[str] = []

    class Inner(BaseModel):
        @outermost_only
        def __init__(self, **data: object) -> None:
            made.append("inner")
            super().__init__(**data)

    class Outer(BaseModel):
        inner: Inner

    Outer.model_validate({"inner": {}})
    return "problems of a study are told one at a time" if made else None


_SEEN = "2.12.0 to 2.14.4"

PLACES = (
    LibraryPlace(
        library="pydantic",
        name="kinds of errors: missing, extra_forbidden, too_short, value_error with ctx.error",
        used_for="saying in our words what is wrong with a study or with a built-in model's options",
        seen_with=_SEEN,
        without="the kind is known by what is said; else pydantic's own words are shown",
        marks=("extra_forbidden", '"too_short"', '"value_error"', '"ctx"', '["ctx"]'),
        probe=_probe_kinds,
    ),
    LibraryPlace(
        library="pydantic",
        name="the texts 'Input should be …', and ctx.expected",
        used_for="saying what is allowed, and the nearest spelling",
        seen_with=_SEEN,
        without="pydantic's whole sentence is shown, without the nearest spelling",
        marks=("Input should be", '"expected"'),
        probe=_probe_texts,
    ),
    LibraryPlace(
        library="pydantic",
        name="PydanticCustomError, whose context comes out with the place",
        used_for="all problems of a part at once, each with its own line",
        seen_with=_SEEN,
        without="only the first problem of a part is told",
        marks=("PydanticCustomError", "pydantic_core"),
        probe=_probe_carried,
    ),
    LibraryPlace(
        library="pydantic",
        name="__pydantic_base_init__",
        used_for="building nested parts without their own __init__, so that all problems are found at once",
        seen_with=_SEEN,
        without="problems are told one at a time, without the line of the file",
        marks=("__pydantic_base_init__",),
        probe=_probe_outermost,
    ),
)
