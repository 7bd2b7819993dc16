"""Time left of a run, as its driver last reckoned it: in words, and as a note that `swapyard status` reads.

The note lies in the folder of the run's logs, ``logs/<epoch>/left.json``: no part of the study's state.
"""

__all__ = ["LeftNote", "left_text", "read_left"]

import contextlib
import json
import time
from pathlib import Path

WRITE_EVERY_S = 2.0
FRESH_S = 600.0
"""A note is counted down for so long; one that is older says nothing."""
NAME = "left.json"


def left_text(left_s: float | None) -> str:
    """The time that is left, in words."""
    return "time left: not known yet" if left_s is None else f"about {max(1.0, left_s):,.0f} s left"


class LeftNote:
    """The note of one run.

    Args:
        folder: of the run's logs.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._written = -WRITE_EVERY_S

    def write(self, left_s: float | None) -> None:
        """Say how long the rest takes, every now and then; that it cannot be written stops nothing."""
        now = time.monotonic()
        if now - self._written >= WRITE_EVERY_S:
            self._written = now
            with contextlib.suppress(OSError):
                self._path.write_text(json.dumps({"time_s": time.time(), "left_s": left_s}), "utf-8")

    def clear(self) -> None:
        """The run is over."""
        with contextlib.suppress(OSError):
            self._path.unlink()


def read_left(folder: Path) -> float | None:
    """Seconds that a run's note says by now; None where it does not know, or there is none.

    Args:
        folder: of the run's logs.
    """
    try:
        found = json.loads((folder / NAME).read_text("utf-8"))
        age_s, left_s = time.time() - float(found["time_s"]), float(found["left_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return max(0.0, left_s - max(0.0, age_s)) if age_s < FRESH_S else None
