"""Promise: how long trainings still take is told by their steps: those of the ones that go on, and for the
others in the proportions of what a step costs; and the sweep that follows is counted in."""

from collections.abc import Mapping
from typing import Any

import pytest
from test_trainings import IIT, STUDY, study

from orchestrator.plan.trainings import PlannedTraining, TrainingPlan
from orchestrator.stages.train.stage import TrainingsLeft
from workers.model.references import resolve


def todo(**changed: Any) -> list[PlannedTraining]:
    train: Mapping[str, Any] = {"iit": {**IIT, **changed}}

    def unknown(name: str) -> list[PlannedTraining]:
        raise AssertionError(name)

    return list(TrainingPlan(study(STUDY, train=train), unknown, print).own)


def left(trainings: list[PlannedTraining], **options: Any) -> TrainingsLeft:
    return TrainingsLeft(
        trainings,
        facts=lambda one: resolve(one.spec.model, fetch=False),
        **{"done": {}, "num_tokens": 3.0, "num_workers": 1, **options},
    )


def test_nothing_is_said_before_a_step_was_made() -> None:
    found = left(todo())
    assert found.left_s(0.0) is None and found.factor is None
    found.handed(todo()[0].identity, 5.0)
    assert found.left_s(9.0) is None


def test_the_steps_of_one_tell_how_long_the_others_take() -> None:
    """4 trainings of 4 epochs of 40 examples in batches of 8: 20 steps each."""
    trainings = todo()
    found = left(trainings)
    found.took(trainings[0].identity, 5, 20, 10.0, is_over=False)
    assert found.left_s(0.0) == pytest.approx(15 * 2.0 + 3 * 40.0, rel=0.02)
    found.handed(trainings[0].identity, 100.0)
    assert found.left_s(106.0) == pytest.approx(150.0 - 6.0, rel=0.02)
    found.took(trainings[0].identity, 20, 20, 30.0, is_over=True)
    assert found.left_s(0.0) == pytest.approx(120.0, rel=0.02)


def test_one_whose_steps_cost_more_is_expected_to_take_longer() -> None:
    wide = {**IIT["model"], "width": "$width"}
    trainings = todo(**{"for": {"width": [24, 960]}, "losses": [{"task": "T1"}], "seeds": [0], "model": wide})
    small, large = (left([one]) for one in trainings)
    assert len(trainings) == 2
    both = left(trainings)
    both.took(trainings[0].identity, 20, 20, 20.0, is_over=True)
    only = both.left_s(0.0)
    assert only is not None and only > 1.5 * 20.0
    assert small.left_s(0.0) is None and large.left_s(0.0) is None


def test_one_that_goes_on_has_less_before_it() -> None:
    trainings = todo()
    first, second = trainings[0].identity, trainings[1].identity
    found = left(trainings[:2], done={first: 10})
    found.took(first, 15, 20, 5.0, is_over=False)
    assert found.left_s(0.0) == pytest.approx(5 * 1.0 + 20 * 1.0, rel=0.02)
    found.took(second, 5, 20, 5.0, is_over=False)
    assert found.left_s(0.0) == pytest.approx(5 + 15, rel=0.02)


def test_side_by_side_they_take_as_long_as_their_share_or_the_longest() -> None:
    trainings = todo()
    found = left(trainings, num_workers=3)
    for one, step in zip(trainings, (19, 19, 19, 0), strict=True):
        found.took(one.identity, step, 20, float(step), is_over=False)
    assert found.left_s(0.0) == pytest.approx(20.0, rel=0.05), "one alone is as long as it is"
    found.took(trainings[3].identity, 18, 20, 18.0, is_over=False)
    assert found.left_s(0.0) == pytest.approx((1 + 1 + 1 + 2) / 3, rel=0.25)


def test_what_comes_after_is_told_how_slow_this_machine_is() -> None:
    trainings = todo()
    asked: list[tuple[float, float]] = []

    def later(factor: float, start_s: float) -> float:
        asked.append((factor, start_s))
        return 1000.0

    found = left(trainings[:1], later=later, began=100.0)
    found.joined(107.0)
    found.joined(150.0)
    found.took(trainings[0].identity, 10, 20, 10.0, is_over=False)
    assert found.left_s(0.0) == pytest.approx(1010.0)
    assert asked == [(found.factor, 7.0)]
    slower = left(trainings[:1])
    slower.took(trainings[0].identity, 10, 20, 50.0, is_over=False)
    assert slower.factor == pytest.approx(5 * (found.factor or 0.0))
