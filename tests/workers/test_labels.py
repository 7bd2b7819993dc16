"""Promise: where only logits of labels are asked for, the unembedding makes no others, in every tier; they
are those of the whole head, and are taken from it where a model's logits are more than a product."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_engine import every_site
from tiny import VOCAB, facts_of, pairs, swap, tiny, tiny_module
from torch import Tensor, nn

from workers.engine.engine import Batch, BatchResult, Engine
from workers.engine.replay.probe import probed
from workers.model.loading import LoadedModel
from workers.vocabulary import Cell, CellUnit, Pair, Place

CHANGES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {},
    "gemma2": {"final_logit_softcapping": 20.0},
    "cohere": {"logit_scale": 0.25},
}
PLAIN = {"gpt2": True, "llama": True, "gemma2": False, "cohere": False}
COLUMNS = ("label_logit", "base_label_logit")


def model_of(kind: str) -> LoadedModel:
    module = tiny_module(kind, **CHANGES[kind])
    if kind == "gpt2":
        module.lm_head.bias = nn.Parameter(torch.randn(VOCAB))
    return probed(LoadedModel.wrap(module, facts_of(module, kind)))


def run(
    model: LoadedModel, cells: Sequence[Cell], some: Sequence[Pair], family: str, **more: Any
) -> BatchResult:
    batch = Batch(cells=list(enumerate(cells)), pairs=some, families=(family,))
    return Engine(model, capture_budget_bytes=1 << 30, **{"shortcut": False, **more}).run(batch)


def sizes_of_head(model: LoadedModel, cells: Sequence[Cell], some: Sequence[Pair], **more: Any) -> list[int]:
    """How many tokens the unembedding was given in each forward for the labels alone."""
    seen: list[int] = []

    def note(_: nn.Module, __: Any, made: Tensor) -> None:
        seen.append(made.shape[:-1].numel())

    handle = model.module.get_submodule(model.head.module).register_forward_hook(note)
    try:
        run(model, cells, some, "labels", **more)
    finally:
        handle.remove()
    return seen


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("more", [{}, {"resume": False}, {"shortcut": True}], ids=str)
def test_logits_of_labels_are_those_of_the_whole_head(kind: str, more: dict[str, Any]) -> None:
    model, some = model_of(kind), pairs(4)
    some[1] = replace(some[1], label_ids=(8, 3, 8), base_label_ids=())
    cells = [*every_site(kind)[:9], swap("mlp_output", 1, (2,), read=2), swap("mlp_output", 1, (4,), read=2)]
    short, whole = (run(model, cells, some, family, **more) for family in ("labels", "logits"))
    assert short.columns.keys() == {"cell", "pair", "error", "tier", "collected", *COLUMNS}
    assert short.tiers == whole.tiers and not short.num_failed
    assert ("unchanged" in short.tiers) == ("shortcut" in more)
    scale = np.nanmax(np.abs(whole.columns["pred_logit"]))
    for name in COLUMNS:
        np.testing.assert_allclose(short.columns[name], whole.columns[name], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("kind", CHANGES)
def test_heads_that_bend_or_scale_are_known_when_the_model_is_loaded(kind: str) -> None:
    assert model_of(kind).has_plain_head is PLAIN[kind]


@pytest.mark.parametrize("more", [{}, {"resume": False}], ids=str)
def test_the_head_is_given_nothing_for_labels_alone(more: dict[str, Any]) -> None:
    cells, some = [swap("mlp_output", 1, (2,)), swap("mlp_output", 2, (4,))], pairs(4)
    assert sizes_of_head(tiny("llama"), cells, some, **more)[-1] == 0
    assert sizes_of_head(model_of("gemma2"), cells, some, **more)[-1] > 0


def test_a_softcap_shows_however_small_the_logits_of_a_model_are() -> None:
    module = tiny_module("gemma2", final_logit_softcapping=50.0, initializer_range=0.001)
    assert not probed(LoadedModel.wrap(module, facts_of(module, "gemma2"))).has_plain_head


def test_half_precision_takes_the_rows_too() -> None:
    module = tiny_module("llama").to(torch.bfloat16)
    assert probed(LoadedModel.wrap(module, facts_of(module, "llama"))).has_plain_head


def test_a_change_of_the_head_itself_is_seen() -> None:
    cells = [swap("model.norm", None, (4,)), swap("lm_head", None, (0,), read=0)]
    for length, cell in zip((5, 1), cells, strict=True):
        some = pairs(2, lengths=(length, length))
        short, whole = (run(tiny("llama"), [cell], some, family) for family in ("labels", "logits"))
        assert not short.num_failed
        for name in COLUMNS:
            np.testing.assert_allclose(short.columns[name], whole.columns[name], rtol=0, atol=1e-4)


def test_a_row_that_is_not_finite_fails_alone() -> None:
    loud = CellUnit(Place("block_output", 2, None, (4,)), None, "add", "noise", None, scale=1e39, seed=0)
    outcome = run(tiny("llama"), [Cell((loud,), 4), swap("mlp_output", 2, (4,))], pairs(1), "labels")
    assert outcome.num_failed == 1 and "NonFinite" in outcome.columns["error"][0]
    assert np.isnan(outcome.columns["label_logit"]).tolist() == [True, False]
