"""Curve of a training: measurements of a network on pairs that it is never trained on.

Shapes: B rows, C classes.
"""

__all__ = ["CHUNK", "Measure", "RunningLosses", "measure"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from workers.iit.data import CausalLabels
from workers.iit.losses import AlignedNetwork
from workers.iit.spec import Draw, TrainSpec

CHUNK = 1024
"""Number of test pairs that run at once."""

Metric = Literal[
    "task_loss",
    "task_accuracy",
    "task_errors",
    "interchange_loss",
    "interchange_accuracy",
    "interchange_errors",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One number of a curve."""

    step: int
    """Number of steps that were done."""
    epoch: int
    """Number of epochs that were done."""
    split: Literal["train", "test"]
    """Split: of ``train`` there are the losses only, means since the measurement before."""
    metric: Metric
    head: str
    variable: str | None = None
    """Variables that were interchanged."""
    error: int | None = None
    """Bin of a histogram: errors from this one to before its double; its value counts them."""
    value: float

    def plain(self) -> list[object]:
        """Values of its fields, in order."""
        return list(astuple(self))

    @classmethod
    def of(cls, plain: Sequence[Any]) -> Self:
        """Read what `plain` wrote."""
        return cls(**dict(zip((field.name for field in fields(cls)), plain, strict=True)))

    def row(self) -> dict[str, object]:
        """A row of the curve."""
        return asdict(self)


class RunningLosses:
    """Means of the losses since the last measurement."""

    def __init__(self, sums: Mapping[tuple[str, str, str | None], tuple[float, int]] | None = None) -> None:
        self.sums = dict(sums or {})
        """Sums of losses and their numbers, by kind, head and variable."""

    def add(self, kind: str, head: str, variable: str | None, value: float) -> None:
        """Count one more loss."""
        total, num = self.sums.get((kind, head, variable), (0.0, 0))
        self.sums[kind, head, variable] = (total + value, num + 1)

    def taken(self, step: int, epoch: int) -> Iterator[Measure]:
        """The means, which then begin anew."""
        for (kind, head, variable), (total, num) in sorted(self.sums.items(), key=lambda item: str(item[0])):
            metric: Any = f"{kind}_loss"
            value = total / num
            yield Measure(
                step=step,
                epoch=epoch,
                split="train",
                metric=metric,
                head=head,
                variable=variable,
                value=value,
            )
        self.sums = {}


@torch.no_grad()
def measure(
    spec: TrainSpec, network: AlignedNetwork, labels: CausalLabels, step: int, epoch: int
) -> Iterator[Measure]:
    """The network on the test pairs: its task on the bases, and each interchange, for every output."""
    swaps: tuple[Draw | None, ...] = (None, *spec.draws)
    for swap in swaps:
        logits = _logits(network, labels, swap)
        kind = "task" if swap is None else "interchange"
        for head, variable in spec.variables_of.items():
            label = _label(labels, variable, swap)
            for name, error, value in _scores(logits[head], label, labels, variable):
                metric: Any = f"{kind}_{name}"
                yield Measure(
                    step=step,
                    epoch=epoch,
                    split="test",
                    metric=metric,
                    head=head,
                    variable=None if swap is None else swap.name,
                    error=error,
                    value=value,
                )


def _logits(network: AlignedNetwork, labels: CausalLabels, swap: Draw | None) -> dict[str, Tensor]:
    """Logits of each output [B, C], in main memory."""
    base, source = labels.data.base, labels.data.source
    parts: list[Mapping[str, Tensor]] = []
    for start in range(0, len(base), CHUNK):
        rows = slice(start, start + CHUNK)
        if swap is None:
            parts.append(network.run(base.rows(rows)))
        else:
            parts.append(network.swapped(base.rows(rows), source.rows(rows), swap.variables))
    return {head: torch.cat([part[head].float().cpu() for part in parts]) for head in parts[0]}


def _label(labels: CausalLabels, variable: str, swap: Draw | None) -> Tensor:
    base, source, every = labels.data.base, labels.data.source, slice(None)
    if swap is None:
        return labels.clean(variable, base, every)
    return labels.swapped(variable, swap.variables, (base, every), (source, every))


def _scores(
    logits: Tensor, label: Tensor, labels: CausalLabels, variable: str
) -> Iterator[tuple[str, int | None, float]]:
    """Name, error and value of each."""
    predicted = logits.argmax(-1)
    yield "loss", None, float(cross_entropy(logits, label))
    yield "accuracy", None, float((predicted == label).double().mean())
    told, right = (labels.values(variable, classes.numpy()) for classes in (predicted, label))
    if told is None or right is None:
        return
    errors = np.abs(told - right)
    floors = np.where(errors > 0, 2 ** np.floor(np.log2(np.maximum(errors, 1))), 0).astype(np.int64)
    for error, count in zip(*np.unique(floors, return_counts=True), strict=True):
        yield "errors", int(error), float(count)
