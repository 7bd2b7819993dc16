"""Loss of one batch of interchange intervention training, and the aligned network that it is computed with.

Orders and choices are drawn from a counter and the seed, so that there is no state of a generator to keep.

Shapes: B rows, C classes.
"""

__all__ = [
    "AlignedNetwork",
    "InterchangeOutputs",
    "Judge",
    "Logits",
    "Term",
    "TrainingBatch",
    "chosen",
    "order",
]

import bisect
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from workers.errors import StudyError, nearest
from workers.iit.data import CausalLabels
from workers.iit.spec import Draw, LossTerm, Node, TrainSpec
from workers.intervene.inputs import inputs_of, last_logits
from workers.intervene.intervenable import IntervenableModel
from workers.intervene.units import Unit
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


def order(seed: int, stream: str, epoch: int, num: int) -> NDArray[np.intp]:
    """The numbers below N in the order of an epoch."""
    return np.argsort(_bits(seed, stream, epoch, num), kind="stable")


def chosen(seed: int, stream: str, step: int, weights: Sequence[float]) -> int:
    """The number of one of the weights: each is as likely as it is heavy."""
    ends = list(itertools.accumulate(weights))
    at = float(_bits(seed, stream, step, 1)[0] >> np.uint64(11)) * 2.0**-53 * ends[-1]
    return min(bisect.bisect_right(ends, at), len(ends) - 1)


def _bits(seed: int, stream: str, counter: int, num: int) -> NDArray[np.uint64]:
    """Bits and not numpy's own orders and choices: those may change with its version."""
    key = hashlib.sha256(f"{seed}/{stream}/{counter}".encode()).digest()
    return np.random.PCG64(int.from_bytes(key[:16], "big")).random_raw(num)


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Examples that a step sees."""

    step: int
    epoch: int
    base: NDArray[np.intp]
    source: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a batch's loss."""

    kind: str
    head: str
    variable: str | None
    """Variable that was interchanged."""
    weight: float
    loss: Tensor


class Judge:
    """Terms of a batch's loss, on the examples that are trained on."""

    def __init__(self, spec: TrainSpec, network: AlignedNetwork, labels: CausalLabels) -> None:
        self._spec = spec
        self._network = network
        self._labels = labels
        self._examples = labels.data.train

    def terms(self, batch: TrainingBatch) -> list[Term]:
        """Terms that weigh something in the batch's epoch."""
        weights = [(term, term.weight_at(batch.epoch)) for term in self._spec.losses]
        counted = [(term, weight) for term, weight in weights if weight]
        drawn = {id(term): self._draw(term, batch.step) for term, _ in counted if term.kind == "interchange"}
        ran = self._run(batch, list(drawn.values()))
        found: list[Term] = []
        for term, weight in counted:
            variable = self._spec.variables_of[term.head]
            if term.kind == "task":
                loss = self._task(variable, ran[0].base[term.head], ran[0].source[term.head], batch)
                found.append(Term(term.kind, term.head, None, weight, loss))
                continue
            draw = drawn[id(term)]
            logits = next(one.swapped for one in ran if one.variables == draw.variables)[term.head]
            label = self._labels.swapped(
                variable, draw.variables, (self._examples, batch.base), (self._examples, batch.source)
            )
            loss = cross_entropy(logits, label.to(logits.device))
            found.append(Term(term.kind, term.head, draw.name, weight, loss))
        return found

    def _run(self, batch: TrainingBatch, draws: Sequence[Draw]) -> list[InterchangeOutputs]:
        """The batch's runs, once for each different draw."""
        base, source = self._examples.rows(batch.base), self._examples.rows(batch.source)
        different = dict.fromkeys(draw.variables for draw in draws) or {(): None}
        return [self._network.interchange(base, source, variables) for variables in different]

    def _draw(self, term: LossTerm, step: int) -> Draw:
        """Variables that a step interchanges: the same for terms that have the same draws."""
        return term.draws[chosen(self._spec.seed, "draw", step, [draw.weight for draw in term.draws])]

    def _task(self, variable: str, base: Tensor, source: Tensor, batch: TrainingBatch) -> Tensor:
        """The mean cross entropy of bases and of sources, half each."""
        losses = [
            cross_entropy(logits, self._labels.clean(variable, self._examples, rows).to(logits.device))
            for logits, rows in ((base, batch.base), (source, batch.source))
        ]
        return (losses[0] + losses[1]) / 2
