"""Promise: a query keeps to its memory and its time, and leaves nothing on the disk, even if killed."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import pytest
from small_store import make_study

import swapyard as sy
from orchestrator.query.connection import connect
from orchestrator.query.query_limits import QueryLimits, size
from orchestrator.query.statements import explained, run_query
from workers.errors import OutOfTimeError, QueryError

LARGE = "SELECT count(*) FROM (SELECT i, count(*) FROM range(2500000) r(i) GROUP BY i ORDER BY hash(i))"
ENDLESS = "SELECT count(*) FROM range(1000000000000) r(i) WHERE hash(i) = 0"
LITTLE = QueryLimits(memory_bytes=64 * 10**6)
WAIT = """
import sys, time
from orchestrator.query.query_limits import fresh_folder
folder = fresh_folder()
folder.mkdir()
(folder / "spilled").write_text("rows")
print(folder.parent, flush=True)
time.sleep(60)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_study(tmp_path / "store" / "s")


def test_sizes_are_read_with_their_units() -> None:
    assert [size(text) for text in ("2GB", "1.5gib", "400 MB", 300_000_000)] == [
        2 * 10**9,
        3 * 2**29,
        4 * 10**8,
        3 * 10**8,
    ]
    for text in ("", "GB", "-2GB", "2PB", "1", "255MB"):
        with pytest.raises(QueryError, match="memory"):
            size(text)


def test_what_the_process_holds_is_part_of_a_limit_on_all_of_it() -> None:
    bare, whole = (QueryLimits(memory_bytes=10**9, with_process=one) for one in (False, True))
    assert LITTLE.for_rows() <= whole.for_rows() < bare.for_rows() < 10**9


def test_what_does_not_fit_into_memory_goes_to_the_disk_and_nowhere_else(root: Path) -> None:
    asked = "SELECT current_setting('temp_directory')"
    with connect([root], limits=LITTLE) as connection:
        assert run_query(connection, LARGE).fetchall() == [(2_500_000,)]
        ((folder,),) = connection.execute(asked).fetchall()
        beside = Path(folder).parent / "beside.csv"
        beside.write_text("a")
        for place in (beside, Path(tempfile.gettempdir()) / "x.csv", root / "format.json"):
            with pytest.raises(duckdb.PermissionException):
                connection.execute("SELECT size FROM read_text(?)", [str(place)])
    with connect([root], limits=LITTLE) as connection:
        assert connection.execute(asked).fetchall() != [(folder,)]


def test_where_there_is_no_room_a_query_says_what_to_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.query.connection.fresh_folder", lambda: None)
    with (
        connect([root], limits=LITTLE) as connection,
        pytest.raises(QueryError, match="--memory") as raised,
        explained(connection),
    ):
        run_query(connection, LARGE).fetchall()
    assert "\n" not in str(raised.value)


def test_from_python_a_query_ends_in_time(root: Path) -> None:
    results = sy.open_results("s", store=root.parent, timeout=0.2, memory="1GB")
    with pytest.raises(OutOfTimeError, match=r"stopped after 0\.2 s"):
        results.sql(ENDLESS)
    with pytest.raises(QueryError, match="no size of memory"):
        sy.open_results("s", store=root.parent, memory="much")
    quick = sy.open_results("s", store=root.parent, timeout=300.0)
    assert quick.sql("SELECT count(*) FROM pairs").fetchall() == [(4,)]


def test_the_next_query_clears_what_a_killed_one_left_and_nothing_of_a_living_one(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    folder = Path(__file__).parents[2]

    def begin(code: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)

    def said(process: subprocess.Popen[str]) -> Path:
        assert process.stdout is not None
        return Path(process.stdout.readline().strip())

    with begin(WAIT) as killed, begin(WAIT) as living:
        places = [said(killed), said(living)]
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert [place.is_dir() for place in places] == [True, True]
        with begin(
            "from orchestrator.query.query_limits import fresh_folder; print(fresh_folder().parent)"
        ) as third:
            own = said(third)
        assert [place.is_dir() for place in places] == [False, True] and not own.exists()
        assert {path.name.removesuffix(".lock") for path in tmp_path.iterdir()} == {places[1].name}
        living.kill()
