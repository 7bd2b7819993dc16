"""Moves, copies and removals of study folders, in which each study stays whole.

What is made is made in a folder whose name begins with a dot, which no command takes for a study, and gets
its name at the end, at once: killed at any moment, a study lies where it was or where it goes.
"""

__all__ = [
    "Copied",
    "check_study",
    "contents",
    "copy",
    "fill",
    "move",
    "num_rows_of",
    "placed",
    "remove",
    "same_study",
    "staged",
    "target_of",
    "users_of",
]

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from orchestrator.store import State, StudyStore
from orchestrator.store.adopt import part_names
from orchestrator.store.disk import Disk
from orchestrator.store.identity import fresh_identity, write_identity
from orchestrator.store.lock import locked
from orchestrator.store.storage import LocalStorage, explained, named
from orchestrator.store.study_dirs import find_studies, name_of
from orchestrator.store.verify import damaged_files
from studies.names import is_name
from workers.errors import StoreError

_CHUNK_BYTES = 1 << 20
_REMADE = ("checkpoints",)
"""Folders of a study that whoever needs them makes again."""
_ABANDONED = re.compile(r"\..+\.[0-9a-f]{32}\.(new|gone)")


class Copied(NamedTuple):
    """Place of a study after a move or a copy."""

    folder: Path
    num_rows: int
    is_renewed: bool
    """Whether it is a study of its own."""


def target_of(store: Path, name: str) -> Path:
    """The folder `name` below `store`, where nothing lies yet.

    Raises:
        StoreError: something does, or it is no name for a folder.
    """
    if not is_name(name):
        raise StoreError(
            f"{name!r} cannot be the name of a study: letters, digits, '.', '_', '-', 100 at most, first a"
            " letter or digit; another store is named with --to"
        )
    folder = store / name
    if folder.exists() or folder.is_symlink():
        raise StoreError(f"{folder} is there already; choose another name")
    return folder


def move(folder: Path, target: Path, *, renew: bool = False) -> Copied:
    """Give the study in `folder` another name or place; it stays the one that it is, unless `renew`.

    Raises:
        HeldError: a driver is at work.
        StoreError: it cannot be read, or `target` not be written; it stays where it was.
    """
    with locked(folder), explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        num_rows = _num_rows(folder)
        if folder.stat().st_dev == target.parent.stat().st_dev:
            if renew:
                write_identity(folder, fresh_identity(target.name))
            folder.rename(target)
            for changed in {target.parent, folder.parent}:
                Disk().sync_folder(changed)
            return Copied(target, num_rows, renew)
        with placed(target) as made:
            fill(folder, made, StudyStore(folder).state())
            if renew:
                write_identity(made, fresh_identity(target.name))
        _remove(folder)
    return Copied(target, num_rows, renew)


def copy(folder: Path, target: Path, *, keep: bool = False) -> Copied:
    """Copy what the study in `folder` holds now, beside a driver at work, too; checked to the last bit.

    The copy is a study of its own, of the folder's name; with `keep` it is the same one, for another store.

    Raises:
        StoreError: the study is damaged, or `target` cannot be written; then nothing of it stays behind.
    """
    state = StudyStore(folder).state()
    with placed(target) as made:
        fill(folder, made, state)
        if not keep:
            write_identity(made, fresh_identity(target.name))
    return Copied(target, num_rows_of(state), not keep)


