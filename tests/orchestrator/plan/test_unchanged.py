"""Promise: before any job runs it is known of how many of a cell's jobs the engine will fill the rows in, and
what the others cost in prompts of each length."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import swapyard as sy
from orchestrator.plan.costs import Costs
from orchestrator.plan.planner import Planner
from orchestrator.plan.tables import Plan, read_plan
from orchestrator.plan.unchanged import Running, lane_facts
from orchestrator.run.pace import Load
from orchestrator.run.schedule import WorkSchedule
from orchestrator.stages.sweep.work import UNCHANGED_COST, open_work
from orchestrator.store import StudyStore
from plan.world import opened, planned, row, study
from studies import Study
from workers.facts import ModelFacts

SWEEP = """
  - {sites: [mlp_output, block_output, query_output], layers: all, positions: all}
  - {name: span, site: attention_input, layers: all, positions: [country, country.first, of.last]}
  - {name: two, layers: all, units: [{site: mlp_output, layer: $layer, position: 1}, {site: mlp_input,
     layer: $layer, position: 3}]}
  - {name: added, site: mlp_output, layers: all, positions: [0, 3], intervention: add}
  - {name: own, site: mlp_output, layers: all, position: 3, from: base}
  - {name: none, site: mlp_output, layers: all, position: 3, from: zero}
  - {name: crossed, site: mlp_output, layers: all, position: 1, from: {run: source, position: 2}}
"""


def rows() -> list[dict[str, Any]]:
    countries = [("Spain", "Italy"), ("Italy", "Italy"), ("Peru", "France"), ("France", "Spain")]
    return [
        {
            **row(base, source),
            **{"span.country": base, "source.span.country": source, "span.of": "of", "source.span.of": "of"},
        }
        for base, source in countries
    ]


def facts_of(made: Study, plan: Plan) -> dict[int, ModelFacts]:
    return lane_facts(plan, Planner(made, say=print).models)


def test_the_shares_that_run_are_those_that_the_engine_runs(tmp_path: Path, tiny_folder: Path) -> None:
    made = study(tiny_folder, rows(), SWEEP)
    results = sy.run(made, store=tmp_path, executor="inline", quiet=True)
    store = StudyStore(tmp_path / "small")
    ref = store.latest_plan()
    assert ref is not None
    plan = read_plan(store, ref)
    running = Running(plan, facts_of(made, plan))
    ids = dict(zip(*(plan.tables["cells"][name].to_pylist() for name in ("cell", "cell_id")), strict=True))
    found = {
        str(ids[cell]): share
        for tile in plan.tiles.values()
        for cell, share in zip(
            plan.cellsets[tile.cellset].tolist(),
            running.shares(tile.lane, tile.cellset, tile.pairs).tolist(),
            strict=True,
        )
    }
    ran = "avg((tier <> 'unchanged')::DOUBLE)"
    asked = f"SELECT any_value(block), cell_id::VARCHAR, {ran} FROM results GROUP BY cell_id"
    truth = results.sql(asked).fetchall()
    assert {0.0, 0.75, 1.0} <= {share for *_, share in truth}
    assert {(block, cell): found[cell] for block, cell, _ in truth} == {
        (block, cell): pytest.approx(share) for block, cell, share in truth
    }


def test_of_a_lane_of_which_nothing_is_known_all_jobs_run(tiny_folder: Path) -> None:
    plan = planned(study(tiny_folder, rows(), "[{site: mlp_output, layers: all, positions: all}]"))
    (tile,) = plan.tiles.values()
    assert Running(plan, {}).shares(0, tile.cellset, tile.pairs).tolist() == [1.0] * tile.num_cells
    (work,) = open_work(plan, opened())
    assert work.running is None and work.load(0, 2).rows == 2 * len(tile.pairs)


def test_open_work_costs_what_runs_and_hardly_anything_else(tiny_folder: Path) -> None:
    made = study(tiny_folder, rows(), "[{site: block_output, layers: all, positions: all}]")
    plan = planned(made)
    (work,) = open_work(plan, opened(), facts_of(made, plan))
    assert work.running is not None and work.whole is not None
    np.testing.assert_allclose(
        work.costs, plan.costs[0] * work.running + UNCHANGED_COST, rtol=1e-6, err_msg="as reckoned"
    )
    free = work.running == 0
    # The first three tokens are shared; the last block changes no other token than the last.
    assert free.sum() == 3 * 3 + 1 and work.costs[free].max() == UNCHANGED_COST
    head = Costs(facts_of(made, plan)[0]).head
    # Five prompts, each once as a base or a source, and the head at each of the four bases.
    assert work.capture_cost == pytest.approx(5 * 4 + 4 * head)


def test_shorter_prompts_cost_less_than_the_longest_that_have_the_same_cells(tiny_folder: Path) -> None:
    long = {"base": "The capital of a capital of Spain is", "source": "The capital of a capital of Italy is"}
    labels = {"base_label": " Madrid", "label": " Rome"}
    given = [row("Spain", "Peru"), {**long, **labels}]
    named = [{**one, "span.at": "is", "source.span.at": "is"} for one in given]
    made = study(tiny_folder, named, "[{site: mlp_output, layers: all, position: at.last, read: at.last}]")
    plan = planned(made)
    assert len(plan.cellsets) == 1 and len(plan.tiles) == 2
    facts = facts_of(made, plan)
    works = open_work(plan, opened(), facts)
    whole = sorted(float(work.whole[0]) for work in works if work.whole is not None)
    head = Costs(facts[0]).head
    assert whole == pytest.approx([5 + head + UNCHANGED_COST, 8 + head + UNCHANGED_COST], rel=1e-4)
    assert [float(work.costs[0]) for work in works] == pytest.approx(
        [1 + head + UNCHANGED_COST] * 2, rel=1e-4
    )


def test_a_model_that_runs_whole_costs_whole_runs_from_then_on(tiny_folder: Path) -> None:
    made = study(tiny_folder, rows(), "[{site: mlp_input, layers: all, positions: [3, 4]}]")
    plan = planned(made)
    facts = facts_of(made, plan)
    schedule = WorkSchedule(open_work(plan, opened(), facts))
    before = schedule.remaining[0]
    schedule.join(0)
    taken = schedule.next_part(0, 1e-6)
    assert taken is not None and (taken.k_hi - taken.k_lo) == 1
    schedule.run_whole(0)
    schedule.run_whole(0)
    (work,) = schedule.units
    assert work.running is not None
    whole = 5 + Costs(facts[0]).head
    units = sum(share * whole * 4 + 4 * UNCHANGED_COST for share in work.running[1:].tolist())
    assert schedule.remaining[0] == Load(
        pytest.approx(units, rel=1e-5), pytest.approx(before.rows - 4 * work.running[0], abs=1e-6)
    )
    schedule.give_up(taken)
    while (taken := schedule.next_part(0, 1.0)) is not None:
        schedule.report(0, taken, taken.k_hi - taken.k_lo, 1.0)
    assert schedule.remaining_cost == pytest.approx(0, abs=1e-6) and schedule.is_empty
