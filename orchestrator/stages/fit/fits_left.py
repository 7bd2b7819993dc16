"""Fits that a run still has to make: what each costs, and how long such fits took so far.

They are seen from outside, by the files that workers leave: one for each that is made, and a note for each
that is being made. So the driver knows of them while a worker has nothing else to report.
"""

__all__ = ["FitsLeft"]

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from orchestrator.plan.costs import Costs
from orchestrator.plan.fit_tables import PlannedFit, planned_fits
from orchestrator.plan.tables import Plan
from orchestrator.run.pace import Load, Pace
from orchestrator.stages.fit.making import FitNote, Making
from orchestrator.stages.fit.store import FitFolder
from orchestrator.stages.sweep.work import Slice
from orchestrator.store.storage import LocalStorage
from workers.errors import StoreError
from workers.fit_methods import WITHOUT_PAIRS
from workers.model.facts import ModelFacts
from workers.vocabulary import Cell, Pair

STEP_S = 0.01
"""Time that a step takes besides its tokens: an optimiser, and a rotation that is made anew."""
FIT_S = 0.2
"""Time that a fit takes besides its steps."""
FEW = 64
"""Pairs of a fit whose lengths are looked at."""


class FitsLeft:
    """The fits of a plan that nobody has made yet.

    Args:
        root: the study's folder.
        plan: whose cells use them.
        making: the notes of this run's workers.
        facts: of each lane's model; where they are not known, a step costs what its batch's prompts do.
        rates: of each lane, the units per second that a worker is expected to do.
    """

    def __init__(
        self,
        root: Path,
        plan: Plan,
        making: Making,
        facts: Mapping[int, ModelFacts],
        rates: Mapping[int, float],
    ) -> None:
        self._plan = plan
        self._making = making
        self._folder = FitFolder(LocalStorage(root))
        self._files = root / "fits"
        lanes = dict(zip(*(plan.tables["fits"][name].to_pylist() for name in ("fit", "lane")), strict=True))
        self.costs: dict[str, float] = {}
        """Cost units of each that is not made."""
        self._open: dict[str, tuple[int, str, Load]] = {}
        """Lane, method and load of each that is not made."""
        self._used: dict[int, list[tuple[str, ...]]] = {}
        """For each cellset, the fits that each cell uses."""
        made = self._made()
        for fit, planned in planned_fits(plan.tables).items():
            if planned.spec["method"] != "sae" and fit not in made:
                load = _load(planned, plan.pairs, facts.get(lanes[fit]))
                self._open[fit] = (lanes[fit], planned.spec["method"], load)
        self._paces: dict[tuple[int, str], Pace] = {
            (lane, method): Pace(1.0 / rates[lane], row_s=STEP_S, call_s=FIT_S)
            for lane, method, _ in self._open.values()
        }
        for fit, (lane, method, load) in self._open.items():
            self.costs[fit] = self._paces[lane, method].seconds(load) * rates[lane]
        self._notes: dict[str, FitNote] = {}

    def of(self, tile: int, k: int) -> tuple[str, ...]:
        """The fits that the k-th cell of a tile uses, made or not."""
        cellset = self._plan.tiles[tile].cellset
        if cellset not in self._used:
            known, carried = self._plan.cells, self._plan.carried_cells
            numbers = self._plan.cellsets[cellset].tolist()
            self._used[cellset] = [_fits_of(known.get(n) or carried[n]) for n in numbers]
        return self._used[cellset][k]

    @property
    def num(self) -> int:
        """Number of fits that are not made."""
        return len(self._open)

    @property
    def workers(self) -> set[int]:
        """Workers that are making fits: their model is loaded."""
        return {note.worker for note in self._notes.values()}

    @property
    def is_measured(self) -> bool:
        """Whether some fit was made, or has made steps."""
        return self.factor is not None

    @property
    def factor(self) -> float | None:
        """By how much longer than expected those took that were made, or are being made, on average."""
        found = [pace.factor for pace in self._paces.values() if pace.is_measured]
        if not found:
            found = [factor for fit, note in self._notes.items() if (factor := self._factor_of(fit, note))]
        return sum(found) / len(found) if found else None

    def look(self) -> None:
        """See what was made since, and what is being made."""
        for fit in self._open.keys() & self._made():
            lane, method, load = self._open.pop(fit)
            del self.costs[fit]
            self._paces[lane, method].record(load, self._seconds_of(fit))
        self._notes = {fit: note for fit, note in self._making.notes().items() if fit in self._open}

    def lacking(self, taken: Slice) -> frozenset[str]:
        """The fits that a slice's cells use and nobody has made."""
        if not self._open:
            return frozenset()
        used = {fit for k in range(taken.k_lo, taken.k_hi) for fit in self.of(taken.tile, k)}
        return frozenset(used & self._open.keys())

    def are_open(self, fits: Iterable[str]) -> bool:
        """Whether some of these are still to be made."""
        return not self._open.keys().isdisjoint(fits)

    def close(self, fit: str) -> None:
        """A fit was tried: it is there by now, or cannot be made."""
        self.look()
        if fit in self._open:
            del self._open[fit], self.costs[fit]

    def lane_of(self, fit: str) -> int:
        """The lane of a fit that is not made."""
        return self._open[fit][0]

    def used(self, did: Slice) -> None:
        """A slice was done: what its cells use is made by now, or cannot be."""
        self.look()
        for fit in self.lacking(did):
            del self._open[fit], self.costs[fit]

    def left_s(self, factor: float) -> tuple[float, float]:
        """Time that all that are left take one worker, and the longest of those that are begun; in seconds.

        Args:
            factor: by how much longer than expected other work of this run took.
        """
        begun = {fit: self._rest_s(fit, note, factor) for fit, note in self._notes.items()}
        waiting = sum(self._seconds(fit, factor) for fit in self._open if fit not in begun)
        return waiting + sum(begun.values()), max(begun.values(), default=0.0)

    def _rest_s(self, fit: str, note: FitNote, factor: float) -> float:
        if note.left_s is not None:
            return note.left_s
        expected = self._seconds(fit, factor)
        return max(expected - note.seconds, 0.1 * expected)

    def _seconds(self, fit: str, factor: float) -> float:
        lane, method, load = self._open[fit]
        pace = self._paces[lane, method]
        if pace.is_measured:
            return pace.seconds(load)
        return pace.seconds(load) * (factor if self.factor is None else self.factor)

    def _factor_of(self, fit: str, note: FitNote) -> float | None:
        """By how much longer than expected the steps of a fit take that is being made."""
        lane, method, load = self._open[fit]
        return None if note.whole_s is None else note.whole_s / self._paces[lane, method].seconds(load)

    def _made(self) -> set[str]:
        """Fits that are there, by the names of their files alone."""
        return {path.stem for path in self._files.glob("*.json")}

    def _seconds_of(self, fit: str) -> float:
        # One that cannot be read is said to be damaged by whoever needs it.
        with suppress(StoreError):
            about = self._folder.about(fit)
            return 0.0 if about is None else float(about["report"].get("seconds") or 0.0)
        return 0.0


