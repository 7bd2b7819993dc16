"""Promise: the code on the page about the format reads every study, without swapyard, as swapyard does."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.query.connection import connect
from orchestrator.store import StudyStore
from orchestrator.store.repair import repair

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
NOTHING_YET = ("screened", "training")
"""Halted while effects were estimated, and in the middle of a training."""
GOLDEN = sorted((ROOT / "tests" / "data" / "golden").glob("*/store/*"))


@pytest.fixture(scope="module")
def reader() -> dict[str, Any]:
    """The functions of the page."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert "swapyard" not in code and "orchestrator" not in code
    names: dict[str, Any] = {}
    exec(compile(code, "format.md", "exec"), names)
    return names


def jobs_of(reader: dict[str, Any], study: Path, *, succeeded: bool) -> int:
    """Jobs that are no estimates, and succeeded or did not."""
    found = {
        (row["cell"], row["pair"])
        for families, table in reader["rows_of"](study).items()
        if "estimate" not in families
        for row in table.select(["cell", "pair", "error"]).to_pylist()
        if (row["error"] is None) == succeeded
    }
    return len(found)


@pytest.mark.parametrize("study", GOLDEN, ids=lambda path: path.name)
def test_the_code_finds_the_rows_that_the_views_show(reader: dict[str, Any], study: Path) -> None:
    live = StudyStore(study).state().files
    assert {*reader["files_of"](study)} == {*live}
    sql = "SELECT count(DISTINCT (r.cell, r.pair)) FROM s0_facts r WHERE r.error IS NULL"
    connection = connect([study])
    (prefix,) = {
        name.removesuffix("facts")
        for (name,) in connection.sql("SELECT view_name FROM duckdb_views()").fetchall()
        if name.endswith("facts")
    }
    shown = connection.sql(sql.replace("s0_", prefix)).fetchall()[0][0]
    assert jobs_of(reader, study, succeeded=True) == shown
    assert shown or study.name in NOTHING_YET


def test_a_log_that_was_rebuilt_is_read_too(reader: dict[str, Any], tmp_path: Path) -> None:
    study = tmp_path / "merged"
    shutil.copytree(ROOT / "tests" / "data" / "golden" / "merged" / "store" / "merged", study)
    before = {*reader["files_of"](study)}
    next(iter((study / "commits").glob("*1.json"))).unlink()
    repair(study)
    after = StudyStore(study).state().files
    assert {*reader["files_of"](study)} == {*after} <= before


@pytest.mark.parametrize("kind", ["open", "plan", "add", "adopt", "compact", "drop", "rebuild"])
def test_the_page_names_every_kind_of_commit(kind: str) -> None:
    assert f"| `{kind}` |" in PAGE
