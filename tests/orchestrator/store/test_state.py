"""Promise: whatever order parts come in, each job's metric family counts exactly once, the first time."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.store import Manifest, PlanRef, State
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


def apply_compact(state: State, part: Manifest, *, remove: tuple[str, ...]) -> None:
    seq, nonce = state.seq + 1, "0" * 32
    state.apply(Commit(seq=seq, epoch=1, nonce=nonce, kind="compact", time_s=0.0, add=(part,), remove=remove))


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


def test_failed_rows_are_replaced_once_by_a_retry_that_names_their_part() -> None:
    state = opened()
    first = make_manifest(rows=8, failed=3)
    apply_add(state, first)
    retry = make_manifest(rows=3, failed=1, attempt=1, replaces=first.path)
    assert not state.accepts(make_manifest())
    assert not state.accepts(make_manifest(replaces=make_manifest().path))
    assert not state.accepts(make_manifest(replaces=first.path, k_hi=5))
    assert not state.accepts(make_manifest(replaces=first.path, tile=1))
    apply_add(state, retry)
    assert list(state.live) == [first.path, retry.path]
    assert (state.num_rows["logits"], state.num_failed["logits"]) == (8, 1)
    assert not state.accepts(make_manifest(replaces=first.path))
    assert not state.accepts(make_manifest(replaces=retry.path))


def test_merged_parts_take_the_place_of_what_they_were_made_of_all_at_once() -> None:
    state = opened()
    one, two = make_manifest(k_lo=0, k_hi=4), make_manifest(k_lo=4, k_hi=8)
    merged = make_manifest(k_lo=0, k_hi=8, rows=16)
    apply_add(state, one, two)
    apply_compact(state, merged, remove=(one.path, merged.path))
    assert set(state.live) == {one.path, two.path}
    apply_compact(state, merged, remove=(one.path, two.path))
    assert set(state.live) == {merged.path}
    assert state.num_rows["logits"] == 16
    assert state.done("logits", 0).intervals() == ((0, 8),)


def test_done_is_the_callers_own() -> None:
    state = opened()
    state.done("logits", 0).add(0, 4)
    assert not state.done("logits", 1)
    apply_add(state, make_manifest())
    assert state.done("logits", 0).intervals() == ((0, 4),)
