"""Promise: jobs packed into shared forwards give what each gives alone and what the hand-written reference
gives, to 1e-5 of the reference row's largest logit; and a prompt is captured once."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
import torch
from tiny import LAYERS, facts_of, pairs, swap, tiny, tiny_module, unit

from workers.engine.engine import Batch, BatchResult, Engine
from workers.engine.replay.probe import probed
from workers.errors import RunError
from workers.model.families import sites_of
from workers.model.loading import LoadedModel
from workers.vocabulary import Cell, CleanRun, Pair, Place

KINDS = tuple(reference.NETWORKS)
ALL = (0, 1, 2, 3, 4)


def engine(kind: str, *, budget: int = 1 << 30, **more: Any) -> Engine:
    return Engine(tiny(kind), capture_budget_bytes=budget, shortcut=False, **more)


def run(kind: str, cells: Sequence[Cell], some: Sequence[Pair], **more: Any) -> BatchResult:
    batch = Batch(cells=list(enumerate(cells)), pairs=some, families=("logits", "kl"))
    outcome = engine(kind, **more).run(batch)
    assert outcome.num_cells == len(cells)
    assert [e for e in outcome.columns["error"] if e] == []
    return outcome


def expected(kind: str, cells: Sequence[Cell], some: Sequence[Pair]) -> torch.Tensor:
    """The reference's logits [cells × pairs, V]."""
    module = tiny(kind).module
    return torch.stack([reference.intervene(kind, module, cell, pair) for cell in cells for pair in some])


def check_rows(outcome: BatchResult, logits: torch.Tensor, some: Sequence[Pair]) -> None:
    """The rows are those of `logits` [rows, V], within the promised tolerance."""
    columns = outcome.columns
    for row, reference_row in enumerate(logits):
        pair = some[row % len(some)]
        tolerance = 1e-5 * float(reference_row.abs().max())
        label = reference_row[list(pair.label_ids)].logsumexp(0)
        base_label = reference_row[list(pair.base_label_ids)].logsumexp(0)
        assert columns["label_logit"][row] == pytest.approx(float(label), abs=tolerance)
        assert columns["base_label_logit"][row] == pytest.approx(float(base_label), abs=tolerance)
        assert columns["logsumexp"][row] == pytest.approx(float(reference_row.logsumexp(0)), abs=tolerance)
        top = reference_row.topk(2)
        assert columns["pred_logit"][row] == pytest.approx(float(top.values[0]), abs=tolerance)
        margin = float(top.values[0] - top.values[1])
        assert columns["margin"][row] == pytest.approx(margin, abs=2 * tolerance)
        if margin > 2 * tolerance:
            assert columns["pred_id"][row] == top.indices[0]


def every_site(kind: str) -> list[Cell]:
    """A cell for each site, layer and a few positions, whole and in one head."""
    cells = []
    for layer in range(LAYERS):
        for site, heads in sites_of(tiny(kind).facts).items():
            cells.append(swap(site, layer, (1, 3)))
            if heads:
                cells.append(swap(site, layer, (2,), heads=(heads - 1, 0), dims=((1, 3), (5, 6))))
    return cells


@pytest.mark.parametrize("kind", KINDS)
def test_every_site_packed_equals_the_reference(kind: str) -> None:
    cells, some = every_site(kind), pairs(3)
    check_rows(run(kind, cells, some), expected(kind, cells, some), some)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_equals_one_job_a_forward(kind: str) -> None:
    cells, some = every_site(kind), pairs(3)
    packed, alone = run(kind, cells, some), run(kind, cells, some, max_rows=1)
    assert alone.num_forwards - packed.num_forwards > len(cells)
    scale = np.abs(alone.columns["pred_logit"]).max()
    sure = alone.columns["margin"] > 2e-5 * scale
    for name, column in alone.columns.items():
        if name.startswith("kl_"):
            np.testing.assert_allclose(packed.columns[name], column, atol=1e-5 * scale)
        elif column.dtype == np.float32:
            np.testing.assert_allclose(packed.columns[name], column, rtol=0, atol=1e-5 * scale)
        elif name != "pred_id":
            np.testing.assert_array_equal(packed.columns[name], column)
    np.testing.assert_array_equal(packed.columns["pred_id"][sure], alone.columns["pred_id"][sure])


@pytest.mark.parametrize("operation", ["vanilla", "add", "subtract"])
@pytest.mark.parametrize("origin", ["source", "source_2", "base", "zero"])
def test_operations_and_origins_equal_the_reference(operation: str, origin: str) -> None:
    some = pairs(2, lengths=(5, 5, 7))
    elsewhere = Place("mlp_output", 2, None, (4, 0))
    cells = [
        swap("block_output", 1, (1, 3), operation=operation, run=origin, origin=elsewhere),
        swap("key_output", 1, (1, 3), heads=(1,), operation=operation, run=origin),
    ]
    check_rows(run("llama", cells, some), expected("llama", cells, some), some)


