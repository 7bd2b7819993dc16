"""The runs of one call that values come from: clean, intervened, or averaged; each runs once.

Shapes: B examples, P positions, W width, C columns of a place.
"""

__all__ = ["Runs"]

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from workers.change.regions import Region
from workers.change.values import CachedActivation
from workers.model.embeddings import embedding_std
from workers.model.hooks import Tap
from workers.model.layout import Target
from workers.model.places import Places
from workers.model.windows import positions_at
from workers.wrapper.binding import Call, bind, origin_position, wants_of
from workers.wrapper.forwards import ForwardResult, run
from workers.wrapper.inputs import Inputs, TextTokenizer, inputs_of
from workers.wrapper.units import IntervenedRun, Mean, Run, Unit


class Runs:
    """What the units of one call need, run on demand and kept for the call.

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
        """What the clean run of an input returned; None where it did not run."""
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
        """What one example of a run holds at a place, or all where none is named."""
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
