"""The user's cache: models that were fetched and hashes that were computed. No torch here.

    CACHE/models/NAME/      one folder for each fetched alias
    CACHE/hashes/KEY.json   the content hash of one folder, with what it was computed from

``CACHE`` is the platform's folder for caches, or the environment variable ``SWAPYARD_CACHE``. Everything
in it can be deleted at any time; it is made again when needed.
"""

__all__ = [
    "cache_folder",
    "clear",
    "content_hash",
    "is_known",
    "keep_known",
    "models_folder",
    "size_bytes",
]

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from workers.errors import ModelError

_MODEL_SUFFIXES = frozenset({".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".gguf", ".py"})
"""Files that a model is loaded from. Readmes, licences and what a trainer leaves beside do not count."""


def cache_folder() -> Path:
    """Folder of the cache; it need not exist yet."""
    if given := os.environ.get("SWAPYARD_CACHE"):
        return Path(given).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("swapyard")


def models_folder() -> Path:
    """Folder of fetched models, one folder for each; it need not exist yet."""
    return cache_folder() / "models"


def size_bytes(path: Path) -> int:
    """Bytes in all files at and below `path`; 0 where there is nothing."""
    total = 0
    for file in [path, *path.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):  # A fetch may be tidying up meanwhile.
            total += file.stat().st_size if file.is_file() else 0
    return total


def clear(path: Path) -> int:
    """Delete `path`, which is the cache or lies in it. Returns the bytes that this freed.

    Raises:
        ModelError: something below `path` cannot be deleted.
    """
    assert path.is_relative_to(cache_folder()), path
    freed = size_bytes(path)
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise ModelError(f"cannot clear {path}: {error}; delete the folder by hand") from error
    return freed


def content_hash(folder: Path) -> str:
    """SHA-256 (hex) over the names and contents of the files in `folder` that a model is loaded from.

    Hidden files, sub-folders, readmes and licences are left out. The hash is remembered in the cache for as
    long as no file's size or times change, so that only the first call reads the files.

    Raises:
        ModelError: the folder or a file in it cannot be read.
    """
    try:
        files = _model_files(folder)
        seen = [[file.name, *_stamp(file)] for file in files]
        memory = _memory_of(folder)
        known = _recall(memory)
        if known is not None and known.get("files") == seen:
            return str(known["hash"])
        computed = _hash_files(files)
    except OSError as error:
        raise ModelError(f"cannot read the model folder {folder}: {error}") from error
    _remember(memory, {"folder": str(folder), "files": seen, "hash": computed})
    return computed


def is_known(key: str) -> bool:
    """Whether `keep_known` was told of `key`, the hash of what was checked and against what."""
    return (_recall(_checked(key)) or {}).get("checked") == key


def keep_known(key: str) -> None:
    """Remember in the cache that what `key` is the hash of was found to be right."""
    _remember(_checked(key), {"checked": key})


def _checked(key: str) -> Path:
    return cache_folder() / "hashes" / f"checked-{key[:32]}.json"


def _model_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix in _MODEL_SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _stamp(file: Path) -> tuple[int, int, int]:
    """Numbers that change when a file's contents do; ctime catches a copy that kept the old file's times."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _hash_files(files: list[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.name}\0{digest}\n".encode())
    return total.hexdigest()


def _memory_of(folder: Path) -> Path:
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
    return cache_folder() / "hashes" / f"{key}.json"


def _recall(memory: Path) -> dict[str, object] | None:
    try:
        known = json.loads(memory.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) else None


def _remember(memory: Path, content: dict[str, object]) -> None:
    """Write in one step, so that a reader sees the old hash or the new one; a cache that is full or
    read-only only costs the time of hashing again."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=memory.parent, suffix=".tmp", delete=False
        ) as stream:
            json.dump(content, stream)
        Path(stream.name).replace(memory)
    except OSError:
        return
