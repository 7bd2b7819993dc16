"""Promise: the same study is the same plan; a changed study keeps what it can of the one before, asks no
model twice, and gives no number a second meaning."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan.planner import Planner
from orchestrator.plan.remaining import counts_of
from orchestrator.plan.tables import Plan, encode_plan
from orchestrator.run.baseline_scorers import CachedScorer
from orchestrator.stages.sweep.work import open_work
from orchestrator.store import State
from studies import Study
from workers.errors import StudyError
from workers.vocabulary import CellUnit

from .world import CAPITALS, Oracle, commit_part, draft, opened, planned, row, study

SWEEP = "[{sites: [mlp_output, block_output], layers: all, positions: all}]"
TEST_ONLY = ", where: split = 'test'"
ROWS = [row("Spain", "Italy"), row("Italy", "Peru"), row("France", "Spain")]


def digest(made: Study) -> str:
    return Planner(made, say=lambda line: None).digest


def jobs_of(plan: Plan) -> set[tuple[str, str]]:
    """All (cell id, pair id) that the plan asks for, from the tables that views read: grid × inputs."""
    inputs = plan.tables["inputs"].to_pylist()
    cell_ids = dict(zip(plan.tables["cells"]["cell"].to_pylist(), ids(plan, "cell"), strict=True))
    pairs = {(one["class"], str(one["pair_id"])) for one in inputs if one["kept"]}
    grid = plan.tables["grid"].to_pylist()
    return {(cell_ids[g["cell"]], pair) for g in grid for kind, pair in pairs if kind == g["class"]}


def ids(plan: Plan, what: str) -> list[str]:
    table = plan.tables["cells" if what == "cell" else "inputs"]
    return [str(identity) for identity in table[f"{what}_id"].to_pylist()]


def numbers(plan: Plan, what: str) -> Iterator[tuple[int, str]]:
    table = plan.tables["cells" if what == "cell" else "inputs"]
    for number, identity in zip(table[what].to_pylist(), ids(plan, what), strict=True):
        if number is not None:
            yield number, identity
    for gone in plan.tables["retired"].to_pylist():
        if gone["what"] == what:
            yield gone["number"], str(gone["id"])


def test_the_same_study_is_the_same_plan(tiny_folder: Path) -> None:
    made = study(tiny_folder, ROWS, SWEEP)
    assert digest(made) == digest(study(tiny_folder, ROWS, SWEEP))
    first, second = (encode_plan(draft(made).plan) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    "changed",
    [
        {"rows": ROWS[:2]},
        {"rows": [{**ROWS[0], "base_label": " Lima"}, *ROWS[1:]]},
        {"rows": [{**ROWS[0], "note": "new"}, *ROWS[1:]]},
        {"sweep": "[{sites: [mlp_output, block_output], layers: [0, 1], positions: all}]"},
        {"metrics": ["iia"]},
        {"filter": "both_correct"},
        {"plots": {"p": {"kind": "bars", "x": "layer", "y": "prob"}}},
    ],
)
def test_every_change_of_a_study_is_another_digest(tiny_folder: Path, changed: dict[str, Any]) -> None:
    given = {"rows": ROWS, "sweep": SWEEP, **changed}
    assert digest(study(tiny_folder, **given)) != digest(study(tiny_folder, ROWS, SWEEP))


def test_a_changed_plot_changes_no_table_and_asks_no_model(tiny_folder: Path) -> None:
    before = planned(study(tiny_folder, ROWS, SWEEP))
    plots = {"p": {"kind": "bars", "x": "layer", "y": "prob"}}
    scorer = Oracle()
    after = draft(study(tiny_folder, ROWS, SWEEP, plots=plots), before, opened(), scorer)
    assert after.complete and not scorer.asked
    for name, table in before.tables.items():
        assert after.plan.tables[name].to_pylist() == table.to_pylist(), name


def test_a_changed_label_is_a_new_pair_and_the_old_one_retires(tiny_folder: Path) -> None:
    before = planned(study(tiny_folder, ROWS, SWEEP))
    relabelled = [{**ROWS[0], "source_label": " Paris"}, *ROWS[1:]]
    after = planned(study(tiny_folder, relabelled, SWEEP), before, opened())
    old, new = (plan.tables["inputs"]["pair"].to_pylist() for plan in (before, after))
    assert new == [3, *old[1:]]
    assert [(gone["what"], gone["number"]) for gone in after.tables["retired"].to_pylist()] == [
        ("pair", old[0])
    ]
    assert ids(after, "cell") == ids(before, "cell")


def test_added_layers_keep_the_pairs_and_ask_no_model(tiny_folder: Path) -> None:
    """The pairs that a filter kept stay kept, though another machine might judge otherwise."""
    first = "[{sites: [mlp_output], layers: [0], positions: all}]"
    made = study(tiny_folder, ROWS, first, filter="both_correct")
    right = {tokens: tokens[3] + 5 for tokens in [(14, 2, 3, country, 8) for country in (4, 5, 6, 7)]}
    before = draft(made, scorer=Oracle(right)).plan
    assert len(before.pairs) == 3
    more = study(tiny_folder, ROWS, SWEEP, filter="both_correct")
    scorer = Oracle()  # It would answer every prompt wrong.
    after = draft(more, before, opened(), scorer)
    assert after.complete and not scorer.asked
    assert after.plan.pairs == before.pairs
    assert after.plan.tables["runs"].to_pylist() == before.tables["runs"].to_pylist()


def test_an_added_read_asks_only_for_what_is_new(tiny_folder: Path) -> None:
    before = planned(study(tiny_folder, ROWS[:1], "[{site: mlp_output, layer: 0, position: 0}]"))
    scorer = Oracle()
    reads = "[{site: mlp_output, layer: 0, position: 0, reads: [-1, 2]}]"
    after = draft(study(tiny_folder, ROWS[:1], reads), before, opened(), scorer)
    assert [run.read for run in scorer.asked] == [2, 2]
    assert len(after.plan.tables["runs"]) == 4


def test_pairs_that_share_a_base_are_neighbours_in_a_tile(tiny_folder: Path) -> None:
    rows = [row(base, source) for source in CAPITALS for base in CAPITALS if base != source]
    plan = planned(study(tiny_folder, rows, SWEEP))
    (tile,) = plan.tiles.values()
    bases = [base for base, _ in groupby(plan.pairs[pair].tokens["base"] for pair in tile.pairs)]
    assert len(bases) == len(set(bases)) == len(CAPITALS)


def test_cells_that_can_share_a_forward_are_neighbours(tiny_folder: Path) -> None:
    places = [unit.place for unit in units_in_order(planned(study(tiny_folder, ROWS, SWEEP)))]
    assert [place.position for place in places] == sorted(place.position for place in places)
    layers = [place.layer for place in places if place.position == (2,)]
    assert layers == sorted(layers, key=int)


def test_cells_of_a_model_that_is_not_resumed_are_in_the_order_of_its_layers() -> None:
    gpt = {"ref": "zoo:gpt", "width": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 11, "seed": 0}
    pair = {"base_ids": [1, 2, 3], "source_ids": [4, 5, 6], "base_label": 7, "label": 8}
    made = Study.model_validate(
        {
            "study": "built-in",
            "model": gpt,
            "pairs": [pair],
            "sweep": [{"sites": ["mlp_output"], "layers": "all", "positions": "all"}],
        }
    )
    places = [unit.place for unit in units_in_order(planned(made))]
    assert [(p.layer, p.position) for p in places] == [(n, (t,)) for n in range(2) for t in range(3)]


def units_in_order(plan: Plan) -> list[CellUnit]:
    """The first unit of each cell of the only cellset."""
    ((_, cells),) = plan.cellsets.items()
    return [plan.cells[cell].units[0] for cell in cells]


def test_two_ways_to_write_a_position_are_two_points_of_one_cell(tiny_folder: Path) -> None:
    plan = planned(study(tiny_folder, ROWS[:1], "[{site: mlp_output, layer: 0, positions: [-1, 4]}]"))
    assert plan.tables["cells"].num_rows == 1
    assert [point["position"] for point in plan.tables["points"].to_pylist()] == [-1, 4]
    assert plan.tables["grid"]["cell"].to_pylist() == [0, 0]
    assert plan.num_jobs == 1


def test_a_pair_that_is_given_twice_is_run_once(tiny_folder: Path) -> None:
    """Even where the two are of different classes: one is for both blocks, the other for the first only."""
    rows = [row("Spain", "Italy", split="train"), row("Spain", "Italy", split="test")]
    every, some = (
        f"{{site: mlp_output, layer: {layer}, positions: all{rest}}}"
        for layer, rest in ((0, ""), (1, TEST_ONLY))
    )
    plan = planned(study(tiny_folder, rows, f"[{every}, {some}]"))
    assert len(plan.pairs) == 1
    assert plan.num_jobs == 10 == sum(tile.num_jobs for tile in plan.tiles.values())
    assert sorted(plan.tables["inputs"]["class"].to_pylist()) == [0, 1]
    assert plan.tables["runs"].num_rows == 2


def test_a_pair_that_no_block_is_about_is_kept_without_jobs(tiny_folder: Path) -> None:
    rows = [row("Spain", "Italy", split="train"), row("Italy", "Spain", split="test")]
    sweep = "[{site: mlp_output, layer: 0, position: 0, where: split = 'test'}]"
    plan = planned(study(tiny_folder, rows, sweep))
    assert (len(plan.pairs), plan.num_jobs) == (2, 1)


def test_a_plan_without_the_models_answers_is_a_bound(tiny_folder: Path, tmp_path: Path) -> None:
    made = study(tiny_folder, ROWS, SWEEP, filter="both_correct")
    found = draft(made, scorer=CachedScorer(tmp_path / "runs", None))
    assert (found.exact, found.complete, found.plan.num_jobs) == (False, False, 3 * 2 * 3 * 5)
    unfiltered = draft(study(tiny_folder, ROWS, SWEEP), scorer=CachedScorer(tmp_path / "runs", None))
    assert (unfiltered.exact, unfiltered.complete) == (True, False)


def test_a_sweep_without_cells_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(StudyError, match=r"block0: layers .7:9. is empty: there are 3 layers"):
        planned(study(tiny_folder, ROWS, '[{site: mlp_output, layers: "7:9", position: 0}]'))


COUNTRIES = ("Spain", "Italy", "France", "Peru")
PAIRS = [(base, source) for base in COUNTRIES for source in COUNTRIES if base != source]


@st.composite
def studies(draw: st.DrawFn) -> dict[str, Any]:
    """A study that differs from the last one in anything that a user may change."""
    chosen = draw(st.lists(st.sampled_from(PAIRS), min_size=1, max_size=6))
    rows = [
        row(
            *pair,
            split=draw(st.sampled_from(["train", "test"])),
            label=draw(st.sampled_from([" of", " is"])),
        )
        for pair in chosen
    ]
    layers = sorted(draw(st.sets(st.integers(0, 2), min_size=1)))
    positions = draw(st.sampled_from(["all", "[0, -1]", "[4, -1, 2]"]))
    block = f"{{sites: [mlp_output, block_output], layers: {layers}, positions: {positions}}}"
    other = "{site: attention_output, layers: all, position: 3, where: \"split = 'test'\"}"
    blocks = draw(st.sampled_from([[block], [other, block]]))
    metrics = draw(st.sampled_from([None, ["iia"], ["kl_base"]]))
    return {
        "rows": rows,
        "sweep": f"[{', '.join(blocks)}]",
        **({"metrics": metrics} if metrics else {}),
    }


def check_done(plan: Plan, state: State, done: dict[str, set[tuple[str, str]]]) -> None:
    """Counts, and what remains, against the jobs that were committed one by one."""
    wanted = jobs_of(plan)
    assert plan.num_jobs == len(wanted)
    finished = {job for job in wanted if all(job in done[family] for family in plan.families)}
    assert counts_of(plan, state).num_done == len(finished)
    remaining: dict[tuple[str, str], list[str]] = {}
    for work in open_work(plan, state):
        for lo, hi, families in work.todo:
            for job in tile_jobs(plan, work.tile, lo, hi):
                assert job not in remaining, "a job would be run twice"
                remaining[job] = list(families)
    lacking = {job: [f for f in plan.families if job not in done[f]] for job in wanted - finished}
    assert {job: families for job, families in remaining.items() if job in wanted} == lacking


def tile_jobs(plan: Plan, tile: int, lo: int, hi: int) -> set[tuple[str, str]]:
    cell_id, pair_id = (dict(numbers(plan, what)) for what in ("cell", "pair"))
    found = plan.tiles[tile]
    cells = plan.cellsets[found.cellset][lo:hi].tolist()
    return {(cell_id[cell], pair_id[pair]) for cell in cells for pair in found.pairs}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_history_of_a_study_counts_and_runs_every_job_once(
    tiny_folder: Path, data: st.DataObject
) -> None:
    state, plan = opened(), None
    done: dict[str, set[tuple[str, str]]] = {"logits": set(), "kl": set()}
    known: dict[str, dict[int, str]] = {"cell": {}, "pair": {}}
    for _ in range(data.draw(st.integers(1, 4), label="plans")):
        plan = planned(study(tiny_folder, **data.draw(studies())), plan, state)
        for what, found in known.items():
            for number, identity in numbers(plan, what):
                assert found.setdefault(number, identity) == identity, "a number has two meanings"
            assert len(set(found.values())) == len(found), "an id has two numbers"
            assert dict(numbers(plan, what)) == found, "a number was forgotten"
        check_done(plan, state, done)
        for work in open_work(plan, state):
            for lo, hi, families in work.todo:
                stop = data.draw(st.integers(lo, hi))
                if stop > lo:
                    commit_part(state, plan, work.tile, lo, stop, families)
                    for family in families:
                        jobs = tile_jobs(plan, work.tile, lo, stop)
                        assert not jobs & done[family], "a job was run twice"
                        done[family] |= jobs
        check_done(plan, state, done)


def test_a_large_plan_has_tables_by_cells_and_pairs_never_by_jobs() -> None:
    from benchmarks.plan import SHAPES, prepared

    plan = prepared(SHAPES["2,160 cells × 4,630 pairs"])()
    assert plan.num_jobs == 10_000_800
    rows = {name: table.num_rows for name, table in plan.tables.items()}
    assert rows == {
        "pairs": 4630,
        "inputs": 4630,
        "cells": 2160,
        "points": 2160,
        "grid": 2160,
        "cellsets": 2160,
        "tiles": 73,
        "carried": 0,
        "retired": 0,
    }
    assert {len(costs) for costs in plan.costs.values()} == {2160}
    assert 24 < plan.costs[0].max() < 25 and 0 < plan.costs[0].min() < 1
