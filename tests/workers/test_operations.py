"""Promise: operations do what they say, in their rows, tokens and columns only, and never in place."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.errors import RunError
from workers.operations import operate, write

OLD, OTHER = torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 20.0]])


def test_each_operation() -> None:
    assert operate("vanilla", OLD, OTHER).tolist() == [[10.0, 20.0]]
    assert operate("add", OLD, OTHER).tolist() == [[11.0, 22.0]]
    assert operate("subtract", OLD, OTHER).tolist() == [[-9.0, -18.0]]


def test_values_that_do_not_fit_and_unknown_operations_are_refused() -> None:
    with pytest.raises(RunError, match="3 wide cannot change 2 dimensions"):
        operate("vanilla", OLD, torch.zeros(1, 3))
    with pytest.raises(RunError, match="no operation 'mul'; operations are vanilla, add, subtract"):
        operate("mul", OLD, OTHER)


points = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=6, unique=True)


@given(points, st.lists(st.integers(0, 4), min_size=1, unique=True), st.booleans())
def test_only_the_named_points_and_columns_change(
    at: list[tuple[int, int]], columns: list[int], is_zero: bool
) -> None:
    tensor = torch.arange(60.0).reshape(3, 4, 5)
    before = tensor.clone()
    rows, tokens = (torch.tensor(index) for index in zip(*at, strict=True))
    other = None if is_zero else -1.0 - torch.arange(len(at) * len(columns)).reshape(len(at), -1)
    after = write(tensor, rows, tokens, torch.tensor(columns), "vanilla", other)
    assert torch.equal(tensor, before)
    expected = before.clone()
    for number, (row, token) in enumerate(at):
        for place, column in enumerate(columns):
            expected[row, token, column] = 0.0 if other is None else other[number, place]
    assert torch.equal(after, expected)
