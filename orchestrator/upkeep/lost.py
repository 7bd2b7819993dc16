"""Lost rows of a study: how many, of which cells, and their repair by all that is known of the study."""

__all__ = ["Lost", "TellLost", "find_lost", "readable", "remedy_for", "repair_study"]

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.plan.part_checks import agree, misfits
from orchestrator.plan.tables import Plan, read_plan
from orchestrator.store import Manifest, PlanRef, State, StudyStore
from orchestrator.store.repair import drop_unfit, repair
from orchestrator.store.storage import named
from orchestrator.store.verify import Damage, damaged_files
from workers.errors import StoreError, SwapyardError

MOST_CELLS = 4
"""Lost cells that are named, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Lost or damaged rows of one study."""

    root: Path
    damaged: tuple[Damage, ...]
    num_rows: int
    """Jobs that were done, and whose rows, or some columns of these, cannot be read."""
    num_cells: int
    cells: tuple[str, ...]
    """The first of their cells, as the study has them: ``layer 3, site mlp_output, position 2``."""

    @property
    def summary(self) -> str:
        """Number of rows, and the fault of the first file."""
        first, *others = self.damaged
        more = f"; so are {len(others):,} more files" if others else ""
        return f"{self.num_rows:,} rows are lost: {first.path} {first.why}{more}"

    @property
    def where(self) -> str:
        """Cells that these rows are of."""
        more = self.num_cells - len(self.cells)
        said = [*self.cells, *([f"and {more:,} more"] if more else [])]
        return f"they are of {self.num_cells:,} cell{'' if self.num_cells == 1 else 's'}: {'; '.join(said)}"

    @property
    def remedy(self) -> str:
        """Remedy, as a command."""
        return remedy_for(self.root)

    def lines(self) -> list[str]:
        """For people."""
        return [f"study {self.root.name}: {self.summary}", f"  {self.where}", f"  {self.remedy}"]

    def __str__(self) -> str:
        return f"study {self.root.name}: {self.summary}; {self.where}; {self.remedy}"


TellLost = Callable[[Lost], None]
"""Is told what an answer lacks."""


def remedy_for(root: Path) -> str:
    """Remedy for lost or damaged files of rows of the study in `root`."""
    return (
        "restore them from a copy, or have their jobs run again: swapyard doctor --repair"
        f" {named(root)}, and then the command that ran the study"
    )


def find_lost(
    root: Path,
    state: State,
    plan: Plan,
    *,
    whole: Callable[[], Plan] | None = None,
    verify: bool = True,
    advance: Callable[[int], None] = lambda num_bytes: None,
) -> Lost | None:
    """Rows of the study in `root` that are lost, damaged or not what its plan says; None where all is well.

    `plan` may be read in part, its tiles and cellsets; then `whole` gives all of it where something is lost.
    `verify` and `advance` are as for `damaged_files`.
    """
    damaged = list(damaged_files(root, state, verify=verify, advance=advance))
    known = {one.path for one in damaged}
    strange = {path: why for path, why in misfits(plan, state).items() if path not in known}
    held = state.parts_by_file() if strange else {}
    damaged += [Damage(path, why, state.files[path].rows, held[path]) for path, why in strange.items()]
    if not damaged:
        return None
    plan = plan if whole is None else whole()
    jobs, num_unknown = _lost_jobs(plan, (part for one in damaged for part in one.parts))
    numbers = list(dict.fromkeys(cell for tile in jobs for cell in _cells_of(plan, tile, jobs[tile])))
    return Lost(
        root=root,
        damaged=tuple(damaged),
        num_rows=num_unknown + sum(int(found.sum()) for found in jobs.values()),
        num_cells=len(numbers),
        cells=tuple(_cell_text(plan, cell) for cell in numbers[:MOST_CELLS]),
    )


def readable(
    root: Path,
    state: State,
    plan: Plan,
    tell: TellLost | None,
    *,
    whole: Callable[[], Plan] | None = None,
    verify: bool = True,
    advance: Callable[[int], None] = lambda num_bytes: None,
) -> State:
    """The part of `state` whose rows can be read; `tell` is told what cannot. The rest is as for `find_lost`.

    Raises:
        StoreError: something cannot, and `tell` is None.
    """
    lost = find_lost(root, state, plan, whole=whole, verify=verify, advance=advance)
    if lost is None:
        return state
    if tell is None:
        raise StoreError(str(lost))
    tell(lost)
    return state.without(one.path for one in lost.damaged)


