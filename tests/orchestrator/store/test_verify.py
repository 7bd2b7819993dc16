"""Promise: no flipped bit of rows becomes an answer: whoever reads them notices, and says what was lost."""

import random
from pathlib import Path

import pytest
from small_store import make_study

from orchestrator.query.connection import connect
from orchestrator.store import StudyStore, verify
from orchestrator.store.notes import examined
from orchestrator.store.verify import damaged_files
from orchestrator.upkeep.doctor import examine_study
from workers.errors import StoreError

NUM_FLIPS = 300


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_study(tmp_path / "small")


@pytest.fixture
def part(root: Path) -> Path:
    (found,) = (root / "data").rglob("*.parquet")
    return found


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is a process of its own, as far as verifying goes."""
    monkeypatch.setattr(verify, "_seen", set())


def flipped(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def test_every_flipped_bit_is_noticed_by_who_queries_and_by_the_file_itself(root: Path, part: Path) -> None:
    data, draw = part.read_bytes(), random.Random(0)
    assert examined(data).status == "whole"
    for _ in range(NUM_FLIPS):
        changed = flipped(data, draw)
        assert examined(changed).status != "whole"
        part.write_bytes(changed)
        with pytest.raises(StoreError, match="is damaged: its bytes are not those committed"):
            connect([root])
    part.write_bytes(data)
    connect([root]).close()


def test_every_flipped_bit_is_noticed_by_doctor_whatever_was_verified_before(root: Path, part: Path) -> None:
    data, draw = part.read_bytes(), random.Random(1)
    connect([root]).close()
    for _ in range(20):
        part.write_bytes(flipped(data, draw))
        problems = [one for one in examine_study(root, lambda num: None) if one.level == "problem"]
        assert len(problems) == 1 and "is damaged" in problems[0].text


def test_a_file_is_read_once_in_a_process_and_not_at_all_where_nobody_wants_it(
    root: Path, part: Path
) -> None:
    state = StudyStore(root).state()
    data = part.read_bytes()
    part.write_bytes(data[:-1] + b"2")
    assert damaged_files(root, state, verify=False) == ()
    with pytest.raises(StoreError):
        connect([root])
    part.write_bytes(data)
    read: list[int] = []
    assert damaged_files(root, state) == ()
    # What was found good is not read again; nothing of that lies on the disk.
    part.write_bytes(data[:-1] + b"2")
    assert damaged_files(root, state, advance=read.append) == ()
    assert sum(read) == len(data)
    verify._seen.clear()
    assert len(damaged_files(root, state)) == 1


def test_what_was_lost_is_said_by_tile_and_cells(root: Path, part: Path) -> None:
    part.unlink()
    (damage,) = damaged_files(root, StudyStore(root).state(), verify=False)
    assert (damage.why, damage.num_rows) == ("was committed and is missing", 120)
    assert [(one.tile, one.k_lo, one.k_hi) for one in damage.parts] == [(0, 0, 30)]
