"""Promise: an unintervened value is what the model gives, whoever runs it; it is made once and kept; where no
model may be loaded that is said; and a process that dies is told in clear words."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.plan.baseline_runs import COLUMNS, Columns, MissingRunsError
from orchestrator.run import baseline_scorers
from orchestrator.run.baseline_scorers import CachedScorer, ChildScorer, EngineScorer
from orchestrator.run.engines import Engines
from workers.errors import RunError
from workers.vocabulary import CleanRun

from .world import Oracle, lane_of

RUNS = [
    CleanRun(tokens=(14, 2, 3, 4, 8), read=4, label_ids=(9,), base_label_ids=(10, 11)),
    CleanRun(tokens=(14, 2, 3, 5, 8), read=4, label_ids=(), base_label_ids=(10,)),
    CleanRun(tokens=(14, 2), read=0, label_ids=(9,), base_label_ids=()),
]


@pytest.fixture
def engine_scorer(tiny_folder: Path) -> EngineScorer:
    return EngineScorer(Engines(threads=1, num_sharing=1))


@pytest.fixture
def child_scorer() -> Iterator[ChildScorer]:
    with ChildScorer(threads=1, root=Path()) as scorer:
        yield scorer


def assert_equal(found: Columns, expected: Columns) -> None:
    assert list(found) == list(expected) == [name for name, _ in COLUMNS]
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        np.testing.assert_array_equal(found[name], values, name)


def test_a_child_an_engine_and_the_cache_give_the_same_values(
    tiny_folder: Path, tmp_path: Path, engine_scorer: EngineScorer, child_scorer: ChildScorer
) -> None:
    lane = lane_of(tiny_folder)
    expected = engine_scorer.score(lane, RUNS)
    assert np.isnan(expected["label_logit"][1]) and np.isfinite(expected["label_logit"][0])
    assert_equal(child_scorer.score(lane, RUNS), expected)
    assert_equal(CachedScorer(tmp_path, child_scorer).score(lane, RUNS), expected)
    again = CachedScorer(tmp_path, None).score(lane, RUNS[::-1])
    assert_equal({name: values[::-1] for name, values in again.items()}, expected)
    # An error of the model's is told, and the child goes on.
    elsewhere = replace(lane, lane=1, spec=lane.spec.model_copy(update={"revision": "f" * 64}))
    with pytest.raises(RunError, match=r"the study pins revision ffff.*restore the files"):
        child_scorer.score(elsewhere, RUNS)
    assert_equal(child_scorer.score(lane, RUNS), expected)


def test_a_child_that_is_killed_in_the_middle_is_an_error_that_says_so(
    tiny_folder: Path, child_scorer: ChildScorer
) -> None:
    def kill() -> None:
        while child_scorer._child is None:
            time.sleep(0.01)
        # It has been asked, and is still loading its libraries.
        time.sleep(0.3)
        os.kill(child_scorer._child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    lane = lane_of(tiny_folder)
    with pytest.raises(RunError) as caught:
        child_scorer.score(lane, RUNS)
    killer.join()
    assert str(caught.value) == (
        f"the process that runs {lane.spec.ref} without interventions died (killed, perhaps because memory"
        " ran out); what it had finished is kept, so run the same command again"
    )


def test_a_prompt_that_the_model_cannot_run_is_named(tiny_folder: Path, engine_scorer: EngineScorer) -> None:
    unknown = replace(RUNS[0], tokens=(14, 2, 3, 4, 999_999))
    with pytest.raises(RunError, match=r"a prompt of 5 tokens .* cannot be run by .* even unchanged"):
        engine_scorer.score(lane_of(tiny_folder), [unknown])


def test_only_what_is_not_kept_is_asked_and_each_run_once(tiny_folder: Path, tmp_path: Path) -> None:
    lane, oracle = lane_of(tiny_folder), Oracle()
    scorer = CachedScorer(tmp_path, oracle)
    first = scorer.score(lane, [RUNS[0], RUNS[1], RUNS[0]])
    assert oracle.asked == RUNS[:2]
    assert first["pred_logit"][0] == first["pred_logit"][2]
    both = scorer.score(lane, RUNS)
    assert oracle.asked == RUNS
    assert_equal(both, Oracle().score(lane, RUNS))


@pytest.mark.parametrize(
    "other",
    [
        replace(RUNS[0], tokens=(14, 2, 3, 5, 8)),
        replace(RUNS[0], read=3),
        replace(RUNS[0], label_ids=(9, 10)),
        replace(RUNS[0], base_label_ids=(10,)),
        # Not told apart by concatenation:
        replace(RUNS[0], label_ids=(9, 10), base_label_ids=(11,)),
    ],
)
def test_a_kept_value_is_of_these_tokens_labels_and_this_read_only(
    tiny_folder: Path, tmp_path: Path, other: CleanRun
) -> None:
    lane = lane_of(tiny_folder)
    CachedScorer(tmp_path, Oracle()).score(lane, [RUNS[0]])
    with pytest.raises(MissingRunsError, match="1 unintervened runs have not been made yet"):
        CachedScorer(tmp_path, None).score(lane, [RUNS[0], other])


def test_a_kept_value_is_of_one_model_only(tiny_folder: Path, tmp_path: Path) -> None:
    lane = lane_of(tiny_folder)
    CachedScorer(tmp_path, Oracle()).score(lane, RUNS)
    with pytest.raises(MissingRunsError):
        CachedScorer(tmp_path, None).score(replace(lane, identity='{"model":"another"}'), RUNS)


def test_whoever_is_stopped_keeps_what_was_made(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline_scorers, "CHUNK", 2)
    lane = lane_of(tiny_folder)

    class Dying(Oracle):
        def score(self, lane, requests):  # type: ignore[no-untyped-def]
            if self.asked:
                raise RunError("no more")
            return super().score(lane, requests)

    with pytest.raises(RunError, match="no more"):
        CachedScorer(tmp_path, Dying()).score(lane, RUNS)
    assert_equal(CachedScorer(tmp_path, None).score(lane, RUNS[:2]), Oracle().score(lane, RUNS[:2]))


def test_a_damaged_cache_costs_time_and_nothing_else(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lane = lane_of(tiny_folder)
    folder = tmp_path / "runs"
    CachedScorer(folder, Oracle()).score(lane, RUNS)
    (database,) = folder.iterdir()
    database.write_bytes(b"no database" * 1000)
    assert_equal(CachedScorer(folder, Oracle()).score(lane, RUNS), Oracle().score(lane, RUNS))
    assert f"{database} cannot be used" in caplog.text
    with pytest.raises(MissingRunsError):
        CachedScorer(folder, None).score(lane, RUNS)


def test_no_requests_are_no_values(tiny_folder: Path, tmp_path: Path) -> None:
    found = CachedScorer(tmp_path, None).score(lane_of(tiny_folder), [])
    assert {len(values) for values in found.values()} == {0}
