"""Promise: what is done, what remains and what failed are counted from committed parts alone, cell by cell,
also for metric families that were added later."""

from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from plan.world import commit_part, opened, planned, row, study

from orchestrator.plan.remaining import counts_of, finished_cells
from orchestrator.plan.tables import Plan
from orchestrator.stages.sweep.work import open_work
from orchestrator.store import State

SWEEP = "[{sites: [mlp_output, block_output], layers: all, positions: all}]"
ROWS = [row("Spain", "Italy"), row("Italy", "Peru"), row("France", "Spain")]
BOTH = ("logits", "kl")


def plan_of(
    folder: Path, sweep: str = SWEEP, earlier: Plan | None = None, state: State | None = None
) -> Plan:
    return planned(study(folder, ROWS, sweep), earlier, state)


def todo(plan: Plan, state: State) -> list[tuple[int, int, tuple[str, ...]]]:
    return [part for work in open_work(plan, state) for part in work.todo]


def test_of_a_new_plan_everything_remains(tiny_folder: Path) -> None:
    plan, state = plan_of(tiny_folder), opened()
    (work,) = open_work(plan, state)
    assert (work.num_pairs, work.lane, work.todo) == (3, 0, [(0, 30, BOTH)])
    assert work.costs.tolist() == plan.costs[plan.tiles[0].cellset].tolist()
    counts = counts_of(plan, state)
    assert (counts.num_jobs, counts.num_done, counts.num_failed) == (90, 0, 0)


def test_a_family_that_was_added_runs_alone_where_the_other_is_done(tiny_folder: Path) -> None:
    plan, state = plan_of(tiny_folder), opened()
    commit_part(state, plan, 0, 0, 10, ("logits",))
    commit_part(state, plan, 0, 4, 12, ("kl",))
    assert todo(plan, state) == [(0, 4, ("kl",)), (10, 12, ("logits",)), (12, 30, BOTH)]
    assert counts_of(plan, state).num_done == 6 * 3
    assert finished_cells(plan, state, plan.tiles[0]).nonzero()[0].tolist() == list(range(4, 10))


def test_nothing_remains_of_a_finished_plan(tiny_folder: Path) -> None:
    plan, state = plan_of(tiny_folder), opened()
    commit_part(state, plan, 0, 0, 30)
    assert open_work(plan, state) == []
    assert counts_of(plan, state).num_done == plan.num_jobs


def test_failures_of_cells_that_the_study_has_dropped_do_not_count(tiny_folder: Path) -> None:
    before, state = plan_of(tiny_folder), opened()
    commit_part(state, before, 0, 0, 6, failed=7)
    commit_part(state, before, 0, 6, 30, failed=2)
    assert counts_of(before, state).num_failed == 9
    # Cells run by the first token that they change: the first six are those of position 0.
    sweep = "[{sites: [mlp_output, block_output], layers: all, positions: [1, 2, 3, 4]}]"
    counts = counts_of(plan_of(tiny_folder, sweep, before, state), state)
    assert (counts.num_jobs, counts.num_done, counts.num_failed) == (72, 72, 2)


def test_a_failure_that_a_retry_mended_does_not_count(tiny_folder: Path) -> None:
    plan, state = plan_of(tiny_folder), opened()
    part = commit_part(state, plan, 0, 0, 10, failed=5)
    commit_part(state, plan, 0, 2, 4, rows=4, failed=1, attempt=1, replaces=part.path, jobs=((6, 10),))
    assert counts_of(plan, state).num_failed == 2 == max(state.num_failed.values())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_counts_and_rest_agree_with_a_set_of_jobs(tiny_folder: Path, data: st.DataObject) -> None:
    plan, state = plan_of(tiny_folder), opened()
    done: dict[str, set[int]] = {family: set() for family in BOTH}
    for _ in range(data.draw(st.integers(0, 8))):
        lo = data.draw(st.integers(0, 29))
        hi = data.draw(st.integers(lo + 1, 30))
        families = data.draw(st.sampled_from([BOTH, ("logits",), ("kl",)]))
        if not any(done[family] & set(range(lo, hi)) for family in families):
            commit_part(state, plan, 0, lo, hi, families)
            for family in families:
                done[family] |= set(range(lo, hi))
    assert counts_of(plan, state).num_done == 3 * len(done["logits"] & done["kl"])
    rest = {
        (k, family) for lo, hi, families in todo(plan, state) for k in range(lo, hi) for family in families
    }
    assert rest == {(k, family) for k in range(30) for family in BOTH if k not in done[family]}
    parts = todo(plan, state)
    assert all(a[1] <= b[0] and (a[1] < b[0] or a[2] != b[2]) for a, b in pairwise(parts))
