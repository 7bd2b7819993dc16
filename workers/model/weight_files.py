"""Files of weights, read without torch: shards by their index, tensors of safetensors files by their headers
alone (eight bytes of length, then JSON)."""

__all__ = [
    "BYTES",
    "INDEXES",
    "HeaderError",
    "Stored",
    "odd_ones",
    "shards_of",
    "stored_tensors",
    "tensors_of",
]

import json
import os
import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeGuard

from workers.errors import ModelError
from workers.libraries.huggingface_hub import blobs_of

_MOST_BYTES = 16 * 1024**2
"""Of a header: more than 100,000 tensors in one file. What a damaged file says may be any number."""

_MOST_PLACES = 10**6
"""Of one kind of tensor: a grid of more is not looked at."""

_MOST_DIMS = 64

BYTES: Mapping[str, int] = {
    **{"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2},
    **{"I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1},
    **{"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1},
}
"""Bytes of one number, by the format's name of its kind."""


class HeaderError(ValueError):
    """A safetensors file is damaged; the text says how."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Place, dtype and shape of a tensor in a file."""

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
        HeaderError: it is damaged.
    """
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in tensors_of(file).items()
    }


def tensors_of(file: Path) -> dict[str, Stored]:
    """Every tensor in one file, by name; the file is as long as its header says.

    Raises:
        OSError: it cannot be read.
        HeaderError: it is damaged.
    """
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        begun = stream.read(8)
        if len(begun) < 8:
            raise HeaderError(f"it is only {size} bytes long")
        (length,) = struct.unpack("<Q", begun)
        if length > size - 8:
            raise HeaderError(f"its header is said to be {length:,} bytes long, and the file has {size:,}")
        if length > _MOST_BYTES:
            raise HeaderError(
                f"its header is said to be {length:,} bytes long; up to {_MOST_BYTES:,} are read"
            )
        written = stream.read(length)
    found = dict(_entries(file, _parsed(written), 8 + length))
    end = max((tensor.start + tensor.num_bytes for tensor in found.values()), default=8 + length)
    if end > size:
        raise HeaderError(f"it is cut off: its tensors end at byte {end:,}, and the file has {size:,}")
    return found


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


def _parsed(written: bytes) -> Mapping[str, object]:
    try:
        header = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise HeaderError("its header is no JSON object")
    return header


def _entries(file: Path, header: Mapping[str, object], start: int) -> Iterator[tuple[str, Stored]]:
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict):
            raise HeaderError(f"its header says nothing of {name[:80]!r}")
        dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
        if not isinstance(dtype, str) or not _are_counts(shape) or not _are_counts(offsets):
            raise HeaderError(f"its header lacks the dtype, shape or data_offsets of {name[:80]!r}")
        if len(offsets) != 2 or offsets[0] > offsets[1]:
            raise HeaderError(f"the data_offsets of {name[:80]!r} are {offsets[:4]}")
        num_bytes = offsets[1] - offsets[0]
        if dtype in BYTES and num_bytes != BYTES[dtype] * prod(shape):
            raise HeaderError(f"{name[:80]!r} is {dtype} of shape {shape[:8]}, but has {num_bytes:,} bytes")
        yield name, Stored(file, start + offsets[0], num_bytes, dtype, tuple(shape))


def _are_counts(value: object) -> TypeGuard[list[int]]:
    if not isinstance(value, list) or len(value) > _MOST_DIMS:
        return False
    return all(type(one) is int and 0 <= one < 1 << 63 for one in value)


def _kinds(tensors: Mapping[str, Stored]) -> dict[tuple[str, ...], dict[tuple[int, ...], str]]:
    """Names by what stands between their numbers, and of each kind by the numbers."""
    kinds: dict[tuple[str, ...], dict[tuple[int, ...], str]] = defaultdict(dict)
    for name in tensors:
        between = re.split(r"(?<=\.)\d{1,9}(?=\.)", name)
        numbers = tuple(map(int, re.findall(r"(?<=\.)\d{1,9}(?=\.)", name)))
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


INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Files that say in which file each tensor lies."""


def shards_of(index: Path) -> list[str]:
    """The files that an index names, in order, each once; there may be none of them.

    Raises:
        ModelError: it cannot be read, or names a file outside of its folder.
    """
    try:
        named = json.loads(index.read_bytes())["weight_map"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{index} is no index of weights ({type(error).__name__}: {error}); fetch or save the model again"
        ) from None
    found = list(dict.fromkeys(str(name) for name in named))
    for name in found:
        if (why := _why_outside(name, index.parent)) is not None:
            raise ModelError(
                f"{index} names the file {name!r}, {why}; weights must lie in the model's own folder: get the"
                " model from somebody you trust, or put the files into it"
            )
    return found


def _why_outside(name: str, folder: Path) -> str | None:
    """Why a file of this name lies elsewhere; None where it, or what the hub's cache links to, lies there."""
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or PureWindowsPath(name).root:
        return "which is a whole path"
    if ".." in parts or not name or "\0" in name:
        return "which leads out of the folder"
    real, inside = (folder / name).resolve(), folder.resolve()
    blobs = [found for one in (folder.absolute(), inside) if (found := blobs_of(one)) is not None]
    if not any(real.is_relative_to(one.resolve()) for one in (inside, *blobs)):
        return f"a link that leads to {real}"
    return None
