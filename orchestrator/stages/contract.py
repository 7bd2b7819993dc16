"""Contract of a stage: all that the driver's loop, the schedule, and the workers know of a kind of work.

A stage has two halves. On the driver, `Stage.open` finds what is left to do of a committed plan, as a `Desk`:
units for the schedule, and a book-keeper that hears what became of them. On the workers, `Stage.hands` does
what the schedule hands out, with what a `WorkerBench` offers, and keeps what it made in the study's folder:
rows as parts that count by commit, anything else in files that are created where they are absent and never
changed. So whoever is killed, whenever, another goes on from the folder and the commits alone.
"""

__all__ = [
    "NO_MODEL",
    "BlameVerdict",
    "Desk",
    "Hands",
    "Piece",
    "Planned",
    "RunScene",
    "Stage",
    "StageReport",
    "Taken",
    "UnitKey",
    "WholeUnit",
    "WorkUnit",
]

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from orchestrator.loading import Engines
from orchestrator.plan.tables import Plan
from orchestrator.run.pace import NOTHING, Load
from orchestrator.run.progress import Progress
from orchestrator.run.setup import RunOptions, Setup
from orchestrator.run.stopping import Stop
from orchestrator.stages.bench import WorkerBench
from orchestrator.store import Driver, Manifest, PlanRef, StudyStore
from studies import Study
from workers.facts import ModelFacts

if TYPE_CHECKING:
    import pyarrow as pa

NO_MODEL = -1
"""Lane of a unit that needs no model of the plan."""
DEATHS_OF_A_UNIT = 3
"""A unit of which so many workers died in a row is given up."""

UnitKey = Hashable
"""Name of a unit, the only one of its name in a run."""


class Taken(Protocol):
    """Part of a unit that one worker is given at a time: a frozen dataclass that can be pickled."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def stage(self) -> str:
        """Name of the stage that does it."""

    @property
    def key(self) -> UnitKey:
        """Key of its unit."""

    @property
    def lane(self) -> int:
        """Model of the plan that must be loaded for it; `NO_MODEL` for none."""

    @property
    def seq(self) -> int:
        """Number of commits that the study had when it was handed out."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A unit that is handed out as a whole, for as long as a call may take."""

    stage: str
    name: str
    lane: int = NO_MODEL
    seq: int = 0

    @property
    def key(self) -> UnitKey:
        """As `Taken.key`."""
        return self.stage, self.name


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


class BlameVerdict(NamedTuple):
    """Decision on a part of a unit of which a worker died."""

    suspect: Taken | None
    """Part that runs once more, apart from others; None where the unit goes on like any other."""
    gave_up: bool
    """Whether something of it is never run again."""


class WorkUnit(Protocol):
    """One thing of a plan that is to be done: in steps that workers share, or by one worker as a whole."""

    lane: int
    owner: int | None
    """Worker that has it in hand."""

    @property
    def key(self) -> UnitKey:
        """Name of the unit."""

    @property
    def splits(self) -> bool:
        """Whether several workers may do steps of it at once; else its state stays with one worker."""

    @property
    def is_on_demand(self) -> bool:
        """Whether it is only done where another unit waits for it."""

    @property
    def is_open(self) -> bool:
        """Whether something of it can be handed out."""

    @property
    def is_over(self) -> bool:
        """Whether others need not wait for it."""

    @property
    def cost(self) -> float:
        """Cost units that remain to be handed out."""

    @property
    def captures(self) -> Load:
        """Clean runs that a worker pays for before its first step."""

    @property
    def open_loads(self) -> Sequence[Load]:
        """Loads of what can be handed out."""

    def load_of(self, taken: Taken) -> Load:
        """Load of a part, besides its call and its captures."""

    def is_typical(self, taken: Taken) -> bool:
        """Whether the time that a part takes says how long others take."""

    def is_suspect(self, taken: Taken) -> bool:
        """Whether a part runs apart from others, because workers died of it."""

    def free_steps(self, most: int, cost_of: "CostOf", *, high: bool) -> int:
        """Steps of the next `most` that come before the first that waits for another unit; one at least."""

    def most_steps(self, budget: float, jobs: int | None, cost_of: "CostOf | None", *, high: bool) -> int:
        """Steps, from the low or the high end, that wait for units of about `budget` cost units, and have at
        most so many jobs; one at least."""

    def after(self, num_steps: int | None, *, high: bool) -> Iterable[UnitKey]:
        """Units that must be over before the next steps; None for all that are open."""

    def take(self, budget: float, *, high: bool, most_steps: int | None) -> Taken:
        """Remove and return steps of about `budget` cost units, one at least."""

    def put_back(self, taken: Taken) -> None:
        """Return a part that was taken and not done."""

    def report(self, taken: Taken, num_steps: int, *, is_over: bool) -> tuple[Load | None, Taken | None]:
        """Note that the first steps of a part are done.

        Returns:
            Their load, where the time that they took says how fast the worker is, and the part that is left.
        """

    def blame(self, taken: Taken, job: int | None) -> BlameVerdict:
        """Judge a part of which a worker died, alone with a `job` where it noted one."""

    def split_suspect(self, taken: Taken) -> tuple[Taken, Taken | None]:
        """The first step of a suspect, and the rest of it."""

    def run_whole(self) -> None:
        """Count each job as a whole run, since its model does not resume."""


