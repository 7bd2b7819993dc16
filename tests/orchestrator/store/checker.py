"""An independent reading of a study's folder: no line of the store's own code, and every promise checked.

It reads ``commits/*.json`` and the files that they name, and believes nothing else. What it finds untrue it
says with an `AssertionError`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

Job = tuple[str, int, int]
"""A metric family, a cell and a pair."""
Row = dict[str, Any]


class Said(NamedTuple):
    """Something that was acknowledged: ``opened``, ``planned``, ``written``, ``added`` or ``clearing``."""

    what: str
    name: str
    sha256: str = ""

    @classmethod
    def of(cls, root: Path, what: str, name: str) -> "Said":
        """What is said now of the study in `root`; a written part with its bytes."""
        return cls(what, name, _sha256(root / name) if what == "written" else "")


@dataclass
class History:
    """What the commits of a study say, in their order, as far as it counts."""

    epoch: int = 0
    plans: list[str] = field(default_factory=list)
    parts: dict[str, Row] = field(default_factory=dict)
    """The accepted parts, by path, as their commits describe them."""
    files: dict[str, Row] = field(default_factory=dict)
    """The files that hold rows now, by path; each with the parts whose rows it holds."""
    rows: dict[Job, Row] = field(default_factory=dict)
    """The one terminal row of each job."""


def check(root: Path) -> History:
    """Read the study in `root`; whatever is not as promised is an error."""
    history = History()
    for seq, commit in enumerate(_commits(root), 1):
        assert commit["seq"] == seq, f"commit {commit['seq']} lies where commit {seq} should"
        if commit["kind"] == "open":
            history.epoch = seq
        elif commit["epoch"] == history.epoch:
            _apply(history, commit)
    for plan in history.plans:
        assert (root / "plan" / plan).is_dir(), f"the plan {plan} was committed and is gone"
    _read_rows(history, {path: _rows(root, file) for path, file in history.files.items()})
    return history


def holds(root: Path, said: Iterable[Said]) -> None:
    """Check the study in `root`, and that all that was said, in this order, is so."""
    written: dict[str, str] = {}
    history = check(root)
    for one in said:
        match one.what:
            case "opened":
                assert history.epoch >= int(one.name), "an epoch was lost"
            case "planned":
                assert one.name in history.plans, f"the plan {one.name} was lost"
            case "added":
                assert one.name in history.parts, f"the part {one.name} was committed and is lost"
            case "written":
                written[one.name] = one.sha256
            case "clearing":
                written.clear()
    for name, sha256 in written.items():
        assert (root / name).exists(), f"the part {name} was reported and is lost"
        assert _sha256(root / name) == sha256, f"the part {name} was reported and is torn"


def _commits(root: Path) -> list[Row]:
    paths = sorted(path for path in (root / "commits").glob("*") if not path.name.startswith("."))
    return [json.loads(path.read_bytes()) for path in paths]


def _apply(history: History, commit: Row) -> None:
    if commit["kind"] == "plan":
        history.plans.append(commit["plan"]["id"])
    for part in commit.get("add", ()):
        if _counts(history, part):
            history.parts[part["path"]] = part
            history.files[part["path"]] = {**part, "parts": [part["path"]]}
    merges = commit.get("merged", ())
    if all(path in history.files for merged in merges for path in merged["of"]):
        for merged in merges:
            parts = [part for path in merged["of"] for part in history.files.pop(path)["parts"]]
            history.files[merged["path"]] = {**merged, "parts": parts}


def _counts(history: History, part: Row) -> bool:
    """Whether none of the part's jobs has a row yet; for a retry, whether none was retried yet."""
    mine = _keys(part)
    others = [other for other in history.parts.values() if other.get("replaces") == part.get("replaces")]
    if part.get("replaces") is not None and part["replaces"] not in history.parts:
        return False
    return part["path"] not in history.parts and not any(mine & _keys(other) for other in others)


def _keys(part: Row) -> set[tuple[str, int, int]]:
    """Family, tile and cell of what a part holds; family, tile and job of what a retry holds."""
    ranges = part["jobs"] if part.get("replaces") else [(part["k_lo"], part["k_hi"])]
    return {
        (family, part["tile"], number)
        for family in part["families"]
        for lo, hi in ranges
        for number in range(lo, hi)
    }


def _rows(root: Path, file: Row) -> list[Row]:
    path = root / file["path"]
    assert path.is_file(), f"{file['path']} holds committed rows and is gone"
    assert _sha256(path) == file["sha256"], f"{file['path']} is not what was committed"
    rows: list[Row] = pq.ParquetFile(path, pre_buffer=False).read(use_threads=False).to_pylist()
    assert len(rows) == file["rows"], f"{file['path']} has {len(rows)} rows and not {file['rows']}"
    return rows


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_rows(history: History, found: dict[str, list[Row]]) -> None:
    """Find each job's one row: that of its retry, if it has one, in place of a failure."""
    first: dict[Job, Row] = {}
    retried: dict[Job, Row] = {}
    held = Counter(part for file in history.files.values() for part in file["parts"])
    assert held == Counter(list(history.parts)), "a part's rows lie in no file, or in two"
    for path, file in history.files.items():
        parts = [history.parts[part] for part in file["parts"]]
        assert file["rows"] == sum(part["rows"] for part in parts), f"{path} holds rows of no part"
        is_retry = parts[0].get("replaces") is not None
        for row in found[path]:
            for family in file["families"]:
                job = (family, row["cell"], row["pair"])
                rows = retried if is_retry else first
                assert job not in rows, f"{job} was done twice"
                rows[job] = row
    for job in retried:
        assert first[job]["error"] is not None, f"{job} had succeeded and was retried"
    history.rows = first | retried
