"""Stage of the sweep: all jobs that a plan wants and that are not done, and failed ones that run again."""

__all__ = ["STAGE", "CellDesk", "CellStage", "forecast_of", "later_loads"]

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import cast

from orchestrator.plan.remaining import counts_of
from orchestrator.plan.screening import expected_jobs
from orchestrator.plan.tables import Plan
from orchestrator.run.pace import NOTHING, Load
from orchestrator.run.throughput import estimate_rate, remember_rate
from orchestrator.stages.bench import WorkerBench
from orchestrator.stages.contract import Desk, Hands, Planned, RunScene, ScheduleView, Stage, StageReport
from orchestrator.stages.fit.fits_left import FitsLeft
from orchestrator.stages.fit.making import Making, making_text
from orchestrator.stages.fit.stage import fit_units
from orchestrator.stages.sweep.cells import CellHands
from orchestrator.stages.sweep.forecast import START_S, Forecast
from orchestrator.stages.sweep.retries import lost_retry_work, retry_work
from orchestrator.stages.sweep.work import SWEEP, Slice, TileWork, open_work, undone
from orchestrator.stages.units import Piece, Taken, WorkUnit
from orchestrator.store import Driver, Manifest, StudyStore


class CellStage(Stage):
    """Cells of a plan, run or estimated. A plan of which no cell is selected yet has only estimates."""

    name = SWEEP
    folders = ("data",)
    order = 2
    is_of_selected = True
    """Whether it does the cells of plans whose cells are selected, or of the others."""

    def open(self, scene: RunScene) -> Desk | None:
        """As `Stage.open`."""
        plan = scene.planned.plan
        if plan.is_selected != self.is_of_selected:
            return None
        retries = [] if scene.has_retried else _retries(scene)
        scene.has_retried = True
        if retries or counts_of(plan, scene.driver.state).num_open:
            return CellDesk(scene, retries)
        return None

    def hands(self, bench: WorkerBench) -> Hands:
        """As `Stage.hands`."""
        return CellHands(bench)


def _retries(scene: RunScene) -> list[TileWork]:
    """Failed jobs that run again: those that were asked for, or whose retries were lost."""
    plan, state, store, options = scene.planned.plan, scene.driver.state, scene.store, scene.options
    if not options.retry_failed:
        return lost_retry_work(plan, state, store)
    found = retry_work(plan, state, store, options.error_types)
    num_jobs = sum(hi - lo for work in found for lo, hi in work.jobs)
    told = f"{num_jobs:,} failed jobs run again" if found else "no failed job is left to run again"
    scene.progress.say(told)
    return found


STAGE = CellStage()


HOOKED, RESUMED, RERUN = "hooked", "resumed", "rerun"
"""Tiers of rows that ran."""


