"""Featurisers: coordinates of an activation in which a unit intervenes, learned directions and parts of them.

Shapes: N changed points, W width of the place (of one head, where heads are named), K coordinates.

A subspace says three things: the coordinates of an activation, how much of each is exchanged (its gates),
and what a change of coordinates does to the activation, times a scale of it where coordinates are those of
normalised activations::

    b, s = base activation, value                               [N, W]
    u, v = coordinates(b), coordinates(s)                       [N, K]
    m    = u + gates * (operation(u, v) - u)                    [N, K]
    new  = b + effect_scale(b) * effect(m - u)                  [N, W]

Outside the part that a unit names, ``m = u``. What the coordinates do not describe stays the base's, and
where ``m = u`` nothing changes at all.
Everything is computed in float32, whatever the model's dtype.
"""

__all__ = [
    "Coordinated",
    "Directions",
    "LowRankRotation",
    "Part",
    "Ranges",
    "Rotation",
    "Subspace",
    "Wanted",
    "as_ranges",
    "coordinates_of",
    "plain_parts",
]

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from workers.errors import StudyError, nearest
from workers.libraries.torch import KeepsDtype, require_streams
from workers.libraries.torch_rotations import learn_rotation, rotation_tensors, set_rotation

Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges of coordinates."""

Wanted = int | slice | str | Sequence["Wanted"]
"""Name of a part: ``3``, ``0:16`` as a slice or as text, a name of ``parts``, or a list of these."""


class Subspace(KeepsDtype, ABC):
    """Coordinates of a place. Units that hold the same object share its parameters.

    Its tensors stay float32: a move to another dtype moves the device only, so that a rotation stays
    orthogonal beside a bfloat16 model.

    Args:
        width: of the place, W.
        num_coordinates: K.
        parts: names for ranges of coordinates, such as ``{"colour": "0:16", "shape": "16:32"}``.
    """

    def __init__(self, width: int, num_coordinates: int, parts: Mapping[str, Wanted] | None = None) -> None:
        super().__init__()
        if not num_coordinates >= 1 or width < 1:
            raise StudyError(f"a subspace of {num_coordinates} in {width} dimensions; both start at 1")
        self.width = width
        self.num_coordinates = num_coordinates
        self.parts: Mapping[str, Ranges] = {
            name: as_ranges(wanted, num_coordinates) for name, wanted in (parts or {}).items()
        }

    @abstractmethod
    def coordinates(self, values: Tensor) -> Tensor:
        """The coordinates [N, K] of activations [N, W], float32."""

    @abstractmethod
    def effect(self, change: Tensor) -> Tensor:
        """Change of the activation [N, W] that a change of the coordinates [N, K] makes; linear."""

    def effect_scale(self, values: Tensor) -> Tensor | None:
        """Factor of the effect at activations [N, W]: [N, 1]; None for 1."""
        return None

    def gates(self) -> Tensor | None:
        """Share of each coordinate that is exchanged [K], from 0 to 1; None for all of all."""
        return None

    @abstractmethod
    def config(self) -> dict[str, object]:
        """Keyword arguments that make an equal one, but for its tensors, as plain data."""

    def __getitem__(self, wanted: Wanted) -> "Part":
        """Some of the coordinates, by number, range or name.

        Raises:
            StudyError: there are no such coordinates.
        """
        return Part(self, self.ranges(wanted))

    def ranges(self, wanted: Wanted) -> Ranges:
        """The ranges that `wanted` means; names are those of ``parts``.

        Raises:
            StudyError: there are no such coordinates.
        """
        if isinstance(wanted, str) and wanted in self.parts:
            return self.parts[wanted]
        if isinstance(wanted, str) and ":" not in wanted:
            known = ", ".join(self.parts) or "none"
            raise StudyError(f"there is no part {wanted!r}; parts are {known}{nearest(wanted, self.parts)}")
        if isinstance(wanted, list | tuple):
            return _joined([found for item in wanted for found in self.ranges(item)])
        return as_ranges(wanted, self.num_coordinates)

    def tensors(self, *, is_trained_on: bool = False) -> dict[str, Tensor]:
        """Tensors of its own by name, as files hold them; not those of a subspace inside it.

        With `is_trained_on` also what a training goes on from, bit for bit.
        """
        return {name: tensor for name, tensor in self.state_dict().items() if "." not in name}

    def fill(self, tensors: Mapping[str, Tensor], *, is_trained_on: bool) -> None:
        """Take the numbers that `tensors` gave.

        Args:
            tensors: on any device; their values are copied.
            is_trained_on: whether a training may go on from them.

        Raises:
            KeyError: some are missing.
            ValueError: there are others, or they are of another shape.
        """
        _copy_into(self.tensors(), tensors)


@dataclass(frozen=True, slots=True)
class Part:
    """Some coordinates of a subspace; the others stay the base's."""

    of: Subspace
    ranges: Ranges

    def indices(self, device: torch.device) -> Tensor:
        """Numbers of the coordinates, in order."""
        return torch.cat([torch.arange(low, high, device=device) for low, high in self.ranges])


