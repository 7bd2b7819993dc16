"""Fits that are being made: who makes which, so that no two workers make one, and how far each is.

A worker that makes a fit keeps a note in the folder of the run's logs, which it touches as long as it lives:
``logs/<epoch>/<fit>.making``. It is no lock: a fit that is made twice is the same both times. So a note that
nobody has touched for a while is anybody's, and nothing waits for a worker that is gone.
"""

__all__ = ["STALE_S", "FitNote", "Making", "making_text"]

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.store import StudyStore
from orchestrator.store.storage import make_inside
from workers.errors import StoreError

TOUCH_S = 2.0
"""Time between two touches of a note, and written anew where there is news."""
STALE_S = 60.0
"""A note that did not change for so long is of a worker that is gone, or of a disk that cannot be shared."""
SUFFIX, FAILED = ".making", ".failed"


@dataclass(frozen=True, slots=True)
class FitNote:
    """Progress of a fit that is being made."""

    worker: int
    step: int
    num_steps: int
    seconds: float
    """Since it was begun."""
    step_s: float
    """Of a step, on average; the first, with clean runs and all that is made ready, aside. 0 before the
    second."""

    @property
    def left_s(self) -> float | None:
        """Time that it will still take at the pace so far; None before that is known."""
        return self.step_s * (self.num_steps - self.step) if self.step_s else None

    @property
    def whole_s(self) -> float | None:
        """Time that it will have taken; None before its pace is known."""
        return None if self.left_s is None else self.seconds + self.left_s


def making_text(notes: Sequence[FitNote]) -> str:
    """The fits that are being made: ``making 1 fit (step 40 of 500, about 12 s left)``."""
    told = [f"step {note.step:,} of {note.num_steps:,}{_left_text(note)}" for note in notes if note.num_steps]
    fits = f"making {len(notes)} fit{'s' * (len(notes) > 1)}"
    return f"{fits} ({'; '.join(told)})" if told else fits


def _left_text(note: FitNote) -> str:
    return "" if note.left_s is None else f", about {max(1.0, note.left_s):,.0f} s left"


class Making:
    """The notes of one run.

    Args:
        root: the study's folder.
        epoch: that of the run's driver.
    """

    def __init__(self, root: Path, epoch: int) -> None:
        self._root = root
        self._folder = StudyStore(root).logs(epoch)
        self._seen: dict[str, tuple[int, float]] = {}
        """Last change of a note, and when this process saw it first."""

    @contextlib.contextmanager
    def claimed(self, fit: str, worker: int) -> Iterator["Claim | None"]:
        """Whoever makes a fit does so within this; None where somebody else is at it."""
        path = self._path(fit)
        if self.is_held(fit):
            yield None
            return
        with contextlib.suppress(OSError):
            make_inside(self._root, self._folder)
        claim = Claim(path, worker)
        try:
            yield claim
        finally:
            claim.end()

    def is_held(self, fit: str) -> bool:
        """Whether a worker seems to be making a fit."""
        try:
            changed = self._path(fit).stat().st_mtime_ns
        except OSError:
            self._seen.pop(fit, None)
            return False
        now = time.monotonic()
        if self._seen.get(fit, (None, 0.0))[0] != changed:
            self._seen[fit] = (changed, now)
        return now - self._seen[fit][1] < STALE_S

    def fail(self, fit: str, why: str) -> None:
        """Tell all workers of this run why a fit cannot be made, so that none tries again."""
        with contextlib.suppress(OSError, StoreError):
            make_inside(self._root, self._folder)
            self._path(fit, FAILED).write_text(why, "utf-8")

    def failure(self, fit: str) -> str | None:
        """Reason why a fit cannot be made; None where no worker of this run tried in vain."""
        try:
            return self._path(fit, FAILED).read_text("utf-8") or None
        except (OSError, ValueError):
            return None

    def notes(self) -> dict[str, FitNote]:
        """The fits that are being made, by identity."""
        found = {}
        for path in self._folder.glob(f"*{SUFFIX}"):
            # It may be gone by now, or half written.
            with contextlib.suppress(OSError, ValueError, TypeError):
                if self.is_held(path.stem):
                    found[path.stem] = FitNote(**json.loads(path.read_text("utf-8")))
        return found

    def forget(self, worker: int) -> None:
        """A worker is gone, and with it what it was making."""
        for fit, note in self.notes().items():
            if note.worker == worker:
                with contextlib.suppress(OSError):
                    self._path(fit).unlink()

    def _path(self, fit: str, suffix: str = SUFFIX) -> Path:
        return self._folder / f"{fit}{suffix}"


class Claim:
    """The note of a fit that this process is making. That it cannot be written is no reason not to."""

    def __init__(self, path: Path, worker: int) -> None:
        self._path = path
        self._worker = worker
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._step, self._num_steps = 0, 0
        self._first_s, self._last_s = 0.0, 0.0
        """Times at which the first and the last step were done, since it was begun."""
        self._write()
        # A step may take minutes, during which nobody calls `tick`.
        self._thread = threading.Thread(target=self._touch, name="swapyard-making", daemon=True)
        self._thread.start()

    def tick(self, step: int, num_steps: int) -> None:
        """Note that so many steps are done."""
        self._step, self._num_steps = step, num_steps
        self._last_s = time.monotonic() - self._began
        self._first_s = self._first_s or self._last_s

    def end(self) -> None:
        """The fit is made, or cannot be."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _touch(self) -> None:
        while not self._ended.wait(TOUCH_S):
            self._write()

    def _write(self) -> None:
        note = asdict(
            FitNote(
                worker=self._worker,
                step=self._step,
                num_steps=self._num_steps,
                seconds=time.monotonic() - self._began,
                step_s=(self._last_s - self._first_s) / max(1, self._step - 1),
            )
        )
        with contextlib.suppress(OSError):
            self._path.write_text(json.dumps(note), "utf-8")
