"""One forward of a module: changed as its rows say, and what is wanted of it kept.

Shapes: B rows, P positions, W width.
"""

__all__ = ["ForwardResult", "evaluating", "run"]

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from workers.change.edits import Edits
from workers.change.jobs import Change
from workers.change.regions import Region, tap_of
from workers.change.values import ActivationLookup
from workers.errors import ModelError
from workers.libraries.torch import is_checkpointing
from workers.model.hooks import Tap, Visit, visiting
from workers.model.windows import window_of
from workers.wrapper.inputs import Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardResult:
    """What became of a forward."""

    output: Any
    """Whatever the module returned."""
    kept: Mapping[Tap | Region, Tensor]
    """[B, P, W] of a tap, [B, …] of a region."""
    edits: Edits


def run(
    module: nn.Module,
    inputs: Inputs,
    changes: Sequence[Sequence[Change]],
    held: ActivationLookup,
    keep: Collection[Tap | Region] = (),
) -> ForwardResult:
    """Run the module in evaluation mode, its rows changed, and keep what `keep` names.

    Raises:
        ModelError, RunError: something could not be changed or kept; nothing of the run is returned then.
    """
    edits = Edits(changes, inputs.num_tokens, held)
    kept: dict[Tap | Region, list[Tensor]] = {}
    keepers = [(tap_of(place), _keeper(kept, place, inputs)) for place in keep]
    # Within one forward a learned rotation is computed once, however many units and steps use it.
    visits = [(tap, _guarded(tap, visit)) for tap, visit in edits.visits()]
    with (
        evaluating(module),
        parametrize.cached(),
        visiting(module, [*visits, *keepers], num_steps=inputs.num_tokens or 1) as seen,
    ):
        output = module(*inputs.args, **inputs.kwargs)
    for error in (*edits.failures(seen).values(), *seen.faults().values()):
        raise error
    whole = {place: parts[0] if len(parts) == 1 else torch.cat(parts, 1) for place, parts in kept.items()}
    return ForwardResult(output=output, kept=whole, edits=edits)


def _guarded(tap: Tap, visit: Visit) -> Visit:
    """The visit, refused where backpropagation would run the module again without it."""
    with_gradients = torch.is_grad_enabled()

    def visit_once(tensor: Tensor, call: int) -> Tensor | None:
        # A checkpoint of the older kind at first runs without gradients.
        if with_gradients and (not torch.is_grad_enabled() or is_checkpointing()):
            raise ModelError(
                f"{tap} lies inside gradient checkpointing, which runs the module again without the "
                "intervention; switch checkpointing off, or run under torch.no_grad()"
            )
        return visit(tensor, call)

    return visit_once


def _keeper(kept: dict[Tap | Region, list[Tensor]], place: Tap | Region, inputs: Inputs) -> Visit:
    def keep(tensor: Tensor, call: int) -> None:
        if isinstance(place, Region):
            values = place.read(tensor)
        else:
            values = window_of(tensor, place, call, inputs.num_rows, inputs.num_tokens).values
        # A module further on may write into this tensor: only a copy stays what it was.
        kept.setdefault(place, []).append(values.clone())

    return keep


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """With all of the module in evaluation mode, without dropout; each part gets its own mode back."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
