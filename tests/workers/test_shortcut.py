"""Promise: a row that is filled from the base's clean run is what running it would give; where that is not
provable the row is run, and a model that is not causal is never given the shortcut."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import LAYERS, facts_of, pairs, swap, tiny, tiny_module, unit

from workers.engine import single_token
from workers.engine.engine import Batch, BatchResult, Engine
from workers.engine.replay.probe import probed
from workers.model.families import family_of, sites_of
from workers.model.loading import LoadedModel
from workers.model.loading import facts_of as known_facts
from workers.model.sites import SITES
from workers.vocabulary import Cell, Pair, Place

SHARED = 3
"""Tokens that base and source have in common at the beginning."""


def alike(count: int = 2) -> list[Pair]:
    """Pairs whose runs begin with the same tokens."""
    made = []
    for pair in pairs(count, lengths=(5, 6)):
        source = pair.tokens["base"][:SHARED] + pair.tokens["source"][SHARED:]
        made.append(replace(pair, tokens={"base": pair.tokens["base"], "source": source}))
    return made


def run(kind: str, cells: Sequence[Cell], some: Sequence[Pair], *, shortcut: bool) -> BatchResult:
    engine = Engine(tiny(kind), capture_budget_bytes=1 << 30, shortcut=shortcut)
    return engine.run(Batch(cells=list(enumerate(cells)), pairs=some, families=("logits", "kl")))


def tiers(cells: Sequence[Cell], kind: str = "llama") -> list[str]:
    """How each cell's row is obtained on one pair, after checking that the values do not depend on it."""
    some = alike(1)
    with_it, without = (run(kind, cells, some, shortcut=shortcut) for shortcut in (True, False))
    check_equal(with_it, without)
    return ["unchanged" if tier == "unchanged" else "run" for tier in with_it.columns["tier"]]


def check_equal(with_it: BatchResult, without: BatchResult) -> None:
    assert set(without.tiers) <= {"resumed", "hooked"}
    scale = float(np.abs(without.columns["pred_logit"]).max())
    for name, column in without.columns.items():
        if column.dtype == np.float32:
            np.testing.assert_allclose(with_it.columns[name], column, rtol=1e-5, atol=1e-5 * scale)
        elif name not in ("tier", "pred_id", "label_rank", "base_label_rank"):
            np.testing.assert_array_equal(with_it.columns[name], column)


def test_values_of_a_common_beginning_are_not_swapped() -> None:
    first = Place("block_output", 1, None, (0,))
    assert tiers(
        [
            swap("block_output", 1, (2,)),
            swap("block_output", 1, (0, 1, 2)),
            swap("block_output", 1, (3,)),
            swap("block_output", 1, (2, 3)),
            swap("block_output", 1, (2,), operation="add"),
            swap("block_output", 1, (2,), run="zero"),
            swap("block_output", 1, (2,), origin=first),
        ]
    ) == ["unchanged", "unchanged", *["run"] * 5]


def test_the_bases_own_values_change_nothing_at_their_own_place_only() -> None:
    other_head = Place("query_output", 1, (1,), (4,))
    assert tiers(
        [
            swap("block_output", 1, (4,), run="base"),
            swap("model.layers.1.mlp", None, (4,), run="base"),
            swap("query_output", 1, (4,), heads=(0,), run="base"),
            swap("query_output", 1, (4,), heads=(0,), run="base", origin=other_head),
        ]
    ) == ["unchanged", "unchanged", "unchanged", "run"]


def test_what_lies_after_the_token_read_cannot_reach_it() -> None:
    cells = [swap(site, 0, (4,), read=3) for site in ("block_input", "value_output", "mlp_output")]
    assert tiers(cells) == ["unchanged"] * 3


def test_in_the_last_block_only_what_mixes_tokens_reaches_another_one() -> None:
    kind = "gemma2"
    last = {site: swap(site, LAYERS - 1, (3,), run="zero") for site in sites_of(tiny(kind).facts)}
    found = dict(zip(last, tiers(list(last.values()), kind), strict=True))
    mixing = {site for site, tier in found.items() if tier == "run"}
    assert mixing == {"block_input", "attention_input", "key_output", "value_output"}


@pytest.mark.parametrize("site", family_of("gemma2").sites)
def test_a_site_is_said_to_stay_exactly_where_a_change_stays(site: str) -> None:
    some = pairs(2)
    cells = [swap(site, LAYERS - 1, (3,), run="zero")]
    moved = run("gemma2", cells, some, shortcut=False).columns["kl_base"].max() > 1e-6
    assert bool(moved) is not SITES[site].stays


def test_module_paths_are_not_trusted_to_keep_tokens_apart() -> None:
    cells = [swap("model.layers.2.mlp", None, (2,)), swap("model.layers.2.mlp", None, (3,))]
    assert tiers(cells) == ["run", "run"]


