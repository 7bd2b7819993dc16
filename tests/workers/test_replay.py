"""Promise: a job that runs only from the first block and token that it changes gives what the whole run gives
and what the hand-written reference gives, to 1e-5 of the largest absolute logit; whatever else is in its
forward; and it leaves the model as it was."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import check_rows, every_site
from tiny import LAYERS, facts_of, pairs, swap, tiny, tiny_module, unit

from workers.code.places import Code
from workers.engine import single_token
from workers.engine.engine import Batch, BatchResult, Engine
from workers.engine.replay.probe import probed
from workers.intervene.subspaces import Rotation
from workers.model.families import sites_of
from workers.model.loading import LoadedModel
from workers.vocabulary import Cell, CellUnit, NamedRun, Pair, Place


@pytest.fixture(autouse=True, params=["ahead", "worth"])
def _worth(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens go through their blocks alone wherever they can, or where that is worth it."""
    if request.param == "ahead":
        monkeypatch.setitem(single_token.WORTH, "cpu", 0)


KINDS = tuple(reference.NETWORKS)
OWN = Code((Path(__file__).parent,), is_trusted=True)
"""Functions that cells name lie in this file."""
FITS = {"whole": Rotation(32, seed=1), "head": Rotation(8, seed=2)}


def run(model: LoadedModel, cells: Sequence[Cell], some: Sequence[Pair], **more: Any) -> BatchResult:
    settings = {"capture_budget_bytes": 1 << 30, "shortcut": False, "fits": FITS.__getitem__, **more}
    batch = Batch(cells=list(enumerate(cells)), pairs=some, families=("logits", "kl"))
    return Engine(model, code=OWN, **settings).run(batch)


def check_tiers(model: LoadedModel, cells: Sequence[Cell], some: Sequence[Pair], **more: Any) -> BatchResult:
    """Both tiers give the same rows; returns those of the resumed one."""
    resumed, hooked = run(model, cells, some, **more), run(model, cells, some, resume=False)
    assert set(hooked.tiers) == {"hooked"}
    # Where all logits are 0, divergences still round in their last digit.
    scale = float(np.nanmax(np.abs(hooked.columns["pred_logit"]))) or 0.1
    sure = hooked.columns["margin"] > 2e-5 * scale
    for name, column in hooked.columns.items():
        if column.dtype == np.float32:
            np.testing.assert_allclose(resumed.columns[name], column, rtol=0, atol=1e-5 * scale, err_msg=name)
        elif name == "pred_id":
            np.testing.assert_array_equal(resumed.columns[name][sure], column[sure])
        elif name == "collected":
            for found, whole in zip(resumed.columns[name], column, strict=True):
                for one, other in zip(found or (), whole or (), strict=True):
                    np.testing.assert_allclose(one["vector"], other["vector"], rtol=0, atol=1e-5 * scale)
        elif name not in ("tier", "label_rank", "base_label_rank"):
            np.testing.assert_array_equal(resumed.columns[name], column)
    return resumed


def expected(kind: str, cells: Sequence[Cell], some: Sequence[Pair]) -> torch.Tensor:
    fits = {name: fit.weight.detach() for name, fit in FITS.items()}
    module = tiny(kind).module
    rows = [reference.intervene(kind, module, cell, pair, fits) for cell in cells for pair in some]
    return torch.stack(rows)


def check_all(kind: str, cells: Sequence[Cell], some: Sequence[Pair]) -> None:
    """Everything resumes, and equals the hooked tier and the reference."""
    outcome = check_tiers(tiny(kind), cells, some)
    assert outcome.tiers == {"resumed": len(cells) * len(some)}
    check_rows(outcome, expected(kind, cells, some), some)


@pytest.mark.versions
@pytest.mark.parametrize("kind", KINDS)
def test_every_site_position_and_head_resumes(kind: str) -> None:
    positions = [(0,), (2,), (4,), (1, 3), (4, 0)]
    cells = [
        swap(site, layer, positions[(layer + number) % len(positions)], heads=heads and (heads - 1, 0))
        for layer in range(LAYERS)
        for number, (site, heads) in enumerate(sites_of(tiny(kind).facts).items())
    ]
    check_all(kind, [*cells, *every_site(kind)], pairs(3))


@pytest.mark.parametrize("kind", KINDS)
def test_several_units_and_sources_resume_from_the_earliest(kind: str) -> None:
    some = pairs(3, lengths=(5, 5, 7))
    late, early = unit("mlp_output", 2, (3,)), unit("attention_output", 0, (2,), run="source_2")
    stream = unit("block_output", 0, (1, 4), operation="add")
    then = unit("block_input", 1, (4,), run="zero", dims=((0, 9),))
    cells = [Cell((late, early), 4), Cell((early, late), 4), Cell((stream, then), 4), Cell((then, stream), 4)]
    check_all(kind, cells, some)


