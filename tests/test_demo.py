"""Promise: on the real model the bundled study finds what is known of it, and the sanity checks hold."""

from pathlib import Path

import pytest

import swapyard as sy

pytestmark = pytest.mark.smollm2

COUNTRY, LAST = 3, 4
"""Positions of "The capital of Spain is"."""
NUM_LAYERS = 30
TOLERANCE = 1e-5
"""Of the largest absolute logit, which is about 20."""


@pytest.fixture(scope="module")
def capitals(tmp_path_factory: pytest.TempPathFactory) -> sy.Results:
    """The bundled study with 8 pairs and a few of its layers."""
    study = sy.load_study("capitals")
    assert study.task is not None
    sweep = (
        sy.Block(site="block_output", layers=[2, NUM_LAYERS - 1], positions="all"),
        sy.Block(site="mlp_output", layer=15, positions="all"),
    )
    small = study.model_copy(
        update={"task": study.task.model_copy(update={"num_pairs": 8}), "sweep": sweep, "plots": None}
    )
    return sy.run(small, store=tmp_path_factory.mktemp("capitals"), executor="inline", quiet=True)


@pytest.fixture(scope="module")
def spain(tmp_path_factory: pytest.TempPathFactory) -> sy.Results:
    """Spain with the values of Italy, and with its own."""
    spain = {"base": "The capital of Spain is", "base_label": " Madrid"}
    italy = {"base": "The capital of Italy is", "base_label": " Rome"}
    study = sy.Study(
        study="spain",
        model="smollm2-135m",
        pairs=[
            {**spain, "source": italy["base"], "label": " Rome"},
            {**spain, "source": spain["base"], "label": " Barcelona"},
            {**italy, "source": spain["base"], "label": " Florence"},
        ],
        sweep=[
            sy.Block(site="block_output", layers=[2, NUM_LAYERS - 1], positions=[COUNTRY, LAST]),
            sy.Block(site="mlp_output", layer=15, positions=[COUNTRY, LAST]),
        ],
    )
    return sy.run(study, store=tmp_path_factory.mktemp("spain"), executor="inline", quiet=True)


def iia(results: sy.Results, site: str, layer: int, position: int) -> float:
    found = results.sql(
        f"SELECT avg(iia), count(*) FROM results WHERE site = '{site}' AND layer = {layer}"
        f" AND base_position = {position}"
    )
    ((share, count),) = found.fetchall()
    assert count == 8
    return float(share)


def test_every_job_is_done_once_and_none_fails(capitals: sy.Results) -> None:
    jobs = 3 * 5 * 8
    assert capitals.sql("SELECT count(*), count(DISTINCT job_id) FROM results").fetchall() == [(jobs, jobs)]
    assert capitals.sql("SELECT count(*) FROM failures").fetchall() == [(0,)]


def test_the_pairs_are_eight_that_the_model_answers_right(capitals: sy.Results) -> None:
    found = capitals.sql(
        "SELECT count(*) FILTER (kept), count(DISTINCT reason) FILTER (NOT kept) FROM inputs"
    )
    ((num_kept, num_reasons),) = found.fetchall()
    assert num_kept == 8 and num_reasons >= 2
    assert capitals.sql("SELECT DISTINCT base_run_pred_id = base_label_id FROM results").fetchall() == [
        (True,)
    ]


def test_the_model_says_what_it_is_known_to_say(spain: sy.Results) -> None:
    known = {
        ("The capital of Spain is", " Madrid"): 0.377,
        ("The capital of Spain is", " Barcelona"): 0.110,
        ("The capital of Italy is", " Rome"): 0.380,
        ("The capital of Italy is", " Florence"): 0.086,
    }
    found = spain.sql(
        """SELECT base, t.token, exp(t.logprob)
           FROM runs JOIN (SELECT DISTINCT pair_id, base, base_label, label FROM results) USING (pair_id),
           LATERAL (VALUES (base_label, base_label_logprob), (label, label_logprob)) t(token, logprob)
           WHERE run = 'base'"""
    )
    said = {(base, token): prob for base, token, prob in found.fetchall()}
    assert {key: said[key] for key in known} == pytest.approx(known, abs=0.001)
    top = spain.sql(
        """SELECT DISTINCT pred_token FROM runs JOIN inputs USING (pair_id)
           WHERE run = 'base' AND base = 'The capital of Spain is'"""
    )
    assert top.fetchall() == [(" Madrid",)]


def test_the_country_is_at_its_own_token_early_and_at_the_last_one_late(capitals: sy.Results) -> None:
    assert iia(capitals, "block_output", 2, COUNTRY) >= 0.9
    assert iia(capitals, "block_output", 2, LAST) <= 0.1
    assert iia(capitals, "block_output", NUM_LAYERS - 1, LAST) >= 0.99
    assert iia(capitals, "block_output", NUM_LAYERS - 1, COUNTRY) == 0


def test_one_mlp_in_the_middle_moves_nothing(capitals: sy.Results) -> None:
    assert max(iia(capitals, "mlp_output", 15, position) for position in range(5)) <= 0.1


def test_what_cannot_change_is_filled_in_and_equals_the_base_run(capitals: sy.Results) -> None:
    found = capitals.sql(
        """SELECT tier, count(*), max(kl_base), max(changed), max(abs(label_logit - base_run_label_logit))
           FROM results WHERE base_position < 3 GROUP BY tier"""
    )
    ((tier, count, kl, changed, distance),) = found.fetchall()
    assert (tier, count, kl, changed) == ("unchanged", 3 * 3 * 8, 0.0, 0.0)
    # The base run was made twice, beside other prompts each time.
    assert distance <= TOLERANCE * 20


def test_swapping_a_prompt_with_itself_changes_nothing(spain: sy.Results) -> None:
    found = spain.sql("SELECT DISTINCT tier, kl_base, changed FROM results WHERE base = source")
    assert found.fetchall() == [("unchanged", 0.0, 0.0)]


def test_the_last_block_at_the_last_token_gives_the_sources_logits(
    capitals: sy.Results, spain: sy.Results
) -> None:
    for results in (capitals, spain):
        found = results.sql(
            f"""SELECT max(abs(label_logit - source_run_label_logit)),
                       max(abs(base_label_logit - source_run_base_label_logit)),
                       bool_and(pred_id = source_run_pred_id), max(abs(label_logit))
                FROM results
                WHERE site = 'block_output' AND layer = {NUM_LAYERS - 1} AND base_position = {LAST}"""
        )
        ((label, base_label, same, scale),) = found.fetchall()
        assert max(label, base_label) <= TOLERANCE * scale and same


def test_the_answer_is_a_small_table(capitals: sy.Results, tmp_path: Path) -> None:
    from orchestrator.query.summary import answer

    assert capitals.outcome is not None
    shown = answer(capitals.outcome.root)
    assert shown is not None
    head, _, *lines = shown.splitlines()
    assert head.split()[:4] == ["block", "site", "layer", "base_position"]
    assert len(lines) == 6
