"""Promise: the bundled studies run as they stand, show what the seed documents show and draw their plots."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import swapyard as sy
from orchestrator.plots import draw_study
from studies.load import BUNDLED

EXACT = 1e-6
"""A divergence that is 0 but for how floats round."""


def run(study: sy.Study, store: Path) -> sy.Results:
    """All of a study in this process; nothing failed."""
    results = sy.run(study, store=store, executor="inline", quiet=True)
    assert results.sql("SELECT count(*) FROM failures").fetchall() == [(0,)]
    return results


def pictures(results: sy.Results) -> set[str]:
    assert results.outcome is not None
    return {Path(path).name for path in draw_study(results.outcome.root)}


def one_row(results: sy.Results, sql: str) -> tuple[Any, ...]:
    (row,) = results.sql(sql).fetchall()
    return tuple(row)


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> sy.Results:
    return run(sy.load_study("mlp-halves"), tmp_path_factory.mktemp("halves"))


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> sy.Results:
    return run(sy.load_study("gru-steps"), tmp_path_factory.mktemp("steps"))


def test_a_whole_rotation_is_the_source_however_it_is_put_together(halves: sy.Results) -> None:
    found = halves.sql(
        f"""SELECT block, subspace, second, count(*), bool_and(abs(kl_source) < {EXACT}), min(kl_base) > 0
            FROM results WHERE subspace = 'R' OR second = 'source' GROUP BY ALL ORDER BY ALL"""
    )
    assert found.fetchall() == [
        ("halves", None, "source", 10, True, True),
        ("parts", "R", None, 10, True, True),
    ]


def test_half_of_a_source_and_halves_of_two_are_neither_base_nor_source(halves: sy.Results) -> None:
    assert one_row(
        halves,
        f"""SELECT count(*), count(DISTINCT cell_id), min(kl_base) > {EXACT}, min(kl_source) > {EXACT}
            FROM results WHERE subspace <> 'R' OR second = 'source_2'""",
    ) == (30, 3, True, True)


def test_all_parts_are_of_one_rotation(halves: sy.Results) -> None:
    assert one_row(halves, "SELECT count(*), any_value(method), bool_and(made) FROM fits") == (
        1,
        "random_rotation",
        True,
    )


def test_a_later_swap_overrides_what_earlier_ones_did(steps: sy.Results) -> None:
    found = steps.sql(
        """SELECT "to", list([kl_base, tv_base, kl_source] ORDER BY pair_id) FROM results
           WHERE block = 'steps' GROUP BY ALL"""
    )
    answers: dict[str, list[list[float]]] = dict(found.fetchall())
    assert {written: len(rows) for written, rows in answers.items()} == dict.fromkeys(
        ("[0, 2, 4]", "4", "[0, 2]", "2"), 10
    )
    assert flat(answers["[0, 2, 4]"]) == pytest.approx(flat(answers["4"]), abs=EXACT)
    assert flat(answers["[0, 2]"]) == pytest.approx(flat(answers["2"]), abs=EXACT)
    assert flat(answers["4"]) != pytest.approx(flat(answers["2"]), abs=EXACT)


def flat(rows: Iterable[Iterable[float]]) -> list[float]:
    return [value for row in rows for value in row]


def test_a_step_that_is_not_swapped_goes_on_from_the_changed_state_before_it(steps: sy.Results) -> None:
    """The source's state is neither lost nor kept as it was: it fades, step after step."""
    found = steps.sql(
        """SELECT base_position, avg(tv_base), min(tv_base) > 0, min(kl_source) FROM results
           WHERE block = 'fading' GROUP BY ALL ORDER BY ALL"""
    ).fetchall()
    assert [position for position, *_ in found] == list(range(10))
    effects = [effect for _, effect, *_ in found]
    assert effects == sorted(effects)
    assert all(is_there for _, _, is_there, _ in found)
    assert effects[0] < effects[-1] / 100
    assert found[-1][3] < EXACT


def test_the_state_of_the_last_step_is_the_answer_also_by_halves(steps: sy.Results) -> None:
    found = steps.sql(
        f"""SELECT coalesce(second, 'whole'), max(kl_source) < {EXACT}, min(tv_base) > 0, count(*)
            FROM results WHERE second IS NOT NULL OR block = 'fading' AND base_position = 9
            GROUP BY ALL ORDER BY ALL"""
    )
    assert found.fetchall() == [
        ("source", True, True, 10),
        ("source_2", False, True, 10),
        ("whole", True, True, 10),
    ]


def test_their_pictures_are_drawn_without_words_for_the_steps(halves: sy.Results, steps: sy.Results) -> None:
    assert pictures(halves) == {"parts.png", "parts.svg"}
    assert pictures(steps) == {"fading.png", "fading.svg"}
    assert steps.outcome is not None
    drawn = (steps.outcome.root / "plots" / "fading.svg").read_text(encoding="utf-8")
    assert "<!-- 9 -->" in drawn and "…" not in drawn


def test_factual_recall_has_a_row_for_each_token_layer_and_component(
    tmp_path: Path, tiny_folder: Path
) -> None:
    text = (BUNDLED / "factual-recall.yaml").read_text(encoding="utf-8")
    results = run(sy.load_study(text.replace("smollm2-135m", str(tiny_folder))), tmp_path)
    assert one_row(results, "SELECT count(*), count(DISTINCT job_id) FROM results") == (2 * 3 * 5, 2 * 3 * 5)
    scored = results.sql("SELECT token, count(*), min(prob) > 0 FROM scores GROUP BY ALL ORDER BY ALL")
    assert scored.fetchall() == [(" Madrid", 30, True), (" Rome", 30, True)]
    unmoved = "SELECT max(kl_base) FROM results WHERE base_position < 3"
    assert one_row(results, unmoved) == (0,)
    assert pictures(results) == {"heat.png", "heat.svg", "bars.png", "bars.svg"}


@pytest.mark.smollm2
@pytest.mark.timeout(900)
def test_in_the_real_model_the_country_moves_by_one_mlp_and_one_attention(tmp_path: Path) -> None:
    results = run(sy.load_study("factual-recall"), tmp_path)
    assert one_row(results, "SELECT count(*) FROM results") == (2 * 30 * 5,)
    lifted = results.sql(
        """SELECT site, layer, base_tokens[base_position + 1], round(prob, 3), iia FROM results
           WHERE prob > 0.1 ORDER BY prob DESC"""
    )
    assert lifted.fetchall() == [
        ("mlp_output", 0, " Spain", 0.381, 1),
        ("attention_input", 23, " Spain", 0.280, 1),
    ]
    assert one_row(results, "SELECT max(prob) < 0.01 FROM results WHERE base_position = 4") == (True,)
