"""YAML with the scalars of YAML 1.2, and the line on which everything stands.

The common loader reads YAML 1.1, where ``5e-3`` is text, ``on`` a boolean and ``1:30`` the number 90.
Here scalars follow the core schema of YAML 1.2, a repeated key is an error, and only plain data comes out.
"""

__all__ = ["UNNAMED", "Mark", "Marks", "Path", "Text", "dump_yaml", "read_all_yaml", "read_yaml", "too_large"]

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from studies import bounds
from studies.plain_values import is_text
from workers.errors import StudyError
from workers.libraries.yaml import dumper, events, loader, where

UNNAMED = "<text>"
"""Name of a text that is no file, in errors."""

Mark = tuple[int, int]
"""Line and column, both from 1."""

Path = tuple[str | int, ...]
"""The keys and indices that lead to a value."""

Marks = Mapping[Path, Mark]
"""Place of each value in its text; a value of a mapping is marked at its key."""

_SMALL = 200_000
"""Characters up to which a text is read by PyYAML itself, whose messages are the better ones."""

_MANY = (
    f"more than {bounds.MOST_VALUES:,} values, aliases counted each time; put pairs into a file of their own"
)
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)

_SCALARS = tuple(
    (f"tag:yaml.org,2002:{name}", re.compile(rf"(?:{form.pattern})$"))
    for name, form in (("null", _NULL), ("bool", _BOOL), ("int", _INT), ("float", _FLOAT))
)
_NO_TEXT = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that YAML has no place for: control characters, and halves of pairs of surrogates."""

_LOADER = loader(_SCALARS)
_FAST_LOADER = loader(_SCALARS, fast=True)
_DUMPER = dumper(_SCALARS)
"""The same table decides what needs quotes, so that text which looks like a number stays text."""


@dataclass(frozen=True, slots=True)
class Text:
    """One YAML document, read."""

    name: str
    """Its name in errors: a file's path, or ``<text>``."""
    data: Any
    """Plain dicts, lists and scalars."""
    marks: Marks

    def at(self, path: Path) -> str:
        """``FILE:LINE`` of the value at `path`, or of the nearest thing around it."""
        while path and path not in self.marks:
            path = path[:-1]
        line = self.marks[path][0] if path in self.marks else 1
        return f"{self.name}:{line}"


def read_yaml(text: str, name: str = UNNAMED) -> Text:
    """The one document of `text`.

    Raises:
        StudyError: no YAML, no document or several, a repeated key, or a tag that is no plain data.
    """
    documents = list(read_all_yaml(text, name))
    if len(documents) != 1:
        raise StudyError(f"{name}:1: a study file holds one document; this one holds {len(documents)}")
    return documents[0]


def read_all_yaml(text: str, name: str = UNNAMED) -> Iterator[Text]:
    """Every document of `text`, in order. Raises as `read_yaml` does."""
    if found := _NO_TEXT.search(text):
        line = len(text[: found.start()].splitlines()) or 1
        raise StudyError(
            f"{name}:{line}: the character {found[0]!r} is not allowed in a study file; leave it out, or"
            ' write it in double quotes, as "\\x07"'
        )
    try:
        _refuse_too_much(text, name)
        for node in yaml.compose_all(text, Loader=_LOADER if len(text) <= _SMALL else _FAST_LOADER):
            reader = _Reader(name)
            yield Text(name, reader.value(node, ()), reader.marks)
    except yaml.YAMLError as error:
        line, problem = where(error)
        raise StudyError(f"{name}:{line}: this is no YAML: {problem}") from None


def dump_yaml(data: Any) -> str:
    """YAML that `read_yaml` reads back as equal data."""
    return yaml.dump(data, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=110)


