"""Promise: a causal model says what happens after an interchange, of any variables from any sources."""

from typing import Any

import numpy as np
import pytest
from causal_models import models, some_inputs
from hypothesis import given
from hypothesis import strategies as st

from studies.tasks.causal import BUNDLED_MODELS
from workers.causal.model import CausalModel
from workers.causal.named import (
    BUNDLED,
    boolean_circuit,
    causal_model,
    digit_sum,
    hierarchical_equality,
    two_digit_addition,
)
from workers.errors import StudyError

BASE, SOURCE = [3, 6, 9], [4, 4, 4]


def test_the_numbers_of_the_document() -> None:
    model = digit_sum()
    assert (model.run(BASE)["O"], model.run(SOURCE)["O"]) == (18, 12)
    assert model.interchange(BASE, {"x": SOURCE})["O"] == 19
    assert model.interchange(BASE, {"S": SOURCE})["O"] == 17


def test_four_digits_have_two_outputs_and_a_digit_that_is_carried_along() -> None:
    model = digit_sum(4, values=30)
    base, source = [1, 2, 3, 4], [10, 20, 29, 5]
    assert (model.outputs, len(model.domain("O")), len(model.domain("S2"))) == (("O", "S2"), 117, 88)
    after = model.interchange(base, {"S1": source})
    assert [after[name] for name in ("S1", "S2", "O")] == [30, 33, 37]
    after = model.interchange(base, {"C1": source, "z": base})
    assert [after[name] for name in ("y", "C1", "S2", "O")] == [3, 29, 32, 36]


def test_two_sources_give_each_its_own_variable() -> None:
    after = digit_sum().interchange(BASE, {"x": SOURCE, "z": [0, 0, 1]})
    assert after["O"] == 4 + 6 + 1


def test_hierarchical_equality_compares_what_both_pairs_say() -> None:
    model = hierarchical_equality()
    both, first, neither = [5, 5, 7, 7], [5, 5, 7, 8], [1, 2, 3, 4]
    assert [int(model.run(one)["O"]) for one in (both, first, neither)] == [1, 0, 1]
    assert model.interchange(both, {"WX": neither})["O"] == 0
    assert model.interchange(first, {"WX": neither})["O"] == 1


def test_addition_is_right_for_every_two_numbers_and_hangs_on_its_carry() -> None:
    model = two_digit_addition()
    ran = model.run(model.all_inputs())
    assert (ran["O"] == 10 * (ran["a1"] + ran["b1"]) + ran["a0"] + ran["b0"]).all()
    assert model.interchange([2, 7, 1, 5], {"carry": [0, 1, 0, 1]})["O"] == 32


def test_a_circuit_is_what_its_gates_say() -> None:
    model = boolean_circuit()
    ran = model.run(model.all_inputs())
    assert (ran["O"] == ((ran["a"] | ran["b"]) & (ran["c"] | ran["d"]))).all()
    own = boolean_circuit(("a", "b"), {"n": ("not", "a"), "O": ("xor", "n", "b")})
    assert own.run(own.all_inputs())["O"].tolist() == [1, 0, 0, 1]


@given(models(), st.integers(0, 99))
def test_an_interchange_of_all_inputs_is_the_sources_run_and_of_none_the_bases(
    model: CausalModel, seed: int
) -> None:
    base, source = some_inputs(model, 20, seed), some_inputs(model, 20, seed + 1)
    assert_same(model.interchange(base, dict.fromkeys(model.inputs, source)), model.run(source))
    assert_same(model.interchange(base, {}), model.run(base))
    assert_same(model.interchange(base, dict.fromkeys(model.variables, base)), model.run(base))


@given(models(), st.integers(0, 99), st.data())
def test_a_row_is_as_if_it_were_alone(model: CausalModel, seed: int, data: st.DataObject) -> None:
    base, source = some_inputs(model, 8, seed), some_inputs(model, 8, seed + 1)
    changed = data.draw(st.lists(st.sampled_from(model.variables), unique=True))
    together = model.interchange(base, dict.fromkeys(changed, source))
    for row in range(8):
        alone = model.interchange(base[row].tolist(), dict.fromkeys(changed, source[row].tolist()))
        assert {name: int(value) for name, value in alone.items()} == {
            name: int(values[row]) for name, values in together.items()
        }


@given(models(), st.integers(0, 99), st.data())
def test_interchanges_compose(model: CausalModel, seed: int, data: st.DataObject) -> None:
    """One after the other is both at once; a variable with all of its parents changed along is left alone."""
    base, source, other = (some_inputs(model, 8, seed + number) for number in range(3))
    one, two = (data.draw(st.lists(st.sampled_from(model.variables), unique=True)) for _ in range(2))
    first = model.interchange(base, dict.fromkeys(one, source))
    held = {name: first[name] for name in one} | {name: model.run(other)[name] for name in two}
    assert_same(
        model.run(base, held), model.interchange(base, dict.fromkeys(one, source) | dict.fromkeys(two, other))
    )
    name = data.draw(st.sampled_from([name for name in model.variables if model.parents[name]]))
    assert_same(
        model.interchange(base, dict.fromkeys(model.parents[name], source)),
        model.interchange(base, dict.fromkeys((*model.parents[name], name), source)),
    )


