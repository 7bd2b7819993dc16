"""The file of a sparse autoencoder: which tensors it holds, and what makes it the same file. No torch here.

Shapes: W width of the place, K features.
"""

__all__ = ["WeightsFile", "read_weights"]

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from workers.errors import StudyError

_LAYERS = MappingProxyType(
    {
        "encoder": "encoder.weight",
        "decoder": "decoder.weight",
        "encoder_bias": "encoder.bias",
        "decoder_bias": "decoder.bias",
        "threshold": "threshold",
    }
)
"""As torch names two linear layers, whose weights are [K, W] and [W, K]."""

_MATRICES = MappingProxyType(
    {
        "encoder": "W_enc",
        "decoder": "W_dec",
        "encoder_bias": "b_enc",
        "decoder_bias": "b_dec",
        "threshold": "threshold",
    }
)
"""As most published ones name them: [W, K] and [K, W]."""

_CHUNK_BYTES = 1 << 24
_MOST_HEADER_BYTES = 100_000_000
"""What the format allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """A file that holds a sparse autoencoder."""

    sha256: str
    """Of its bytes, hex."""
    names: Mapping[str, str]
    """The tensor for each of ``encoder``, ``decoder``, ``encoder_bias``, ``decoder_bias`` and ``threshold``;
    the last three only where the file has them."""
    is_transposed: bool
    """Whether the matrices are [K, W] and [W, K], as those of linear layers are."""
    width: int
    num_features: int


def read_weights(path: Path) -> WeightsFile:
    """What a safetensors file says of its autoencoder; numbers are hashed, not looked at.

    Raises:
        StudyError: there is no such file, or it holds no autoencoder of the two forms.
    """
    try:
        with path.open("rb") as file:
            shapes = _shapes(file, path.stat().st_size)
            file.seek(0)
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise StudyError(f"{path}: the weights cannot be read: {error.strerror}; correct the path") from None
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        raise StudyError(
            f"{path} is no safetensors file, or not a whole one; save the tensors as one"
        ) from None
    return _described(path, shapes, digest.hexdigest())


def _shapes(file: BinaryIO, size_bytes: int) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, as the header after the eight bytes of its size says.

    Raises:
        ValueError, or what a header of another form gives rise to.
    """
    (num_bytes,) = struct.unpack("<Q", file.read(8))
    if num_bytes > _MOST_HEADER_BYTES:
        raise ValueError(num_bytes)
    header = json.loads(file.read(num_bytes))
    tensors = {name: about for name, about in header.items() if name != "__metadata__"}
    end = max((about["data_offsets"][1] for about in tensors.values()), default=0)
    if 8 + num_bytes + end != size_bytes:
        raise ValueError(size_bytes)
    return {name: tuple(about["shape"]) for name, about in tensors.items()}


def _described(path: Path, shapes: Mapping[str, tuple[int, ...]], sha256: str) -> WeightsFile:
    form = next((f for f in (_LAYERS, _MATRICES) if f["encoder"] in shapes and f["decoder"] in shapes), None)
    if form is None:
        held = ", ".join(sorted(shapes)[:8]) or "nothing"
        raise StudyError(
            f"{path} holds {held}; a sparse autoencoder is encoder.weight [features, width] and "
            "decoder.weight [width, features], or W_enc [width, features] and W_dec [features, width]"
        )
    names = {part: name for part, name in form.items() if name in shapes}
    encoder = shapes[names["encoder"]]
    is_transposed = form is _LAYERS
    width, count = (encoder[::-1] if is_transposed else encoder) if len(encoder) == 2 else (0, 0)
    wanted = {
        "encoder": encoder if len(encoder) == 2 else ("two", "dimensions"),
        "decoder": encoder[::-1],
        "encoder_bias": (count,),
        "decoder_bias": (width,),
        "threshold": (count,),
    }
    for part, name in names.items():
        if shapes[name] != wanted[part]:
            raise StudyError(
                f"{path}: {name} has the shape {list(shapes[name])}; with {names['encoder']} "
                f"{list(encoder)} it must have {list(wanted[part])}"
            )
    return WeightsFile(
        sha256=sha256, names=names, is_transposed=is_transposed, width=width, num_features=count
    )
