"""Functions by name, ``module:function``: looked for, checked, and only then loaded.

A folder of research may hold ``json.py``, ``workers.py`` or ``studies/``: they are nobody's but the study's.
Its modules have names here that no other module has. They are loaded from the files where they lie, never
looked up by name, and what they import is looked for beside them first, as a script's imports are.
"""

__all__ = ["check_named", "files_of", "load_module", "module_name", "named"]

import builtins
import hashlib
import importlib
import importlib.util
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from workers.code.function_kinds import FunctionKind, imported_files, why_not, why_not_there
from workers.code.places import Code, offered, own_file
from workers.errors import StudyError, UntrustedError, nearest

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


def _imports(package: str, folder: Path) -> Callable[..., object]:
    """Function that ``import`` calls in the files of a folder."""

    def imported(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> object:
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


def check_named(name: str, kind: FunctionKind, code: Code) -> None:
    """Accept what `name` may stand for, as far as that can be told without running anything.

    Raises:
        StudyError: it is nowhere that a study's functions may lie, or cannot be of the kind.
    """
    if (folder := _folder_of(name, kind, code)) is not None:
        module, _, function = name.partition(":")
        file = code.file_of(module)
        assert file is not None, "its folder was found by it"
        if (wrong := why_not_there(file, function, kind, folder)) is not None:
            raise _refused(name, kind, code, f"{_short(file, folder)} {wrong}")
        return
    if name not in (points := offered(code)):
        raise _refused(name, kind, code, _nowhere(name, code, list(points)))


def files_of(name: str, code: Code) -> list[Path]:
    """The files of the study's folder that run for `name`; none for what is installed."""
    module, _, _ = name.partition(":")
    file = code.file_of(module)
    folder = next((one for one in code.folders if file is not None and file.is_relative_to(one)), None)
    return [] if file is None or folder is None else imported_files(file, folder)


def named(name: str, kind: FunctionKind, code: Code) -> Any:
    """Load what `name` stands for: of the study's own files, or offered by an installed package.

    Raises:
        UntrustedError: it is a file's, and nobody has said that the folder's code may be run.
        StudyError: there is none, its module raises, or it is not of the kind.
    """
    check_named(name, kind, code)
    module, _, function = name.partition(":")
    if (folder := _folder_of(name, kind, code)) is not None:
        if not code.is_trusted:
            raise UntrustedError(
                f"{code.at(name)}{kind.role} {name!r}: {module.replace('.', '/')}.py in {folder} is not"
                " trusted, and was not run; if you trust the folder: swapyard trust"
                f" {shlex.quote(str(folder))}"
            )
        loaded = _loaded(name, kind, code, lambda: load_module(folder, module), module)
        found, package = getattr(loaded, function, _MISSING), None
    else:
        point = offered(code)[name]
        found = _loaded(name, kind, code, point.load, point.module)
        package = point.module.partition(".")[0]
    if found is _MISSING:
        raise _refused(name, kind, code, f"the module {module!r} has no {function!r}")
    if (wrong := why_not(found, kind, code, package)) is not None:
        raise _refused(name, kind, code, f"it {wrong}")
    return found


_MISSING = object()


def _folder_of(name: str, kind: FunctionKind, code: Code) -> Path | None:
    """The folder whose file has the module of `name`; None where none has."""
    module = name.partition(":")[0]
    try:
        file = code.file_of(module)
    except StudyError as error:
        raise _refused(name, kind, code, str(error)) from None
    if file is None:
        return None
    return next(folder for folder in code.folders if file.is_relative_to(folder.resolve()))


def _loaded(name: str, kind: FunctionKind, code: Code, load: Any, module: str) -> object:
    importlib.invalidate_caches()
    try:
        return load()
    # A script that ends itself when it is imported would take the worker with it.
    except (Exception, SystemExit) as error:
        said = f"importing {module_name(module)!r} raised {type(error).__name__}: {error}{_where(error)}"
        raise StudyError(f"{code.at(name)}{kind.role} {name!r}: {said}; correct the module") from error


def _refused(name: str, kind: FunctionKind, code: Code, problem: str) -> StudyError:
    return StudyError(f"{code.at(name)}{kind.role} {name!r}: {problem}; wanted: {kind.wanted}")


def _nowhere(name: str, code: Code, points: list[str]) -> str:
    module = name.partition(":")[0]
    where = " or ".join(map(str, code.folders)) or "the study's folder (it was read from no file)"
    offers = f"; installed packages offer {', '.join(sorted(points)[:8])}" if points else ""
    return (
        f"there is no {module.replace('.', '/')}.py below {where}, and no installed package offers it to"
        f" studies{offers}{nearest(name, points)}"
    )


def _short(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder.resolve())) if file.is_relative_to(folder.resolve()) else str(file)


def _where(error: BaseException) -> str:
    """The file and line that raised, as the end of a sentence's part."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename[0] != "<"]
    # The first are the calls here.
    frames = [frame for frame in frames if Path(frame.filename).parent != Path(__file__).parent]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
