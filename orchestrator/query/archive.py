"""Archives of studies, for others: plain Parquet that any program reads, and the study itself.

```
NAME/README.md              what it is, how to read it, how to go on with it
NAME/study.yaml             the study file
NAME/versions.json          which versions ran and exported it
NAME/tables/<view>.parquet  every view that has rows
NAME/store/                 the study's folder
```
"""

__all__ = ["Exported", "export_study", "import_study"]

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from platform import platform, python_version
from typing import NamedTuple

from orchestrator.query.connection import VIEWS, connect
from orchestrator.query.formats import write_parquet
from orchestrator.query.statements import run_query
from orchestrator.store import State, StudyStore
from orchestrator.store.identity import fresh_identity, write_identity
from orchestrator.store.moves import (
    Copied,
    check_study,
    fill,
    num_rows_of,
    placed,
    same_study,
    staged,
    target_of,
)
from orchestrator.store.storage import JsonObject, check_name, explained
from workers.errors import StoreError

_LIBRARIES = ("swapyard", "torch", "transformers", "ray", "duckdb", "pyarrow", "numpy")
_CHUNK_BYTES = 1 << 20
_PACKED = (".parquet", ".safetensors", ".png", ".bin")
"""Endings of files that are compressed already."""


class Exported(NamedTuple):
    """Archive that was made."""

    path: Path
    num_rows: int
    size_bytes: int


def export_study(
    folder: Path, path: Path, *, replace: bool = False, say: Callable[[str], None] = lambda line: None
) -> Exported:
    """Write what the study in `folder` holds now as one archive, checked; beside a driver at work, too.

    Raises:
        StoreError: it has no plan or is damaged, something lies at `path`, or it cannot be written.
    """
    if path.exists() and not replace:
        raise StoreError(f"{path} is there already; name another file with -o, or remove it")
    state = StudyStore(folder).state()
    if state.plan is None:
        raise StoreError(f"the study in {folder} has no plan yet, and nothing to export; run it first")
    with staged(path) as made, explained(path):
        copied = made / folder.name
        copied.mkdir()
        fill(folder, copied, state)
        say(f"{num_rows_of(state):,} rows are copied and checked; the tables are made")
        tables = _write_tables(copied, made / "tables")
        partial = made / "archive.zip"
        with zipfile.ZipFile(partial, "w", allowZip64=True) as archive:
            for name, source in _members(copied, state, tables, made):
                kind = zipfile.ZIP_STORED if source.suffix in _PACKED else zipfile.ZIP_DEFLATED
                archive.write(source, f"{folder.name}/{name}", kind)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    return Exported(path, num_rows_of(state), path.stat().st_size)


def import_study(path: Path, store: Path, name: str | None = None, *, renew: bool = False) -> Copied:
    """Make the study of an archive below `store`: the same one, or with `renew` one of its own.

    Raises:
        StoreError: it is no archive of a study, is damaged, or the study is there already.
    """
    with explained(path):
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile:
            raise StoreError(f"{path} is no archive that swapyard export made: it is no zip file") from None
    with archive:
        top, names = _store_of(path, archive)
        target = target_of(store, name or top)
        with placed(target) as made:
            for member, relative in names:
                _extract(path, archive, member, made / relative)
            state = check_study(made)
            if renew:
                write_identity(made, fresh_identity(target.name))
            elif (other := same_study(store, StudyStore(made).identity())) is not None:
                raise StoreError(
                    f"{store} has this study already, as {other.name}; --renew makes a study of its own of it"
                )
    return Copied(target, num_rows_of(state), renew)


def _write_tables(study: Path, folder: Path) -> dict[str, dict[str, str]]:
    """Write each view that has rows; the columns and types of each."""
    folder.mkdir()
    connection = connect([study], verify=False)
    found: dict[str, dict[str, str]] = {}
    for view in VIEWS:
        relation = run_query(connection, f"FROM {view}")
        path = folder / f"{view}.parquet"
        with path.open("wb") as sink:
            write_parquet(relation, sink)
        columns = {column: str(kind) for column, kind in zip(relation.columns, relation.types, strict=True)}
        if _is_empty(path):
            path.unlink()
        else:
            found[view] = columns
    connection.close()
    return found