CostOf = Callable[[UnitKey], float | None]
"""Cost units of a unit that others wait for; None once it is over."""


@dataclass(slots=True)
class WholeUnit:
    """A unit that one worker does as a whole, call after call until it is over."""

    stage: str
    name: str
    lane: int = NO_MODEL
    unit_cost: float = 0.0
    is_on_demand: bool = False
    most_deaths: int | None = DEATHS_OF_A_UNIT
    """Number of deaths after which it is given up without a call that ended between them; None for never."""
    owner: int | None = None
    is_over: bool = False
    deaths: int = 0
    _is_out: bool = False

    @property
    def key(self) -> UnitKey:
        """As `WorkUnit.key`."""
        return self.stage, self.name

    @property
    def splits(self) -> bool:
        """As `WorkUnit.splits`."""
        return False

    @property
    def is_open(self) -> bool:
        """As `WorkUnit.is_open`."""
        return not self._is_out and not self.is_over

    @property
    def cost(self) -> float:
        """As `WorkUnit.cost`."""
        return 0.0 if self.is_over else self.unit_cost

    @property
    def captures(self) -> Load:
        """As `WorkUnit.captures`."""
        return NOTHING

    @property
    def open_loads(self) -> Sequence[Load]:
        """As `WorkUnit.open_loads`: its time left is reckoned by its stage, not by the schedule."""
        return ()

    def load_of(self, taken: Taken) -> Load:
        """As `WorkUnit.load_of`."""
        return NOTHING

    def is_typical(self, taken: Taken) -> bool:
        """As `WorkUnit.is_typical`."""
        return False

    def is_suspect(self, taken: Taken) -> bool:
        """As `WorkUnit.is_suspect`."""
        return False

    def free_steps(self, most: int, cost_of: CostOf, *, high: bool) -> int:
        """As `WorkUnit.free_steps`."""
        return 1

    def most_steps(self, budget: float, jobs: int | None, cost_of: CostOf | None, *, high: bool) -> int:
        """As `WorkUnit.most_steps`."""
        return 1

    def after(self, num_steps: int | None, *, high: bool) -> Iterable[UnitKey]:
        """As `WorkUnit.after`."""
        return ()

    def take(self, budget: float, *, high: bool, most_steps: int | None) -> Taken:
        """As `WorkUnit.take`."""
        self._is_out = True
        return Piece(self.stage, self.name, self.lane)

    def put_back(self, taken: Taken) -> None:
        """As `WorkUnit.put_back`."""
        self._is_out = False

    def report(self, taken: Taken, num_steps: int, *, is_over: bool) -> tuple[Load | None, Taken | None]:
        """As `WorkUnit.report`."""
        self.deaths, self.is_over = 0, is_over
        return None, None if is_over else taken

    def blame(self, taken: Taken, job: int | None) -> BlameVerdict:
        """As `WorkUnit.blame`."""
        self.deaths += 1
        self.is_over = self.most_deaths is not None and self.deaths >= self.most_deaths
        return BlameVerdict(None, self.is_over)

    def split_suspect(self, taken: Taken) -> tuple[Taken, Taken | None]:
        """As `WorkUnit.split_suspect`."""
        return taken, None

    def run_whole(self) -> None:
        """As `WorkUnit.run_whole`."""


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
