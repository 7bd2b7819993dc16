"""Fit methods, each implemented once: what studies and notebooks call with examples of their own form.

The training of DAS, boundless DAS and masks is in `workers.fits.training`; here are means, differences,
principal components and probes, and the table of all methods.

Shapes: N activations, n tokens of one example, C columns of a place, D width of one head (or of the place), K
directions, T token positions.
"""

__all__ = ["FitData", "make"]

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Self

import torch
from torch import Tensor

from workers.autoencoders.kinds import AutoencoderKind
from workers.autoencoders.loading import load_autoencoder
from workers.autoencoders.weights import digest_of
from workers.errors import RunError, StudyError
from workers.fit_methods import TRAINED, WITHOUT_PAIRS
from workers.fits.fitted import FitReport, FitSpec, Fitted
from workers.fits.training import Interchanges, accuracy, starting_space, train
from workers.intervene.features import PCA, SparseAutoencoder

_RIDGE = 1e-3
"""Penalty of a probe's squared weights: keeps them finite where classes can be told apart without fail."""
_MOST_PROBE_STEPS = 200


class FitData(ABC):
    """Examples of a fit at its place in a model, in whichever form they are given."""

    device: torch.device
    """Device of the model."""
    num_heads: int
    """Heads at the place, side by side; 1 where it is not split into heads."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @property
    @abstractmethod
    def runs(self) -> Sequence[str]:
        """Runs that a method looks at where its spec names none: the base's and the source's."""

    @abstractmethod
    def head_width(self) -> int:
        """Width D of the place, or of one of its heads."""

    @abstractmethod
    def activations(self, run: str) -> list[Tensor]:
        """Activations of `run` at the tokens of each example: [n, C], float32 in main memory."""

    @abstractmethod
    def interchanges(self, run: str) -> Interchanges:
        """Interchanges of the examples' bases with `run`."""

    def having(self, run: str) -> Self:
        """Examples that have the run `run`."""
        return self

    def classes(self) -> dict[str, list[str | None]]:
        """Class of each example in the base's run and in the source's, for methods that tell two apart."""
        return {run: [None] * len(self) for run in ("base", "source")}

    def positions(self, run: str) -> list[int]:
        """Token of each activation of `run`, for a mean by position."""
        raise RunError("these examples have no token positions; leave by_position out")

    def by_head(self, rows: Tensor) -> Tensor:
        """Activations [N, C] as [N · heads, D]."""
        return rows.reshape(-1, rows.shape[-1] // self.num_heads)


def make(
    spec: FitSpec,
    data: FitData,
    held_out: FitData | None,
    tick: Callable[[int], None] = lambda step: None,
) -> Fitted:
    """Make a fit. The same spec, model and examples give the same numbers on the same machine.

    Args:
        spec: the method and its settings.
        data: what the fit is made from.
        held_out: what a trained method is measured on; None where there is nothing.
        tick: is called after each step of a trained method with how many are done.
    """
    started = time.perf_counter()
    # Whatever mode the caller is in: what is made here is trained, or kept.
    with torch.inference_mode(False):
        if spec.method in TRAINED:
            made = _trained(spec, data, held_out, tick)
        else:
            made = _RECKONED[spec.method](spec, data)
    num_pairs = 0 if spec.method in WITHOUT_PAIRS else len(data)
    report = replace(made.report, num_pairs=num_pairs, seconds=time.perf_counter() - started)
    return replace(made, report=report)


def _trained(spec: FitSpec, data: FitData, held_out: FitData | None, tick: Callable[[int], None]) -> Fitted:
    run = spec.of or "source"
    space = starting_space(spec, data.head_width()).to(data.device)
    with torch.enable_grad():
        done = train(space, spec, data.interchanges(run), tick)
    others = None if held_out is None else held_out.interchanges(run)
    report = FitReport(
        num_steps=spec.num_steps or 0,
        loss=done.loss,
        num_parameters=done.num_parameters,
        num_held_out=0 if others is None else len(others.labels),
        held_out_iia=None if others is None else accuracy(space, others, spec.batch_size or 1),
    )
    return Fitted(content=space, report=report)


def _random_rotation(spec: FitSpec, data: FitData) -> Fitted:
    return Fitted(content=starting_space(spec, data.head_width()))


def _sae(spec: FitSpec, data: FitData) -> Fitted:
    assert spec.path is not None
    file = Path(spec.path)
    if digest_of(file) != spec.sha256:
        raise StudyError(f"{file} is not the file that the study was planned with; plan the study anew")
    # What a config beside the file says is in the plan, and is not read again.
    kind = None if spec.kind is None else AutoencoderKind.from_json(spec.kind)
    space = SparseAutoencoder(**load_autoencoder(file, kind), centered=spec.centered)
    width = data.head_width()
    if space.width != width:
        raise StudyError(
            f"{spec.path} is for {space.width} dimensions, and the place has {width}; name its own place"
        )
    return Fitted(content=space)


def _pca(spec: FitSpec, data: FitData) -> Fitted:
    runs = data.runs if spec.of is None else [spec.of]
    rows = torch.cat([row for run in runs for row in data.having(run).activations(run)])
    space, left_out = _principal(data.by_head(rows), spec.rank or 1)
    report = FitReport(loss=left_out, num_parameters=space.components.numel())
    return Fitted(content=space, report=report)


def _mean(spec: FitSpec, data: FitData) -> Fitted:
    run = spec.of or "base"
    rows = torch.cat(data.activations(run))
    if spec.by_position:
        return _of_vector(_mean_by_position(rows, data.positions(run)))
    return _of_vector(rows.double().mean(0).float())


def _mean_difference(spec: FitSpec, data: FitData) -> Fitted:
    return _of_vector(_difference(*_sides(data)))


def _of_vector(vector: Tensor) -> Fitted:
    return Fitted(content=vector, report=FitReport(num_parameters=vector.numel()))


def _probe(spec: FitSpec, data: FitData) -> Fitted:
    classes = data.classes()
    if any(None in of_run for of_run in classes.values()):
        raise RunError("a probe needs the columns base_class and source_class in every pair")
    rows: list[Tensor] = []
    names: list[str] = []
    for run, of_run in classes.items():
        for found, name in zip(data.activations(run), of_run, strict=True):
            rows.append(data.by_head(found))
            names += [str(name)] * len(rows[-1])
    space, loss = _class_directions(torch.cat(rows), names)
    report = FitReport(loss=loss, num_parameters=space.components.numel())
    return Fitted(content=space, report=report)


def _sides(data: FitData) -> tuple[Tensor, Tensor]:
    """Activations [N, C] that a difference leads to, and those that it leads away from."""
    classes = data.classes()
    rows = {run: data.activations(run) for run in classes}
    if not any(name for of_run in classes.values() for name in of_run):
        return torch.cat(rows["source"]), torch.cat(rows["base"])
    low, high = _ordered_classes(classes["base"], classes["source"])
    found: dict[str, list[Tensor]] = {low: [], high: []}
    for run, of_run in classes.items():
        for row, name in zip(rows[run], of_run, strict=True):
            found[str(name)].append(row)
    return torch.cat(found[high]), torch.cat(found[low])


_RECKONED: Mapping[str, Callable[[FitSpec, FitData], Fitted]] = MappingProxyType(
    {
        "mean": _mean,
        "mean_difference": _mean_difference,
        "pca": _pca,
        "probe": _probe,
        "random_rotation": _random_rotation,
        "sae": _sae,
    }
)


def _mean_by_position(rows: Tensor, positions: Sequence[int]) -> Tensor:
    """The mean [T, C] of the activations [N, C] at each token position; NaN at one that none is of.

    Args:
        rows: activations.
        positions: the token of each of them.
    """
    which = torch.tensor(positions)
    counts = torch.bincount(which)
    sums = torch.zeros(len(counts), rows.shape[-1], dtype=torch.float64).index_add_(0, which, rows.double())
    return (sums / counts[:, None]).float()


def _difference(high: Tensor, low: Tensor) -> Tensor:
    """The mean of `high` [N, C] minus the mean of `low` [M, C]: [C], float32."""
    return (high.double().mean(0) - low.double().mean(0)).float()


def _principal(rows: Tensor, rank: int) -> tuple[PCA, float]:
    """The first principal components of activations [N, C], and the share of the variance they leave out.

    Raises:
        StudyError: there are fewer activations or columns than components.
    """
    space = PCA.fit(rows, rank)
    centred = rows.double() - space.mean.double()
    kept = (centred @ space.components.double()).square().sum()
    total = centred.square().sum()
    return space, float(1 - kept / total) if total > 0 else 0.0


def _ordered_classes(base: Sequence[str | None], source: Sequence[str | None]) -> tuple[str, str]:
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


def _class_directions(rows: Tensor, classes: Sequence[str]) -> tuple[PCA, float]:
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
