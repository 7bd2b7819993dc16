"""What people, and disks, do to a folder: part of it is deleted, cut short, or a bit of it flips."""

__all__ = ["harm"]

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

_MOST_COMMITS = 5


def harm(folder: Path, draw: random.Random) -> str:
    """Harm the study in `folder`, which nobody drives; what was done, in words."""
    commits = sorted(folder.glob("commits/*.json"))
    parts = sorted(folder.glob("data/*/*/*.parquet"))
    deeds: list[Callable[[], str]] = [lambda: _without_format(folder)]
    if commits:
        deeds += [
            lambda: _without_commits(folder),
            lambda: _without_the_last(commits, draw),
            lambda: _without(draw.choice(commits[:-1] or commits)),
            lambda: _flipped(draw.choice(commits), draw),
        ]
    if parts:
        deeds += 2 * [
            lambda: _without(draw.choice(parts)),
            lambda: _flipped(draw.choice(parts), draw),
            lambda: _cut(draw.choice(parts), draw),
        ]
    return draw.choice(deeds)()


def _without_format(folder: Path) -> str:
    (folder / "format.json").unlink(missing_ok=True)
    return "format.json is deleted"


def _without_commits(folder: Path) -> str:
    shutil.rmtree(folder / "commits")
    return "commits/ is deleted"


def _without_the_last(commits: Sequence[Path], draw: random.Random) -> str:
    gone = commits[-draw.randint(1, _MOST_COMMITS) :]
    for path in gone:
        path.unlink()
    return f"the last {len(gone)} commits are deleted"


def _without(path: Path) -> str:
    path.unlink()
    return f"{path.parent.name}/{path.name} is deleted"


def _flipped(path: Path, draw: random.Random) -> str:
    data = bytearray(path.read_bytes())
    if not data:
        return f"{path.name} is empty"
    at = draw.randrange(len(data))
    data[at] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    return f"a bit of byte {at:,} of {path.parent.name}/{path.name} is flipped"


def _cut(path: Path, draw: random.Random) -> str:
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(max(1, len(data)))])
    return f"{path.parent.name}/{path.name} is cut short"