def _fits_of(cell: Cell) -> tuple[str, ...]:
    return tuple({fit: None for unit in cell.every_unit() for fit in (unit.fit, unit.value_fit) if fit})


def _load(fit: PlannedFit, pairs: Mapping[int, Pair], facts: ModelFacts | None) -> Load:
    """Clean runs of all of its pairs, then steps: a batch forwards, and back to the layer of the fit."""
    method, num_steps = fit.spec["method"], int(fit.spec.get("num_steps") or 0)
    if method in WITHOUT_PAIRS:
        return Load(0.0, calls=1.0)
    num_tokens = _mean(len(pairs[number].tokens["base"]) for number in fit.pairs[:FEW] if number in pairs)
    head, back = 0.0, 2.0
    if facts is not None:
        head = Costs(facts).head
        back *= 1.0 - (fit.spec.get("layer") or 0) / facts.num_layers
    step = int(fit.spec.get("batch_size") or 0) * (num_tokens * (1.0 + back) + 3.0 * head)
    once = num_tokens * (len(fit.pairs) + len(fit.held_out)) * (1.0 if num_steps else 2.0)
    return Load(num_steps * step + once, num_steps, 1.0)


def _mean(numbers: Iterable[int]) -> float:
    found = list(numbers)
    return sum(found) / max(1, len(found))
