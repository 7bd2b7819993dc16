"""Examination of this machine, its file system, and the studies and models on it."""

__all__ = [
    "Advance",
    "Diagnosis",
    "examine_machine",
    "examine_model",
    "examine_study",
    "is_model",
    "num_bytes",
]

import contextlib
import fcntl
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from orchestrator.machine import memory_bytes, num_cores, num_gpus
from orchestrator.plan.part_checks import misfit, strange_rows
from orchestrator.plan.tables import Plan, read_plan
from orchestrator.store import CommitLog, Manifest, State, StoredFile, StudyStore
from orchestrator.store.adopt import check_rows
from orchestrator.store.gc import is_kept, leftovers, plans_of
from orchestrator.store.notes import examined
from orchestrator.store.plans import damaged_plan_files
from orchestrator.store.storage import LocalStorage, named
from orchestrator.store.verify import fault_of
from orchestrator.upkeep.status import is_running
from workers.errors import ModelError, StoreError, SwapyardError
from workers.model.capability import ABILITIES, Capability
from workers.model.references import ALIASES, resolve
from workers.vocabulary import ModelSpec
from workers.zoo.configs import is_zoo

LIBRARIES = ("torch", "transformers", "ray", "duckdb", "pyarrow", "numpy")
LITTLE_ROOM_BYTES = 2 * 10**9
NO_ROOM_BYTES = 100 * 10**6
SLOW_SYNC_MS = 100.0
NUM_SYNCS = 5
MOST_NAMED = 10
"""Damaged files that are named, at most."""
_REMEDY = "restore it from a copy of the study; without one, swapyard doctor --repair"

_PLAN_REMEDY = (
    "restore it from a copy; without one, the same command as ever makes the plan again, bit for bit, or says"
    " that it cannot, and loses nothing"
)

Advance = Callable[[int], None]
"""Told how many bytes were checked since the last time."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Result of one check."""

    level: Literal["ok", "warning", "problem"]
    text: str
    """Diagnosis in words and, of a problem, its remedy."""

    def __str__(self) -> str:
        return f"{self.level:<9}{self.text}"


def examine_machine(root: Path) -> Iterator[Diagnosis]:
    """This machine, and the file system that studies below `root` lie on or would lie on."""
    yield Diagnosis("ok", f"swapyard {version('swapyard')}, Python {platform.python_version()}")
    yield _libraries()
    gpus = num_gpus()
    has = (
        f"{num_cores()} cores, {memory_bytes() / 1e9:.1f} GB of memory, {gpus} GPU{'' if gpus == 1 else 's'}"
    )
    yield Diagnosis("ok", has)
    folder = _nearest_folder(root)
    yield from _fetched_models()
    yield _room(folder)
    yield from _file_system(folder)


def examine_study(folder: Path, advance: Advance) -> Iterator[Diagnosis]:
    """The study in `folder`: its commits, its plan, every file that holds rows, and what was left over."""
    store = StudyStore(folder)
    try:
        log = store.open_reader(checkpoints=False)
    except SwapyardError as error:
        yield Diagnosis("problem", str(error))
        return
    state = log.state
    yield Diagnosis("ok", f"{state.seq:,} commits, {len(state.live):,} parts in {len(state.files):,} files")
    plan = None
    try:
        plan = None if state.plan is None else read_plan(store, state.plan)
    except SwapyardError as error:
        damaged = [] if state.plan is None else damaged_plan_files(LocalStorage(folder), state.plan)
        yield from (Diagnosis("problem", f"{line}; {_PLAN_REMEDY}") for line in damaged or [str(error)])
    else:
        yield _plan(plan)
    yield from _files(store, log, plan, advance)
    yield from _leftovers(folder, log)
    yield _driver(folder, state)


def num_bytes(folder: Path) -> int:
    """Bytes of rows that `examine_study` will read; 0 where the study cannot be opened."""
    try:
        return sum(file.size_bytes for file in StudyStore(folder).state().files.values())
    except SwapyardError:
        return 0


def _libraries() -> Diagnosis:
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            return Diagnosis(
                "problem", f"{name} is not installed; install swapyard again with: pip install swapyard"
            )
    return Diagnosis("ok", ", ".join(f"{name} {number}" for name, number in found.items()))


