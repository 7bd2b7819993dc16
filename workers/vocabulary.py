"""Words that planner and workers share: places, units, cells, pairs. No torch here.

A *cell* of a plan is fully resolved: every layer and head is a number and every position is a token
index or the name of a span. A worker needs nothing else than a model, cells and pairs.
"""

__all__ = [
    "OPERATIONS",
    "SOURCE",
    "Cell",
    "CellUnit",
    "CleanRun",
    "ModelSpec",
    "NamedRun",
    "Pair",
    "Place",
    "Position",
    "Prompt",
    "Region",
    "Vectors",
    "is_function",
    "is_pooled",
    "is_source",
    "locate",
    "read_in",
    "span_name",
    "why_exact",
]

import base64
import hashlib
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from workers.errors import StudyError
from workers.model.spec import ModelSpec

SOURCE = r"source(?:_(?:[2-9]|[1-9]\d+))?"
"""Pattern of a source input's name: ``source``, ``source_2`` …"""

OPERATIONS = ("vanilla", "add", "subtract")
"""``vanilla`` replaces the base's value, ``add`` and ``subtract`` change it by the other value."""

Position = tuple[int | str, ...]
"""Token positions, all at once: indices from 0, or span references such as ``subject.last``."""

Region = str | tuple[str, str]
"""Part of a run that is no position: a rectangle in one spelling, ``1:3, 4:9`` (see `workers.model.sites`),
or the names of a getter and a setter, each ``module:function``."""

Span = tuple[int, int]
"""The tokens ``[start, end)`` of a named span."""

_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_SPAN = re.compile(r"(?P<name>.+?)(?:\.(?P<part>first|last|mean)|\[(?P<index>-?\d+)\])?")


