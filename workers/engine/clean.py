"""Unintervened values: what the model makes of prompts as they are."""

__all__ = ["clean_runs"]

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workers.engine.attempts import error_json
from workers.engine.captures import ActivationCache, PromptNeed
from workers.engine.scorer import NON_FINITE, is_finite
from workers.engine.scoring import Labels, empty_columns, score
from workers.model.finite import why_not_finite
from workers.model.loading import LoadedModel
from workers.vocabulary import CleanRun, Prompt, Vectors

Numbered = tuple[int, CleanRun]


def clean_runs(
    model: LoadedModel, requests: Sequence[CleanRun], *, max_tokens: int
) -> tuple[dict[str, NDArray[Any]], int]:
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
    requests: Sequence[CleanRun], errors: NDArray[Any], max_tokens: int
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


def _order(prompt: Prompt) -> tuple[Any, ...]:
    """Equal lengths together, and equal prompts next to each other."""
    if isinstance(prompt, Vectors):
        return len(prompt), True, prompt.data
    return len(prompt), False, prompt


@torch.inference_mode()
def _score(
    captures: ActivationCache, runs: Sequence[Numbered], columns: dict[str, NDArray[Any]]
) -> list[int]:
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