def _fetched_models() -> Iterator[Diagnosis]:
    """Whether each model that was fetched is the pinned one."""
    from workers.model.cache import models_folder
    from workers.model.fetch import SOURCES, is_fetched
    from workers.model.references import resolve
    from workers.vocabulary import ModelSpec

    for name in SOURCES:
        if not is_fetched(name):
            continue
        try:
            revision = resolve(ModelSpec(ref=name), fetch=False).revision
        except SwapyardError as error:
            yield Diagnosis("problem", str(error))
        else:
            yield Diagnosis("ok", f"{name} in {models_folder()} is the pinned model, {revision[:12]}")


def _nearest_folder(root: Path) -> Path:
    """`root`, or the folder above it in which it would be made."""
    return next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.is_dir())


def _room(folder: Path) -> Diagnosis:
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:,.1f} GB free in {folder}"
    if free < NO_ROOM_BYTES:
        return Diagnosis("problem", f"{text}: a run would stop at once; free some, or name another --store")
    if free < LITTLE_ROOM_BYTES:
        return Diagnosis("warning", f"{text}: ten million jobs take about 140 MB, pictures and logs besides")
    return Diagnosis("ok", text)


def _file_system(folder: Path) -> Iterator[Diagnosis]:
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as scratch:
            yield _links(Path(scratch))
            yield _locks(Path(scratch))
            yield _syncs(Path(scratch))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        yield Diagnosis(
            "problem",
            f"{folder} cannot be written ({reason}); free some room, change its permissions, or name another"
            " --store",
        )


def _links(scratch: Path) -> Diagnosis:
    try:
        StudyStore(scratch).probe()
    except StoreError as error:
        return Diagnosis("problem", str(error))
    return Diagnosis("ok", "hard links work and are exclusive")


def _locks(scratch: Path) -> Diagnosis:
    with (scratch / "lock").open("wb") as first, (scratch / "lock").open("rb") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Diagnosis("ok", "locks work: a second driver is kept out")
        except OSError as error:
            why = f"has no locks ({error.strerror})"
        else:
            why = "gives a lock to two at once"
    return Diagnosis(
        "problem",
        f"the file system {why}: two drivers would not see each other before one commits; run one driver a"
        " study with --take-over, or name a --store on a local disk",
    )


def _syncs(scratch: Path) -> Diagnosis:
    times = []
    for number in range(NUM_SYNCS):
        with (scratch / str(number)).open("wb") as file:
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(1000 * (time.perf_counter() - began))
    text = f"writing to the disk itself takes {statistics.median(times):.1f} ms (worst {max(times):.1f} ms)"
    if statistics.median(times) > SLOW_SYNC_MS:
        return Diagnosis("warning", f"{text}: each part waits for it several times")
    return Diagnosis("ok", text)


def _plan(plan: Plan | None) -> Diagnosis:
    if plan is None:
        return Diagnosis(
            "warning", "no plan yet: a run was stopped before it had one, and the next one makes it"
        )
    return Diagnosis("ok", f"the plan is whole: {plan.num_jobs:,} jobs")


def _files(store: StudyStore, log: CommitLog, plan: Plan | None, advance: Advance) -> Iterator[Diagnosis]:
    """Read every file that holds rows, and name those that are not as they were committed."""
    num_damaged = 0
    held = log.state.parts_by_file()
    for path, file in list(log.state.files.items()):
        why = _fault(store, file, held[path], plan, advance)
        # A driver at work may have merged it into another file meanwhile.
        if why is None or path not in log.refresh().files:
            continue
        num_damaged += 1
        if num_damaged <= MOST_NAMED:
            yield Diagnosis("problem", f"{store.locate(path)} {why}; {_REMEDY} {named(store.root)}")
    if num_damaged > MOST_NAMED:
        yield Diagnosis("problem", f"{num_damaged - MOST_NAMED:,} more files of rows are missing or damaged")
    if not num_damaged:
        size_bytes = sum(file.size_bytes for file in log.state.files.values())
        yield Diagnosis("ok", f"every file of rows is as it was committed ({size_bytes / 1e6:,.1f} MB)")


