"""Promise: the loop of a run puts back what was refused, so that no job is left out in silence."""

from pathlib import Path

import pytest
from running import assert_same_rows, capital_pairs, rows, write_study

import swapyard as sy
from orchestrator.store import Driver, IntervalSet, Manifest, State


@pytest.fixture
def study(tmp_path: Path, tiny_folder: Path) -> Path:
    return write_study(tmp_path, "small", tiny_folder, capital_pairs())


def test_a_part_that_is_refused_runs_again(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, refused = Driver.commit, []

    def refuse_the_first(driver: Driver, manifests: list[Manifest]) -> tuple[Manifest, ...]:
        if not refused:
            refused.extend(manifests)
            return tuple(manifests)
        return commit(driver, manifests)

    sy.run(str(study), store=tmp_path / "calm", executor="inline", quiet=True)
    monkeypatch.setattr(Driver, "commit", refuse_the_first)
    outcome = sy.run(str(study), store=tmp_path / "runs", executor="inline", quiet=True).outcome
    assert outcome is not None and refused
    assert (outcome.stopped, outcome.counts.num_done) == (None, outcome.counts.num_jobs)
    assert_same_rows(rows(tmp_path / "runs", "small"), rows(tmp_path / "calm", "small"))


def test_only_what_is_not_done_of_a_refused_part_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.stages.sweep.work import undone
    from tests.orchestrator.store.conftest import make_manifest

    done = IntervalSet()
    done.add(3, 5)
    state = State()
    monkeypatch.setattr(state, "_done", {("logits", 0): done})
    manifest = make_manifest(tile=0, k_lo=0, k_hi=8, lane="0", path=f"data/1/0/{'a' * 32}.parquet")
    found = [(rest.families, rest.k_lo, rest.k_hi) for rest in undone(manifest, state)]
    assert (("logits",), 0, 3) in found and (("logits",), 5, 8) in found
    assert all(not (lo < 5 and hi > 3) for families, lo, hi in found if families == ("logits",))
