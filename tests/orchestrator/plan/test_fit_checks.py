"""Promise: a fit that cannot be made, or cannot give what a unit asks of it, is refused while planning."""

import json
from pathlib import Path
from typing import Any

import pytest

from workers.errors import StudyError

from .world import Row, planned, row, study

ROWS = [row("Spain", "Italy"), row("Peru", "Spain"), row("Italy", "Peru")]
LAST = {"site": "block_output", "layer": 0, "position": -1}


def refused(folder: Path, unit: dict[str, Any], fit: dict[str, Any], rows: list[Row] | None = None) -> str:
    with pytest.raises(StudyError) as caught:
        plan(folder, unit, fit, rows)
    return str(caught.value).replace(str(folder), "tiny")


def plan(folder: Path, unit: dict[str, Any], fit: dict[str, Any], rows: list[Row] | None = None) -> int:
    sweep = json.dumps([{**LAST, **unit}])
    return planned(study(folder, ROWS if rows is None else rows, sweep, fits={"R": fit})).num_jobs


def in_classes(base: str | None, source: str | None) -> list[Row]:
    return [{**one, "base_class": base, "source_class": source} for one in ROWS]


@pytest.mark.parametrize("method", ["das", "mask", "pca", "random_rotation"])
def test_a_rank_above_the_width_of_the_site(tiny_folder: Path, method: str) -> None:
    text = refused(tiny_folder, {"subspace": "R"}, {"method": method, "rank": 33})
    assert text.startswith("fits.R: rank 33 at block_output, layer 0")
    assert text.endswith(" of tiny, which has 32 dimensions; take a rank of at most 32")


@pytest.mark.parametrize(("site", "width"), [("query_output", 8), ("value_output", 8)])
def test_a_rank_above_the_width_of_a_head(tiny_folder: Path, site: str, width: int) -> None:
    unit = {"site": site, "head": [0, 1], "subspace": "R"}
    assert refused(tiny_folder, unit, {"method": "random_rotation", "rank": width + 1}) == (
        f"fits.R: rank {width + 1} at a head of {site}, layer 0 of tiny, which has {width} dimensions; take a"
        f" rank of at most {width}"
    )
    assert plan(tiny_folder, unit, {"method": "random_rotation", "rank": width}) == 3


def test_each_of_the_ranks_counts(tiny_folder: Path) -> None:
    assert "rank 64 at" in refused(tiny_folder, {"subspace": "R"}, {"method": "das", "ranks": [1, 64]})


def test_more_components_than_activations(tiny_folder: Path) -> None:
    assert refused(tiny_folder, {"subspace": "R"}, {"method": "pca", "rank": 7}) == (
        "fits.R: rank 7 of 6 activations (of 3 pairs at block_output, layer 0, position -1, base and source);"
        " take a rank of at most 6, or more pairs"
    )
    assert plan(tiny_folder, {"subspace": "R"}, {"method": "pca", "rank": 6}) == 3
    assert plan(tiny_folder, {"subspace": "R", "position": [3, 4]}, {"method": "pca", "rank": 12}) == 3


@pytest.mark.parametrize(
    ("fit", "part", "count"),
    [
        ({"method": "das", "rank": 2}, "R[0:999]", 2),
        ({"method": "das", "rank": 2}, "R[2:3]", 2),
        ({"method": "boundless"}, "R[0:33]", 32),
        ({"method": "mask"}, "R[30:33]", 32),
        ({"method": "pca", "rank": 3}, "R[0:4]", 3),
    ],
)
def test_a_part_beyond_the_coordinates_of_a_fit(
    tiny_folder: Path, fit: dict[str, Any], part: str, count: int
) -> None:
    text = refused(tiny_folder, {"subspace": part}, fit)
    assert text == (
        f"block0: subspace {part} reaches beyond the fit 'R' ({fit['method']}), which has {count} coordinates"
        f" at block_output, layer 0, position -1; end it at {count} or before"
    )


@pytest.mark.parametrize("rows", [ROWS, in_classes("a", None)])
def test_a_probe_needs_the_classes_of_all_pairs(tiny_folder: Path, rows: list[Row]) -> None:
    assert refused(tiny_folder, {"subspace": "R"}, {"method": "probe"}, rows) == (
        "fits.R: a probe needs the columns base_class and source_class, and 3 of the 3 pairs that it is made"
        " from lack one, such as pair 0; give them to every pair"
    )


def test_a_probe_tells_two_classes_apart_at_least(tiny_folder: Path) -> None:
    text = refused(tiny_folder, {"subspace": "R"}, {"method": "probe"}, in_classes("a", "a"))
    assert text.endswith("a probe is between two classes or more, and base_class and source_class of its 3"
                         " pairs name 'a'")  # fmt: skip
    assert plan(tiny_folder, {"subspace": "R[0:1]"}, {"method": "probe"}, in_classes("a", "b")) == 3


def test_a_difference_is_between_two_classes_or_has_none(tiny_folder: Path) -> None:
    rows = [*in_classes("a", "b")[:2], in_classes("a", "c")[2]]
    text = refused(tiny_folder, {"from": "R"}, {"method": "mean_difference"}, rows)
    assert text.endswith(
        "is between two classes, and base_class and source_class of its 3 pairs name 'a', 'b', 'c'"
    )
    half = [*in_classes("a", "b")[:2], ROWS[2]]
    assert (
        "1 of the 3 pairs that it is made from lack one, such as pair 2; give them to every pair, or to none"
        in (refused(tiny_folder, {"from": "R"}, {"method": "mean_difference"}, half))
    )
    assert plan(tiny_folder, {"from": "R"}, {"method": "mean_difference"}) == 3


def test_a_vector_of_another_width_than_its_place(tiny_folder: Path) -> None:
    unit = {"site": "mlp_activation", "from": {"run": "R", "site": "block_output"}}
    assert refused(tiny_folder, unit, {"method": "mean"}) == (
        "block0: the fit 'R' is a vector of 32 dimensions, made at block_output, layer 0, position -1, for"
        " the 48 of mlp_activation of tiny; make it where there are as many"
    )


def test_a_mean_by_position_at_a_token_that_it_never_saw(tiny_folder: Path) -> None:
    rows = [
        *({**one, "split": "train"} for one in ROWS),
        {**ROWS[0], "base": "The capital of of Spain is", "split": "test"},
    ]
    mean = {"method": "mean", "per": ["position"], "where": "split = 'train'"}
    assert refused(tiny_folder, {"position": "all", "from": "R"}, mean, rows) == (
        "block0: the fit 'R' has a mean for each token, and saw no pair with token 5 at block_output, layer"
        " 0, position all, which pair 3 needs; it saw 0 to 4. Fit it on pairs that have the token, or leave"
        " 'position' out of its per"
    )
    gap = {"position": [0, 2], "from": {"run": "R", "position": [0, 3]}}
    assert "saw no pair with token 2" in refused(tiny_folder, gap, {"method": "mean", "per": ["position"]})
    assert plan(tiny_folder, {"position": [0, 2], "from": "R"}, {"method": "mean", "per": ["position"]}) == 3


def test_a_run_that_no_pair_has(tiny_folder: Path) -> None:
    assert refused(tiny_folder, {"from": "R"}, {"method": "mean", "of": "source_9"}) == (
        "block0: fits.R: of: no pair has a run 'source_9'; the pairs have base, source; did you mean"
        " 'source'?"
    )
