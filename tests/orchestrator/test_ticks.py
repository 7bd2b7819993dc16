"""Promise: ticks of a logarithmic axis are distinct plain numbers, two to nine of them, between its ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plots.style import both_signs_ticks, log_ticks, texts_of_ticks


@given(st.floats(1e-30, 1e30), st.floats(1.0001, 1e12))
def test_ticks_are_distinct_and_lie_on_the_axis(low: float, times: float) -> None:
    high = low * times
    ticks = log_ticks(low, high)
    texts = texts_of_ticks(ticks)
    assert 2 <= len(ticks) <= 9 and len(set(texts)) == len(ticks)
    for tick, text in zip(ticks, texts, strict=True):
        assert low * (1 - 1e-8) <= float(text) <= high * (1 + 1e-8)
        assert float(text) == pytest.approx(tick, rel=1e-9)


@pytest.mark.parametrize(
    ("ends", "texts"),
    [
        ((1e-3, 1e3), ["0.001", "0.01", "0.1", "1", "10", "100", "1000"]),
        ((0.1, 0.9), ["0.1", "0.2", "0.5"]),
        ((0.5, 0.52), ["0.5", "0.505", "0.51", "0.515", "0.52"]),
        ((1e-9, 1.0), ["1e-09", "1e-07", "1e-05", "0.001", "0.1"]),
    ],
)
def test_ticks_are_round_numbers(ends: tuple[float, float], texts: list[str]) -> None:
    assert texts_of_ticks(log_ticks(*ends)) == texts


def test_a_scale_of_both_signs_has_ticks_on_both_sides() -> None:
    assert texts_of_ticks(both_signs_ticks(0.01, 1.0)) == ["-1", "-0.1", "-0.01", "0", "0.01", "0.1", "1"]
