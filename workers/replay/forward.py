"""The resumed forward: the model's own, over the last tokens, from each row's own block on.

Shapes: n rows, q tokens from the first changed one to the end, W width, R read positions, V vocabulary.
"""

__all__ = ["Suffix", "run"]

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workers.model.head import Reading
from workers.model.hooks import Tap, Visit, Visits, visiting
from workers.replay.base_runs import Slab
from workers.replay.layers import Before, RunCache
from workers.replay.resume import Resume, num_rows_at

if TYPE_CHECKING:
    from workers.model.loading import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Suffix:
    """Rows that begin at one token of their bases."""

    bases: Slab
    slots: Tensor
    """[n]: where the rows' bases lie."""
    starts: Sequence[int]
    """The block that each begins at, in order; all the same where the model does not grow."""
    first: int
    """The token that they begin at."""
    reads: Tensor
    """[n, R]: tokens of the whole run, not before the first."""


def run(
    model: "LoadedModel",
    resume: Resume,
    rows: Suffix,
    visits: Sequence[tuple[Tap, Visit]],
    *,
    ids: Tensor | None = None,
) -> tuple[Tensor, Visits]:
    """Run the rows from where they begin to the end.

    A visit sees, at a module of a block, the rows that have begun there: the first of them, [≤ n, q, W].

    Returns:
        The logits [n, R, V], or [n, R, K] of `ids` [K] alone, and what became of the taps.

    Raises:
        ModelError: a tap names a module that is not there.
    """
    num_rows, num_tokens = len(rows.starts), rows.bases.extent.num_tokens - rows.first
    device = rows.slots.device
    reading = Reading(model, rows.reads - rows.first, ids, visits)
    batch = 1 if resume.grows else num_rows
    blank = torch.zeros(
        batch, num_tokens, resume.embedding_width, device=device, dtype=next(model.module.parameters()).dtype
    )
    before = Before(rows.first, rows.bases.keys, rows.bases.values, rows.slots)
    inputs: dict[str, Any] = {
        "inputs_embeds": blank,
        "past_key_values": RunCache(resume.num_blocks, before),
        "use_cache": True,
    }
    if resume.takes_positions:
        positions = torch.arange(rows.first, rows.first + num_tokens, device=device)
        inputs["position_ids"] = positions.expand(batch, -1)
    begin = [(resume.input_of(block), _beginner(rows, block)) for block in sorted(set(rows.starts))]
    with (
        torch.inference_mode(),
        _skipping(model.module.get_submodule(resume.blocks), rows.starts[0], resume.num_returned),
        visiting(model.module, [*begin, *visits, reading.visit], num_steps=num_tokens) as seen,
    ):
        logits = reading.logits(model.module(**inputs).logits)
    return logits, seen


def rows_at(resume: Resume, rows: Suffix, tap: Tap) -> int:
    """How many of the rows a visit at `tap` sees."""
    return num_rows_at(resume, rows.starts, tap)


def _beginner(rows: Suffix, block: int) -> Visit:
    """Adds, to the rows that have begun, those that begin at `block`."""
    begun = sum(start < block for start in rows.starts)
    slots = rows.slots[begun : begun + sum(start == block for start in rows.starts)]
    inputs = rows.bases.inputs[block]
    assert inputs is not None

    def begin(hidden: Tensor, _: int) -> Tensor:
        new = inputs[:, rows.first - rows.bases.extent.first :].index_select(0, slots)
        return torch.cat([hidden, new]) if begun else new

    return begin


@contextmanager
def _skipping(blocks: nn.Module, num_blocks: int, num_returned: int) -> Iterator[None]:
    """Let the first blocks return what they are given, inside the ``with``."""
    skipped = [block for _, block in list(blocks.named_children())[:num_blocks]]
    before = [vars(block).get("forward") for block in skipped]

    def skip(*args: Any, hidden_states: Tensor | None = None, **_: Any) -> Any:
        hidden = args[0] if args else hidden_states
        return (hidden, *[None] * (num_returned - 1)) if num_returned else hidden

    try:
        for block in skipped:
            vars(block)["forward"] = skip
        yield
    finally:
        for block, forward in zip(skipped, before, strict=True):
            if forward is None:
                vars(block).pop("forward", None)
            else:
                vars(block)["forward"] = forward
