"""A disk that records what it is asked, and all that a power loss may leave of it.

The model is the weakest that file systems promise: the bytes of a file are safe up to its last sync, its
name is safe once its folder is synced, and of whatever was not synced any part may be there, in any order, or
torn. What lies in a folder is there only if the folder's own name is.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from orchestrator.store.disk import Disk

Kind = Literal["create", "write", "sync", "link", "unlink", "make folder", "drop folder", "sync folder"]
FOLDER = -1
"""Stands for a folder where files have their numbers."""
Image = dict[str, bytes | None]
"""What a disk holds: the bytes of each file by its path, and None for each folder."""


class Call(NamedTuple):
    """One call, with paths relative to where the record begins."""

    kind: Kind
    path: str
    file: int = FOLDER
    data: bytes = b""


class RecordingDisk(Disk):
    """A real disk below `base`, a safe folder that holds what `calls` made of it, and at first nothing."""

    def __init__(self, base: Path, calls: Iterable[Call] = ()) -> None:
        self.base = base
        self.calls = list(calls)
        self._names: dict[str, int] = {}
        for call in self.calls:
            if call.path and call.kind != "sync folder":
                _change(self._names, call)
        self._open: dict[int, int] = {}

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        self._open[descriptor] = len(self.calls)
        self._record("create", path, len(self.calls))
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> None:
        super().write(descriptor, data)
        self.calls.append(Call("write", "", self._open[descriptor], bytes(data)))

    def sync(self, descriptor: int) -> None:
        super().sync(descriptor)
        if descriptor in self._open:
            self.calls.append(Call("sync", "", self._open[descriptor]))

    def close(self, descriptor: int) -> None:
        del self._open[descriptor]
        super().close(descriptor)

    def link(self, existing: Path, new: Path) -> None:
        super().link(existing, new)
        self._record("link", new, self._names[self._relative(existing)])

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        if self._relative(path) in self._names:
            self._record("unlink", path)

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        if path != self.base and path.is_relative_to(self.base) and self._relative(path) not in self._names:
            self._record("make folder", path)

    def sync_folder(self, path: Path) -> None:
        self.notice()
        super().sync_folder(path)
        if path.is_relative_to(self.base):
            self.calls.append(Call("sync folder", self._relative(path)))

    def notice(self) -> None:
        """Record what happened past this disk: folders that are new, and names that are gone."""
        for path in sorted(self.base.rglob("*")):
            if path.is_dir() and self._relative(path) not in self._names:
                self._record("make folder", path)
        for name, file in sorted(self._names.items(), reverse=True):
            if not (self.base / name).exists():
                self._record("drop folder" if file == FOLDER else "unlink", self.base / name)

    def _record(self, kind: Kind, path: Path, file: int = FOLDER) -> None:
        name = self._relative(path)
        if kind in ("unlink", "drop folder"):
            del self._names[name]
        else:
            self._names[name] = file
        self.calls.append(Call(kind, name, file))

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.base).as_posix()


class Fate(NamedTuple):
    """What becomes of what was not synced."""

    keeps_name: Callable[[], bool]
    """Whether the next change of a name is kept."""
    rest: Callable[[bytes], bytes]
    """What is found where these bytes had been written."""


LOST = Fate(lambda: False, lambda data: b"")
KEPT = Fate(lambda: True, lambda data: data)
EMPTIED = Fate(lambda: True, lambda data: b"")
"""Every name is there, and no byte."""


def drawn(seed: str) -> Fate:
    """Each change of a name kept or not, and bytes torn anywhere or read as zeros, by chance."""
    draw = random.Random(seed)

    def rest(data: bytes) -> bytes:
        torn = data[: draw.randint(0, len(data))]
        return draw.choice((torn, torn, bytes(len(data)), data))

    return Fate(lambda: draw.random() < 0.5, rest)


def remains(calls: Iterable[Call], fate: Fate) -> Image:
    """What the disk holds when the power fails right after these calls."""
    contents: dict[int, bytes] = {}
    safe_bytes: dict[int, int] = {}
    safe: dict[str, int] = {}
    doubtful: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        match call.kind:
            case "write":
                contents[call.file] += call.data
            case "sync":
                safe_bytes[call.file] = len(contents[call.file])
            case "sync folder":
                for change in doubtful.pop(call.path, []):
                    _change(safe, change)
            case _:
                if call.kind == "create":
                    contents[call.file], safe_bytes[call.file] = b"", 0
                doubtful[str(PurePosixPath(call.path).parent)].append(call)
    for change in (change for changes in doubtful.values() for change in changes):
        if fate.keeps_name():
            _change(safe, change)
    found = {
        file: contents[file][:size] + fate.rest(contents[file][size:]) for file, size in safe_bytes.items()
    }
    return {name: found.get(file) for name, file in safe.items() if _is_reachable(name, safe)}


def images(calls: Sequence[Call], num_draws: int) -> Iterator[tuple[int, Image]]:
    """What a power loss after any number of the calls may leave, each once, with that number."""
    for num_calls in range(len(calls) + 1):
        fates = (LOST, KEPT, EMPTIED, *(drawn(f"{num_calls}/{turn}") for turn in range(num_draws)))
        found = [remains(calls[:num_calls], fate) for fate in fates]
        for image in {frozenset(image.items()): image for image in found}.values():
            yield num_calls, image


def materialise(image: Image, base: Path) -> Path:
    """Make the new folder `base`, which holds just the image."""
    base.mkdir(parents=True)
    for name, data in sorted(image.items()):
        path = base / name
        if data is None:
            path.mkdir()
        else:
            path.write_bytes(data)
    return base


def _change(names: dict[str, int], change: Call) -> None:
    if change.kind in ("unlink", "drop folder"):
        names.pop(change.path, None)
    else:
        names[change.path] = change.file


def _is_reachable(name: str, names: dict[str, int]) -> bool:
    return all(str(above) in names for above in PurePosixPath(name).parents if str(above) != ".")