def _refuse_too_much(text: str, name: str) -> None:
    """Refuse what is too large or too deep to be read, before it is.

    Raises:
        StudyError: naming the line at which the bound is passed.
    """
    if len(text) > bounds.MOST_TEXT_BYTES:
        raise StudyError(f"{name}:1: {too_large(len(text))}")
    try:
        _check_events(events(text), name)
    except (yaml.YAMLError, UnicodeEncodeError):
        if len(text) > _SMALL:
            raise
        # A small text is refused by its reader, in better words, unless it is too deep for that one.
        with suppress(yaml.YAMLError):
            _check_events(events(text, fast=False), name)


def _check_events(found: Iterator[tuple[int, int]], name: str) -> None:
    for number, (line, depth) in enumerate(found, start=1):
        if depth > bounds.MOST_DEPTH:
            what = f"mappings and lists are more than {bounds.MOST_DEPTH} deep; write them flatter"
            raise StudyError(f"{name}:{line}: {what}")
        if number > bounds.MOST_VALUES:
            raise StudyError(f"{name}:{line}: {_MANY}")


def too_large(size_bytes: int) -> str:
    """The message about a study file of so many bytes."""
    return (
        f"the study has {size_bytes:,} bytes; at most {bounds.MOST_TEXT_BYTES:,} are read: put its pairs into"
        " a file of their own"
    )


@dataclass(slots=True)
class _Reader:
    """Turns nodes into data and notes where each stood."""

    name: str
    marks: dict[Path, Mark] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)
    """The nodes that are being read: one that contains itself never ends."""

    def value(self, node: Node, path: Path) -> Any:
        self.marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        if len(self.marks) > bounds.MOST_VALUES:
            raise self.error(node, _MANY)
        if len(path) > bounds.MOST_DEPTH:
            raise self.error(node, f"mappings and lists are more than {bounds.MOST_DEPTH} deep")
        if isinstance(node, ScalarNode):
            return self.scalar(node)
        if id(node) in self.open:
            raise self.error(node, "an anchor contains itself")
        self.open.add(id(node))
        try:
            return self.mapping(node, path) if isinstance(node, MappingNode) else self.sequence(node, path)
        finally:
            self.open.remove(id(node))

    def sequence(self, node: Node, path: Path) -> list[Any]:
        if not isinstance(node, SequenceNode) or node.tag != "tag:yaml.org,2002:seq":
            raise self.error(node, f"the tag {node.tag!r} is not plain data")
        return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]

    def mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        if node.tag != "tag:yaml.org,2002:map":
            raise self.error(node, f"the tag {node.tag!r} is not plain data")
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, ScalarNode) else None
            if key is None:
                raise self.error(key_node, "a key must be text")
            _check_text(self, key_node, key)
            if key in data:
                raise self.error(key_node, f"the key {key!r} is there twice")
            self.marks[(*path, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            data[key] = self.value(value_node, (*path, key))
        return data

    def scalar(self, node: ScalarNode) -> Any:
        text: str = node.value
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "str":
                _check_text(self, node, text)
                return text
            case "null":
                return None
            case "bool" if _BOOL.fullmatch(text):
                return text.lower() == "true"
            case "int" if _INT.fullmatch(text):
                if (num := len(text.lstrip("+-"))) > bounds.MOST_DIGITS:
                    what = f"a whole number of {num:,} digits; at most {bounds.MOST_DIGITS} are allowed"
                    raise self.error(node, what)
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            case "float" if _FLOAT.fullmatch(text):
                return _float(text)
        raise self.error(node, f"{text[:80]!r} with the tag {node.tag!r} is not plain data")

    def error(self, node: Node, problem: str) -> StudyError:
        return StudyError(f"{self.name}:{node.start_mark.line + 1}: {problem}")


def _check_text(reader: _Reader, node: Node, text: str) -> None:
    if not is_text(text):
        raise reader.error(node, f"{text[:40]!r} has half of a pair of surrogates, which is no text")


def _float(text: str) -> float:
    lower = text.lower()
    if lower.endswith(".inf"):
        return -math.inf if lower.startswith("-") else math.inf
    return math.nan if lower.endswith(".nan") else float(text)
