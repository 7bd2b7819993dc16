"""Functions that installed packages offer studies, by an entry point of the group ``swapyard.functions``."""

__all__ = ["GROUP", "offered"]

import sys
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

from workers.code.places import INSTALLED, Code

GROUP = "swapyard.functions"
"""The group of entry points. One is found by its name, where that has the form ``package:function``, by the
object that it names, and by its distribution and its name."""


def offered(code: Code) -> dict[str, EntryPoint]:
    """Entry points by the names that studies may write.

    What looks like an installed package in the study's folder, or in the current one, is none: only folders
    that packages are installed in count there.
    """
    found: dict[str, EntryPoint] = {}
    for distribution in distributions(path=_path(code)):
        for point in distribution.entry_points:
            if point.group == GROUP:
                package = str(distribution.metadata["Name"] or "").replace("-", "_")
                for name in (point.name, point.value.partition("[")[0].strip(), f"{package}:{point.name}"):
                    found.setdefault(name, point)
    return found


def _path(code: Code) -> list[str]:
    data = {folder.resolve() for folder in (Path.cwd(), *(() if code.is_trusted else code.folders))}
    return [path for path in sys.path if path and not _is_data(Path(path).resolve(), data)]


def _is_data(folder: Path, data: set[Path]) -> bool:
    """Whether a folder lies where a study's files lie, and is none that packages are installed in."""
    return not INSTALLED.intersection(folder.parts) and any(folder.is_relative_to(one) for one in data)
