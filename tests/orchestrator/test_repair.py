"""Promise: whatever of a study's commits is lost or damaged, no driver goes on as if it were not, and a
repair brings back every row that is on the disk, each once; a file of rows that is lost is dropped, and its
jobs, and no others, are open again."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from histories import History, shown

from orchestrator.cli import cli
from orchestrator.query.connection import connect
from orchestrator.store import StudyStore
from orchestrator.store.commit import checked, commit_name, unchecked
from orchestrator.store.log import CommitLog
from orchestrator.store.repair import clear, repair, unnamed
from orchestrator.store.storage import LocalStorage
from workers.errors import HeldError, StoreError

Seen = dict[tuple[int, int], tuple[object, ...]]
NUM_CELLS = 30


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with all that there may be: drivers, failures, retries, merges of merges; it is not done."""
    history = History.begin(tmp_path_factory.mktemp("whole"))
    for tile in range(2):
        failed = history.add(tile, 0, 4, failing={1: "ValueError", 6: "OSError", 7: "OSError"})
        history.add(tile, 4, 9)
        history.reopen()
        history.retry(failed, [1])
        history.retry(failed, [6], failing={6: "OSError"})
        history.add(tile, 9, 11, families=("logits",))
    while history.merge(2) is not None:
        pass
    history.driver.collect_garbage(grace_s=-1)
    history.reopen()
    for tile in range(2):
        history.add(tile, 12, 16, failing={50: "ValueError"})
        history.add(tile, 20, 21)
    while history.merge(4) is not None:
        pass
    history.driver.collect_garbage(grace_s=-1)
    history.reopen()
    history.add(0, 21, 22)
    history.driver.close()
    return history.store.root


@pytest.fixture
def study(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "study"))


def seen(root: Path) -> Seen:
    with connect([root]) as connection:
        return shown(connection)


def rows(root: Path) -> list[str]:
    """Every row, as it lies in the files: cheaper than `seen`, where no retry's fate is asked for."""
    store = StudyStore(root)
    return sorted(
        repr(row) for file in store.state().files.values() for row in store.read_part(file).to_pylist()
    )


def done(root: Path) -> dict[tuple[str, int], tuple[tuple[int, int], ...]]:
    state = StudyStore(root).state()
    return {
        (family, tile): state.done(family, tile).intervals() for family in ("logits", "kl") for tile in (0, 1)
    }


def numbers(root: Path) -> list[int]:
    return CommitLog(LocalStorage(root)).numbers()


def lose(root: Path, *seqs: int) -> None:
    for seq in seqs:
        (root / commit_name(seq)).unlink()


