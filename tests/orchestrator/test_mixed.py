"""Promise: of two copies of one study that went on apart, files that come into the other do no harm: every
row that can mean something there is there once, none means something else, and what is missing is said. What
commits say is held against the plan, by whoever reads."""

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from histories import History
from small_store import make_study

from orchestrator.cli import cli
from orchestrator.plan.part_checks import agree
from orchestrator.plan.tables import Plan, encode_plan, read_plan
from orchestrator.query.connection import connect
from orchestrator.store import StudyStore
from orchestrator.store.commit import checked, commit_name, unchecked
from orchestrator.store.log import CommitLog
from orchestrator.store.storage import LocalStorage
from orchestrator.upkeep.lost import find_lost, repair_study
from workers.errors import StoreError


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[tuple[History, History]]:
    """A study of a few rows, and its copy; a driver is at work in each."""
    one = History.begin(tmp_path / "one")
    one.add(0, 0, 4, failing={1: "ValueError"})
    one.driver.close()
    other = copied(one, tmp_path / "other")
    for history in (one, other):
        history.driver = history.store.open_driver()
    yield one, other
    for history in (one, other):
        history.driver.close()


def copied(history: History, folder: Path) -> History:
    root = Path(shutil.copytree(history.store.root, folder / "study"))
    return History(
        StudyStore(root), history.plan, history.driver, copy.deepcopy(history.model), num_values=10_000
    )


def pour(source: History, target: History, *names: str) -> None:
    """Copy folders of one study over those of another, as `cp -r` does."""
    for name in names:
        shutil.copytree(source.store.root / name, target.store.root / name, dirs_exist_ok=True)


def close(*histories: History) -> None:
    for history in histories:
        history.driver.close()


def taken_over(history: History, other: History, tile: int, cells: range) -> None:
    """From now on these jobs are those of the other copy."""
    num = history.num_pairs(tile)
    for job in range(cells.start * num, cells.stop * num):
        history.model[tile, job] = other.model[tile, job]


def forgotten(history: History, tile: int, cells: range) -> None:
    num = history.num_pairs(tile)
    for job in range(cells.start * num, cells.stop * num):
        del history.model[tile, job]


def go_apart(one: History, other: History) -> None:
    """Each does jobs of its own, and some that the other did, too."""
    one.add(0, 4, 8)
    other.add(0, 6, 10)
    other.add(1, 0, 3)
    close(one, other)


def test_rows_of_another_copy_are_taken_where_nobody_did_their_jobs(copies: tuple[History, History]) -> None:
    one, other = copies
    go_apart(one, other)
    pour(other, one, "data")
    expected = one.expected()
    try:
        assert one.seen() == expected
    except StoreError as error:
        assert "doctor --repair" in str(error)
    repair_study(one.store.root)
    taken_over(one, other, 1, range(3))
    assert one.seen() == one.expected()
    assert repair_study(one.store.root) == ()
    with one.store.open_driver() as driver:
        assert driver.adopt() == ()


def test_under_commits_of_another_copy_its_own_rows_are_lost_and_said_to_be(
    copies: tuple[History, History],
) -> None:
    one, other = copies
    go_apart(one, other)
    shutil.rmtree(one.store.root / "data")
    pour(other, one, "data")
    shown = CliRunner().invoke(cli, ["query", "FROM results", "--store", str(one.store.root.parent)])
    assert shown.exit_code == 1 and ("rows are lost" in shown.stderr or "is lost" in str(shown.stderr))
    repair_study(one.store.root)
    forgotten(one, 0, range(4, 8))
    taken_over(one, other, 0, range(6, 10))
    taken_over(one, other, 1, range(3))
    assert one.seen() == one.expected()


