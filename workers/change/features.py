"""Coordinates that are not learned here: principal components, and features of a sparse autoencoder.

Shapes: N changed points, W width of the place, K coordinates.
"""

__all__ = ["PCA", "SparseAutoencoder"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor

from workers.change.subspaces import Subspace, Wanted, plain_parts
from workers.change.weights import read_weights
from workers.errors import StudyError


class PCA(Subspace):
    """Principal components: ``coordinates = (x - mean) @ components``, and what they leave out is the base's.

    Since the components V are orthonormal and the mean cancels, ``new = b + V (V.T s - V.T b)``. A value of
    zero is the activation zero: its coordinates are ``-mean @ components``.

    Args:
        components: [W, K], orthonormal columns.
        mean: [W].
        parts: names for ranges of coordinates.
    """

    components: Tensor
    mean: Tensor

    def __init__(
        self, components: Tensor, mean: Tensor, *, parts: Mapping[str, Wanted] | None = None
    ) -> None:
        width, rank = components.shape
        super().__init__(width, rank, parts)
        self.register_buffer("components", components.detach().float().clone())
        self.register_buffer("mean", mean.detach().float().clone())

    @classmethod
    def fit(cls, activations: Tensor, k: int, *, parts: Mapping[str, Wanted] | None = None) -> Self:
        """The first `k` components of activations [..., W], by falling variance.

        Each component's sign is such that its largest entry is positive.

        Raises:
            StudyError: there are fewer dimensions, or fewer activations, than components.
        """
        rows = activations.detach().double().reshape(-1, activations.shape[-1])
        if not 1 <= k <= min(rows.shape):
            raise StudyError(f"{k} components of {rows.shape[0]} activations of {rows.shape[1]} dimensions")
        mean = rows.mean(0)
        directions = torch.linalg.svd(rows - mean, full_matrices=False).Vh[:k].mT  # [W, K]
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
        return cls(directions * largest.sign(), mean, parts=parts)

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Self:
        """One of the shape that `config` gave, to be filled."""
        width, rank = config["width"], config["rank"]
        return cls(torch.zeros(width, rank), torch.zeros(width), parts=config["parts"])

    def coordinates(self, values: Tensor) -> Tensor:
        """``(values - mean) @ components``."""
        return (values.float() - self.mean) @ self.components

    def effect(self, change: Tensor) -> Tensor:
        """``change @ components.T``."""
        return change @ self.components.mT

    def config(self) -> dict[str, Any]:
        """Its shape and parts."""
        return {"width": self.width, "rank": self.num_coordinates, "parts": plain_parts(self.parts)}


class SparseAutoencoder(Subspace):
    """The features of a sparse autoencoder; its error on the base is kept.

    ``coordinates = f(x) = act((x - d) @ encoder + encoder_bias)``, d the decoder's bias where
    `centered` says so and otherwise 0, act the ReLU (Cunningham et al. 2023, arXiv 2309.08600, equation 1)
    or, with `threshold`, JumpReLU: ``z if z > threshold else 0`` (Rajamanoharan et al. 2024, arXiv
    2407.14435). With the decoder D: ``new = b + (m - f(b)) @ D``, which is the decoding of the changed
    features m plus what the decoding of f(b) misses of b.

    Args:
        encoder: [W, K].
        decoder: [K, W].
        encoder_bias: [K]; zeros where it is left out.
        decoder_bias: [W]; it matters only where `centered`.
        threshold: [K], for JumpReLU.
        centered: whether the decoder's bias is taken off before encoding.
        parts: names for ranges of features.
    """

    encoder: Tensor
    decoder: Tensor
    encoder_bias: Tensor
    decoder_bias: Tensor
    threshold: Tensor

    def __init__(
        self,
        encoder: Tensor,
        decoder: Tensor,
        encoder_bias: Tensor | None = None,
        decoder_bias: Tensor | None = None,
        *,
        threshold: Tensor | None = None,
        centered: bool = False,
        parts: Mapping[str, Wanted] | None = None,
    ) -> None:
        width, count = encoder.shape
        super().__init__(width, count, parts)
        if decoder.shape != (count, width):
            raise StudyError(
                f"an encoder of {list(encoder.shape)} and a decoder of {list(decoder.shape)}; give [width, "
                "features] and [features, width]"
            )
        self.centered = centered
        tensors = {
            "encoder": encoder,
            "decoder": decoder,
            "encoder_bias": torch.zeros(count) if encoder_bias is None else encoder_bias,
            "decoder_bias": torch.zeros(width) if decoder_bias is None else decoder_bias,
            # ReLU is JumpReLU with the threshold 0.
            "threshold": torch.zeros(count) if threshold is None else threshold,
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().float().clone())

    @classmethod
    def from_file(cls, path: str | Path, *, centered: bool = False, sha256: str | None = None) -> Self:
        """The one of a safetensors file, in one of the two forms that `docs/fits.md` lists.

        Args:
            path: of the file.
            centered: as above; the file does not say it.
            sha256: what the file must have, where it matters.

        Raises:
            StudyError: there is no such file, it is another one, or it holds no autoencoder.
        """
        about = read_weights(Path(path))
        if sha256 not in (None, about.sha256):
            raise StudyError(f"{path} is not the file that the study was planned with; plan the study anew")
        found = load_file(path)
        tensors: dict[str, Any] = {part: found[name] for part, name in about.names.items()}
        if about.is_transposed:
            tensors |= {part: tensors[part].mT for part in ("encoder", "decoder")}
        return cls(**tensors, centered=centered)

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Self:
        """One of the shape that `config` gave, to be filled."""
        width, count = config["width"], config["num_features"]
        encoder, decoder = torch.zeros(width, count), torch.zeros(count, width)
        return cls(encoder, decoder, centered=config["centered"], parts=config["parts"])

    def coordinates(self, values: Tensor) -> Tensor:
        """The features [N, K]."""
        values = values.float() - self.decoder_bias if self.centered else values.float()
        before = values @ self.encoder + self.encoder_bias
        return torch.where(before > self.threshold, before, torch.zeros_like(before))

    def effect(self, change: Tensor) -> Tensor:
        """``change @ decoder``."""
        return change @ self.decoder

    def config(self) -> dict[str, Any]:
        """Its shape and parts."""
        return {
            "width": self.width,
            "num_features": self.num_coordinates,
            "centered": self.centered,
            "parts": plain_parts(self.parts),
        }
