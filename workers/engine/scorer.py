"""Scores of jobs: their logits against the labels and the clean runs of their pairs.

Shapes: R rows, V vocabulary, K ids.
"""

__all__ = ["NON_FINITE", "JobScorer", "is_finite"]

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workers.change.jobs import Job
from workers.engine.batch import Batch
from workers.engine.captures import ActivationCache
from workers.engine.scoring import NO_ID, Labels, divergence, score, score_labels, variation
from workers.metrics import LABELS
from workers.vocabulary import Prompt

NON_FINITE = ("NonFinite", "the logits at the read position hold NaN or infinity")
"""Type and text of the error of a row that cannot be scored."""

Reference = tuple[Prompt, int]
"""A clean run and the token at which it is read."""

Comparison = Callable[[Tensor, Tensor, Tensor], Tensor]
"""One of `workers.engine.scoring`'s: the references, which is each row's, and the rows."""


class JobScorer:
    """Scores the jobs of one batch.

    Args:
        batch: its pairs have the labels, its families say which columns.
        captures: must hold, for ``kl``, the clean logits of bases and sources.
        device: where the logits are.
    """

    def __init__(self, batch: Batch, captures: ActivationCache, device: torch.device) -> None:
        self._batch = batch
        self._captures = captures
        self._labels = Labels.of([pair.label_ids for pair in batch.pairs], device)
        self._base_labels = Labels.of([pair.base_label_ids for pair in batch.pairs], device)
        self.ids: Tensor | None = None
        """[K], of which alone logits are asked; None where all are."""
        if batch.families == (LABELS,):
            self.ids = torch.unique(torch.cat([self._labels.ids.flatten(), self._base_labels.ids.flatten()]))
            self._labels = self._labels.among(self.ids)
            self._base_labels = self._base_labels.among(self.ids)

    def columns(self, logits: Tensor, jobs: Sequence[Job]) -> dict[str, Tensor]:
        """The metrics of `jobs`, with the `logits` at the read position: [R, V], or of `ids` [R, K]."""
        columns: dict[str, Tensor] = {}
        if families := {LABELS, "logits"} & {*self._batch.families}:
            pairs = torch.tensor([job.pair for job in jobs], device=logits.device)
            scored = score if "logits" in families else score_labels
            columns |= scored(logits, self._labels[pairs], self._base_labels[pairs])
        if "kl" in self._batch.families:
            bases = [self._base(job) for job in jobs]
            columns["kl_base"] = self._compared(divergence, logits, bases)
            columns["tv_base"] = self._compared(variation, logits, bases)
            columns["kl_source"] = self._compared(divergence, logits, [self._source(job) for job in jobs])
        return columns

    def _base(self, job: Job) -> Reference:
        return self._batch.pairs[job.pair].tokens["base"], job.read

    def _source(self, job: Job) -> Reference | None:
        if job.source_read is None:
            return None
        return self._batch.pairs[job.pair].tokens["source"], job.source_read

    def _compared(
        self, compare: Comparison, logits: Tensor, references: Sequence[Reference | None]
    ) -> Tensor:
        """Each row of `logits` [R, V] compared with its reference: [R]; NaN where there is none."""
        clean = {r: self._clean(r) for r in dict.fromkeys(references) if r is not None}
        held = {r: found for r, found in clean.items() if found is not None}
        number = {reference: index for index, reference in enumerate(held)}
        which = [number.get(reference, NO_ID) if reference else NO_ID for reference in references]
        rows = [row for row, reference in enumerate(which) if reference != NO_ID]
        result = torch.full((len(logits),), torch.nan, device=logits.device)
        if rows:
            chosen = torch.tensor([which[row] for row in rows], device=logits.device)
            result[rows] = compare(torch.stack(list(held.values())), chosen, logits[rows])
        return result

    def _clean(self, reference: Reference) -> Tensor | None:
        """The clean logits [V]; None where that run failed."""
        prompt, read = reference
        capture = self._captures.get(prompt)
        return None if capture is None else capture.logits.get(read)


def is_finite(logits: Tensor) -> list[bool]:
    """Whether each row of [R, V] can be scored: no NaN, no +inf, and not -inf everywhere."""
    finite: list[bool] = logits.amax(-1).isfinite().tolist()
    return finite
