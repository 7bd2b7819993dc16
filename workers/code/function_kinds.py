"""Kinds of functions that a study can name, and whether a file or an object has one of that kind.

A file is read and not run: so much can be told before its folder is trusted.
"""

__all__ = [
    "GETTER",
    "MODEL",
    "OPERATION",
    "SETTER",
    "FunctionKind",
    "imported_files",
    "why_not",
    "why_not_there",
]

import ast
import functools
import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.code.places import INSTALLED, Code, own_file
from workers.errors import StudyError, nearest


@dataclass(frozen=True, slots=True)
class FunctionKind:
    """Kind of function that is wanted at one place of a study."""

    role: str
    """Word that a study has for it: ``intervention``."""
    wanted: str
    """Description of it, as the end of a sentence."""
    num_given: int | None = None
    """Number of values that it is called with; None for options by their names."""
    is_object: bool = False
    """Whether an object of one's own does too, instead of a function."""


OPERATION = FunctionKind("intervention", "a function of the old and the other value, def f(old, other)", 2)
GETTER = FunctionKind("coordinates", "a function of the module's tensor, def get(tensor)", 1)
SETTER = FunctionKind(
    "coordinates", "a function of the module's tensor and the values, def set(tensor, values)", 2
)
MODEL = FunctionKind("causal model", "a CausalModel, or a function that returns one", None, is_object=True)


def why_not(found: object, kind: FunctionKind, code: Code, package: str | None = None) -> str | None:
    """Why what was found is not of the kind, as the end of a sentence; None where it is.

    Args:
        found: what a name stands for.
        kind: what is wanted.
        code: the folders that it may be written in.
        package: the installed package that may have it as well.
    """
    if kind.is_object and type(found).__module__.startswith("workers.causal."):
        return None
    if not callable(found):
        return None if kind.is_object and not isinstance(found, _PLAIN) else f"is {_shown(found)}"
    home = _home(found)
    if not _is_own(home, code, package):
        return f"is {_shown(found)} of the module {home!r}, which is only imported there"
    if kind.num_given is None:
        return None
    if inspect.isclass(found):
        return "is a class"
    if inspect.iscoroutinefunction(found) or inspect.isgeneratorfunction(found):
        return "is a coroutine or a generator, which returns no value when it is called"
    try:
        inspect.signature(found).bind(*[None] * kind.num_given)
    except TypeError:
        return f"takes {inspect.signature(found)}, and is given {kind.num_given}"
    except ValueError:
        return "does not say what it takes"
    return None


_PLAIN = (str, bytes, int, float, complex, list, tuple, dict, set, frozenset, type(None), type(sys))


def _home(found: object) -> str:
    while isinstance(found, functools.partial):
        found = found.func
    return str(getattr(found, "__module__", None))


def _is_own(home: str, code: Code, package: str | None) -> bool:
    """Whether a module lies in one of the folders, or in the package."""
    if package is not None and f"{home}.".startswith(f"{package}."):
        return True
    file = getattr(sys.modules.get(home), "__file__", None)
    if not isinstance(file, str) or INSTALLED.intersection(Path(file).parts):
        return False
    return any(Path(file).resolve().is_relative_to(folder.resolve()) for folder in code.folders)


def _shown(found: object) -> str:
    if callable(found):
        return f"{getattr(found, '__name__', type(found).__name__)!r}"
    text = repr(found)
    return f"{text if len(text) <= 40 else f'{text[:37]}...'}, a {type(found).__name__}"


_DYNAMIC = {"globals", "exec", "setattr", "vars", "locals", "__getattr__", "eval"}
"""Names that a module can make others with: what it has is then known once it runs."""

_Made = tuple[ast.AST, ast.alias | None]


