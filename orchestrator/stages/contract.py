"""Contract of a stage: all that the driver's loop, the schedule, and the workers know of a kind of work.

A stage has two halves. On the driver, `Stage.open` finds what is left to do of a committed plan, as a `Desk`:
units for the schedule, and a book-keeper that hears what became of them. On the workers, `Stage.hands` does
what the schedule hands out, with what a `WorkerBench` offers, and keeps what it made in the study's folder:
rows as parts that count by commit, anything else in files that are created where they are absent and never
changed. So whoever is killed, whenever, another goes on from the folder and the commits alone.
"""

__all__ = ["Desk", "Hands", "Planned", "RunScene", "Stage", "StageReport"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from orchestrator.plan.tables import Plan
from orchestrator.run.device_setup import RunOptions, Setup
from orchestrator.run.engines import Engines
from orchestrator.run.pace import Load
from orchestrator.run.progress import Progress
from orchestrator.run.stopping import Stop
from orchestrator.stages.bench import WorkerBench
from orchestrator.stages.units import DEATHS_OF_A_UNIT, Taken, WholeUnit, WorkUnit
from orchestrator.store import Driver, Manifest, PlanRef, StudyStore
from studies import Study
from workers.model.facts import ModelFacts

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class StageReport:
    """Outcome of one call of a worker."""

    num_steps: int
    """Steps of the taken part that are done; of a piece, those of the whole unit so far."""
    seconds: float
    """Time that the steps took: loading, clean runs, and fetching what was kept aside."""
    is_over: bool = True
    """Whether nothing of the unit is left to be done, be it that it failed."""
    failure: str | None = None
    """Reason why the unit can never be done."""
    manifests: tuple[Manifest, ...] = ()
    """Parts with rows, which count once the driver has committed them."""
    total_steps: int | None = None
    """Steps of the whole unit; None where nobody knows."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A committed plan, and how its work is run."""

    ref: PlanRef
    plan: Plan
    setup: Setup
    engines: Engines
    """May hold a model that planning needed."""
    facts: Mapping[int, ModelFacts]
    """Of each lane's model."""
    is_new: bool


@dataclass(slots=True)
class RunScene:
    """Run of a study, as the driver's halves of stages see it."""

    study: Study
    store: StudyStore
    driver: Driver
    options: RunOptions
    progress: Progress
    planned: Planned
    stop: Stop
    factor: float | None = None
    """By how much longer than expected the work of an earlier stage took; None where nobody knows."""
    has_retried: bool = False
    """Whether the failed jobs that are to run again were handed to a stage."""


class ScheduleView(Protocol):
    """View of the schedule, as a desk may ask it."""

    @property
    def remaining(self) -> Mapping[int, Load]:
        """For each lane, the load that nobody has taken yet."""

    @property
    def uncaptured(self) -> Mapping[int, Load]:
        """For each lane, the clean runs that nobody has begun with."""

    @property
    def measured_rate(self) -> float | None:
        """Cost units per second of the average worker that was measured."""

    def run_whole(self, lane: int) -> None:
        """Count the lane's jobs as whole runs, since its model does not resume them."""

    def load(self, taken: Taken) -> Load:
        """Load of a part, besides its call and its captures."""

    def captures(self, taken: Taken) -> Load:
        """Clean runs of the unit of a part."""

    def is_typical(self, taken: Taken) -> bool:
        """Whether the time that a part takes says how long others take."""


class Desk:
    """Driver's half of a stage in one run: its units, and what is known of them.

    This base keeps count of whole units, and takes the next one to last as long as those before. All times
    are seconds of the monotonic clock.
    """

    counts_jobs = True
    """Whether its rows count towards a limit of jobs."""

    def __init__(self, scene: RunScene, units: Sequence[WholeUnit] = ()) -> None:
        self.scene = scene
        self._whole = units
        self._seconds: list[float] = []
        self._num_over = 0
        self._workers: set[int] = set()

    @property
    def units(self) -> Sequence[WorkUnit]:
        """Units for the schedule; asked for while workers come up."""
        return self._whole

    @property
    def setup(self) -> Setup:
        """Workers that do its work."""
        return self.scene.planned.setup

    @property
    def engines(self) -> Engines:
        """Engines of a worker in this process."""
        return self.scene.planned.engines

    @property
    def is_left(self) -> bool:
        """Whether something of it is neither done nor failed."""
        return self._num_over < len(self._whole)

    def announce(self) -> None:
        """Say that work begins."""
        self.scene.progress.say(f"running {self.setup.where} ({self.setup.why})")

    def begin(self, schedule: ScheduleView, num_workers: int, began: float) -> None:
        """Hear that `schedule` hands out its units to workers that come up since `began`."""

    def joined(self, worker: int, now: float) -> None:
        """Hear that a worker is up."""
        self._workers.add(worker)

    def left(self, worker: int) -> None:
        """Hear that a worker is gone."""
        self._workers.discard(worker)

    def handed(self, worker: int, taken: Taken, now: float) -> None:
        """Hear that a worker was given a part."""

    def took(self, worker: int, taken: Taken, report: StageReport, now: float) -> None:
        """Hear what became of a part."""
        if report.is_over:
            self._num_over += 1
            self._seconds.append(report.seconds)

    def gave_up(self, taken: Taken, why: str, now: float) -> int:
        """Keep that something of a part is never run again, since workers died of it: the last one of `why`.

        Returns:
            The deaths that are settled so: they no longer speak against the whole run.
        """
        self._num_over += 1
        self.scene.progress.say(f"{taken.stage}: worker after worker died of {taken.key}; it is left out")
        return DEATHS_OF_A_UNIT

    def refused(self, manifest: Manifest) -> Sequence[Taken]:
        """Find what is open again, since a part was not committed."""
        return ()

    def num_jobs(self, taken: Taken) -> int:
        """Count the jobs of a part, of which a run may do only so many."""
        return 0

    def doing(self) -> str:
        """Say what goes on besides jobs; empty for nothing that is worth it."""
        return ""

    def left_s(self, now: float, target_s: float, room: int | None) -> float | None:
        """Time until all of it is done; None while nobody knows.

        Args:
            now: the time.
            target_s: how long parts are handed out for.
            room: jobs that this run may still finish; None where there is no limit.
        """
        if not self.is_left:
            return 0.0
        if not self._seconds:
            return None
        mean_s = sum(self._seconds) / len(self._seconds)
        return mean_s * (len(self._whole) - self._num_over) / max(1, len(self._workers))

    def show(self, left_s: float | None) -> None:
        """Show how far it is."""

    def end(self) -> None:
        """Say what is to be said once no worker is left."""


class Hands(Protocol):
    """Worker's half of a stage: lasts as long as the worker, and may keep state between calls."""

    def run(self, taken: Taken, target_s: float, worker: int) -> StageReport:
        """Do a part in about `target_s` seconds, as worker number `worker`, and keep what came of it."""


class Stage:
    """A kind of work. Subclasses say what differs from a unit a file.

    Attributes:
        name: of the stage, the only one of its name.
        folders: in the study's folder, that it writes to.
        changes_plan: whether what it leaves changes the plan, so that it runs before other stages.
        order: its place among such stages, low ones first.
        timeout_s: how long a call may take; None for a few times what it should take.
        is_preparation: whether a call may be left at any time, and is never blamed for a death.
    """

    name: str
    folders: tuple[str, ...] = ()
    changes_plan: bool = False
    order: int = 9
    timeout_s: float | None = None
    is_preparation: bool = False

    def open(self, scene: RunScene) -> Desk | None:
        """Find what is left to do; None for nothing."""
        return None

    def over(self, scene: RunScene, *, was_open: bool, is_left: bool) -> Planned | None:
        """Commit the plan that goes on from what it left; None where the plan stays.

        Args:
            scene: the run.
            was_open: whether `open` found anything in this run.
            is_left: whether some of that is left, because somebody asked to stop.
        """
        return None

    def hands(self, bench: WorkerBench) -> Hands:
        """Make the worker's half."""
        raise NotImplementedError(f"the stage {self.name} has nothing for a worker to do")

    def equip(self, bench: WorkerBench) -> None:
        """Give the bench's engines what this stage makes for them."""

    def tables(self, plan: Plan, store: StudyStore) -> "Mapping[str, pa.Table]":
        """Tables that queries of the study see, besides the views that every study has."""
        return {}
