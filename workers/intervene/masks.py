"""Learned masks: the share of each coordinate that is exchanged, from 0 to 1.

Their temperature is a schedule that whoever trains them gives from outside, ``mask.temperature = 0.5``: it
is no parameter. At a low temperature a mask is nearly 0 or 1 everywhere.

Shapes: N changed points, W width of the place, K coordinates.
"""

__all__ = ["LEAST_SHARE", "BoundlessRotation", "Mask"]

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from workers.errors import StudyError
from workers.intervene.subspaces import Directions, Subspace, Wanted, plain_parts

LEAST_SHARE = 1e-3
"""Least share of the coordinates inside the boundary, so that it can grow again."""


class Mask(Subspace):
    """A mask over dimensions, or over the coordinates of another subspace.

    With the mask's numbers m [K] and the temperature t, ``gates = sigmoid(m / t)``; over dimensions that is
    ``new = (1 - gates) * b + gates * s``, differential binary masking as in Huang et al. 2024 (RAVEL, arXiv
    2402.17700), section 3. ``Mask(Rotation(32))`` masks rotated coordinates; both are trained.

    Args:
        of: the width of the place, or the subspace whose coordinates are masked.
        temperature: above 0.
        parts: names for ranges of coordinates; those of the subspace where there is one.
    """

    def __init__(
        self, of: int | Subspace, *, temperature: float = 1.0, parts: Mapping[str, Wanted] | None = None
    ) -> None:
        if isinstance(of, Subspace):
            super().__init__(of.width, of.num_coordinates, plain_parts(of.parts) if parts is None else parts)
        else:
            super().__init__(of, of, parts)
        self.of = of if isinstance(of, Subspace) else None
        self.mask = nn.Parameter(torch.zeros(self.num_coordinates))
        self.temperature = check_temperature(temperature)

    def coordinates(self, values: Tensor) -> Tensor:
        """The dimensions, or the coordinates of what is masked."""
        return values.float() if self.of is None else self.of.coordinates(values)

    def effect(self, change: Tensor) -> Tensor:
        """The change itself, or what it is in what is masked."""
        return change if self.of is None else self.of.effect(change)

    def effect_scale(self, values: Tensor) -> Tensor | None:
        """Scale of the subspace that is masked."""
        return None if self.of is None else self.of.effect_scale(values)

    def gates(self) -> Tensor:
        """``sigmoid(m / t)`` [K], times the gates of what is masked."""
        gates = torch.sigmoid(self.mask / check_temperature(self.temperature))
        inner = None if self.of is None else self.of.gates()
        return gates if inner is None else gates * inner

    def config(self) -> dict[str, object]:
        """Masked width or subspace, temperature and parts."""
        return {
            "of": self.width if self.of is None else self.of,
            "temperature": self.temperature,
            "parts": plain_parts(self.parts),
        }


class BoundlessRotation(Directions):
    """A rotation, of which the first coordinates are exchanged, up to a boundary that is learned.

    With coordinates k = 0 … W - 1, the boundary c (a share of W, kept between 0.001 and 1) and the
    temperature t: ``gates[k] = sigmoid((k - 0) / t) * sigmoid((c * W - k) / t)``, boundless DAS with one
    variable (Wu et al. 2023, arXiv 2305.08809, section 3: the soft mask between the boundaries 0 and c W).
    So, as in the authors' own code, half of coordinate 0 is the base's at any temperature, and half of
    coordinate c W where that is a whole number; `Mask` of a `Rotation` has no such edge.

    Args:
        width: of the place, W.
        boundary: c at the start.
        temperature: above 0; from 50 down to 0.1 in the paper's runs.
        seed: of the first rotation.
        parts: names for ranges of coordinates.
    """

    def __init__(
        self,
        width: int,
        *,
        boundary: float = 0.5,
        temperature: float = 50.0,
        seed: int = 0,
        parts: Mapping[str, Wanted] | None = None,
    ) -> None:
        super().__init__(width, width, seed=seed, parts=parts)
        if not 0 < boundary <= 1:
            raise StudyError(f"boundary {boundary}; write a share of the width, above 0 and at most 1")
        self.boundary = nn.Parameter(torch.tensor(float(boundary)))
        self.temperature = check_temperature(temperature)

    def gates(self) -> Tensor:
        """Share of each rotated coordinate that is exchanged [W]."""
        t = check_temperature(self.temperature)
        k = torch.arange(self.width, device=self.boundary.device)
        end = self.boundary.clamp(LEAST_SHARE, 1.0) * self.width
        return torch.sigmoid(k / t) * torch.sigmoid((end - k) / t)

    def config(self) -> dict[str, object]:
        """Width, temperature and parts."""
        return {"width": self.width, "temperature": self.temperature, "parts": plain_parts(self.parts)}


def check_temperature(temperature: float) -> float:
    """A temperature above 0.

    Raises:
        StudyError: it is not.
    """
    if not temperature > 0:
        raise StudyError(f"temperature {temperature}; write a number above 0")
    return float(temperature)
