"""Featurisers that are not learned here: principal components, and features of a sparse autoencoder.

Shapes: N changed points, W width of the place, K coordinates.
"""

__all__ = ["PCA", "SparseAutoencoder"]

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from workers.autoencoders.loading import load_autoencoder
from workers.autoencoders.weights import read_weights, weights_path
from workers.errors import StudyError
from workers.intervene.subspaces import Subspace, Wanted, plain_parts

_NORMALIZATIONS = ("none", "layer_norm", "constant_norm_rescale")
_LAYER_NORM_EPS = 1e-5
"""SAELens adds it to the deviation before encoding, and does not after decoding."""


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
        """Make one of the shape that `config` gave, to be filled."""
        width, rank = config["width"], config["rank"]
        return cls(torch.zeros(width, rank), torch.zeros(width), parts=config["parts"])

    def coordinates(self, values: Tensor) -> Tensor:
        """``(values - mean) @ components``."""
        return (values.float() - self.mean) @ self.components

    def effect(self, change: Tensor) -> Tensor:
        """``change @ components.T``."""
        return change @ self.components.mT

    def config(self) -> dict[str, object]:
        """Shape and parts."""
        return {"width": self.width, "rank": self.num_coordinates, "parts": plain_parts(self.parts)}


class SparseAutoencoder(Subspace):
    """Features of a sparse autoencoder as coordinates; its reconstruction error on the base is kept.

    With ``z = (x - d) @ encoder``, d the decoder's bias where `centered` says so and otherwise 0, and D the
    decoder, the coordinates are one of::

        f(x) = relu(z + encoder_bias)                                             Cunningham et al. 2023
        f(x) = z' if z' > threshold else 0, z' = z + encoder_bias                 JumpReLU, with `threshold`
        f(x) = relu(z') where z' is among the k largest of its x, else 0          TopK, with `k`
        f(x) = relu(exp(log_magnitude) z + encoder_bias) if z + gate_bias > 0     gated, with `gate_bias`

    (arXiv 2309.08600, equation 1; Rajamanoharan et al. 2024, arXiv 2407.14435; Gao et al. 2024, arXiv
    2406.04093; Rajamanoharan et al. 2024, arXiv 2404.16014). A BatchTopK (Bussmann et al. 2024, arXiv
    2412.06410) is, once trained, a JumpReLU with one threshold for all features. Of equal z' the first
    are among the k largest.

    ``new = b + (m - f(b)) @ D`` is the decoding of the changed features m plus what the decoding of f(b)
    misses of b. With a `normalization`, x is normalised before it is encoded, and what is decoded is brought
    back by the base's own numbers: with s the scale of b, ``new = b + s (m - f(b)) @ D``.

    - ``layer_norm``: ``(x - mean(x)) / (std(x) + 1e-5)``, and s is ``std(b)``, of W - 1 degrees of freedom;
    - ``constant_norm_rescale``: ``x sqrt(W) / |x|``, and s is ``|b| / sqrt(W)``; an activation of zeros has
      no features, and gives no number.

    Args:
        encoder: [W, K].
        decoder: [K, W].
        encoder_bias: [K]; zeros where it is left out.
        decoder_bias: [W]; it matters only where `centered`.
        threshold: [K], for JumpReLU.
        centered: whether the decoder's bias is taken off before encoding.
        k: how many features of each activation are kept, for TopK.
        gate_bias: [K], for gated ones, whose `encoder` is the gate's.
        log_magnitude: [K], for gated ones; zeros where it is left out.
        normalization: ``none``, ``layer_norm`` or ``constant_norm_rescale``.
        parts: names for ranges of features.
    """

    encoder: Tensor
    decoder: Tensor
    encoder_bias: Tensor
    decoder_bias: Tensor
    threshold: Tensor
    gate_bias: Tensor
    log_magnitude: Tensor

    def __init__(
        self,
        encoder: Tensor,
        decoder: Tensor,
        encoder_bias: Tensor | None = None,
        decoder_bias: Tensor | None = None,
        *,
        threshold: Tensor | None = None,
        centered: bool = False,
        k: int | None = None,
        gate_bias: Tensor | None = None,
        log_magnitude: Tensor | None = None,
        normalization: str = "none",
        parts: Mapping[str, Wanted] | None = None,
    ) -> None:
        width, count = encoder.shape
        super().__init__(width, count, parts)
        if decoder.shape != (count, width):
            raise StudyError(
                f"an encoder of {list(encoder.shape)} and a decoder of {list(decoder.shape)}; give [width, "
                "features] and [features, width]"
            )
        self._check_kind(threshold, k, gate_bias, log_magnitude, normalization)
        self.centered = centered
        self.k = k
        self.is_gated = gate_bias is not None
        self.normalization = normalization
        tensors = {
            "encoder": encoder,
            "decoder": decoder,
            "encoder_bias": torch.zeros(count) if encoder_bias is None else encoder_bias,
            "decoder_bias": torch.zeros(width) if decoder_bias is None else decoder_bias,
            # ReLU is JumpReLU with the threshold 0.
            "threshold": torch.zeros(count) if threshold is None else threshold,
        }
        if gate_bias is not None:
            tensors["gate_bias"] = gate_bias
            tensors["log_magnitude"] = torch.zeros(count) if log_magnitude is None else log_magnitude
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().float().clone())

    def _check_kind(
        self,
        threshold: Tensor | None,
        k: int | None,
        gate_bias: Tensor | None,
        log_magnitude: Tensor | None,
        normalization: str,
    ) -> None:
        given = {"threshold": threshold, "k": k, "gate_bias": gate_bias}
        if len(several := [name for name, value in given.items() if value is not None]) > 1:
            raise StudyError(
                f"{' and '.join(several)} are of different kinds of autoencoders; give one of them"
            )
        if log_magnitude is not None and gate_bias is None:
            raise StudyError("log_magnitude is of a gated autoencoder; give gate_bias as well")
        if k is not None and not 1 <= k <= self.num_coordinates:
            raise StudyError(
                f"k {k}; the autoencoder has {self.num_coordinates} features, of which 1 to all are kept"
            )
        if normalization not in _NORMALIZATIONS:
            raise StudyError(f"normalization {normalization!r}; write one of {', '.join(_NORMALIZATIONS)}")

    @classmethod
    def from_file(cls, path: str | Path, *, centered: bool | None = None, sha256: str | None = None) -> Self:
        """Load the autoencoder of a file, or of the folder of a library; `docs/fits.md` lists their forms.

        Args:
            path: of the file or the folder. A config in the file's folder says how it is read.
            centered: as above, where neither the file nor a config says it.
            sha256: what the file must have, where it matters.

        Raises:
            StudyError: there is no such file, it is another one, or it holds no autoencoder that is known.
        """
        file = read_weights(weights_path(Path(path)))
        if sha256 not in (None, file.sha256):
            raise StudyError(f"{path} is not the file that was meant: its sha256 is {file.sha256}")
        return cls(**load_autoencoder(file.path, file.kind), centered=file.is_centered(centered))

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Self:
        """Make one of the shape that `config` gave, to be filled."""
        width, count = config["width"], config["num_features"]
        encoder, decoder = torch.zeros(width, count), torch.zeros(count, width)
        return cls(
            encoder,
            decoder,
            centered=config["centered"],
            k=config.get("k"),
            gate_bias=torch.zeros(count) if config.get("is_gated") else None,
            normalization=config.get("normalization", "none"),
            parts=config["parts"],
        )

    def coordinates(self, values: Tensor) -> Tensor:
        """Features [N, K] of activations [N, W]."""
        values = self._normalised(values.float())
        if self.centered:
            values = values - self.decoder_bias
        before = values @ self.encoder
        # What is not finite stays so, where a comparison would make zeros of it.
        if self.is_gated:
            magnitudes = torch.relu(self.log_magnitude.exp() * before + self.encoder_bias)
            return torch.where(before + self.gate_bias <= 0, torch.zeros_like(before), magnitudes)
        before = before + self.encoder_bias
        is_off = before <= self.threshold
        if self.k is not None:
            is_off = is_off | ~(_largest(before, self.k) | before.isnan())
        return torch.where(is_off, torch.zeros_like(before), before)

    def effect(self, change: Tensor) -> Tensor:
        """``change @ decoder``."""
        return change @ self.decoder

    def effect_scale(self, values: Tensor) -> Tensor | None:
        """Scale that normalisation divides and decoding multiplies by: [N, 1]; None where there is none."""
        if self.normalization == "layer_norm":
            return values.float().std(-1, keepdim=True)
        if self.normalization == "constant_norm_rescale":
            lengths: Tensor = torch.linalg.vector_norm(values.float(), dim=-1, keepdim=True)
            return lengths / math.sqrt(self.width)
        return None

    def _normalised(self, values: Tensor) -> Tensor:
        scale = self.effect_scale(values)
        if scale is None:
            return values
        if self.normalization == "layer_norm":
            return (values - values.mean(-1, keepdim=True)) / (scale + _LAYER_NORM_EPS)
        return values / scale

    def config(self) -> dict[str, object]:
        """Shape, kind and parts."""
        kind = {"k": self.k, "is_gated": self.is_gated, "normalization": self.normalization}
        usual = {"k": None, "is_gated": False, "normalization": "none"}
        return {
            "width": self.width,
            "num_features": self.num_coordinates,
            "centered": self.centered,
            "parts": plain_parts(self.parts),
            **{name: value for name, value in kind.items() if value != usual[name]},
        }


def _largest(values: Tensor, k: int) -> Tensor:
    """Mask [N, K] of the `k` largest of each row; of equal ones the first, whatever runs beside them."""
    last = values.detach().topk(k, dim=-1).values[:, -1:]
    above, equal = values > last, values == last
    return above | (equal & (equal.cumsum(-1) <= k - above.sum(-1, keepdim=True)))