def test_later_units_see_and_override_earlier_ones() -> None:
    some = pairs(3)
    one = unit("block_output", 1, (2, 3))
    two = unit("block_output", 1, (3,), run="zero", dims=((0, 20),))
    three = unit("block_output", 1, (3,), operation="add", run="base")
    elsewhere = unit("mlp_output", 0, (0,), run="zero")
    cells = [
        Cell((one, two, three, elsewhere), 4),
        Cell((elsewhere, three, two, one), 4),
        Cell((two, three), 4),
        Cell((three, two), 4),
    ]
    outcome = run("gpt2", cells, some)
    check_rows(outcome, expected("gpt2", cells, some), some)
    by_cell = outcome.columns["label_logit"].reshape(4, 3)
    assert np.abs(by_cell[0] - by_cell[1]).min() > 1e-3
    assert np.abs(by_cell[2] - by_cell[3]).min() > 1e-3


def test_units_at_one_tensor_under_two_names_apply_in_order() -> None:
    some = pairs(2)
    named, path = unit("mlp_output", 1, (2,)), unit("transformer.h.1.mlp", None, (2,), run="zero")
    outcome = run("gpt2", [Cell((named, path), 4), Cell((path, named), 4)], some)
    plain = [swap("mlp_output", 1, (2,), run="zero"), swap("mlp_output", 1, (2,))]
    check_rows(outcome, expected("gpt2", plain, some), some)


def test_ragged_spans_and_runs_of_different_lengths_equal_the_reference() -> None:
    spans = [((1, 3), (0, 2)), ((2, 3), (5, 6)), ((0, 4), (1, 5))]
    some = [
        replace(pair, spans={"base": {"who": base}, "source": {"who": source}})
        for pair, (base, source) in zip(pairs(3, lengths=(5, 7)), spans, strict=True)
    ]
    mean = Place("block_output", 0, None, ("who.mean",))
    last = Place("attention_value_output", 2, (1,), ("who.last",))
    cells = [
        swap("block_output", 0, ("who",), read="who.last"),
        swap("block_output", 0, ("who",), origin=mean),
        swap("query_output", 1, ("who.last",), heads=(0,), origin=last),
        swap("mlp_activation", 1, ("who.first", 4)),
        swap("mlp_input", 1, ("who[-1]",), run="base", origin=Place("attention_output", 0, None, (0,))),
    ]
    check_rows(run("gpt_neox", cells, some), expected("gpt_neox", cells, some), some)