Coordinated = Subspace | Part
"""Subspace of a unit, if it is no range of dimensions."""


def coordinates_of(subspace: Coordinated, values: Tensor) -> Tensor:
    """The coordinates of activations [N, W]: all of them [N, K], or those of the part."""
    if isinstance(subspace, Part):
        return subspace.of.coordinates(values)[:, subspace.indices(values.device)]
    return subspace.coordinates(values)


class Directions(Subspace):
    """Coordinates along learned orthonormal directions, the columns of ``weight`` [W, K].

    Args:
        width: of the place, W.
        rank: how many directions, K.
        seed: of the first directions, drawn evenly from all orthonormal ones.
        parts: names for ranges of coordinates.
    """

    weight: Tensor
    """[W, K], orthonormal columns, made from the trained parameter each time it is read."""

    def __init__(
        self, width: int, rank: int, *, seed: int = 0, parts: Mapping[str, Wanted] | None = None
    ) -> None:
        super().__init__(width, rank, parts)
        if rank > width:
            raise StudyError(f"rank {rank} is more than the {width} dimensions there are")
        require_streams()
        generator = torch.Generator().manual_seed(seed)
        start = torch.nn.init.orthogonal_(torch.empty(width, rank), generator=generator)
        self.weight = nn.Parameter(start)
        learn_rotation(self, seed)

    def coordinates(self, values: Tensor) -> Tensor:
        """``values @ weight``."""
        return values.float() @ self.weight

    def effect(self, change: Tensor) -> Tensor:
        """``change @ weight.T``."""
        return change @ self.weight.mT

    def tensors(self, *, is_trained_on: bool = False) -> dict[str, Tensor]:
        """Tensors as in `Subspace.tensors`; the directions are the matrix ``rotation`` [W, K]."""
        own = rotation_tensors(self) if is_trained_on and self.is_learned else {"rotation": self.weight}
        return {**own, **self._others()}

    def _others(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in super().tensors().items() if name != "weight"}

    def fill(self, tensors: Mapping[str, Tensor], *, is_trained_on: bool) -> None:
        """Fill as `Subspace.fill` does; ``weight`` is ``rotation`` to the last bit."""
        rotation = _shaped("rotation", tensors["rotation"], (self.width, self.num_coordinates))
        if is_trained_on:
            set_rotation(self, tensors)
        else:
            if self.is_learned:
                parametrize.remove_parametrizations(self, "weight", leave_parametrized=False)
            self.weight = nn.Parameter(rotation.clone(), requires_grad=False)
        others = {name: one for name, one in tensors.items() if not name.startswith("rotation")}
        _copy_into(self._others(), others)

    @property
    def is_learned(self) -> bool:
        """Whether ``weight`` is made from a parameter that can be trained; else it is a plain tensor."""
        return parametrize.is_parametrized(self, "weight")


