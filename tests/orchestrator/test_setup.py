"""Promise: workers × threads never exceed the cores, more is refused, short work stays in this process."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan.world import planned, row, study

from orchestrator.machine import cores_text, memory_bytes, num_cores
from orchestrator.plan.tables import Plan
from orchestrator.run.device_setup import INLINE_BELOW_S, RunOptions, set_up, set_up_training, threads_of
from orchestrator.run.throughput import estimate_rate, remember_rate
from workers.errors import RunError


@pytest.fixture(autouse=True, scope="module")
def nobody_says_how_many_threads() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def plan(tiny_folder: Path) -> Plan:
    return planned(
        study(tiny_folder, [row("Spain", "Italy")], "[{site: mlp_output, layer: 0, positions: all}]")
    )


def chosen(plan: Plan, num_open: int, **options: Any) -> tuple[str, int, int]:
    setup = set_up(plan, num_open, RunOptions(**options))
    return setup.executor, setup.num_workers, setup.threads


@given(
    num_open=st.integers(0, 10**10),
    executor=st.sampled_from(["auto", "inline", "ray"]),
    num_workers=st.none() | st.integers(1, 2 * num_cores()),
)
def test_workers_times_threads_never_exceed_the_cores(
    plan: Plan, num_open: int, executor: str, num_workers: int | None
) -> None:
    try:
        _, workers, threads = chosen(plan, num_open, executor=executor, num_workers=num_workers)
    except RunError as error:
        assert num_workers is not None and (num_workers > num_cores() or executor == "inline"), error
    else:
        assert workers >= 1 and threads >= 1
        assert workers * threads <= num_cores()
        assert num_workers in (None, workers)


def test_more_workers_than_cores_are_refused(plan: Plan) -> None:
    cores = num_cores()
    with pytest.raises(RunError) as caught:
        chosen(plan, 10, num_workers=cores + 1)
    assert str(caught.value) == f"--workers {cores + 1}: this machine has {cores} cores; ask for at most that"


def test_several_workers_in_this_process_are_refused(plan: Plan) -> None:
    with pytest.raises(RunError, match="--workers 2: --executor inline is one worker in this process; leave"):
        chosen(plan, 10, executor="inline", num_workers=2)


def test_auto_is_inline_for_short_work_and_ray_for_long(plan: Plan) -> None:
    (lane,) = plan.lanes.values()
    remember_rate(lane, 1, 1000.0)
    jobs_per_s = num_cores() * 1000.0 / plan.costs[0].mean()
    short, long = (int(jobs_per_s * INLINE_BELOW_S * share) for share in (0.9, 1.1))
    assert chosen(plan, short) == ("inline", 1, num_cores())
    assert chosen(plan, long)[0] == "ray"
    assert set_up(plan, long, RunOptions()).why == f"about 22 s of work; {cores_text()}"
    assert set_up(plan, short, RunOptions()).why.startswith("short enough to be done sooner without Ray")


def test_fits_that_are_trained_are_work_too(tiny_folder: Path) -> None:
    def fitted(num_steps: int) -> Plan:
        rows = [row("Spain", "Italy"), row("Italy", "Spain"), row("Spain", "France"), row("France", "Italy")]
        fits = {"R": {"method": "das", "rank": 1, "num_steps": num_steps, "seed": 0}}
        sweep = "[{site: mlp_output, layers: all, position: -1, subspace: R}]"
        return planned(study(tiny_folder, rows, sweep, fits=fits))

    long = fitted(2000 * num_cores())
    assert chosen(fitted(20), 10)[0] == "inline" and chosen(long, 10)[0] == "ray"
    assert chosen(long, 0)[0] == "inline"


def test_what_is_asked_for_is_done(plan: Plan) -> None:
    assert chosen(plan, 1, executor="ray")[0] == "ray"
    assert chosen(plan, 10**10, executor="inline") == ("inline", 1, num_cores())
    assert chosen(plan, 1, executor="ray", num_workers=1) == ("ray", 1, num_cores())


def test_a_model_that_fills_the_memory_has_one_worker(plan: Plan) -> None:
    (lane,) = plan.head["lanes"]
    large = replace(plan, head={**plan.head, "lanes": [{**lane, "num_parameters": memory_bytes() // 6}]})
    assert chosen(large, 10**10) == ("ray", 1, num_cores())


def test_a_cluster_is_used_with_as_many_workers_as_asked(plan: Plan) -> None:
    setup = set_up(plan, 10, RunOptions(address="10.0.0.1:6379", num_workers=500))
    assert (setup.executor, setup.num_workers, setup.threads) == ("ray", 500, 1)
    assert setup.why == "on the Ray cluster at 10.0.0.1:6379"


def test_the_rate_is_that_of_one_worker_with_its_threads(plan: Plan) -> None:
    (lane,) = plan.lanes.values()
    setup = set_up(plan, 1, RunOptions(executor="inline"))
    assert setup.rate == estimate_rate(lane, setup.threads)


@pytest.mark.parametrize(
    ("asked", "environment", "threads", "said"),
    [
        (None, {}, None, ""),
        (None, {"OMP_NUM_THREADS": "1"}, 1, "OMP_NUM_THREADS=1 of "),
        (None, {"OMP_NUM_THREADS": "1,2"}, 1, "OMP_NUM_THREADS=1 of "),
        (None, {"MKL_NUM_THREADS": "1"}, 1, "MKL_NUM_THREADS=1 of "),
        (None, {"OMP_NUM_THREADS": "4096"}, num_cores(), "OMP_NUM_THREADS=4096 is more than the "),
        (None, {"OMP_NUM_THREADS": "many"}, None, "OMP_NUM_THREADS='many' is no number of threads"),
        (1, {"OMP_NUM_THREADS": "4096"}, 1, "--threads 1 of "),
        (4096, {}, 4096, "--threads 4096, more than the "),
    ],
)
def test_threads_are_those_asked_for_and_said(
    asked: int | None, environment: dict[str, str], threads: int | None, said: str
) -> None:
    found = threads_of(asked, environment)
    assert found.asked == threads and said in found.why and cores_text() in found.why


def test_workers_leave_room_for_the_threads_asked_for(plan: Plan) -> None:
    every = num_cores()
    assert chosen(plan, 10**10, executor="ray", threads=every) == ("ray", 1, every)
    assert chosen(plan, 10**10, executor="inline", threads=1) == ("inline", 1, 1)
    assert set_up_training(plan, 3, RunOptions(threads=every)).num_workers == 1


def test_the_cpu_affinity_is_honoured_and_said(plan: Plan) -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert chosen(plan, 1, executor="inline") == ("inline", 1, 1)
        if (os.cpu_count() or 1) > 1:
            assert "by the CPU affinity" in set_up(plan, 1, RunOptions(executor="inline")).why
    finally:
        os.sched_setaffinity(0, before)
