"""Resumed forward: the model's own, over the last tokens, from each row's own block on, with a KV cache.

Shapes: n rows, q tokens from the first changed one to the end, W width, R read positions, V vocabulary.
"""

__all__ = ["Suffix", "run", "through"]

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workers.engine.replay.base_cache import BaseCache
from workers.engine.replay.kv_cache import CachedPrefix, RunCache
from workers.libraries.transformers import hidden_keyword, logits_of
from workers.model.hooks import Tap, Visit, Visits, visiting
from workers.model.resume import Resume

if TYPE_CHECKING:
    from workers.model.loading import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Suffix:
    """Rows that begin at one token of their bases."""

    bases: BaseCache
    slots: Tensor
    """Slots [n] of the rows' bases."""
    starts: Sequence[int]
    """Block that each begins at, in order; all the same where the model does not grow."""
    first: int
    """Token that they begin at."""
    reads: Tensor
    """Tokens [n, R] of the whole run whose logits are read, not before the first."""
    given: Mapping[int, Tensor] = field(default_factory=dict)
    """Inputs [W] of the first token to a row's first block, by row, where they are not the base's."""


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
    num_tokens = rows.bases.extent.num_tokens - rows.first
    reading = model.reader(rows.reads - rows.first, ids, visits)
    inputs = _inputs(model, resume, rows.bases, rows.slots, rows.first, num_tokens)
    begin = [(resume.input_of(block), _beginner(rows, block)) for block in sorted(set(rows.starts))]
    with (
        torch.inference_mode(),
        _skipping(model.module, resume, range(rows.starts[0])),
        visiting(model.module, [*begin, *visits, reading.visit], num_steps=num_tokens) as seen,
    ):
        logits = reading.logits(logits_of(model.module(**inputs)))
    return logits, seen


def through(
    model: "LoadedModel",
    resume: Resume,
    bases: BaseCache,
    slots: Tensor,
    block: int,
    tokens: range,
    visits: Sequence[tuple[Tap, Visit]],
) -> tuple[Tensor, Visits]:
    """Run some tokens, whose first is `tokens[0]`, of bases through one block that is not the last.

    Args:
        model: what runs.
        resume: how.
        bases: hold those in `slots` [n].
        slots: where the rows' bases lie.
        block: which.
        tokens: one after the other.
        visits: each sees all rows at a module of the block: [n, len(tokens), W].

    Returns:
        What the next block is given, [n, len(tokens), W], and what became of the taps.

    Raises:
        ModelError: a tap names a module that is not there, or the blocks are not given what they were.
    """
    given, first = bases.inputs[block], tokens[0]
    assert given is not None
    at = first - bases.extent.first
    returned: list[Tensor] = []

    def begin(_hidden: Tensor, _call: int) -> Tensor:
        return given[:, at : at + len(tokens)].index_select(0, slots)

    def keep(hidden: Tensor, _call: int) -> None:
        # What comes after may write into this tensor: only a copy stays what it was.
        returned.append(hidden.clone())

    def read_nothing(hidden: Tensor, _call: int) -> Tensor:
        return hidden[:, :0]

    inputs = _inputs(model, resume, bases, slots, first, len(tokens))
    visits = [
        (resume.input_of(block), begin),
        *visits,
        (resume.input_of(block + 1), keep),
        (model.head, read_nothing),
    ]
    others = [other for other in range(resume.num_blocks) if other != block]
    with (
        torch.inference_mode(),
        _skipping(model.module, resume, others),
        visiting(model.module, visits, num_steps=len(tokens)) as seen,
    ):
        model.module(**inputs)
    faults = seen.faults()
    for tap in (resume.input_of(block), resume.input_of(block + 1)):
        if tap in faults:
            raise faults[tap]
    return returned[0], seen


def _inputs(
    model: "LoadedModel", resume: Resume, bases: BaseCache, slots: Tensor, first: int, num_tokens: int
) -> dict[str, Any]:
    """Arguments of the model's forward for some tokens of rows: the KV cache of the tokens before them."""
    batch = 1 if resume.grows else len(slots)
    cache = RunCache(resume.num_blocks, CachedPrefix(first, bases.keys, bases.values, slots))
    positions = torch.arange(first, first + num_tokens, device=slots.device).expand(batch, -1)
    inputs = model.keywords.with_cache(cache) | model.keywords.at(positions)
    if model.keywords.vectors is None:
        return {"input_ids": torch.zeros(batch, num_tokens, device=slots.device, dtype=torch.long), **inputs}
    dtype = next(model.module.parameters()).dtype
    width = resume.embedding_width
    vectors = torch.zeros(batch, num_tokens, width, device=slots.device, dtype=dtype)
    return {model.keywords.vectors: vectors, **inputs}


def _beginner(rows: Suffix, block: int) -> Visit:
    """Hook that adds, to the rows that have begun, those that begin at `block`."""
    begun = sum(start < block for start in rows.starts)
    end = begun + sum(start == block for start in rows.starts)
    slots = rows.slots[begun:end]
    inputs = rows.bases.inputs[block]
    assert inputs is not None
    others = [row for row in range(begun, end) if row in rows.given]

    def begin(hidden: Tensor, _: int) -> Tensor:
        new = inputs[:, rows.first - rows.bases.extent.first :].index_select(0, slots)
        if others:
            at = torch.tensor(others, device=new.device) - begun
            new[at, 0] = torch.stack([rows.given[row] for row in others])
        return torch.cat([hidden, new]) if begun else new

    return begin


@contextmanager
def _skipping(module: nn.Module, resume: Resume, blocks: Collection[int]) -> Iterator[None]:
    """Let some blocks return what they are given, inside the ``with``."""
    listed = list(module.get_submodule(resume.blocks).children())
    skipped, num_returned = [listed[block] for block in blocks], resume.num_returned
    before = [vars(block).get("forward") for block in skipped]

    def skip(*args: Any, **given: Any) -> Any:
        hidden = args[0] if args else given[hidden_keyword(given) or next(iter(given))]
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
