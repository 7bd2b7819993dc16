"""Promise: from Python a study is built, run and asked like from the command line, and stays quiet."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from running import capital_pairs

import swapyard as sy


def study(model: Path, **changes: object) -> sy.Study:
    keys: dict[str, object] = {
        "study": "countries",
        "model": str(model),
        "pairs": capital_pairs(),
        "sweep": [sy.Block(sites=["mlp_output", "block_output"], layers="all", positions="all")],
    }
    return sy.Study(**(keys | changes))


def test_a_study_is_built_run_and_asked(
    tmp_path: Path, tiny_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    results = sy.run(study(tiny_folder), store=tmp_path, quiet=True)
    outcome = results.outcome
    assert outcome is not None and outcome.stopped is None
    assert (outcome.counts.num_jobs, outcome.num_ran, outcome.counts.num_failed) == (360, 360, 0)
    assert results.sql("SELECT count(*), count(DISTINCT job_id) FROM results").fetchall() == [(360, 360)]
    table = results.arrow()
    assert table.num_rows == 360 and {"iia", "layer", "base_position"} <= set(table.column_names)
    frame = results.df("pairs")
    assert isinstance(frame, pd.DataFrame) and len(frame) == 12
    assert capfd.readouterr() == ("", "")


def test_running_again_does_nothing_and_opening_needs_no_run(tmp_path: Path, tiny_folder: Path) -> None:
    sy.run(study(tiny_folder), store=tmp_path, quiet=True)
    again = sy.run(study(tiny_folder), store=tmp_path, quiet=True).outcome
    assert again is not None and again.num_ran == 0
    opened = sy.open_results("countries", store=tmp_path)
    assert opened.outcome is None
    assert opened.sql("SELECT count(*) FROM results").fetchall() == [(360,)]
    with pytest.raises(sy.StoreError, match="has no study 'county'; there are countries"):
        sy.open_results("county", store=tmp_path)


def test_a_study_that_grows_runs_only_what_is_new(tmp_path: Path, tiny_folder: Path) -> None:
    small = [sy.Block(site="block_output", layer=0, positions="all")]
    sy.run(study(tiny_folder, sweep=small), store=tmp_path, quiet=True)
    grown = sy.run(study(tiny_folder), store=tmp_path, quiet=True).outcome
    assert grown is not None
    assert (grown.counts.num_jobs, grown.num_ran) == (360, 300)


def test_planning_changes_nothing(tmp_path: Path, tiny_folder: Path) -> None:
    overview = sy.plan(study(tiny_folder), store=tmp_path / "runs")
    assert overview.exact and overview.counts.num_jobs == 360
    assert not (tmp_path / "runs").exists()


def test_a_study_runs_from_another_thread(tmp_path: Path, tiny_folder: Path) -> None:
    """Where a web server or a notebook's widget calls: signals are the main thread's alone."""
    ends: list[sy.Outcome | None] = []

    def run() -> None:
        ends.append(sy.run(study(tiny_folder), store=tmp_path, quiet=True).outcome)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (outcome,) = ends
    assert outcome is not None and outcome.num_ran == 360


def test_signal_handlers_are_given_back(tmp_path: Path, tiny_folder: Path) -> None:
    import signal

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    sy.run(study(tiny_folder), store=tmp_path, quiet=True)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_importing_the_package_loads_no_model_library() -> None:
    code = "import sys, swapyard; print([m for m in ('torch', 'transformers', 'ray') if m in sys.modules])"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert printed.stdout.strip() == "[]"
