"""Promise: what an engine found of its pace is remembered for the model and the device, and written only when
it is new; captures get a share of the memory that they lie in."""

from pathlib import Path

import pytest
import torch
from plan.world import lane_of, planned, row, study

from orchestrator.machine import memory_bytes
from orchestrator.plan.tables import Plan
from orchestrator.run.engines import CAPTURE_SHARE, DEVICE_SHARE, Engines, capture_budget_bytes
from orchestrator.run.throughput import known_pace
from workers.engine.batch import Batch
from workers.model.cache import cache_folder


@pytest.fixture
def plan(tiny_folder: Path) -> Plan:
    return planned(
        study(tiny_folder, [row("Spain", "Italy")], "[{site: mlp_output, layers: all, positions: all}]")
    )


def worked(plan: Plan, share: float = 1.0) -> Engines:
    """Engines of which one has run the plan's jobs."""
    engines = Engines(threads=1, num_sharing=1, share=share)
    batch = Batch(cells=list(plan.cells.items()), pairs=list(plan.pairs.values()), families=("logits",))
    engines.of(plan.lanes[0]).run(batch)
    return engines


def test_an_engine_begins_at_the_pace_that_another_found(plan: Plan) -> None:
    engines = worked(plan)
    found = engines.of(plan.lanes[0]).pace()
    assert found
    engines.keep_pace()
    assert known_pace(plan.lanes[0], "cpu", 1) == found
    assert Engines(threads=1, num_sharing=1).of(plan.lanes[0]).pace() == found
    assert not Engines(threads=2, num_sharing=1).of(plan.lanes[0]).pace()


def test_a_pace_that_is_known_is_not_written_again(plan: Plan) -> None:
    engines = worked(plan)
    engines.keep_pace()
    (cache_folder() / "paces.json").unlink()
    engines.keep_pace()
    assert not (cache_folder() / "paces.json").exists()


def test_an_engine_with_little_memory_neither_tells_nor_takes_a_pace(plan: Plan) -> None:
    worked(plan).keep_pace()
    engines = Engines(threads=1, num_sharing=1, share=0.5)
    assert not engines.of(plan.lanes[0]).pace()
    (cache_folder() / "paces.json").unlink()
    worked(plan, share=0.5).keep_pace()
    assert not (cache_folder() / "paces.json").exists()


def test_without_a_model_there_is_no_pace_to_keep(tiny_folder: Path) -> None:
    Engines(threads=1, num_sharing=1).keep_pace()
    assert not known_pace(lane_of(tiny_folder), "cpu", 1)


def test_captures_on_a_cpu_share_the_memory_with_the_workers_beside() -> None:
    alone, both = (capture_budget_bytes(torch.device("cpu"), num) for num in (1, 2))
    assert alone == memory_bytes() // CAPTURE_SHARE
    assert both == memory_bytes() // 2 // CAPTURE_SHARE


@pytest.mark.cuda
def test_captures_on_a_device_take_a_share_of_what_is_free_there() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    taken = torch.empty(1 << 28, dtype=torch.uint8, device=device)
    budget = capture_budget_bytes(device, 1)
    assert 0 < budget <= (torch.cuda.get_device_properties(device).total_memory - len(taken)) // DEVICE_SHARE
