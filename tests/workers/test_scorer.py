"""Promise: a job is scored by the labels of its own pair, against the clean runs of its own base and source,
at the tokens that it reads, in every tier."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
import torch
from tiny import LAYERS, pairs, swap, tiny
from torch import Tensor

from workers.engine.engine import Batch, BatchResult, Engine
from workers.metrics import LABELS
from workers.vocabulary import Cell, Pair

LABEL_IDS = (((3,), (9, 4)), ((8, 0), ()), ((), (2,)), ((5, 7, 60), (1,)))
"""Of each pair its label and its base label."""
READS = (4, 3, 1)


def some_pairs() -> list[Pair]:
    """Two pairs share a base, and sources are longer than bases."""
    made = pairs(4, lengths=(5, 7))
    tokens = {**made[3].tokens, "base": made[0].tokens["base"]}
    made[3] = replace(made[3], tokens=tokens)
    return [
        replace(pair, label_ids=label, base_label_ids=base)
        for pair, (label, base) in zip(made, LABEL_IDS, strict=True)
    ]


def some_cells() -> list[Cell]:
    """Changes that reach what is read, and in each read one that does not."""
    places = [("block_output", 0, 1), ("mlp_output", 1, 1), ("block_output", LAYERS - 1, 0)]
    return [swap(site, layer, (token,), read=read) for site, layer, token in places for read in READS]


def run(families: tuple[str, ...], **more: Any) -> BatchResult:
    batch = Batch(cells=list(enumerate(some_cells())), pairs=some_pairs(), families=families)
    outcome = Engine(tiny("llama"), capture_budget_bytes=1 << 30, **more).run(batch)
    assert not any(outcome.columns["error"])
    return outcome


def logits_of(run: str, pair: Pair, read: int) -> Tensor:
    """The clean logits [V], float64: the last token answers to the last, any other to the same."""
    at = len(pair.tokens[run]) - 1 if read == len(pair.tokens["base"]) - 1 else read
    found = reference.record("llama", tiny("llama").module, pair.tokens[run])["logits", -1][at]
    return found.detach().double()


def kl(p: Tensor, q: Tensor) -> float:
    return float((p.softmax(0) * (p.log_softmax(0) - q.log_softmax(0))).sum())


def label_values(logits: Tensor, ids: Sequence[int]) -> tuple[float, int]:
    """The logit and the rank of a label; without one there is no number."""
    if not ids:
        return float("nan"), -1
    own = logits[list(ids)]
    return float(own.logsumexp(0)), int((logits > own.max()).sum())


@pytest.mark.parametrize(
    "more", [{"shortcut": True}, {"shortcut": False}, {"shortcut": False, "resume": False}], ids=str
)
def test_every_row_is_scored_by_its_own_pair_and_reads(more: dict[str, Any]) -> None:
    some, columns = some_pairs(), run(("logits", "kl"), **more).columns
    assert ("unchanged" in columns["tier"]) == more["shortcut"]
    for row, (cell, pair) in enumerate((cell, pair) for cell in some_cells() for pair in some):
        read = int(cell.read)
        found = reference.intervene("llama", tiny("llama").module, cell, pair).detach().double()
        base, source = (logits_of(run, pair, read) for run in ("base", "source"))
        top = found.topk(2)
        label, base_label = (label_values(found, ids) for ids in (pair.label_ids, pair.base_label_ids))
        wanted = {
            "label_logit": label[0],
            "label_rank": label[1],
            "base_label_logit": base_label[0],
            "base_label_rank": base_label[1],
            "logsumexp": float(found.logsumexp(0)),
            "pred_id": int(top.indices[0]),
            "pred_logit": float(top.values[0]),
            "margin": float(top.values[0] - top.values[1]),
            "kl_base": kl(base, found),
            "kl_source": kl(source, found),
            "tv_base": float((base.softmax(0) - found.softmax(0)).abs().sum() / 2),
        }
        for name, value in wanted.items():
            assert columns[name][row] == pytest.approx(value, abs=1e-4, nan_ok=True), (name, row)


def test_what_labels_get_alone_is_what_they_get_among_all_others() -> None:
    alone, among = (run((family,)).columns for family in (LABELS, "logits"))
    for name in ("label_logit", "base_label_logit"):
        np.testing.assert_allclose(alone[name], among[name], atol=1e-4)
        assert len(np.unique(alone[name][~np.isnan(alone[name])].round(3))) > 20


def test_the_numbers_of_these_rows_differ() -> None:
    columns = run(("logits", "kl"), shortcut=False).columns
    floats = {name: column for name, column in columns.items() if column.dtype == np.float32}
    for one, values in floats.items():
        moved = np.abs(np.nan_to_num(values) - np.nan_to_num(np.roll(values, 1)))
        assert np.count_nonzero(moved > 1e-3) > len(values) // 2, one
        for other, others in floats.items():
            assert one == other or np.abs(np.nan_to_num(values - others)).max() > 1e-2, (one, other)
    assert torch.isfinite(torch.tensor(columns["kl_source"])).all()
