"""Units of work: what the schedule hands out, whole or in steps, and what it asks of them."""

__all__ = [
    "DEATHS_OF_A_UNIT",
    "NO_MODEL",
    "BlameVerdict",
    "CostOf",
    "Piece",
    "Taken",
    "UnitKey",
    "WholeUnit",
    "WorkUnit",
]

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from orchestrator.run.pace import NOTHING, Load

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
