"""Layout of the cache of the hub's client: a snapshot's folder bears the name of its commit."""

__all__ = ["PLACES", "blobs_of", "commit_of"]

import re
import tempfile
from pathlib import Path

from workers.errors import ModelError
from workers.libraries import LibraryPlace

_COMMIT = re.compile(r"[0-9a-f]{40}")


def commit_of(snapshot: Path) -> str:
    """The commit of a snapshot in the cache, which is the model's revision and so part of its identity.

    Raises:
        ModelError: this client's cache is laid out otherwise.
    """
    if not _COMMIT.fullmatch(snapshot.name):
        raise ModelError(
            f"the hub's client keeps models where their revision cannot be told ({snapshot}); give the folder"
            " itself as the model, or install an older huggingface_hub"
        )
    return snapshot.name


def blobs_of(snapshot: Path) -> Path | None:
    """The folder of the cache that the files of a snapshot are links into; None of any other folder."""
    return snapshot.parents[1] / "blobs" if snapshot.parent.name == "snapshots" else None


def _probe_snapshot() -> str | None:
    from huggingface_hub import try_to_load_from_cache

    commit, name = "0123456789" * 4, "models--swapyard--probe"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / name
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(commit)
        (snapshot / "config.json").write_text("{}")
        found = try_to_load_from_cache("swapyard/probe", "config.json", cache_dir=made)
        if not isinstance(found, str) or commit_of(Path(found).parent) != commit:
            raise LookupError(f"a snapshot in the cache is not found, or not by its commit: {found!r}")
    return None


PLACES = (
    LibraryPlace(
        library="huggingface_hub",
        name="models--OWNER--NAME/snapshots/COMMIT in the cache",
        used_for="the revision of a model from the hub, without asking the network",
        seen_with="1.31.0 to 2.4.0",
        without="models of the hub are refused with a line that says what to do; folders work",
        marks=('"snapshots"',),
        probe=_probe_snapshot,
    ),
)
