"""Bench of one worker: the study's folder, plan, engines, and log, as the stages' work finds them."""

__all__ = ["WorkerBench", "check_loaded"]

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.plan.tables import Plan, read_plan
from orchestrator.run.engines import Engines
from orchestrator.run.inflight_note import Trial
from orchestrator.run.logs import WorkerLog, worker_name
from orchestrator.run.stopping import AtOnce, never
from orchestrator.run.trained import failure_of
from orchestrator.store import PlanRef, StudyStore
from workers.errors import ModelError
from workers.vocabulary import CellUnit

if TYPE_CHECKING:
    from workers.engine.engine import Engine
    from workers.model.loading import LoadedModel


@dataclass
class WorkerBench:
    """Bench of one worker, which lasts as long as the worker does.

    Args:
        store: the study's folder.
        ref: the committed plan whose work is done.
        epoch: number of the driver; new files of rows lie below it.
        engines: loads the models.
        has_own_process: whether all that is printed in this process goes to the worker's log.
    """

    store: StudyStore
    ref: PlanRef
    epoch: int
    engines: Engines
    has_own_process: bool = False
    pulse: Callable[[], None] = lambda: None
    """Called now and then during long work, for whoever waits in this process."""
    is_asked: Callable[[], bool] = lambda: False
    """Whether somebody asked to stop: work that can go on later ends then."""
    at_once: AtOnce = never
    """Context of work that may be left before its end: see `orchestrator.run.stopping`."""
    equip: Callable[[], None] = lambda: None
    """Gives the engines what stages make for them, such as fits."""
    _accepted: set[int] = field(default_factory=set)
    """Lanes whose loaded models hold what the sites of their cells promise."""

    @property
    def root(self) -> Path:
        """Folder of the study."""
        return self.store.root

    @cached_property
    def plan(self) -> Plan:
        """The committed plan."""
        return read_plan(self.store, self.ref)

    @cached_property
    def study(self) -> str:
        """Identity of the study, whatever its folder is called."""
        return self.store.origin()

    @cached_property
    def log(self) -> WorkerLog:
        """Log of the worker, opened once the study's folder is known to be there."""
        log = WorkerLog(self.root, self.epoch, worker_name())
        log.capture(stdio=self.has_own_process)
        return log

    def close(self) -> None:
        """Close the log, where one was opened."""
        if "log" in self.__dict__:
            self.log.close()

    def trial(self, worker: int) -> Trial:
        """Note of the job that the worker of this number is alone with."""
        return Trial(self.root, self.epoch, worker)

    def lost(self, lane: int) -> tuple[str, str] | None:
        """Type and message of the error for which a lane has no model; None where it has one."""
        planned = self.plan.lanes[lane]
        if (failure := failure_of(self.root, planned)) is None:
            return None
        return failure["error_type"], f"the training of {planned.spec.ref} failed: {failure['error_message']}"

    def engine(self, lane: int) -> "Engine":
        """Engine on the model of a lane, loaded and checked.

        Raises:
            ModelError: the model is not on this machine, is not the one that the plan was made for, or
                refuses a site that the plan's cells name.
        """
        self.engines.root = self.root
        self.equip()
        engine = self.engines.of(self.plan.lanes[lane])
        if lane not in self._accepted:
            check_loaded(self.plan, lane, engine.model)
            self._accepted.add(lane)
        return engine


def check_loaded(plan: Plan, lane: int, model: "LoadedModel") -> None:
    """Accept a lane's loaded model for what the plan does with it.

    Raises:
        ModelError: cells, or fits, name a site that does not hold what its name promises in this model; the
            message says which identity fails, by how much, and what to name instead.
    """
    if not model.identities.refusals:
        return
    for site, heads, changes in dict.fromkeys((*_written(plan, lane), *_fitted(plan, lane))):
        if (why := model.places.why_refused(site, heads, changes=changes)) is not None:
            raise ModelError(f"{why}. No job of {plan.lanes[lane].spec.title} is run")


_Place = tuple[str, tuple[int, ...] | None, bool]
"""A site, its heads, and whether it is changed or only read."""


def _written(plan: Plan, lane: int) -> Iterator[_Place]:
    """Places at which units change runs, and take their values."""
    for unit in _units(plan, lane):
        yield unit.place.site, unit.place.heads, unit.operation != "collect"
        if unit.origin is not None:
            yield unit.origin.site, unit.origin.heads, False


def _fitted(plan: Plan, lane: int) -> Iterator[_Place]:
    """Places at which fits look; what they make is used where units say."""
    for row in plan.tables["fits"].to_pylist() if "fits" in plan.tables else ():
        if row["lane"] == lane:
            yield row["site"], None if row["heads"] is None else tuple(row["heads"]), False


def _units(plan: Plan, lane: int) -> Iterator[CellUnit]:
    """The units of all cells that tiles of a lane may run."""
    cells = plan.cells | plan.carried_cells
    cellsets = dict.fromkeys(tile.cellset for tile in plan.tiles.values() if tile.lane == lane)
    numbers = dict.fromkeys(number for cellset in cellsets for number in plan.cellsets[cellset].tolist())
    for number in numbers:
        yield from cells[number].every_unit()