class CellDesk(Desk):
    """Tiles of a plan of which something is open, and the fits that their cells use."""

    def __init__(self, scene: RunScene, retries: Sequence[TileWork]) -> None:
        super().__init__(scene)
        self.counts_jobs = scene.planned.plan.is_selected
        self._retries = retries
        self._plan = scene.planned.plan
        store, epoch = scene.store, scene.driver.epoch
        self._making = Making(store.root, epoch) if self._plan.has_fits else None
        self._schedule: ScheduleView
        self._forecast: Forecast

    @cached_property
    def fits(self) -> FitsLeft | None:
        """Fits that nobody has made yet; None where there are none."""
        scene = self.scene
        return fits_left(scene.planned, scene.store, scene.driver.epoch)

    @cached_property
    def units(self) -> Sequence[WorkUnit]:
        """As `Desk.units`: tiles, and the fits that they wait for."""
        scene = self.scene
        work = [*open_work(self._plan, scene.driver.state, scene.planned.facts), *self._retries]
        if (fits := self.fits) is not None:
            for one in work:
                one.uses = partial(_keys_of, fits, one.tile)
        return [*work, *fit_units(self.fits)]

    @property
    def is_left(self) -> bool:
        """As `Desk.is_left`."""
        return counts_of(self._plan, self.scene.driver.state).num_open > 0

    def announce(self) -> None:
        """As `Desk.announce`."""
        scene = self.scene
        scene.progress.begin(counts_of(self._plan, scene.driver.state), self.setup)

    def begin(self, schedule: ScheduleView, num_workers: int, began: float) -> None:
        """As `Desk.begin`."""
        scene = self.scene
        self._schedule = schedule
        self._forecast = forecast_of(scene.planned, schedule, self.fits, num_workers, scene.factor, began)

    def joined(self, worker: int, now: float) -> None:
        """As `Desk.joined`."""
        self._forecast.joined(worker, now)

    def left(self, worker: int) -> None:
        """As `Desk.left`: with a worker goes what it was making."""
        self._forecast.left(worker)
        if self._making is not None:
            self._making.forget(worker)

    def handed(self, worker: int, taken: Taken, now: float) -> None:
        """As `Desk.handed`."""
        if isinstance(taken, Slice):
            self._forecast.handed(worker, taken, now)
        else:
            self._forecast.making(worker, taken.lane, cast(Piece, taken).name, now)

    def took(self, worker: int, taken: Taken, report: StageReport, now: float) -> None:
        """As `Desk.took`: what a slice says of how long others take."""
        if not isinstance(taken, Slice):
            if report.is_over:
                self._forecast.made(worker, cast(Piece, taken).name)
            return
        (manifest,) = report.manifests
        if manifest.tiers.get(HOOKED) and not manifest.tiers.get(RESUMED):
            self._schedule.run_whole(taken.lane)
        did = replace(taken, k_hi=taken.k_lo + report.num_steps)
        self._forecast.took(worker, did, report.seconds, manifest.timings["capture_s"], now)

    def gave_up(self, taken: Taken, why: str, now: float) -> int:
        """As `Desk.gave_up`: a job, which becomes a failure when its slice runs again."""
        self.scene.progress.say("a job of which worker after worker died becomes a failure")
        return 0

    def refused(self, manifest: Manifest) -> Sequence[Taken]:
        """As `Desk.refused`: its jobs that are not done."""
        return undone(manifest, self.scene.driver.state)

    def num_jobs(self, taken: Taken) -> int:
        """As `Desk.num_jobs`."""
        if not isinstance(taken, Slice):
            return 0
        if taken.jobs:
            return sum(hi - lo for lo, hi in taken.jobs)
        return (taken.k_hi - taken.k_lo) * len(self._plan.tiles[taken.tile].pairs)

    def doing(self) -> str:
        """As `Desk.doing`: fits that are being made."""
        if self._making is not None and (notes := self._making.notes()):
            return making_text(list(notes.values()))
        return ""

    def left_s(self, now: float, target_s: float, room: int | None) -> float | None:
        """As `Desk.left_s`."""
        left_s = self._forecast.left_s(now, target_s)
        if left_s is None or room is None:
            return left_s
        counts = counts_of(self._plan, self.scene.driver.state)
        return left_s * min(1.0, room / max(1, counts.num_open))

    def show(self, left_s: float | None) -> None:
        """As `Desk.show`."""
        self.scene.progress.update(counts_of(self._plan, self.scene.driver.state), left_s)

    def end(self) -> None:
        """As `Desk.end`: what was run whole, and how fast this machine was."""
        scene, plan = self.scene, self._plan
        if not plan.is_selected:
            return
        if num_rerun := _num_rerun(scene.driver):
            scene.progress.warn(
                f"{num_rerun:,} jobs failed in a resumed forward and were run whole: slower, the numbers are"
                " good; their tier is rerun, and the workers' logs say what failed"
            )
        if len(plan.lanes) == 1 and (rate := self._schedule.measured_rate) is not None:
            remember_rate(next(iter(plan.lanes.values())), self.setup.threads, rate)


def _keys_of(fits: FitsLeft, tile: int, k: int) -> tuple[tuple[str, str], ...]:
    """Units of the fits that the k-th cell of a tile uses, made or not."""
    return tuple(("fit", fit) for fit in fits.of(tile, k))


def _num_rerun(driver: Driver) -> int:
    """Jobs of this driver whose resumed forward failed, so that they were run whole."""
    mine = f"data/{driver.epoch}/"
    return sum(part.tiers.get(RERUN, 0) for path, part in driver.state.live.items() if path.startswith(mine))


def forecast_of(
    planned: Planned,
    schedule: ScheduleView,
    fits: FitsLeft | None,
    num_workers: int,
    factor: float | None = None,
    began: float | None = None,
) -> Forecast:
    """Forecast of a plan's jobs on so many workers, which began to come up at `began` by the monotonic clock,
    or just now; `factor` as `Forecast` takes it."""
    return Forecast(
        schedule,
        _rates_of(planned.plan, planned.setup.threads),
        num_workers=num_workers,
        fits=fits,
        later=later_loads(planned.plan),
        starts_in_s=START_S if planned.setup.executor == "ray" else 0.0,
        factor=factor,
        now=time.monotonic() if began is None else began,
    )


def fits_left(planned: Planned, store: StudyStore, epoch: int) -> FitsLeft | None:
    """Fits that nobody has made yet; None where there are none."""
    if not planned.plan.has_fits:
        return None
    rates = _rates_of(planned.plan, planned.setup.threads)
    found = FitsLeft(store.root, planned.plan, Making(store.root, epoch), planned.facts, rates)
    return found if found.num else None


def _rates_of(plan: Plan, threads: int) -> dict[int, float]:
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
