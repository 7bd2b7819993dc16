"""Promise: a study that asks only for what the labels get computes nothing else and has the numbers of any;
asked for more, it runs what is lacking, and asked for less, nothing."""

from pathlib import Path
from typing import Any

import numpy as np
from running import TOLERANCE, capital_pairs, write_study

import swapyard as sy
from orchestrator.store import StudyStore

SHOWN = ("logit_diff", "flip", "label_logit", "base_label_logit")
OTHERS = ("label_logprob", "prob", "label_rank", "pred_id", "iia", "changed", "near_tie", "kl_base")


def run(tmp_path: Path, model: Path, store: str, metrics: list[str] | None) -> sy.Results:
    """Run into the study folder ``store/few``."""
    file = write_study(tmp_path, "few", model, capital_pairs(), metrics=metrics)
    return sy.run(str(file), store=tmp_path / store, replace=True, executor="inline", quiet=True)


def columns(found: sy.Results, names: tuple[str, ...]) -> dict[str, Any]:
    return found.sql(f"SELECT {', '.join(names)} FROM results ORDER BY job_id").fetchnumpy()


def families(tmp_path: Path, store: str) -> set[tuple[str, ...]]:
    return {part.families for part in StudyStore(tmp_path / store / "few").state().live.values()}


def test_a_study_of_logit_differences_has_the_numbers_of_the_whole_one(
    tmp_path: Path, tiny_folder: Path
) -> None:
    few = run(tmp_path, tiny_folder, "few", ["logit_diff"])
    whole = run(tmp_path, tiny_folder, "whole", None)
    assert families(tmp_path, "few") == {("labels",)}
    assert families(tmp_path, "whole") == {("logits", "kl")}
    wanted = columns(whole, SHOWN)
    bound = TOLERANCE * max(np.abs(wanted[name]).max() for name in SHOWN)
    for name, column in columns(few, SHOWN).items():
        np.testing.assert_allclose(column, wanted[name], rtol=0, atol=2 * bound)
    counted = ", ".join(f"count({name})" for name in OTHERS)
    assert few.sql(f"SELECT {counted} FROM results").fetchall() == [(0,) * len(OTHERS)]
    tiers = "SELECT tier, count(*) FROM results GROUP BY 1 ORDER BY 1"
    assert few.sql(tiers).fetchall() == whole.sql(tiers).fetchall()


def test_more_metrics_run_what_is_lacking_and_fewer_run_nothing(tmp_path: Path, tiny_folder: Path) -> None:
    run(tmp_path, tiny_folder, "grown", ["logit_diff", "flip"])
    grown = run(tmp_path, tiny_folder, "grown", None)
    assert families(tmp_path, "grown") == {("labels",), ("logits", "kl")}
    whole = run(tmp_path, tiny_folder, "whole", None)
    # Where both are there, a row's logits are of one run: they fit its probabilities to the last digit.
    names = ("job_id", "label_logit", "label_logprob", "prob", "pred_id", "kl_base")
    ours, theirs = columns(grown, names), columns(whole, names)
    for name in names:
        np.testing.assert_array_equal(ours[name], theirs[name])
    num_parts = len(StudyStore(tmp_path / "whole" / "few").state().live)
    fewer = run(tmp_path, tiny_folder, "whole", ["flip"])
    assert len(StudyStore(tmp_path / "whole" / "few").state().live) == num_parts
    assert fewer.sql("SELECT sum(num_jobs - num_done) FROM cells").fetchall() == [(0,)]
