"""Promise: what a screened study runs is decided by its estimates and its seed alone; it changes no job's
identity, and whatever was estimated or run before is never planned again."""

import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.planner import Planner
from orchestrator.plan.remaining import counts_of
from orchestrator.plan.screening import LEAST_SAMPLE, CellChoice, choose, num_chosen
from orchestrator.plan.tables import Plan, decode_plan, encode_plan
from orchestrator.run.schedule import WorkSchedule
from orchestrator.stages.sweep.work import open_work
from orchestrator.store import State
from plan.world import Oracle, commit_part, opened, planned, row, study
from plan.world import draft as draft_of
from studies import Screen
from workers.errors import StudyError

SWEEP = "[{sites: [mlp_output, block_output], layers: all, positions: all}]"
ROWS = [row("Spain", "Italy"), row("Italy", "Peru"), row("France", "Spain")]
NUM_CELLS = 2 * 3 * 5
SCREEN = {"method": "attribution", "keep": 4, "sample": 3}

Effects = dict[uuid.UUID, float | None]

effects = st.dictionaries(st.uuids(), st.none() | st.floats(0, 8, width=16), max_size=200)


def screened(folder: Path, sweep: str = SWEEP, screen: Any = SCREEN, rows: Any = ROWS) -> Any:
    return study(folder, rows, sweep, screen=screen)


def selected(made: Any, plan: Plan, state: State, selection: dict[int, CellChoice]) -> Plan:
    found = Planner(made, say=lambda line: None).draft(Oracle(), plan, state, selection=selection)
    return decode_plan(encode_plan(found.plan))


def selection_of(plan: Plan) -> dict[int, CellChoice]:
    """Every seventh cell runs."""
    return {
        number: CellChoice("kept", 1.0) if number % 7 == 0 else CellChoice("left", None)
        for number in plan.cells
    }


def estimate_all(plan: Plan, state: State) -> None:
    for work in open_work(plan, state):
        for lo, hi, families in work.todo:
            assert families == ("estimate",)
            commit_part(state, plan, work.tile, lo, hi, families)


def to_run(plan: Plan, state: State) -> Counter[tuple[int, int]]:
    """(cell, pair) of all that is still to be run, and not estimated."""
    found: Counter[tuple[int, int]] = Counter()
    for work in open_work(plan, state):
        tile = plan.tiles[work.tile]
        for lo, hi, families in work.todo:
            assert ("estimate" in families) == tile.estimates
            if not tile.estimates:
                cells = plan.cellsets[tile.cellset][lo:hi].tolist()
                found.update((cell, pair) for cell in cells for pair in tile.pairs)
    return found


@given(
    effects,
    st.integers(1, 60) | st.sampled_from((0.1, 0.5)),
    st.integers(1, 60) | st.sampled_from((0.02, 0.4)),
)
def test_the_largest_are_kept_and_the_sample_stands_for_the_others(
    found: Effects, keep: int | float, sample: int | float
) -> None:
    chosen = choose(found, Screen(method="attribution", keep=keep, sample=sample))
    assert chosen.keys() == found.keys()
    known = {cell: effect for cell, effect in found.items() if effect is not None}
    kept, sampled, left = (
        [cell for cell in known if chosen[cell].selected == word] for word in ("kept", "sampled", "left")
    )
    assert len(kept) == num_chosen(keep, len(known))
    others = [*sampled, *left]
    assert not kept or not others or min(known[c] for c in kept) >= max(known[c] for c in others)
    assert sum(chosen[cell].weight or 0 for cell in sampled) == pytest.approx(len(others) if sampled else 0)
    assert {chosen[cell] for cell in found.keys() - known.keys()} <= {CellChoice("exact", None)}
    assert (
        choose(dict(reversed(found.items())), Screen(method="attribution", keep=keep, sample=sample))
        == chosen
    )


def test_another_seed_draws_another_sample_and_keeps_the_same_cells() -> None:
    found: Effects = {uuid.UUID(int=n): float(n) for n in range(1000)}
    first, second = (choose(found, Screen(method="attribution", seed=seed)) for seed in (0, 1))
    kept, sampled = (
        [{cell for cell, one in chosen.items() if one.selected == word} for chosen in (first, second)]
        for word in ("kept", "sampled")
    )
    assert kept[0] == kept[1] == {uuid.UUID(int=n) for n in range(900, 1000)}
    assert sampled[0] != sampled[1]
    assert len(sampled[0]) == LEAST_SAMPLE


@pytest.mark.parametrize(
    ("part", "among", "num"),
    [(0.1, 1200, 120), (0.1, 1201, 121), (0.001, 5, 1), (7, 1200, 7), (7, 5, 5), (0.5, 0, 0)],
)
def test_a_part_is_a_share_or_a_number(part: int | float, among: int, num: int) -> None:
    assert num_chosen(part, among) == num


def test_before_the_selection_all_is_estimated_and_nothing_runs(tiny_folder: Path) -> None:
    plan, state = planned(screened(tiny_folder)), opened()
    assert (plan.num_jobs, plan.num_estimates, plan.is_selected) == (0, NUM_CELLS * 3, False)
    assert [work.todo for work in open_work(plan, state)] == [[(0, NUM_CELLS, ("estimate",))]]
    estimate_all(plan, state)
    counts = counts_of(plan, state)
    assert (counts.num_open, counts.is_complete) == (0, False)


