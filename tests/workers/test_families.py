"""Promise: in every family that has a table, every site is there, holds what its name says, and can be
changed; what a table does not describe is refused with what works instead."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import pairs, swap, tiny

from workers.engine.activation_cache import ActivationCache, PromptNeed
from workers.engine.engine import Batch, Engine
from workers.errors import ModelError
from workers.model.config_facts import facts_of_config
from workers.model.families import FAMILIES, describe, family_of, sites_of
from workers.model.loading import facts_of
from workers.model.sites import SITES, width_of

pytestmark = pytest.mark.versions

MODEL_TYPES = [model_type for family in FAMILIES for model_type in family.model_types]
TOKENS = (5, 9, 33, 7)


def values(model_type: str) -> dict[str, torch.Tensor]:
    """The clean value of each site in the middle block, heads side by side: [T, W]."""
    model = tiny(model_type)
    targets = {site: model.target(site, 1, None, None) for site in sites_of(model.facts)}
    captures = ActivationCache(model, budget_bytes=0)
    assert captures.prepare({TOKENS: PromptNeed({t.tap for t in targets.values()})}, max_tokens=99) == {}
    assert captures.broken == {}
    held = captures[TOKENS].taps
    return {
        site: held[target.tap][:, target.columns(held[target.tap].shape[-1], model.device)]
        for site, target in targets.items()
    }


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_site_is_there_and_as_wide_as_its_heads(model_type: str) -> None:
    config = tiny(model_type).module.config
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    widths = {site: value.shape[-1] for site, value in values(model_type).items()}
    assert widths.pop("query_output") == head_width * config.num_attention_heads
    assert widths.pop("attention_value_output") == head_width * config.num_attention_heads
    assert widths.pop("key_output") == widths.pop("value_output") == head_width * kv_heads
    assert widths.pop("query_norm_output", head_width * config.num_attention_heads) == (
        head_width * config.num_attention_heads
    )
    assert widths.pop("key_norm_output", head_width * kv_heads) == head_width * kv_heads
    assert widths.pop("mlp_activation") == (
        getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    )
    assert set(widths.values()) == {config.hidden_size}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_widths_that_a_config_tells_are_the_real_ones(model_type: str) -> None:
    facts = facts_of(tiny(model_type).module)
    found = values(model_type)
    assert {site: width_of(site, facts) for site in found} == {s: v.shape[-1] for s, v in found.items()}
    heads = {
        site: (width_of(site, facts, of_head=True) or 0) * (count or 1)
        for site, count in sites_of(facts).items()
    }
    assert heads == {site: value.shape[-1] for site, value in found.items()}


def test_a_head_width_that_the_config_leaves_to_the_library_is_not_known() -> None:
    config = tiny("gemma").module.config.to_dict()
    del config["head_dim"]
    facts = facts_of_config(config, "there", ref="m", revision="", dtype="float32", folder=None)
    assert [width_of(site, facts) for site in ("query_output", "block_output")] == [None, 32]
    assert width_of("model.layers.0", facts) is None


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_what_the_residual_stream_gains_is_what_the_sites_hold(model_type: str) -> None:
    found = values(model_type)
    gained = found["block_output"] - found["block_input"]
    torch.testing.assert_close(gained, found["attention_added"] + found["mlp_added"], rtol=1e-4, atol=1e-4)
    for part in ("attention", "mlp"):
        named = found.get(f"{part}_post_norm_output", found[f"{part}_output"])
        torch.testing.assert_close(found[f"{part}_added"], named, rtol=0, atol=0)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_first_token_attends_to_itself_so_its_mixed_values_are_its_values(model_type: str) -> None:
    found = values(model_type)
    model = tiny(model_type)
    heads, kv_heads = model.facts.num_heads, model.facts.num_kv_heads
    own = found["value_output"][0].reshape(kv_heads, -1).repeat_interleave(heads // kv_heads, 0).flatten()
    torch.testing.assert_close(found["attention_value_output"][0], own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_change_at_every_site_reaches_the_logits(model_type: str) -> None:
    model = tiny(model_type)
    sites = list(sites_of(model.facts))
    cells = [swap(site, 1, (2, 4), run="zero" if site.startswith("key") else "source") for site in sites]
    batch = Batch(cells=list(enumerate(cells)), pairs=pairs(3), families=("logits", "kl"))
    outcome = Engine(model, capture_budget_bytes=1 << 30, shortcut=False).run(batch)
    assert outcome.num_failed == 0
    moved = outcome.columns["kl_base"].reshape(len(sites), 3).max(-1)
    assert [site for site, kl in zip(sites, moved, strict=True) if not kl > 0] == []
    assert np.isfinite(moved).all()
    assert model.is_causal


def test_a_fused_projection_of_unequal_blocks_is_cut_where_they_end() -> None:
    module = tiny("phi3").module.model.layers[1].self_attn
    found = values("phi3")
    fused = module.qkv_proj(found["attention_input"])
    torch.testing.assert_close(
        torch.cat([found[f"{n}_output"] for n in ("query", "key", "value")], -1), fused
    )
    assert found["query_output"].shape[-1] == 2 * found["key_output"].shape[-1]


def test_a_type_without_a_table_is_refused_with_the_types_that_have_one() -> None:
    with pytest.raises(ModelError, match=r"'lama' have no named sites; .*module path .*did you mean 'llama'"):
        family_of("lama")


def test_the_table_for_users_says_where_each_site_lies() -> None:
    rows = {row.site: row for row in describe(replace(tiny("gpt_neox").facts, num_heads=8, num_kv_heads=8))}
    assert list(rows) == [site for site in SITES if site in family_of("gpt_neox").sites]
    assert (rows["block_input"].module, rows["block_input"].side) == ("gpt_neox.layers.*", "input")
    assert rows["key_output"].module == "gpt_neox.layers.*.attention.query_key_value"
    assert rows["key_output"].heads == 8
    assert "interleaved" in rows["key_output"].note
    assert rows["mlp_output"].heads is None


def test_no_model_type_is_in_two_tables() -> None:
    assert len(MODEL_TYPES) == len(set(MODEL_TYPES))
