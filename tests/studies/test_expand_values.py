"""Promise: noise, fits, named runs and skips in a sweep become the cells that the text says."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

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
from studies.language.fields import Scalar
from studies.language.identity import cell_id
from studies.language.values import MEAN, FitPlace
from studies.load import load_all
from workers.errors import StudyError
from workers.model.facts import ModelFacts
from workers.vocabulary import Cell, CellUnit, NamedRun, Place

FIVE = PairClass(lengths=(("base", 5), ("source", 5)))
ALONE = PairClass(lengths=(("base", 5),), spans=frozenset({("base", "subject")}))
HEAD = "study: x\nmodel: smollm2-135m\npairs: [{base: a, source: b}]\n"
FITS = """fits:
  R: {method: random_rotation, rank: 32, seed: 0}
  das: {method: das, ranks: [1, 2]}
  v: {method: mean_difference}
  mu: {method: mean, of: source, per: [template, position]}
"""
PLACE = "site: block_output, layer: 0, position: 0"


class Names:
    """Fits whose identity is their name, with all calls noted."""

    def __init__(self, axes: Mapping[str, Mapping[str, tuple[Scalar, ...]]] | None = None) -> None:
        self.places: list[tuple[str, FitPlace]] = []
        self.points: list[Mapping[str, object]] = []
        self._axes = axes or {}

    def axes(self, name: str) -> Mapping[str, tuple[Scalar, ...]]:
        return self._axes.get(name, {})

    def identity(self, name: str, place: FitPlace, names: Mapping[str, object]) -> str:
        self.places.append((name, place))
        self.points.append(names)
        rank = names.get("rank")
        return name if rank is None else f"{name} of rank {rank}"


def study(text: str) -> Study:
    return load_study(f"{HEAD}{FITS}sweep:\n  - {text}\n")


def run(text: str, facts: ModelFacts, kind: PairClass = FIVE, fits: Names | None = None) -> list[Point]:
    return expand(study(text), facts, kind, fits=fits or Names()).points


def only(text: str, facts: ModelFacts, kind: PairClass = FIVE, fits: Names | None = None) -> Cell:
    (point,) = run(text, facts, kind, fits)
    return point.cell


def example(name: str) -> Study:
    text = (Path(__file__).parent / "examples.yaml").read_text(encoding="utf-8")
    (found,) = [study for study in load_all(text) if study.study == name]
    return found


def test_noise_holds_its_scale_and_seed_and_is_taken_from_no_run(facts: ModelFacts) -> None:
    text = "{site: block_input, layer: 0, position: subject, intervention: add, from: {noise: 3.0}, seed: 7}"
    (unit,) = only(text, facts, ALONE).units
    place = Place("block_input", 0, None, ("subject",))
    assert unit == CellUnit(place, None, "add", "noise", None, scale=3, seed=7)


def test_a_seed_is_an_axis_that_counts_only_where_something_draws(facts: ModelFacts) -> None:
    noisy = run(f"{{{PLACE}, from: {{noise: 1}}, seeds: [0, 1]}}", facts)
    assert [point.cell.units[0].seed for point in noisy] == [0, 1]
    plain = run(f"{{{PLACE}, seeds: [0, 1]}}", facts)
    assert len(plain) == 2
    assert plain[0].cell == plain[1].cell


def test_the_scale_of_noise_and_of_a_vector_may_be_an_axis(facts: ModelFacts) -> None:
    noisy = run(f"{{{PLACE}, from: {{noise: $s}}, seed: 0, for: {{s: [1, 2.5]}}}}", facts)
    assert [point.cell.units[0].scale for point in noisy] == [1, 2.5]
    steered = run(f"{{{PLACE}, from: {{fit: v, scale: $a}}, for: {{a: [-4, 1.0]}}}}", facts)
    assert [point.cell.units[0].scale for point in steered] == [-4, None]
    assert only(f"{{{PLACE}, from: v}}", facts) == steered[1].cell


def test_a_fits_vector_is_made_at_the_units_place_as_written(facts: ModelFacts) -> None:
    names = Names()
    text = "{site: attention_value_output, layer: 3, head: [2, 1], position: [-1, all], from: mu}"
    with pytest.raises(StudyError, match="name one token twice"):
        run(text, facts, fits=names)
    (unit,) = only(text.replace("[-1, all]", "-1"), facts, fits=names).units
    place = Place("attention_value_output", 3, (1, 2), (4,))
    assert unit == CellUnit(place, None, "vanilla", "fit", None, value_fit="mu")
    made = FitPlace(site="attention_value_output", layer=3, heads=(1, 2), position=(-1,), read=-1)
    assert names.places == [("mu", made)]


def test_a_vector_may_be_made_elsewhere(facts: ModelFacts) -> None:
    names = Names()
    text = f"{{{PLACE}, from: {{run: v, layer: 9, position: subject.last}}}}"
    (unit,) = only(text, facts, replace(FIVE, spans=ALONE.spans), names).units
    assert (unit.place.layer, unit.place.position, unit.origin) == (0, (0,), None)
    made = FitPlace(site="block_output", layer=9, heads=None, position=("subject.last",), read=-1)
    assert names.places == [("v", made)]


def test_the_mean_needs_no_name(facts: ModelFacts) -> None:
    (unit,) = only(f"{{{PLACE}, from: mean}}", facts).units
    assert (unit.run, unit.value_fit) == ("fit", MEAN)


def test_coordinates_of_a_fit_and_parts_of_them(facts: ModelFacts) -> None:
    points = run(f'{{{PLACE}, subspaces: [R, "R[0:16]", ["R[0:4]", "R[4:6]"], all, "0:2"]}}', facts)
    units = [point.cell.units[0] for point in points]
    assert [(unit.fit, unit.dims) for unit in units] == [
        ("R", None),
        ("R", ((0, 16),)),
        ("R", ((0, 6),)),
        (None, None),
        (None, ((0, 2),)),
    ]


def test_a_rotation_and_a_vector_in_it(facts: ModelFacts) -> None:
    (unit,) = only(f'{{{PLACE}, subspace: "R[0:2]", from: v}}', facts).units
    assert (unit.fit, unit.dims, unit.run, unit.value_fit) == ("R", ((0, 2),), "fit", "v")


def test_what_a_fit_varies_is_an_axis_of_the_cells_that_use_it(facts: ModelFacts) -> None:
    points = run(f"{{{PLACE}, subspaces: [all, das]}}", facts, fits=Names({"das": {"rank": (1, 2)}}))
    assert [(point.axes["subspace"], point.axes["rank"], point.cell.units[0].fit) for point in points] == [
        ("all", None, None),
        ("das", 1, "das of rank 1"),
        ("das", 2, "das of rank 2"),
    ]


def test_an_axis_is_not_said_twice(facts: ModelFacts) -> None:
    names = Names({"das": {"seed": (0, 1)}})
    with pytest.raises(StudyError, match="block0: the fit 'das' has values for 'seed' and so has the block"):
        run(f"{{{PLACE}, subspace: das, seeds: [3, 4]}}", facts, fits=names)


def test_a_fit_knows_the_names_at_the_point_and_what_it_is_made_per(facts: ModelFacts) -> None:
    text = "{site: block_output, layers: [3, 4], position: 0, from: mu, seed: 5}"
    assert referenced_columns(study(text)) == {"template"}
    names = Names()
    run(text, facts, replace(FIVE, columns=(("template", "ABBA"),)), names)
    assert [point["layer"] for point in names.points] == [3, 4]
    assert {(point["seed"], point["pair.template"]) for point in names.points} == {(5, "ABBA")}


RUNS = """layers: [2, 3]
    position: all
    runs:
      unused: [{site: mlp_output, layer: 1}]
      first: [{site: mlp_output, layer: $layer, from: source}]
      sent: [{site: block_output, layer: 0, from: first}, {site: block_output, layer: 1, from: base}]
    units: [{site: query_output, layer: 9, head: [6, 2], position: -1, from: sent}]"""


def test_a_cell_holds_the_runs_that_it_needs_in_order(facts: ModelFacts) -> None:
    cell = run(RUNS, facts)[1].cell
    every = (0, 1, 2, 3, 4)

    def swap(site: str, layer: int, run: str) -> CellUnit:
        place = Place(site, layer, None, every)
        return CellUnit(place, None, "vanilla", run, place)

    query = Place("query_output", 9, (2, 6), (4,))
    assert cell.units == (CellUnit(query, None, "vanilla", "sent", query),)
    assert cell.runs == (
        NamedRun("first", (swap("mlp_output", 3, "source"),)),
        NamedRun("sent", (swap("block_output", 0, "first"), swap("block_output", 1, "base"))),
    )
    assert cell == Cell.from_json(cell.to_json())
    assert cell_id("{}", cell) != cell_id("{}", replace(cell, runs=cell.runs[1:]))


def test_the_units_of_a_run_take_the_blocks_place_and_nothing_else(facts: ModelFacts) -> None:
    text = f"""{{{PLACE}, intervention: add, subspace: "0:4", from: sent, runs: {{sent: [{{layer: 1}}]}}}}"""
    cell = only(text, facts)
    place = Place("block_output", 1, None, (0,))
    assert cell.runs == (NamedRun("sent", (CellUnit(place, None, "vanilla", "source", place),)),)
    assert (cell.units[0].operation, cell.units[0].run) == ("add", "sent")


def test_a_run_may_be_one_value_of_an_axis(facts: ModelFacts) -> None:
    runs = "{sent: [{site: mlp_output, from: zero}]}"
    plain, sent = run(f"{{{PLACE}, from: $whose, for: {{whose: [source, sent]}}, runs: {runs}}}", facts)
    assert (plain.cell.runs, len(sent.cell.runs)) == ((), 1)
    assert [plain.axes["from"], sent.axes["from"]] == ["source", "sent"]


def test_a_run_is_of_the_base_and_has_its_tokens_and_spans(facts: ModelFacts) -> None:
    uneven = PairClass(lengths=(("base", 5), ("source", 9)), spans=frozenset({("base", "a")}))
    text = "{site: block_output, layer: 0, positions: [all, a.last, b], from: sent, missing: skip, "
    text += "runs: {sent: [{position: 0, from: zero}]}}"
    expansion: Expansion = expand(study(text), facts, uneven, fits=Names())
    positions = [
        point.cell.units[0].origin and point.cell.units[0].origin.position for point in expansion.points
    ]
    assert positions == [(0, 1, 2, 3, 4), ("a.last",)]
    assert expansion.missing == [Missing("block0", "b", "base", skip=True)]
    assert used_spans(study(text)) == {("base", "a"), ("base", "b")}


def test_a_skip_writes_no_value(facts: ModelFacts) -> None:
    (unit,) = only(f"{{{PLACE}, intervention: skip}}", facts, ALONE).units
    assert unit == CellUnit(Place("block_output", 0, None, (0,)), None, "skip", "zero", None)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("position: a, from: v", {("base", "a"), ("source", "a")}),
        ("position: a, from: {fit: v}", {("base", "a"), ("source", "a")}),
        ("position: a, from: mean", {("base", "a"), ("source", "a")}),
        ("position: a, from: {noise: 1}, seed: 0", {("base", "a")}),
        ("position: 0, from: s, runs: {s: [{position: b, from: base}]}", {("base", "b")}),
    ],
)
def test_the_spans_that_matter_are_known(text: str, spans: set[tuple[str, str]]) -> None:
    assert used_spans(study(f"{{site: block_output, layer: 0, {text}}}")) == spans


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{{{PLACE}, from: {{noise: 3}}}}",
            "noise is drawn, and nothing says from which seed; write seed: 0",
        ),
        (f"{{{PLACE}, from: R}}", "the fit 'R' (random_rotation) is no vector; values are fits of mean"),
        (f"{{{PLACE}, from: {{fit: das}}}}", "the fit 'das' (das) is no vector"),
        (f"{{{PLACE}, subspace: mu}}", "the fit 'mu' is a mean, which has no coordinates; write 'from: mu'"),
        (
            f"{{{PLACE}, runs: {{a: []}}}}",
            "runs.a: [] is not allowed here; allowed: a list that is not empty",
        ),
        (f"{{{PLACE}, runs: {{noise: [{{layer: 1}}]}}}}", "'noise' says where a value comes from already"),
        (f"{{{PLACE}, runs: {{source_3: [{{layer: 1}}]}}}}", "'source_3' says where a value comes from"),
        (f"{{{PLACE}, runs: {{v: [{{layer: 1}}]}}}}", "'v' is a fit, too; give the run a name of its own"),
        (f"{{{PLACE}, runs: {{a: [{{from: a}}]}}}}", "the run 'a' is not there yet; runs listed before"),
        (f"{{{PLACE}, runs: {{a: [{{from: b}}], b: [{{layer: 1}}]}}}}", "the run 'b' is not there yet"),
        (
            "{units: [{site: block_output, layer: 0, position: 0}], runs: {a: [{site: mlp_output}]}}",
            "'layer' or",
        ),
        (f"{{{PLACE}, from: sentt, runs: {{sent: [{{layer: 1}}]}}}}", "did you mean 'sent'"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        study(text)
    assert message in str(caught.value)
    assert str(caught.value).startswith("<text>:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'{{{PLACE}, subspace: ["R[0:2]", "0:4"]}}', "mixes fits, or a fit and dimensions"),
        (f"{{{PLACE}, from: {{noise: -1}}, seed: 0}}", "noise of -1 standard deviations"),
        (f"{{{PLACE}, from: {{fit: v, scale: $a}}, for: {{a: [x]}}}}", "'x' is no number"),
    ],
)
def test_what_no_class_can_have_is_named_with_its_block(text: str, message: str, facts: ModelFacts) -> None:
    with pytest.raises(StudyError) as caught:
        run(text, facts)
    assert message in str(caught.value)
    assert str(caught.value).startswith("block0: ")


def test_causal_tracing_corrupts_and_restores(facts: ModelFacts) -> None:
    points = expand(example("causal-tracing"), facts, ALONE).points
    assert [point.block for point in points].count("corrupted") == 10
    assert len(points) == 10 + 3 * 30 * 5 * 10
    last = points[-1].cell
    assert [unit.run for unit in last.units] == ["noise", *["base"] * 6]
    assert len({cell_id("{}", point.cell) for point in points}) == len(points)


def test_path_patching_by_head_has_a_cell_for_each_head_of_both_blocks(facts: ModelFacts) -> None:
    gpt2 = replace(facts, ref="gpt2", num_layers=12, num_heads=12, num_kv_heads=12)
    points = expand(example("ioi-paths"), gpt2, FIVE).points
    assert len(points) == 12 * 12 + 9 * 12
    cell = points[-1].cell
    (sent,) = cell.runs
    assert len(sent.units) == 9 + 1
    assert sent.units[-1].place == Place("attention_value_output", 8, (11,), (0, 1, 2, 3, 4))
    assert cell.units[0].place == Place("query_output", 9, (6, 9), (4,))


def test_mean_ablation_has_a_fit_for_each_head_and_one_for_the_set(facts: ModelFacts) -> None:
    gpt2 = replace(facts, ref="gpt2", num_layers=12, num_heads=12, num_kv_heads=12)
    names = Names()
    kind = replace(FIVE, columns=(("template", 0),))
    points = expand(example("mean-heads"), gpt2, kind, fits=names).points
    assert len(points) == 12 * 12 + 1
    assert len({place for _, place in names.places}) == 12 * 12 + 1
    assert {place.position for _, place in names.places} == {("all",)}


def test_steering_has_a_cell_for_each_layer_and_scale_and_ablation_for_each_part(facts: ModelFacts) -> None:
    points = expand(example("steer"), facts, FIVE, fits=Names()).points
    assert len(points) == 30 * 4 + 30 * 2
    assert {point.cell.units[0].scale for point in points[: 30 * 4]} == {-8, -4, 4, 8}
