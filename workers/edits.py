"""The changes of many jobs, gathered into one forward: each touches only its own rows.

Shapes: B rows, T tokens, W width of a tap; N changed (row, token) points, M captured tokens, C columns.
"""

__all__ = ["Edits"]

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.captures import Captures
from workers.errors import SwapyardError
from workers.hooks import Tap, Visit, Visits, check_by_token
from workers.jobs import Change, Job, Step
from workers.operations import write


@dataclass(frozen=True, slots=True)
class _Edit:
    """One step, done in several rows at once."""

    step: Step
    changes: tuple[tuple[int, Change], ...]
    """The row of the forward, and what is done in it."""

    def apply(self, tensor: Tensor, shape: Sequence[int], captures: Captures) -> Tensor:
        """A changed copy of `tensor` [B, T, W], in a forward of `shape` (B, T).

        Raises:
            ModelError: the tensor is not [B, T, W], or has not the columns that the step names.
            RunError: the value does not fit.
        """
        check_by_token(tensor, self.step.place.tap, shape)
        device = tensor.device
        columns = self.step.place.columns(tensor.shape[-1], device)
        rows = torch.tensor([row for row, change in self.changes for _ in change.tokens], device=device)
        tokens = torch.tensor([token for _, change in self.changes for token in change.tokens], device=device)
        return write(tensor, rows.long(), tokens.long(), columns, self.step.operation, self._values(captures))

    def _values(self, captures: Captures) -> Tensor | None:
        """The values to write [N, C]; None for zeros."""
        origin = self.step.origin
        if origin is None:
            return None
        if self.step.is_pooled:
            values = torch.cat([_pooled(change, origin.tap, captures) for _, change in self.changes])
        else:
            values = _gathered([change for _, change in self.changes], origin.tap, captures)
        return values[:, origin.columns(values.shape[-1], values.device)]


def _pooled(change: Change, tap: Tap, captures: Captures) -> Tensor:
    """The mean over the origin's tokens, for each token that is changed: [len(tokens), W]."""
    assert change.origin_prompt is not None
    held = captures[change.origin_prompt].taps[tap]
    mean = held[list(change.origin_tokens)].float().mean(0).to(held.dtype)
    return mean.expand(len(change.tokens), -1)


def _gathered(changes: Sequence[Change], tap: Tap, captures: Captures) -> Tensor:
    """What the origins hold at their tokens, one after the other: [N, W]."""
    prompts = list(dict.fromkeys(change.origin_prompt for change in changes if change.origin_prompt))
    first, total = {}, 0
    for prompt in prompts:
        first[prompt] = total
        total += len(prompt)
    bank = torch.cat([captures[prompt].taps[tap] for prompt in prompts])  # [M, W]
    index = [first[c.origin_prompt] + token for c in changes if c.origin_prompt for token in c.origin_tokens]
    return bank[torch.tensor(index, device=bank.device).long()]


class Edits:
    """What is done in one forward, whose row ``b`` is ``jobs[b]``; each row has `num_tokens` tokens."""

    def __init__(self, jobs: Sequence[Job], num_tokens: int, captures: Captures) -> None:
        self._shape = (len(jobs), num_tokens)
        self._captures = captures
        self._by_tap = _grouped(jobs)
        self._failed: dict[int, SwapyardError] = {}

    def visits(self) -> list[tuple[Tap, Visit]]:
        """For each tap, the edits there in the order of their units."""
        return [(tap, self._visit(edit)) for tap, edits in self._by_tap.items() for edit in edits]

    def failures(self, seen: Visits) -> dict[int, SwapyardError]:
        """After the forward: the rows in which something could not be done, and why."""
        faults = seen.faults()
        silent = {
            row: faults[tap]
            for tap, edits in self._by_tap.items()
            if tap in faults
            for edit in edits
            for row, _ in edit.changes
        }
        return silent | self._failed

    def _visit(self, edit: _Edit) -> Visit:
        def visit(tensor: Tensor) -> Tensor:
            try:
                return edit.apply(tensor, self._shape, self._captures)
            except SwapyardError as error:
                # The rows of other jobs are untouched, so the forward goes on for them.
                self._failed |= {row: error.with_traceback(None) for row, _ in edit.changes}
                return tensor

        return visit


def _grouped(jobs: Sequence[Job]) -> dict[Tap, list[_Edit]]:
    """Changes that differ only in row, tokens and prompt become one edit.

    Edits of a tap are listed by the place of their unit in its cell, so that in every row later units
    see and override earlier ones.
    """
    groups: dict[tuple[int, Step], list[tuple[int, Change]]] = {}
    for row, job in enumerate(jobs):
        for number, change in enumerate(job.changes):
            groups.setdefault((number, change.step), []).append((row, change))
    by_tap: dict[Tap, list[_Edit]] = {}
    for (_, step), changes in sorted(groups.items(), key=lambda item: item[0][0]):
        by_tap.setdefault(step.place.tap, []).append(_Edit(step, tuple(changes)))
    return by_tap
