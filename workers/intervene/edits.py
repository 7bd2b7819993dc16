"""Edits of one batched forward: changes of many rows, by hooks that touch each row's own places only.

Shapes: B rows, T tokens or steps, W width of a tap; N changed points (row, position), C columns.
"""

__all__ = ["Edits"]

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from workers.errors import ModelError, SwapyardError
from workers.intervene.edit_steps import Edit, ForwardContext, edit_of
from workers.intervene.jobs import Change, Step
from workers.intervene.operations import SKIP
from workers.intervene.values import ActivationLookup, FromRunByRow
from workers.model.hooks import Tap, Visit, Visits


class Edits:
    """Edits of one forward, whose row ``b`` has the changes ``rows[b]``.

    Args:
        rows: for each row its changes, in the order in which they apply.
        num_tokens: T, of every row; None where the run has no tokens of its own.
        held: looks up the cached activations that values are taken from.
        first: the token that the forward begins at.
        num_rows: how many rows, the first of them, have begun at a tap; None where all have everywhere.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[Change]],
        num_tokens: int | None,
        held: ActivationLookup,
        *,
        first: int = 0,
        num_rows: Callable[[Tap], int] | None = None,
    ) -> None:
        self._by_tap = _grouped(rows)
        self._scene = ForwardContext(
            num_rows=num_rows or (lambda _: len(rows)), num_tokens=num_tokens, held=held, first=first
        )
        self._failed: dict[int, SwapyardError] = {}

    def visits(self) -> list[tuple[Tap, Visit]]:
        """Hooks to run the forward with: for each tap its edits, in the order of their units."""
        edits = [(tap, self._visit(edit)) for tap, edits in self._by_tap.items() for edit in edits]
        return edits + [(replace(tap, side="input"), self._note(tap)) for tap in self._skipped()]

    def failures(self, seen: Visits) -> dict[int, SwapyardError]:
        """Errors by row, after the forward, of what could not be done."""
        faults = seen.faults()
        silent = {
            row: faults[tap]
            for tap, edits in self._by_tap.items()
            if tap in faults
            for edit in edits
            for row, _ in edit.changes
        }
        return silent | self._failed

    def collected(self, number: int, row: int) -> Tensor | None:
        """Activations [n, C] that a row's change `number` collected, after the forward; None for nothing."""
        found = self._scene.collected.get((number, row))
        return None if found is None else found.whole()

    def _visit(self, edit: Edit) -> Visit:
        def visit(tensor: Tensor, call: int) -> Tensor:
            try:
                return edit.apply(tensor, call, self._scene)
            except SwapyardError as error:
                if edit.step.calls_functions and len(edit.changes) > 1:
                    raise  # a function may fail of the values of one row: whoever runs them tries fewer
                # The rows of other jobs are untouched, so the forward goes on for them.
                self._failed |= {row: error.with_traceback(None) for row, _ in edit.changes}
                return tensor

        return visit

    def _skipped(self) -> list[Tap]:
        """Taps of the modules that are skipped.

        Raises:
            ModelError: what a module is given cannot be skipped.
        """
        taps = [tap for tap, edits in self._by_tap.items() if any(e.step.operation == SKIP for e in edits)]
        for tap in taps:
            if tap.side == "input":
                raise ModelError(f"skip at {tap}: only what a module returns can be skipped; name an output")
            if tap.scale != 1.0:
                raise ModelError(
                    f"skip at {tap}: no module returns the product; name the module, {tap.module!r}"
                )
        return taps

    def _note(self, tap: Tap) -> Visit:
        """Hook that notes the input of the module of `tap`, after all changes to it."""

        def note(tensor: Tensor, _: int) -> None:
            self._scene.given[tap] = tensor.clone()

        return note


def _grouped(rows: Sequence[Sequence[Change]]) -> dict[Tap, list[Edit]]:
    """Edits by tap: changes that differ only in row, tokens and prompt become one edit.

    Edits of a tap are listed by the place of their unit in its row, so that in every row later units
    see and override earlier ones.
    """
    groups: dict[tuple[int, Step, type], list[tuple[int, Change]]] = {}
    for row, changes in enumerate(rows):
        for number, change in enumerate(changes):
            if row and isinstance(change.value, FromRunByRow):
                continue  # that of the first row is that of all
            groups.setdefault((number, change.step, type(change.value)), []).append((row, change))
    by_tap: dict[Tap, list[Edit]] = {}
    for (number, step, _), listed in sorted(groups.items(), key=lambda item: item[0][0]):
        by_tap.setdefault(step.place.tap, []).append(edit_of(number, step, listed))
    return by_tap
