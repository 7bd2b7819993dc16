"""Regions: places that are no positions, but a rectangle of a module's tensor or what a getter reads of it.

Shapes: B rows; what follows is the getter's.
"""

__all__ = ["Box", "Coordinates", "Region", "box_of", "joined", "keeper", "tap_of"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.errors import ModelError, RunError
from workers.model.hooks import Tap, Visit
from workers.model.sites import box_parts
from workers.model.windows import window_of


@dataclass(frozen=True, slots=True)
class Coordinates:
    """A getter and a setter: what they mean in a module's tensor is the caller's affair.

    Rows are examples on both sides, so that each example is changed by its own source.
    """

    get: Callable[[Tensor], Tensor]
    """From the module's tensor [B, …] to the values there [B, …]."""
    set: Callable[[Tensor, Tensor], Tensor]
    """From a copy of the tensor, which it may write into, and new values to what takes its place."""


class _Boxes:
    """``Box[0:4, 10:20]``: a rectangle of a module's tensor, in the dimensions after the examples'.

    All of it has to be there, in the base and in the source: nothing is clipped.
    """

    def __getitem__(self, index: int | slice | tuple[int | slice, ...]) -> Coordinates:
        box = index if isinstance(index, tuple) else (index,)
        where = (slice(None), *box)

        def get(tensor: Tensor) -> Tensor:
            _check_inside(box, tensor.shape[1:])
            return tensor[where]

        def put(tensor: Tensor, values: Tensor) -> Tensor:
            tensor[where] = values
            return tensor

        return Coordinates(get, put)


def _check_inside(box: Sequence[int | slice], shape: Sequence[int]) -> None:
    """Accept a rectangle that lies in an example's tensor of this shape.

    Raises:
        RunError: it does not.
    """
    sizes = dict(enumerate(shape))
    if not all(number in sizes and _is_inside(part, sizes[number]) for number, part in enumerate(box)):
        raise RunError(
            f"Box[{', '.join(map(_written, box))}] in a tensor of {list(shape)} for each example: name "
            "indices and ranges that are there"
        )


def _is_inside(part: int | slice, size: int) -> bool:
    if not isinstance(part, slice):
        return -size <= part < size
    ends = [end for end in (part.start, part.stop) if end is not None]
    return all(-size <= end <= size for end in ends) and len(range(*part.indices(size))) > 0


def _written(part: int | slice) -> str:
    if not isinstance(part, slice):
        return str(part)
    return ":".join("" if end is None else str(end) for end in (part.start, part.stop))


Box = _Boxes()


def box_of(written: str) -> Coordinates:
    """The rectangle that a cell names, such as ``1:3, 4:9``."""
    return Box[tuple(part if isinstance(part, int) else slice(*part) for part in box_parts(written))]


@dataclass(frozen=True, slots=True)
class Region:
    """Part of the tensor at a tap that a getter reads and a setter writes."""

    tap: Tap
    coordinates: Coordinates

    def read(self, tensor: Tensor) -> Tensor:
        """The values [B, …] in the module's tensor.

        Raises:
            ModelError: the getter returned something else than values for each example.
        """
        values = self.coordinates.get(tensor)
        if not isinstance(values, Tensor) or values.dim() < 1 or len(values) != len(tensor):
            given = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ModelError(
                f"the getter at {self.tap} returned {given} for {len(tensor)} examples; return a tensor "
                "with a row for each"
            )
        return values

    def write(self, tensor: Tensor, rows: Tensor, new: Tensor) -> Tensor:
        """A copy of the module's tensor with `new` [N, …] at the examples `rows` [N], each named once."""
        own = tensor[rows]  # a copy, which the setter may write into
        changed = self.coordinates.set(own, new)
        if not isinstance(changed, Tensor) or changed.shape != own.shape:
            given = list(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise ModelError(
                f"the setter at {self.tap} returned {given}; return a tensor of {list(own.shape)}"
            )
        return torch.index_put(tensor, (rows,), changed.to(tensor.dtype))


def tap_of(place: Tap | Region) -> Tap:
    """Tap of the tensor in which a place lies."""
    return place if isinstance(place, Tap) else place.tap


def keeper(
    kept: dict[Tap | Region, list[Tensor]], place: Tap | Region, num_rows: int, num_tokens: int | None
) -> Visit:
    """Visit that puts copies of the activations at a place, one for each call of the module, into `kept`.

    Args:
        kept: [B, P, W] for each call at a tap, [B, …] at a region; see `joined`.
        place: a tap, or a region of one.
        num_rows: B.
        num_tokens: T of the run; None where its inputs do not say.
    """

    def keep(tensor: Tensor, call: int) -> None:
        if isinstance(place, Region):
            values = place.read(tensor)
        else:
            values = window_of(tensor, place, call, num_rows, num_tokens).values
        # A module further on may write into this tensor: only a copy stays what it was.
        kept.setdefault(place, []).append(values.clone())

    return keep


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Steps of a run side by side [B, P, W]; an activation that came whole is not copied once more."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)
