"""Sites that a loaded model refuses: no job of a plan runs on it that names one."""

__all__ = ["check_loaded"]

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orchestrator.plan.tables import Plan
from workers.errors import ModelError
from workers.vocabulary import CellUnit

if TYPE_CHECKING:
    from workers.model.loading import LoadedModel


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
