"""Stage of fits: each is a unit of its own, handed out once a cell waits for it."""

__all__ = ["STAGE", "FitHands", "FitStage", "fit_units"]

import time
from typing import cast

from orchestrator.stages.bench import WorkerBench
from orchestrator.stages.contract import Hands, Stage, StageReport
from orchestrator.stages.fit.fits import StudyFits
from orchestrator.stages.fit.fits_left import FitsLeft
from orchestrator.stages.fit.making import Making
from orchestrator.stages.units import Piece, Taken, WholeUnit

NAME = "fit"
FIT_POLL_S = 0.2
"""Time between two looks for a fit that another worker makes."""
FITS_TIMEOUT_S = 8 * 3600.0
"""Time that a fit may take."""


def fit_units(left: FitsLeft | None) -> list[WholeUnit]:
    """Units of the fits that nobody has made; they are never given up, since cells say why a fit fails."""
    if left is None:
        return []
    return [
        WholeUnit(NAME, fit, left.lane_of(fit), cost, is_on_demand=True, most_deaths=None)
        for fit, cost in left.costs.items()
    ]


class FitHands:
    """Makes fits, and keeps them in the study's folder."""

    def __init__(self, bench: WorkerBench) -> None:
        self._bench = bench
        self._held_elsewhere: set[str] = set()
        """Fits that were tried here: one that comes again is made by a worker that was taken for dead."""

    def run(self, taken: Taken, target_s: float, worker: int) -> StageReport:
        """As `Hands.run`: a fit that cannot be made says so again to each cell that uses it."""
        bench, fit, began = self._bench, cast(Piece, taken).name, time.perf_counter()
        if (lost := bench.lost(taken.lane)) is not None:
            return StageReport(0, 0.0, failure=lost[1])
        engine = bench.engine(taken.lane)
        fits = cast(StudyFits, bench.engines.fits)
        with bench.at_once():
            is_made = fits.make_one([fit], engine.model, worker, bench.pulse)
            if not is_made and fit in self._held_elsewhere:
                time.sleep(FIT_POLL_S)
            # At first others are made meanwhile: the schedule hands them out before this one comes again.
            self._held_elsewhere.add(fit)
        return StageReport(1, time.perf_counter() - began, is_over=fits.is_settled(fit))


class FitStage(Stage):
    """Fits. They have no desk of their own: the desk of the cells that wait for them knows of them."""

    name = NAME
    folders = ("fits",)
    order = 3
    timeout_s = FITS_TIMEOUT_S
    is_preparation = True

    def hands(self, bench: WorkerBench) -> Hands:
        """As `Stage.hands`."""
        return FitHands(bench)

    def equip(self, bench: WorkerBench) -> None:
        """As `Stage.equip`: engines read fits, or make those that nobody else made."""
        bench.engines.fits = StudyFits(bench.root, bench.plan, Making(bench.root, bench.epoch))


STAGE = FitStage()
