"""Where a study was written: the lines of the file that it was read from, for errors that planning finds, and
the folder that its functions lie in."""

__all__ = ["Origin"]

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from studies.yaml import Path, Text
from workers.code.places import NO_CODE, Code
from workers.vocabulary import is_function

_ELSEWHERE = ("pairs", "plots", "train")
"""Keys of a study that say nothing of what its cells do."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The text that a study was read from; studies are equal wherever they were read from."""

    text: Text | None = field(default=None, compare=False)
    code: Code | None = field(default=None, compare=False)
    """Where its functions lie; None of a study that was built in Python: where its caller's do."""

    @classmethod
    def of(cls, text: Text) -> "Origin":
        """The text of a whole study, without its pairs, which may be many."""
        if not isinstance(text.data, dict):
            return cls(code=NO_CODE)
        said = {key: value for key, value in text.data.items() if key != "pairs"}
        lines = {value: text.at(path) for path, value in _functions(said)}
        data = {key: value for key, value in text.data.items() if key not in _ELSEWHERE}
        marks = {
            path: mark for path, mark in text.marks.items() if path[:1] not in {(k,) for k in _ELSEWHERE}
        }
        return cls(Text(text.name, data, marks), Code(lines=lines))

    def at(self, block: int, word: str) -> str | None:
        """``FILE:LINE`` at which a block of the sweep says `word`, or the study for all its blocks.

        The block's own line where neither does; None of a study that was made in Python.
        """
        if self.text is None or not self.text.marks:
            return None
        own: Path = ("sweep", block)
        paths = [path for path, value in _values(self.text.data, ()) if value == word]
        in_block = [path for path in paths if path[:2] == own]
        in_study = [path for path in paths if path[:1] != ("sweep",)]
        return self.text.at(next(iter((*in_block, *in_study)), own))


def _functions(said: Any) -> list[tuple[Path, str]]:
    """What looks like a function's name, the first of each last."""
    found = [
        (path, value) for path, value in _values(said, ()) if isinstance(value, str) and is_function(value)
    ]
    return found[::-1]


def _values(data: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Every scalar with the keys that lead to it."""
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _values(value, (*path, key))
    else:
        yield path, data
