"""A study that is changed and run again ends as the last form would have, run in a fresh folder.

Whatever was changed (layers, pairs, labels, metrics) and however much of it was done before.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import swapyard as sy
from orchestrator.run.device_setup import Limits, RunOptions
from orchestrator.run.driver import run_study
from orchestrator.run.progress import Progress

CITIES = {"Spain": "Madrid", "Italy": "Rome", "France": "Paris", "Peru": "Lima"}
CELL = "cell_id, pair_id, site, layer, position, base, label"


def pair(base: str, source: str, label: str | None = None) -> dict[str, Any]:
    return {
        "base": f"The capital of {base} is",
        "source": f"The capital of {source} is",
        "base_label": f" {CITIES[base]}",
        "label": label or f" {CITIES[source]}",
    }


FIRST = [pair("Spain", "Italy"), pair("France", "Peru"), pair("Italy", "Spain")]
FORMS: dict[str, dict[str, Any]] = {
    "whole": {"layers": "all", "pairs": FIRST, "metrics": None},
    "fewer layers": {"layers": [0, 2], "pairs": FIRST, "metrics": None},
    "fewer pairs": {"layers": "all", "pairs": FIRST[:2], "metrics": None},
    "more pairs": {"layers": [0, 1], "pairs": [*FIRST, pair("Peru", "Italy")], "metrics": None},
    "another label": {
        "layers": "all",
        "pairs": [pair("Spain", "Italy", " Lima"), *FIRST[1:]],
        "metrics": None,
    },
    "one metric": {"layers": "all", "pairs": FIRST, "metrics": ["iia"]},
    "one metric, fewer": {"layers": [1], "pairs": FIRST[1:], "metrics": ["kl_base"]},
    "labels": {"layers": "all", "pairs": FIRST, "metrics": ["logit_diff", "kl_base"]},
    "labels, fewer": {"layers": [0, 1], "pairs": FIRST[1:], "metrics": ["logit_diff"]},
}


def study_of(form: str, model: Path) -> sy.Study:
    said = FORMS[form]
    return sy.Study(
        study="changing",
        model=str(model),
        pairs=said["pairs"],
        metrics=said["metrics"],
        sweep=[sy.Block(sites=["mlp_output", "block_output"], layers=said["layers"], positions=[3, 4])],
    )


def rows_of(store: Path) -> dict[tuple[Any, ...], tuple[float | None, ...]]:
    sql = f"""SELECT {CELL}, label_logit, label_logit - label_logprob AS logsumexp_, kl_base, kl_source
              FROM results ORDER BY ALL"""
    found = sy.open_results("changing", store=store).sql(sql).fetchall()
    rows = {row[:7]: row[7:] for row in found}
    assert len(rows) == len(found), "a job has two rows"
    return rows


def run_part(study: sy.Study, store: Path) -> None:
    """Run a study, and stop after one cell of a tile."""
    options = RunOptions(executor="inline", replace=True, limits=Limits(jobs=1))
    outcome = run_study(study, store / "changing", options, Progress(quiet=True))
    assert outcome.stopped == "limit"


@pytest.mark.parametrize("interrupted", [False, True], ids=["done", "interrupted"])
@pytest.mark.parametrize(
    "forms",
    [
        ("whole", "fewer layers", "whole"),
        ("whole", "fewer pairs", "whole"),
        ("fewer layers", "more pairs", "whole"),
        ("whole", "another label", "whole"),
        ("one metric", "fewer pairs", "whole"),
        ("one metric", "fewer layers", "one metric, fewer", "whole"),
        ("one metric, fewer", "one metric", "whole", "one metric"),
        ("labels, fewer", "one metric", "labels"),
        ("labels, fewer", "labels", "fewer pairs", "whole"),
    ],
    ids=" → ".join,
)
def test_a_changed_study_ends_as_a_fresh_one(
    forms: tuple[str, ...],
    interrupted: bool,
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    changing, fresh = tmp_path / "changing", tmp_path / "fresh"
    for form in forms[:-1]:
        if interrupted:
            run_part(study_of(form, tiny_folder), changing)
        else:
            sy.run(study_of(form, tiny_folder), store=changing, executor="inline", quiet=True, replace=True)
    last = study_of(forms[-1], tiny_folder)
    ended = sy.run(last, store=changing, executor="inline", quiet=True, replace=True)
    sy.run(last, store=fresh, executor="inline", quiet=True)
    got, wanted = rows_of(changing), rows_of(fresh)
    assert got.keys() == wanted.keys()
    for key, values in wanted.items():
        for ours, theirs in zip(got[key], values, strict=True):
            # A metric that is no longer asked for may still be there from before.
            assert theirs is None or np.isclose(float(ours), theirs, rtol=1e-4, atol=1e-4), key
    assert ended.outcome is not None
    assert ended.outcome.counts.num_done == ended.outcome.counts.num_jobs
