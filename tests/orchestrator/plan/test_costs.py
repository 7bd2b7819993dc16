"""Promise: a plan knows what its jobs cost: what they change, or all where nothing is resumed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.plan.costs import Costs
from orchestrator.plan.prepare import Input
from orchestrator.plan.tables import decode_plan, encode_plan
from plan.world import opened, planned, row, study
from workers.model.facts import ModelFacts
from workers.vocabulary import Cell, CellUnit, NamedRun, Place

FACTS = ModelFacts(
    ref="here",
    revision="0" * 64,
    dtype="float32",
    folder=None,
    model_type="llama",
    num_layers=4,
    num_heads=2,
    num_kv_heads=2,
    width=8,
    vocab_size=100,
    num_parameters=4000,
)
HEAD = 800 / 3200
"""The unembedding's share of what a token costs in the blocks."""


def unit(site: str, layer: int | None, *position: int | str) -> CellUnit:
    place = Place(site, layer, None, position)
    return CellUnit(place=place, dims=None, operation="vanilla", run="source", origin=place)


def cost(
    *units: CellUnit, read: int | str = 4, spans: Any = ({},), facts: ModelFacts = FACTS, **cell: Any
) -> float:
    inputs = [Input(at, {"base": (1, 2, 3, 4, 5)}, {"base": named}) for at, named in enumerate(spans)]
    (found,) = Costs(facts).of([Cell(units=units, read=read, **cell)], inputs)
    return float(found) - HEAD


@pytest.mark.parametrize(
    ("site", "layer", "position", "expected"),
    [
        ("mlp_output", 0, (0,), 5.0),
        ("mlp_output", 1, (2,), 3 * 3 / 4),
        ("attention_input", 3, (4,), 1 / 4),
        ("block_output", 2, (3,), 2 / 4),
        ("block_output", 3, (0,), 5 / 4),
        ("mlp_output", 2, (4, 1), 2 * 4 / 4),
        ("model.layers.3.mlp.act_fn", None, (3,), 2 / 4),
        ("model.layers.3:input", None, (3,), 2 / 4),
        ("model.embed_tokens", None, (4,), 5.0),
    ],
)
def test_a_job_costs_the_blocks_and_tokens_after_its_first_change(
    site: str, layer: int | None, position: tuple[int, ...], expected: float
) -> None:
    assert cost(unit(site, layer, *position)) == pytest.approx(expected)


def test_several_units_cost_what_the_earliest_block_and_token_of_them_cost() -> None:
    assert cost(unit("mlp_output", 3, 1), unit("mlp_output", 1, 3)) == pytest.approx(3 * 4 / 4)


def test_what_is_read_before_the_change_is_run_too() -> None:
    assert cost(unit("mlp_output", 0, 4), read=2) == pytest.approx(3.0)


def test_a_span_begins_where_it_does_in_the_pairs_on_average() -> None:
    spans = [{"name": (1, 3)}, {"name": (2, 5)}]
    assert cost(unit("mlp_output", 0, "name"), spans=spans) == pytest.approx(3.5)
    assert cost(unit("mlp_output", 0, "name.last"), spans=spans) == pytest.approx(2.0)


def test_a_span_of_which_nothing_is_known_may_begin_at_the_first_token() -> None:
    assert cost(unit("mlp_output", 0, "name")) == pytest.approx(5.0)


def test_each_named_run_costs_a_whole_forward() -> None:
    before = NamedRun("corrupted", (unit("mlp_output", 0, 0),))
    assert cost(unit("mlp_output", 3, 4), runs=(before,)) == pytest.approx(5 + 1 / 4)


@pytest.mark.parametrize("kind", ["zoo:gpt", "qwen3_next"])
def test_a_model_that_is_not_resumed_runs_all_for_every_job(kind: str) -> None:
    hooked = replace(FACTS, model_type=kind)
    assert cost(unit("mlp_output", 3, 4), facts=hooked) == pytest.approx(5.0)


def test_every_cell_of_a_plan_has_its_own_cost(tiny_folder: Path) -> None:
    plan = planned(
        study(tiny_folder, [row("Spain", "Italy")], "[{site: mlp_output, layers: all, positions: all}]")
    )
    ((number, cells),) = plan.cellsets.items()
    first = [plan.cells[cell].units[0].place for cell in cells]
    num_layers = 1 + max(place.layer or 0 for place in first)
    expected = [(num_layers - place.layer) * (5 - place.position[0]) / num_layers for place in first]
    assert np.diff(plan.costs[number]) == pytest.approx(np.diff(expected), abs=1e-6)


def test_a_plan_of_the_format_before_is_read(tiny_folder: Path) -> None:
    made = study(tiny_folder, [row("Spain", "Italy")], "[{site: mlp_output, layer: 0, positions: all}]")
    files = encode_plan(planned(made))
    files["plan.json"] = files["plan.json"].replace(b'"format": 2', b'"format": 1')
    before = decode_plan(files)
    after = planned(made, before, opened())
    assert list(after.tiles) == list(before.tiles)
    assert after.tiles[0].ord0 == before.tiles[0].ord0
