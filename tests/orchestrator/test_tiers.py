"""Promise: whoever plans is told which jobs may resume, and whoever runs which did, and why."""

from pathlib import Path

import pytest
from running import capital_pairs, write_study

import swapyard as sy
from orchestrator.run.overview import overview

GPT = {"ref": "zoo:gpt", "width": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 11, "seed": 0}
BUILT_IN = {
    "study": "built-in",
    "model": GPT,
    "pairs": [{"base_ids": [1, 2, 3], "source_ids": [4, 5, 6], "base_label": 7, "label": 8}],
    "sweep": [{"site": "mlp_output", "layers": "all", "positions": "all"}],
}


def tiers(results: sy.Results) -> dict[str, tuple[int, ...]]:
    """For each reason the rows that were resumed, hooked and neither."""
    query = (
        "SELECT tier_reason, sum(num_resumed)::INT, sum(num_hooked)::INT, sum(num_unchanged)::INT"
        " FROM batches GROUP BY ALL"
    )
    return {reason: tuple(counts) for reason, *counts in results.sql(query).fetchall()}


def told(capsys: pytest.CaptureFixture[str], start: str) -> str:
    """The one line on stderr that begins so."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith(start)]
    return line


def test_a_decoder_is_resumed_and_the_run_says_so(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path, "small", tiny_folder, capital_pairs())
    results = sy.run(str(path), store=tmp_path, executor="inline")
    ((reason, (resumed, hooked, unchanged)),) = tiers(results).items()
    assert reason.startswith("resumed")
    assert hooked == 0 and resumed > 0 and unchanged > 0
    assert (
        told(capsys, f"{tiny_folder}: resumed") == f"{tiny_folder}: {reason} (sdpa attention, float32 on cpu)"
    )
    assert results.outcome is not None and results.outcome.counts.num_jobs == resumed + unchanged


def test_a_built_in_model_is_hooked_and_the_run_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = sy.run(sy.Study.model_validate(BUILT_IN), store=tmp_path, executor="inline")
    assert tiers(results) == {"hooked: a built-in model has no key/value cache": (0, 4, 2)}
    line = told(capsys, "zoo:gpt: h")
    assert line.startswith("zoo:gpt: hooked: a built-in model has no key/value cache (")


def test_a_run_that_had_nothing_to_do_says_nothing_of_tiers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = sy.Study.model_validate(BUILT_IN)
    sy.run(study, store=tmp_path, executor="inline", quiet=True)
    capsys.readouterr()
    sy.run(study, store=tmp_path, executor="inline")
    assert "hooked" not in capsys.readouterr().err


def test_a_plan_says_what_is_expected(tmp_path: Path, tiny_folder: Path) -> None:
    path = write_study(tmp_path, "small", tiny_folder, capital_pairs())
    found = overview(sy.load_study(str(path)), tmp_path, prepare=False, say=print)
    expected = f"{tiny_folder}: jobs are resumed from what they change, if a check at load agrees"
    assert expected in found.lines()
    assert found.to_json()["resuming"] == {str(tiny_folder): True}
    built_in = overview(sy.Study.model_validate(BUILT_IN), tmp_path, prepare=False, say=print)
    assert "zoo:gpt: jobs are run in full" in built_in.lines()
