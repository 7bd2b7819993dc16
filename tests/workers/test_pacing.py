"""Promise: the size of a forward is found by measuring in a few steps, stays put after that, and never again
reaches a size that memory could not hold."""

from collections.abc import Callable

import pytest

from workers.engine.batch_size import BatchSizer


def settle(pacer: BatchSizer, seconds: Callable[[int], float], num_forwards: int = 60) -> list[int]:
    """The sizes that the pacer asks for when a forward of n rows takes ``seconds(n)``."""
    sizes = []
    for _ in range(num_forwards):
        sizes.append(pacer.rows(5))
        pacer.record(5, sizes[-1], seconds(sizes[-1]))
    return sizes


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        (lambda rows: 100.0 + rows / 100, 8 * 204),  # more is always better: up to the ceiling
        (lambda rows: rows / 100, 204),  # it does not matter: stay
        (lambda rows: (rows + (rows / 20) ** 2) / 100, 12),  # ever fewer gain until 3 % is not gained
        (lambda rows: rows**2 / 100, 1),
    ],
)
def test_the_fastest_size_is_found_and_kept(seconds: Callable[[int], float], best: int) -> None:
    sizes = settle(BatchSizer(start_tokens=1020), seconds)
    assert sizes[0] == 204
    assert len(set(sizes[-20:])) == 1
    assert sizes[-1] == best


def test_a_limit_on_rows_is_kept() -> None:
    assert max(settle(BatchSizer(start_tokens=1020, max_rows=7), lambda rows: 1.0)) == 7


def test_after_running_out_of_memory_forwards_stay_smaller() -> None:
    pacer = BatchSizer(start_tokens=1020)
    pacer.shrink(5, 204)
    assert max(settle(pacer, lambda rows: 1.0)) == 102
    for _ in range(10):
        pacer.shrink(5, pacer.rows(5))
    assert pacer.rows(5) == 1


def test_after_enough_went_well_a_size_that_did_not_fit_is_tried_again() -> None:
    pacer = BatchSizer(start_tokens=1020)
    pacer.shrink(5, 204)
    assert max(settle(pacer, lambda rows: 1.0, 60)) == 102
    assert max(settle(pacer, lambda rows: 1.0, 60)) == 204


def test_a_search_begins_where_an_earlier_one_ended() -> None:
    known = {"hooked/5": 510, "resumed/4": 64}
    pacer = BatchSizer(start_tokens=1020, known=known)
    assert (pacer.rows(5), pacer.rows(2, resumed=True), pacer.rows(1, resumed=True)) == (102, 32, 1020)
    assert pacer.state() == {**known, "resumed/1": 1020}


def test_prompts_of_each_length_have_their_own_size() -> None:
    pacer = BatchSizer(start_tokens=1000)
    assert (pacer.rows(10), pacer.rows(100), pacer.rows(5000)) == (100, 10, 1)
