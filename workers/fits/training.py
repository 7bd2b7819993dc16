"""Training of learned coordinates: what all methods that see labels have in common.

The model is frozen; only the subspace is trained, with Adam, on the cross entropy of the prediction after
the interchange to the label (Geiger et al. 2023, arXiv 2303.02536, section 3). The learning rate falls in
equal steps to 0.

Shapes: R rows, V vocabulary or classes, K coordinates.
"""

__all__ = ["Interchanges", "TrainingSummary", "accuracy", "starting_space", "train"]

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from workers.errors import RunError
from workers.fits.fitted import FitSpec
from workers.intervene.masks import LEAST_SHARE, BoundlessRotation, Mask
from workers.intervene.subspaces import LowRankRotation, Rotation, Subspace
from workers.libraries.torch import require_streams
from workers.libraries.torch_updates import optimizer_options


class Interchanges(Protocol):
    """Interchanges that can be run."""

    @property
    def labels(self) -> Sequence[tuple[int, ...]]:
        """Labels of each: the tokens or classes any of which is right."""

    def logits(self, rows: Sequence[int], space: Subspace) -> Iterator[tuple[Sequence[int], Tensor]]:
        """The logits [R, V] after the interchange in `space`, for groups of the `rows` that run together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSummary:
    """Summary of a training: the last loss, and how much was trained."""

    loss: float
    """Mean over the last epoch."""
    num_parameters: int


def starting_space(spec: FitSpec, width: int) -> Subspace:
    """The coordinates before training, of places (or heads) of this width; drawn from the spec's seed.

    Raises:
        StudyError: more directions than dimensions.
    """
    seed = spec.seed or 0
    if spec.method == "boundless":
        assert spec.temperature is not None
        return BoundlessRotation(width, temperature=spec.temperature[0], seed=seed)
    if spec.method == "mask":
        assert spec.temperature is not None
        of = width if spec.rank is None else LowRankRotation(width, spec.rank, seed=seed)
        return Mask(of, temperature=spec.temperature[0])
    if spec.rank is None or spec.rank == width:
        return Rotation(width, seed=seed)
    return LowRankRotation(width, spec.rank, seed=seed)


def train(
    space: Subspace, spec: FitSpec, examples: Interchanges, tick: Callable[[int], None] = lambda step: None
) -> TrainingSummary:
    """Train the coordinates in place; the same seed gives the same numbers on the same machine.

    Args:
        space: the coordinates.
        spec: for how long, and how.
        examples: what is trained on.
        tick: is called after each step with how many are done.

    Raises:
        RunError: there is nothing to train on, or the loss is no number any more.
    """
    num_steps, batch_size = spec.num_steps or 0, spec.batch_size or 1
    if not examples.labels:
        raise RunError("there is no pair with a label to train on")
    parameters = list(space.parameters())
    optimizer = torch.optim.Adam(parameters, **optimizer_options("Adam", {"lr": spec.lr or 0.0}))
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / num_steps)
    batches = _batches(len(examples.labels), batch_size, spec.seed or 0)
    losses: list[float] = []
    for step in range(num_steps):
        _set_temperature(space, spec, step)
        optimizer.zero_grad()
        losses.append(_backward(space, spec, examples, next(batches)))
        if not math.isfinite(losses[-1]):
            raise RunError(f"the loss is {losses[-1]} at step {step + 1}; take a smaller lr")
        optimizer.step()
        decay.step()
        _keep_inside(space)
        tick(step + 1)
    last = losses[-math.ceil(len(examples.labels) / batch_size) :]
    return TrainingSummary(loss=sum(last) / len(last), num_parameters=sum(p.numel() for p in parameters))


def accuracy(space: Subspace, examples: Interchanges, batch_size: int) -> float | None:
    """The share of the examples whose prediction after the interchange is the label; None of no examples."""
    if not examples.labels:
        return None
    hits = 0
    rows = range(len(examples.labels))
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            for part, logits in examples.logits(rows[start : start + batch_size], space):
                predicted = logits.argmax(-1).tolist()
                hits += sum(p in examples.labels[row] for row, p in zip(part, predicted, strict=True))
    return hits / len(rows)


def _backward(space: Subspace, spec: FitSpec, examples: Interchanges, rows: Sequence[int]) -> float:
    """Add the gradients of one batch, and give its loss."""
    total = 0.0
    for part, logits in examples.logits(rows, space):
        loss = _cross_entropy(logits, [examples.labels[row] for row in part]).sum() / len(rows)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    share = _exchanged_share(space)
    if share is not None and spec.penalty:
        price = spec.penalty * share
        price.backward()  # type: ignore[no-untyped-call]
        total += float(price.detach())
    return total


def _cross_entropy(logits: Tensor, labels: Sequence[tuple[int, ...]]) -> Tensor:
    """The negative log of what the label's tokens get together, for each row of [R, V]: [R]."""
    most = max(map(len, labels))
    padded = [[*wanted, *[-1] * (most - len(wanted))] for wanted in labels]
    ids = torch.tensor(padded, device=logits.device)  # [R, K]
    log_p = logits.float().log_softmax(-1).gather(1, ids.clamp(min=0))
    return -log_p.masked_fill(ids < 0, -torch.inf).logsumexp(-1)


def _exchanged_share(space: Subspace) -> Tensor | None:
    """Share of the coordinates that is exchanged, from 0 to 1; None where it is always all."""
    if isinstance(space, BoundlessRotation):
        return space.boundary
    if isinstance(space, Mask):
        return space.gates().mean()
    return None


def _keep_inside(space: Subspace) -> None:
    """Clamp a boundary: past its ends it would have no gradient, and never come back."""
    if isinstance(space, BoundlessRotation):
        with torch.no_grad():
            space.boundary.clamp_(LEAST_SHARE, 1.0)


def _set_temperature(space: Subspace, spec: FitSpec, step: int) -> None:
    """Set the temperature of a step, in equal steps from the first to the last."""
    if isinstance(space, BoundlessRotation | Mask):
        assert spec.temperature is not None and spec.num_steps is not None
        first, last = spec.temperature
        share = step / (spec.num_steps - 1) if spec.num_steps > 1 else 1.0
        space.temperature = first + share * (last - first)


def _batches(num_examples: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Batches without end: every epoch all examples once, in a new order."""
    require_streams()
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(num_examples, generator=generator).tolist()
        for start in range(0, num_examples, batch_size):
            yield order[start : start + batch_size]
