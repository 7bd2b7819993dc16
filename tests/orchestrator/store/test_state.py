"""Promise: whatever order parts come in, each job's metric family counts exactly once, the first time."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.store import Manifest, MergedFile, PlanRef, State
from orchestrator.store.commit import Commit, FileRef
from orchestrator.store.lock import Holder

from .conftest import make_manifest

MakeManifest = Callable[..., Manifest]
Job = tuple[str, int, int]


def opened() -> State:
    state = State()
    apply_open(state)
    return state


def apply_open(state: State) -> None:
    seq, holder = state.seq + 1, Holder(pid=1, host="here", since=0.0)
    state.apply(Commit(seq=seq, epoch=seq, nonce="0" * 32, kind="open", time_s=0.0, holder=holder))


def apply_add(state: State, *parts: Manifest, epoch: int = 1) -> None:
    state.apply(
        Commit(seq=state.seq + 1, epoch=epoch, nonce="0" * 32, kind="add", time_s=float(state.seq), add=parts)
    )


def apply_compact(state: State, *merged: MergedFile, epoch: int = 1, time_s: float = 0.0) -> None:
    seq, nonce = state.seq + 1, "0" * 32
    state.apply(Commit(seq=seq, epoch=epoch, nonce=nonce, kind="compact", time_s=time_s, merged=merged))


def merged_of(*files: Manifest | MergedFile, **changes: Any) -> MergedFile:
    like = make_manifest()
    content: dict[str, Any] = {
        "path": like.path,
        "size_bytes": 10,
        "sha256": like.sha256,
        "families": files[0].families,
        "lane": files[0].lane,
        "rows": sum(file.rows for file in files),
        "is_retry": files[0].is_retry,
        "of": tuple(file.path for file in files),
    }
    return MergedFile(**{**content, **changes})


def retry_of(part: Manifest, *ranges: tuple[int, int], **changes: Any) -> Manifest:
    """A retry of all of the part's cells, for these jobs."""
    content: dict[str, Any] = {
        **{name: getattr(part, name) for name in ("lane", "tile", "families", "k_lo", "k_hi")},
        "rows": sum(hi - lo for lo, hi in ranges),
        "attempt": 1,
        "replaces": part.path,
        "jobs": ranges,
    }
    return make_manifest(**{**content, **changes})


def jobs(part: Manifest) -> set[Job]:
    return {(family, part.tile, k) for family in part.families for k in range(part.k_lo, part.k_hi)}


@st.composite
def parts(draw: st.DrawFn) -> Manifest:
    lo = draw(st.integers(0, 12))
    families = draw(st.sampled_from([("logits",), ("kl",), ("logits", "kl")]))
    return make_manifest(
        tile=draw(st.integers(0, 1)), k_lo=lo, k_hi=lo + draw(st.integers(1, 5)), families=families
    )


@given(st.lists(st.lists(parts(), min_size=1, max_size=4), max_size=8))
def test_the_first_part_wins_and_the_others_are_refused_whole(commits: list[list[Manifest]]) -> None:
    state, model = opened(), set[Job]()
    kept = []
    for added in commits:
        apply_add(state, *added)
        for part in added:
            if not jobs(part) & model:
                model |= jobs(part)
                kept.append(part)
    assert list(state.live.values()) == kept
    found = {
        (family, tile, k)
        for family in ("logits", "kl")
        for tile in (0, 1)
        for lo, hi in state.done(family, tile).intervals()
        for k in range(lo, hi)
    }
    assert found == model


@given(st.lists(parts(), max_size=4), st.lists(parts(), max_size=6))
def test_what_a_driver_sifts_out_is_what_every_reader_would_ignore(
    before: list[Manifest], now: list[Manifest]
) -> None:
    state = opened()
    if before:
        apply_add(state, *before)
    live = set(state.live)
    accepted, refused = state.sift(now)
    assert sorted(accepted + refused, key=id) == sorted(now, key=id)
    if now:
        apply_add(state, *now)
    assert set(state.live) - live == {part.path for part in accepted}


def test_a_commit_of_a_driver_that_lost_the_study_counts_for_nothing() -> None:
    state = opened()
    apply_open(state)
    apply_add(state, make_manifest(epoch=1), epoch=1)
    assert state.seq == 3 and state.epoch == 2
    assert not state.live and not state.done("logits", 0)


def test_rows_and_failures_are_counted_for_each_family() -> None:
    state = opened()
    apply_add(state, make_manifest(rows=8, failed=3, families=("logits", "kl")))
    apply_add(state, make_manifest(rows=4, failed=1, tile=1))
    assert state.num_rows == {"logits": 12, "kl": 8}
    assert state.num_failed == {"logits": 4, "kl": 3}


def test_the_latest_plan_is_the_plan() -> None:
    state = opened()
    for letter in "ab":
        plan = PlanRef(id=letter * 32, files={"cells": FileRef(size_bytes=0, sha256="0" * 64)})
        state.apply(Commit(seq=state.seq + 1, epoch=1, nonce="0" * 32, kind="plan", time_s=0.0, plan=plan))
    assert state.plan is not None and state.plan.id == "b" * 32


def test_each_failed_row_is_replaced_once_by_a_retry_that_names_its_part() -> None:
    state = opened()
    first = make_manifest(rows=8, failed=5)
    apply_add(state, first)
    assert not state.accepts(make_manifest())
    apply_add(state, retry_of(first, (0, 1), (5, 7), failed=1))
    assert state.retried(first.path).intervals() == ((0, 1), (5, 7))
    assert (state.num_rows["logits"], state.num_failed["logits"]) == (8, 3)
    assert not state.accepts(retry_of(first, (6, 8)))
    assert not state.accepts(retry_of(first, (2, 5))), "three rows, and only two failures are left"
    apply_add(state, retry_of(first, (2, 4)))
    assert (state.num_rows["logits"], state.num_failed["logits"]) == (8, 1)
    assert [part.is_retry for part in state.live.values()] == [False, True, True]
    assert not state.retried(make_manifest().path)


