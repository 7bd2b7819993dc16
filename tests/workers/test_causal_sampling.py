"""Promise: what is drawn is the same everywhere, balanced where asked, and never of both splits."""

from typing import Any

import numpy as np
import pytest
from causal_models import models
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.causal.model import CausalModel, Values
from workers.causal.named import boolean_circuit, digit_sum, hierarchical_equality, two_digit_addition
from workers.causal.sampling import Sampler
from workers.errors import StudyError

PINNED = [(6, 3, 8), (2, 7, 6), (0, 4, 3)]


def rows(inputs: Values) -> list[tuple[int, ...]]:
    return list(zip(*(column.tolist() for column in inputs.values()), strict=True))


def test_the_numbers_are_pinned_and_more_only_add() -> None:
    sampler = Sampler(model=digit_sum(), seed=0)
    assert rows(sampler.inputs(3)) == PINNED
    assert rows(sampler.inputs(20_000))[:3] == rows(sampler.inputs(3))
    assert rows(Sampler(model=digit_sum(), seed=1).inputs(3)) != rows(sampler.inputs(3))


@settings(max_examples=25)
@given(models(), st.integers(0, 99), st.integers(0, 9))
def test_no_input_is_drawn_for_both_splits(model: CausalModel, seed: int, split_seed: int) -> None:
    drawn: dict[str, set[tuple[int, ...]]] = {}
    for split, other in (("train", seed), ("test", seed + 1)):
        sampler = Sampler(model=model, seed=other, split=split, split_seed=split_seed, test_share=0.4)
        is_test = sampler.in_test(np.stack(list(model.all_inputs().values()), -1))
        if is_test.all() or not is_test.any():
            return
        drawn[split] = {row for run in sampler.pairs(500) for row in rows(run)}
    assert drawn["train"] and drawn["test"]
    assert not drawn["train"] & drawn["test"]


def test_the_splits_are_of_the_size_that_is_asked_for_and_change_with_their_seed() -> None:
    every = np.stack(list(digit_sum(values=30).all_inputs().values()), -1)
    one, other = (
        Sampler(model=digit_sum(values=30), seed=0, split_seed=seed, test_share=0.1).in_test(every)
        for seed in (0, 1)
    )
    assert abs(one.mean() - 0.1) < 0.01
    assert abs((one & other).mean() - 0.01) < 0.005


@settings(max_examples=25)
@given(models(), st.integers(0, 99), st.data())
def test_balanced_values_come_equally_often_and_within_one_every_input_can(
    model: CausalModel, seed: int, data: st.DataObject
) -> None:
    names = data.draw(st.lists(st.sampled_from(model.variables), min_size=1, max_size=2, unique=True))
    classes = model.classes(names)
    num = 60 * len(classes)
    drawn = Sampler(model=model, seed=seed, balance=names).inputs(num)
    assert {values: len(found) for values, found in model.classes(names, drawn).items()} == dict.fromkeys(
        classes, 60
    )


@pytest.mark.parametrize(
    ("model", "balance"),
    [(two_digit_addition(), ["carry"]), (hierarchical_equality(3), ["O"]), (digit_sum(values=4), ["O", "S"])],
)
def test_within_a_value_inputs_are_even_whether_parents_share_inputs_or_not(
    model: CausalModel, balance: list[str]
) -> None:
    classes = model.classes(balance)
    num = 200_000 // len(classes) * len(classes)
    counts = np.zeros(len(rows(model.all_inputs())))
    order = {row: at for at, row in enumerate(rows(model.all_inputs()))}
    for row in rows(Sampler(model=model, seed=0, balance=balance).inputs(num)):
        counts[order[row]] += 1
    for found in classes.values():
        expected = num / len(classes) / len(found)
        # The sum of squares is χ² with one degree less than inputs; five of its deviations are no accident.
        spread = ((counts[found] - expected) ** 2 / expected).sum()
        assert abs(spread - len(found) + 1) <= 5 * np.sqrt(2 * len(found))


def test_a_rare_combination_is_as_frequent_as_another_although_it_is_one_in_ten_thousand() -> None:
    model = hierarchical_equality(100)
    base, source = Sampler(model=model, seed=0, balance=["WX", "YZ"]).pairs(4_000)
    assert [len(found) for found in model.classes(["WX", "YZ"], base).values()] == [1_000] * 4
    assert all(850 < len(found) < 1_150 for found in model.classes(["WX", "YZ"], source).values())


def test_what_is_filtered_is_balanced_too() -> None:
    model = boolean_circuit()
    sampler = Sampler(
        model=model, seed=0, balance=["p", "O"], where=lambda base, source: base["p"] != source["p"]
    )
    base, source = (model.run(inputs) for inputs in sampler.pairs(3_000))
    assert (base["p"] != source["p"]).all()
    assert [len(found) for found in model.classes(["p", "O"], base).values()] == [1_000] * 3


def test_several_sources_are_several_inputs() -> None:
    runs = Sampler(model=digit_sum(), seed=0).pairs(50, num_sources=3)
    assert len(runs) == 4
    assert len({str(rows(run)) for run in runs}) == 4


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"split": "dev"}, "split 'dev'; splits are train and test"),
        ({"test_share": 1.0}, "test_share 1.0; give a number between 0 and 1"),
        ({"balance": ["T"]}, "there is no variable 'T'"),
        ({"where": lambda base, source: base["x"] > 9}, "no example passes in 4,096,000 draws"),
        ({"balance": ["S"], "where": lambda base, source: base["S"] != 3}, "too few examples have {'S': 3}"),
        ({"where": lambda base, source: [True]}, "where returned [1]; return true or false for each"),
    ],
)
def test_what_cannot_be_drawn_is_told(given: dict[str, Any], text: str) -> None:
    with pytest.raises(StudyError) as caught:
        Sampler(model=digit_sum(), seed=0, **given).pairs(100)
    assert text in str(caught.value)


def test_a_million_pairs_with_their_counterfactuals() -> None:
    """All at once: one pair at a time would take minutes, and this file's other tests are small."""
    model = digit_sum(4, values=30)
    base, source = Sampler(model=model, seed=0, balance=["S2"], split="train").pairs(1_000_000)
    after = model.interchange(base, {"S1": source, "y": source})
    expected = source["w"] + source["x"] + source["y"]
    np.testing.assert_array_equal(after["S2"], expected)
    np.testing.assert_array_equal(after["O"], expected + base["z"])