@given(models(), st.data())
def test_classes_partition_the_inputs_and_one_source_of_a_class_is_as_good_as_another(
    model: CausalModel, data: st.DataObject
) -> None:
    names = data.draw(st.lists(st.sampled_from(model.variables), min_size=1, max_size=2, unique=True))
    every = model.all_inputs()
    classes = model.classes(names)
    members = np.concatenate(list(classes.values()))
    assert sorted(members.tolist()) == list(range(len(every[model.inputs[0]])))
    ran = model.run(every)
    for values, found in classes.items():
        assert all((ran[name][found] == value).all() for name, value in zip(names, values, strict=True))
        source = {name: column[found] for name, column in every.items()}
        base = {name: np.zeros(len(found), int) for name in model.inputs}
        after = model.interchange(base, dict.fromkeys(names, source))
        assert all(len(set(after[name].tolist())) == 1 for name in model.outputs)


@given(models())
def test_a_domain_holds_every_value_that_occurs(model: CausalModel) -> None:
    ran = model.run(model.all_inputs())
    for name in model.variables:
        assert set(ran[name].tolist()) <= set(model.domain(name).tolist())


def test_variables_are_in_order_however_they_are_written() -> None:
    model = CausalModel({"x": (0, 1)}, {"O": lambda S: -S, "S": lambda x: x})  # noqa: N803
    assert (model.variables, model.outputs) == (("x", "S", "O"), ("O",))


X = {"x": range(3)}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: CausalModel(X, {"y": lambda w: w}), "'y' has the parents w; its parents are some of x, y"),
        (lambda: CausalModel(X, {"y": lambda z: z, "z": lambda y: y}), "y, z depend on each other"),
        (lambda: CausalModel(X, {"x": lambda x: x}), "'x' is an input and has a mechanism"),
        (lambda: CausalModel({"x": ()}, {"y": lambda x: x}), "the domain of 'x' is (); give whole numbers"),
        (lambda: CausalModel({"x": [0.5]}, {"y": lambda x: x}), "give whole numbers"),  # type: ignore[list-item]
        (lambda: CausalModel(X, {}), "give at least one of each"),
        (lambda: CausalModel(X, {"a b": lambda x: x}), "a variable is called 'a b'"),
        (lambda: CausalModel(X, {"y": np.add}), "give a function whose parameters are its parents"),
        (lambda: CausalModel(X, {"y": lambda x: x}, outputs=["Y"]), "no variable 'Y'; there are x, y"),
        (lambda: CausalModel(X, {"y": lambda x: x / 2}).run([1]), "returned float64 [] for values []"),
        (lambda: CausalModel(X, {"y": lambda x: x[:1]}).run([[1], [2]]), "returned int64 [1] for values [2]"),
        (
            lambda: CausalModel(X, {"y": lambda x: x.no}).run([1]),
            "the mechanism of 'y' raised AttributeError",
        ),
        (lambda: digit_sum().run([1, 2]), "inputs [2]; give [..., 3], one for each of x, y, z"),
        (lambda: digit_sum().run([1, 2, 10]), "'z' is 10; its values are 0 … 9, 10 of them"),
        (lambda: digit_sum().run({"x": 1, "y": 2}), "the inputs lack z; give x, y, z"),
        (lambda: digit_sum().interchange(BASE, {"s": SOURCE}), "no variable 's'"),
        (
            lambda: hierarchical_equality().all_inputs(),
            "100,000,000 combinations of values; at most 2,000,000",
        ),
        (lambda: digit_sum(5), "digit_sum of 5 digits; there are sums of 3 and of 4"),
        (lambda: digit_sum(values=1), "values 1; give a whole number from 2"),
        (lambda: boolean_circuit(gates={"O": ("nand", "a", "b")}), "a gate 'nand'; gates are and, or"),
        (lambda: boolean_circuit(gates={"O": ("not", "a", "b")}), "'not' has one input"),
        (lambda: causal_model("digit_sums"), "did you mean 'digit_sum'?"),
        (lambda: causal_model("digit_sum", {"digit": 4}), "has no option 'digit'; it has digits, values"),
        (
            lambda: causal_model("no_such_module:made"),
            "there is no no_such_module.py below the study's folder",
        ),
        (lambda: causal_model("json:dumps", {"obj": 2}), "there is no json.py below the study's folder"),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(make: Any, text: str) -> None:
    with pytest.raises(StudyError) as caught:
        make()
    assert text in str(caught.value)


def test_each_bundled_model_is_a_task() -> None:
    assert tuple(BUNDLED) == BUNDLED_MODELS


def test_the_bundled_models_are_made_without_options() -> None:
    assert {name: len(causal_model(name).variables) for name in BUNDLED} == {
        "digit_sum": 5,
        "hierarchical_equality": 7,
        "two_digit_addition": 8,
        "boolean_circuit": 7,
    }


def assert_same(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
