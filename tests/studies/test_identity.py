"""Promise: equal content has equal ids, different content different ones, and no field slips past."""

import dataclasses
import json
import math
import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from studies import Block, ModelSpec, Study, load_study
from studies.language.expand import PairClass, expand
from studies.language.identity import canonical_json, cell_id, content_id, lane_identity, pair_id, unit_json
from workers.model.facts import ModelFacts
from workers.vocabulary import Cell, CellUnit, NamedRun, Pair, Place, Vectors

_text = st.text(max_size=6)
_position = st.lists(st.integers(0, 99) | _text, max_size=3).map(tuple)
_places = st.builds(
    Place,
    site=_text,
    layer=st.none() | st.integers(0, 99),
    heads=st.none() | st.lists(st.integers(0, 9), max_size=3).map(tuple),
    position=_position,
    coordinates=st.none() | _text | st.tuples(_text, _text),
)
_units = st.builds(
    CellUnit,
    place=_places,
    dims=st.none() | st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=2).map(tuple),
    operation=_text,
    run=_text,
    origin=st.none() | _places,
    fit=st.none() | _text,
    value_fit=st.none() | _text,
    scale=st.none() | st.integers(-3, 3) | st.floats(-9, 9),
    seed=st.none() | st.integers(0, 99),
)
_runs = st.builds(NamedRun, name=_text, units=st.lists(_units, max_size=2).map(tuple))
_cells = st.builds(
    Cell,
    units=st.lists(_units, max_size=3).map(tuple),
    read=st.integers(0, 9) | _text,
    runs=st.lists(_runs, max_size=2).map(tuple),
)


@given(_units)
def test_the_fast_spelling_of_a_unit_is_the_canonical_one(unit: CellUnit) -> None:
    assert unit_json(unit) == canonical_json(unit.to_json())


@given(_cells)
def test_a_cells_id_is_that_of_its_canonical_data(cell: Cell) -> None:
    lane = canonical_json({"ref": "m"})
    data = {"lane": {"ref": "m"}, "seed": None, **cell.to_json()}
    assert cell_id(lane, cell) == content_id("cell", data)


@given(_cells, _cells)
def test_different_cells_have_different_ids(one: Cell, other: Cell) -> None:
    same = canonical_json(one.to_json()) == canonical_json(other.to_json())
    assert (cell_id("{}", one) == cell_id("{}", other)) == same


@given(
    st.recursive(
        st.none() | st.integers() | _text, lambda x: st.lists(x) | st.dictionaries(_text, x), max_leaves=6
    )
)
def test_canonical_json_is_json_and_stable(data: Any) -> None:
    text = canonical_json(data) if _keys_differ(data) else "null"
    assert canonical_json(json.loads(text)) == text


def _keys_differ(data: Any) -> bool:
    """Whether no two keys become one when Unicode is normalised."""
    if isinstance(data, dict):
        names = {unicodedata.normalize("NFC", key) for key in data}
        return len(names) == len(data) and all(map(_keys_differ, data.values()))
    return all(map(_keys_differ, data)) if isinstance(data, list) else True


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (0, -0.0),
        (1e3, 1000),
        ("Brasília", "Brasi\u0301lia"),
        ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}),
        ((1, 2), [1, 2]),
    ],
)
def test_one_content_has_one_spelling(one: object, other: object) -> None:
    assert content_id("t", one) == content_id("t", other)


@pytest.mark.parametrize(
    ("one", "other"), [(1, "1"), (1, True), (0, None), ([], {}), (0.1, 0.1000000001), ([1, 2], [2, 1])]
)
def test_different_content_has_another_spelling(one: object, other: object) -> None:
    assert content_id("t", one) != content_id("t", other)


def test_the_tag_is_part_of_the_id() -> None:
    assert content_id("cell", 1) != content_id("pair", 1)


def test_ids_stay_the_same_in_every_version() -> None:
    place = Place("mlp_output", 3, None, (4,))
    cell = Cell((CellUnit(place, None, "vanilla", "source", place),), 4)
    assert str(content_id("t", {"a": [1, "é", None, True, 0.5]})) == "95534ba0-ce4c-6e71-f8d8-4fe1a404485b"
    assert str(cell_id('{"ref":"m"}', cell)) == "18111dfa-d153-9120-5e7d-e0bf3b9f2251"


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf]])
def test_what_is_no_number_has_no_id(value: object) -> None:
    with pytest.raises(ValueError, match="has no place in an identity"):
        canonical_json(value)


@pytest.mark.parametrize("value", [{1: 2}, {"a": {1}}, object()])
def test_what_is_no_plain_data_has_no_id(value: object) -> None:
    with pytest.raises(TypeError, match=r"is no (plain data|text)"):
        canonical_json(value)


def test_a_lane_is_what_the_model_is_not_how_it_runs(facts: ModelFacts) -> None:
    spec = ModelSpec(ref="m", options={"seed": 0})
    lane = lane_identity(facts, spec)
    # The options of a built-in model are in its revision, once.
    for same in ({"device": "cuda"}, {"attention": "eager"}, {"trust_remote_code": True}, {"options": {}}):
        assert lane_identity(facts, spec.model_copy(update=same)) == lane
    assert lane_identity(facts, spec.model_copy(update={"ref": "n"})) != lane
    assert lane_identity(replace(facts, revision="def"), spec) != lane
    assert lane_identity(replace(facts, dtype="bfloat16"), spec) != lane
    assert lane_identity(replace(facts, num_parameters=1), spec) == lane