def _is_empty(path: Path) -> bool:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows) == 0


def _members(
    study: Path, state: State, tables: dict[str, dict[str, str]], made: Path
) -> Iterator[tuple[str, Path]]:
    """Names in the archive, and the files that go there."""
    assert state.plan is not None
    store = StudyStore(study)
    head = json.loads(store.read_plan_file(state.plan, "plan.json"))
    own = {
        "README.md": _readme(study.name, state, head, tables),
        "versions.json": json.dumps(_versions(head), indent=1),
        "study.yaml": store.read_plan_file(state.plan, "study.yaml").decode(),
    }
    for name, text in own.items():
        written = made / name
        written.write_text(text, encoding="utf-8")
        yield name, written
    for view in tables:
        yield f"tables/{view}.parquet", made / "tables" / f"{view}.parquet"
    for path in sorted(path for path in study.rglob("*") if path.is_file() and not path.name.startswith(".")):
        yield f"store/{path.relative_to(study).as_posix()}", path


def _versions(head: JsonObject) -> JsonObject:
    found: dict[str, str] = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return {
        "planned_with": {"swapyard": head.get("version")},
        "exported_with": {**found, "python": python_version(), "platform": platform()},
        "models": [
            {key: lane["spec"].get(key) for key in ("ref", "revision", "dtype")}
            for lane in head.get("lanes", [])
        ],
    }


def _readme(name: str, state: State, head: JsonObject, tables: dict[str, dict[str, str]]) -> str:
    lines = [
        f"# {name}",
        "",
        f"The study `{head['study']}` of interchange interventions, made with swapyard {head.get('version')}"
        f" and exported on {datetime.now(UTC):%Y-%m-%d} (UTC): {num_rows_of(state):,} rows.",
        "",
        "- `study.yaml` says what was asked, `versions.json` of which models and with which versions.",
        "- `tables/` holds plain Parquet: `pandas.read_parquet('tables/results.parquet')`, or in DuckDB",
        "  `SELECT * FROM 'tables/results.parquet'`.",
        "- `store/` is the study itself. `swapyard import` of this archive brings it back whole: it can be",
        "  asked in SQL, drawn, and gone on with.",
        "",
        "What the columns mean is said in swapyard's docs/views.md.",
    ]
    for view, columns in tables.items():
        lines += ["", f"## tables/{view}.parquet", "", "| column | type |", "|---|---|"]
        lines += [f"| {column} | {kind} |" for column, kind in columns.items()]
    return "\n".join(lines) + "\n"


def _store_of(path: Path, archive: zipfile.ZipFile) -> tuple[str, Sequence[tuple[zipfile.ZipInfo, str]]]:
    """The study's name in an archive, and the members that are its folder, each with its name there."""
    found: list[tuple[zipfile.ZipInfo, str]] = []
    tops: set[str] = set()
    for member in archive.infolist():
        top, _, rest = member.filename.partition("/")
        inner = rest.removeprefix("store/")
        if member.is_dir() or inner == rest:
            continue
        try:
            check_name(inner)
        except StoreError as error:
            raise StoreError(f"{path} is refused: {error}") from None
        if "\\" in inner or PurePosixPath(inner).is_absolute():
            raise StoreError(f"{path} is refused: {inner!r} is no name of a study's file")
        tops.add(top)
        found.append((member, inner))
    if len(tops) != 1 or not any(name == "format.json" for _, name in found):
        raise StoreError(f"{path} is no archive that swapyard export made: no study lies in it")
    return tops.pop(), found


def _extract(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with archive.open(member) as source, target.open("xb") as sink:
                shutil.copyfileobj(source, sink, _CHUNK_BYTES)
                sink.flush()
                os.fsync(sink.fileno())
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise StoreError(f"{path} is damaged: {member.filename} cannot be read ({error})") from None