@pytest.mark.parametrize("kind", KINDS)
def test_swapping_a_prompt_with_itself_changes_nothing(kind: str) -> None:
    some = [replace(p, tokens={"base": p.tokens["base"], "source": p.tokens["base"]}) for p in pairs(3)]
    outcome = run(kind, every_site(kind), some)
    assert outcome.tiers == {"resumed": len(outcome.columns["cell"])}
    assert outcome.columns["kl_base"].max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_blocks_output_at_the_last_token_gives_the_sources_logits(kind: str) -> None:
    some = pairs(4)
    outcome = run(kind, [swap("block_output", LAYERS - 1, (4,))], some)
    clean = engine(kind).clean([CleanRun(p.tokens["source"], 4, p.label_ids, p.base_label_ids) for p in some])
    assert outcome.columns["kl_source"].max() < 1e-6 < outcome.columns["kl_base"].min()
    np.testing.assert_array_equal(outcome.columns["pred_id"], clean["pred_id"])
    np.testing.assert_allclose(outcome.columns["label_logit"], clean["label_logit"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_residual_stream_gives_the_sources_logits_from_any_layer(kind: str) -> None:
    cells = [swap("block_output", layer, ALL) for layer in range(LAYERS)]
    assert run(kind, cells, pairs(3)).columns["kl_source"].max() < 1e-6


def test_divergences_equal_those_of_the_references_distributions() -> None:
    cells = [swap("block_output", 0, (4,)), swap("mlp_output", 1, (2,), read=3)]
    some = pairs(2, lengths=(5, 6))
    columns = run("llama", cells, some).columns
    logits = expected("llama", cells, some).log_softmax(-1)
    for row, (cell, pair) in enumerate((c, p) for c in cells for p in some):
        for run_name, read in (("base", cell.read), ("source", 5 if cell.read == 4 else cell.read)):
            values = reference.record("llama", tiny("llama").module, pair.tokens[run_name])
            clean = values["logits", -1][read].log_softmax(-1)
            divergence = float((clean.exp() * (clean - logits[row])).sum())
            assert columns[f"kl_{run_name}"][row] == pytest.approx(divergence, rel=1e-3, abs=1e-5)


def test_a_source_that_has_no_such_token_leaves_its_divergence_empty() -> None:
    cells = [swap("block_output", 0, (0,), read=3)]
    assert np.isnan(run("llama", cells, pairs(2, lengths=(5, 2))).columns["kl_source"]).all()
    zero = [swap("mlp_output", 0, (0,), run="zero")]
    assert np.isnan(run("llama", zero, pairs(2, lengths=(5,))).columns["kl_source"]).all()


def test_cells_share_forwards_and_prompts_are_captured_once() -> None:
    cells = [swap("block_output", layer, (token,)) for layer in range(LAYERS) for token in ALL]
    some = pairs(8, num_prompts=4)
    rows: list[int] = []
    model = tiny("llama")
    handle = model.module.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        shared = Engine(model, capture_budget_bytes=1 << 30, shortcut=False, resume=False)
        first = shared.run(
            Batch(cells=list(enumerate(cells))[:5], pairs=some, families=("logits",)), tile_cells=cells
        )
        second = shared.run(
            Batch(cells=list(enumerate(cells))[5:], pairs=some, families=("logits",)), tile_cells=cells
        )
    finally:
        handle.remove()
    num_prompts = len({pair.tokens["source"] for pair in some})
    assert sum(rows) == num_prompts + len(cells) * len(some)
    assert second.num_forwards == 1
    assert first.num_forwards + second.num_forwards == len(rows)


def test_captures_that_do_not_fit_are_made_for_fewer_pairs_at_a_time() -> None:
    cells, some = [swap("block_output", layer, (2,)) for layer in range(LAYERS)], pairs(6)
    tight = run("llama", cells, some, budget=1)
    roomy = run("llama", cells, some)
    assert tight.num_forwards > roomy.num_forwards
    np.testing.assert_allclose(tight.columns["label_logit"], roomy.columns["label_logit"], atol=1e-4)
    np.testing.assert_array_equal(tight.columns["pair"], np.tile(np.arange(6), 3))


@pytest.mark.parametrize("budget", [1, 1 << 30])
def test_a_deadline_returns_whole_cells_and_at_least_one(budget: int) -> None:
    cells = [swap("block_output", layer, (token,)) for layer in range(LAYERS) for token in ALL]
    some = pairs(4)
    batch = Batch(cells=list(enumerate(cells)), pairs=some, families=("logits",))
    outcome = engine("llama", max_rows=6, budget=budget).run(batch, deadline_s=0.0)
    assert 1 <= outcome.num_cells < len(cells)
    assert len(outcome.columns["cell"]) == outcome.num_cells * len(some)
    assert not np.isnan(outcome.columns["label_logit"]).any()


def test_clean_values_are_those_of_the_model_as_it_is_and_equal_prompts_run_once() -> None:
    model = tiny("gpt2")
    prompts = [(4, 5, 6), (9, 8, 7, 6), (4, 5, 6), (4, 5, 6)]
    runs = [CleanRun(tokens, read, (7,), ()) for tokens, read in zip(prompts, (2, 3, 1, 2), strict=True)]
    rows: list[int] = []
    handle = model.module.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        columns = engine("gpt2").clean(runs)
    finally:
        handle.remove()
    assert sum(rows) == 2
    for row, one in enumerate(runs):
        logits = model.module(input_ids=torch.tensor([one.tokens])).logits[0, one.read]
        assert columns["label_logit"][row] == pytest.approx(float(logits[7]), abs=1e-4)
        assert columns["pred_id"][row] == logits.argmax()
    assert np.isnan(columns["base_label_logit"]).all()
    assert (columns["base_label_rank"] == -1).all()


def test_a_clean_run_that_cannot_be_read_says_so_and_spoils_no_other() -> None:
    columns = engine("gpt2").clean([CleanRun((4, 5), 2, (7,), ()), CleanRun((4, 5), 1, (7,), ())])
    assert json.loads(columns["error"][0])["type"] == "RunError"
    assert columns["error"][1] is None
    assert not np.isnan(columns["label_logit"][1])


def test_pairs_of_different_lengths_are_refused() -> None:
    batch = Batch(
        cells=[(0, swap("block_output", 0, (0,)))],
        pairs=[*pairs(1), *pairs(1, lengths=(4, 5))],
        families=("logits",),
    )
    with pytest.raises(RunError, match="equal runs of equal lengths"):
        engine("llama").run(batch)


def test_metrics_are_float32_under_a_bfloat16_model() -> None:
    module = tiny_module("llama").to(torch.bfloat16)
    model = probed(LoadedModel.wrap(module, facts_of(module, "llama")))
    some = pairs(2)
    batch = Batch(cells=[(0, swap("block_output", 2, (4,)))], pairs=some, families=("logits", "kl"))
    columns = Engine(model, capture_budget_bytes=1 << 20).run(batch).columns
    logits = module(input_ids=torch.tensor([some[0].tokens["source"]])).logits[0, -1].float()
    assert columns["logsumexp"].dtype == np.float32
    assert columns["logsumexp"][0] == pytest.approx(float(logits.logsumexp(0)), abs=1e-4)
