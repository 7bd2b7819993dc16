"""Promise: what a worker died of runs once more as it was, then job by job; a job alone in three deaths is
given up, and nothing else is. Retries and limits are handed out beside. By simulation: no model, no clock.
"""

import numpy as np
from test_schedule import BOTH, work

from orchestrator.run.schedule import WorkSchedule
from orchestrator.stages.sweep.work import DEATHS_OF_A_JOB, JOBS_OF_A_CELL, Slice, TileWork


def died_of(schedule: WorkSchedule, worker: int, taken: Slice, job: int | None = None) -> bool:
    """`worker` dies of a slice and comes back with half the memory; whether a job was given up."""
    gave_up = schedule.blame(taken, job)
    schedule.leave(worker)
    schedule.join(worker, 0.5)
    return gave_up


def next_of(schedule: WorkSchedule, worker: int) -> Slice:
    found = schedule.next_part(worker, 10.0)
    assert found is not None
    return found


def test_what_a_worker_died_of_runs_as_it_was_and_then_cell_by_cell() -> None:
    schedule = WorkSchedule([work(0, 4, num_pairs=3), work(1, 50, num_pairs=3)], first_rate=1e6)
    schedule.join(0)
    first = next_of(schedule, 0)
    assert (first.tile, first.k_lo, first.k_hi, first.careful) == (0, 0, 4, False)
    assert not died_of(schedule, 0, first)
    assert next_of(schedule, 0) == first, "its replacement takes it first, with less memory"
    assert not died_of(schedule, 0, first)
    for k in range(4):
        alone = next_of(schedule, 0)
        assert (alone.tile, alone.k_lo, alone.k_hi, alone.careful) == (0, k, k + 1, True)
        schedule.report(0, alone, 1, 1.0, is_over=True)
    assert next_of(schedule, 0).tile == 1


def test_others_go_on_with_their_own_while_a_suspect_waits() -> None:
    schedule = WorkSchedule([work(0, 4), work(1, 2)], first_rate=1e6)
    schedule.join(0)
    schedule.join(1)
    first = next_of(schedule, 0)
    schedule.blame(first, None)
    schedule.leave(0)
    assert next_of(schedule, 1).tile == 1
    assert next_of(schedule, 1) == first, "a suspect does not wait for ever"


def careful(schedule: WorkSchedule) -> Slice:
    """Let the first slice kill two workers, and take the first cell of it."""
    schedule.join(0)
    for _ in range(2):
        died_of(schedule, 0, next_of(schedule, 0))
    return next_of(schedule, 0)


def test_a_job_alone_in_three_deaths_is_given_up_and_its_cell_goes_on() -> None:
    schedule = WorkSchedule([work(0, 2, num_pairs=8)], first_rate=1e6)
    taken = careful(schedule)
    for death in range(1, DEATHS_OF_A_JOB + 1):
        assert taken.given_up == ()
        assert died_of(schedule, 0, taken, job=5) == (death == DEATHS_OF_A_JOB)
        if death == 1:
            # The other cell of the slice comes in between: suspects wait in a line.
            other = next_of(schedule, 0)
            assert other.k_lo == 1
            schedule.report(0, other, 1, 1.0, is_over=True)
        taken = next_of(schedule, 0)
    assert (taken.k_lo, taken.careful, taken.given_up) == (0, True, ((5, 6),))
    schedule.report(0, taken, 1, 1.0, is_over=True)
    assert schedule.is_empty


def test_deaths_of_different_jobs_are_counted_apart() -> None:
    schedule = WorkSchedule([work(0, 1, num_pairs=8)], first_rate=1e6)
    taken = careful(schedule)
    for job in (1, 2, 1, 2):
        assert not died_of(schedule, 0, taken, job)
        taken = next_of(schedule, 0)
    assert died_of(schedule, 0, taken, 1)


def test_a_death_before_any_job_is_begun_is_blamed_on_none() -> None:
    schedule = WorkSchedule([work(0, 1, num_pairs=8)], first_rate=1e6)
    taken = careful(schedule)
    for _ in range(10):
        assert not died_of(schedule, 0, taken)
        taken = next_of(schedule, 0)
    assert taken.given_up == ()


def test_a_cell_whose_jobs_kill_one_after_the_other_is_given_up_whole() -> None:
    schedule = WorkSchedule([work(0, 1, num_pairs=8)], first_rate=1e6)
    taken = careful(schedule)
    for job in range(JOBS_OF_A_CELL):
        for _ in range(DEATHS_OF_A_JOB):
            died_of(schedule, 0, taken, job)
            taken = next_of(schedule, 0)
    assert taken.given_up == ((0, 8),)


def test_retries_run_beside_the_open_work_of_the_same_tile() -> None:
    failed = TileWork(
        0, 0, 4, np.full(10, 5, np.uint32), [(2, 4, BOTH)], replaces="some part", jobs=((9, 11), (14, 15))
    )
    schedule = WorkSchedule([work(0, 10, num_pairs=4), failed], first_rate=1e6)
    schedule.join(0)
    whole, retry = next_of(schedule, 0), next_of(schedule, 0)
    assert (whole.replaces, whole.k_lo, whole.k_hi) == (None, 0, 10)
    assert (retry.replaces, retry.k_lo, retry.k_hi, retry.jobs) == ("some part", 2, 4, ((9, 11), (14, 15)))
    schedule.report(0, retry, 1, 1.0, is_over=True)
    rest = next_of(schedule, 0)
    assert (rest.k_lo, rest.k_hi, rest.jobs) == (3, 4, ((14, 15),))


def test_no_more_jobs_are_given_than_are_allowed_but_for_one_cell() -> None:
    schedule = WorkSchedule([work(0, 100)], first_rate=1e6)
    schedule.join(0)
    for most_jobs, num_cells in ((200, 3), (64, 1), (1, 1)):
        taken = schedule.next_part(0, 10.0, most_jobs)
        assert taken is not None and taken.k_hi - taken.k_lo == num_cells
