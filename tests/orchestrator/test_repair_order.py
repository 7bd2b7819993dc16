"""Promise: where files of rows have the same jobs, a repair takes those that the log acknowledged, as far as
any commit of it can be read."""

from pathlib import Path

from histories import History
from test_repair import left_by_a_killed_driver, lose, numbers

from orchestrator.store.commit import commit_name
from orchestrator.store.manifest import Manifest
from orchestrator.store.repair import repair


def lose_commit_of(history: History, part: Manifest) -> None:
    """Make a hole in the log, where a part was added."""
    root = history.store.root
    (seq,) = (one for one in numbers(root) if part.path.encode() in (root / commit_name(one)).read_bytes())
    lose(root, seq)


def test_what_was_acknowledged_does_not_give_way_to_what_a_killed_driver_left(tmp_path: Path) -> None:
    """Of the parts beyond a hole in the log those that commits name come before all others."""
    history = History.begin(tmp_path)
    first = history.add(0, 0, 3)
    twin = left_by_a_killed_driver(history, 5)
    history.driver = history.store.open_driver()
    named = history.add(0, 5, 9)
    history.add(0, 12, 13)
    history.driver.close()
    lose_commit_of(history, first)
    assert "the log is made again" in repair(history.store.root).lines[0]
    assert named.path in history.store.state().files and twin not in history.store.state().files
    assert history.seen() == history.expected()


def test_what_a_later_commit_dropped_is_not_taken_for_acknowledged(tmp_path: Path) -> None:
    """A part that was dropped and came back gives way to the one that has its jobs now."""
    history = History.begin(tmp_path)
    first = history.add(0, 0, 3)
    lost = history.add(0, 5, 9)
    history.driver.close()
    kept = history.store.locate(lost.path).read_bytes()
    history.store.locate(lost.path).unlink()
    repair(history.store.root)
    history.driver = history.store.open_driver()
    again = history.add(0, 5, 9)
    history.driver.close()
    history.store.locate(lost.path).write_bytes(kept)
    lose_commit_of(history, first)
    repair(history.store.root)
    assert again.path in history.store.state().files and lost.path not in history.store.state().files
    assert history.seen() == history.expected()
