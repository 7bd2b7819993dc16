"""Note of the job that a careful worker is alone with: a note that outlives the worker."""

__all__ = ["Trial"]

import contextlib
from dataclasses import dataclass
from pathlib import Path

from orchestrator.store import StudyStore, explained
from orchestrator.store.storage import make_inside


@dataclass(frozen=True, slots=True)
class Trial:
    """The note of one worker in the study's folder, where driver and workers meet."""

    root: Path
    """The study's folder."""
    epoch: int
    worker: int

    def note(self, job: int) -> None:
        """The worker begins `job`. Nothing is synced: the note must outlive a process, not a power loss."""
        with explained(self._path):
            make_inside(self.root, self._path.parent)
            self._path.write_text(str(job))

    @property
    def job(self) -> int | None:
        """The job that was begun and not ended; None where there is none."""
        with contextlib.suppress(OSError, ValueError):
            return int(self._path.read_text())
        return None

    def clear(self) -> None:
        """The worker has ended what it began."""
        with contextlib.suppress(OSError):
            self._path.unlink()

    @property
    def _path(self) -> Path:
        return StudyStore(self.root).logs(self.epoch) / f"{self.worker}.trial"
