"""Columns of a module's tensor that a place means: heads, dimensions, and fused projections.

Shapes: W width of the module's tensor, H heads of the site, D width of a head.
"""

__all__ = ["WHOLE", "Dims", "Heads", "Layout", "Target", "layout_of"]

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from workers.errors import ModelError
from workers.model.facts import ModelFacts
from workers.model.families import Family, Fusion, Part
from workers.model.hooks import Tap
from workers.model.sites import num_heads

Dims = tuple[tuple[int, int], ...]
"""Half-open ranges of dimensions."""

Heads = tuple[int, ...]
"""Numbers of heads, from 0."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of a site's heads in the width of a tensor, counted in widths of one head.

    The tensor is `total` heads wide, and the site's head ``h`` begins at head ``first + h * stride``.
    A site without heads is one head as wide as the tensor.
    """

    num_heads: int
    first: int
    stride: int
    total: int


WHOLE = Layout(num_heads=1, first=0, stride=1, total=1)
"""The whole width, without heads."""


def layout_of(site: str, part: Part | None, family: Family, facts: ModelFacts) -> Layout:
    """Layout of `site` in the tensor of its module, of which it is the share `part`."""
    heads = num_heads(site, facts)
    if heads is None:
        return WHOLE
    if part is None:
        return Layout(heads, 0, 1, heads)
    return _share(heads, part, family.fusion, facts)


def _share(heads: int, part: Part, fusion: Fusion | None, facts: ModelFacts) -> Layout:
    if fusion == "interleaved":
        return Layout(heads, {"query": 0, "key": 1, "value": 2}[part], 3, 3 * heads)
    queries, keys = facts.num_heads, facts.num_kv_heads
    return Layout(heads, {"query": 0, "key": queries, "value": queries + keys}[part], 1, queries + 2 * keys)


@dataclass(frozen=True, slots=True)
class Target:
    """Columns of one tap that a unit writes, or takes its value from."""

    tap: Tap
    layout: Layout
    heads: Heads | None
    """Heads of the site, all at once; None for its whole width."""
    dims: Dims | None
    """Ranges of the site's dimensions (of each head, where heads are named); None for all."""

    def columns(self, width: int, device: torch.device) -> slice | Tensor:
        """The columns in a tensor of `width`, in the order of heads and dimensions.

        The real width of a head is read off the tensor: it need not be the model's width / its heads.

        Raises:
            ModelError: the width is no multiple of a head's, or the dimensions do not exist.
        """
        return _columns(self, width, device)


@lru_cache(maxsize=4096)
def _columns(target: Target, width: int, device: torch.device) -> slice | Tensor:
    head_width, rest = divmod(width, target.layout.total)
    if rest:
        raise ModelError(f"{target.tap} is {width} wide, which {target.layout.total} heads do not divide")
    heads = range(target.layout.num_heads) if target.heads is None else target.heads
    blocks = [_head(target.layout, head, head_width) for head in heads]
    if target.heads is None:
        blocks = [[column for block in blocks for column in block]]
    return _indices([column for block in blocks for column in _chosen(block, target)], device)


def _head(layout: Layout, head: int, head_width: int) -> list[int]:
    start = (layout.first + head * layout.stride) * head_width
    return list(range(start, start + head_width))


def _chosen(block: list[int], target: Target) -> list[int]:
    """The target's dimensions of one head, or of the site."""
    if target.dims is None:
        return block
    for low, high in target.dims:
        if not 0 <= low < high <= len(block):
            raise ModelError(f"dimensions {low}:{high} at {target.tap}: there are {len(block)}, from 0")
    return [column for low, high in target.dims for column in block[low:high]]


def _indices(columns: Sequence[int], device: torch.device) -> slice | Tensor:
    """A slice where the columns are neighbours: it is read without copying."""
    start, stop = columns[0], columns[-1] + 1
    if list(columns) == list(range(start, stop)):
        return slice(start, stop)
    return torch.tensor(columns, device=device)
