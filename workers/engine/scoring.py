"""Scores: metric columns from logits at the read position, of jobs and of clean runs; reduced in float32.

Shapes: R rows, V vocabulary, K ids, L most label ids of any row, D distinct reference runs.
"""

__all__ = [
    "NON_FINITE",
    "JobScorer",
    "Labels",
    "clean_runs",
    "divergence",
    "is_finite",
    "score",
    "score_labels",
    "to_host",
    "variation",
]

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from workers.engine.activation_cache import ActivationCache, PromptNeed
from workers.engine.attempts import error_json
from workers.engine.batch import NO_ID, Batch, Column, empty_columns
from workers.intervene.jobs import Job
from workers.metrics import LABELS
from workers.model.loading import LoadedModel
from workers.model.weight_values import why_not_finite
from workers.vocabulary import CleanRun, Prompt, Vectors

_CPU_BLOCK, _DEVICE_BLOCK = 1 << 18, 1 << 24
"""Rows are scored in blocks of about this many logits: on a CPU what its cache holds (twice as fast as
all at once), elsewhere what stays small beside the model."""


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
        """Labels as numbers of `ids` [K], which are sorted and have all of them."""
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


def to_host(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns in main memory. From a CUDA device they move at once, into pinned pages, and are waited for
    once: one by one each would wait for all work before it."""
    moved = {name: column.to("cpu", non_blocking=column.is_cuda) for name, column in columns.items()}
    for device in {column.device for column in columns.values() if column.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
    return moved


Numbered = tuple[int, CleanRun]


def clean_runs(
    model: LoadedModel, requests: Sequence[CleanRun], *, max_tokens: int
) -> tuple[dict[str, Column], int]:
    """Score prompts without intervention; equal prompts run once, and equal lengths run together.

    Args:
        model: which model.
        requests: what is read, and against which labels.
        max_tokens: rows × tokens of one forward, at most.

    Returns:
        ``error`` (None or JSON text) and the columns of the family ``logits``, a row for each request in
        the order given; and how many forwards it took.
    """
    columns = empty_columns(("logits",), len(requests))
    columns["error"] = np.full(len(requests), None, object)
    captures = ActivationCache(model, budget_bytes=0)
    for group in _groups(requests, columns["error"], max_tokens):
        needs = {prompt: PromptNeed(reads={run.read for _, run in runs}) for prompt, runs in group.items()}
        failed = captures.prepare(needs, max_tokens=max_tokens)
        for prompt, error in failed.items():
            for row, _ in group[prompt]:
                columns["error"][row] = error_json(type(error).__name__, str(error))
        good = [run for prompt in group.keys() - failed for run in group[prompt]]
        if bad := _score(captures, good, columns):
            kind, text = NON_FINITE
            columns["error"][bad] = error_json(kind, f"{text}: {why_not_finite(model.module)}")
    return columns, captures.num_forwards


def _groups(
    requests: Sequence[CleanRun], errors: Column, max_tokens: int
) -> Iterator[dict[Prompt, list[Numbered]]]:
    """Requests by prompt, in groups of at most `max_tokens` tokens, so that few logits are held at once."""
    group: dict[Prompt, list[Numbered]] = {}
    for row, run in sorted(enumerate(requests), key=lambda item: _order(item[1].tokens)):
        if not 0 <= run.read < len(run.tokens):
            errors[row] = error_json("RunError", f"token {run.read} of a prompt of {len(run.tokens)}")
            continue
        if run.tokens not in group and (len(group) + 1) * len(run.tokens) > max_tokens and group:
            yield group
            group = {}
        group.setdefault(run.tokens, []).append((row, run))
    if group:
        yield group


def _order(prompt: Prompt) -> tuple[int, bool, object]:
    """Equal lengths together, and equal prompts next to each other."""
    if isinstance(prompt, Vectors):
        return len(prompt), True, prompt.data
    return len(prompt), False, prompt


@torch.inference_mode()
def _score(captures: ActivationCache, runs: Sequence[Numbered], columns: dict[str, Column]) -> list[int]:
    """Fill in the columns; the rows of logits that are not finite."""
    if not runs:
        return []
    logits = torch.stack([captures[run.tokens].logits[run.read] for _, run in runs])
    labels = Labels.of([run.label_ids for _, run in runs], logits.device)
    base_labels = Labels.of([run.base_label_ids for _, run in runs], logits.device)
    rows = np.array([row for row, _ in runs])
    finite = np.array(is_finite(logits))
    for name, values in score(logits, labels, base_labels).items():
        columns[name][rows[finite]] = values.cpu().numpy()[finite]
    return [int(row) for row in rows[~finite]]