def test_a_retry_must_fit_what_it_names() -> None:
    state = opened()
    part = make_manifest(k_lo=2, k_hi=6, rows=8, failed=8)
    apply_add(state, part)
    assert state.accepts(retry_of(part, (4, 12)))
    assert state.accepts(retry_of(part, (6, 7), k_lo=3, k_hi=4))
    for wrong in (
        retry_of(make_manifest(rows=8, failed=8), (0, 1)),
        retry_of(part, (4, 5), k_hi=7),
        retry_of(part, (4, 5), k_lo=1),
        retry_of(part, (3, 4)),
        retry_of(part, (12, 13)),
        retry_of(part, (4, 5), k_lo=3, k_hi=4),
        retry_of(part, (4, 5), tile=1),
        retry_of(part, (4, 5), families=("kl",)),
    ):
        assert not state.accepts(wrong), wrong
    retry = retry_of(part, (4, 5), failed=1)
    apply_add(state, retry)
    assert not state.accepts(retry_of(part, (4, 5), replaces=retry.path)), "a retry of a retry"


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), max_size=8), st.integers(0, 8))
def test_of_retries_in_one_commit_and_in_several_the_same_count(
    wanted: list[list[int]], num_failed: int
) -> None:
    part = make_manifest(rows=8, failed=num_failed)
    retries = [retry_of(part, *((job, job + 1) for job in sorted(set(jobs)))) for jobs in wanted]
    one_by_one, together = opened(), opened()
    for state in (one_by_one, together):
        apply_add(state, part)
    accepted, refused = together.sift(retries)
    for retry in retries:
        apply_add(one_by_one, retry)
    if retries:
        apply_add(together, *retries)
    assert together.live == one_by_one.live
    assert list(together.live.values())[1:] == list(accepted)
    assert len(accepted) + len(refused) == len(retries)
    done = [job for retry in accepted for lo, hi in retry.jobs for job in range(lo, hi)]
    assert len(done) == len(set(done)) <= num_failed


def test_a_merge_changes_where_rows_lie_and_nothing_else() -> None:
    state = opened()
    parts = [make_manifest(tile=tile) for tile in range(4)]
    apply_add(state, *parts)
    before = dict(state.live), state.done("logits", 0), state.num_rows.copy()
    first = merged_of(*parts[:2])
    apply_compact(state, first, time_s=7.0)
    again = merged_of(first, parts[2])
    apply_compact(state, again, time_s=9.0)
    assert (dict(state.live), state.done("logits", 0), state.num_rows) == before
    assert set(state.files) == {again.path, parts[3].path}
    assert [state.file_of(part.path).path for part in parts] == [again.path] * 3 + [parts[3].path]
    assert state.file_of(parts[0].path) == again.file
    assert state.replaced == {
        **dict.fromkeys((part.path for part in parts[:2]), 7.0),
        **dict.fromkeys((first.path, parts[2].path), 9.0),
    }
    assert not state.accepts(parts[0]), "a part whose file is gone may not come again"
    with pytest.raises(KeyError):
        state.file_of(make_manifest().path)


def test_a_merge_that_does_not_fit_is_ignored_as_a_whole() -> None:
    state = opened()
    parts = [make_manifest(tile=tile, failed=2) for tile in range(4)]
    other = make_manifest(tile=9, families=("kl",))
    retries = [retry_of(part, (0, 1)) for part in parts[:2]]
    apply_add(state, *parts, other, *retries)
    gone = merged_of(*parts[:2])
    apply_compact(state, gone)
    before = dict(state.files)
    good = merged_of(*parts[2:])
    for wrong in (
        [good, merged_of(parts[0], other)],
        [merged_of(*parts[:2])],
        [good, merged_of(parts[2], gone)],
        [good, merged_of(*retries, path=good.path)],
        [merged_of(parts[2], other)],
        [merged_of(parts[2], retries[0])],
        [merged_of(*retries, is_retry=False)],
        [merged_of(*parts[2:], rows=15)],
        [merged_of(*parts[2:], path=parts[0].path)],
        [merged_of(*parts[2:], path=other.path)],
    ):
        apply_compact(state, *wrong)
        assert dict(state.files) == before, wrong
    apply_compact(state, good, merged_of(*retries))
    assert len(state.files) == 4


def test_a_merge_of_a_driver_that_lost_the_study_counts_for_nothing() -> None:
    state = opened()
    parts = [make_manifest(tile=tile) for tile in range(2)]
    apply_add(state, *parts)
    apply_open(state)
    apply_compact(state, merged_of(*parts), epoch=1)
    assert set(state.files) == {part.path for part in parts}


def test_every_plan_is_remembered() -> None:
    state = opened()
    for letter in "ab":
        plan = PlanRef(id=letter * 32, files={"cells": FileRef(size_bytes=0, sha256="0" * 64)})
        state.apply(Commit(seq=state.seq + 1, epoch=1, nonce="0" * 32, kind="plan", time_s=0.0, plan=plan))
    assert state.plans == {"a" * 32, "b" * 32}


def test_done_is_the_callers_own() -> None:
    state = opened()
    state.done("logits", 0).add(0, 4)
    assert not state.done("logits", 1)
    apply_add(state, make_manifest())
    assert state.done("logits", 0).intervals() == ((0, 4),)
