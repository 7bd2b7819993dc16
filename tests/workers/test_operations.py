"""Promise: operations do what they say, in their columns only, never in place, and in the caller's dtype."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from workers.errors import RunError
from workers.intervene.operations import SKIP, exchange, operate, put
from workers.intervene.subspaces import LowRankRotation

OLD, OTHER = torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 20.0]])


def test_each_operation() -> None:
    assert operate("vanilla", OLD, OTHER).tolist() == [[10.0, 20.0]]
    assert operate(SKIP, OLD, OTHER).tolist() == [[10.0, 20.0]]
    assert operate("add", OLD, OTHER).tolist() == [[11.0, 22.0]]
    assert operate("subtract", OLD, OTHER).tolist() == [[-9.0, -18.0]]
    assert operate(torch.maximum, OLD, OTHER).tolist() == [[10.0, 20.0]]


def test_values_that_do_not_fit_and_unknown_operations_are_refused() -> None:
    with pytest.raises(RunError, match="3 wide cannot change 2 dimensions"):
        operate("vanilla", OLD, torch.zeros(1, 3))
    with pytest.raises(RunError, match="no operation 'mul'; operations are vanilla, add, subtract"):
        operate("mul", OLD, OTHER)
    with pytest.raises(RunError, match=r"on \[1, 2\] returned \[2\]; return a tensor"):
        operate(lambda old, other: other[0], OLD, OTHER)
    with pytest.raises(RunError, match="returned NoneType"):
        operate(lambda old, other: None, OLD, OTHER)


def test_a_function_that_writes_into_what_it_is_given_spoils_nothing() -> None:
    def double(old: Tensor, other: Tensor) -> Tensor:
        other.zero_()
        return old.mul_(2)

    old, other = OLD.clone().requires_grad_(), OTHER.clone()
    operate(double, old, other).sum().backward()
    assert old.tolist() == OLD.tolist()
    assert other.tolist() == OTHER.tolist()
    assert old.grad.tolist() == [[2.0, 2.0]]


@given(st.lists(st.integers(0, 4), min_size=1, unique=True), st.booleans())
def test_only_the_named_columns_change(columns: list[int], is_slice: bool) -> None:
    picked = torch.arange(15.0).reshape(3, 5).requires_grad_()
    chosen: slice | Tensor = torch.tensor(columns)
    if is_slice:
        columns = list(range(min(columns), max(columns) + 1))
        chosen = slice(columns[0], columns[-1] + 1)
    new = (-1.0 - torch.arange(3.0 * len(columns))).reshape(3, -1)
    after = put(picked, chosen, new)
    (after.sum() + picked.sum() * 0).backward()
    for column in range(5):
        expected = new[:, columns.index(column)] if column in columns else picked.detach()[:, column]
        assert after[:, column].tolist() == expected.tolist()
        assert (picked.grad[:, column] == (column not in columns)).all()
    assert picked.detach().flatten().tolist() == list(range(15))


def test_a_subspace_as_wide_as_another_place_is_refused() -> None:
    with pytest.raises(RunError, match="a subspace of 3 dimensions at a place of 2"):
        exchange(LowRankRotation(3, 1), "vanilla", OLD, OTHER)


def test_values_of_another_dtype_are_written_in_the_places_own() -> None:
    assert exchange(None, "add", OLD.bfloat16(), OTHER.double()).dtype == torch.bfloat16
