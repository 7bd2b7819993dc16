"""Promise: random vectors are the same on every machine, and more of them only add to those there were."""

from itertools import islice
from typing import Any

import pytest

from studies.tasks import find_task
from workers.errors import StudyError
from workers.vocabulary import Vectors


def drawn(count: int, seed: int = 0, **options: Any) -> list[Any]:
    return list(islice(find_task("random_embeds").candidates(seed=seed, options=options), count))


def test_the_numbers_are_pinned() -> None:
    (row,) = drawn(1, shape=(1, 3))
    expected = Vectors.of([[14167047 / 2**24, 6463343 / 2**24, 12716364 / 2**24]])
    assert row == {"base_embeds": expected, "source_embeds": row["source_embeds"]}
    assert row["source_embeds"] != row["base_embeds"]


def test_a_pair_has_the_shape_and_the_sources_that_are_asked_for() -> None:
    (row,) = drawn(1, shape=(10, 2), num_sources=3)
    assert list(row) == ["base_embeds", "source_embeds", "source_2_embeds", "source_3_embeds"]
    assert {vectors.shape for vectors in row.values()} == {(10, 2)}
    assert list(drawn(1, shape=(1, 2), num_sources=0)[0]) == ["base_embeds"]


def test_the_seed_alone_decides_and_more_pairs_only_add() -> None:
    first = drawn(3, shape=(2, 2))
    assert drawn(9, shape=(2, 2))[:3] == first
    assert drawn(3, seed=1, shape=(2, 2)) != first


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "shape None; give [T, E]"),
        ({"shape": (32,)}, "shape (32,); give [T, E]"),
        ({"shape": (0, 2)}, "shape (0, 2); give [T, E]"),
        ({"shape": (1, 2), "num_sources": -1}, "num_sources -1; give a whole number from 0"),
    ],
)
def test_an_impossible_option_is_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(StudyError) as caught:
        drawn(1, **options)
    assert str(caught.value).startswith("task random_embeds: ") and text in str(caught.value)
