"""What safetensors files hold, from their headers alone: eight bytes of length, then JSON. No torch here."""

__all__ = ["Stored", "odd_ones", "stored_tensors"]

import json
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

_MOST_BYTES = 10**8
"""The format's own limit for a header; what a damaged file says may be any number."""

_MOST_PLACES = 10**6
"""Of one kind of tensor: a grid of more is not looked at."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies, and as what."""

    file: Path
    start: int
    """Its first byte in the file."""
    num_bytes: int
    dtype: str
    """As the format spells it, ``F32`` or ``BF16``."""
    shape: tuple[int, ...]


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor in the safetensors files of `folder`, by name.

    Raises:
        OSError: a file cannot be read.
        ValueError, KeyError, TypeError, struct.error: it is damaged.
    """
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in _stored(file)}


def odd_ones(tensors: Mapping[str, Stored]) -> list[str]:
    """Tensors that stand out among those whose names differ in numbers only, such as those of other layers or
    experts: of another shape than most, or not there."""
    found: list[str] = []
    for kind, names in sorted(_kinds(tensors).items()):
        shapes = {numbers: tensors[name].shape for numbers, name in names.items()}
        usual = Counter(shapes.values()).most_common(1)[0][0]
        found += [
            f"{names[numbers]} ({list(shape)}, the others {list(usual)})"
            for numbers, shape in sorted(shapes.items())
            if shape != usual
        ]
        found += [f"{_named(kind, numbers)} (missing)" for numbers in _gaps(names)]
    return found


def _stored(file: Path) -> Iterator[tuple[str, Stored]]:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(min(length, _MOST_BYTES)))
    if not isinstance(header, dict):
        raise ValueError(f"{file.name} has no header")
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            yield name, Stored(file, 8 + length + start, end - start, entry["dtype"], tuple(entry["shape"]))


def _kinds(tensors: Mapping[str, Stored]) -> dict[tuple[str, ...], dict[tuple[int, ...], str]]:
    """Names by what stands between their numbers, and of each kind by the numbers."""
    kinds: dict[tuple[str, ...], dict[tuple[int, ...], str]] = defaultdict(dict)
    for name in tensors:
        between = re.split(r"(?<=\.)\d+(?=\.)", name)
        numbers = tuple(map(int, re.findall(r"(?<=\.)\d+(?=\.)", name)))
        kinds[tuple(between)][numbers] = name
    return kinds


def _gaps(seen: Mapping[tuple[int, ...], str]) -> list[tuple[int, ...]]:
    """Numbers of one kind that are not there, where each of them is there with others."""
    axes = [sorted(set(axis)) for axis in zip(*seen, strict=True)]
    size = 1
    for axis in axes:
        size *= len(axis)
    return [] if size > _MOST_PLACES else [place for place in product(*axes) if place not in seen]


def _named(between: tuple[str, ...], numbers: tuple[int, ...]) -> str:
    return between[0] + "".join(f"{number}{text}" for number, text in zip(numbers, between[1:], strict=True))
