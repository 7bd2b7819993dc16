"""What forecasts of a plan are made of: how fast this machine is taken to be, fits, and what comes later."""

__all__ = ["forecast_of", "later_loads", "rates_of"]

import time
from collections.abc import Mapping

from orchestrator.plan.screening import expected_jobs
from orchestrator.plan.tables import Plan
from orchestrator.run.committed import Planned
from orchestrator.run.fits_left import FitsLeft
from orchestrator.run.forecast import START_S, Forecast
from orchestrator.run.making import Making
from orchestrator.run.pace import NOTHING, Load
from orchestrator.run.rates import estimate_rate
from orchestrator.run.schedule import Schedule
from orchestrator.store import StudyStore


def forecast_of(
    planned: Planned,
    schedule: Schedule,
    store: StudyStore,
    epoch: int,
    num_workers: int,
    factor: float | None = None,
    began: float | None = None,
) -> Forecast:
    """The forecast of a stage on so many workers, which began to come up at `began` by the monotonic clock,
    or just now; `factor` as `Forecast` takes it."""
    plan, threads = planned.plan, planned.setup.threads
    rates = rates_of(plan, threads)
    fits = fits_left(planned, store, epoch)
    schedule.fits = fits
    return Forecast(
        schedule,
        rates,
        num_workers=num_workers,
        fits=fits,
        later=later_loads(plan),
        starts_in_s=START_S if planned.setup.executor == "ray" else 0.0,
        factor=factor,
        now=time.monotonic() if began is None else began,
    )


def fits_left(planned: Planned, store: StudyStore, epoch: int) -> FitsLeft | None:
    """The fits that nobody has made yet; None where there are none."""
    if not planned.plan.has_fits:
        return None
    rates = rates_of(planned.plan, planned.setup.threads)
    found = FitsLeft(store.root, planned.plan, Making(store.root, epoch), planned.facts, rates)
    return found if found.num else None


def rates_of(plan: Plan, threads: int) -> dict[int, float]:
    """For each lane, the units per second that one worker is expected to do on it."""
    return {lane.lane: estimate_rate(lane, threads) for lane in plan.lanes.values()}


def later_loads(plan: Plan) -> Mapping[int, Load]:
    """For each lane, the jobs that run once those of a screened plan are selected."""
    if plan.is_selected:
        return {}
    loads: dict[int, Load] = {}
    share = expected_jobs(plan) / max(1, plan.num_estimates)
    for tile in plan.tiles.values():
        rows = float(tile.num_selected.sum()) * share
        units = float((plan.costs[tile.cellset] * tile.num_selected).sum()) * share
        loads[tile.lane] = loads.get(tile.lane, NOTHING).plus(Load(units, rows))
    return loads
