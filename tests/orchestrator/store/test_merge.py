"""Promise: merging makes few files of many, keeps every row, takes in nothing damaged, and copies little."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.store import Driver, Manifest, Merge, StoredFile, StudyStore, encode_part
from orchestrator.store.merge import next_merge
from workers.errors import StoreError

from .conftest import make_manifest
from .test_parts import make_columns

LARGE, SMALL = 250_000, 249_999


def file(rows: int, number: int = 0, **changes: Any) -> StoredFile:
    part = make_manifest(rows=rows, path=f"data/1/lane/{number:032x}.parquet").file
    return part._replace(**changes)


def files(*rows: int, **changes: Any) -> dict[str, StoredFile]:
    return {one.path: one for one in (file(num, number, **changes) for number, num in enumerate(rows))}


def rows_of(merge: Merge | None) -> list[int]:
    return [] if merge is None else [one.rows for one in merge.files]


def test_nothing_is_merged_before_there_are_too_many_files() -> None:
    assert next_merge(files(*[10] * 500)) is None
    assert rows_of(next_merge(files(*[10] * 501))) == [10] * 501


def test_large_files_stay_as_they_are_and_small_merged_ones_go_in_again() -> None:
    assert rows_of(next_merge(files(LARGE, 10, SMALL, LARGE, 20), most_files=2)) == [10, SMALL, 20]
    assert next_merge(files(*[LARGE] * 9), most_files=2) is None


def test_a_merged_file_has_a_million_rows_at_most() -> None:
    merge = next_merge(files(*[200_000] * 12), most_files=4)
    assert rows_of(merge) == [200_000] * 5


def test_files_of_many_bytes_are_not_merged_without_end() -> None:
    def large(size_bytes: int) -> dict[str, StoredFile]:
        return files(*[10] * 12, size_bytes=size_bytes)

    assert next_merge(large(1 << 26), most_files=4) is None
    merge = next_merge(large((1 << 26) - 1), most_files=4)
    assert merge is not None and len(merge.files) == 4


def test_one_merge_takes_seconds_whatever_there_is() -> None:
    assert len(rows_of(next_merge(files(*[1] * 9_000)))) == 2_000


def test_only_files_of_one_kind_are_merged_and_the_most_of_them() -> None:
    kinds: list[dict[str, Any]] = [
        {"lane": "lane"},
        {"lane": "other"},
        {"families": ("kl",)},
        {"is_retry": True},
    ]
    given: dict[str, StoredFile] = {}
    for kind, num in zip(kinds, (3, 4, 6, 5), strict=True):
        found = (file(10, len(given) + n, **kind) for n in range(num))
        given |= {one.path: one for one in list(found)}
    merge = next_merge(given, most_files=3)
    assert merge is not None and {one.families for one in merge.files} == {("kl",)} and len(merge.files) == 6
    without = next_merge(given, most_files=3, leave_out={one.path for one in merge.files})
    assert without is not None and all(one.is_retry for one in without.files) and len(without.files) == 5


def test_files_are_not_copied_again_for_a_few_more() -> None:
    assert next_merge(files(*[LARGE] * 600, SMALL, *[10] * 29)) is None
    assert len(rows_of(next_merge(files(*[LARGE] * 600, SMALL, *[10] * 30)))) == 31


def write(
    store: StudyStore, driver: Driver, rows: int, *, tile: int, families: Sequence[str] = ("kl",)
) -> Manifest:
    columns = make_columns(rows, tuple(families), seed=tile)
    columns["cell"] = columns["cell"] + (1000 - tile)
    written = store.write_part(driver.epoch, "lane", encode_part(columns, families))
    part = make_manifest(
        **written._asdict(), families=tuple(families), tile=tile, k_hi=rows, rows=rows, tiers={"hooked": rows}
    )
    assert driver.commit([part]) == ()
    return part


def rows(store: StudyStore, found: Sequence[Manifest | StoredFile]) -> list[str]:
    return sorted(repr(row) for one in found for row in store.read_part(one).to_pylist())


def test_every_row_is_there_once_after_any_merges(store: StudyStore) -> None:
    draw = random.Random(0)
    with store.open_driver() as driver:
        parts: list[Manifest] = []
        for turn in range(4):
            parts += [write(store, driver, draw.randint(1, 200), tile=9 * turn + n) for n in range(9)]
            merge = driver.next_merge(draw.randint(1, 4))
            assert merge is not None
            merged = store.merge(driver.epoch, merge)
            assert merged.file is not None and not merged.damaged
            before = store.state()
            driver.commit_merged(merged.file)
            for state in (before, driver.state, store.state()):
                assert rows(store, list(state.files.values())) == rows(store, parts)
            assert len(driver.state.files) == 1
        assert list(store.state().live) == [part.path for part in parts]


def test_what_is_damaged_stays_out_and_is_named(store: StudyStore) -> None:
    with store.open_driver() as driver:
        parts = [write(store, driver, 20, tile=tile) for tile in range(5)]
        cut, gone = (store.locate(parts[n].path) for n in (1, 3))
        cut.write_bytes(cut.read_bytes()[:-1])
        gone.unlink()
        merge = driver.next_merge(2)
        assert merge is not None
        made, damaged = store.merge(driver.epoch, merge)
        assert made is not None and made.of == tuple(parts[n].path for n in (0, 2, 4))
        assert [*damaged] == [parts[1].path, parts[3].path]
        assert "is damaged" in damaged[parts[1].path] and "is missing" in damaged[parts[3].path]
        driver.commit_merged(made)
        assert rows(store, [driver.state.file_of(parts[2].path)]) == rows(store, parts[::2])
        # Of one file alone nothing is made.
        store.locate(made.path).write_bytes(b"")
        assert driver.next_merge(2, leave_out=damaged.keys()) is None
        assert store.merge(driver.epoch, Merge((made.file, parts[1].file))).file is None


def test_a_merge_that_is_given_up_writes_nothing(store: StudyStore) -> None:
    with store.open_driver() as driver:
        for tile in range(4):
            write(store, driver, 20, tile=tile)
        merge = driver.next_merge(2)
        assert merge is not None
        data = store.locate("data")
        names = sorted(data.rglob("*"))
        for num_steps in range(5):
            answers = iter([True] * num_steps)
            assert store.merge(driver.epoch, merge, lambda left=answers: next(left, False)).file is None
        assert sorted(data.rglob("*")) == names


def test_a_merge_of_what_was_merged_meanwhile_is_ignored(store: StudyStore) -> None:
    with store.open_driver() as driver:
        parts = [write(store, driver, 20, tile=tile) for tile in range(3)]
        merge = driver.next_merge(2)
        assert merge is not None
        first, second = (store.merge(driver.epoch, merge).file for _ in range(2))
        assert first is not None and second is not None
        driver.commit_merged(first)
        driver.commit_merged(second)
        assert list(driver.state.files) == [first.path] == list(store.state().files)
        assert rows(store, list(driver.state.files.values())) == rows(store, parts)


def test_a_merged_file_that_was_damaged_is_noticed(store: StudyStore) -> None:
    with store.open_driver() as driver:
        for tile in range(3):
            write(store, driver, 20, tile=tile)
        merge = driver.next_merge(2)
        assert merge is not None
        made = store.merge(driver.epoch, merge).file
        assert made is not None
        path = store.locate(made.path)
        path.write_bytes(path.read_bytes().replace(b"PAR1", b"PAR2"))
        with pytest.raises(StoreError, match="is damaged"):
            store.read_part(made.file)
