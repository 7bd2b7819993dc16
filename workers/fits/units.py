"""Fits for notebooks: a unit of an `IntervenableModel`, and pairs in any form that the model takes.

    fitted = sy.fit(net, sy.Unit("block_output", layer=15, position=-1), pairs, method="das", rank=1, seed=0)
    net(base, source, units=[fitted.unit])

`workers.fits.methods` has the methods, which are those of studies.

Shapes: B examples, n positions of the unit in one, C columns of its place, V vocabulary or classes.
"""

__all__ = ["FittedUnit", "fit"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workers.errors import RunError, StudyError, nearest
from workers.fit_methods import BATCH_SIZE, DEFAULTS, LR, METHODS, NUM_STEPS
from workers.fits.fitted import FitReport, FitSpec
from workers.fits.methods import FitData, make
from workers.intervene.inputs import Given, inputs_of, last_logits
from workers.intervene.intervenable import IntervenableModel
from workers.intervene.operations import COLLECT
from workers.intervene.positions import PerExample
from workers.intervene.subspaces import Subspace
from workers.intervene.units import Unit

_METHODS = tuple(method for method in METHODS if method not in ("probe", "sae"))
_CHUNK = 64
"""Examples of one call where only activations are looked at."""

Column = Tensor | Sequence[object]
"""Values of one name, one for each pair."""

Pairs = Sequence[Mapping[str, object]] | Mapping[str, Column]
"""A list of ``{"base": …, "source": …, "label": …}``, or one mapping of such columns: lists or tensors."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedUnit:
    """Fit at a unit's place, and the unit that applies it."""

    unit: Unit
    """The one that was given, in the coordinates that were fitted, or with the fitted vector as its value."""
    content: Subspace | Tensor
    """The coordinates, or the vector [C]."""
    report: FitReport


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
    data = _UnitExamples(net, unit, _columns(pairs))
    others = _UnitExamples(net, unit, _columns(held_out)) if held_out else None
    made = make(spec, data, others)
    # As in making it: what is fitted may be trained further, whatever mode the caller is in.
    with torch.inference_mode(False):
        content = made.content.to(data.device)
    return FittedUnit(unit=_applying(unit, content), content=content, report=made.report)


def _applying(unit: Unit, content: Subspace | Tensor) -> Unit:
    """Copy of the unit in these coordinates, or with this value."""
    if isinstance(content, Tensor):
        return replace(unit, from_=content)
    return replace(unit, subspace=content)


class _UnitExamples(FitData):
    """Pairs in the forms that an `IntervenableModel` takes, at a unit's place."""

    def __init__(self, net: IntervenableModel, unit: Unit, columns: Mapping[str, Column]) -> None:
        self._net = net
        self._unit = unit
        self._pairs = columns
        self.device = next(net.module.parameters()).device
        self.num_heads = len(unit.head) if isinstance(unit.head, tuple) else 1

    def __len__(self) -> int:
        return len(self._pairs["base"])

    @property
    def runs(self) -> Sequence[str]:
        return [run for run in ("base", "source") if run in self._pairs]

    def head_width(self) -> int:
        (row,) = self._collected(_taken(_of(self._pairs, "base"), [0]))
        return row.shape[-1] // self.num_heads

    def activations(self, run: str) -> list[Tensor]:
        given = _of(self._pairs, run)
        starts = range(0, len(given), _CHUNK)
        parts = [_taken(given, range(start, min(start + _CHUNK, len(given)))) for start in starts]
        return [row for part in parts for row in self._collected(part)]

    def _collected(self, inputs: Given) -> list[Tensor]:
        """Activations at the unit's positions of each example of a batch: [n, C], float32 in main memory."""
        collect = replace(self._unit, intervention=COLLECT, from_="source", subspace=None)
        with torch.no_grad():
            (found,) = self._net(inputs, units=[collect]).collected
        return [one.reshape(-1, one.shape[-1]).float().cpu() for one in found if one is not None]

    def interchanges(self, run: str) -> "_UnitInterchanges":
        return _UnitInterchanges(self._net, self._unit, self._pairs, run)


class _UnitInterchanges:
    """Pairs as interchanges at a unit's place; see `workers.fits.training.Interchanges`."""

    def __init__(self, net: IntervenableModel, unit: Unit, pairs: Mapping[str, Column], run: str) -> None:
        self._net = net
        self._unit = unit
        self._base, self._source = _of(pairs, "base"), _of(pairs, run)
        self.labels = [self._label(label) for label in _listed(_of(pairs, "label"))]

    def logits(self, rows: Sequence[int], space: Subspace) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Logits after the interchange, all rows together; shorter examples are padded.

        Raises:
            RunError: a label that the model does not predict.
        """
        net = self._net
        base = _taken(self._base, rows)
        swap = replace(self._unit, intervention="vanilla", from_="source", subspace=space)
        output = net(base, _taken(self._source, rows), units=[swap]).output
        logits = output if isinstance(output, Tensor) else output.logits
        if logits.dim() > 2:
            logits = last_logits(logits, inputs_of(base, net.module, net.tokenizer))
        for label in (one for row in rows for one in self.labels[row]):
            if not 0 <= label < logits.shape[-1]:
                raise RunError(f"the label {label}: the model predicts 0 to {logits.shape[-1] - 1}")
        yield rows, logits

    def _label(self, label: object) -> tuple[int, ...]:
        """Token ids of a label, any of which counts.

        Raises:
            RunError: a text that is not one token.
        """
        if isinstance(label, list | tuple):
            return tuple(found for one in label for found in self._label(one))
        if not isinstance(label, str):
            return (int(label),)  # type: ignore[call-overload]
        tokenizer = self._net.tokenizer
        if tokenizer is None:
            raise RunError(f"the label {label!r} is text, and the model has no tokenizer; give a number")
        ids = tokenizer(label, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise RunError(f"the label {label!r} is {len(ids)} tokens; give one token, with its space")
        return (int(ids[0]),)


def _columns(pairs: Pairs) -> Mapping[str, Column]:
    """Columns of some pairs; none of none."""
    if isinstance(pairs, Mapping):
        return pairs
    names = dict.fromkeys(name for pair in pairs for name in pair)
    return {name: [pair.get(name) for pair in pairs] for name in names}


def _of(pairs: Mapping[str, Column], name: str) -> Column:
    if name not in pairs or len(pairs[name]) == 0:
        raise RunError(f"the pairs have no {name!r}, which this method needs; they have {', '.join(pairs)}")
    return pairs[name]


def _listed(column: Column) -> list[object]:
    return column.tolist() if isinstance(column, Tensor) else list(column)


def _taken(column: Column, rows: Sequence[int]) -> Given:
    """Some rows of a column, in the form that the model takes: a tensor, or a list."""
    if isinstance(column, Tensor):
        return column[list(rows)]
    found = [column[row] for row in rows]
    tensors = [one for one in found if isinstance(one, Tensor)]
    return torch.stack(tensors) if isinstance(found[0], Tensor) else found
