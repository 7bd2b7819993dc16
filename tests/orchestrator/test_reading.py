"""Promise: a damaged study is left out and said; one that this process has no files for never is."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.store import StudyStore
from orchestrator.store.study_dirs import read_each
from orchestrator.upkeep.status import read_status
from workers.errors import StoreError


@contextmanager
def no_more_files() -> Iterator[None]:
    """Within it this process may open no file."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_limit_of_this_process_is_no_damage_of_a_study(tmp_path: Path) -> None:
    with StudyStore(tmp_path / "study").open_driver():
        pass
    said: list[str] = []
    for read in (
        lambda: list(read_each([tmp_path / "study"], lambda folder: StudyStore(folder).state(), said.append)),
        lambda: read_status(tmp_path, ["study"]),
    ):
        with pytest.raises(StoreError, match="no more files can be opened: ulimit -n"), no_more_files():
            read()
    assert said == []
    ((_, state),) = read_each([tmp_path / "study"], lambda folder: StudyStore(folder).state(), said.append)
    assert state.seq == 1
