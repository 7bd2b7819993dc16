"""Garbage collection: files of a study that no commit names, or that a merged file replaced long ago.

An ``open`` commit fences every earlier driver, so what earlier epochs left uncommitted will never be
committed by them. A part that can be read stays all the same: only somebody who asks for it clears it. Of the
current epoch nothing is cleared that is not known to be replaced: its workers write on.
"""

__all__ = ["GRACE_S", "Leftovers", "RemovedFiles", "collect_garbage", "is_kept", "leftovers", "plans_of"]

import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from orchestrator.faults import reach
from orchestrator.store.adopt import epoch_of
from orchestrator.store.commit import commit_name
from orchestrator.store.manifest import PART, PLAIN_NAME
from orchestrator.store.notes import examined, read_tail
from orchestrator.store.state import State
from orchestrator.store.storage import LocalStorage, Storage, explained
from workers.errors import StoreError

GRACE_S = 3600.0
"""Time for which a reader may be at a file that was replaced."""

_PLAN_FILE = re.compile(rf"plan/([0-9a-f]{{32}})/{PLAIN_NAME}")
_PLAN_ID = re.compile("[0-9a-f]{32}")
_NOTE = re.compile(r"logs/[1-9][0-9]*/(?:[0-9]+\.trial|[0-9a-f]{32}\.(?:making|failed)|left\.json)")
_OURS = re.compile(r"\.(?:tmp|hello)-[0-9a-f]{32}(?:-[0-9]+)?")
"""Names of temporary files: others that begin with a dot may be the user's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """Files that may be cleared, by name."""

    orphans: tuple[str, ...]
    """Of earlier epochs, named by no commit: parts, and workers' notes. A run clears only those of which
    nothing can be read."""
    replaced: tuple[str, ...]
    """Parts and merged files whose rows have been in another file for long enough."""
    plans: tuple[str, ...]
    """Files of plans that were never committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedFiles:
    """Numbers of files that were cleared."""

    num_orphans: int = 0
    num_replaced: int = 0
    num_plans: int = 0
    """Files of plans that were never committed."""
    num_hidden: int = 0
    """Temporary files."""
    num_kept: int = 0
    """Parts that can be read and that no commit names: they stay."""
    problem: str | None = None
    """Why clearing stopped before its end; a later run goes on."""


def leftovers(
    names: Iterable[str],
    state: State,
    *,
    epoch: int,
    now_s: float,
    grace_s: float = GRACE_S,
    own_plans: Set[str] = frozenset(),
) -> Leftovers:
    """Files among `names` that the driver of `epoch` may clear. Names of no form of ours stay.

    Args:
        names: files below ``data``, ``plan`` and ``logs``, listed before `state` was read.
        state: what the study holds.
        epoch: that of the driver.
        now_s: seconds since 1970.
        grace_s: how long replaced files stay.
        own_plans: plans that this driver wrote or is writing.
    """
    orphans: list[str] = []
    replaced: list[str] = []
    plans: list[str] = []
    kept_plans = own_plans | state.plans
    for name in names:
        if name in state.replaced:
            if now_s - state.replaced[name] > grace_s:
                replaced.append(name)
        elif PART.fullmatch(name) or _NOTE.fullmatch(name):
            if epoch_of(name) < epoch and name not in state.files:
                orphans.append(name)
        elif (plan := _PLAN_FILE.fullmatch(name)) and plan[1] not in kept_plans:
            plans.append(name)
    return Leftovers(orphans=tuple(orphans), replaced=tuple(replaced), plans=tuple(plans))


