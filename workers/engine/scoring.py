"""Metric columns from the logits at the read position; everything is reduced in float32.

Shapes: R rows, V vocabulary, L most label ids of any row, D distinct reference runs.
"""

__all__ = [
    "NO_ID",
    "Column",
    "Labels",
    "divergence",
    "empty_columns",
    "score",
    "score_labels",
    "variation",
]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.metrics import raw_metrics

NO_ID = -1
"""Value of an integer column where there is none; a float column holds NaN."""

_CPU_BLOCK, _DEVICE_BLOCK = 1 << 18, 1 << 24
"""Rows are scored in blocks of about this many logits: on a CPU what its cache holds (twice as fast as
all at once), elsewhere what stays small beside the model."""


Column = NDArray[Any]
"""Values of one name, one a row: float32 with NaN, int32 with -1, or objects with None for no value."""


def empty_columns(families: Sequence[str], num_rows: int) -> dict[str, Column]:
    """An array for each raw metric of these families, all without a value."""
    return {
        name: np.full(num_rows, np.nan if raw.dtype == "float32" else NO_ID, raw.dtype)
        for name, raw in raw_metrics(families).items()
    }


@dataclass(frozen=True, slots=True)
class Labels:
    """Label token ids of each row, any of which counts: padded to L."""

    ids: Tensor
    """[R, L]; 0 where there is none."""
    given: Tensor
    """[R, L], bool."""

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], device: torch.device) -> Self:
        """Labels from a sequence of ids a row; an empty one means that the row has no label."""
        most = max((len(row) for row in ids), default=0) or 1
        padded = torch.tensor([[*row, *[NO_ID] * (most - len(row))] for row in ids], device=device)
        padded = padded.reshape(len(ids), most)
        return cls(padded.clamp_min(0), padded != NO_ID)

    def among(self, ids: Tensor) -> "Labels":
        """As numbers of `ids` [K], which are sorted and have all of them."""
        return Labels(torch.searchsorted(ids, self.ids), self.given)

    def __getitem__(self, rows: Tensor | slice) -> "Labels":
        return Labels(self.ids[rows], self.given[rows])


def score(logits: Tensor, labels: Labels, base_labels: Labels) -> dict[str, Tensor]:
    """The columns of the family ``logits``, one value a row.

    ``label_logit`` is the logsumexp over the label's ids, so that ``exp(label_logit - logsumexp)`` is
    the probability of any of them; ``label_rank`` counts the tokens above the best of them (0 is the
    top); ``margin`` is how far the first choice is above the second.

    Args:
        logits: [R, V], of any float dtype.
        labels: [R, L], what the hypothesis predicts.
        base_labels: [R, L], the answer without intervention.
    """
    blocks = [_score_block(logits[rows].float(), labels[rows], base_labels[rows]) for rows in _blocks(logits)]
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def score_labels(logits: Tensor, labels: Labels, base_labels: Labels) -> dict[str, Tensor]:
    """The columns of the family ``labels``, which are those of `score`.

    Args:
        logits: [R, K], of some ids.
        labels: [R, L], as numbers of these ids.
        base_labels: [R, L].
    """
    logits = logits.float()
    return {
        "label_logit": _score_labels(logits, labels)[0],
        "base_label_logit": _score_labels(logits, base_labels)[0],
    }


def _score_block(logits: Tensor, labels: Labels, base_labels: Labels) -> dict[str, Tensor]:
    top, ids = logits.max(-1, keepdim=True)  # [R, 1]
    # Faster than asking for the two largest; of a single class there is no second.
    second = logits.scatter(-1, ids, -torch.inf).amax(-1) if logits.shape[-1] > 1 else top[:, 0]
    label_logit, label_rank = _score_labels(logits, labels)
    base_label_logit, base_label_rank = _score_labels(logits, base_labels)
    return {
        "label_logit": label_logit,
        "base_label_logit": base_label_logit,
        "logsumexp": logits.logsumexp(-1),
        "label_rank": label_rank,
        "base_label_rank": base_label_rank,
        "pred_id": ids[:, 0].int(),
        "pred_logit": top[:, 0],
        "margin": top[:, 0] - second,
    }


def _score_labels(logits: Tensor, labels: Labels) -> tuple[Tensor, Tensor]:
    """Logit and rank of the rows' labels: [R] float32 and [R] int32."""
    own = logits.gather(-1, labels.ids).masked_fill(~labels.given, -torch.inf)  # [R, L]
    has_label = labels.given.any(-1)
    # Counted in floats, which are exact up to 2^24: five times as fast as adding up booleans.
    above = torch.gt(logits, own.amax(-1, keepdim=True), out=torch.empty_like(logits))
    rank = above.sum(-1).int()
    logit = own.logsumexp(-1).masked_fill(~has_label, torch.nan)
    return logit, rank.masked_fill(~has_label, NO_ID)


def divergence(reference: Tensor, which: Tensor, logits: Tensor) -> Tensor:
    """KL(reference ‖ intervened) in nats, for each row.

    Args:
        reference: [D, V], logits of the clean runs.
        which: [R], the reference of each row.
        logits: [R, V], of the intervened runs.

    Returns:
        [R], float32.
    """
    log_p = reference.float().log_softmax(-1)
    blocks = [_divergence_block(log_p[which[rows]], logits[rows].float()) for rows in _blocks(logits)]
    return torch.cat(blocks).clamp_min(0.0)


def _divergence_block(log_p: Tensor, logits: Tensor) -> Tensor:
    terms = log_p.exp() * (log_p - logits.log_softmax(-1))
    # A token that is impossible in the reference adds nothing, whatever the run makes of it.
    return terms.masked_fill(log_p == -torch.inf, 0.0).sum(-1)


def variation(reference: Tensor, which: Tensor, logits: Tensor) -> Tensor:
    """Total variation ½ Σ |reference - intervened| of the two distributions, for each row: from 0 to 1.

    Arguments and result are those of `divergence`.
    """
    p = reference.float().softmax(-1)
    blocks = [(p[which[rows]] - logits[rows].float().softmax(-1)).abs().sum(-1) for rows in _blocks(logits)]
    return (torch.cat(blocks) / 2).clamp_max(1.0)


def _blocks(logits: Tensor) -> list[slice]:
    num_elements = _CPU_BLOCK if logits.device.type == "cpu" else _DEVICE_BLOCK
    size = max(1, num_elements // logits.shape[-1])
    return [slice(start, start + size) for start in range(0, len(logits), size)]
