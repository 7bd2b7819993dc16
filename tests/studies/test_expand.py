"""Promise: a sweep expands to exactly the cells that its text says, each resolved for a class of pairs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies import Study, load_study
from studies.language.expand import (
    Expansion,
    Missing,
    PairClass,
    Point,
    expand,
    referenced_columns,
    used_spans,
)
from workers.errors import StudyError
from workers.model.facts import ModelFacts
from workers.vocabulary import Cell, CellUnit, Place

FIVE = PairClass(lengths=(("base", 5), ("source", 5)))
UNEVEN = PairClass(
    lengths=(("base", 5), ("source", 7)),
    spans=frozenset({("base", "a"), ("base", "b"), ("source", "a"), ("source", "b")}),
)
HEAD = "study: x\nmodel: smollm2-135m\ntask: {name: capitals, num_pairs: 4, seed: 0}\n"


def study(sweep: str, head: str = HEAD) -> Study:
    return load_study(f"{head}sweep:\n  - {sweep}\n")


def run(sweep: str, facts: ModelFacts, pair_class: PairClass = FIVE) -> Expansion:
    return expand(study(sweep), facts, pair_class)


def cells(sweep: str, facts: ModelFacts, pair_class: PairClass = FIVE) -> list[Cell]:
    return [point.cell for point in run(sweep, facts, pair_class).points]


def only(sweep: str, facts: ModelFacts, pair_class: PairClass = FIVE) -> tuple[CellUnit, ...]:
    (cell,) = cells(sweep, facts, pair_class)
    return cell.units


def test_capitals_has_a_cell_for_each_component_layer_and_token(facts: ModelFacts) -> None:
    points = expand(load_study("capitals"), facts, FIVE).points
    assert len(points) == 3 * 30 * 5
    place = Place("mlp_output", 0, None, (0,))
    assert points[0] == Point(
        block="block0",
        index=0,
        axes={"model": "smollm2-135m", "task": "capitals", "site": "mlp_output", "layer": 0, "position": 0},
        cell=Cell(units=(CellUnit(place, None, "vanilla", "source", place),), read=4),
    )
    assert len({point.cell for point in points}) == 450


def test_factual_recall_has_300_cells(facts: ModelFacts) -> None:
    assert len(cells("{sites: [mlp_output, attention_input], layers: all, positions: all}", facts)) == 300


def test_a_singular_all_is_one_cell(facts: ModelFacts) -> None:
    (unit,) = only("{site: block_output, layer: 3, position: all}", facts)
    assert unit.place.position == (0, 1, 2, 3, 4)


def test_several_layers_at_once_are_several_units(facts: ModelFacts) -> None:
    units = only('{site: [mlp_output, attention_output], layer: "8:10", position: 0}', facts)
    assert [(unit.place.site, unit.place.layer) for unit in units] == [
        ("mlp_output", 8),
        ("mlp_output", 9),
        ("attention_output", 8),
        ("attention_output", 9),
    ]


def test_a_layer_range_is_an_axis(facts: ModelFacts) -> None:
    points = run('{site: block_output, layers: "8:18", position: 0}', facts).points
    assert [point.axes["layer"] for point in points] == list(range(8, 18))


def test_a_negative_position_counts_from_each_runs_own_end(facts: ModelFacts) -> None:
    (unit,) = only("{site: block_output, layer: 0, position: -2}", facts, UNEVEN)
    assert unit.place.position == (3,)
    assert unit.origin == Place("block_output", 0, None, (5,))


def test_minus_one_and_four_are_one_cell_of_five_tokens(facts: ModelFacts) -> None:
    points = run("{site: block_output, layer: 0, positions: [-1, 4]}", facts).points
    assert points[0].cell == points[1].cell
    assert [point.axes["position"] for point in points] == [-1, 4]


@pytest.mark.parametrize("positions", ["positions: all", "position: all", 'position: "1:"'])
def test_all_with_another_prompts_values_needs_equal_counts(positions: str, facts: ModelFacts) -> None:
    with pytest.raises(StudyError, match=r"block0: position all .* base has 5 and source 7; name spans"):
        run(f"{{site: block_output, layer: 0, {positions}}}", facts, UNEVEN)


@pytest.mark.parametrize("value", ["base", "zero", "{run: source, position: 3}"])
def test_all_needs_no_equal_counts_where_nothing_is_aligned(value: str, facts: ModelFacts) -> None:
    sweep = f"{{site: block_output, layer: 0, positions: all, from: {value}}}"
    assert len(cells(sweep, facts, UNEVEN)) == 5


def test_zero_has_no_origin(facts: ModelFacts) -> None:
    (unit,) = only("{site: block_output, layer: 0, position: [3, 1], from: zero}", facts)
    assert (unit.run, unit.origin, unit.place.position) == ("zero", None, (1, 3))


def test_every_span_is_a_cell_and_stays_a_reference(facts: ModelFacts) -> None:
    points = run("{site: block_output, layer: 0, positions: spans.last}", facts, UNEVEN).points
    assert [point.cell.units[0].place.position for point in points] == [("a.last",), ("b.last",)]
    assert [point.axes["position"] for point in points] == ["a.last", "b.last"]


def test_one_token_of_a_span_has_one_spelling(facts: ModelFacts) -> None:
    first, last = cells('{site: block_output, layer: 0, positions: ["a[0]", "a[-1]"]}', facts, UNEVEN)
    assert (first.units[0].place.position, last.units[0].place.position) == (("a.first",), ("a.last",))


def test_an_explicit_position_that_the_class_lacks_is_told_once(facts: ModelFacts) -> None:
    expansion = run("{site: block_output, layers: all, positions: [0, 9], missing: skip}", facts)
    assert len(expansion.points) == 30
    assert expansion.missing == [Missing("block0", 9, "base", skip=True)]


def test_a_span_that_only_the_source_lacks_is_told(facts: ModelFacts) -> None:
    lacking = replace(UNEVEN, spans=frozenset({("base", "a")}))
    expansion = run("{site: block_output, layer: 0, position: a.last}", facts, lacking)
    assert expansion.points == []
    assert expansion.missing == [Missing("block0", "a.last", "source", skip=False)]


def test_a_run_that_the_class_lacks_is_told_once(facts: ModelFacts) -> None:
    expansion = run("{site: block_output, layers: all, positions: all, from: source_2, missing: skip}", facts)
    assert expansion == Expansion([], [Missing("block0", None, "source_2", skip=True)])


def test_heads_all_follows_the_sites_own_count(facts: ModelFacts) -> None:
    sweep = "{sites: [query_output, key_output], layer: 0, heads: all, position: 0}"
    assert len(cells(sweep, facts)) == 9 + 3


def test_heads_at_once_lie_in_one_place(facts: ModelFacts) -> None:
    (unit,) = only("{site: query_output, layer: 0, head: [6, 2], position: 0}", facts)
    assert unit.place.heads == (2, 6)


def test_heads_are_zipped_with_the_sources(facts: ModelFacts) -> None:
    sweep = "{site: query_output, layer: 0, head: [6, 2], position: 0, from: {run: source, head: [1, 1]}}"
    (unit,) = only(sweep, facts)
    assert (unit.place.heads, unit.origin and unit.origin.heads) == ((2, 6), (1, 1))


def test_lists_on_an_axis_are_at_once_and_shown_as_json(facts: ModelFacts) -> None:
    points = run("{site: query_output, layer: 0, heads: [[0, 1], 2], position: 0}", facts).points
    assert [point.cell.units[0].place.heads for point in points] == [(0, 1), (2,)]
    assert [point.axes["head"] for point in points] == ["[0, 1]", 2]


def test_path_patching_freezes_what_lies_behind_a_head(facts: ModelFacts) -> None:
    sweep = """position: all
    layers: all
    heads: all
    units:
      - {site: attention_output, layer: "$layer+1:", from: base}
      - {site: mlp_output, layer: "$layer:", from: base}
      - {site: attention_value_output, layer: $layer, head: $head}"""
    points = run(sweep, facts).points
    assert len(points) == 30 * 9
    last = points[-1]
    # Behind the last layer there is no attention: that unit is dropped.
    assert [(u.place.site, u.place.layer) for u in last.cell.units] == [
        ("mlp_output", 29),
        ("attention_value_output", 29),
    ]
    assert len(points[0].cell.units) == 29 + 30 + 1
    assert last.axes == {
        "model": "smollm2-135m",
        "task": "capitals",
        "layer": 29,
        "head": 8,
        "position": "all",
    }


def test_computed_ranges_clip_at_both_ends(facts: ModelFacts) -> None:
    sweep = """positions: [0]
    layers: [0, 29]
    for: {a: [3]}
    units: [{site: block_output, layer: "$layer-$a:$layer+$a", position: $position, from: base}]"""
    first, last = cells(sweep, facts)
    assert [unit.place.layer for unit in first.units] == [0, 1, 2]
    assert [unit.place.layer for unit in last.units] == [26, 27, 28, 29]


def test_a_position_from_the_end_can_be_counted_on(facts: ModelFacts) -> None:
    sweep = """positions: [-2]
    units: [{site: block_output, layer: 0, position: $position+1}]"""
    (unit,) = only(sweep, facts, UNEVEN)
    assert (unit.place.position, unit.origin and unit.origin.position) == ((4,), (6,))


def test_zipped_lists_pair_base_and_source_positions(facts: ModelFacts) -> None:
    sweep = """site: block_output
    layer: 0
    for: [{to: [4, 0], at: [1, 3]}, {to: 2, at: 0}]
    position: $to
    from: {run: source, position: $at}"""
    points = run(sweep, facts).points
    unit = points[0].cell.units[0]
    assert (unit.place.position, unit.origin and unit.origin.position) == ((0, 4), (3, 1))
    assert points[0].axes["to"] == "[4, 0]"
    assert points[0].axes["from"] == "source"
    assert points[1].axes["position"] == 2


def test_a_for_map_is_a_product(facts: ModelFacts) -> None:
    sweep = "{site: block_output, layer: $a, position: $b, for: {a: [0, 1, 2], b: [0, 1]}}"
    assert len(cells(sweep, facts)) == 6


def test_units_take_values_from_the_source_that_an_axis_names(facts: ModelFacts) -> None:
    three = PairClass(lengths=(("base", 5), ("source", 5), ("source_2", 5)))
    sweep = """site: block_output
    layer: 0
    position: 0
    for: {second: [source, source_2]}
    units: [{subspace: "16:32"}, {subspace: "0:16", from: $second}]"""
    found = cells(sweep, facts, three)
    assert [[unit.run for unit in cell.units] for cell in found] == [
        ["source", "source"],
        ["source", "source_2"],
    ]
    assert [unit.dims for unit in found[0].units] == [((16, 32),), ((0, 16),)]


def test_dimensions_at_once_are_joined(facts: ModelFacts) -> None:
    (unit,) = only('{site: block_output, layer: 0, position: 0, subspace: ["8:16", "0:8", "20:24"]}', facts)
    assert unit.dims == ((0, 16), (20, 24))


def test_the_value_may_come_from_another_place(facts: ModelFacts) -> None:
    (unit,) = only(
        "{site: mlp_output, layer: 5, position: 1, from: {run: base, site: attention_output, layer: 3}}",
        facts,
    )
    assert unit.origin == Place("attention_output", 3, None, (1,))


def test_a_pairs_column_gives_a_position(facts: ModelFacts) -> None:
    sweep = "{site: block_output, layer: 0, position: $pair.verb}"
    assert referenced_columns(study(sweep)) == {"verb"}
    found = expand(study(sweep), facts, replace(FIVE, columns=(("verb", 3),))).points
    assert found[0].cell.units[0].place.position == (3,)
    assert "position" not in found[0].axes


def test_reads_are_where_they_are_said_to_be(facts: ModelFacts) -> None:
    found = cells("{site: block_output, layer: 0, position: 0, reads: [-1, 2, a.last]}", facts, UNEVEN)
    assert [cell.read for cell in found] == [4, 2, "a.last"]


def test_blocks_that_are_not_about_the_class_are_left_out(facts: ModelFacts) -> None:
    two = load_study(
        HEAD + "sweep:\n  - {site: block_output, layer: 0, position: 0}\n"
        "  - {name: b, site: block_output, layers: all, position: 0}\n"
    )
    points = expand(two, facts, replace(FIVE, blocks=frozenset({1}))).points
    assert {(point.block, point.index) for point in points} == {("b", 1)}


def test_a_study_of_several_models_expands_one_at_a_time(facts: ModelFacts) -> None:
    head = "study: x\nmodels: [smollm2-135m, gpt2]\npairs: [{base: a, source: b}]\n"
    two = study("{site: block_output, layers: all, position: 0}", head)
    assert {point.axes["model"] for point in expand(two, facts, FIVE).points} == {"smollm2-135m"}
    gpt2 = replace(facts, ref="gpt2", num_layers=12)
    assert len(expand(two, gpt2, FIVE, two.lanes()[1]).points) == 12


def test_a_study_of_several_tasks_takes_the_classes_own(facts: ModelFacts) -> None:
    several = study(
        "{site: block_output, layer: 0, position: 0}", "study: x\nmodel: smollm2-135m\ntasks: [a, b]\n"
    )
    assert referenced_columns(several) == {"task"}
    (point,) = expand(several, facts, replace(FIVE, columns=(("task", "b"),))).points
    assert point.axes["task"] == "b"


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (
            "{site: block_output, layer: 30, position: 0}",
            "block0: layer 30 is not there; the model has layers 0 to 29",
        ),
        (
            "{site: key_output, layer: 0, head: 3, position: 0}",
            "head 3 is not there; the model has heads 0 to 2",
        ),
        ("{site: mlp_output, layer: 0, head: 0, position: 0}", "the site 'mlp_output' has no heads"),
        ("{sites: [mlp_output], layer: 0, heads: all, position: 0}", "heads all needs sites that have heads"),
        ("{site: block_output, layer: 0, position: [4, -1]}", "name one token twice"),
        (
            "{site: block_output, layer: 0, position: [0, 1], from: {run: source, position: [0, 1, 2]}}",
            "2 positions take values from 3; lists are zipped",
        ),
        (
            '{site: block_output, layer: "0:3", position: 0, from: {run: source, layer: [0, 1]}}',
            "from names 2 places for 3",
        ),
    ],
)
def test_what_cannot_be_is_named_with_its_block(sweep: str, message: str, facts: ModelFacts) -> None:
    with pytest.raises(StudyError) as caught:
        run(sweep, facts)
    assert message in str(caught.value)
    assert str(caught.value).startswith("block0: ")


@pytest.mark.parametrize(
    ("sweep", "spans"),
    [
        ("{site: block_output, layer: 0, position: 0}", set()),
        ("{site: block_output, layer: 0, position: a.last}", {("base", "a"), ("source", "a")}),
        ("{site: block_output, layer: 0, position: a.last, from: zero}", {("base", "a")}),
        ("{site: block_output, layer: 0, positions: spans.last, from: base}", {("base", "*")}),
        (
            "{site: block_output, layer: 0, position: a.last, from: {run: source_2, position: b}}",
            {("base", "a"), ("source_2", "b")},
        ),
        (
            "{site: block_output, layer: 0, positions: [a, 1], from: base, read: c.last}",
            {("base", "a"), ("base", "c")},
        ),
        (
            "{site: block_output, layer: 0, position: $at, from: base, for: {at: [a, b]}}",
            {("base", "a"), ("base", "b")},
        ),
    ],
)
def test_the_spans_that_matter_are_known(sweep: str, spans: set[tuple[str, str]]) -> None:
    assert used_spans(study(sweep)) == spans


@given(
    layers=st.lists(st.integers(0, 29), min_size=1, max_size=5, unique=True),
    num_tokens=st.integers(1, 9),
    sites=st.lists(st.sampled_from(["mlp_output", "block_output", "query_output"]), min_size=1, unique=True),
)
def test_a_product_has_as_many_cells_as_its_axes_multiply_to(
    facts: ModelFacts, layers: list[int], num_tokens: int, sites: list[str]
) -> None:
    built = study(f"{{sites: {sites}, layers: {layers}, positions: all}}")
    points = expand(built, facts, PairClass(lengths=(("base", num_tokens), ("source", num_tokens)))).points
    assert len(points) == len({point.cell for point in points}) == len(layers) * num_tokens * len(sites)
    assert all(point.cell.read == num_tokens - 1 for point in points)


@given(layer=st.integers(0, 29), below=st.integers(0, 40), above=st.integers(0, 40))
def test_a_computed_range_is_the_clipped_one(facts: ModelFacts, layer: int, below: int, above: int) -> None:
    built = study(
        f"""layers: [{layer}]
    units: [{{site: block_output, layer: "$layer-{below}:$layer+{above}", position: 0}}]"""
    )
    found = [u.place.layer for p in expand(built, facts, FIVE).points for u in p.cell.units]
    assert found == [n for n in range(30) if layer - below <= n < layer + above]
