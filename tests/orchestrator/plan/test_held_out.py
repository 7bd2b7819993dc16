"""Promise: what a fit is made from and what it is measured on share no prompt, whatever the pairs are."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.held_out import apart, split

PAIRS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=60)


def keys(pairs: list[tuple[int, int]]) -> list[str]:
    return [f"{number:03}" for number in range(len(pairs))]


@given(PAIRS, st.integers(0, 3))
def test_no_prompt_is_on_both_sides(pairs: list[tuple[int, int]], seed: int) -> None:
    fitted, held_out = split(pairs, keys(pairs), seed)
    assert fitted and not set(fitted) & set(held_out)
    assert not {p for n in fitted for p in pairs[n]} & {p for n in held_out for p in pairs[n]}


@given(PAIRS, PAIRS)
def test_others_are_those_without_a_common_prompt(
    pairs: list[tuple[int, int]], others: list[tuple[int, int]]
) -> None:
    known = {prompt for pair in pairs for prompt in pair}
    assert apart(pairs, others) == [n for n, pair in enumerate(others) if not known & set(pair)]


def test_of_pairs_that_are_not_linked_a_fifth_is_held_out_and_none_is_lost() -> None:
    pairs = [(n, 1000 + n) for n in range(100)]
    fitted, held_out = split(pairs, keys(pairs), 0)
    assert len(held_out) == pytest.approx(20, abs=1) and len(fitted) + len(held_out) == 100


def test_of_ordered_pairs_of_few_prompts_those_between_held_out_prompts_are_held_out() -> None:
    pairs = list(permutations(range(10), 2))
    fitted, held_out = split(pairs, keys(pairs), 0)
    assert (len(fitted), len(held_out)) == (7 * 6, 3 * 2)


def test_the_seed_decides_and_the_order_does_not() -> None:
    pairs = [(n, 1000 + n) for n in range(40)]
    names = keys(pairs)
    held_out = {names[n] for n in split(pairs, names, 0)[1]}
    turned = split(pairs[::-1], names[::-1], 0)[1]
    assert {names[::-1][n] for n in turned} == held_out
    assert {names[n] for n in split(pairs, names, 1)[1]} != held_out


def test_where_nothing_could_be_held_out_all_pairs_are_fitted() -> None:
    assert split([(0, 1)], ["a"], 0) == ([0], [])
    assert split([(0, 1), (1, 0), (1, 2)], ["a", "b", "c"], 0) == ([0, 1, 2], [])
