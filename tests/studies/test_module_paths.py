"""Promise: a module path is a site like any other, alone, on an axis, and beside sites with names."""

import pytest

from studies import load_study
from studies.language.expand import PairClass, Point, expand
from workers.model.facts import ModelFacts
from workers.vocabulary import Cell

FIVE = PairClass(lengths=(("base", 5), ("source", 5)))
HEAD = "study: x\nmodel: smollm2-135m\ntask: {name: capitals, num_pairs: 4, seed: 0}\n"


def points_of(sweep: str, facts: ModelFacts) -> list[Point]:
    return expand(load_study(f"{HEAD}sweep:\n  - {sweep}\n"), facts, FIVE).points


def cells(sweep: str, facts: ModelFacts) -> list[Cell]:
    return [point.cell for point in points_of(sweep, facts)]


def test_a_module_path_takes_the_layer_inside(facts: ModelFacts) -> None:
    found = cells('{site: "model.layers.$layer.mlp.act_fn", layers: [0, 29], position: 0}', facts)
    assert [(cell.units[0].place.site, cell.units[0].place.layer) for cell in found] == [
        ("model.layers.0.mlp.act_fn", None),
        ("model.layers.29.mlp.act_fn", None),
    ]


def test_module_paths_and_names_share_an_axis_of_sites(facts: ModelFacts) -> None:
    sweep = '{sites: ["model.layers.$layer.mlp.act_fn", mlp_output], layers: [3, 4], position: 0}'
    points = points_of(sweep, facts)
    assert [(p.cell.units[0].place.site, p.cell.units[0].place.layer) for p in points] == [
        ("model.layers.3.mlp.act_fn", None),
        ("model.layers.4.mlp.act_fn", None),
        ("mlp_output", 3),
        ("mlp_output", 4),
    ]
    assert points[1].axes["site"] == "model.layers.$layer.mlp.act_fn"


def test_units_take_the_layer_by_the_path_that_an_axis_names(facts: ModelFacts) -> None:
    sweep = """layers: [3, 4]
    sites: ["model.layers.$layer.mlp.act_fn"]
    units: [{site: $site, position: 0}]"""
    assert [cell.units[0].place.site for cell in cells(sweep, facts)] == [
        "model.layers.3.mlp.act_fn",
        "model.layers.4.mlp.act_fn",
    ]


@pytest.mark.parametrize(
    "sites",
    [
        'sites: [model.norm, "lm_head:input"]',
        'for: {m: [model.norm, "lm_head:input"]}, site: $m',
        'for: {m: [model.norm, "lm_head:input"]}, units: [{site: $m}]',
    ],
)
def test_module_paths_on_an_axis_need_no_layer(sites: str, facts: ModelFacts) -> None:
    places = [cell.units[0].place for cell in cells(f"{{{sites}, position: 0}}", facts)]
    assert [(place.site, place.layer) for place in places] == [("model.norm", None), ("lm_head:input", None)]


def test_a_layer_axis_may_serve_the_value_or_a_name_beside_the_path(facts: ModelFacts) -> None:
    value = "{site: model.norm, layers: all, position: 0, from: {run: base, site: mlp_output, layer: $layer}}"
    beside = "{site: [model.norm, mlp_output], layers: all, position: 0}"
    assert len({*cells(value, facts)}) == len({*cells(beside, facts)}) == 30
