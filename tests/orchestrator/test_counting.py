"""Promise: pairs that are counted by bits are as many as those counted by their ids."""

from pathlib import Path

import pytest
from small_store import make_study

from orchestrator.query.axes import distinct_pairs
from orchestrator.query.connection import connect
from orchestrator.query.statements import run_query


@pytest.mark.parametrize("keys", ["layer", "site, layer, base_position", "study", "tier, label"])
def test_pairs_by_bits_are_as_many_as_by_their_ids(keys: str, tmp_path: Path) -> None:
    root = make_study(tmp_path / "s", dtypes=("float32", "bfloat16"))
    with connect([root]) as connection:
        view, num_pairs = distinct_pairs(connection, "results")
        assert view != "results"
        counted, by_ids = (
            run_query(
                connection, f"SELECT {keys}, {how}, count(*) FROM {of} GROUP BY {keys} ORDER BY ALL"
            ).fetchall()
            for how, of in ((num_pairs, view), ("count(DISTINCT pair_id)", "results"))
        )
        assert counted == by_ids and all(0 < row[-2] <= row[-1] for row in counted)
        nothing = run_query(connection, f"SELECT {num_pairs} FROM {view} WHERE layer > 99").fetchall()
        assert nothing == [(0,)]


def test_pairs_of_several_studies_and_of_other_views_are_counted_by_their_ids(tmp_path: Path) -> None:
    roots = [make_study(tmp_path / name) for name in ("a", "b")]
    with connect(roots[:1]) as connection:
        assert distinct_pairs(connection, "scores") == ("scores", "count(DISTINCT pair_id)")
    other = make_study(tmp_path / "c", columns={"x": [1, 2, 3, 4]})
    with connect([*roots, other]) as connection:
        assert distinct_pairs(connection, "results")[0] == "results"


def test_pairs_that_two_studies_share_are_counted_once(tmp_path: Path) -> None:
    roots = [make_study(tmp_path / name) for name in ("a", "b")]
    with connect(roots) as connection:
        view, num_pairs = distinct_pairs(connection, "results")
        found = run_query(connection, f"SELECT {num_pairs}, count(DISTINCT pair_id) FROM {view}").fetchall()
    assert found == [(4, 4)]
