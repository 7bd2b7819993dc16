"""Screening in a plan: the cells that are estimated, those of them that run, and those that stand for others.

The table `screening` has a row for each cell of a screened plan, and says of it one of `SELECTED`. It is
written twice: with ``open`` cells before the estimates are there, and once they are with what was selected.
"""

__all__ = [
    "SELECTED",
    "CellChoice",
    "Screening",
    "check_labels",
    "choose",
    "describe_screening",
    "expected_jobs",
    "num_chosen",
]

import math
import random
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import pyarrow as pa

from orchestrator.plan.prepare import Input
from orchestrator.plan.tables import Plan
from orchestrator.plan.tiles import Group
from studies import Screen
from workers.errors import StudyError
from workers.vocabulary import Cell, why_exact

SELECTED = ("exact", "open", "kept", "sampled", "left")
"""Fates of a cell: it runs without being estimated; it is estimated, and nothing is selected yet; it
runs for its estimate; it runs as one of the sample; it does not run."""

LEAST_SAMPLE = 50
"""Cells that a sample of a share has, as far as there are."""


class CellChoice(NamedTuple):
    """Choice of a cell by its estimate."""

    selected: Literal["exact", "kept", "sampled", "left"]
    weight: float | None
    """Number of cells that its run stands for, when the recall is measured; None for none."""


def num_chosen(part: int | float, among: int, *, least: int = 1) -> int:
    """Number of cells that a part of a `Screen` is of `among` cells: a share is `least` at the least."""
    wanted = part if isinstance(part, int) else max(least, math.ceil(round(part * among, 9)))
    return min(among, wanted)


def choose(effects: Mapping[uuid.UUID, float | None], screen: Screen) -> dict[uuid.UUID, CellChoice]:
    """Select from the cells of one model, by what is estimated of them: the same whenever it is asked.

    Those without an estimate run, since nothing is known of them.
    """
    known = {cell: effect for cell, effect in effects.items() if effect is not None}
    ordered = sorted(known, key=lambda cell: (-known[cell], cell))
    num_kept = num_chosen(screen.keep, len(ordered))
    rest = sorted(ordered[num_kept:])
    num_sampled = num_chosen(screen.sample, len(rest), least=LEAST_SAMPLE)
    sampled = random.Random(screen.seed).sample(rest, num_sampled)
    found = dict.fromkeys(effects.keys() - known.keys(), CellChoice("exact", None))
    found |= dict.fromkeys(ordered[:num_kept], CellChoice("kept", 1.0))
    found |= dict.fromkeys(rest, CellChoice("left", None))
    return found | dict.fromkeys(sampled, CellChoice("sampled", len(rest) / max(1, num_sampled)))


@dataclass(frozen=True, slots=True)
class Screening:
    """Cells of a screened plan by number: the estimated ones, and the choices among them."""

    cells: Sequence[int]
    estimated: frozenset[int]
    """Cells that are estimated."""
    chosen: Mapping[int, CellChoice] | None
    """Choices; None before the selection."""

    @classmethod
    def of(cls, cells: Mapping[int, Cell], selection: Mapping[int, CellChoice] | None) -> "Screening":
        """Screening of a plan with these cells; `selection` has the estimated ones.

        Raises:
            StudyError: none can be estimated.
        """
        reasons = {number: why_exact(cell) for number, cell in cells.items()}
        if all(reasons.values()):
            told = ", ".join(f"{why} ({count:,})" for why, count in Counter(reasons.values()).most_common(3))
            raise StudyError(
                f"screen: none of the {len(cells):,} cells can be estimated: they use {told}; leave screen"
                " out"
            )
        estimated = frozenset(number for number, why in reasons.items() if why is None)
        exact = CellChoice("exact", None)
        chosen = None if selection is None else {n: selection.get(n, exact) for n in cells}
        return cls(list(cells), estimated, chosen)

    def groups_estimated(self, groups: Sequence[Group]) -> list[Group]:
        """Each group with the cells that are estimated."""
        return _restricted(groups, self.estimated)

    def groups_run(self, groups: Sequence[Group]) -> list[Group]:
        """Each group with the cells that run: none before the selection."""
        found = (self.chosen or {}).items()
        return _restricted(groups, frozenset(cell for cell, one in found if one.selected != "left"))

    def table(self) -> pa.Table:
        """The plan's table."""
        chosen = self.chosen or {}
        words = ["open" if cell in self.estimated else "exact" for cell in self.cells]
        if self.chosen is not None:
            words = [chosen[cell].selected for cell in self.cells]
        weights = [chosen[cell].weight if chosen else None for cell in self.cells]
        return pa.table(
            {
                "cell": pa.array(self.cells, pa.uint32()),
                "selected": pa.array(words, pa.string()),
                "weight": pa.array(weights, pa.float64()),
            }
        )


def check_labels(study: str, given: Iterable[Input]) -> None:
    """Refuse pairs of which nothing can be estimated.

    Raises:
        StudyError: none has a label.
    """
    if not any(one.label_ids or one.base_label_ids for one in given):
        raise StudyError(
            f"study {study}: screen: an estimate is of what the labels get, and no pair has one; give label "
            "and base_label, or leave screen out"
        )


def describe_screening(plan: Plan) -> str:
    """Numbers of estimates and runs, in a line; before the selection expected ones."""
    counts = _cells_that_run(plan)
    about = "about " if counts["open"] else ""
    num_jobs = expected_jobs(plan)
    exact = f", and {counts['exact']:,} that are not estimated" if counts["exact"] else ""
    return (
        f"{plan.num_estimates:,} estimates; {about}{num_jobs:,} jobs run: {counts['kept']:,} cells for their"
        f" estimates, {counts['sampled']:,} as a sample of the others{exact}"
    )


def expected_jobs(plan: Plan) -> int:
    """Number of jobs of a screened plan that run; before the selection the expected one."""
    if plan.is_selected:
        return plan.num_jobs
    counts = _cells_that_run(plan)
    num_cells = counts["kept"] + counts["sampled"] + counts["exact"]
    return round(num_cells * _pairs_a_cell(plan))


def _cells_that_run(plan: Plan) -> Counter[str]:
    """Number of cells kept, sampled, run without an estimate, left; before the selection as expected."""
    cells = dict(zip(*(plan.tables["cells"][name].to_pylist() for name in ("cell", "lane")), strict=True))
    table = plan.tables["screening"]
    rows = list(zip(table["cell"].to_pylist(), table["selected"].to_pylist(), strict=True))
    counts = Counter(selected for _, selected in rows)
    if counts["open"]:
        screen = Screen.model_validate(plan.head["screen"])
        for num_open in Counter(cells[cell] for cell, selected in rows if selected == "open").values():
            counts["kept"] += (num_kept := num_chosen(screen.keep, num_open))
            counts["sampled"] += num_chosen(screen.sample, num_open - num_kept, least=LEAST_SAMPLE)
    return counts


def _pairs_a_cell(plan: Plan) -> float:
    """On how many pairs a cell runs, on average."""
    selected: list[str] = plan.tables["screening"]["selected"].to_pylist()
    return plan.num_estimates / max(1, selected.count("open"))


def _restricted(groups: Sequence[Group], cells: frozenset[int]) -> list[Group]:
    found = [replace(group, cells=tuple(cell for cell in group.cells if cell in cells)) for group in groups]
    return [group for group in found if group.cells]
