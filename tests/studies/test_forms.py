"""Promise: the grammar inside values reads what it says and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.language.grammar import (
    Sum,
    is_reference,
    parse_box,
    parse_every_span,
    parse_range,
    parse_span,
    parse_subspace,
    parse_sum,
    references,
    substitute,
)

NAMES = {"layer": 5, "a": 2, "pair.verb": 3}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("$layer", 5),
        ("$layer+1", 6),
        ("$layer - $a", 3),
        ("$pair.verb+1-1", 3),
        ("10-$layer-$a", 3),
    ],
)
def test_a_sum_is_added_from_the_left(text: str, value: int) -> None:
    found = parse_sum(text)
    assert found is not None
    assert found.value(NAMES.__getitem__) == value


@pytest.mark.parametrize("text", ["", "-1", "$", "layer", "$layer*2", "$layer+", "1:2", "$1", "1.5"])
def test_what_is_no_sum_is_none(text: str) -> None:
    assert parse_sum(text) is None


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 30))
def test_a_range_is_clipped_and_never_wraps(start: int, stop: int, count: int) -> None:
    found = parse_range(f"$layer-{start}:$layer+{stop}")
    assert found is not None
    low, high = 5 - start, 5 + stop
    assert found.indices(count, NAMES.__getitem__) == tuple(n for n in range(count) if low <= n < high)


@pytest.mark.parametrize(
    ("text", "indices"),
    [(":", (0, 1, 2)), ("1:", (1, 2)), (":2", (0, 1)), ("2:1", ()), ("9:", ()), ("0:99", (0, 1, 2))],
)
def test_an_end_left_out_is_the_models_own(text: str, indices: tuple[int, ...]) -> None:
    found = parse_range(text)
    assert found is not None
    assert found.indices(3, NAMES.__getitem__) == indices


def test_a_span_may_name_one_token() -> None:
    assert parse_span("subject") == ("subject", None)
    assert parse_span("subject.last") == ("subject", ".last")
    assert parse_span("subject[-1]") == ("subject", "[-1]")
    assert parse_span("subject.middle") is None
    assert parse_span("subject[a]") is None


def test_every_span_is_told_from_one() -> None:
    assert parse_every_span("spans") == ""
    assert parse_every_span("spans.last") == ".last"
    assert parse_every_span("subject.last") is None


def test_a_subspace_is_dimensions_or_a_fits() -> None:
    assert parse_subspace("0:16") == (None, parse_range("0:16"))
    assert parse_subspace("R") == ("R", None)
    assert parse_subspace("R[0:16]") == ("R", parse_range("0:16"))
    assert parse_subspace("16:") is None
    assert parse_subspace("R[3]") is None


def test_references_are_found_however_deep() -> None:
    assert references(["$a", {"k": ("model.$layer.mlp", 3)}]) == {"a", "layer"}
    assert is_reference("$pair.verb")
    assert not is_reference("$a+1")


def test_references_in_a_path_are_filled_in() -> None:
    assert substitute("model.layers.$layer.mlp:input", NAMES.__getitem__) == "model.layers.5.mlp:input"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1:3, 4:9", [(1, 3), (4, 9)]),
        ("-1,:", [-1, (None, None)]),
        ("-3:, :-2 ,0", [(-3, None), (None, -2), 0]),
        ("$layer:$layer+2", [(5, 7)]),
    ],
)
def test_a_rectangle_has_an_index_or_a_range_for_each_dimension(text: str, found: list[object]) -> None:
    def value(end: Sum | None) -> int | None:
        return None if end is None else end.value({"layer": 5}.__getitem__)

    parsed = parse_box(text)
    assert parsed is not None
    assert [tuple(map(value, part)) if isinstance(part, tuple) else value(part) for part in parsed] == found


@pytest.mark.parametrize("text", ["", "1:2:3", "a", "1 2", "1,,2", "1:-", "--1"])
def test_what_is_no_rectangle(text: str) -> None:
    assert parse_box(text) is None
