"""Promise: a cell of a variable is about the pairs with that variable's label, at the variable's place."""

from typing import Any

import pytest

from studies import load_study
from studies.language.expand import PairClass, expand, referenced_columns, used_spans
from studies.language.variables import per_variable
from workers.errors import StudyError
from workers.model.facts import ModelFacts

HEAD = "study: x\nmodel: smollm2-135m\npairs: pairs.csv\n"
ALIGNED = """alignment:
  x: {site: block_output, layer: 3, position: subject, subspace: "0:16"}
  S: {site: mlp_output, layer: 5, position: -1}
"""
ROWS: list[dict[str, Any]] = [
    {"base": "a", "label.x": " 1", "label.S": " 2", "label.x+S": " 3", "label": " 4"},
    {"base": "b", "label.S": " 5"},
]
PLACE = "site: block_output, layer: 0, position: -1"


def given_rows(sweep: str, head: str = HEAD) -> list[tuple[Any, ...]]:
    rows = per_variable(load_study(f"{head}sweep: [{sweep}]"), ROWS)
    return [(row["base"], row.get("variable"), row.get("label")) for row in rows]


def test_a_pair_is_given_once_for_each_variable_with_its_label() -> None:
    assert given_rows(f"{{{PLACE}, variables: [x, S]}}") == [
        ("a", "x", " 1"),
        ("a", "S", " 2"),
        ("b", "S", " 5"),
    ]


def test_a_list_in_the_singular_is_a_set_of_variables() -> None:
    assert given_rows(f"{{{PLACE}, variable: [x, S]}}") == [("a", "x+S", " 3")]
    assert given_rows(f"{{{PLACE}, variables: [x, [x, S]]}}") == [("a", "x", " 1"), ("a", "x+S", " 3")]


def test_all_are_those_with_labels_or_those_of_the_alignment() -> None:
    assert [name for _, name, _ in given_rows(f"{{{PLACE}, variables: all}}")] == ["x", "S", "x+S", "S"]
    assert [name for _, name, _ in given_rows("{variables: all}", HEAD + ALIGNED)] == ["x", "S", "S"]


def test_a_block_without_variables_has_the_pairs_as_they_are() -> None:
    plain = f"{{{PLACE}}}"
    assert given_rows(plain) == [("a", None, " 4"), ("b", None, None)]
    assert given_rows(f"{plain}, {{{PLACE}, variable: x}}") == [
        ("a", None, " 4"),
        ("a", "x", " 1"),
        ("b", None, None),
    ]
    assert given_rows(f"{{{PLACE}, variable: label}}") == [("a", "label", " 4")]


def test_the_unit_of_a_variable_is_its_place(facts: ModelFacts) -> None:
    study = load_study(f"{HEAD}{ALIGNED}sweep: [{{variables: all}}, {{variable: [x, S]}}, {{{PLACE}}}]")
    assert referenced_columns(study) == {"variable"}
    assert used_spans(study) == {("base", "subject"), ("source", "subject")}
    spans = frozenset((run, "subject") for run in ("base", "source"))
    found = {}
    for variable in ("x", "x+S", None):
        kind = PairClass(lengths=(("base", 5), ("source", 5)), spans=spans, columns=(("variable", variable),))
        found[variable] = [
            [(unit.place.layer, unit.place.position, unit.dims) for unit in point.cell.units]
            for point in expand(study, facts, kind).points
        ]
    at_x, at_s = (3, ("subject",), ((0, 16),)), (5, (4,), None)
    assert found == {"x": [[at_x]], "x+S": [[at_x, at_s]], None: [[(0, (4,), None)]]}


def test_a_block_may_have_an_alignment_of_its_own(facts: ModelFacts) -> None:
    own = "alignment: {x: {site: mlp_output, layer: 4}}"
    study = load_study(f"{HEAD}{ALIGNED}sweep: [{{variables: all}}, {{variables: all, {own}}}]")
    assert load_study(study.to_yaml()) == study
    lengths, spans = (("base", 5), ("source", 5)), frozenset((run, "subject") for run in ("base", "source"))
    kinds = [PairClass(lengths=lengths, spans=spans, columns=(("variable", name),)) for name in ("x", "S")]
    found = [
        [(point.block, point.cell.units[0].place.layer) for point in expand(study, facts, kind).points]
        for kind in kinds
    ]
    assert found == [[("block0", 3), ("block1", 4)], [("block0", 5)]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{HEAD}{ALIGNED}sweep: [{{variable: S, alignment: {{x: {{site: mlp_output, layer: 4}}}}}}]",
            "sweep[0].variables: the alignment has no 'S'; allowed: all, x",
        ),
        (f"{HEAD}sweep: [{{{PLACE}, variable: y}}]", "no pair has a 'label.y', which the variable 'y' needs"),
        (f"{HEAD}{ALIGNED}sweep: [{{variables: [x, T]}}]", "the alignment has no 'T'; allowed: all, x, S"),
        (f"{HEAD}{ALIGNED}sweep: [{{variables: all, layers: all}}]", "leave 'layers' out, or write a site"),
        (f"{HEAD}alignment: {{x: {{layer: 0}}}}\nsweep: [{{variable: x}}]", "the key 'site' is missing"),
        (f"{HEAD}alignment: {{x: {{site: mlp_output}}}}\nsweep: [{{variable: x}}]", "the key 'layer'"),
    ],
)
def test_what_cannot_be_is_told(text: str, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        per_variable(load_study(text), ROWS)
    assert message in str(caught.value)


def test_a_column_of_that_name_is_not_overwritten() -> None:
    with pytest.raises(StudyError, match="the pairs have a column 'variable'"):
        per_variable(load_study(f"{HEAD}sweep: [{{{PLACE}, variable: x}}]"), [{**ROWS[0], "variable": 1}])


def test_a_block_that_says_a_site_is_about_that(facts: ModelFacts) -> None:
    sweep = "{variables: [x, S], site: mlp_output, layers: [0, 1], position: -1}"
    study = load_study(f"{HEAD}{ALIGNED}sweep: [{sweep}]")
    kind = PairClass(lengths=(("base", 5), ("source", 5)), columns=(("variable", "S"),))
    points = expand(study, facts, kind).points
    assert [(p.axes["variable"], p.axes["layer"], p.cell.units[0].place.layer) for p in points] == [
        ("S", 0, 0),
        ("S", 1, 1),
    ]
