"""Where a study was written: the lines of the file that it was read from, for errors that planning finds."""

__all__ = ["Origin"]

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from studies.yaml import Path, Text

_ELSEWHERE = ("pairs", "plots", "train")
"""Keys of a study that say nothing of what its cells do."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The text that a study was read from; studies are equal wherever they were read from."""

    text: Text | None = field(default=None, compare=False)

    @classmethod
    def of(cls, text: Text) -> "Origin":
        """The text of a whole study, without its pairs, which may be many."""
        if not isinstance(text.data, dict):
            return cls()
        data = {key: value for key, value in text.data.items() if key not in _ELSEWHERE}
        marks = {
            path: mark for path, mark in text.marks.items() if path[:1] not in {(k,) for k in _ELSEWHERE}
        }
        return cls(Text(text.name, data, marks))

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


def _values(data: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Every scalar with the keys that lead to it."""
    if isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _values(value, (*path, key))
    else:
        yield path, data
