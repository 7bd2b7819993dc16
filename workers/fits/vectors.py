"""Fits that are reckoned from activations, not trained: means, differences, directions between classes.

Shapes: N activations, C columns of a place, K directions, T token positions.
"""

__all__ = ["class_directions", "difference", "mean_by_position", "ordered_classes", "principal"]

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from workers.change.features import PCA
from workers.errors import RunError

_RIDGE = 1e-3
"""Of a probe: keeps its weights finite where the classes can be told apart without fail."""
_MOST_PROBE_STEPS = 200


def mean_by_position(rows: Tensor, positions: Sequence[int]) -> Tensor:
    """The mean [T, C] of the activations [N, C] at each token position; NaN at one that none is of.

    Args:
        rows: activations.
        positions: the token of each of them.
    """
    which = torch.tensor(positions)
    counts = torch.bincount(which)
    sums = torch.zeros(len(counts), rows.shape[-1], dtype=torch.float64).index_add_(0, which, rows.double())
    return (sums / counts[:, None]).float()


def difference(high: Tensor, low: Tensor) -> Tensor:
    """The mean of `high` [N, C] minus the mean of `low` [M, C]: [C], float32."""
    return (high.double().mean(0) - low.double().mean(0)).float()


def principal(rows: Tensor, rank: int) -> tuple[PCA, float]:
    """The first principal components of activations [N, C], and the share of the variance they leave out.

    Raises:
        StudyError: there are fewer activations or columns than components.
    """
    space = PCA.fit(rows, rank)
    centred = rows.double() - space.mean.double()
    kept = (centred @ space.components.double()).square().sum()
    total = centred.square().sum()
    return space, float(1 - kept / total) if total > 0 else 0.0


def ordered_classes(base: Sequence[str | None], source: Sequence[str | None]) -> tuple[str, str]:
    """The two classes of some pairs: the one that a difference leads away from, then the other.

    It leads from the class that is more often the base's, so that it agrees with source minus base where all
    pairs go one way; where they go both ways equally often, in alphabetical order.

    Raises:
        RunError: there are not just two.
    """
    if None in base or None in source:
        raise RunError("some pairs have no class: give base_class and source_class to every pair, or to none")
    votes = Counter(base)
    votes.subtract(source)
    if len(votes) != 2:
        shown = ", ".join(sorted(map(str, votes)))
        raise RunError(f"a difference is between two classes; base_class and source_class name {shown}")
    low, high = sorted(map(str, votes), key=lambda name: (-votes[name], name))
    return low, high


def class_directions(rows: Tensor, classes: Sequence[str]) -> tuple[PCA, float]:
    """The directions in which a linear probe tells classes apart, and its loss.

    Multinomial logistic regression on standardised activations with a small ridge, solved by L-BFGS. Of two
    classes the one direction in which their scores differ; of k classes the k - 1 in which the scores do.

    Args:
        rows: activations [N, C].
        classes: of each of them.

    Raises:
        RunError: there is one class only.
    """
    names = sorted(set(classes))
    if len(names) < 2:
        raise RunError(f"a probe tells classes apart, and all pairs are of the class {names[0]!r}")
    targets = torch.tensor([names.index(name) for name in classes])
    values = rows.double()
    scale = values.std(0).clamp_min(1e-6)
    weight, loss = _logistic((values - values.mean(0)) / scale, targets, len(names))
    scores = (weight - weight.mean(0)) / scale  # [k, C]
    directions = torch.linalg.svd(scores, full_matrices=False).Vh[: len(names) - 1].mT
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    return PCA(directions * largest.sign(), torch.zeros(rows.shape[-1])), loss


def _logistic(values: Tensor, targets: Tensor, num_classes: int) -> tuple[Tensor, float]:
    """The weights [k, C] and the loss of a regression on `values` [N, C]."""
    weight = torch.zeros(num_classes, values.shape[-1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_MOST_PROBE_STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-9
    )

    def loss() -> Tensor:
        found = torch.nn.functional.cross_entropy(values @ weight.mT + bias, targets)
        return found + _RIDGE * weight.square().sum()

    def step() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimizer.step(step)  # type: ignore[no-untyped-call]
    return weight.detach(), float(loss().detach())
