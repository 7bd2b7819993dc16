"""Study folders below one root: found, named, read one by one.

A study is itself, whatever its folder is called."""

__all__ = [
    "DEFAULT_ROOT",
    "LeaveOut",
    "find_studies",
    "home_of",
    "load_named",
    "name_in",
    "name_of",
    "read_each",
    "study_folders",
    "without_copies",
]

import json
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from orchestrator.store import StudyStore
from orchestrator.store.storage import explained
from workers.errors import OutOfTimeError, StoreError, StudyError, SwapyardError, nearest
from workers.limits import is_our_limit

if TYPE_CHECKING:
    from studies import Study

_T = TypeVar("_T")

LeaveOut = Callable[[str], None]
"""Callback that takes the line which says what study is left out, and why."""


def read_each(
    folders: Iterable[Path], read: Callable[[Path], _T], leave_out: LeaveOut | None
) -> Iterator[tuple[Path, _T]]:
    """Each folder with what `read` finds there; a study that cannot be read goes to `leave_out`.

    Raises:
        SwapyardError: a study cannot be read, and `leave_out` is None; or the time for it is over.
    """
    for folder in folders:
        try:
            yield folder, _read(folder, read)
        except OutOfTimeError:
            raise
        except SwapyardError as error:
            if leave_out is None or is_our_limit(error):
                raise
            leave_out(f"the study {folder.name} is left out: {error}")


def _read(folder: Path, read: Callable[[Path], _T]) -> _T:
    """`read` of `folder`; what only a table of another form can cause becomes an error that says so."""
    try:
        return read(folder)
    except (LookupError, TypeError, ValueError) as error:
        raise StoreError(
            f"the study in {folder} is damaged or of another version of swapyard, and cannot be read"
            f" ({type(error).__name__}: {error}); use the version that wrote it"
        ) from error


DEFAULT_ROOT = Path("runs")
_SUFFIXES = (".yaml", ".yml")


def find_studies(root: Path) -> list[Path]:
    """The folders of all studies below `root`, by name.

    Raises:
        StoreError: `root` may not be read.
    """
    with explained(root):
        if not root.is_dir():
            return []
        folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
        return [folder for folder in folders if folder.name[0] != "." and StudyStore(folder).exists()]


def study_folders(root: Path, names: Sequence[str]) -> list[Path]:
    """The folders of the named studies, or of all where none is named.

    A name is that of a folder; where there is none, that of the one study that study files call so. A study
    file stands for the study that it defines.

    Raises:
        StoreError: there is no such study, or `root` may not be read.
        StudyError: a study file cannot be read.
    """
    names = [name_in(name) or name for name in names]
    found = {folder.name: folder for folder in find_studies(root)}
    for name in names:
        if name not in found and len(called := _called(list(found.values()), name)) == 1:
            found[name] = called[0]
    unknown = [name for name in names if name not in found]
    if unknown or not found:
        what = f"{root} has no study {unknown[0]!r}" if unknown else f"there is no study in {root}"
        there = f"; there are {', '.join(found)}" if found else ""
        hint = nearest(unknown[0], found) if unknown else ""
        raise StoreError(f"{what}{there}{hint}. Make one with: swapyard run STUDY")
    return list(dict.fromkeys(found[name] for name in names)) if names else list(found.values())


def name_in(given: str) -> str | None:
    """Name of the study that a file defines; None where `given` is no study file.

    Raises:
        StudyError: the file cannot be read, or says no name.
    """
    if not given.endswith(tuple(_SUFFIXES)):
        return None
    path = Path(given)
    # A name that begins with ~ may be nobody's folder.
    with suppress(RuntimeError):
        path = path.expanduser()
    if not path.is_file():
        return None
    # Only here: what is asked of studies by name needs nothing of their language.
    from studies.yaml import read_yaml

    try:
        data = read_yaml(path.read_text(encoding="utf-8"), given).data
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{given}: the study cannot be read: {error}") from None
    name = data.get("study") if isinstance(data, dict) else None
    if not isinstance(name, str):
        raise StudyError(f"{given}:1: the key 'study' is missing; it says what the study is called")
    return name


