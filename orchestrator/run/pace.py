"""Pace: how long work takes, learnt while it is done.

Work is counted in tokens through the model (units), in jobs that run (rows) and in calls. A large model's
time lies in the first, a small one's in the second; which it is shows only as slices differ. So the seconds
of what was done last are explained by both, neither of them negative, and as long as slices are alike in the
proportions that were expected beforehand. Calls are never what explains: slices are cut to take equally long,
so that calls would explain everything.
"""

__all__ = ["CALL_S", "NOTHING", "ROW_S", "Load", "Pace"]

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

ROW_S = 1.5e-4
"""Time that a job is expected to take besides its tokens: a hundred lines of Python, and its scores."""
CALL_S = 0.05
"""And a call of a worker: a file that is written, and the clean runs' scores."""
FADING = 0.93
"""Weight of an earlier call beside the next one."""
TRUST = 0.05
"""Weight of the expected proportions beside what was measured."""
_LEAST = 1e-12
"""Keeps what was never done from dividing by zero."""


class Load(NamedTuple):
    """Some work."""

    units: float
    """Tokens through the model."""
    rows: float = 0.0
    """Jobs that run."""
    calls: float = 0.0

    def plus(self, other: "Load") -> "Load":
        """Both together."""
        return Load(self.units + other.units, self.rows + other.rows, self.calls + other.calls)

    def times(self, factor: float) -> "Load":
        """Multiple of this load."""
        return Load(self.units * factor, self.rows * factor, self.calls * factor)


NOTHING = Load(0.0)


@dataclass(slots=True)
class Pace:
    """The seconds that one worker takes for loads of one kind.

    Args:
        unit_s: what a unit is expected to take, before anything is measured.
        row_s: and a row, besides its units.
        call_s: and a call.
    """

    unit_s: float
    row_s: float = ROW_S
    call_s: float = CALL_S
    _gram: np.ndarray = field(default_factory=lambda: np.zeros((2, 2)))
    _moment: np.ndarray = field(default_factory=lambda: np.zeros(2))
    _expected_s: float = 0.0
    _measured_s: float = 0.0
    _factors: np.ndarray = field(default_factory=lambda: np.ones(3))
    """By how much units, rows and calls take longer than expected."""

    @property
    def is_measured(self) -> bool:
        """Whether anything was."""
        return self._measured_s > 0

    @property
    def factor(self) -> float:
        """By how much all together took longer than expected; 1 where nothing was measured."""
        return self._measured_s / self._expected_s if self._expected_s > 0 else 1.0

    def record(self, load: Load, seconds: float) -> None:
        """A worker took so many seconds for a load."""
        expected = self._each_s(load)
        if seconds <= 0 or expected.sum() <= 0:
            return
        self._expected_s = FADING * self._expected_s + float(expected.sum())
        self._measured_s = FADING * self._measured_s + seconds
        # Relative errors: a call of half a second says as much of proportions as one of thirty.
        work, weight = expected[:2], 1.0 / seconds
        work_s = max(0.0, seconds - expected[2] * self.factor)
        self._gram = FADING * self._gram + weight * np.outer(work, work)
        self._moment = FADING * self._moment + weight * work_s * work
        self._factors = np.append(self._solved(), self.factor)

    def seconds(self, load: Load) -> float:
        """Time that one worker should need for a load."""
        return float(self._each_s(load) @ self._factors)

    def _each_s(self, load: Load) -> np.ndarray:
        """Times that units, rows and calls are expected to take; shape (3,)."""
        return np.array([load.units * self.unit_s, load.rows * self.row_s, load.calls * self.call_s])

    def _solved(self) -> np.ndarray:
        """The factors of units and rows that explain what was measured, as near to one for both as that
        allows; shape (2,)."""
        ridge = TRUST * np.diag(self._gram) + _LEAST
        free, found = np.ones(2, bool), np.zeros(2)
        while free.any():
            gram = self._gram[np.ix_(free, free)] + np.diag(ridge[free])
            solved = np.linalg.solve(gram, self._moment[free] + ridge[free] * self.factor)
            if (solved >= 0).all():
                found[free] = solved
                break
            free[np.flatnonzero(free)[solved < 0]] = False
        return found