def test_one_unit_that_changes_something_makes_the_row_run() -> None:
    harmless, harmful = unit("block_output", 0, (1,)), unit("mlp_output", 1, (4,))
    late = unit("mlp_output", 2, (1,), run="zero")
    assert tiers([Cell((harmless, harmful), 4), Cell((harmless, late), 4)]) == ["run", "unchanged"]


def units() -> st.SearchStrategy[object]:
    return st.builds(
        unit,
        st.sampled_from(list(family_of("gpt_neox").sites)),
        st.sampled_from([0, LAYERS - 1]),
        st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True).map(tuple),
        operation=st.sampled_from(["vanilla", "vanilla", "add"]),
        run=st.sampled_from(["source", "base", "zero"]),
    )


def cells() -> st.SearchStrategy[Cell]:
    return st.builds(Cell, st.lists(units(), min_size=1, max_size=3).map(tuple), st.integers(0, 4))


@settings(max_examples=30, deadline=None)
@given(st.lists(cells(), min_size=1, max_size=12))
def test_any_cells_give_the_same_with_and_without_the_shortcut(drawn: list[Cell]) -> None:
    with_it, without = (run("gpt_neox", drawn, alike(), shortcut=on) for on in (True, False))
    check_equal(with_it, without)


def test_a_model_that_is_not_causal_is_never_given_the_shortcut() -> None:
    module = tiny_module("llama", attn_implementation="eager")
    for block in module.model.layers:
        block.self_attn.register_forward_pre_hook(
            lambda _, args, kwargs: (args, {**kwargs, "attention_mask": None}), with_kwargs=True
        )
    model = probed(LoadedModel.wrap(module, facts_of(module, "llama")))
    assert not model.is_causal
    engine = Engine(model, capture_budget_bytes=1 << 30)
    batch = Batch(cells=[(0, swap("block_output", 1, (4,), read=3))], pairs=alike(), families=("kl",))
    outcome = engine.run(batch)
    assert outcome.tiers == {"hooked": 2}
    assert outcome.columns["kl_base"].min() > 1e-6


def scaled_by_length(kind: str) -> LoadedModel:
    """A decoder whose rotary angles change once a prompt is longer than 8 tokens."""
    rotary: dict[str, object] = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    rotary["original_max_position_embeddings"] = 8
    if kind == "longrope":
        rotary |= {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    module = tiny_module("llama", max_position_embeddings=8, rope_parameters=rotary)
    return probed(LoadedModel.wrap(module, known_facts(module)))


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_where_values_depend_on_a_prompts_length_no_token_goes_ahead(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(single_token.WORTH, "cpu", 0)
    base = tuple(range(3, 27))
    some = [Pair(0, {"base": base, "source": base[::-1]}, {}, (8,), (9,))]
    cells = [(layer, swap("query_output", layer, (4,), read=23)) for layer in range(LAYERS - 1)]
    batch = Batch(cells=cells, pairs=some, families=("logits", "kl"))
    model = scaled_by_length(kind)
    resumed, hooked = (
        Engine(model, capture_budget_bytes=1 << 30, shortcut=False, resume=resume).run(batch)
        for resume in (True, False)
    )
    check_equal(resumed, hooked)
    assert resumed.tiers == {"resumed": LAYERS - 1}


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_where_values_depend_on_a_prompts_length_equal_beginnings_are_not_trusted(kind: str) -> None:
    model = scaled_by_length(kind)
    assert model.resume is not None and not model.resume.shares_prefixes and not model.resume.token_local
    base = tuple(range(3, 27))
    shorter = [Pair(0, {"base": base, "source": base[:6]}, {}, (8,), (9,))]
    cells = [(layer, swap("block_output", layer, (4,), read=23)) for layer in range(LAYERS - 1)]
    batch = Batch(cells=cells, pairs=shorter, families=("logits", "kl"))
    with_it, without = (
        Engine(model, capture_budget_bytes=1 << 30, shortcut=shortcut).run(batch)
        for shortcut in (True, False)
    )
    check_equal(with_it, without)
    assert with_it.tiers == {"resumed": LAYERS - 1}


def test_pairs_that_run_in_chunks_may_be_unchanged_in_some_of_them_only() -> None:
    some = pairs(2)
    some[0] = replace(some[0], tokens={"base": some[0].tokens["base"], "source": some[0].tokens["base"]})
    batch = Batch(cells=[(0, swap("mlp_output", 0, (1,)))], pairs=some, families=("logits",))
    ran = Engine(tiny("llama"), capture_budget_bytes=1).run(batch)
    assert list(ran.columns["tier"]) == ["unchanged", "resumed"] and ran.num_failed == 0
