"""Where a job begins: the first block and the first token that it changes or reads."""

__all__ = ["changes_at", "changes_from", "first_block", "first_token", "is_confined", "moved"]

from collections.abc import Iterable
from dataclasses import replace

from workers.change.jobs import Change, Job
from workers.change.operations import COLLECT, SKIP
from workers.change.ready import NOISE, CompiledCell, CompiledUnit
from workers.change.regions import Region
from workers.model.hooks import Tap
from workers.model.layout import Target
from workers.replay.resume import Resume


def first_block(cell: CompiledCell, resume: Resume) -> int | None:
    """The first block that the cell changes; None where it changes a region, or what is in no block."""
    if any(isinstance(ready.step.place, Region) for ready in cell.units):
        return None
    blocks = [resume.block_of.get(ready.step.place.tap.module) for ready in cell.units]
    known = [block for block in blocks if block is not None]
    return min(known, default=resume.num_blocks - 1) if len(known) == len(blocks) else None


def first_token(job: Job) -> int:
    """The first token that the job changes or reads."""
    return min([job.read, *(token for change in job.changes for token in change.tokens)])


def changes_at(job: Job, block: int, resume: Resume) -> tuple[Change, ...]:
    """The changes inside a block, in their order."""
    return tuple(one for one in job.changes if resume.block_of.get(one.step.place.tap.module) == block)


def changes_from(job: Job, block: int, resume: Resume) -> tuple[Change, ...]:
    """The changes from a block on, in their order; of a job that changes nothing outside the blocks."""
    return tuple(one for one in job.changes if resume.block_of[one.step.place.tap.module] >= block)


def is_confined(job: Job, block: int, first: int, resume: Resume) -> bool:
    """Whether all that the job changes in its first block stays with the one token that it begins at.

    That token can then go through the block alone. Not the jobs that collect, whose units count by number.
    """
    return block + 1 < resume.num_blocks and all(
        change.step.operation != COLLECT
        and (resume.block_of[change.step.place.tap.module] > block or _stays(change, first, resume))
        for change in job.changes
    )


def _stays(change: Change, token: int, resume: Resume) -> bool:
    place = change.step.place
    return isinstance(place, Target) and place.tap.unscaled in resume.confined and change.tokens == (token,)


def moved(cell: CompiledCell, resume: Resume) -> CompiledCell:
    """The cell, changing what a block is given where it said what the block before it returns.

    The two are one tensor, and the job then begins a block later. Not where it would show: noise is drawn by
    place, and units at both places would change their order.
    """
    if not resume.is_chain:
        return cell
    there = {tap: resume.block_of[tap.module] for tap in _outputs(cell.units, resume)}
    taken = {ready.step.place.tap for ready in cell.units}
    free = {
        tap: resume.input_of(block + 1)
        for tap, block in there.items()
        if block + 1 < resume.num_blocks
        and resume.input_of(block + 1) not in taken
        and all(_can_move(ready) for ready in cell.units if ready.step.place.tap == tap)
    }
    if not free:
        return cell
    return replace(cell, units=tuple(_aimed(ready, free.get(ready.step.place.tap)) for ready in cell.units))


def _outputs(units: Iterable[CompiledUnit], resume: Resume) -> set[Tap]:
    """The taps of the units that are what a whole block returns."""
    taps = {ready.step.place.tap for ready in units}
    return {
        tap
        for tap in taps
        if tap.side == "output" and tap.module == resume.input_of(resume.block_of.get(tap.module, -1)).module
    }


def _can_move(ready: CompiledUnit) -> bool:
    if not isinstance(ready.step.place, Target):
        return False
    return ready.unit.run != NOISE and ready.step.operation != SKIP


def _aimed(ready: CompiledUnit, tap: Tap | None) -> CompiledUnit:
    if tap is None:
        return ready
    place = ready.step.place
    assert isinstance(place, Target)
    return replace(ready, step=replace(ready.step, place=replace(place, tap=tap)))
