"""Tensors of a sparse autoencoder's file, as `workers.intervene.features.SparseAutoencoder` takes them.

Shapes: W width of the place, K features.
"""

__all__ = ["load_autoencoder"]

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from workers.autoencoders.files import form_of
from workers.autoencoders.kinds import (
    PLAIN,
    ROLES,
    AutoencoderKind,
    TensorFacts,
    check_shapes,
    named,
    old_form,
)
from workers.autoencoders.pickles import load_pickle
from workers.errors import StudyError


def load_autoencoder(path: Path, kind: AutoencoderKind | None) -> dict[str, Any]:
    """Tensors in float32, and settings.

    What is the same for every activation is folded into the matrices: the scale of the input, the norms of
    the decoder's rows, factors of features.

    Args:
        path: of a file that `workers.autoencoders.weights.read_weights` has read.
        kind: as it says.

    Raises:
        StudyError: the file does not hold an autoencoder of this kind.
        OSError: it cannot be read.
    """
    found = _tensors(path)
    facts = {name: TensorFacts(tuple(tensor.shape)) for name, tensor in found.items()}
    names = old_form(facts) if kind is None else named(str(path), facts, _roles(kind))
    if names is None or not {"encoder", "decoder"} <= names.keys():
        raise StudyError(f"{path} does not hold the encoder and the decoder of a sparse autoencoder")
    kind = kind or PLAIN
    held = check_shapes(str(path), facts, names, is_one_threshold=kind.activation == "batchtopk")
    tensors = {
        role: (found[name].mT if held.is_transposed(role) else found[name]).float()
        for role, name in names.items()
    }
    made = _folded(kind, _scaled(kind, tensors))
    return {**made, "k": kind.k, "normalization": kind.normalization}


def _roles(kind: AutoencoderKind) -> set[str]:
    roles = set(ROLES[kind.activation]) | (
        {"log_threshold"} if "threshold" in ROLES[kind.activation] else set()
    )
    return roles | ({"factor"} if kind.is_finetuned else set())


def _scaled(kind: AutoencoderKind, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the scales of input and features in the matrices."""
    found = dict(tensors)
    if kind.is_rescaled:
        norms = tensors["decoder"].norm(dim=1)  # [K]
        found["encoder"] = tensors["encoder"] * norms
        found["encoder_bias"] = tensors["encoder_bias"] * norms
        # A row of zeros decodes to nothing, however it is scaled.
        found["decoder"] = tensors["decoder"] / torch.where(norms > 0, norms, 1.0)[:, None]
    if (factor := found.pop("factor", None)) is not None:
        found["decoder"] = found["decoder"] * factor[:, None]
    if kind.input_scale is not None:
        found["encoder"] = found["encoder"] * kind.input_scale
        found["decoder"] = found["decoder"] / kind.input_scale
        found["decoder_bias"] = found["decoder_bias"] / kind.input_scale
    return found


def _folded(kind: AutoencoderKind, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the names that the class has."""
    found = dict(tensors)
    if (magnitude_bias := found.pop("magnitude_bias", None)) is not None:
        found["encoder_bias"] = magnitude_bias
    if (logarithm := found.pop("log_threshold", None)) is not None:
        found["threshold"] = logarithm.exp()
    if kind.activation in ("jumprelu", "batchtopk"):
        # Features pass a ReLU as well, so that below 0 a threshold is one of 0.
        found["threshold"] = found["threshold"].clamp(min=0).expand(tensors["encoder"].shape[1])
    return found


def _tensors(path: Path) -> dict[str, Tensor]:
    form = form_of(path)
    if form == "pickle":
        return load_pickle(path)
    if form == "npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    return load_file(path)