def test_spans_that_differ_by_pair_pooled_sources_and_reads_resume() -> None:
    spans = [((1, 3), (0, 2)), ((2, 3), (5, 6)), ((0, 4), (1, 5))]
    some = [
        replace(pair, spans={"base": {"who": base}, "source": {"who": source}})
        for pair, (base, source) in zip(pairs(3, lengths=(5, 7)), spans, strict=True)
    ]
    mean = Place("block_output", 0, None, ("who.mean",))
    cells = [
        swap("block_output", 0, ("who",), read="who.last"),
        swap("block_output", 0, ("who",), origin=mean),
        swap("query_output", 1, ("who.last",), heads=(0,)),
        swap("mlp_activation", 1, ("who.first", 4)),
        swap("mlp_output", 1, (4,), read=2),
    ]
    check_all("gpt_neox", cells, some)


def test_rotations_and_named_runs_resume() -> None:
    sent = NamedRun("sent", (unit("mlp_output", 0, (2,)),))
    cells = [
        Cell((replace(unit("block_output", 1, (3,)), fit="whole", dims=((0, 9),)),), 4),
        Cell((replace(unit("query_output", 1, (3,), heads=(1,)), fit="head"),), 4),
        Cell((unit("block_output", 1, (3,), run="sent"),), 4, (sent,)),
    ]
    check_all("llama", cells, pairs(2))


@pytest.mark.parametrize("layer", range(LAYERS))
def test_noise_is_drawn_by_its_own_place_wherever_the_run_begins(layer: int) -> None:
    place = Place("block_output", layer, None, (2,))
    noisy = CellUnit(place, None, "add", "noise", None, scale=0.5, seed=3)
    outcome = check_tiers(tiny("gpt2"), [Cell((noisy,), 4), swap("block_output", layer, (3,))], pairs(3))
    assert outcome.tiers == {"resumed": 6}


def test_what_lies_outside_the_blocks_runs_hooked_among_those_that_resume() -> None:
    cells = [
        swap("transformer.wte", None, (2,)),
        swap("transformer.h.1.ln_2", None, (2,)),
        swap("transformer.ln_f", None, (4,)),
        Cell((unit("mlp_output", 1, (3,)), unit("transformer.wpe", None, (0,), run="zero")), 4),
    ]
    tiers = check_tiers(tiny("gpt2"), cells[:3], pairs(2)).columns["tier"].reshape(3, 2)[:, 0]
    assert tiers.tolist() == ["hooked", "resumed", "hooked"]


UNITS = st.builds(
    unit,
    st.sampled_from([site for site, heads in sites_of(tiny("gpt2").facts).items()]),
    st.integers(0, LAYERS - 1),
    st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True).map(tuple),
    operation=st.sampled_from(["vanilla", "add", "subtract"]),
    run=st.sampled_from(["source", "base", "zero"]),
)


def is_well_conditioned(cell: Cell) -> bool:
    """Whether nothing subtracts what is there: the rounding that is left would be made large by a norm."""
    there = {"base", *(one.run for one in cell.units if one.operation == "vanilla")} - {"zero"}
    return not any(one.operation == "subtract" and one.run in there for one in cell.units)


CELLS = st.lists(
    st.builds(Cell, st.lists(UNITS, min_size=1, max_size=3).map(tuple), st.integers(0, 4)).filter(
        is_well_conditioned
    ),
    min_size=1,
    max_size=9,
)


@settings(max_examples=25, deadline=None)
@given(cells=CELLS, max_rows=st.sampled_from([1, 3, None]), kind=st.sampled_from(["gpt2", "llama"]))
def test_any_cells_in_any_order_and_packing_equal_the_hooked_tier(
    cells: list[Cell], max_rows: int | None, kind: str
) -> None:
    outcome = check_tiers(tiny(kind), cells, pairs(3), max_rows=max_rows)
    assert outcome.tiers == {"resumed": 3 * len(cells)}


@pytest.fixture
def own() -> LoadedModel:
    """A model of the test's own, to which it may add hooks."""
    module = tiny_module("llama")
    return probed(LoadedModel.wrap(module, facts_of(module, "llama")))


CELLS_OF_TWO_BLOCKS = [swap("mlp_output", 2, (3,)), swap("attention_output", 1, (2,))]


