"""Modules of a study's own folder, loaded from their files under names that no other module has.

A folder of research may hold ``json.py``, ``workers.py`` or ``studies/``: they are nobody's but the study's.
Its files are loaded from where they lie, never looked up by name, and what they import is looked for beside
them first, as a script's imports are.
"""

__all__ = ["load_module", "module_name"]

import builtins
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from workers.code.places import own_file

_PREFIX = "swapyard_study_"
_FOLDERS: dict[str, Path] = {}
"""The folder of each package that a study's folder is here."""


def load_module(folder: Path, module: str) -> ModuleType:
    """The module ``a.b`` of a file below `folder`; one that this process has already is that one.

    Raises:
        Exception: whatever the module raises.
    """
    file = own_file(folder, module)
    for name in (module, "__main__"):
        if (known := sys.modules.get(name)) is not None and file is not None and _file_of(known) == file:
            return known
    importlib.invalidate_caches()
    return importlib.import_module(f"{_package(folder)}.{module}")


def module_name(name: str) -> str:
    """A module's name as its files write it."""
    package, _, rest = name.partition(".")
    return rest if package in _FOLDERS else name


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) else None


def _package(folder: Path) -> str:
    """The package that a folder is here."""
    name = _PREFIX + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    if not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    _FOLDERS[name] = folder
    return name


class _Finder(MetaPathFinder):
    """Finder of source files in studies' folders: of no compiled module, through no link that leads out."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, module = fullname.partition(".")
        folder = _FOLDERS.get(package)
        if folder is None:
            return None
        file = own_file(folder, module) if module else None
        if file is not None:
            inside = [str(file.parent)] if file.name == "__init__.py" else None
            loader = _Loader(fullname, str(file))
            return importlib.util.spec_from_file_location(
                fullname, file, loader=loader, submodule_search_locations=inside
            )
        base = folder.joinpath(*module.split(".")) if module else folder
        if not base.is_dir():
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        found = ModuleSpec(fullname, None, is_package=True)
        found.submodule_search_locations = [str(base)]
        return found


class _Loader(SourceFileLoader):
    """Loader of a file, whose imports look beside it first."""

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]
        module.__dict__["__builtins__"] = {
            **vars(builtins),
            "__import__": _imports(package, _FOLDERS[package]),
        }
        super().exec_module(module)


def _imports(package: str, folder: Path) -> Callable[..., Any]:
    """What ``import`` does in the files of a folder."""

    def imported(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        top = name.partition(".")[0]
        if level or not _is_own(folder, top):
            return builtins.__import__(name, globals, locals, fromlist, level)
        found = builtins.__import__(f"{package}.{name}", globals, locals, fromlist, 0)
        return found if fromlist else sys.modules[f"{package}.{top}"]

    return imported


def _is_own(folder: Path, top: str) -> bool:
    """Whether a module lies in the folder; one without ``__init__.py`` where nothing else has its name."""
    if own_file(folder, top) is not None:
        return True
    return (folder / top).is_dir() and top not in sys.modules and importlib.util.find_spec(top) is None
