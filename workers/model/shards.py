"""Indexes of weights that lie in several files: which files they name, all of them in the model's folder."""

__all__ = ["INDEXES", "shards_of"]

import json
from pathlib import Path, PurePosixPath, PureWindowsPath

from workers.errors import ModelError
from workers.libraries.huggingface_hub import blobs_of

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Files that say in which file each tensor lies."""


def shards_of(index: Path) -> list[str]:
    """The files that an index names, in order, each once; there may be none of them.

    Raises:
        ModelError: it cannot be read, or names a file outside of its folder.
    """
    try:
        named = json.loads(index.read_bytes())["weight_map"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{index} is no index of weights ({type(error).__name__}: {error}); fetch or save the model again"
        ) from None
    found = list(dict.fromkeys(str(name) for name in named))
    for name in found:
        if (why := _why_outside(name, index.parent)) is not None:
            raise ModelError(
                f"{index} names the file {name!r}, {why}; weights must lie in the model's own folder: get the"
                " model from somebody you trust, or put the files into it"
            )
    return found


def _why_outside(name: str, folder: Path) -> str | None:
    """Why a file of this name lies elsewhere; None where it, or what the hub's cache links to, lies there."""
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or PureWindowsPath(name).root:
        return "which is a whole path"
    if ".." in parts or not name or "\0" in name:
        return "which leads out of the folder"
    real, inside = (folder / name).resolve(), folder.resolve()
    blobs = [found for one in (folder.absolute(), inside) if (found := blobs_of(one)) is not None]
    if not any(real.is_relative_to(one.resolve()) for one in (inside, *blobs)):
        return f"a link that leads to {real}"
    return None