class Rotation(Directions):
    """An orthogonal change of basis of the whole place, learned by distributed alignment search (DAS).

    With the orthogonal ``weight`` R [W, W], a base activation b and a source's s, and the coordinates I
    that are exchanged: ``new = R (keep(R.T b) + swap_I(R.T s))``, the distributed interchange
    intervention of Geiger et al. 2023 (arXiv 2303.02536), section 3. Exchanging all coordinates is a
    vanilla swap; learn a rotation through a part of it, ``rotation[0:16]``.

    Args:
        width: of the place, W (of one head, where heads are named).
        seed: of the first rotation.
        parts: names for ranges of coordinates, such as ``{"colour": "0:16", "shape": "16:32"}``.
    """

    def __init__(self, width: int, *, seed: int = 0, parts: Mapping[str, Wanted] | None = None) -> None:
        super().__init__(width, width, seed=seed, parts=parts)

    def config(self) -> dict[str, object]:
        """Width and parts."""
        return {"width": self.width, "parts": plain_parts(self.parts)}


class LowRankRotation(Directions):
    """Some orthonormal directions of the place; what is orthogonal to them stays the base's.

    With the columns R [W, K] (``R.T R = 1``): ``new = b + R (R.T s - R.T b)``, which is `Rotation` with
    its first K coordinates exchanged, and cheaper (Geiger et al. 2023, arXiv 2303.02536; so written in
    Wu et al. 2024, arXiv 2404.03592, equation 1).

    Args:
        width: of the place, W.
        rank: how many directions, K, at most W.
        seed: of the first directions.
        parts: names for ranges of coordinates.
    """

    def config(self) -> dict[str, object]:
        """Width, rank and parts."""
        return {"width": self.width, "rank": self.num_coordinates, "parts": plain_parts(self.parts)}


def as_ranges(wanted: Wanted, count: int | None) -> Ranges:
    """Half-open ranges out of `count` dimensions: ``3``, ``"0:16"``, ``slice(0, 16)``, or a list of these.

    Without a `count` both ends have to be there, and whether they exist is for others to say.

    Raises:
        StudyError: a form that is not one of these, or dimensions that are not there.
    """
    if isinstance(wanted, list | tuple):
        return _joined([found for item in wanted for found in as_ranges(item, count)])
    low, high = _bounds(wanted, count)
    if not 0 <= low < high or (count is not None and high > count):
        known = "" if count is None else f"; there are {count}, from 0"
        raise StudyError(f"dimensions {low}:{high} are not there{known}")
    return ((low, high),)


def _bounds(wanted: Wanted, count: int | None) -> tuple[int, int]:
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        return wanted, wanted + 1
    ends: tuple[object, object] = (None, None)
    if isinstance(wanted, slice) and wanted.step in (None, 1):
        ends = (wanted.start or 0, count if wanted.stop is None else wanted.stop)
    elif isinstance(wanted, str):
        ends = _read_ends(wanted, count)
    low, high = ends
    if not isinstance(low, int) or not isinstance(high, int):
        raise StudyError(f"{wanted!r} names no dimensions; write 3, '0:16', or a list of these")
    return low, high


def _read_ends(text: str, count: int | None) -> tuple[int | None, int | None]:
    """``"0:16"``, ``":16"``, ``"16:"``."""
    low, colon, high = (part.strip() for part in text.partition(":"))
    if not colon or not all(end.isdecimal() or not end for end in (low, high)):
        return None, None
    return int(low or 0), int(high) if high else count


def _joined(ranges: list[tuple[int, int]]) -> Ranges:
    """Join ranges, in order and none twice.

    Raises:
        StudyError: no range at all.
    """
    if not ranges:
        raise StudyError("an empty list names no dimensions; leave subspace out for all of them")
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


@torch.no_grad()
def _copy_into(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Give tensors the values of those of the same names; raises as `Subspace.fill` does."""
    if others := [name for name in given if name not in own]:
        raise ValueError(f"there is a tensor {others[0]!r}, and no place for it")
    for name, tensor in own.items():
        tensor.copy_(_shaped(name, given[name], tuple(tensor.shape)))


def _shaped(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor, if it has this shape.

    Raises:
        ValueError: it has another.
    """
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has the shape {list(tensor.shape)} instead of {list(shape)}")
    return tensor


def plain_parts(parts: Mapping[str, Ranges]) -> dict[str, Wanted]:
    """Named parts as plain data, in a form that `Subspace` takes."""
    return {name: [f"{low}:{high}" for low, high in ranges] for name, ranges in parts.items()}