def remove(folder: Path) -> None:
    """Remove a study for good; killed in the middle, it is no study any more.

    Raises:
        HeldError: a driver is at work.
        StoreError: it cannot be removed.
    """
    with locked(folder):
        _remove(folder)


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, to make something in; at the end it goes, unless it has another name.

    What earlier ones left behind that were killed goes, too.

    Raises:
        StoreError: it cannot be made.
    """
    with explained(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(target.parent)
    made = target.parent / f".{target.name}.{uuid.uuid4().hex}.new"
    try:
        with locked(made):
            yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def placed(target: Path) -> Iterator[Path]:
    """A folder to fill with a study, which gets the name `target` at the end.

    Raises:
        StoreError: it cannot be made, or something has that name by now.
    """
    with staged(target) as made:
        yield made
        with explained(target):
            for folder in (made, *(path for path in made.rglob("*") if path.is_dir())):
                Disk().sync_folder(folder)
            if target.exists():
                raise StoreError(f"{target} came to be meanwhile; choose another name")
            made.rename(target)
            Disk().sync_folder(target.parent)


def fill(folder: Path, made: Path, state: State) -> None:
    """Copy what belongs to the study in `folder` as it was in `state`, each file synced, and check it.

    Raises:
        StoreError: something cannot be read or written, or is damaged.
    """
    for name in contents(folder, state):
        source, copied = folder / name, made / name
        with explained(copied):
            copied.parent.mkdir(parents=True, exist_ok=True)
        try:
            _copy_file(source, copied)
        except FileNotFoundError:
            # A checkpoint of a training that went on; what must be there is looked for below.
            copied.unlink(missing_ok=True)
    check_study(made, state.seq, of=folder)


def contents(folder: Path, state: State) -> Iterator[str]:
    """The names of all files of a study as it was in `state`, strangers' included, but what is made again."""
    storage = LocalStorage(folder)
    rows = set(part_names(storage))
    with explained(folder):
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in entries:
        if path.name in _REMADE:
            continue
        for name in storage.list(path.name) if path.is_dir() else [path.name]:
            is_later = path.name == "commits" and _seq_of(name) > state.seq
            if not is_later and (name not in rows or name in state.files):
                yield name


def check_study(folder: Path, seq: int | None = None, *, of: Path | None = None) -> State:
    """Look at every bit of a study's log and files of rows; what it holds. `of` is what it was copied from.

    Raises:
        StoreError: it is damaged, or has another number of commits than `seq`.
    """
    state = StudyStore(folder).open_reader(checkpoints=False).state
    if seq is not None and state.seq != seq:
        raise StoreError(f"only {state.seq:,} of {seq:,} commits could be copied; try again")
    if damaged := damaged_files(folder, state):
        path, why = damaged[0].path, damaged[0].why
        if of is None:
            raise StoreError(f"{path} {why}; nothing was made of it: take another copy")
        raise StoreError(
            f"{of / path} {why}; nothing was made of it: restore it, or repair the study first: swapyard"
            f" doctor --repair {named(of)}"
        )
    return state


def num_rows_of(state: State) -> int:
    """Number of a study's rows: a job that was run again counts once."""
    return sum(part.rows for part in state.live.values() if not part.is_retry)


def same_study(store: Path, identity: str) -> Path | None:
    """The folder below `store` with the study of an identity; None where there is none."""
    for folder in find_studies(store):
        try:
            if StudyStore(folder).identity() == identity:
                return folder
        except StoreError:
            continue
    return None


def users_of(folder: Path) -> list[str]:
    """The studies beside a study that take models which it trained, by their folders' names."""
    from orchestrator.plan.tables import read_plan
    from orchestrator.plan.trainings import planned_trainings

    name = name_of(folder)
    found = []
    for other in find_studies(folder.parent):
        store = StudyStore(other)
        try:
            plan = store.latest_plan()
            tables = {} if plan is None or other == folder else read_plan(store, plan).tables
            if any(one.training.study == name for one in planned_trainings(tables, others=True).values()):
                found.append(other.name)
        except StoreError:
            continue
    return found


def _num_rows(folder: Path) -> int:
    """Rows of a study; one that is damaged may be moved all the same."""
    try:
        return num_rows_of(StudyStore(folder).state())
    except StoreError:
        return 0


def _remove(folder: Path) -> None:
    gone = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.gone")
    with explained(folder):
        folder.rename(gone)
        Disk().sync_folder(folder.parent)
        shutil.rmtree(gone)


def _clear_abandoned(store: Path) -> None:
    """Remove folders that were to become studies, or were ones, where nobody is at work on them."""
    for path in store.iterdir():
        if not _ABANDONED.fullmatch(path.name):
            continue
        with suppress(StoreError), locked(path):
            shutil.rmtree(path, ignore_errors=True)


def _seq_of(name: str) -> int:
    stem = Path(name).stem
    return int(stem) if stem.isdigit() else 0


def _copy_file(source: Path, copied: Path) -> None:
    with source.open("rb") as opened, explained(copied):
        descriptor = Disk().create(copied)
        try:
            while chunk := opened.read(_CHUNK_BYTES):
                Disk().write(descriptor, memoryview(chunk))
            Disk().sync(descriptor)
        finally:
            Disk().close(descriptor)
