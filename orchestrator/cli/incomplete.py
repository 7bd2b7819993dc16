"""What an answer lacks: said on stderr, and the exit code says it too, unless that was allowed."""

__all__ = ["Incomplete", "partial_option"]

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

if TYPE_CHECKING:
    from orchestrator.lost import Lost

partial_option = click.option(
    "--partial", is_flag=True, help="Exit 0 also where studies or rows of them are lost; else it is 1."
)


class Incomplete:
    """Within it an answer is given; after that is said what it lacks, and the command ends with 1."""

    def __init__(self, *, partial: bool) -> None:
        self._partial = partial
        self._lines: dict[str, None] = {}

    def study(self, line: str) -> None:
        """A study is left out; `line` says which, and why."""
        self._lines[line] = None

    def rows(self, lost: "Lost") -> None:
        """Rows of a study are lost."""
        self._lines.update(dict.fromkeys(lost.lines()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        from orchestrator.lines import plain

        for line in self._lines:
            click.echo(plain(line), err=True)
        if self._lines and kind is None:
            if self._partial:
                return
            click.echo("the answer is of the rest; with --partial that is no error", err=True)
            sys.exit(1)
