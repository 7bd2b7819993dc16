"""Studies: a model, pairs, and a sweep of interventions; the same in YAML and in Python.

A study knows the lines of the file that it was read from, for errors that planning finds, and the folder that
its functions lie in.
"""

__all__ = ["Study"]

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

from pydantic import PrivateAttr, ValidationInfo, model_validator

from studies.language.base import plain
from studies.language.blocks import OTHER_FORM
from studies.language.schema import StudyKeys
from studies.language.scope import find_problems, name_problems
from studies.problems import ProblemsError, refuse_odd
from studies.yaml import UNNAMED, KeyPath, Text, dump_yaml
from workers.code.places import NO_CODE, Code, caller_code
from workers.vocabulary import is_function

_ELSEWHERE = ("pairs",)
"""Keys of a study whose lines are not kept: they may be many, and pairs are told by their numbers."""
_NO_CELLS = ("sweep", "plots", "train")
"""Keys beside those that say what is true of all blocks."""
_MOST_PARTS = 4
"""Parts before a colon of an error's text that may say what it is about."""
_DEFINED = ("fits", "train", "plots")
"""Keys whose values have names of their own."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The text that a study was read from; studies are equal wherever they were read from."""

    text: Text | None = field(default=None, compare=False)
    code: Code | None = field(default=None, compare=False)
    """Folders of its functions; None of a study that was built in Python: those of its caller."""

    @classmethod
    def of(cls, text: Text) -> "Origin":
        """The text of a whole study, without its pairs, which may be many."""
        if not isinstance(text.data, dict):
            return cls(code=NO_CODE)
        said = {key: value for key, value in text.data.items() if key != "pairs"}
        lines = {value: text.at(path) for path, value in _functions(said)}
        data = {key: value for key, value in text.data.items() if key not in _ELSEWHERE}
        below = {(key,) for key in _ELSEWHERE}
        marks = {path: mark for path, mark in text.marks.items() if len(path) < 2 or path[:1] not in below}
        return cls(Text(text.name, data, marks), Code(lines=lines))

    def at(self, block: int, word: str) -> str | None:
        """``FILE:LINE`` at which a block of the sweep says `word`, or the study for all its blocks.

        The block's own line where neither does; None of a study that was made in Python.
        """
        if self.text is None or not self.text.marks:
            return None
        own: KeyPath = ("sweep", block)
        paths = [path for path, value in _values(self.text.data, ()) if value == word]
        in_block = [path for path in paths if path[:2] == own]
        in_study = [path for path in paths if path[0] not in _NO_CELLS]
        return self.text.at(next(iter((*in_block, *in_study)), own))

    def line(self, path: KeyPath) -> str | None:
        """``FILE:LINE`` of what stands at `path`, or of what is around it; None where nobody knows."""
        return None if self.text is None or not self.text.marks else self.text.at(path)

    def place_of(self, said: str) -> str | None:
        """``FILE:LINE`` of what an error is about; None where nobody knows, or it says so itself, and of a
        text that is no file: who wrote it in Python has it before them.

        Errors of planning begin with what they are about, as the study writes it: a block's name,
        ``fits.das``, ``screen``, and then the key.
        """
        if self.text is None or not self.text.marks or said.startswith(f"{self.text.name}:"):
            return None
        if self.text.name == UNNAMED:
            return None
        return self.text.at(self._mentioned(said, self.path_of(said)))

    def _mentioned(self, said: str, path: KeyPath) -> KeyPath:
        """The path, at `path` or below, of a value that an error quotes, or of the model it begins with."""
        assert self.text is not None
        if len(path) > 2:
            return path
        named = re.findall(r"'([^']+)'", said)
        below = [(one, value) for one, value in _values(self.text.data, ()) if one[: len(path)] == path]
        for name in named:
            for one, value in below:
                if value == name or one[-1] == name:
                    return one
        for one, value in below if not path else ():
            if set(one) & {"model", "models", "ref"} and isinstance(value, str) and said.startswith(value):
                return one
        return path or (("model",) if ("model",) in self.text.marks and said.startswith("model") else ())

    def path_of(self, said: str) -> KeyPath:
        """The path of what an error is about, as far as its text says it."""
        path: KeyPath = ()
        for part in said.split(": ")[:_MOST_PARTS]:
            path = self._below(path, part)
        return path

    def _below(self, path: KeyPath, part: str) -> KeyPath:
        """The path below `path` that the next part of an error's text names, or `path`."""
        assert self.text is not None
        marks, data = self.text.marks, self.text.data
        if not path:
            names = [name for name in _DEFINED if part.startswith(f"{name}.")]
            if names and (names[0], part.removeprefix(f"{names[0]}.")) in marks:
                return names[0], part.removeprefix(f"{names[0]}.")
            for index, block in enumerate(data.get("sweep") or ()):
                name = block.get("name") if isinstance(block, dict) else None
                if part.removeprefix("sweep, ") == (name or f"block{index}"):
                    return "sweep", index
        word = re.match(r"\w*", part)[0]  # type: ignore[index]
        for key in dict.fromkeys((word, OTHER_FORM.get(word, word))):
            for found in ((*path, key), *self._in_units(path, key, part), (key,)):
                if key and found in marks and (len(found) > 1 or key not in ("study", "sweep")):
                    return found
        return path

    def _in_units(self, path: KeyPath, key: str, part: str) -> Iterator[KeyPath]:
        """Paths of a key in a block's units: first those with a value that the text has, then the others."""
        assert self.text is not None
        if len(path) != 2 or path[0] != "sweep":
            return
        found = [mark for mark in self.text.marks if mark[:2] == path and len(mark) > 3 and mark[-1] == key]
        words = re.findall(r"[\w.$:-]+", part)
        order = {word: number for number, word in reversed(list(enumerate(words)))}
        yield from sorted(found, key=lambda mark: order.get(str(self._value(mark)), len(words)))

    def _value(self, path: KeyPath) -> object:
        assert self.text is not None
        value: Any = self.text.data
        for key in path:
            value = value[key]
        return value


