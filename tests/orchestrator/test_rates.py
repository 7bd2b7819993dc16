"""Promise: how fast a model was on this machine is remembered, and no damage to that memory stops a run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from plan.world import lane_of

from orchestrator.plan.tables import Lane
from orchestrator.run.throughput import (
    FLOPS_PER_CORE,
    estimate_rate,
    known_pace,
    remember_pace,
    remember_rate,
)
from workers.model.cache import cache_folder


@pytest.fixture
def lane(tiny_folder: Path) -> Lane:
    return lane_of(tiny_folder)


def test_before_anything_was_measured_the_models_size_decides(lane: Lane) -> None:
    large = replace(lane, num_parameters=10**9)
    assert estimate_rate(large, 1) == FLOPS_PER_CORE / 2e9
    assert estimate_rate(large, 4) == 4 * estimate_rate(large, 1)


def test_what_was_measured_is_remembered_for_this_model_and_these_threads(lane: Lane) -> None:
    guess = estimate_rate(lane, 2)
    remember_rate(lane, 1, 123.0)
    remember_rate(lane, 1, 456.0)
    assert estimate_rate(lane, 1) == 456.0
    assert estimate_rate(lane, 2) == guess
    other = replace(lane, spec=lane.spec.model_copy(update={"dtype": "bfloat16"}))
    assert estimate_rate(other, 1) != 456.0


@pytest.mark.parametrize(
    "text", ["", "no json", "[1]", '{"KEY": "fast"}', '{"KEY": 0}', '{"KEY": Infinity}', '{"KEY": NaN}']
)
def test_a_damaged_memory_is_forgotten(lane: Lane, text: str) -> None:
    guess = estimate_rate(lane, 1)
    remember_rate(lane, 1, 456.0)
    path = cache_folder() / "rates.json"
    (key,) = json.loads(path.read_text())
    path.write_text(text.replace("KEY", key))
    assert estimate_rate(lane, 1) == guess
    remember_rate(lane, 1, 789.0)
    assert estimate_rate(lane, 1) == 789.0


def test_a_cache_that_cannot_be_written_stops_nothing(lane: Lane) -> None:
    (cache_folder() / "rates.json").mkdir(parents=True)
    before = sorted(cache_folder().iterdir())
    remember_rate(lane, 1, 456.0)
    assert estimate_rate(lane, 1) != 456.0
    assert sorted(cache_folder().iterdir()) == before


def test_a_pace_is_remembered_for_this_model_this_device_and_these_threads(lane: Lane) -> None:
    assert known_pace(lane, "cpu", 1) == {}
    remember_pace(lane, "cpu", 1, {"rows/5": 64})
    remember_pace(lane, "cpu", 1, {"rows/5": 128, "rows/24": 32})
    assert known_pace(lane, "cpu", 1) == {"rows/5": 128, "rows/24": 32}
    assert known_pace(lane, "cpu", 2) == known_pace(lane, "NVIDIA H100", 1) == {}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"KEY": 3}', '{"KEY": {"rows/5": "64", "rows/6": -1, "rows/7": 1.5}}']
)
def test_a_damaged_pace_is_forgotten(lane: Lane, text: str) -> None:
    remember_pace(lane, "cpu", 1, {"rows/5": 64})
    path = cache_folder() / "paces.json"
    (key,) = json.loads(path.read_text())
    path.write_text(text.replace("KEY", key))
    assert known_pace(lane, "cpu", 1) == {}
