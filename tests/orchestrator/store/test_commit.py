"""Promise: a commit survives JSON word for word, or is refused with the place that is wrong."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.store import Holder, Manifest, MergedFile, PlanRef
from orchestrator.store.commit import Commit, FileRef, checked, unchecked
from workers.errors import StoreError

MakeManifest = Callable[..., Manifest]


def add_commit(*parts: Manifest) -> Commit:
    return Commit(seq=2, epoch=1, nonce="0" * 32, kind="add", time_s=1.5, add=parts)


def merged_of(*parts: Manifest, **changes: Any) -> MergedFile:
    content: dict[str, Any] = {
        "path": f"data/1/lane/{'f' * 32}.parquet",
        "size_bytes": 10,
        "sha256": "0" * 64,
        "families": parts[0].families,
        "lane": "lane",
        "rows": sum(part.rows for part in parts),
        "is_retry": False,
        "of": tuple(part.path for part in parts),
    }
    return MergedFile(**{**content, **changes})


@pytest.mark.parametrize("kind", ["open", "plan", "add", "compact"])
def test_a_commit_comes_back_from_json_as_it_was(manifest: MakeManifest, kind: str) -> None:
    file = FileRef(size_bytes=3, sha256="a" * 64)
    contents: dict[str, dict[str, Any]] = {
        "open": {"holder": Holder(pid=1, host="here", since=2.0)},
        "plan": {"plan": PlanRef(id="b" * 32, files={"cells.parquet": file})},
        "add": {
            "add": (
                manifest(),
                manifest(attempt=1, replaces=manifest().path, rows=3, jobs=((0, 2), (5, 6))),
            )
        },
        "compact": {"merged": (merged_of(manifest(), manifest()),)},
    }
    seq = 1 if kind == "open" else 2
    fields: dict[str, Any] = {"seq": seq, "epoch": 1, "nonce": "0" * 32, "kind": kind, "time_s": 1.5}
    commit = Commit(**fields, **contents[kind])
    assert Commit.from_json(commit.to_json(), seq) == commit


def test_the_json_has_the_names_that_the_format_promises(manifest: MakeManifest) -> None:
    data = json.loads(add_commit(manifest()).to_json())
    assert set(data) == {"seq", "epoch", "nonce", "kind", "time_s", "add", "check"}
    assert set(data["add"][0]) == {
        *("path", "bytes", "sha256", "families", "lane", "tile", "k_lo", "k_hi", "rows", "failed"),
        *("tiers", "timings", "worker", "host"),
    }


def test_a_merge_says_what_it_takes_the_place_of(manifest: MakeManifest) -> None:
    parts = (manifest(), manifest())
    commit = Commit(seq=2, epoch=1, nonce="0" * 32, kind="compact", time_s=1.5, merged=(merged_of(*parts),))
    (data,) = json.loads(commit.to_json())["merged"]
    assert set(data) == {"path", "bytes", "sha256", "families", "lane", "rows", "is_retry", "of"}
    assert data["of"] == [part.path for part in parts]


def test_a_merge_that_makes_no_sense_is_refused(manifest: MakeManifest) -> None:
    one, two = manifest(), manifest()
    for of in ((), (one.path,), (one.path, one.path), (one.path, f"data/1/lane/{'f' * 32}.parquet")):
        with pytest.raises(ValidationError, match="two others or more, each named once"):
            merged_of(one, two, of=of)
    with pytest.raises(ValidationError, match="does not lie in the folder of lane"):
        merged_of(one, two, lane="other")
    with pytest.raises(ValidationError, match="only files written in that epoch"):
        Commit(
            seq=5,
            epoch=4,
            nonce="0" * 32,
            kind="compact",
            time_s=1.5,
            merged=(merged_of(one, two),),
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(colour="red"), "colour: "),
        (lambda data: data.update(kind="merge"), "kind: "),
        (lambda data: data.update(seq=3), "says that it is commit 3"),
        (lambda data: data.update(epoch=9), "cannot be of epoch|only files written in that epoch"),
        (lambda data: data.pop("nonce"), "nonce: "),
        (lambda data: data["add"][0].update(path="data/1/lane/x"), "add.0.path: "),
        (lambda data: data["add"][0].update(rows="8"), "add.0.rows: "),
        (lambda data: data.pop("add"), "a commit of kind 'add' holds"),
    ],
)
def test_a_changed_commit_is_refused_and_says_where(
    manifest: MakeManifest, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    data = json.loads(add_commit(manifest()).to_json())
    # As earlier versions wrote it; of a commit with a checksum, that is what is noticed.
    del data["check"]
    change(data)
    with pytest.raises(StoreError, match=message) as error:
        Commit.from_json(json.dumps(data).encode(), 2)
    assert "commits/0000000002.json" in str(error.value)


def test_a_torn_commit_is_refused(manifest: MakeManifest) -> None:
    whole = add_commit(manifest()).to_json()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        with pytest.raises(StoreError, match="is damaged"):
            Commit.from_json(whole[:length], 2)


def test_a_commit_adds_only_parts_of_its_own_epoch(manifest: MakeManifest) -> None:
    with pytest.raises(ValidationError, match="only files written in that epoch"):
        add_commit(manifest(epoch=3))


def real_commit(manifest: MakeManifest) -> Commit:
    parts = (
        manifest(),
        manifest(tile=1, k_lo=3, k_hi=50, rows=94, failed=2, tier_reason="replay", capability='{"a": 1}'),
    )
    return dataclasses.replace(add_commit(*parts), prev="a" * 64)


def flips(data: bytes) -> Iterator[bytes]:
    """`data` with each of its bits flipped, one at a time."""
    for place, bit in itertools.product(range(len(data)), range(8)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        yield bytes(flipped)


@pytest.mark.parametrize("kind", ["open", "add"])
def test_no_single_flipped_bit_is_taken_for_another_commit(manifest: MakeManifest, kind: str) -> None:
    first = Commit(
        seq=1, epoch=1, nonce="0" * 32, kind="open", time_s=1.5, holder=Holder(pid=1, host="h", since=2.0)
    )
    commit = first if kind == "open" else real_commit(manifest)
    data = commit.to_json()
    assert Commit.from_json(data, commit.seq) == commit
    for flipped in flips(data):
        with pytest.raises(StoreError):
            Commit.from_json(flipped, commit.seq)


def test_a_commit_that_is_cut_anywhere_or_has_more_behind_it_is_refused(manifest: MakeManifest) -> None:
    data = real_commit(manifest).to_json()
    for other in (*(data[:length] for length in range(len(data))), data + b" ", data + b"\n", data + data):
        with pytest.raises(StoreError):
            Commit.from_json(other, 2)


def test_a_commit_of_a_newer_version_is_said_to_be_one(manifest: MakeManifest) -> None:
    content = json.loads(unchecked(add_commit(manifest()).to_json()) or b"")
    newer = checked(json.dumps({**content, "x": 1}).encode())
    with pytest.raises(StoreError, match=r"was written by a newer swapyard \(x: .*\); upgrade swapyard"):
        Commit.from_json(newer, 2)


def test_a_commit_of_an_earlier_version_has_no_checksum_and_is_read_as_before(manifest: MakeManifest) -> None:
    commit = add_commit(manifest())
    earlier = unchecked(commit.to_json())
    assert earlier is not None and b"check" not in earlier
    assert Commit.from_json(earlier, 2) == commit
    # Those that only this version writes have one.
    for later in (real_commit(manifest), adopting(manifest)):
        with pytest.raises(StoreError, match="it has no checksum"):
            Commit.from_json(unchecked(later.to_json()) or b"", later.seq)


def adopting(manifest: MakeManifest) -> Commit:
    return Commit(seq=3, epoch=2, nonce="0" * 32, kind="adopt", time_s=1.5, add=(manifest(epoch=1),))


def test_only_parts_of_earlier_epochs_are_adopted(manifest: MakeManifest) -> None:
    assert adopting(manifest).add
    with pytest.raises(ValidationError, match="adopts only files of earlier epochs"):
        dataclasses.replace(adopting(manifest), add=(manifest(epoch=2),))