def test_the_estimates_of_a_tile_are_one_slice_however_slow_the_machine(tiny_folder: Path) -> None:
    plan, state = planned(screened(tiny_folder)), opened()
    work = open_work(plan, state)
    schedule = WorkSchedule(work, first_rate=1.0)
    schedule.join(0)
    taken = schedule.next_part(0, target_s=0.01)
    assert taken is not None
    assert (taken.k_lo, taken.k_hi) == (0, NUM_CELLS)
    costs = plan.costs[plan.tiles[taken.tile].cellset]
    assert schedule.expected_s(0, taken) == pytest.approx(4 * 3 * costs.max(), rel=1e-5)
    assert schedule.next_part(0, target_s=0.01) is None


def test_after_the_selection_only_the_selected_cells_run(tiny_folder: Path) -> None:
    made, state = screened(tiny_folder), opened()
    before = planned(made)
    estimate_all(before, state)
    plan = selected(made, before, state, selection_of(before))
    assert plan.is_selected
    assert to_run(plan, state) == {(c, p): 1 for c in range(0, NUM_CELLS, 7) for p in range(3)}
    assert plan.num_jobs == 5 * 3


def test_cells_that_cannot_be_estimated_run_with_the_selected(tiny_folder: Path) -> None:
    sweep = f"{SWEEP[:-1]}, {{site: mlp_output, layers: all, position: 3, intervention: skip}}]"
    made, state = screened(tiny_folder, sweep), opened()
    before = planned(made)
    assert before.num_estimates == NUM_CELLS * 3
    estimate_all(before, state)
    estimated = {
        c: one for c, one in selection_of(before).items() if before.cells[c].units[0].operation == "vanilla"
    }
    plan = selected(made, before, state, estimated)
    skipped = {c for c, cell in plan.cells.items() if cell.units[0].operation == "skip"}
    kept = {c for c, one in estimated.items() if one.selected == "kept"}
    assert len(skipped) == 3
    assert {cell for cell, _ in to_run(plan, state)} == skipped | kept


def test_screening_changes_no_identity(tiny_folder: Path) -> None:
    plain = planned(study(tiny_folder, ROWS, SWEEP))
    for screen in (SCREEN, {**SCREEN, "keep": 0.5, "seed": 3}):
        found = planned(screened(tiny_folder, screen=screen))
        assert found.tables["cells"]["cell_id"] == plain.tables["cells"]["cell_id"]
        assert found.head["digest"] != plain.head["digest"]


def test_another_screen_estimates_nothing_again_and_runs_only_what_is_new(tiny_folder: Path) -> None:
    made, state = screened(tiny_folder), opened()
    before = planned(made)
    estimate_all(before, state)
    first = selected(made, before, state, selection_of(before))
    (work,) = open_work(first, state)
    commit_part(state, first, work.tile, 0, 2, ("logits", "kl"))
    done = {(c, p) for c in first.cellsets[first.tiles[work.tile].cellset][:2].tolist() for p in range(3)}

    wider = screened(tiny_folder, screen={**SCREEN, "keep": 9})
    plan = planned(wider, first, state)
    assert (plan.is_selected, open_work(plan, state)) == (False, [])
    everything = {cell: CellChoice("kept", 1.0) for cell in plan.cells}
    plan = selected(wider, plan, state, everything)
    wanted = {(c, p) for c in range(NUM_CELLS) for p in range(3)}
    assert to_run(plan, state) == dict.fromkeys(wanted - done, 1)


def test_screening_goes_on_from_what_ran_without_it(tiny_folder: Path) -> None:
    state = opened()
    plain = planned(study(tiny_folder, ROWS, SWEEP))
    commit_part(state, plain, 0, 0, 20, ("logits", "kl"))
    made = screened(tiny_folder)
    before = planned(made, plain, state)
    assert to_run(before, state) == {}
    estimate_all(before, state)
    plan = selected(made, before, state, selection_of(before))
    done = set(plain.cellsets[0][:20].tolist())
    assert to_run(plan, state) == {(c, p): 1 for c in {*range(0, NUM_CELLS, 7)} - done for p in range(3)}
    again = planned(study(tiny_folder, ROWS, SWEEP), plan, state)
    assert to_run(again, state) == {(c, p): 1 for c in {*range(NUM_CELLS)} - done for p in range(3)}


def test_a_pair_that_is_added_is_estimated_alone(tiny_folder: Path) -> None:
    made, state = screened(tiny_folder), opened()
    before = planned(made)
    estimate_all(before, state)
    more = screened(tiny_folder, rows=[*ROWS, row("Peru", "France")])
    plan = planned(more, before, state)
    (work,) = open_work(plan, state)
    assert (work.num_pairs, work.todo) == (1, [(0, NUM_CELLS, ("estimate",))])


@pytest.mark.parametrize(
    ("sweep", "rows", "message"),
    [
        (
            "[{site: mlp_output, layers: all, position: 3, intervention: skip}]",
            ROWS,
            "none of the 3 cells can be estimated: they use the intervention 'skip' \\(3\\)",
        ),
        (
            SWEEP,
            [{key: row("Spain", "Italy")[key] for key in ("base", "source")}],
            "no pair has one; give label and base_label, or leave screen out",
        ),
    ],
)
def test_what_cannot_be_screened_is_refused(tiny_folder: Path, sweep: str, rows: Any, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        draft_of(screened(tiny_folder, sweep, rows=rows))