def why_not_there(file: Path, name: str, kind: FunctionKind, folder: Path) -> str | None:
    """Why the file has nothing of this name and kind, as the end of a sentence; None where it may have.

    Args:
        file: of the module.
        name: that the study writes.
        kind: what is wanted.
        folder: that the study's files lie in.
    """
    tree = _parsed(file)
    if isinstance(tree, str):
        return tree
    made = list(_made(tree.body))
    names = {one for one, _ in made}
    if "*" in names or _is_dynamic(tree):
        return None
    found = [how for one, how in made if one == name]
    if not found:
        defined = sorted(one for one, (node, _) in made if isinstance(node, ast.FunctionDef | ast.ClassDef))
        return f"has no {name!r}; it defines {', '.join(defined) or 'nothing'}{nearest(name, defined)}"
    if all(_is_foreign(node, alias, folder) for node, alias in found):
        node = found[0][0]
        assert isinstance(node, ast.Import | ast.ImportFrom)
        origin = node.module if isinstance(node, ast.ImportFrom) else "another module"
        return f"only imports {name!r} from {origin} (line {node.lineno})"
    return _why_not_kind(found[0][0], name, kind) if len(found) == 1 else None


def _why_not_kind(node: ast.AST, name: str, kind: FunctionKind) -> str | None:
    if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
        return f"has {name} = {ast.unparse(node.value)} (line {node.lineno}), which is no function"
    if kind.num_given is None:
        return None
    if isinstance(node, ast.AsyncFunctionDef | ast.ClassDef):
        what = "class" if isinstance(node, ast.ClassDef) else "coroutine"
        return f"has a {what} {name!r} (line {node.lineno})"
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        return None
    given = node.args
    least = len(given.posonlyargs) + len(given.args) - len(given.defaults)
    most = len(given.posonlyargs) + len(given.args) if given.vararg is None else None
    lacks = any(default is None for default in given.kw_defaults)
    if lacks or kind.num_given < least or (most is not None and kind.num_given > most):
        return (
            f"has {name}({ast.unparse(given)}) (line {node.lineno}), which cannot take the"
            f" {kind.num_given} {'value' if kind.num_given == 1 else 'values'} that it is given"
        )
    return None


def imported_files(file: Path, folder: Path) -> list[Path]:
    """The file, and those below the folder that it imports, and these: all that would run with it."""
    found = [file]
    for one in found:
        tree = _parsed(one)
        modules = [] if isinstance(tree, str) else list(_imported(tree, one, folder))
        for module in modules:
            try:
                own = own_file(folder, module)
            except StudyError:
                continue
            if own is not None and own not in found:
                found.append(own)
    return found


def _imported(tree: ast.Module, file: Path, folder: Path) -> Iterator[str]:
    """Every module that a file may import, as its folder's files name them."""
    inside = file.parent.relative_to(folder).parts if file.is_relative_to(folder) else ()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*inside[: len(inside) - node.level + 1]] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            names = [whole, *(f"{whole}.{alias.name}".lstrip(".") for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[: n + 1]) for n in range(len(parts)) if name)


def _parsed(file: Path) -> ast.Module | str:
    try:
        return ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        return f"is no Python: {getattr(error, 'msg', error)}{line}"
    except (RecursionError, MemoryError):
        return "is too deep to be read"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _made(body: Sequence[ast.stmt]) -> Iterator[tuple[str, _Made]]:
    """Every name that a module's own statements make, and how."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, (node, None)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], (node, alias)
            continue
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                yield inner.id, (node, None)
            elif isinstance(inner, ast.stmt) and inner is not node:
                yield from ((name, how) for name, how in _made([inner]))


def _is_dynamic(tree: ast.Module) -> bool:
    """Whether the module may have names that none of its statements shows."""
    for node in ast.walk(tree):
        name = getattr(node, "id", None) or getattr(node, "name", None)
        if isinstance(node, ast.Global) or (isinstance(name, str) and name in _DYNAMIC):
            return True
    return False


def _is_foreign(node: ast.AST, alias: ast.alias | None, folder: Path) -> bool:
    """Whether a name comes from a module that is none of the folder's."""
    if isinstance(node, ast.Import):
        assert alias is not None
        return True
    if not isinstance(node, ast.ImportFrom) or node.level:
        return False
    try:
        top = str(node.module).partition(".")[0]
        return own_file(folder, top) is None and not (folder / top).is_dir()
    except StudyError:
        return True
