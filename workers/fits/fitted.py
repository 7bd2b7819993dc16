"""Fits that are made: a subspace or a vector, with a report, and as bytes of a file.

Shapes: C columns of the place (its heads side by side), T token positions.
"""

__all__ = ["FitReport", "Fitted", "decode_fitted", "encode_fitted"]

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from workers.change.subspaces import Subspace
from workers.errors import StoreError
from workers.wrapper.saving import filled_space, space_config, space_tensors

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
    """Write a fit: its tensors as safetensors, named as in `workers.wrapper.saving`, all else plain data."""
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