def _functions(said: object) -> list[tuple[KeyPath, str]]:
    """Values that look like a function's name, the first of each last."""
    found = [
        (path, value) for path, value in _values(said, ()) if isinstance(value, str) and is_function(value)
    ]
    return found[::-1]


def _values(data: object, path: KeyPath) -> Iterator[tuple[KeyPath, object]]:
    """Every scalar with the keys that lead to it."""
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _values(value, (*path, key))
    else:
        yield path, data


class Study(StudyKeys):
    """A whole study. What `Settings` holds are the defaults of its blocks.

    Raises:
        StudyError: an unknown key, a wrong type, or a value that cannot be.
    """

    _origin: Origin = PrivateAttr(default_factory=Origin)

    @classmethod
    def from_text(cls, text: Text, *, is_stored: bool = False) -> Self:
        """Read as `Spec.from_text` does; the study then knows the lines that it was written in.

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

    def line_of(self, block: int, word: str) -> str | None:
        """``FILE:LINE`` at which a block says `word`; None of a study that was made in Python."""
        return self._origin.at(block, word)

    def line_at(self, path: KeyPath) -> str | None:
        """``FILE:LINE`` of what stands at a path of keys; None of a study that was made in Python."""
        return self._origin.line(path)

    def place_of(self, said: str) -> str | None:
        """``FILE:LINE`` of what an error of planning is about; None of a study that was made in Python, or
        where the error says it itself."""
        return self._origin.place_of(said)

    def is_about(self, said: str) -> bool:
        """Whether an error begins with something that the study defines: a block, a fit, a key."""
        return self._origin.text is not None and self._origin.path_of(said) != ()

    def path_of(self, block: int, key: str) -> KeyPath:
        """The path at which a block, by its number in the sweep, or the study for it, writes a key."""
        return self._origin.path_of(f"{self.blocks()[block].name}: {key}")

    @property
    def code(self) -> Code:
        """Folders of its functions: that of its file, or those of its caller."""
        return self._origin.code or caller_code()

    def with_code(self, code: Code) -> Self:
        """The same study, whose functions lie there."""
        made = self.model_copy()
        made._origin = replace(self._origin, code=code)
        return made

    def to_yaml(self) -> str:
        """The study as YAML that reads back equal."""
        return dump_yaml(plain(self))
