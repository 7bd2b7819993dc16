"""Places of a study's functions: Python files below some folders, and entry points of installed packages."""

__all__ = ["GROUP", "NO_CODE", "Code", "caller_code", "offered", "own_file"]

import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

from workers.errors import StudyError

INSTALLED = frozenset(("site-packages", "dist-packages"))
"""Names of the folders that packages are installed in."""


@dataclass(frozen=True, slots=True)
class Code:
    """Files that a study's functions may lie in, and whether they may be run."""

    folders: tuple[Path, ...] = ()
    """Whole, without links; of two that have a module the first."""
    is_trusted: bool = False
    """Whether the user has said that code in the folders may be run, or has built the study in Python."""
    lines: Mapping[str, str] = field(default_factory=dict)
    """``FILE:LINE`` at which the study names a function."""

    def at(self, name: str) -> str:
        """Position at which a function is named, as the beginning of a message."""
        return f"{self.lines[name]}: " if name in self.lines else ""

    def file_of(self, module: str) -> Path | None:
        """The file of a module in one of the folders; None where there is none.

        Raises:
            StudyError: it lies outside of the folder, where a link leads to.
        """
        found = (own_file(folder, module) for folder in self.folders)
        return next((file for file in found if file is not None), None)


NO_CODE = Code()
"""Code of a study without a folder: it can name functions of installed packages alone."""


def own_file(folder: Path, module: str) -> Path | None:
    """The Python file of ``a.b`` in `folder`, ``a/b/__init__.py`` or ``a/b.py``, without links.

    Raises:
        StudyError: it, or a package around it, lies outside of the folder, where a link leads to.
    """
    base = folder.joinpath(*module.split("."))
    for file in (base / "__init__.py", base.with_name(f"{base.name}.py")):
        try:
            is_there = file.is_file()
        except OSError as error:
            raise StudyError(
                f"the module {module[:80]!r} cannot be looked for in {folder}: {error.strerror}"
            ) from None
        if is_there:
            real = file.resolve()
            if not real.is_relative_to(folder.resolve()):
                raise StudyError(
                    f"the module {module!r} is {file}, which leads to {real}, outside of the study's folder;"
                    f" put the file itself into {folder}"
                )
            return real
    return None


def caller_code() -> Code:
    """Code of who builds a study in Python: the current folder, the script's, and others on the path."""
    return Code(tuple(dict.fromkeys([Path.cwd(), *_on_path()])), is_trusted=True)


def _on_path() -> list[Path]:
    """Folders of ``sys.path`` that are neither Python's own nor those of installed packages."""
    python = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
    folders = [Path(os.path.realpath(path or ".")) for path in sys.path]
    return [
        folder
        for folder in folders
        if folder.is_dir()
        and not INSTALLED.intersection(folder.parts)
        and not any(folder.is_relative_to(one) for one in python)
    ]


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
