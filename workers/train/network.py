"""Network aligned with a causal model: its outputs, and the units at the places of the model's variables.

Shapes: B rows, C classes of an output.
"""

__all__ = ["AlignedNetwork", "InterchangeOutputs", "Logits"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from workers.errors import StudyError, nearest
from workers.train.spec import Node
from workers.wrapper.inputs import inputs_of, last_logits
from workers.wrapper.intervenable import IntervenableModel
from workers.wrapper.units import Unit
from workers.zoo.configs import LOGITS

Logits = Mapping[str, Tensor]
"""Logits of each output [B, C], at the end of each example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterchangeOutputs:
    """Outputs of a batch, without and with an interchange."""

    variables: tuple[str, ...]
    """Variables that were interchanged."""
    base: Logits
    source: Logits
    swapped: Logits
    """Logits of the base with these variables' places from the source; empty where there are none."""


class AlignedNetwork:
    """A module whose parameters are trained, with a unit for each aligned variable.

    Args:
        module: what is trained.
        alignment: the place of each variable.
        outputs: those that are looked at.

    Raises:
        StudyError, ModelError: there is no such site; of other places and of outputs this is said by the
            first run.
    """

    def __init__(self, module: nn.Module, alignment: Mapping[str, Node], outputs: Sequence[str]) -> None:
        self.module = module
        self._outputs = tuple(outputs)
        self._net = IntervenableModel(module).enable_gradients()
        self._units = {name: _unit(node) for name, node in alignment.items()}

    def run(self, given: Mapping[str, Tensor]) -> Logits:
        """The outputs for a batch as it is."""
        return self._logits(self._net(dict(given), units=()).output, given)

    def interchange(
        self, base: Mapping[str, Tensor], source: Mapping[str, Tensor], variables: Sequence[str]
    ) -> InterchangeOutputs:
        """The outputs for bases and sources as they are, and for bases with the places of `variables` from
        the sources; gradients reach all three."""
        if not variables:
            return InterchangeOutputs(variables=(), base=self.run(base), source=self.run(source), swapped={})
        units = [self._units[name] for name in variables]
        done = self._net(dict(base), dict(source), units=units, base_output=True, source_gradients=True)
        return InterchangeOutputs(
            variables=tuple(variables),
            base=self._logits(done.base, base),
            source=self._logits(done.source, source),
            swapped=self._logits(done.output, base),
        )

    def swapped(
        self, base: Mapping[str, Tensor], source: Mapping[str, Tensor], variables: Sequence[str]
    ) -> Logits:
        """The outputs for bases with the places of `variables` from the sources, alone."""
        units = [self._units[name] for name in variables]
        return self._logits(self._net(dict(base), dict(source), units=units).output, base)

    def _logits(self, output: Any, given: Mapping[str, Tensor]) -> Logits:
        heads = getattr(output, "heads", None) or {LOGITS: output.logits}
        for name in self._outputs:
            if name not in heads:
                known = ", ".join(heads)
                raise StudyError(f"the network has no output {name!r}; it has {known}{nearest(name, heads)}")
        inputs = inputs_of(dict(given), self.module, None)
        return {name: last_logits(heads[name], inputs) for name in self._outputs}


def _unit(node: Node) -> Unit:
    dims = None if node.dims is None else list(node.dims)
    return Unit(node.site, layer=node.layer, head=node.heads, position=node.position, subspace=dims)
