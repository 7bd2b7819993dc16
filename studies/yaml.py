"""Text of study files: UTF-8, and YAML with the scalars of YAML 1.2 and the line on which everything stands.

The common loader reads YAML 1.1, where ``5e-3`` is text, ``on`` a boolean and ``1:30`` the number 90.
Here scalars follow the core schema of YAML 1.2, a repeated key is an error, and only plain data comes out.
"""

__all__ = [
    "UNNAMED",
    "KeyPath",
    "Mark",
    "Marks",
    "Text",
    "check_is_file",
    "dump_yaml",
    "not_utf8",
    "read_all_yaml",
    "read_text",
    "read_yaml",
]

import math
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from studies.bounds import MOST_DEPTH, MOST_DIGITS, MOST_TEXT_BYTES, MOST_VALUES
from studies.plain_values import Plain, Scalar, is_text
from workers.errors import StudyError
from workers.libraries.yaml import dumper, events, loader, where

UNNAMED = "<text>"
"""Name of a text that is no file, in errors."""

Mark = tuple[int, int]
"""Line and column, both from 1."""

KeyPath = tuple[str | int, ...]
"""The keys and indices that lead to a value."""

Marks = Mapping[KeyPath, Mark]
"""Place of each value in its text; a value of a mapping is marked at its key."""

_SMALL = 200_000
"""Characters up to which a text is read by PyYAML itself, whose messages are the better ones."""

_MANY = f"more than {MOST_VALUES:,} values, aliases counted each time; put pairs into a file of their own"
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

    def at(self, path: KeyPath) -> str:
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
            reader = _NodeReader(name)
            yield Text(name, reader.value(node, ()), reader.marks)
    except yaml.YAMLError as error:
        line, problem = where(error)
        raise StudyError(f"{name}:{line}: this is no YAML: {problem}") from None


def dump_yaml(data: object) -> str:
    """YAML that `read_yaml` reads back as equal data."""
    return yaml.dump(data, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=110)


def _refuse_too_much(text: str, name: str) -> None:
    """Refuse what is too large or too deep to be read, before it is.

    Raises:
        StudyError: naming the line at which the bound is passed.
    """
    if len(text) > MOST_TEXT_BYTES:
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
        if depth > MOST_DEPTH:
            what = f"mappings and lists are more than {MOST_DEPTH} deep; write them flatter"
            raise StudyError(f"{name}:{line}: {what}")
        if number > MOST_VALUES:
            raise StudyError(f"{name}:{line}: {_MANY}")


def too_large(size_bytes: int) -> str:
    """The message about a study file of so many bytes."""
    return (
        f"the study has {size_bytes:,} bytes; at most {MOST_TEXT_BYTES:,} are read: put its pairs into"
        " a file of their own"
    )


@dataclass(slots=True)
class _NodeReader:
    """Reader of YAML nodes as data, which notes where each stood."""

    name: str
    marks: dict[KeyPath, Mark] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)
    """The nodes that are being read: one that contains itself never ends."""

    def value(self, node: Node, path: KeyPath) -> Plain:
        self.marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        if len(self.marks) > MOST_VALUES:
            raise self.error(node, _MANY)
        if len(path) > MOST_DEPTH:
            raise self.error(node, f"mappings and lists are more than {MOST_DEPTH} deep")
        if isinstance(node, ScalarNode):
            return self.scalar(node)
        if id(node) in self.open:
            raise self.error(node, "an anchor contains itself")
        self.open.add(id(node))
        try:
            return self.mapping(node, path) if isinstance(node, MappingNode) else self.sequence(node, path)
        finally:
            self.open.remove(id(node))

    def sequence(self, node: Node, path: KeyPath) -> list[Plain]:
        if not isinstance(node, SequenceNode) or node.tag != "tag:yaml.org,2002:seq":
            raise self.error(node, f"the tag {node.tag!r} is not plain data")
        return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]

    def mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Plain]:
        if node.tag != "tag:yaml.org,2002:map":
            raise self.error(node, f"the tag {node.tag!r} is not plain data")
        data: dict[str, Plain] = {}
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

    def scalar(self, node: ScalarNode) -> Scalar:
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
                if (num := len(text.lstrip("+-"))) > MOST_DIGITS:
                    what = f"a whole number of {num:,} digits; at most {MOST_DIGITS} are allowed"
                    raise self.error(node, what)
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            case "float" if _FLOAT.fullmatch(text):
                return _float(text)
        raise self.error(node, f"{text[:80]!r} with the tag {node.tag!r} is not plain data")

    def error(self, node: Node, problem: str) -> StudyError:
        return StudyError(f"{self.name}:{node.start_mark.line + 1}: {problem}")


def _check_text(reader: _NodeReader, node: Node, text: str) -> None:
    if not is_text(text):
        raise reader.error(node, f"{text[:40]!r} has half of a pair of surrogates, which is no text")


def _float(text: str) -> float:
    lower = text.lower()
    if lower.endswith(".inf"):
        return -math.inf if lower.startswith("-") else math.inf
    return math.nan if lower.endswith(".nan") else float(text)


_MARKS = {
    b"\xff\xfe\x00\x00": ("UTF-32", "save it as UTF-8"),
    b"\x00\x00\xfe\xff": ("UTF-32", "save it as UTF-8"),
    b"\xff\xfe": ("UTF-16", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16", "save it as UTF-8"),
    b"PAR1": ("Parquet", "call it .parquet"),
    b"ARROW1": ("Arrow's own format", "save it as Parquet"),
    b"PK\x03\x04": ("a ZIP archive, as those of Excel are", "save it as text, in UTF-8"),
    b"\xd0\xcf\x11\xe0": ("an old file of Excel or Word", "save it as text, in UTF-8"),
    b"\x1f\x8b": ("packed by gzip", "unpack it"),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", "unpack it"),
    b"%PDF": ("PDF", "give the text alone"),
}
"""First bytes of files that are no text in UTF-8: what they are, and what to do."""


def read_text(path: Path, name: str, most_bytes: int) -> str:
    """The text of a file in UTF-8, a byte order mark left out; `name` is what errors call it.

    Raises:
        StudyError: it is no file, is too large, or is no text in UTF-8.
        OSError: it cannot be read.
    """
    check_is_file(path, name)
    if (size := path.stat().st_size) > most_bytes:
        raise StudyError(
            f"{name}:1: the file has {size:,} bytes; allowed: {most_bytes:,}; write many pairs, or long"
            " ones, in a .jsonl file beside it"
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise StudyError(not_utf8(path, name, error)) from None


def check_is_file(path: Path, name: str, *, text: bool = True) -> None:
    """Refuse what is no ordinary file, which might never end, and what begins as no text does.

    Raises:
        StudyError: it is none.
        OSError: it cannot be read.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise StudyError(f"{name}: it cannot be read: this is {kind}; give a file")
    with path.open("rb") as file:
        head = file.read(8)
    for mark, (what, todo) in _MARKS.items() if text else ():
        if head.startswith(mark):
            raise StudyError(f"{name}:1: this is {what}; {todo}")
    if text and b"\x00" in head:
        raise StudyError(f"{name}:1: this is no text in UTF-8: it begins with zero bytes; save it as UTF-8")


def not_utf8(path: Path, name: str, error: UnicodeDecodeError) -> str:
    """The line and the byte of a file that are no UTF-8, and what to do."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as found:
                byte = f"byte {found.start + 1} of the line, 0x{line[found.start]:02x}, is no UTF-8"
                return f"{name}:{number}: {byte} ({found.reason}); save the file as UTF-8"
    return f"{name}:1: this is no UTF-8: {error.reason}; save the file as UTF-8"
