"""Runs of one call of an `IntervenableModel`: the base, and those that values come from, each once.

Shapes: B examples, P positions, W width, C columns of a place.
"""

__all__ = ["ForwardResult", "Runs", "evaluating", "run"]

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from workers.errors import ModelError
from workers.intervene.binding import Call, bind, origin_position, wants_of
from workers.intervene.edits import Edits
from workers.intervene.inputs import Inputs, TextTokenizer, inputs_of
from workers.intervene.jobs import Change
from workers.intervene.regions import Region, joined, keeper, tap_of
from workers.intervene.units import IntervenedRun, Mean, Run, Unit
from workers.intervene.values import ActivationLookup, CachedActivation
from workers.libraries.torch import is_checkpointing
from workers.model.hooks import Tap, Visit, visiting
from workers.model.layout import Target
from workers.model.places import Places
from workers.model.weight_values import embedding_std
from workers.model.windows import positions_at


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardResult:
    """Output of one forward, and the activations that it kept."""

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
    keepers = [(tap_of(place), keeper(kept, place, inputs.num_rows, inputs.num_tokens)) for place in keep]
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
    whole = {place: joined(parts) for place, parts in kept.items()}
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


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put all of the module into evaluation mode, without dropout; each part gets its own mode back."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


class Runs:
    """Runs that the units of one call take values from, done on demand and kept for the call.

    Args:
        module: what runs.
        places: its places.
        inputs: ``base``, and ``source``, ``source_2`` … where they are given.
        tokenizer: for runs that are averaged.
        gradients: whether they reach these runs.
    """

    def __init__(
        self,
        module: nn.Module,
        places: Places,
        inputs: Mapping[str, Inputs],
        *,
        tokenizer: TextTokenizer | None,
        gradients: bool,
    ) -> None:
        self._module = module
        self._tokenizer = tokenizer
        self._gradients = gradients
        std = cache(partial(embedding_std, module))
        self._call = Call(places=places, inputs=inputs, mean=self._mean, embedding_std=std)
        self._wants: Mapping[Run, set[Tap | Region]] = {}
        self._ran: dict[Run, ForwardResult] = {}
        self._rows: dict[tuple[Run, Tap | Region], tuple[Tensor, ...]] = {}
        self._averaged: dict[Mean, Inputs] = {}

    def clean_output(self, name: str) -> Any:
        """Output of the clean run of an input; None where it did not run."""
        return self._ran[name].output if name in self._ran else None

    def intervened(
        self, units: Sequence[Unit], *, base_output: bool
    ) -> tuple[ForwardResult, ForwardResult | None]:
        """The base with the units applied, and as it is where `base_output` says so.

        Both run under the caller's gradient mode.

        Raises:
            StudyError, ModelError, RunError: what the units ask for cannot be.
        """
        self._wants = wants_of(units, self._call.places)
        clean = self._record("base", gradients=True) if base_output else None
        for source in self._wants:
            self._record(source, gradients=self._gradients)
        base = self._call.inputs["base"]
        return run(self._module, base, bind(units, base, self._call), self._held), clean

    def _record(self, source: Run, *, gradients: bool) -> ForwardResult:
        """Run what values come from, once, and keep what is wanted of it."""
        if source in self._ran:
            return self._ran[source]
        units: Sequence[Unit] = ()
        if isinstance(source, IntervenedRun):
            units = source.units
            for inner in wants_of(units, self._call.places):
                self._record(inner, gradients=gradients)
        with torch.set_grad_enabled(gradients and torch.is_grad_enabled()):
            inputs = self._inputs(source)
            changes = bind(units, inputs, self._call)
            ran = run(self._module, inputs, changes, self._held, self._wants.get(source, ()))
        if not self._gradients:
            ran = replace(ran, kept={place: values.detach() for place, values in ran.kept.items()})
        self._ran[source] = ran
        return ran

    def _inputs(self, source: Run) -> Inputs:
        if not isinstance(source, Mean):
            return self._call.inputs_of(source)
        self._averaged[source] = inputs_of(source.inputs, self._module, self._tokenizer)
        return self._averaged[source]

    def _held(self, key: Hashable, place: Tap | Region) -> CachedActivation:
        """Cached activation of one example of a run at a place, or of all where none is named."""
        assert isinstance(key, tuple)
        source, row = key
        if row is None:
            return CachedActivation(self._ran[source].kept[place])
        if (source, place) not in self._rows:
            # At once: going back through rows that are taken one by one writes all of them for each.
            self._rows[source, place] = self._ran[source].kept[place].unbind()
        return CachedActivation(self._rows[source, place][row])

    def _mean(self, unit: Unit, mean: Mean, origin: Target) -> Tensor:
        """The mean over a run's examples and the unit's positions in them [1, C]."""
        kept, inputs = self._ran[mean].kept[origin.tap], self._averaged[mean]  # [B, P, W]
        num_tokens = kept.shape[1] if inputs.num_tokens is None else inputs.num_tokens
        found = [
            kept[row, list(positions_at(inputs.padded(row, own), num_tokens, kept.shape[1], origin.tap))]
            for row, own in enumerate(inputs.tokens(origin_position(unit), inputs.num_rows))
            if own is not None
        ]
        values = torch.cat(found).float().mean(0, keepdim=True).to(kept.dtype)
        return values[:, origin.columns(values.shape[-1], values.device)]
