"""Promise: heads and dimensions mean the right columns of the module's tensor, also where queries, keys and
values are fused, and with the head widths that the tensor really has."""

import pytest
import torch

from workers.errors import ModelError
from workers.model.hooks import Tap
from workers.model.layout import WHOLE, Dims, Layout, Target

TAP = Tap("m", "output")
CPU = torch.device("cpu")
# Two query heads, one of keys and values: five head widths in all where they are fused one after another.
QUERY, KEY, VALUE = Layout(2, 0, 1, 4), Layout(1, 2, 1, 4), Layout(1, 3, 1, 4)
INTERLEAVED = Layout(2, 1, 3, 6)


def columns(
    layout: Layout, width: int, heads: tuple[int, ...] | None = None, dims: Dims | None = None
) -> list[int]:
    found = Target(TAP, layout, heads, dims).columns(width, CPU)
    return list(range(width))[found] if isinstance(found, slice) else found.tolist()


@pytest.mark.parametrize(
    ("layout", "heads", "dims", "expected"),
    [
        (WHOLE, None, None, list(range(12))),
        (WHOLE, None, ((0, 2), (5, 6)), [0, 1, 5]),
        (QUERY, None, None, [0, 1, 2, 3, 4, 5]),
        (QUERY, (1,), None, [3, 4, 5]),
        (QUERY, (1, 0), ((1, 3),), [4, 5, 1, 2]),
        (QUERY, None, ((2, 4),), [2, 3]),
        (KEY, None, None, [6, 7, 8]),
        (VALUE, (0,), ((2, 3),), [11]),
        (INTERLEAVED, None, None, [2, 3, 8, 9]),
        (INTERLEAVED, (1,), ((1, 2),), [9]),
        (INTERLEAVED, None, ((1, 3),), [3, 8]),
    ],
)
def test_columns(
    layout: Layout, heads: tuple[int, ...] | None, dims: Dims | None, expected: list[int]
) -> None:
    assert columns(layout, 12, heads, dims) == expected


def test_neighbouring_columns_are_a_slice() -> None:
    assert Target(TAP, QUERY, (0, 1), None).columns(12, CPU) == slice(0, 6)


def test_dimensions_that_do_not_exist_and_widths_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ModelError, match=r"dimensions 2:4 at m:output: there are 3, from 0"):
        columns(QUERY, 12, (0,), ((2, 4),))
    with pytest.raises(ModelError, match="m:output is 13 wide, which 4 heads do not divide"):
        columns(QUERY, 13)
