"""Single-token forwards: where a job's first intervention affects one token of its block, only that one runs.

Queries, attention outputs and MLPs change nothing of the other tokens inside their own block. So the changed
token goes through that block alone; the next block is given its output, and for all other tokens the base's
cached input. The job then resumes one block later than it would.

Shapes: n rows, W width.
"""

__all__ = ["WORTH", "SingleTokenRuns", "run_single_tokens"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor

from workers.engine.queues import QueuedJob, changes_at, changes_from
from workers.engine.replay.base_cache import BaseCache
from workers.engine.replay.forward import through
from workers.intervene.edits import Edits
from workers.intervene.jobs import Change
from workers.intervene.values import ActivationLookup
from workers.model.loading import LoadedModel
from workers.model.resume import Resume

WORTH = {"cpu": 2.0**28}
"""Fewest multiplications, by kind of device, that a forward of one token a row has to spare: its own cost.
On two cores that took 1.3 ms for SmolLM2-135M and 1.9 ms for GPT-2 small."""
_WORTH_ELSEWHERE = 2.0**38
"""Fewest multiplications on other devices; not measured. Launching a forward takes as long there,
multiplying a thousandth of the time."""


@dataclass(frozen=True, slots=True)
class SingleTokenRuns:
    """Rows of a forward after their single-token runs, in the order of the blocks that they resume at now."""

    order: list[int]
    """Number that each row had before."""
    starts: list[int]
    changes: list[Sequence[Change]]
    """Changes that are still to be made."""
    given: Mapping[int, Tensor]
    """Inputs [W] of the first token to the block that a row resumes at, by row, where it was run alone."""
    failed: set[int]
    """Rows that could not be changed; a whole run says why."""
    num_forwards: int


def run_single_tokens(
    model: LoadedModel,
    resume: Resume,
    bases: BaseCache,
    slots: Tensor,
    waiting: Sequence[QueuedJob],
    first: int,
    held: ActivationLookup,
) -> SingleTokenRuns:
    """Run the one changed token of token-local jobs through their first block, where that is worth a forward.

    Args:
        model: what runs.
        resume: how its forward is resumed.
        bases: the KV cache of the jobs' bases.
        slots: [n], the rows' bases in it.
        waiting: the jobs of one forward, in the order of the blocks that they begin at.
        first: the token that all begin at.
        held: looks up the cached activations that values are taken from.
    """
    given: dict[int, Tensor] = {}
    failed: set[int] = set()
    num_forwards, num_spared = 0, bases.extent.num_tokens - first - 1
    worth = WORTH.get(slots.device.type, _WORTH_ELSEWHERE)
    token_local = [row for row, one in enumerate(waiting) if one.is_token_local]
    for block, group in groupby(token_local, key=lambda row: waiting[row].start):
        rows = list(group)
        if len(rows) * num_spared * resume.block_parameters < worth:
            continue
        changes = [changes_at(waiting[row].job, block, resume) for row in rows]
        edits = Edits(changes, first + 1, held, first=first)
        token = range(first, first + 1)
        hidden, seen = through(model, resume, bases, slots[rows], block, token, edits.visits())
        num_forwards += 1
        failed |= {rows[number] for number in edits.failures(seen)}
        given |= dict(zip(rows, hidden[:, 0], strict=True))
    starts = [one.start + (row in given) for row, one in enumerate(waiting)]
    order = sorted(range(len(waiting)), key=starts.__getitem__)
    return SingleTokenRuns(
        order=order,
        starts=[starts[row] for row in order],
        changes=[
            changes_from(waiting[row].job, starts[row], resume) if row in given else waiting[row].job.changes
            for row in order
        ],
        given={new: given[row] for new, row in enumerate(order) if row in given},
        failed={new for new, row in enumerate(order) if row in failed},
        num_forwards=num_forwards,
    )
