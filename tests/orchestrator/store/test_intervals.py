"""Promise: an interval set holds exactly the integers that were put in, whatever the order."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.store import IntervalSet

intervals = st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda at: (at[0], at[0] + at[1]))


def integers(spans: list[tuple[int, int]] | tuple[tuple[int, int], ...]) -> set[int]:
    return {number for lo, hi in spans for number in range(lo, hi)}


def build(spans: list[tuple[int, int]]) -> IntervalSet:
    made = IntervalSet()
    for lo, hi in spans:
        made.add(lo, hi)
    return made


@given(st.lists(intervals))
def test_it_holds_what_a_set_of_integers_would_hold(spans: list[tuple[int, int]]) -> None:
    made, model = build(spans), integers(spans)
    assert integers(made.intervals()) == model
    assert len(made) == len(model)


@given(st.lists(intervals))
def test_its_intervals_are_sorted_and_neither_overlap_nor_touch(spans: list[tuple[int, int]]) -> None:
    found = build(spans).intervals()
    assert all(lo < hi for lo, hi in found)
    assert all(hi < lo for (_, hi), (lo, _) in itertools.pairwise(found))


@given(st.lists(intervals), intervals)
def test_overlaps_and_subtract_from_agree_with_a_set(
    spans: list[tuple[int, int]], asked: tuple[int, int]
) -> None:
    made, model, wanted = build(spans), integers(spans), integers([asked])
    assert made.overlaps(*asked) == bool(model & wanted)
    assert integers(made.subtract_from(*asked)) == wanted - model


@given(st.lists(intervals).flatmap(lambda spans: st.tuples(st.just(spans), st.permutations(spans))))
def test_the_order_of_adding_does_not_matter(
    orders: tuple[list[tuple[int, int]], list[tuple[int, int]]],
) -> None:
    assert build(orders[0]) == build(orders[1])


def test_a_copy_grows_by_itself() -> None:
    made = build([(0, 3)])
    made.copy().add(5, 9)
    assert made.intervals() == ((0, 3),)


def test_an_empty_interval_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3, 3\) is empty"):
        IntervalSet().add(3, 3)
