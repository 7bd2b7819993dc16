"""Fits for notebooks: a unit of an `IntervenableModel`, and pairs in any form that the model takes.

    fitted = sy.fit(net, sy.Unit("block_output", layer=15, position=-1), pairs, method="das", rank=1, seed=0)
    net(base, source, units=[fitted.unit])

Shapes: B examples, P positions of the unit, C columns of its place, V vocabulary or classes.
"""

__all__ = ["FittedUnit", "fit"]

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from workers.change.operations import COLLECT
from workers.change.subspaces import Subspace
from workers.errors import RunError, StudyError, nearest
from workers.fit_methods import BATCH_SIZE, DEFAULTS, LR, METHODS, NUM_STEPS, TRAINED
from workers.fits.fitted import Report
from workers.fits.spec import FitSpec
from workers.fits.training import accuracy, starting_space, train
from workers.fits.vectors import difference, principal
from workers.wrapper.inputs import inputs_of
from workers.wrapper.intervenable import IntervenableModel
from workers.wrapper.nexttokens import last_logits
from workers.wrapper.positions import PerExample
from workers.wrapper.units import Unit

_METHODS = tuple(method for method in METHODS if method not in ("probe", "sae"))
_CHUNK = 64
"""Examples of one call where only activations are looked at."""

Pairs = Sequence[Mapping[str, Any]] | Mapping[str, Any]
"""A list of ``{"base": …, "source": …, "label": …}``, or one mapping of such columns: lists or tensors."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedUnit:
    """What `fit` made."""

    unit: Unit
    """The one that was given, in the coordinates that were fitted, or with the fitted vector as its value."""
    content: Subspace | Tensor
    """The coordinates, or the vector [C]."""
    report: Report


def fit(
    net: IntervenableModel,
    unit: Unit,
    pairs: Pairs,
    *,
    method: str,
    held_out: Pairs = (),
    rank: int | None = None,
    num_steps: int = NUM_STEPS,
    batch_size: int = BATCH_SIZE,
    lr: float = LR,
    temperature: tuple[float, float] | None = None,
    penalty: float | None = None,
    of: str | None = None,
    seed: int = 0,
) -> FittedUnit:
    """Fit coordinates or a vector at a unit's place. `docs/fits.md` says what each method does.

    Args:
        net: the model, which stays as it is.
        unit: where; its own value and subspace do not matter.
        pairs: what it is made from. ``label`` (a token id, a class, a text of one token, or a list of which
            any counts) is needed by ``das``, ``boundless`` and ``mask``; it is read at the last token.
        method: ``das``, ``boundless``, ``mask``, ``pca``, ``mean``, ``mean_difference`` or
            ``random_rotation``.
        held_out: pairs that a trained method is measured on.
        rank: how many directions.
        num_steps: of training.
        batch_size: pairs of a step.
        lr: of Adam, at first; it falls to 0.
        temperature: of ``boundless`` and ``mask``, at the first and the last step.
        penalty: what the share of the coordinates that is exchanged adds to the loss; 1 for ``boundless``
            where it is not said.
        of: the run of which ``mean`` or ``pca`` take the activations, and whose values trained methods take.
        seed: of whatever is drawn.

    Raises:
        StudyError: an unknown method, or a rank that cannot be.
        RunError: the pairs lack what the method needs.
    """
    if method not in _METHODS:
        hint = nearest(method, _METHODS)
        raise StudyError(f"there is no method {method!r}; methods are {', '.join(_METHODS)}{hint}")
    if isinstance(unit.position, PerExample):
        raise StudyError("a fit shuffles its examples: give the unit one position for all of them")
    spec = FitSpec(
        method=method,
        site=unit.site,
        rank=rank,
        num_steps=num_steps,
        batch_size=batch_size,
        lr=lr,
        temperature=temperature or DEFAULTS[method].get("temperature"),
        penalty=DEFAULTS[method].get("penalty", 0.0) if penalty is None else penalty,
        of=of,
        seed=seed,
    )
    started = time.perf_counter()
    place, given = _Place(net, unit), _columns(pairs)
    with torch.inference_mode(False):
        content, report = _made(spec, place, given, _columns(held_out))
    return FittedUnit(
        unit=_ready(unit, content),
        content=content,
        report=replace(
            report,
            num_pairs=0 if method == "random_rotation" else _num_rows(given),
            seconds=time.perf_counter() - started,
        ),
    )


def _ready(unit: Unit, content: Subspace | Tensor) -> Unit:
    """The unit in these coordinates, or with this value."""
    if isinstance(content, Tensor):
        return replace(unit, from_=content)
    return replace(unit, subspace=content)


def _made(
    spec: FitSpec, place: "_Place", pairs: Mapping[str, Any], held_out: Mapping[str, Any]
) -> tuple[Subspace | Tensor, Report]:
    if spec.method in TRAINED or spec.method == "random_rotation":
        space = starting_space(spec, place.head_width(_of(pairs, "base"))).to(place.device)
        return space, Report() if spec.method == "random_rotation" else _train(
            space, spec, place, pairs, held_out
        )
    if spec.method == "pca":
        runs = [spec.of] if spec.of else [run for run in ("base", "source") if run in pairs]
        rows = torch.cat([place.activations(_of(pairs, run)) for run in runs])
        components, left_out = principal(place.by_head(rows), spec.rank or 1)
        report = Report(loss=left_out, num_parameters=components.components.numel())
        return components.to(place.device), report
    if spec.method == "mean":
        vector = place.activations(_of(pairs, spec.of or "base")).double().mean(0).float()
    else:
        vector = difference(place.activations(_of(pairs, "source")), place.activations(_of(pairs, "base")))
    return vector.to(place.device), Report(num_parameters=vector.numel())


def _train(
    space: Subspace, spec: FitSpec, place: "_Place", pairs: Mapping[str, Any], held_out: Mapping[str, Any]
) -> Report:
    with torch.enable_grad():
        done = train(space, spec, _Interchanges(place, pairs, spec.of or "source"))
    others = _Interchanges(place, held_out, spec.of or "source") if held_out else None
    return Report(
        num_steps=spec.num_steps or 0,
        loss=done.loss,
        num_parameters=done.num_parameters,
        num_held_out=len(others.labels) if others else 0,
        held_out_iia=accuracy(space, others, spec.batch_size or 1) if others else None,
    )


class _Place:
    """A unit's place in a model."""

    def __init__(self, net: IntervenableModel, unit: Unit) -> None:
        self.net = net
        self.unit = unit
        self.device = next(net.module.parameters()).device
        self._num_heads = len(unit.head) if isinstance(unit.head, tuple) else 1

    def head_width(self, base: Any) -> int:
        """Of the place, or of one of its heads."""
        return self.activations(_taken(base, [0])).shape[-1] // self._num_heads

    def activations(self, given: Any) -> Tensor:
        """What runs of `given` hold at the unit's positions [N, C], float32 in main memory."""
        collect = replace(self.unit, intervention=COLLECT, from_="source", subspace=None)
        rows: list[Tensor] = []
        with torch.no_grad():
            for start in range(0, len(given), _CHUNK):
                part = _taken(given, range(start, min(start + _CHUNK, len(given))))
                (found,) = self.net(part, units=[collect]).collected
                rows += [one for one in found if one is not None]
        return torch.cat([row.reshape(-1, row.shape[-1]) for row in rows]).float().cpu()

    def by_head(self, rows: Tensor) -> Tensor:
        """[N, C] as a row for each head."""
        return rows.reshape(-1, rows.shape[-1] // self._num_heads)


class _Interchanges:
    """Pairs as interchanges at a place; see `workers.fits.training.Examples`."""

    def __init__(self, place: _Place, pairs: Mapping[str, Any], run: str) -> None:
        self._place = place
        self._base, self._source = _of(pairs, "base"), _of(pairs, run)
        self.labels = [self._label(label) for label in _listed(_of(pairs, "label"))]

    def logits(self, rows: Sequence[int], space: Subspace) -> Iterator[tuple[Sequence[int], Tensor]]:
        """All rows together; shorter ones are padded.

        Raises:
            RunError: a label that the model does not predict.
        """
        net = self._place.net
        base = _taken(self._base, rows)
        swap = replace(self._place.unit, intervention="vanilla", from_="source", subspace=space)
        output = net(base, _taken(self._source, rows), units=[swap]).output
        logits = output if isinstance(output, Tensor) else output.logits
        if logits.dim() > 2:
            logits = last_logits(logits, inputs_of(base, net.module, net.tokenizer))
        for label in (one for row in rows for one in self.labels[row]):
            if not 0 <= label < logits.shape[-1]:
                raise RunError(f"the label {label}: the model predicts 0 to {logits.shape[-1] - 1}")
        yield rows, logits

    def _label(self, label: Any) -> tuple[int, ...]:
        """The ids of a label, any of which counts.

        Raises:
            RunError: a text that is not one token.
        """
        if isinstance(label, list | tuple):
            return tuple(found for one in label for found in self._label(one))
        if not isinstance(label, str):
            return (int(label),)
        tokenizer: Any = self._place.net.tokenizer
        if tokenizer is None:
            raise RunError(f"the label {label!r} is text, and the model has no tokenizer; give a number")
        ids = tokenizer(label, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise RunError(f"the label {label!r} is {len(ids)} tokens; give one token, with its space")
        return (int(ids[0]),)


def _columns(pairs: Pairs) -> dict[str, Any]:
    """The columns of some pairs; none of none."""
    if isinstance(pairs, Mapping):
        return dict(pairs)
    names = dict.fromkeys(name for pair in pairs for name in pair)
    return {name: [pair.get(name) for pair in pairs] for name in names}


def _of(pairs: Mapping[str, Any], name: str) -> Any:
    if name not in pairs or len(pairs[name]) == 0:
        raise RunError(f"the pairs have no {name!r}, which this method needs; they have {', '.join(pairs)}")
    return pairs[name]


def _num_rows(pairs: Mapping[str, Any]) -> int:
    return len(pairs["base"])


def _listed(column: Any) -> list[Any]:
    return column.tolist() if isinstance(column, Tensor) else list(column)


def _taken(column: Any, rows: Sequence[int]) -> Any:
    """Some rows of a column, in the form that the model takes: a tensor, or a list."""
    if isinstance(column, Tensor):
        return column[list(rows)]
    found = [column[row] for row in rows]
    return torch.stack(found) if isinstance(found[0], Tensor) else found
