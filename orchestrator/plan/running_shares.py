"""Share of each cell's jobs that really run, reckoned before any of them does. No torch here.

The engine fills a row from its base's clean run where the job provably changes nothing that is read. In many
sweeps most rows are such (base and source share the token), and cost next to nothing.
`workers.engine.unchanged` decides it job by job; this reckons the same for the schedule and the time left,
from tokens and spans alone.

Shapes: P pairs.
"""

__all__ = ["RunningShares", "lane_facts"]

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from orchestrator.plan.tables import Plan
from studies.language.identity import lane_identity
from workers.model.facts import ModelFacts
from workers.model.sites import SITES
from workers.vocabulary import (
    Cell,
    CellUnit,
    ModelSpec,
    Pair,
    Position,
    Vectors,
    is_pooled,
    locate,
    span_name,
)

MOST_CELLS, MOST_PAIRS = 200_000, 100_000
"""Numbers above which all jobs are taken to run: to look at each would take the driver seconds."""
FEW = 16
"""Pairs of a tile whose spans are looked at."""


class _Need(NamedTuple):
    """Condition under which a unit changes nothing: out of reach of the token read, or a value put back."""

    position: Position
    stays: bool
    """Whether a change stays at its token, as past the attention of the last block."""
    run: str | None
    """The run that must begin as the base does up to the unit's last token; None where it never puts back."""


_Needs = tuple[int | str, tuple[_Need, ...]]
"""Token at which the answer is read, and the condition of each unit."""


class RunningShares:
    """Shares of the jobs that run, by lane and cellset.

    Args:
        facts: of the model; without them all jobs are taken to run.
    """

    def __init__(self, plan: Plan, facts: Mapping[int, ModelFacts]) -> None:
        self._plan = plan
        self.is_large = (
            plan.tables["cells"].num_rows > MOST_CELLS or plan.tables["inputs"].num_rows > MOST_PAIRS
        )
        """Whether there are too many cells or pairs to look at each."""
        told = {lane: known for lane, known in facts.items() if _is_filled_in(known)}
        self._facts = {} if self.is_large else told
        self._needs_of = lru_cache(maxsize=None)(self._needs)

    def shares(self, lane: int, cellset: int, pairs: Sequence[int]) -> np.ndarray:
        """Share of the pairs on which a cell's job runs, for each cell of a cellset; shape (num_cells,)."""
        if lane not in self._facts:
            return np.ones(len(self._plan.cellsets[cellset]))
        kinds, which = self._needs_of(lane, cellset)
        begun = _Beginnings([self.pair(number) for number in pairs], self._facts[lane])
        shares: np.ndarray = np.array([begun.share(needs) for needs in kinds])[which]
        return shares

    def _needs(self, lane: int, cellset: int) -> tuple[list[_Needs | None], np.ndarray]:
        """The kinds of cells of a cellset, None for those that always run, and which kind each cell is."""
        known: dict[_Needs | None, int] = {}
        which = [
            known.setdefault(_needs_of(cell, self._facts[lane]), len(known)) for cell in self.cells(cellset)
        ]
        return list(known), np.array(which, np.int64)

    def cells(self, cellset: int) -> list[Cell]:
        """The cells of a cellset, those that only earlier plans knew among them."""
        known, carried = self._plan.cells, self._plan.carried_cells
        return [known.get(n) or carried[n] for n in self._plan.cellsets[cellset].tolist()]

    def pair(self, number: int) -> Pair:
        """A pair of the plan's tiles."""
        return self._plan.pairs.get(number) or self._plan.carried_pairs[number]


def _is_filled_in(facts: ModelFacts) -> bool:
    """Whether rows are expected to need no run: not in a model that is read as a whole, or given vectors."""
    return facts.vocab_size is not None and facts.reads == "token"


def lane_facts(plan: Plan, models: Sequence[tuple[ModelSpec, ModelFacts]]) -> dict[int, ModelFacts]:
    """The facts of each lane of a plan, as far as its models are these."""
    found = {lane_identity(facts, spec): facts for spec, facts in models}
    return {lane.lane: found[lane.identity] for lane in plan.lanes.values() if lane.identity in found}


def _needs_of(cell: Cell, facts: ModelFacts) -> _Needs | None:
    """Conditions under which no unit of a cell changes anything; None where there are none."""
    if cell.runs:
        return None
    needs = [_need(unit, facts) for unit in cell.units]
    return None if None in needs else (cell.read, tuple(need for need in needs if need is not None))


def _need(unit: CellUnit, facts: ModelFacts) -> _Need | None:
    place, origin, site = unit.place, unit.origin, SITES.get(unit.place.site)
    if site is None or place.coordinates is not None or unit.operation == "collect":
        return None
    is_back = origin is not None and unit.operation == "vanilla" and not is_pooled(place.position)
    is_back &= place == origin
    stays = site.stays and place.layer == facts.num_layers - 1
    return _Need(place.position, stays, unit.run if is_back else None)


class _Beginnings:
    """Numbers of first tokens that the base of each pair shares with its other runs."""

    def __init__(self, pairs: Sequence[Pair], facts: ModelFacts) -> None:
        self._pairs = pairs
        self._depends_on_length = facts.depends_on_length
        self._shared = lru_cache(maxsize=None)(self._count)

    def share(self, needs: _Needs | None) -> float:
        """The share of the pairs on which a cell with these needs runs."""
        if needs is None:
            return 1.0
        read, units = needs
        positions = [item for unit in units for item in unit.position]
        if all(isinstance(item, int) for item in (read, *positions)):
            found = np.ones(len(self._pairs), bool)
            for unit in units:
                found &= self._is_harmless(unit, read)
            return 1.0 - float(found.mean())
        few = range(0, len(self._pairs), max(1, len(self._pairs) // FEW))
        return 1.0 - float(np.mean([all(self._is_put_back(unit, at) for unit in units) for at in few]))

    def _is_harmless(self, unit: _Need, read: int | str) -> np.ndarray | bool:
        """Mask of the pairs on which a unit whose tokens are indices changes nothing; shape [P]."""
        tokens = [item for item in unit.position if isinstance(item, int)]
        assert isinstance(read, int)
        if all(token > read or (unit.stays and token != read) for token in tokens):
            return True
        if unit.run is None:
            return False
        return self._shared(unit.run) > max(tokens)

    def _is_put_back(self, unit: _Need, at: int) -> bool:
        """Whether a unit at spans puts back what is there, in one pair."""
        pair = self._pairs[at]
        if unit.run is None or unit.run not in pair.tokens:
            return False
        found = [_located(unit.position, pair, run) for run in ("base", unit.run)]
        return found[0] is not None and found[0] == found[1] and self._shared(unit.run)[at] > max(found[0])

    def _count(self, run: str) -> np.ndarray:
        """Shape [P]; -1 where there is no such run."""
        return np.array([self._count_of(pair, run) for pair in self._pairs])

    def _count_of(self, pair: Pair, run: str) -> int:
        base, other = pair.tokens["base"], pair.tokens.get(run)
        if other is None or (self._depends_on_length and len(base) != len(other)):
            return -1
        if base == other:
            return len(base)
        if isinstance(base, Vectors) or isinstance(other, Vectors):
            return 0
        pairs = zip(base, other, strict=False)
        return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(base), len(other)))


def _located(position: Position, pair: Pair, run: str) -> tuple[int, ...] | None:
    """The tokens of a position in a run; None where it has none."""
    spans = pair.spans.get(run, {})
    if any(isinstance(item, str) and span_name(item) not in spans for item in position):
        return None
    return locate(position, spans) or None
