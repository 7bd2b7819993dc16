"""Promise: pairs of a causal model have its labels, in forms that networks take; splits share no input."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from studies.load import load_study
from studies.pairs.pair_rows import check_row
from studies.tasks import find_task
from studies.tasks.causal import BUNDLED_MODELS
from workers.causal.named import digit_sum, two_digit_addition
from workers.code.places import caller_code
from workers.errors import StudyError
from workers.vocabulary import Vectors

OWN = """
import swapyard as sy

def parity(size=4):
    return sy.CausalModel(
        inputs={"a": range(size), "b": range(size)},
        mechanisms={"even": lambda a, b: (a + b) % 2 == 0, "O": lambda even, b: even * b},
    )

fixed = parity()
shifted = sy.CausalModel({"a": (5, 7)}, {"O": lambda a: 10 + (a > 5)})
"""


def drawn(count: int, task: str = "digit_sum", seed: int = 0, **options: Any) -> list[Any]:
    return list(islice(find_task(task, caller_code()).candidates(seed=seed, options=options), count))


@pytest.mark.parametrize("name", BUNDLED_MODELS)
def test_every_row_of_a_bundled_model_is_a_pair(name: str) -> None:
    rows = drawn(100, name)
    assert len(rows) == 100
    assert [problem for row in rows for problem in check_row(row)] == []


def test_labels_are_what_the_model_says_after_each_interchange() -> None:
    model = digit_sum(4, values=30)
    variables = ("S1", ["x", "C1"], {"S1": "source", "z": "source_2"})
    for row in drawn(200, digits=4, values=30, num_sources=2, variables=variables):
        base, source, other = (
            [row[f"{run}.{name}"] for name in model.inputs] for run in ("base", "source", "source_2")
        )
        assert row["base_label"] == model.run(base)["O"] and row["source_label"] == model.run(source)["O"]
        assert row["label.S1"] == model.interchange(base, {"S1": source})["O"]
        assert row["label.x+C1"] == model.interchange(base, {"x": source, "C1": source})["O"]
        assert row["label.S1+z"] == model.interchange(base, {"S1": source, "z": other})["O"]
        assert "label" not in row


def test_another_output_can_be_the_label_and_one_variable_alone_is_the_label() -> None:
    model = digit_sum(4)
    for row in drawn(50, digits=4, output="S2", variables="S1"):
        base, source = ([row[f"{run}.{name}"] for name in model.inputs] for run in ("base", "source"))
        assert row["label"] == row["label.S1"] == model.interchange(base, {"S1": source})["S2"]
        assert row["base_label"] == row["base.S2"]


def test_a_class_is_the_number_of_the_value_in_its_domain(own: None) -> None:
    (row,) = drawn(1, "causal", model="sums:shifted", form="one_hot")
    assert row["base_label"] == row["base.O"] - 10
    assert row["base_embeds"] == Vectors.of([[float(row["base.a"] == value) for value in (5, 7)]])


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of the user's own, in the folder in which the study is run."""
    (tmp_path / "sums.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def test_ones_own_model_is_named_by_module_and_name(own: None) -> None:
    assert drawn(20, "causal", model="sums:fixed") == drawn(20, "causal", model="sums:parity")
    rows = drawn(20, "causal", model={"ref": "sums:parity", "size": 9})
    assert max(row["base.a"] for row in rows) > 3
    assert all(row["base.O"] == ((row["base.a"] + row["base.b"]) % 2 == 0) * row["base.b"] for row in rows)


def test_tokens_are_ones_in_rows_or_ids_or_vectors_that_equal_values_share() -> None:
    (hot,), (ids,) = drawn(1, values=5, form="one_hot"), drawn(1, values=5)
    digits = [ids[f"base.{name}"] for name in "xyz"]
    assert ids["base_ids"] == digits
    assert hot["base_embeds"] == Vectors.of([[float(digit == at) for at in range(5)] for digit in digits])
    seen: dict[int, bytes] = {}
    for row in drawn(100, values=5, form="random", width=7):
        vectors: Vectors = row["base_embeds"]
        assert vectors.shape == (3, 7)
        for at, name in enumerate("xyz"):
            assert (
                seen.setdefault(row[f"base.{name}"], vectors[at : at + 1].data) == vectors[at : at + 1].data
            )
    assert len(set(seen.values())) == 5


def test_text_has_spans_and_answers_and_maybe_words() -> None:
    model, words = two_digit_addition(), ["zero", "one", *("many",) * 8]
    options = {"text": "{a1}{a0} + {b1}{b0} =", "answer": " {O}", "words": {"b0": words}}
    for row in drawn(50, "two_digit_addition", variables=["carry"], differ="carry", **options):
        base, source = ([row[f"{run}.{name}"] for name in model.inputs] for run in ("base", "source"))
        assert row["base"] == f"{base[0]}{base[1]} + {base[2]}{words[base[3]]} ="
        start, end = row["source.span.b0"]
        assert row["source"][start:end] == words[source[3]]
        assert row["label"] == f" {model.interchange(base, {'carry': source})['O']}" != row["base_label"]


def test_splits_share_no_input_whatever_the_seeds() -> None:
    inputs: dict[str, set[bytes]] = {"train": set(), "test": set()}
    for seed in range(3):
        for row in drawn(500, seed=seed, num_sources=2):
            runs = (bytes(row[f"{run}_ids"]) for run in ("base", "source", "source_2"))
            inputs[row["split"]].update(runs)
    assert min(map(len, inputs.values())) > 100
    assert not inputs["train"] & inputs["test"]


def test_numbers_of_pairs_are_by_split_or_together_and_no_pair_comes_twice() -> None:
    rows = drawn(10**9, num_train=3_000, num_test=200)
    assert [row["split"] for row in rows] == ["train"] * 3_000 + ["test"] * 200
    assert len({(*row["base_ids"], *row["source_ids"]) for row in rows}) == 3_200
    assert [row["split"] for row in drawn(10)] == [*["train"] * 4, "test"] * 2
    assert drawn(30) == drawn(60)[:30]


def test_a_small_model_gives_all_of_its_pairs_and_ends() -> None:
    rows = drawn(10**9, "boolean_circuit")
    of = {split: {str(r["base_ids"]) for r in rows if r["split"] == split} for split in ("train", "test")}
    assert sum(map(len, of.values())) == 16
    assert len(rows) == sum(len(found) ** 2 for found in of.values())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"variables": ["T"]}, "there is no variable 'T'; there are x, y, z, S, O"),
        ({"variables": [{"x": "source_2"}]}, "'x' from 'source_2'; sources are source"),
        ({"output": "sum"}, "there is no variable 'sum'"),
        ({"digits": 7}, "digit_sum of 7 digits"),
        ({"num_sources": 0}, "num_sources 0; give a whole number from 1"),
        ({"form": "onehot"}, "form 'onehot'; forms are ids, one_hot, random, text; did you mean 'one_hot'?"),
        ({"form": "random"}, "the form random needs width"),
        ({"form": "text"}, "the form text needs text"),
        ({"text": "{x}+{y}"}, "must have {z} in it once"),
        ({"text": "{x}+{y}+{z}+{q}"}, "names {q}; it can name x, y, z"),
        (
            {"text": "{x}+{y}+{z}", "words": {"x": [True]}},
            "words of 'x': True is no text; write it in quotes",
        ),
        ({"text": "{x}+{y}+{z}", "words": {"x": ["no"]}}, "words of 'x': 1 for 10 values"),
        ({"test_share": "half"}, "test_share 'half'; give a number between 0 and 1"),
        ({"num_test": 10**6, "values": 2}, "num_test 1000000; there are only"),
    ],
)
def test_an_impossible_option_is_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(StudyError) as caught:
        drawn(10**9, **options)
    assert str(caught.value).startswith("task digit_sum: ") and text in str(caught.value)


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("{name: digit_sum, num_pairs: 4}", "'seed' is missing"),
        ("{name: digit_sum, seed: 0}", "'num_pairs' is missing"),
        ("{name: digit_sum, seed: 0, num_pairs: 4, digit: 4}", "did you mean 'digits'?"),
    ],
)
def test_a_study_file_is_told_what_the_task_lacks(task: str, text: str) -> None:
    with pytest.raises(StudyError) as caught:
        load_study(f"study: x\nmodel: m\ntask: {task}\nsweep: [{{site: a.b, position: 0}}]")
    assert text in str(caught.value)