def hooks_and_forwards(model: LoadedModel) -> list[tuple[int, int, bool]]:
    return [
        (len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m))
        for m in model.module.modules()
    ]


@pytest.mark.versions
def test_a_resumed_run_that_raises_is_run_whole_and_leaves_the_model_as_it_was(own: LoadedModel) -> None:
    def only_ids(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if "input_ids" not in kwargs:
            raise ValueError("ids only")

    handle = own.module.register_forward_pre_hook(only_ids, with_kwargs=True)
    before = hooks_and_forwards(own)
    outcome = check_tiers(own, CELLS_OF_TWO_BLOCKS, pairs(3))
    assert outcome.tiers == {"rerun": 6}
    assert hooks_and_forwards(own) == before
    handle.remove()


@pytest.mark.versions
def test_a_forward_of_the_callers_own_is_put_back(own: LoadedModel) -> None:
    block = own.module.model.layers[0]
    plain, calls = block.forward, []
    block.forward = lambda *args, **kwargs: calls.append(1) or plain(*args, **kwargs)
    mine = block.forward
    outcome = run(own, [swap("mlp_output", 2, (3,))], pairs(2))
    assert outcome.tiers == {"resumed": 2}
    assert vars(block)["forward"] is mine
    assert len(calls) == outcome.num_forwards - 1  # the clean runs


def test_memory_that_runs_out_makes_resumed_forwards_smaller(own: LoadedModel) -> None:
    sizes: list[int] = []

    def hook(_: torch.nn.Module, args: tuple[Any, ...]) -> None:
        sizes.append(len(args[0]))
        if sizes[-1] > 5:
            raise torch.OutOfMemoryError("no room for more than 5 rows")

    own.module.model.layers[2].mlp.register_forward_pre_hook(hook)
    cells = [swap("block_output", layer, (token,)) for layer in range(LAYERS) for token in range(5)]
    outcome = run(own, cells, pairs(4, num_prompts=2))
    assert outcome.tiers == {"resumed": 60}
    assert outcome.num_failed == 0
    assert max(sizes) > 5 >= sizes[-1]


@pytest.mark.versions
def test_a_base_is_captured_once_for_all_pairs_and_calls_and_only_what_can_be_touched() -> None:
    model, some = tiny("llama"), pairs(8, num_prompts=4)
    cells = [swap("mlp_output", layer, (token,)) for layer in (1, 2) for token in (2, 3)]
    engine = Engine(model, capture_budget_bytes=1 << 30, shortcut=False)
    rows: list[tuple[int, int]] = []
    handle = model.module.model.layers[2].register_forward_pre_hook(
        lambda module, args: rows.append((len(args[0]), args[0].shape[1]))
    )
    try:
        for part in (cells[:2], cells[2:]):
            batch = Batch(cells=list(enumerate(part)), pairs=some, families=("logits",))
            engine.run(batch, tile_cells=cells)
    finally:
        handle.remove()
    whole = sum(count for count, num_tokens in rows if num_tokens == 5)
    prompts = {prompt for pair in some for prompt in pair.tokens.values()}
    assert whole <= len(prompts) + 1  # one was run before, to see how large captures are
    base_cache = engine._bench.captures.base_cache
    assert base_cache is not None
    kept = [tensor for tensor in base_cache.keys if tensor is not None]
    assert (len(kept), kept[0].shape[2]) == (2, 3)
    assert [tensor.shape[1] for tensor in base_cache.inputs if tensor is not None] == [3, 3]


def test_bases_that_do_not_fit_are_captured_for_fewer_pairs_at_a_time() -> None:
    cells = [swap("mlp_output", layer, (token,)) for layer in range(LAYERS) for token in range(5)]
    tight = check_tiers(tiny("llama"), cells, pairs(6), capture_budget_bytes=20_000)
    roomy = run(tiny("llama"), cells, pairs(6))
    assert tight.tiers == {"resumed": 90}
    assert tight.num_forwards > roomy.num_forwards


def test_a_deadline_returns_whole_cells() -> None:
    cells = [swap("mlp_output", layer, (token,)) for layer in range(LAYERS) for token in range(5)]
    batch = Batch(cells=list(enumerate(cells)), pairs=pairs(4), families=("logits",))
    engine = Engine(tiny("llama"), capture_budget_bytes=1 << 30, shortcut=False)
    outcome = engine.run(batch, deadline_s=0.0)
    assert 1 <= outcome.num_cells < len(cells)
    assert not np.isnan(outcome.columns["label_logit"]).any()


def test_what_was_found_of_sizes_is_plain_numbers_for_the_next_engine() -> None:
    cells = [swap("mlp_output", layer, (4,)) for layer in range(LAYERS)]
    batch = Batch(cells=list(enumerate(cells)), pairs=pairs(4), families=("logits",))
    engine = Engine(tiny("llama"), capture_budget_bytes=1 << 30, shortcut=False, pace={"resumed/1": 2})
    engine.run(batch)
    assert all(isinstance(size, int) and size > 0 for size in engine.pace().values())
    assert engine.pace()["resumed/1"] >= 2


@pytest.mark.parametrize("first", [4, 12])
def test_jobs_on_prompts_that_share_a_prefix_equal_those_on_whole_ones(first: int) -> None:
    head = tuple(range(3, 15))
    some = [
        replace(pair, tokens={run: (*head, *tokens) for run, tokens in pair.tokens.items()})
        for pair in pairs(4, lengths=(3, 3))
    ]
    cells = [
        swap(site, layer, (token,), read=14)
        for site in ("attention_output", "mlp_output")
        for layer in range(LAYERS)
        for token in (first, 13, 14)
    ]
    outcome = check_tiers(tiny("llama"), cells, some)
    assert outcome.tiers == {"resumed": len(cells) * 4}


def picky(old: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """An operation that cannot be done with some values."""
    if (old[:, 0] < PICKY["least"]).any():
        raise ValueError("not this one")
    return other


PICKY = {"least": -torch.inf}


def test_a_token_goes_alone_through_the_block_where_its_change_stays_with_it(
    own: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(single_token.WORTH, "cpu", 0)
    seen: list[torch.Size] = []
    own.module.model.layers[1].mlp.register_forward_hook(lambda _, __, output: seen.append(output.shape[:2]))
    stays = [swap(site, 1, (2,)) for site in ("attention_output", "query_output", "mlp_activation")]
    goes_on = [swap("key_output", 1, (2,)), swap("mlp_output", 1, (2, 3)), swap("mlp_output", 1, (4,))]
    outcome = run(own, [*stays, *goes_on], pairs(3))
    assert outcome.tiers == {"resumed": 18}
    # What stays, alone; two cells that go on, from token 2; and the cell at the last token.
    assert [tuple(shape) for shape in seen if shape[1] < 5] == [(9, 1), (6, 3), (3, 1)]


def test_no_token_goes_alone_where_that_would_cost_more_than_it_spares(
    own: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Size] = []
    own.module.model.layers[1].mlp.register_forward_hook(lambda _, __, output: seen.append(output.shape[:2]))
    assert own.resume is not None
    spared = 3 * 2 * own.resume.block_parameters
    monkeypatch.setitem(single_token.WORTH, "cpu", spared + 1)
    run(own, [swap("mlp_output", 1, (2,))], pairs(3))
    assert tuple(seen[-1]) == (3, 3)
    monkeypatch.setitem(single_token.WORTH, "cpu", spared)
    run(own, [swap("mlp_output", 1, (2,))], pairs(3))
    assert tuple(seen[-1]) == (3, 1)


def test_rows_that_cannot_be_changed_alone_run_whole_and_say_why_among_those_that_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some = pairs(4)
    clean = run(tiny("llama"), [swap("mlp_output", 1, (2,), operation="collect")], some)
    firsts = [found[0]["vector"][0] for found in clean.columns["collected"]]
    assert len(set(firsts)) == 4
    monkeypatch.setitem(PICKY, "least", float(np.sort(firsts)[1:3].mean()))
    cells = [
        swap("block_input", 2, (2,)),
        swap("mlp_output", 1, (2,), operation="test_replay:picky"),
        swap("attention_output", 0, (2,)),
        swap("key_output", 1, (2,)),
    ]
    outcome = check_tiers(tiny("llama"), cells, some)
    assert outcome.num_failed == 2
    assert outcome.tiers == {"resumed": 14, "rerun": 2}


def test_what_skips_collects_or_is_noise_at_one_token_equals_the_whole_run() -> None:
    noise = CellUnit(Place("attention_output", 1, None, (2,)), None, "add", "noise", None, scale=0.5, seed=3)
    cells = [
        Cell((noise,), 4),
        swap("mlp_output", 1, (2,), operation="skip"),
        Cell((unit("mlp_output", 1, (2,)), unit("block_output", 1, (3,), operation="collect")), 4),
        Cell((unit("mlp_output", 0, (2,)), unit("key_output", 1, (2,)), unit("mlp_output", 2, (4,))), 4),
    ]
    assert check_tiers(tiny("llama"), cells, pairs(3)).tiers == {"resumed": 12}