def _lost_jobs(plan: Plan, parts: Iterable[Manifest]) -> tuple[dict[int, np.ndarray], int]:
    """For each tile which of its jobs are lost, shape (num_cells, num_pairs), bool; and how many rows more,
    of tiles or cells that the plan does not have."""
    found: dict[int, np.ndarray] = {}
    num_unknown = 0
    for part in parts:
        tile = plan.tiles.get(part.tile)
        if tile is None:
            num_unknown += part.rows
            continue
        if part.tile not in found:
            found[part.tile] = np.zeros((tile.num_cells, len(tile.pairs)), bool)
        if part.is_retry:
            for lo, hi in part.jobs:
                found[part.tile].reshape(-1)[lo:hi] = True
        else:
            found[part.tile][part.k_lo : part.k_hi] = True
    return found, num_unknown


def _cells_of(plan: Plan, tile: int, jobs: np.ndarray) -> Iterator[int]:
    """The numbers of the cells that have lost jobs, in running order."""
    cells = plan.cellsets[plan.tiles[tile].cellset]
    yield from cells[jobs.any(axis=1)].tolist()


def _cell_text(plan: Plan, cell: int) -> str:
    """A cell as written: model and block where the study has several, and each axis that it uses."""
    import pyarrow.compute as pc

    grid, points = plan.tables["grid"], plan.tables["points"]
    rows = grid.filter(pc.equal(grid["cell"], cell)).slice(0, 1).to_pylist()
    if not rows:
        return f"cell {cell} of an earlier plan"
    place: dict[str, Any] = (
        points.filter(pc.equal(points["_point"], rows[0]["point"])).slice(0, 1).to_pylist()[0]
    )
    if len(plan.lanes) > 1:
        spec = plan.lanes[place["_lane"]].spec
        dtypes = {lane.spec.dtype for lane in plan.lanes.values()}
        place["model"] = f"{spec.title} in {spec.dtype}" if len(dtypes) > 1 else spec.title
    hidden = {"_point", "_lane", *(() if len(plan.lanes) > 1 else ("model",))}
    has_blocks = pc.count_distinct(points["_block"]).as_py() > 1
    said = {
        name.removeprefix("_"): value
        for name, value in place.items()
        if value is not None and name not in hidden and (name != "_block" or has_blocks)
    }
    return ", ".join(f"{name} {value}" for name, value in said.items())


def repair_study(root: Path) -> tuple[str, ...]:
    """Repair the study in `root`, and tell what was done, one thing a line; nothing on one that is whole.

    A plan that is damaged is not made again here: that takes the study's file, and so its run does it.

    Raises:
        HeldError: a driver is at work.
        StoreError: there is no study, a newer swapyard wrote it, or it cannot be read or written.
    """
    store = StudyStore(root)

    def agreed(first: PlanRef, second: PlanRef) -> bool:
        return _agree(store, first, second)

    lines = repair(root, agree=agreed).lines
    if not _unfit(store, store.state()):
        return lines
    dropped = drop_unfit(root, lambda state: _unfit(store, state)).lines
    # What such a file says of itself may be right: then it is added as one that no commit names.
    return (*lines, *dropped, *repair(root, agree=agreed).lines)


def _agree(store: StudyStore, first: PlanRef, second: PlanRef) -> bool:
    """Whether one plan went on from the other; of one that cannot be read nobody knows."""
    try:
        return agree(read_plan(store, first), read_plan(store, second))
    except (SwapyardError, LookupError, TypeError, ValueError):
        return False


def _unfit(store: StudyStore, state: State) -> Collection[str]:
    """The files of which commits say what the plan does not allow; none where the plan cannot be read."""
    if state.plan is None:
        return ()
    try:
        return misfits(read_plan(store, state.plan), state).keys()
    except SwapyardError:
        return ()