def test_a_lane_whose_missing_weights_are_drawn_is_of_its_seed_and_others_are_called_as_before(
    facts: ModelFacts,
) -> None:
    hashed = replace(facts, revision="a" * 64)
    plain = f'{{"dtype":"float32","options":{{}},"revision":"{"a" * 64}"'
    assert lane_identity(hashed, ModelSpec(ref="m")) == f"{plain}}}"
    drawn = ModelSpec(ref="m", missing_weights="initialise", seed=3)
    start, end = plain.split(',"options"')
    assert lane_identity(hashed, drawn) == (f'{start},"missing_weights":{{"initialise":3}},"options"{end}}}')
    other = drawn.model_copy(update={"seed": 4})
    assert len({lane_identity(facts, spec) for spec in (ModelSpec(ref="m"), drawn, other)}) == 3


def test_a_lane_of_local_files_is_their_contents_wherever_they_lie(facts: ModelFacts) -> None:
    hashed = replace(facts, revision="a" * 64)
    one, other = ModelSpec(ref="/somewhere/m"), ModelSpec(ref="./m")
    assert lane_identity(hashed, one) == lane_identity(hashed, other)
    assert lane_identity(replace(facts, revision="b" * 64), one) != lane_identity(hashed, one)
    commit = replace(facts, revision="a" * 40)
    assert lane_identity(commit, one) != lane_identity(commit, other)


def test_a_pair_is_its_tokens_labels_and_used_spans() -> None:
    def named(**changes: Any) -> Any:
        pair: dict[str, Any] = {
            "tokens": {"base": (1, 2), "source": (1, 3)},
            "label_ids": (5, 4),
            "base_label_ids": (6,),
            "spans": {"base": {"a": (0, 1), "b": (1, 2)}, "source": {"a": (1, 2)}},
            "used_spans": {("base", "a")},
        }
        return pair_id(**{**pair, **changes})

    plain = named()
    assert named(label_ids=(4, 5)) == plain
    assert named(spans={"base": {"a": (0, 1)}}) == plain
    assert named(spans={"base": {"a": (0, 2)}}) != plain
    assert named(used_spans={("base", "*")}) != plain
    assert named(used_spans=set()) != plain
    assert named(tokens={"base": (1, 2), "source": (1, 4)}) != plain
    assert named(label_ids=(4,)) != plain
    assert named(base_label_ids=(5,)) != plain


def test_vectors_are_known_by_their_shape_and_numbers() -> None:
    def named(vectors: Vectors) -> Any:
        return pair_id(tokens={"base": vectors}, label_ids=(), base_label_ids=(), spans={}, used_spans=set())

    one = Vectors.of([[0.5, 1.0], [2.0, 3.0]])
    assert named(one) == named(Vectors.of([[0.5, 1.0], [2.0, 3.0]]))
    assert named(one) != named(Vectors.of([[0.5, 1.0, 2.0, 3.0]]))
    assert named(one) != named(Vectors.of([[0.5, 1.0], [2.0, 3.5]]))


def test_every_cell_has_an_id_of_its_own(facts: ModelFacts) -> None:
    points = expand(load_study("capitals"), facts, PairClass(lengths=(("base", 99), ("source", 99)))).points
    lane = lane_identity(facts, ModelSpec(ref="smollm2-135m"))
    ids = {cell_id(lane, point.cell) for point in points}
    assert len(ids) == len(points) == 30 * 3 * 99


AXES = [
    "site",
    "layer",
    "head",
    "position",
    "subspace",
    "intervention",
    "model",
    "task",
    "variable",
    "read",
    "seed",
    "step",
]
SETTINGS = {
    # Resolved into cells (units, read, seed) and lanes: their effect is identity, their spelling is not.
    "resolved": {*AXES, *(f"{axis}s" for axis in AXES), "coordinates", "from_", "for_", "runs"},
    # Choose which cells and pairs exist.
    "selection": {"where", "missing"},
    "resolved into units": {"alignment"},
}
CLASSIFIED: dict[type, dict[str, set[str]]] = {
    ModelSpec: {
        "identity": {"ref", "revision", "dtype", "missing_weights", "seed"},
        # In the revision of a built-in model.
        "in the revision": {"options"},
        "provenance": {"device", "attention", "trust_remote_code"},
        # Seen in the token ids of pairs.
        "resolved": {"chat"},
    },
    Cell: {"identity": {"units", "read", "runs"}},
    NamedRun: {"identity": {"name", "units"}},
    CellUnit: {
        "identity": {
            *("place", "dims", "operation", "run", "origin"),
            *("fit", "value_fit", "scale", "seed"),
        }
    },
    Place: {"identity": {"site", "layer", "heads", "position", "coordinates"}},
    Pair: {"identity": {"tokens", "spans", "label_ids", "base_label_ids"}, "provenance": {"pair"}},
    Block: {**SETTINGS, "provenance": {"name"}, "units": {"units"}},
    Study: {
        **SETTINGS,
        "resolved into pairs": {"pairs", "label_tokens", "filter"},
        # What is screened runs a part of the cells, each with the id that it has anyway.
        "provenance": {"study", "metrics", "plots", "screen", "require"},
        "blocks": {"sweep"},
        # Cells hold the identity of each fit that they use.
        "resolved into fits": {"fits"},
        # A lane holds the identity of the training that makes its model.
        "resolved into models": {"train"},
        "not run yet": {"generate"},
    },
}


@pytest.mark.parametrize("spec", CLASSIFIED)
def test_every_field_is_said_to_be_identity_or_not(spec: type) -> None:
    """A new field fails here until someone decides whether it changes results."""
    fields = (
        set(spec.model_fields) if issubclass(spec, BaseModel) else {f.name for f in dataclasses.fields(spec)}
    )
    groups = CLASSIFIED[spec].values()
    assert set().union(*groups) == fields
    assert sum(map(len, groups)) == len(fields), "a field stands in two groups"