@dataclass(frozen=True, slots=True)
class Place:
    """Place in a run: a site, at a layer, in some heads, at some token positions."""

    site: str
    """A name of ``workers.model.sites.SITES``, or a module path ``a.b.c`` (its output) or ``a.b.c:input``."""
    layer: int | None
    """The block's number; None for a module path."""
    heads: tuple[int, ...] | None
    """Heads, all at once; None for the whole width."""
    position: Position
    """None at all where there are `coordinates`."""
    coordinates: Region | None = None

    def to_json(self) -> dict[str, object]:
        """Plain data, for canonical JSON; what is not used is not there."""
        region = self.coordinates
        return {
            "site": self.site,
            "layer": self.layer,
            "heads": None if self.heads is None else list(self.heads),
            "position": list(self.position),
            **(
                {} if region is None else {"coordinates": region if isinstance(region, str) else list(region)}
            ),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        heads, region = data["heads"], data.get("coordinates")
        return cls(
            site=data["site"],
            layer=data["layer"],
            heads=None if heads is None else tuple(heads),
            position=tuple(data["position"]),
            coordinates=tuple(region) if isinstance(region, list) else region,
        )


@dataclass(frozen=True, slots=True)
class CellUnit:
    """One change of a run: at ``place``, in some of its coordinates, by ``operation`` with a value."""

    place: Place
    dims: tuple[tuple[int, int], ...] | None
    """Half-open ranges of the place's dimensions (of each head, where heads are named), or of the coordinates
    of ``fit`` where there is one; None for all."""
    operation: str
    """One of `OPERATIONS`, ``collect``, ``skip``, or a Python function ``module:function``."""
    run: str
    """Whose value: ``source``, ``source_2`` …, ``base`` (its own clean run), the name of one of the cell's
    ``runs``, ``zero``, ``noise`` or ``fit``."""
    origin: Place | None
    """Place where the value is taken; None for ``zero``, ``noise`` and ``fit``. As many positions as
    ``place`` has, or one pooled."""
    fit: str | None = None
    """The identity of the fit whose coordinates these are; None for the dimensions as they are."""
    value_fit: str | None = None
    """With the run ``fit``: the identity of the fit whose vector is the value."""
    scale: float | None = None
    """Of ``noise`` its standard deviation, of a ``fit`` a factor (1 where None)."""
    seed: int | None = None
    """Of ``noise``: with the pair and the place it says what is drawn."""

    def to_json(self) -> dict[str, object]:
        """Plain data, for canonical JSON; what is not used is not there."""
        more = {"fit": self.fit, "value_fit": self.value_fit, "scale": self.scale, "seed": self.seed}
        return {
            "place": self.place.to_json(),
            "dims": None if self.dims is None else [list(d) for d in self.dims],
            "operation": self.operation,
            "run": self.run,
            "origin": None if self.origin is None else self.origin.to_json(),
            **{key: value for key, value in more.items() if value is not None},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        dims, origin = data["dims"], data["origin"]
        return cls(
            place=Place.from_json(data["place"]),
            dims=None if dims is None else tuple((lo, hi) for lo, hi in dims),
            operation=data["operation"],
            run=data["run"],
            origin=None if origin is None else Place.from_json(origin),
            fit=data.get("fit"),
            value_fit=data.get("value_fit"),
            scale=data.get("scale"),
            seed=data.get("seed"),
        )


@dataclass(frozen=True, slots=True)
class NamedRun:
    """An intervened run of the pair's base, which units take values from."""

    name: str
    units: tuple[CellUnit, ...]
    """In the order in which they apply; they may take values from the runs named before."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the sweep, resolved: its units in the order in which they apply, and where to read."""

    units: tuple[CellUnit, ...]
    read: int | str
    """The token whose next-token logits are read: an index, or a span reference with one token."""
    runs: tuple[NamedRun, ...] = ()
    """Run before it, in order."""

    def every_unit(self) -> Iterator[CellUnit]:
        """All units that a job of the cell applies: those of its runs, then its own."""
        for run in self.runs:
            yield from run.units
        yield from self.units

    def to_json(self) -> dict[str, object]:
        """Plain data, for canonical JSON."""
        found: dict[str, object] = {"units": [u.to_json() for u in self.units], "read": self.read}
        if self.runs:
            found["runs"] = [[run.name, [u.to_json() for u in run.units]] for run in self.runs]
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        runs = data.get("runs", ())
        return cls(
            units=tuple(CellUnit.from_json(u) for u in data["units"]),
            read=data["read"],
            runs=tuple(NamedRun(name, tuple(CellUnit.from_json(u) for u in units)) for name, units in runs),
        )


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors of a run that is no token ids: one for each token or time step.

    As bytes they are equal where every number is, and hash fast: Python remembers the hash of bytes.
    """

    shape: tuple[int, int]
    """T tokens × E numbers each."""
    data: bytes
    """float32, little-endian, token after token."""

    @classmethod
    def of(cls, rows: Sequence[Sequence[float]]) -> Self:
        """T lists of E numbers, each rounded to float32."""
        numbers = [number for row in rows for number in row]
        return cls((len(rows), len(rows[0])), struct.pack(f"<{len(numbers)}f", *numbers))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over shape and numbers: the same on every machine."""
        return hashlib.sha256(f"{self.shape[0]}x{self.shape[1]}\n".encode() + self.data).hexdigest()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, tokens: slice) -> "Vectors":
        """The vectors of neighbouring tokens, as a tuple of token ids is cut."""
        start, stop, _ = tokens.indices(len(self))
        num_tokens, width = max(0, stop - start), self.shape[1]
        return Vectors((num_tokens, width), self.data[4 * width * start : 4 * width * (start + num_tokens)])

    def to_json(self) -> dict[str, object]:
        """Plain data, exact."""
        return {"shape": list(self.shape), "data": base64.b64encode(self.data).decode()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        num_tokens, width = data["shape"]
        return cls((num_tokens, width), base64.b64decode(data["data"]))


Prompt = tuple[int, ...] | Vectors
"""Input of a run: token ids, or vectors in their place."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One base, its sources and its labels, as a model is given them."""

    pair: int
    """The number that rows carry."""
    tokens: Mapping[str, Prompt]
    """Input of each run: ``base``, and ``source``, ``source_2`` … where there are any."""
    spans: Mapping[str, Mapping[str, Span]]
    """For each run, its named spans."""
    label_ids: tuple[int, ...]
    """Token ids, or classes, any of which counts as the label; empty where nothing is predicted."""
    base_label_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CleanRun:
    """One unintervened run to be scored: a prompt, the token that is read, the labels looked at there."""

    tokens: Prompt
    read: int
    label_ids: tuple[int, ...]
    base_label_ids: tuple[int, ...]


def locate(position: Position, spans: Mapping[str, Span]) -> tuple[int, ...]:
    """Token indices of `position` in a run with these `spans`, in order.

    ``subject`` is every token of the span, ``subject.first``, ``subject.last`` and ``subject[1]`` one
    of them, and ``subject.mean`` all of them (whoever asks pools them).

    Raises:
        StudyError: the run has no such span, or the span has no such token.
    """
    found: list[int] = []
    for item in position:
        found.extend((item,) if isinstance(item, int) else _locate_span(item, spans))
    return tuple(found)


def read_in(pair: Pair, run: str, read: int | str) -> int | None:
    """The token of `run` that answers to the base run's `read`: what the two runs are compared at.

    The last token answers to the last, any other index to the same index, a span to the run's own span of
    that name. None where the run has no such token.
    """
    num_tokens = len(pair.tokens[run])
    if isinstance(read, int):
        at = num_tokens - 1 if read == len(pair.tokens["base"]) - 1 else read
        return at if at < num_tokens else None
    spans = pair.spans.get(run, {})
    found = locate((read,), spans) if span_name(read) in spans else ()
    return found[0] if len(found) == 1 else None


def span_name(reference: str) -> str:
    """The span that a reference such as ``subject.last`` or ``subject[1]`` names."""
    match = _SPAN.fullmatch(reference)
    assert match is not None, reference
    return match["name"]


def is_source(name: str) -> bool:
    """Whether a name is that of a source input: ``source``, ``source_2`` …"""
    return re.fullmatch(SOURCE, name) is not None


def is_function(operation: str) -> bool:
    """Whether an operation is a Python function, ``module:function``."""
    return _FUNCTION.fullmatch(operation) is not None


def why_exact(cell: Cell) -> str | None:
    """Reason why a cell's effect cannot be estimated of clean runs; None where nothing does."""
    if cell.runs:
        return "a value of another intervened run"
    for unit in cell.units:
        if unit.run == "noise":
            return "noise"
        if unit.operation not in OPERATIONS:
            return f"the intervention {unit.operation!r}"
        if unit.place.coordinates is not None:
            return "coordinates"
    return None


def is_pooled(position: Position) -> bool:
    """Whether the position is the mean over a span's tokens."""
    return any(isinstance(item, str) and item.endswith(".mean") for item in position)


def _locate_span(reference: str, spans: Mapping[str, Span]) -> range:
    match = _SPAN.fullmatch(reference)
    name = match["name"] if match else reference
    if match is None or name not in spans:
        raise StudyError(f"position {reference!r}: the run has no span {name!r}; it has {sorted(spans)}")
    start, end = spans[name]
    if match["index"] is not None:
        index = int(match["index"])
        if not -(end - start) <= index < end - start:
            raise StudyError(f"position {reference!r}: the span {name!r} has only {end - start} tokens")
        at = (start if index >= 0 else end) + index
        return range(at, at + 1)
    if match["part"] == "first":
        return range(start, start + 1)
    if match["part"] == "last":
        return range(end - 1, end)
    return range(start, end)
