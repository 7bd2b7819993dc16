"""Jobs whose first change stays with one token of its block: that token goes through the block alone, before.

The next block is given what comes of it, and of all other tokens what the base's clean run gave it. A job
then begins a block later than it would.

Shapes: n rows, W width.
"""

__all__ = ["WORTH", "Ahead", "go_ahead"]

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from torch import Tensor

from workers.change.edits import Edits
from workers.change.values import Held
from workers.engine.queues import Waiting
from workers.errors import SwapyardError
from workers.model.loading import LoadedModel
from workers.replay.base_runs import Slab
from workers.replay.forward import through
from workers.replay.resume import Resume
from workers.replay.start import changes_at

WORTH = 64
"""Tokens in one block that a run of one token each has to save: it costs as much as about so many."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """What came of the tokens that went through their blocks alone, by row."""

    given: dict[int, Tensor] = field(default_factory=dict)
    """[W], what the next block is given of the token."""
    failed: dict[int, SwapyardError] = field(default_factory=dict)
    """Why it could not be done."""
    num_forwards: int = 0


def go_ahead(
    model: LoadedModel,
    resume: Resume,
    bases: Slab,
    slots: Tensor,
    jobs: Sequence[Waiting],
    first: int,
    held: Held,
) -> Ahead:
    """Let the jobs that are confined go through their first block, where that is worth a forward.

    Args:
        model: what runs.
        resume: how.
        bases: hold the jobs' bases, in `slots` [n].
        slots: where.
        jobs: of one forward, in the order of the blocks that they begin at.
        first: the token that all begin at.
        held: what runs hold where values are taken.
    """
    given: dict[int, Tensor] = {}
    failed: dict[int, SwapyardError] = {}
    num_forwards, num_saved = 0, bases.extent.num_tokens - first - 1
    confined = [row for row, waiting in enumerate(jobs) if waiting.is_confined]
    for block, group in groupby(confined, key=lambda row: jobs[row].start):
        rows = list(group)
        # Rows that begin together have to stay together.
        if len(rows) * num_saved < WORTH and resume.grows:
            continue
        changes = [changes_at(jobs[row].job, block, resume) for row in rows]
        edits = Edits(changes, first + 1, held, first=first)
        hidden, seen = through(
            model, resume, bases, slots[rows], block, range(first, first + 1), edits.visits()
        )
        num_forwards += 1
        failed |= {rows[number]: error for number, error in edits.failures(seen).items()}
        given |= dict(zip(rows, hidden[:, 0], strict=True))
    return Ahead(given, failed, num_forwards)
