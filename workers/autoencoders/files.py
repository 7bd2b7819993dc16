"""Tensors in a file, told without torch: names, shapes, and the range of what is small.

Three forms are told apart by their bytes: safetensors, numpy's ``.npz``, and torch's pickles, which are
opened by ``torch.load(weights_only=True)`` alone, in a child process where this one has no torch.
"""

__all__ = ["Form", "form_of", "tensor_facts"]

import json
import math
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np

from workers.autoencoders.kinds import TensorFacts
from workers.children import run
from workers.errors import StudyError

Form = Literal["safetensors", "npz", "pickle"]

_MOST_HEADER_BYTES = 100_000_000
"""Limit of the safetensors format."""
_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?"},
    **{
        "I64": "<i8",
        "I32": "<i4",
        "I16": "<i2",
        "I8": "i1",
        "U64": "<u8",
        "U32": "<u4",
        "U16": "<u2",
        "U8": "u1",
    },
}
"""Of safetensors, as numpy writes them; a BF16 is the upper half of a float32."""
_DAMAGED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    struct.error,
    zipfile.BadZipFile,
    EOFError,
)
"""Exceptions that a file of another form, or half of one, gives rise to."""


def form_of(path: Path) -> Form:
    """The form of a file; what is none of the others is taken for safetensors.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:9] == b"{":  # after the eight bytes of its size, the header of a safetensors file
        return "safetensors"
    if start.startswith(b"PK"):
        return "npz" if _is_npz(path) else "pickle"
    return "pickle" if start.startswith(b"\x80") else "safetensors"


def tensor_facts(path: Path) -> dict[str, TensorFacts]:
    """The tensors of a file, by name.

    Raises:
        OSError: it cannot be read.
        StudyError: it is not of the form that it seems to be, not whole, or a pickle of more than tensors.
    """
    form = form_of(path)
    if form == "pickle":
        return _of_pickle(path)
    try:
        return _of_npz(path) if form == "npz" else _of_safetensors(path)
    except _DAMAGED:
        name = "npz" if form == "npz" else "safetensors"
        raise StudyError(f"{path} is no {name} file, or not a whole one; save the tensors as one") from None


def _of_safetensors(path: Path) -> dict[str, TensorFacts]:
    with path.open("rb") as file:
        (num_bytes,) = struct.unpack("<Q", file.read(8))
        if num_bytes > _MOST_HEADER_BYTES:
            raise ValueError(num_bytes)
        header = json.loads(file.read(num_bytes))
        tensors = {name: about for name, about in header.items() if name != "__metadata__"}
        end = max((about["data_offsets"][1] for about in tensors.values()), default=0)
        if 8 + num_bytes + end != path.stat().st_size:
            raise ValueError(end)
        return {name: _in_safetensors(file, 8 + num_bytes, about) for name, about in tensors.items()}


def _in_safetensors(file: BinaryIO, start: int, about: dict[str, Any]) -> TensorFacts:
    shape = tuple(about["shape"])
    if len(shape) > 1 or about["dtype"] not in _DTYPES:
        return TensorFacts(shape)
    low, high = about["data_offsets"]
    file.seek(start + low)
    numbers = np.frombuffer(file.read(high - low), _DTYPES[about["dtype"]])
    if about["dtype"] == "BF16":
        numbers = (numbers.astype("<u4") << 16).view("<f4")
    if numbers.size != math.prod(shape):
        raise ValueError(shape)
    return TensorFacts.of(shape, numbers)


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _of_npz(path: Path) -> dict[str, TensorFacts]:
    """Of what has more dimensions only the head is read."""
    found: dict[str, TensorFacts] = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                shape, dtype = _npy_head(cast(BinaryIO, file))
                if dtype.hasobject:
                    raise ValueError(name)
                few = b"" if len(shape) > 1 else file.read()
            numbers = np.frombuffer(few, dtype)
            found[name.removesuffix(".npy")] = (
                TensorFacts.of(shape, numbers) if dtype.kind in "fiub" else TensorFacts(shape)
            )
    return found


def _npy_head(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(version)
    shape, _, dtype = read(file)
    return shape, dtype


def _of_pickle(path: Path) -> dict[str, TensorFacts]:
    if "torch" in sys.modules:
        from workers.autoencoders.pickles import pickle_facts

        return pickle_facts(path)
    done = run("workers.autoencoders.pickles", str(path))
    if done.returncode:
        why = (done.stderr.splitlines() or ["no reason given"])[-1]
        raise StudyError(f"{path} cannot be looked into: {why}")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise StudyError(answer["error"])
    return {
        name: TensorFacts(tuple(about["shape"]), about["least"], about["greatest"], about["total"])
        for name, about in answer["tensors"].items()
    }