def name_of(folder: Path) -> str | None:
    """Name that study files have for the study in a folder; None where it has no plan that says so.

    Of a study whose log cannot be read the newest plan on the disk tells.
    """
    store = StudyStore(folder)
    with suppress(StoreError):
        given = store.given_identity()
        if given is not None:
            return given.name
    try:
        plan = store.latest_plan()
        said = None if plan is None else store.read_plan_file(plan, "plan.json")
    except StoreError:
        plans = sorted(folder.glob("plan/*/plan.json"), key=lambda path: path.stat().st_mtime)
        said = plans[-1].read_bytes() if plans else None
    with suppress(ValueError, KeyError, TypeError):
        return None if said is None else str(json.loads(said)["study"])
    return None


def home_of(root: Path, name: str, say: Callable[[str], None] = lambda line: None) -> Path:
    """The folder below `root` in which the study `name` lies, also under another name, or would be made.

    `say` is told where it is not the folder of that name.

    Raises:
        StoreError: another study lies in the folder of that name, or several may be meant.
    """
    folder = root / name
    others = [one for one in find_studies(root) if one != folder]
    store = ["--store", str(root)]
    if StudyStore(folder).exists():
        there = name_of(folder)
        if there is None or there == name:
            return folder
        free = shlex.join(["swapyard", "mv", name, there, *store])
        raise StoreError(
            f"{folder} holds another study, {there!r}; give it its name back ({free}), call yours otherwise,"
            " or choose another folder with --store"
        )
    called = _called(others, name)
    if len(called) > 1:
        raise StoreError(
            f"the study {name!r} may be any of {', '.join(str(one) for one in called)}; name the one that is"
            f" meant: {shlex.join(['swapyard', 'mv', called[0].name, name, *store])}"
        )
    if called:
        say(f"the study {name} lies in {called[0]}")
        return called[0]
    return folder


def without_copies(folders: Sequence[Path], say: Callable[[str], None]) -> list[Path]:
    """The folders but those that hold a study which another of them holds, too: each study counts once.

    Of several the one with the most commits counts, then that of the study's own name; `say` is told of each
    other one.
    """
    same: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        with suppress(StoreError):
            same[StudyStore(folder).identity()].append(folder)
    left_out: set[Path] = set()
    for found in same.values():
        if len(found) > 1:
            counts, *copies = sorted(found, key=_rank)
            left_out.update(copies)
            for copy in copies:
                own = ["swapyard", "mv", copy.name, "NAME", "--renew", "--store", str(copy.parent)]
                say(
                    f"{copy.name} is a copy of {counts.name} and is not counted; to make it a study of its"
                    f" own: {shlex.join(own)}"
                )
    return [folder for folder in folders if folder not in left_out]


def _rank(folder: Path) -> tuple[bool, int, bool, str]:
    """Sort key of several folders of one study: the least counts."""
    try:
        num_commits = StudyStore(folder).state().seq
    except StoreError:
        return True, 0, True, folder.name
    return False, -num_commits, folder.name != name_of(folder), folder.name


def _called(folders: Sequence[Path], name: str) -> list[Path]:
    """The folders of studies that study files call `name`; of several copies of one, those that count."""
    found = [folder for folder in folders if name_of(folder) == name]
    return without_copies(found, lambda line: None) if len(found) > 1 else found


def load_named(given: str, store: Path) -> "Study":
    """The study in a file, a bundled one by its name, or one below `store` as it was planned last.

    Raises:
        StudyError: there is none of these, or it is no study.
        StoreError: the stored one cannot be read.
    """
    # Only here and below: whoever asks of studies by name needs nothing of their language.
    from studies import load_study
    from studies.load import BUNDLED

    bundled = {path.stem for path in BUNDLED.glob("*.yaml")}
    if Path(given).expanduser().is_file() or given in bundled or "\n" in given or ": " in given:
        return load_study(given)
    folders = {folder.name: folder for folder in find_studies(store)}
    if given not in folders:
        verb = "is" if len(folders) <= 1 else "are"
        known = sorted({*bundled, *folders})
        raise StudyError(
            f"{given}: no such study file, nor a study of that name; bundled studies:"
            f" {', '.join(sorted(bundled))}; in {store} {verb} {', '.join(folders) or 'none'}"
            f"{nearest(given, known)}"
        )
    (folder,) = study_folders(store, [given])
    plan = StudyStore(folder).latest_plan()
    if plan is None:
        raise StoreError(f"the study in {folder} has no plan yet; run it from its file")
    return load_study(StudyStore(folder).read_plan_file(plan, "study.yaml").decode())
