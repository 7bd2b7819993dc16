"""Modules of the user's folder that have the name of one of ours, or of a library's, and are in the way."""

__all__ = ["check", "leave_out_folder"]

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_OURS = ("orchestrator", "studies", "workers")
_LIBRARIES = (
    *("accelerate", "click", "duckdb", "filelock", "fsspec", "gguf", "huggingface_hub", "jinja2"),
    *("matplotlib", "numpy", "packaging", "platformdirs", "psutil", "pyarrow", "pydantic", "ray"),
    *("regex", "rich", "safetensors", "tokenizers", "torch", "tqdm", "transformers", "yaml"),
)
"""Modules that are imported here sooner or later."""


def _file_of(name: str) -> Path | None:
    """The file or the folder that a module is, or would be."""
    known = sys.modules.get(name)
    spec = find_spec(name) if known is None else getattr(known, "__spec__", None)
    found = getattr(known, "__file__", None) if spec is None else spec.origin
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    return Path(found or places[0]).resolve() if found or places else None


def _here() -> Path | None:
    """The folder of the script that runs, or the current one: its modules come before all others."""
    here = Path(sys.path[0] or os.curdir).resolve() if sys.path else _ROOT
    return None if here == _ROOT or here.name in ("site-packages", "dist-packages") else here


def _in_the_way(names: Iterable[str]) -> list[Path]:
    """Files of that folder that have the names of other modules."""
    here = _here()
    files = (
        []
        if here is None
        else [here / file for name in names for file in (f"{name}.py", f"{name}/__init__.py")]
    )
    return [file for file in files if file.is_file()]


def _refuse(file: Path, what: str) -> ImportError:
    return ImportError(
        f"{file} is in the way of {what}, which swapyard needs: rename it, or run what imports swapyard in"
        " another folder (the command swapyard runs beside it)"
    )


def check() -> None:
    """Refuse modules of the user's folder that would be taken for ours or for a library, by their files.

    Raises:
        ImportError: one is in the way.
    """
    if _ROOT not in (Path(path).resolve() for path in sys.path if path):
        # An editable install finds our packages in a way of its own, but only after the path: there a mere
        # folder of one of their names would count as the package.
        sys.path.append(str(_ROOT))
    for name in _OURS:
        file = _file_of(name)
        if file is not None and not file.is_relative_to(_ROOT / name):
            raise _refuse(file, f"its package {name!r}")
    for file in _in_the_way(_LIBRARIES):
        name = file.parent.name if file.name == "__init__.py" else file.stem
        raise _refuse(file, f"the library {name!r}")
    try:
        import_module("orchestrator.api")
    except Exception as error:
        for file in _in_the_way(sys.stdlib_module_names):
            raise _refuse(file, f"a module of Python's own ({type(error).__name__}: {error})") from error
        raise


def leave_out_folder() -> None:
    """Take the current folder off the path, as ``python -P`` does: its modules are the user's alone."""
    if sys.path and _here() == Path.cwd():
        del sys.path[0]
