"""Table of what the project leans on × the oldest, the locked and the newest allowed versions, by trying.

`python -m tests.versions [PYTHON...]` runs `python -m workers.libraries` in each environment that exists and
prints, for each place, ok, degraded (what is lost) or error; it exits with 1 where anything is an error.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = {
    "oldest": ROOT / ".overlays/oldest/bin/python",
    "locked": ROOT / ".venv/bin/python",
    "newest": ROOT / ".overlays/newest/bin/python",
}
TIMEOUT_S = 600.0
STYLES = {"ok": "green", "degraded": "yellow", "error": "bold red"}


@dataclass(frozen=True)
class Tried:
    """How all places fared in one environment."""

    name: str
    versions: Mapping[str, str]
    outcomes: Mapping[tuple[str, str], tuple[str, str]]
    """State and what is told of each place, by its library and name; none where the environment is broken."""
    problem: str = ""
    """Why it is."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is an error."""
        return not self.problem and all(state != "error" for state, _ in self.outcomes.values())


def tried(name: str, python: Path) -> Tried:
    """Try all places in the environment of this Python."""
    command = [str(python), "-m", "workers.libraries"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
        found: dict[str, Any] = json.loads((done.stdout.splitlines() or [""])[-1])
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        said = getattr(error, "stderr", None) or (done.stderr if isinstance(error, ValueError) else "")
        last = (str(said).strip().splitlines() or [f"{type(error).__name__}: {error}"])[-1]
        return Tried(name, {}, {}, problem=last)
    outcomes = {(one["library"], one["name"]): (one["state"], one["told"]) for one in found["outcomes"]}
    return Tried(name, found["versions"], outcomes)


def table(columns: Sequence[Tried]) -> Table:
    """A row a place and a column an environment, whose head lists its versions."""
    made = Table(title="What is leaned on, by versions")
    made.add_column("place", ratio=3)
    for column in columns:
        versions = [f"{library} {version}" for library, version in column.versions.items()]
        made.add_column("\n".join([column.name, *versions]), ratio=2)
    for place in dict.fromkeys(place for column in columns for place in column.outcomes):
        made.add_row(Text(f"{place[0]}: {place[1]}"), *(_cell(column, place) for column in columns))
    return made


def _cell(column: Tried, place: tuple[str, str]) -> Text:
    state, told = column.outcomes.get(place, ("error", column.problem or "not tried"))
    return Text(f"{state}: {told}" if told else state, STYLES[state])


def asked_for(arguments: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Names and Pythons: those of the command line, or the three environments."""
    if arguments:
        yield from ((given, Path(given)) for given in arguments)
        return
    yield from ENVIRONMENTS.items()


def main(arguments: Sequence[str]) -> int:
    """Print the table; 1 where anything is an error, or nothing was tried."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    columns: list[Tried] = []
    for name, python in asked_for(arguments):
        if python.is_file():
            columns.append(tried(name, python))
        else:
            console.print(f"{name}: there is no {python}", markup=False, highlight=False)
            # What was asked for by name must be there; `make overlays` makes those that are not.
            columns += [Tried(name, {}, {}, problem="there is no such Python")] if arguments else []
    console.print(table(columns))
    for column in columns:
        if column.problem:
            console.print(f"{column.name} cannot be tried: {column.problem}", markup=False, highlight=False)
    return 0 if columns and all(column.is_sound for column in columns) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