@pytest.mark.parametrize("rows", ["of both", "of one", "of the other"])
def test_two_logs_in_one_folder_are_noticed_and_become_one(
    copies: tuple[History, History], rows: str
) -> None:
    one, other = copies
    one.add(0, 4, 8)
    one.add(0, 8, 9)
    one.add(1, 10, 12)
    other.add(0, 6, 10)
    close(one, other)
    fork = 1 + len(CommitLog(LocalStorage(one.store.root)).numbers()) - 3
    shutil.copy(other.store.root / commit_name(fork), one.store.root / commit_name(fork))
    if rows != "of one":
        pour(other, one, "data")
    if rows == "of the other":
        for part in one.parts[1:]:
            one.store.locate(part.path).unlink()
    for act in (one.seen, one.store.open_driver):
        with pytest.raises(StoreError, match="doctor --repair"):
            act()
    repair_study(one.store.root)
    found = one.seen()
    # Each job once (`seen` looks), and each is that of one of the two.
    known = (one.expected(), other.expected())
    assert all(any(one.get(job) == row for one in known) for job, row in found.items())
    num_jobs = {"of both": 16 + 24 + 8, "of one": 16 + 20 + 8, "of the other": 16 + 16}[rows]
    assert num_jobs - 8 <= len(found) <= num_jobs
    with one.store.open_driver() as driver:
        assert driver.adopt() == () and driver.collect_garbage(grace_s=-1).num_orphans == 0


@pytest.mark.parametrize("what", [("commits",), ("commits", "plan"), ("data",), ("commits", "data", "plan")])
def test_an_older_copy_that_is_put_back_over_a_newer_one_loses_nothing(
    copies: tuple[History, History], tmp_path: Path, what: tuple[str, ...]
) -> None:
    one, other = copies
    close(one, other)
    for history in (one, other):
        history.driver = history.store.open_driver()
    one.add(0, 4, 8)
    one.add(1, 3, 9)
    one.driver.close()
    expected = one.expected()
    for name in what:
        shutil.rmtree(one.store.root / name)
    pour(other, one, *what)
    repair_study(one.store.root)
    if "data" in what:
        forgotten(one, 0, range(4, 8))
        forgotten(one, 1, range(3, 9))
        expected = one.expected()
    assert one.seen() == expected


def other_numbers(plan: Plan) -> Plan:
    """The plan of a study that gave its cells their numbers in another order."""
    cells = plan.tables["cells"]
    order = list(range(cells.num_rows))
    random.Random(0).shuffle(order)
    shuffled = cells.set_column(cells.column_names.index("cell_id"), "cell_id", cells["cell_id"].take(order))
    return Plan(head=plan.head, tables={**plan.tables, "cells": shuffled})


def test_rows_of_a_copy_that_was_planned_anew_are_never_taken_for_others(
    copies: tuple[History, History],
) -> None:
    one, other = copies
    strange = other_numbers(other.plan)
    assert agree(one.plan, other.plan) and not agree(one.plan, strange)
    one.driver.write_plan({**encode_plan(one.plan), "study.yaml": b"study: study"})
    other.driver.write_plan({**encode_plan(strange), "study.yaml": b"study: study"})
    one.add(0, 4, 8)
    other.add(1, 0, 6)
    close(one, other)
    expected = one.expected()
    pour(other, one, "data", "plan")
    repair_study(one.store.root)
    assert one.seen() == expected
    # Nor does a run clear what the other's rows, which may be nowhere else, would be read by.
    theirs = set(one.store.root.rglob("*.parquet"))
    with one.store.open_driver() as driver:
        assert driver.adopt() == ()
        driver.collect_garbage(grace_s=-1)
    assert theirs == set(one.store.root.rglob("*.parquet"))
    # Without any log, nobody knows which of the two it was: it is that of most rows, and of no others.
    shutil.rmtree(one.store.root / "commits")
    assert "1 files of rows stay as they are" in " ".join(repair_study(one.store.root))
    state = one.store.state()
    assert sorted(part.tile for part in state.live.values()) == [0, 1]
    assert sum(part.rows for part in state.live.values()) == 16 + 24