def collect_garbage(
    storage: Storage,
    read_on: Callable[[], State],
    *,
    epoch: int,
    grace_s: float,
    own_plans: Set[str],
    is_locked: bool,
) -> RemovedFiles:
    """Clear what may be cleared by the driver of `epoch`; nothing where it lost the study.

    `read_on` gives the state as it is when called. Temporary files are cleared only where the study
    `is_locked` by this driver: else a driver that is about to take it over may be writing one.
    """
    names = [name for folder in ("data", "plan") for name in storage.list(folder)]
    with contextlib.suppress(StoreError):
        # Logs are no part of the study: whatever is wrong with them stops nothing.
        names += storage.list("logs")
    # Folders and hidden files are a disk's own.
    root = storage.root if isinstance(storage, LocalStorage) else None
    folders = _folders(root) if root is not None else []
    hidden = _hidden(root, epoch) if root is not None and is_locked else []
    # Listed first: whoever took the study over since then is in the state, and nothing of his was listed.
    state = read_on()
    if state.epoch != epoch:
        return RemovedFiles()
    found = leftovers(names, state, epoch=epoch, now_s=time.time(), grace_s=grace_s, own_plans=own_plans)
    kept = tuple(name for name in found.orphans if is_kept(storage, name, state))
    orphans = tuple(name for name in found.orphans if name not in set(kept))
    meant = plans_of(storage, kept)
    plans = tuple(name for name in found.plans if name.split("/")[1] not in meant)
    swept = replace(
        _cleared(storage, replace(found, orphans=orphans, plans=plans), hidden), num_kept=len(kept)
    )
    for folder in folders:
        if root is not None and _is_past(folder, epoch, own_plans | state.plans | meant):
            # Not empty, or gone: either is well.
            with contextlib.suppress(OSError):
                (root / folder).rmdir()
    return swept


def is_kept(storage: Storage, name: str, state: State) -> bool:
    """Whether an orphan may hold rows that lie nowhere else, or that somebody may want.

    Torn parts do not, nor do merged files whose rows all lie where the log says.
    """
    if PART.fullmatch(name) is None or not read_tail(storage, name).is_whole:
        return False
    found = examined(storage.read(name) or b"")
    if found.status == "torn" or found.note is None or found.note.merged is None:
        return found.status != "torn"
    return not all(
        part.path in state.live and storage.exists(state.file_of(part.path).path) for part in found.parts
    )


def plans_of(storage: Storage, names: Iterable[str]) -> set[str]:
    """The plans without which the rows of files mean nothing, as far as these say so: they stay, too."""
    notes = (examined(storage.read(name) or b"").note for name in names)
    return {note.plan for note in notes if note is not None and note.plan is not None}


def _cleared(storage: Storage, found: Leftovers, hidden: Iterable[Path]) -> RemovedFiles:
    """Remove files until all are gone or one cannot be removed, and count them."""
    kinds = {"orphan": found.orphans, "replaced": found.replaced, "plan": found.plans}
    counts: Counter[str] = Counter()
    problem = None
    try:
        for kind, name in ((kind, name) for kind, names in kinds.items() for name in names):
            reach("sweep.remove")
            storage.remove(name)
            counts[kind] += 1
        for path in hidden:
            reach("sweep.remove")
            with explained(path):
                path.unlink(missing_ok=True)
            counts["hidden"] += 1
    except StoreError as error:
        problem = str(error)
    return RemovedFiles(
        num_orphans=counts["orphan"],
        num_replaced=counts["replaced"],
        num_plans=counts["plan"],
        num_hidden=counts["hidden"],
        problem=problem,
    )


def _hidden(root: Path, epoch: int) -> list[Path]:
    """Temporary files older than the ``open`` commit of `epoch`: their makers ended, or were fenced."""
    places = (".tmp-*", ".hello-*", "*/.tmp-*", "*/*/.tmp-*")
    with explained(root):
        opened_ns = (root / commit_name(epoch)).stat().st_mtime_ns
    found: list[Path] = []
    for pattern in places:
        for path in root.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                if _OURS.fullmatch(path.name) and path.is_file() and path.lstat().st_mtime_ns < opened_ns:
                    found.append(path)
    return found


def _folders(root: Path) -> list[PurePath]:
    """The folders of lanes, epochs and plans, relative to the study, each after those in it."""
    found = (path for pattern in ("data/*/*", "data/*", "plan/*") for path in root.glob(pattern))
    return [path.relative_to(root) for path in found if path.is_dir() and not path.is_symlink()]


def _is_past(folder: PurePath, epoch: int, kept_plans: Set[str]) -> bool:
    """Whether nobody will write into a folder any more: it is an earlier epoch's or an uncommitted plan's."""
    kind, name = folder.parts[:2]
    if kind == "plan":
        return _PLAN_ID.fullmatch(name) is not None and name not in kept_plans
    return name.isdecimal() and int(name) < epoch
