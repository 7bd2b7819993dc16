"""Names of PyYAML that may move: its table of scalars without quotes, and where its errors stand."""

__all__ = ["PLACES", "dumper", "events", "loader", "where"]

import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from yaml.nodes import ScalarNode

from workers.libraries import LibraryPlace

_TEXT = "tag:yaml.org,2002:str"

_FAST: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

Scalars = Iterable[tuple[str, re.Pattern[str]]]
"""Tags, with what a whole scalar of each looks like; anything else is text."""


def loader(scalars: Scalars, *, fast: bool = False) -> Any:
    """A loader that knows these scalars and no others; a fast one is of libyaml, where PyYAML has it.

    A fast one recurses on the stack of C: what it is given must not be deep.
    """

    class Loader(_FAST if fast else yaml.BaseLoader):  # type: ignore[misc]
        pass

    for tag, pattern in scalars:
        _add(Loader, tag, pattern)
    return Loader


def events(text: str, *, fast: bool = True) -> Iterator[tuple[int, int]]:
    """For each value of `text`, and each alias, its line from 1, and how deep it is in mappings and lists.

    Nothing is built, so that what is far too large costs no memory. The fast way gives up on some texts that
    PyYAML itself reads, such as a thousand brackets in a line.

    Raises:
        yaml.YAMLError: the text is no YAML.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_FAST if fast else yaml.BaseLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.NodeEvent):
            depth += isinstance(event, yaml.CollectionStartEvent)
            mark = event.start_mark
            yield (1 if mark is None else mark.line + 1), depth


def dumper(scalars: Scalars) -> type[yaml.SafeDumper]:
    """A dumper that puts quotes around text which a loader of these scalars would not take for text."""

    class Dumper(yaml.SafeDumper):
        yaml_implicit_resolvers = {None: [(tag, pattern) for tag, pattern in scalars]}  # noqa: RUF012

        def ignore_aliases(self, data: object) -> bool:
            return True

    knows = _knows(Dumper)

    def represent(made: yaml.SafeDumper, data: str) -> ScalarNode:
        # Only double quotes keep every line break and control character as it is.
        style = None if data.isprintable() and knows else '"'
        return made.represent_scalar(_TEXT, data, style=style)

    Dumper.add_representer(str, represent)
    return Dumper


def _add(kind: Any, tag: str, pattern: re.Pattern[str]) -> None:
    # Whatever a scalar begins with.
    kind.add_implicit_resolver(tag, pattern, None)


def _knows(kind: type[yaml.SafeDumper]) -> bool:
    """Whether the table decides what needs quotes: 1:30 is no number in it, as it is in PyYAML's own."""
    return yaml.dump("1:30", Dumper=kind).strip().startswith("1:30")


def where(error: yaml.YAMLError) -> tuple[int, str]:
    """The line of an error, from 1, and what is wrong there."""
    mark = getattr(error, "problem_mark", None)
    said = str(getattr(error, "problem", None) or error).splitlines() or ["it cannot be read"]
    line = getattr(mark, "line", None)
    return (line + 1 if isinstance(line, int) else 1), said[0]


# What is tried by `make versions`

_NUMBER = (("tag:yaml.org,2002:float", re.compile(r"(?:[-+]?[0-9]+[eE][-+]?[0-9]+)$")),)


def _probe_table() -> str | None:
    node = yaml.compose("5e-3", Loader=loader(_NUMBER))
    if node is None or node.tag != _NUMBER[0][0]:
        raise LookupError("a loader does not know the scalars that it was given")
    made = dumper(_NUMBER)
    if not yaml.dump("5e-3", Dumper=made).strip().startswith(("'", '"')):
        raise LookupError("text that looks like a number is written without quotes")
    return None if _knows(made) else "all text is written in quotes"


def _probe_where() -> str | None:
    try:
        yaml.compose("a: 1\nb: [", Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        return None if where(error)[0] > 1 else "the line of what is no YAML"
    raise LookupError("what is no YAML is read")


def _probe_fast() -> str | None:
    if list(events("a: [1, {b: 2}]")) != [(1, 1), (1, 1), (1, 2), (1, 2), (1, 3), (1, 3), (1, 3)]:
        raise LookupError("values are counted otherwise")
    return None if _FAST is not yaml.BaseLoader else "large files are read slowly"


_SEEN = "6.0.4"

PLACES = (
    LibraryPlace(
        library="yaml",
        name="yaml_implicit_resolvers, the table of a loader and a dumper",
        used_for="scalars of YAML 1.2, the same when they are read and when they are written",
        seen_with=_SEEN,
        without="all text is written in quotes; study files are read as before",
        marks=("yaml_implicit_resolvers", "add_implicit_resolver"),
        probe=_probe_table,
    ),
    LibraryPlace(
        library="yaml",
        name="problem_mark and problem of its errors",
        used_for="the line of a study file that is no YAML",
        seen_with=_SEEN,
        without="the first line is named, with the whole message",
        marks=("problem_mark",),
        probe=_probe_where,
    ),
    LibraryPlace(
        library="yaml",
        name="CBaseLoader, and the marks of its events",
        used_for="counting what a study file holds before anything is built, and reading large ones",
        seen_with=_SEEN,
        without="large files are read slowly",
        marks=("CBaseLoader", "CollectionStartEvent"),
        probe=_probe_fast,
    ),
)