def flip(path: Path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


LOSSES: dict[str, Callable[[Path, list[int]], object]] = {
    "all": lambda root, seqs: shutil.rmtree(root / "commits"),
    "head": lambda root, seqs: lose(root, *seqs[:5]),
    "first": lambda root, seqs: lose(root, seqs[0]),
    "middle": lambda root, seqs: lose(root, *seqs[6:11]),
    "tail": lambda root, seqs: lose(root, *seqs[-9:]),
    "flipped": lambda root, seqs: flip(root / commit_name(seqs[7]), 100),
    "cut": lambda root, seqs: (root / commit_name(seqs[4])).write_bytes(b'{"seq":5'),
    "exchanged": lambda root, seqs: shutil.copy(root / commit_name(seqs[3]), root / commit_name(seqs[5])),
    "all but one": lambda root, seqs: lose(root, *seqs[:-1]),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_part_of_the_log_is_noticed_by_a_driver_and_made_again_by_a_repair(
    study: Path, whole: Path, loss: str
) -> None:
    expected, before, num = seen(whole), done(whole), len(StudyStore(whole).state().live)
    LOSSES[loss](study, numbers(study))
    was = files(study)
    with pytest.raises(StoreError, match=r"doctor --repair"):
        StudyStore(study).open_driver()
    assert {name: data for name, data in files(study).items() if name != ".lock"} == {
        name: data for name, data in was.items() if name != ".lock"
    }
    # Nor is it an answer, or the whole of it, to anybody who reads.
    with pytest.raises(StoreError, match=r"doctor --repair"):
        connect([study])
    assert CliRunner().invoke(cli, ["status", "--store", str(study.parent)]).exit_code == 1
    lines = repair(study).lines
    assert "the log is made again" in lines[0]
    assert (seen(study), done(study), len(StudyStore(study).state().live)) == (expected, before, num)
    # Nothing that was there is changed, and what is there is never added twice.
    assert was.items() <= {**files(study), ".lock": was[".lock"]}.items()
    assert repair(study).lines == ()
    with StudyStore(study).open_driver() as driver:
        assert driver.adopt() == ()
        assert driver.collect_garbage(grace_s=-1).num_orphans == 0
    assert (rows(study), done(study)) == (rows(whole), before)
    assert StudyStore(study).origin() == StudyStore(whole).origin()


def test_whichever_commit_is_lost_nothing_is_lost_with_it(whole: Path, tmp_path: Path) -> None:
    expected, before = rows(whole), done(whole)
    for seq in numbers(whole):
        study = Path(shutil.copytree(whole, tmp_path / str(seq)))
        lose(study, seq)
        repair(study)
        assert (rows(study), done(study)) == (expected, before), seq


def test_a_whole_study_is_left_as_it_is(study: Path) -> None:
    before = files(study)
    assert repair(study).lines == ()
    assert {**files(study), ".lock": b""} == {**before, ".lock": b""}


def test_without_format_json_a_study_is_damaged_and_a_repair_makes_it_again(study: Path, whole: Path) -> None:
    (study / "format.json").unlink()
    store = StudyStore(study)
    assert store.exists()
    for act in (store.open_driver, store.open_reader):
        with pytest.raises(StoreError, match=r"is damaged: format.json is missing; .*doctor --repair"):
            act()
    assert "format.json" in repair(study).lines[0]
    assert seen(study) == seen(whole)


def test_a_log_of_a_newer_version_is_not_made_again(study: Path) -> None:
    path = study / commit_name(4)
    content = unchecked(path.read_bytes())
    assert content is not None
    path.write_bytes(checked(content[:-1] + b',"later":1}'))
    before = files(study)
    with pytest.raises(StoreError, match="newer swapyard"):
        repair(study)
    assert files(study).keys() == before.keys()


def test_no_repair_while_a_driver_is_at_work(study: Path) -> None:
    with StudyStore(study).open_driver(), pytest.raises(HeldError):
        repair(study)


def held_by(root: Path) -> dict[str, set[tuple[int, int, int]]]:
    """For each file the tile and cells of its parts."""
    state = StudyStore(root).state()
    return {
        path: {(part.tile, part.k_lo, part.k_hi) for part in parts}
        for path, parts in state.parts_by_file().items()
    }


@pytest.mark.parametrize("how", ["gone", "flipped", "cut", "empty"])
def test_a_lost_file_is_dropped_with_all_that_hangs_on_it_and_nothing_else(
    whole: Path, tmp_path: Path, how: str
) -> None:
    expected = seen(whole)
    for number, (name, parts) in enumerate(held_by(whole).items()):
        study = Path(shutil.copytree(whole, tmp_path / str(number)))
        path = study / name
        match how:
            case "gone":
                path.unlink()
            case "flipped":
                flip(path, path.stat().st_size // 3)
            case "cut":
                path.write_bytes(path.read_bytes()[:-1])
            case "empty":
                path.write_bytes(b"")
        was = StudyStore(study).state()
        lines = repair(study).lines
        assert "lost or damaged" in " ".join(lines)
        now = StudyStore(study).state()
        assert name not in now.files
        gone = {part.path for part in was.live.values() if part.path not in now.live}
        lost = [part for part in was.live.values() if part.path in gone]
        assert parts <= {(part.tile, part.k_lo, part.k_hi) for part in lost}
        for part in lost:
            for family in part.families if not part.is_retry else ():
                assert not now.done(family, part.tile).overlaps(part.k_lo, part.k_hi)
        # Every other row is there, and is what it was but for failures whose retries went.
        left = seen(study)
        assert left.keys() <= expected.keys()
        changed = {job for job, row in left.items() if row != expected[job]}
        assert bool(changed) <= bool(now.lost_retries or any(part.is_retry for part in lost) or lost)
        assert sum(now.num_rows.values()) == sum(
            part.rows * len(part.families) for part in now.live.values() if not part.is_retry
        )
        assert repair(study).lines == ()


def test_what_a_retry_made_right_runs_again_where_its_file_is_lost(tmp_path: Path) -> None:
    history = History.begin(tmp_path)
    failed = history.add(0, 0, 2, failing={1: "ValueError", 3: "ValueError"})
    retry = history.retry(failed, [1])
    history.driver.close()
    history.store.locate(retry.path).unlink()
    repair(history.store.root)
    state = history.store.state()
    assert state.lost_retries == {failed.path: ((1, 2),)}
    assert (state.num_failed["kl"], state.retried(failed.path).intervals()) == (2, ())
    history.driver = history.store.open_driver()
    again = history.retry(failed, [1])
    assert history.driver.state.lost_retries == {} and again.path in history.store.state().live
    history.driver.close()
    assert history.seen() == history.expected()


def test_a_lost_merged_file_gives_way_to_the_files_that_it_was_made_of(tmp_path: Path) -> None:
    history = History.begin(tmp_path)
    for k in range(4):
        history.add(0, k, k + 1)
    merged = history.merge(1)
    assert merged is not None
    history.driver.close()
    expected = history.seen()
    flip(history.store.locate(merged.path), 50)
    assert "the log is made again" in repair(history.store.root).lines[0]
    assert history.seen() == expected
    assert merged.path not in history.store.state().files


def left_by_a_killed_driver(history: History, k: int) -> str:
    """A part that was written and never committed."""
    part = history.add(0, k, k + 1)
    history.driver.close()
    last = history.driver.state.seq
    lose(history.store.root, last)
    return part.path


def test_what_a_killed_driver_left_is_added_once_and_where_jobs_are_done_it_stays_alone(
    tmp_path: Path,
) -> None:
    history = History.begin(tmp_path)
    history.add(0, 0, 3)
    path = left_by_a_killed_driver(history, 5)
    with history.store.open_driver() as driver:
        assert [part.path for part in driver.adopt()] == [path]
        assert driver.adopt() == ()
    assert history.seen() == history.expected()
    # The same jobs once more, from elsewhere.
    history.driver = history.store.open_driver()
    twin = left_by_a_killed_driver(history, 7)
    history.driver = history.store.open_driver()
    history.add(0, 7, 8)
    history.driver.close()
    with history.store.open_driver() as driver:
        assert driver.adopt() == ()
        assert driver.collect_garbage(grace_s=-1).num_kept == 1
    assert history.store.locate(twin).exists() and history.seen() == history.expected()
    assert [one.name for one in unnamed(history.store.root)] == [twin]
    assert [one.name for one in clear(history.store.root, [twin])] == [twin]
    assert not history.store.locate(twin).exists() and history.seen() == history.expected()


def test_a_part_of_another_study_or_with_a_flipped_bit_is_never_added(tmp_path: Path) -> None:
    history, other = (History.begin(tmp_path / name) for name in ("one", "two"))
    strange = left_by_a_killed_driver(other, 5)
    target = history.store.locate(strange)
    path = left_by_a_killed_driver(history, 5)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(other.store.locate(strange), target)
    whole = history.store.locate(path).read_bytes()
    draw = random.Random(0)
    for _ in range(60):
        flip(history.store.locate(path), draw.randrange(len(whole)), draw.randrange(8))
        with history.store.open_driver() as driver:
            assert driver.adopt() == ()
        history.store.locate(path).write_bytes(whole)
    with history.store.open_driver() as driver:
        assert [part.path for part in driver.adopt()] == [path]
        assert driver.collect_garbage().num_kept == 1
    assert target.exists()


REPAIR = """
import sys
from pathlib import Path
from orchestrator.store.repair import repair
print(repair(Path(sys.argv[1])).lines)
"""
FAULTS = [
    *(f"{point}=kill" for point in ("commit.rebuild.before", "commit.rebuild.after", "create.write")),
    *(f"{point}=kill" for point in ("create.link.before", "create.link.after")),
]


def killed_while_it_repairs(study: Path, fault: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPAIR, str(study)], env=_environment(fault), capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def _environment(fault: str) -> dict[str, str]:
    return {**os.environ, "SWAPYARD_FAULTS": fault, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_repair_that_is_killed_can_be_done_again(study: Path, whole: Path, fault: str) -> None:
    lose(study, *numbers(study)[3:8])
    killed_while_it_repairs(study, fault)
    repair(study)
    assert (rows(study), done(study)) == (rows(whole), done(whole))


@pytest.mark.parametrize(
    "fault", ["commit.drop.before=kill", "commit.drop.after=kill", "commit.open.after=kill"]
)
def test_a_drop_that_is_killed_can_be_done_again(tmp_path: Path, fault: str) -> None:
    history = History.begin(tmp_path)
    lost, _ = history.add(0, 0, 3), history.add(0, 3, 5)
    history.driver.close()
    history.store.locate(lost.path).unlink()
    killed_while_it_repairs(history.store.root, fault)
    repair(history.store.root)
    assert history.store.state().done("kl", 0).intervals() == ((3, 5),)


def test_an_adoption_that_is_killed_can_be_done_again(tmp_path: Path) -> None:
    for fault in ("commit.adopt.before=kill", "commit.adopt.after=kill"):
        history = History.begin(tmp_path / fault)
        left_by_a_killed_driver(history, 5)
        killed_while_it_repairs(history.store.root, fault)
        repair(history.store.root)
        assert history.seen() == history.expected()


def test_the_commands_say_what_they_do(study: Path, whole: Path) -> None:
    def doctor(*arguments: str) -> tuple[int, str]:
        shown = CliRunner().invoke(cli, ["doctor", *arguments, "--store", str(study.parent)])
        return shown.exit_code, shown.output

    assert doctor("study")[0] == 0
    lose(study, *numbers(study)[2:5])
    code, said = doctor("study")
    assert code == 1 and "commits/0000000003.json is missing" in said and "--repair" in said
    code, said = doctor("study", "--repair")
    assert code == 0 and "repaired study: the log is made again" in said
    assert "ok       study: nothing is to be repaired" in doctor("study", "--repair")[1]
    assert "there is nothing to clear" in doctor("study", "--clear")[1]
    assert doctor("--repair")[0] == 2
    assert seen(study) == seen(whole)