def _fault(
    store: StudyStore, file: StoredFile, parts: Sequence[Manifest], plan: Plan | None, advance: Advance
) -> str | None:
    """Fault of a file of rows, or of what its commits say of it; None where there is none."""
    path = store.locate(file.path)
    why = fault_of(path, file, advance=advance, afresh=True)
    if why is not None:
        return why
    try:
        data = path.read_bytes()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    found = examined(data)
    if found.status not in ("whole", "silent"):
        return "is not what its note says"
    said = sorted(found.parts, key=lambda part: part.path)
    if found.status == "whole" and said != sorted(parts, key=lambda part: part.path):
        return "says of itself what its commit does not say"
    why = check_rows(data, parts)
    if why is not None:
        return f"does not hold what its commits say: {why}"
    if plan is None:
        return None
    why = next((why for part in parts if (why := misfit(plan, part)) is not None), None)
    why = why or strange_rows(plan, parts, data)
    return None if why is None else f"does not fit the plan: {why}"


def _leftovers(folder: Path, log: CommitLog) -> Iterator[Diagnosis]:
    """Findings on files that the next run will clear, and on those that only the user may."""
    storage = LocalStorage(folder)
    names = [name for kind in ("data", "plan") for name in storage.list(kind)]
    with contextlib.suppress(StoreError):
        names += storage.list("logs")
    state = log.refresh()
    epoch = state.epoch if is_running(folder) else state.seq + 1
    found = leftovers(names, state, epoch=epoch, now_s=time.time())
    kept = {name for name in found.orphans if is_kept(storage, name, state)}
    meant = plans_of(storage, kept)
    plans = [name for name in found.plans if name.split("/")[1] not in meant]
    files = [name for name in (*found.orphans, *found.replaced, *plans) if name not in kept]
    if kept:
        size_bytes = sum(_size(storage.locate(name)) for name in kept)
        yield Diagnosis(
            "warning",
            f"{len(kept):,} files of rows ({size_bytes / 1e6:,.1f} MB) can be read, and no commit names"
            " them: the next run adds what a killed driver left; of the rest, swapyard doctor --clear"
            f" {named(folder)} lists and removes it",
        )
    if not files:
        if not kept:
            yield Diagnosis("ok", "nothing is left over")
        return
    size_bytes = sum(_size(storage.locate(name)) for name in files)
    yield Diagnosis(
        "ok",
        f"{len(files):,} files ({size_bytes / 1e6:,.1f} MB) are left over, of drivers that were killed or of"
        " merging: the next run clears them",
    )


def _size(path: Path) -> int:
    """A file's size; 0 where a run has cleared it meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _driver(folder: Path, state: State) -> Diagnosis:
    match is_running(folder):
        case True:
            return Diagnosis("ok", f"{state.holder} drives it now")
        case False:
            return Diagnosis("ok", "nobody drives it now")
        case None:
            return Diagnosis(
                "warning", "the file system has no locks: whether somebody drives it is not known"
            )


def is_model(name: str) -> bool:
    """Whether a name is a model's: a short name, a built-in one, a folder with a config, a hub id."""
    return name in ALIASES or is_zoo(name) or (Path(name) / "config.json").is_file() or "/" in name


def examine_model(name: str) -> Iterator[Diagnosis]:
    """Findings on the model of that name, which is loaded on this machine; nothing is fetched."""
    import torch

    from workers.engine.replay.probe import probed
    from workers.model.loading import load

    torch.set_num_threads(num_cores())
    spec = ModelSpec(ref=name)
    try:
        model = probed(load(spec, resolve(spec, fetch=False)))
    except ModelError as error:
        yield Diagnosis("problem", str(error))
        return
    yield from _findings(name, model.capability)


def _findings(name: str, found: Capability) -> Iterator[Diagnosis]:
    size = f"{found.weights_bytes / 1e6:,.0f} MB of weights"
    yield Diagnosis("ok", f"{found.attention} attention, {found.dtype} on {found.device}, {size}")
    for one in found.abilities:
        what = ABILITIES[one.name]
        yield Diagnosis(
            "ok" if one.has else "warning", f"{one.name}: {what if one.has else 'no: ' + one.reason}"
        )
    if found.is_surprise:
        yield Diagnosis("problem", found.warning(name).removeprefix("WARNING: "))