def test_rows_whose_plan_is_lost_with_the_log_stay_on_the_disk_and_are_no_answer(
    copies: tuple[History, History],
) -> None:
    one, _ = copies
    one.add(0, 4, 8)
    close(one)
    kept = {path: path.read_bytes() for path in (one.store.root / "data").rglob("*.parquet")}
    for name in ("commits", "plan"):
        shutil.rmtree(one.store.root / name)
    assert "2 files of rows stay as they are" in " ".join(repair_study(one.store.root))
    assert one.store.state().plan is None and not one.store.state().live
    assert kept == {path: path.read_bytes() for path in kept}
    with one.store.open_driver() as driver:
        assert driver.adopt() == () and driver.collect_garbage(grace_s=-1).num_kept == 2


def test_a_damaged_plan_is_not_given_up_for_an_earlier_one(copies: tuple[History, History]) -> None:
    one, _ = copies
    later = one.driver.write_plan({**encode_plan(one.plan), "study.yaml": b"study: later"})
    one.add(0, 4, 8)
    close(one)
    path = one.store.locate(later.path("tiles.parquet"))
    data = path.read_bytes()
    path.unlink()
    shutil.rmtree(one.store.root / "commits")
    repair_study(one.store.root)
    with pytest.raises(StoreError, match=r"tiles\.parquet is missing or damaged"):
        one.seen()
    path.write_bytes(data)
    assert one.seen() == one.expected()


def rewritten(root: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change what the last commit says of its part, as if a driver had written it so."""
    path = max((root / "commits").glob("*.json"))
    content = unchecked(path.read_bytes())
    assert content is not None
    commit = json.loads(content)
    change(commit["add"][0])
    path.write_bytes(checked(json.dumps(commit, separators=(",", ":")).encode()))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"k_hi": 6}, "6 cells with 4 pairs each are not 12 rows"),
        ({"k_lo": 2, "k_hi": 5}, "says of itself what its commit does not say"),
        ({"tile": 1}, "tile 1 is of lane 1, not 0"),
        ({"tile": 7}, "there is no tile 7"),
        ({"k_lo": 29, "k_hi": 32}, "has 30 cells, and none up to 32"),
        ({"rows": 16, "tiers": {"hooked": 16}}, "3 cells with 4 pairs each are not 16 rows"),
    ],
)
def test_a_commit_that_says_what_cannot_be_is_noticed_and_repaired(
    tmp_path: Path, change: dict[str, object], why: str
) -> None:
    history = History.begin(tmp_path)
    history.add(0, 10, 12)
    history.add(0, 0, 3)
    close(history)
    root = history.store.root
    rewritten(root, lambda part: part.update(change))
    examined = CliRunner().invoke(cli, ["doctor", "study", "--store", str(tmp_path)])
    problems = [line for line in examined.stdout.splitlines() if line.startswith("problem")]
    assert examined.exit_code == 1 and len(problems) == 1, examined.stdout
    assert why in problems[0] or "says of itself" in problems[0]
    lost = find_lost(root, history.store.state(), history.plan)
    if "says of itself" not in why:
        assert lost is not None and why in str(lost)
        with connect([root], lost=lambda lost: None) as connection:
            assert connection.sql("SELECT count(*) FROM results").fetchall() == [(8,)]
    repair_study(root)
    assert history.seen() == history.expected()
    assert repair_study(root) == ()


def test_rows_of_other_cells_than_the_plan_says_are_noticed_by_doctor(tmp_path: Path) -> None:
    history = History.begin(tmp_path)
    tiles = history.plan.tiles
    history._names = lambda tile, job: (900 + job // len(tiles[tile].pairs), job % 4)  # type: ignore[method-assign]
    history.add(0, 0, 3)
    close(history)
    shown = CliRunner().invoke(cli, ["doctor", "study", "--store", str(tmp_path)])
    assert shown.exit_code == 1
    assert "does not fit the plan: its rows are of other cells or pairs than the plan says" in shown.stdout


def test_plans_of_other_versions_agree_with_themselves(tmp_path: Path) -> None:
    store = StudyStore(make_study(tmp_path / "small"))
    ref = store.latest_plan()
    assert ref is not None and agree(read_plan(store, ref), read_plan(store, ref))
