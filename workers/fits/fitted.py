"""Fits: what one is specified by and made from, and the subspace or vector with a report, as bytes of a file.

Shapes: C columns of the place (its heads side by side), T token positions.
"""

__all__ = ["Example", "FitReport", "FitSpec", "Fitted", "decode_fitted", "encode_fitted"]

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from workers.errors import StoreError
from workers.intervene.saving import filled_space, space_config, space_tensors
from workers.intervene.subspaces import Subspace
from workers.vocabulary import Pair


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSpec:
    """A method, where it is applied, and its settings; those that it does not use are None."""

    method: str
    """``das``, ``boundless``, ``mask``, ``mean``, ``mean_difference``, ``pca``, ``probe``,
    ``random_rotation`` or ``sae``."""
    site: str
    layer: int | None = None
    heads: tuple[int, ...] | None = None
    rank: int | None = None
    """Number of directions; None for the whole width."""
    num_steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    """Learning rate of Adam."""
    temperature: tuple[float, float] | None = None
    """Temperature at the first and at the last step, linear in between."""
    penalty: float | None = None
    """Factor with which the share of the coordinates that is exchanged adds to the loss."""
    of: str | None = None
    """Run whose values are taken; None for the base's and the source's."""
    by_position: bool = False
    """Whether a mean is one for each token, counted from 0."""
    seed: int | None = None
    path: str | None = None
    """Path of the file of a sparse autoencoder."""
    sha256: str | None = None
    """Digest of the file's bytes."""
    centered: bool = False
    """Whether its decoder's bias is taken off before encoding."""
    kind: Mapping[str, Any] | None = None
    """Kind of autoencoder, as `workers.autoencoders.kinds.Kind` is written; None where it is as the
    names of the file's tensors alone say."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From plain data, with lists for tuples; what is not there is None."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Example:
    """A pair that a fit is made from, or measured on."""

    pair: Pair
    tokens: Mapping[str, tuple[int, ...]]
    """Tokens at which the fit looks, in each run, in order."""
    read: int
    """The base's token whose next-token logits are compared with the label."""
    classes: tuple[str | None, str | None] = (None, None)
    """Classes of the base and of the source, for methods that tell two apart."""


_VECTOR = "vector"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """Report on a fit: how it was made and how well it did."""

    num_pairs: int = 0
    """Number of pairs that it was made from."""
    num_steps: int = 0
    loss: float | None = None
    """Loss of a trained fit (the mean over the last epoch) or of a probe's regression; of a PCA the share of
    the variance that it leaves out."""
    held_out_iia: float | None = None
    """The share of held-out pairs whose prediction is the label; None where there are none."""
    num_held_out: int = 0
    num_parameters: int = 0
    """Number of learned parameters."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """Fit that is made, with its report."""

    content: Subspace | Tensor
    """Coordinates of the place (of each of its heads), or a vector: [C] for every token, [T, C] by token."""
    report: FitReport = field(default_factory=FitReport)


def encode_fitted(fitted: Fitted) -> tuple[bytes, dict[str, Any]]:
    """Write a fit: tensors as safetensors, named as in `workers.intervene.saving`, all else as plain data."""
    content, report = fitted.content, asdict(fitted.report)
    if isinstance(content, Tensor):
        return save({_VECTOR: content.detach().cpu().contiguous()}), {"space": None, "report": report}
    return save(space_tensors(content)), {"space": space_config(content), "report": report}


def decode_fitted(tensors: bytes, about: Mapping[str, Any]) -> Fitted:
    """Read a fit that `encode_fitted` wrote, in this version or one before: on the CPU, trained no more.

    Raises:
        StoreError: the two are not those of one fit.
    """
    try:
        found = load(tensors)
        report = FitReport(**about["report"])
        if about["space"] is None:
            return Fitted(content=found[_VECTOR], report=report)
        return Fitted(content=filled_space(about["space"], found), report=report)
    except (SafetensorError, RuntimeError, LookupError, TypeError, ValueError) as error:
        raise StoreError(f"what was fitted cannot be read ({error}); remove it, and run again") from error
