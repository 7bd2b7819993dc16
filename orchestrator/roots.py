"""Where studies lie: folders below one root."""

__all__ = ["DEFAULT_ROOT", "find_studies", "study_folders"]

from collections.abc import Sequence
from pathlib import Path

from orchestrator.store import StudyStore
from orchestrator.store.storage import explained
from workers.errors import StoreError, nearest

DEFAULT_ROOT = Path("runs")


def find_studies(root: Path) -> list[Path]:
    """The folders of all studies below `root`, by name.

    Raises:
        StoreError: `root` may not be read.
    """
    with explained(root):
        if not root.is_dir():
            return []
        return sorted(folder for folder in root.iterdir() if folder.is_dir() and StudyStore(folder).exists())


def study_folders(root: Path, names: Sequence[str]) -> list[Path]:
    """The folders of the named studies, or of all where none is named.

    Raises:
        StoreError: there is no such study, or `root` may not be read.
    """
    found = {folder.name: folder for folder in find_studies(root)}
    unknown = [name for name in names if name not in found]
    if unknown or not found:
        what = f"{root} has no study {unknown[0]!r}" if unknown else f"there is no study in {root}"
        there = f"; there are {', '.join(found)}" if found else ""
        hint = nearest(unknown[0], found) if unknown else ""
        raise StoreError(f"{what}{there}{hint}. Make one with: swapyard run STUDY")
    return [found[name] for name in names] if names else list(found.values())
