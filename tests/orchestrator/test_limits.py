"""Promise: a run stops where it was told to, keeps what it did, and the same study goes on; failed jobs run
again when asked, each once and only those of the named types.
"""

from pathlib import Path

import pytest
from running import assert_same_rows, capital_pairs, long_pairs, rows, swapyard, write_study

import swapyard as sy
from orchestrator.run.driver import Outcome

PAIRS, CELLS = 12, 5 * 9
NUM_JOBS = PAIRS * CELLS
PATHS = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in range(3) for name in "qk"]
TOO_WIDE = [{"sites": PATHS, "position": -1, "subspace": "20:32"}]
"""The tiny model's keys are 16 wide and its queries 32: every second cell fails. How wide a module is, nobody
knows before."""


@pytest.fixture
def study(tmp_path: Path, tiny_folder: Path) -> Path:
    return write_study(tmp_path, "small", tiny_folder, capital_pairs())


@pytest.fixture
def failing(tmp_path: Path, tiny_folder: Path) -> Path:
    return write_study(tmp_path, "failing", tiny_folder, capital_pairs(), sweep=TOO_WIDE)


def run(study: Path, store: Path, limits: sy.Limits | None = None, *, retry: bool = False) -> Outcome:
    found = sy.run(
        str(study),
        store=store,
        executor="inline",
        quiet=True,
        limits=limits or sy.Limits(),
        retry_failed=retry,
        on_failure="keep",
    )
    assert found.outcome is not None
    return found.outcome


@pytest.mark.parametrize(("limit", "expected"), [(1, 12), (12, 12), (100, 108)])
def test_a_limit_of_jobs_is_kept_but_for_whole_cells(
    study: Path, tmp_path: Path, limit: int, expected: int
) -> None:
    first = run(study, tmp_path / "limited", sy.Limits(jobs=limit))
    assert (first.stopped, first.num_ran, first.counts.num_done) == ("limit", expected, expected)
    second = run(study, tmp_path / "limited", sy.Limits(jobs=limit))
    assert second.counts.num_done == 2 * expected
    last = run(study, tmp_path / "limited")
    assert (last.stopped, last.counts.num_done) == (None, NUM_JOBS)
    run(study, tmp_path / "whole")
    assert_same_rows(rows(tmp_path / "limited", "small"), rows(tmp_path / "whole", "small"))


def test_a_limit_that_is_not_reached_is_of_no_concern(study: Path, tmp_path: Path) -> None:
    outcome = run(study, tmp_path, sy.Limits(jobs=NUM_JOBS, seconds=300.0, failures=0))
    assert (outcome.stopped, outcome.counts.num_done) == (None, NUM_JOBS)


def test_a_limit_of_time_ends_with_what_runs(tmp_path: Path, tiny_folder: Path) -> None:
    path = write_study(tmp_path, "long", tiny_folder, long_pairs(16, 40))
    outcome = run(path, tmp_path, sy.Limits(seconds=0.001))
    assert (outcome.stopped, outcome.num_ran) == ("time", 0)
    assert run(path, tmp_path).stopped is None


def test_more_failures_than_allowed_stop_it(failing: Path, tmp_path: Path) -> None:
    outcome = run(failing, tmp_path, sy.Limits(failures=0))
    assert outcome.stopped == "failures" and outcome.counts.num_failed > 0
    again = run(failing, tmp_path)
    assert (again.stopped, again.counts.num_done) == (None, 6 * PAIRS)


def test_failed_jobs_run_again_once(failing: Path, tmp_path: Path) -> None:
    first = run(failing, tmp_path)
    assert (first.counts.num_failed, first.num_retried) == (3 * PAIRS, 0)
    attempts = "SELECT attempt, count(*) FROM failures GROUP BY ALL"
    assert sy.open_results("failing", store=tmp_path).sql(attempts).fetchall() == [(0, 36)]
    second = run(failing, tmp_path, retry=True)
    assert (second.counts.num_failed, second.num_retried, second.num_ran) == (3 * PAIRS, 36, 0)
    assert sy.open_results("failing", store=tmp_path).sql(attempts).fetchall() == [(1, 36)]
    assert run(failing, tmp_path, retry=True).num_retried == 0
    assert sy.open_results("failing", store=tmp_path).arrow().num_rows == 3 * PAIRS


def test_the_command_line_says_where_it_stopped_and_how_to_go_on(failing: Path, tmp_path: Path) -> None:
    def call(*options: str) -> tuple[int, str]:
        command = (
            "run",
            failing,
            "--executor",
            "inline",
            "--no-plots",
            "--store",
            tmp_path / "runs",
            *options,
        )
        done = swapyard(*command, cwd=tmp_path, cache=tmp_path / "cache")
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    code, err = call("--limit", "12")
    assert code in (0, 3) and "stopped by --limit at 12 of 72 jobs, all of them kept" in err
    assert "to go on: " in err
    code, err = call()
    assert code == 3 and "36 jobs failed; to see why: " in err
    code, err = call("--retry-failed", "--error-type", "ModelEror")
    assert code == 1 and "did you mean 'ModelError'?" in err
    code, err = call("--retry-failed", "--error-type", "ModelError")
    assert code == 3 and "36 failed jobs run again" in err and "36 failed ones again in these" in err
    code, err = call("--retry-failed")
    assert code == 3 and "no failed job is left to run again" in err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--error-type", "X"), "says which failed jobs run again, with --retry-failed"),
        (("--max-time", "soon"), "'soon' is no time; write it as 90s, 30m, 8h or 2d"),
        (("--limit", "0"), "0 is not in the range x>=1"),
    ],
)
def test_a_limit_that_is_none_is_refused(
    study: Path, tmp_path: Path, options: tuple[str, ...], expected: str
) -> None:
    done = swapyard("run", study, *options, cwd=tmp_path, cache=tmp_path / "cache")
    assert done.returncode == 2 and expected in done.stderr
