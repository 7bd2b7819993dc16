"""Folders whose Python code studies may run: the user says so once, and their configuration keeps it."""

__all__ = ["Answer", "Ask", "allowed", "allowed_study", "forget", "is_trusted", "remember", "trusted_folders"]

import fcntl
import json
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from studies import Study
from studies.language.functions import check_functions, functions_of, trusting_models
from workers.code.named import files_of
from workers.code.places import Code
from workers.errors import StoreError, StudyError, UntrustedError

Answer = Literal["yes", "no", "always"]
Ask = Callable[[Path, Sequence[Path]], Answer]
"""Asks the user about a folder, and names the files of it that would run."""

_FILE = "trusted.json"


def allowed_study(
    study: Study, *, trust: bool = False, remote_code: bool = False, ask: Ask | None = None
) -> Study:
    """The study, which may be planned and run: its own code, if it names any, is trusted.

    Args:
        study: as it was read.
        trust: whether the code beside it may be run this once.
        remote_code: whether the code in its models' folders may be run this once.
        ask: the user, where there is one to be asked.

    Raises:
        StudyError: a function is nowhere that one may lie, or cannot be what is wanted of it.
        UntrustedError: it names code of a folder that nobody trusts.
        StoreError: what is trusted cannot be read.
    """
    functions = functions_of(study)
    # What is wrong can be told without running anything: nobody should have to trust a folder to hear of it.
    check_functions(functions, study.code)
    found = study.with_code(allowed(study.code, [name for name, _ in functions], trust=trust, ask=ask))
    return trusting_models(found) if remote_code else found


def allowed(code: Code, names: Sequence[str], *, trust: bool = False, ask: Ask | None = None) -> Code:
    """The same code, trusted where that is so; raises as `allowed_study` does, of the functions `names`."""
    if code.is_trusted or not code.folders:
        return code
    folder = code.folders[0]
    files = list(dict.fromkeys(file for name in names for file in _files(name, code)))
    # What a column of the pairs names is known later, and then only a folder that is trusted already will do.
    if trust or _is_known(folder, must=bool(files)):
        return replace(code, is_trusted=True)
    if not files:
        return code
    answer = "no" if ask is None else ask(folder, files)
    if answer == "always":
        remember(folder)
    if answer == "no":
        raise UntrustedError(_refusal(folder, files, code, names))
    return replace(code, is_trusted=True)


def _files(name: str, code: Code) -> list[Path]:
    # A link that leads out of the folder is refused where the function is looked for, with its line.
    with suppress(StudyError):
        return files_of(name, code)
    return []


def _refusal(folder: Path, files: Sequence[Path], code: Code, names: Sequence[str]) -> str:
    listed = ", ".join(str(file.relative_to(folder)) for file in files[:5])
    more = f" and {len(files) - 5} more" if len(files) > 5 else ""
    at = next((code.at(name) for name in names if code.at(name)), "")
    return (
        f"{at}this study would run {listed}{more} in {folder}, which is not trusted; nothing was run. If you"
        f" trust it: swapyard trust {shlex.quote(str(folder))}, or --trust for one command"
        " (in Python: trust=True)"
    )


def is_trusted(folder: Path) -> bool:
    """Whether a folder, or one around it, is trusted.

    Raises:
        StoreError: the list is damaged, or cannot be read.
    """
    real = folder.resolve()
    return any(real.is_relative_to(one) for one in trusted_folders())


def _is_known(folder: Path, *, must: bool) -> bool:
    """As `is_trusted`; a damaged list is told of only where it matters."""
    try:
        return is_trusted(folder)
    except StoreError:
        if must:
            raise
        return False


def trusted_folders() -> list[Path]:
    """The folders that are trusted, with all below them.

    Raises:
        StoreError: the list is damaged, or cannot be read.
    """
    path = _path()
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            f"{path}, the list of trusted folders, cannot be read ({_why(error)}); correct it"
        ) from None
    try:
        found = json.loads(text)["folders"]
        if not isinstance(found, list) or not all(
            isinstance(one, str) and Path(one).is_absolute() for one in found
        ):
            raise ValueError("it lists what is no folder")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{path}, the list of trusted folders, is damaged ({_why(error)}); correct or remove it: then no"
            " folder is trusted until you say so again"
        ) from None
    return [Path(one) for one in found]


def remember(folder: Path) -> Path:
    """Trust a folder and all below it from now on; the real folder that this is.

    Raises:
        StudyError: it is no folder.
        StoreError: the list cannot be read or written.
    """
    real = folder.expanduser().resolve()
    if not real.is_dir():
        raise StudyError(f"{folder} is no folder; give the one that your study file lies in")
    with _locked():
        known = trusted_folders()
        if real not in known:
            _write([*known, real])
    return real


def forget(folder: Path) -> Path:
    """Trust a folder no longer; the real folder that this is.

    Raises:
        StudyError: it is not in the list.
        StoreError: the list cannot be read or written.
    """
    real = folder.expanduser().resolve()
    with _locked():
        known = trusted_folders()
        if real not in known:
            around = next((one for one in known if real.is_relative_to(one)), None)
            hint = f"; it is trusted with {around}, which can be removed" if around else ""
            raise StudyError(
                f"{real} is not in the list of trusted folders{hint}; see: swapyard trust --list"
            )
        _write([one for one in known if one != real])
    return real


def _path() -> Path:
    import platformdirs

    return platformdirs.user_config_path("swapyard") / _FILE


@contextmanager
def _locked() -> Iterator[None]:
    """One process at a time changes the list."""
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.parent / f".{_FILE}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unwritable(error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(folders: Sequence[Path]) -> None:
    """The whole list at once: whoever reads meanwhile reads the old one or the new one."""
    path = _path()
    text = json.dumps({"folders": sorted(map(str, folders))}, indent=1)
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{_FILE}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(f"{text}\n")
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except (OSError, UnicodeEncodeError) as error:
        raise _unwritable(error) from None


def _unwritable(error: Exception) -> StoreError:
    return StoreError(
        f"{_path()}, the list of trusted folders, cannot be written ({_why(error)}); make its folder"
        " writable, set XDG_CONFIG_HOME, or use --trust for one command"
    )


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
