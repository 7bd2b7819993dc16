"""Promise: in every family, and in unusual configurations, each named site keeps what its name promises
within the dtype's rounding; a site that does not is refused, with the reason and what to name instead, and
nothing else is."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import odd_models
import pytest
import torch
from tiny import tiny_module

from swapyard import IntervenableModel, Unit
from workers.engine.replay.probe import probed
from workers.errors import ModelError
from workers.intervene.intervenable import places_of
from workers.intervene.site_probe import find_identities
from workers.model.families import BUILT_IN, FAMILIES, family_of
from workers.model.hooks import visiting
from workers.model.loading import LoadedModel, facts_of
from workers.model.places import Places
from workers.model.site_identities import Identities, known_refusals, may_refuse, promised
from workers.zoo.build import build
from workers.zoo.configs import config_of

MODEL_TYPES = [model_type for family in FAMILIES for model_type in family.model_types]
UNUSUAL: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"head_dim": 12, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
    ("llama", {"num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 2}),
    ("mistral", {"sliding_window": 2, "head_dim": 16}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 1}),
    ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True}),
    ("cohere", {"use_qk_norm": True}),
    ("gpt_neox", {"use_parallel_residual": False, "rotary_pct": 0.5}),
    ("phi3", {"partial_rotary_factor": 0.5, "num_key_value_heads": 1, "sliding_window": 2}),
    ("gemma2", {"attn_logit_softcapping": 5.0, "num_key_value_heads": 4, "sliding_window": 2}),
    ("olmo", {"clip_qkv": 0.05}),
    ("granite", {"attention_multiplier": 0.1, "embedding_multiplier": 12.0, "logits_scaling": 8.0}),
    ("gpt2", {"n_inner": 40, "scale_attn_by_inverse_layer_idx": True}),
]
HEADS_OF_OLMO2 = "single heads of query_output are refused: a norm over all heads follows"


def found(module: Any) -> Identities:
    return places_of(module).identities()


@cache
def multiplied() -> Any:
    """A Granite whose outputs are multiplied before they are added; leave it as it is."""
    return tiny_module("granite", residual_multiplier=0.22)


def failing(report: Identities) -> set[tuple[str, str]]:
    return {(one.site, one.identity) for one in report.findings if not one.holds}


def tried(report: Identities) -> set[tuple[str, str]]:
    return {(one.site, one.identity) for one in report.findings}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_name_of_every_family_keeps_its_promise_or_is_refused(model_type: str) -> None:
    report = found(tiny_module(model_type))
    names = promised(family_of(model_type))
    assert tried(report) == {(site, name) for site, own in names.items() for name in own}
    assert names.keys() == family_of(model_type).sites.keys()
    heads = {("query_output", "heads apart"), ("key_output", "heads apart")}
    assert failing(report) == (heads if model_type == "olmo2" else set())
    assert set(report.refusals) == {site for site, _ in failing(report)}
    assert all(one.deviation < 1e-6 for one in report.findings if one.holds)


@pytest.mark.parametrize(("model_type", "changes"), UNUSUAL)
def test_unusual_configurations_keep_every_promise(model_type: str, changes: dict[str, Any]) -> None:
    report = found(tiny_module(model_type, **changes))
    assert report.findings and not report.untried
    assert failing(report) == set() and report.refusals == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_type", ["llama", "gemma2", "olmo2", "granite"])
def test_half_precision_rounds_and_hides_nothing(model_type: str, dtype: torch.dtype) -> None:
    changes = {"residual_multiplier": 0.22} if model_type == "granite" else {}
    wrong = {"olmo2": {"query_output", "key_output"}, "granite": {"attention_output", "mlp_output"}}
    report = found(tiny_module(model_type, **changes).to(dtype))
    assert {site for site, _ in failing(report)} == wrong.get(model_type, set())


def test_what_a_multiplier_follows_is_refused_for_what_is_added() -> None:
    report = found(multiplied())
    assert set(report.refusals) == {"attention_output", "mlp_output"}
    assert str(report.refusals["mlp_output"]) == (
        "mlp_output is refused: it is not what is added: the block multiplies it by its residual_multiplier,"
        " 0.22, first (tried at load: the block adds 0.22 times mlp_output); take mlp_added"
    )
    net = IntervenableModel(multiplied())
    for intervention in ("vanilla", "collect"):
        with pytest.raises(ModelError, match=r"\(granite\): attention_output is refused: .*attention_added"):
            net(torch.tensor([[3, 4]]), units=[Unit("attention_output", layer=0, intervention=intervention)])


def test_a_multiplier_that_the_config_does_not_tell_is_found_all_the_same() -> None:
    model = probed(LoadedModel.wrap(multiplied(), replace(facts_of(multiplied()), residual_multiplier=1.0)))
    with pytest.raises(
        ModelError, match=r"mlp_output is refused: the block adds 0.22 times mlp_output; take"
    ):
        model.target("mlp_output", 1, None, None)
    assert model.target("mlp_added", 1, None, None).tap.scale == 0.22
    assert model.identities.refusals.keys() == {"attention_output", "mlp_output"}


def test_single_heads_under_a_norm_of_all_are_refused_and_the_whole_is_not() -> None:
    net, base = IntervenableModel(tiny_module("olmo2")), torch.tensor([[3, 4, 5]])
    source = torch.tensor([[6, 7, 8]])
    with pytest.raises(ModelError, match=rf"\(olmo2\): {HEADS_OF_OLMO2}.*name heads at query_norm_output"):
        net(base, source, units=[Unit("query_output", layer=0, head=2)])
    with pytest.raises(ModelError, match=r"single heads of key_output .*name heads at key_norm_output"):
        net(base, source, units=[Unit("key_output", layer=0, head=[0])])
    whole = net(base, source, units=[Unit("query_output", layer=0)]).logits
    every = net(base, source, units=[Unit("query_output", layer=0, head=[0, 1, 2, 3])]).logits
    torch.testing.assert_close(whole, every, rtol=0, atol=0)
    normed = net(base, source, units=[Unit("query_norm_output", layer=0, head=[3, 1, 0, 2])]).logits
    torch.testing.assert_close(whole, normed, rtol=1e-5, atol=1e-5)
    # Reading a head changes nothing of the others.
    (read,) = net(base, units=[Unit("query_output", layer=0, head=2, intervention="collect")]).collected
    assert read.shape == (1, 3, 8)


def test_heads_after_the_norm_leave_the_others_alone() -> None:
    net = IntervenableModel(tiny_module("olmo2"))
    look = Unit("attention_value_output", layer=1, intervention="collect")
    base, source = torch.tensor([[3, 4, 5]]), torch.tensor([[6, 7, 8]])
    (clean,) = net(base, units=[look]).collected
    for site, head, served in (("query_norm_output", 2, {2}), ("key_norm_output", 1, {2, 3})):
        (changed,) = net(base, source, units=[Unit(site, layer=1, head=head), look]).collected
        moved = (changed - clean).unflatten(-1, (4, 8)).abs().amax((0, 1, 3))
        assert {number for number, by in enumerate(moved.tolist()) if by > 1e-4} == served


@pytest.mark.parametrize(
    ("make", "fails", "refused"),
    [
        (
            lambda: odd_models.layer_scaled(odd_models.Scale),
            {"attention_output", "attention_added", "mlp_output", "mlp_added"},
            r"mlp_added is refused: the block adds something else than mlp_added, by \d+% of it; what is"
            r" added is what model.layers.\$layer.second returns: name that path",
        ),
        (
            lambda: odd_models.layer_scaled(None),
            {"attention_output", "attention_added", "mlp_output", "mlp_added"},
            r"attention_added is refused: the block adds 0.4 times attention_added; no named site has it;"
            r" what the module itself holds is model.layers.\$layer.self_attn",
        ),
        (
            odd_models.normed_over_all_heads,
            {"query_output"},
            r"single heads of query_output are refused: a change of head \d of query_output changes head \d"
            r" of attention_value_output, by \d+.\d%; leave 'head' out: the whole site may be changed",
        ),
        (
            odd_models.normed_inside_attention,
            {"attention_output", "attention_value_output"},
            r"attention_output is refused: it is not the sum of the heads of attention_value_output through"
            r" the output projection, by \d+%; take attention_added",
        ),
    ],
)
def test_a_site_that_breaks_its_promise_is_refused(
    make: Callable[[], Any], fails: set[str], refused: str
) -> None:
    report = found(make())
    assert set(report.refusals) == fails
    texts = [str(refusal) for refusal in report.refusals.values()]
    assert [text for text in texts if re.fullmatch(refused, text)] != [], texts


def test_a_layer_scale_found_by_its_path_holds_what_is_added() -> None:
    net = IntervenableModel(odd_models.layer_scaled(odd_models.Scale))
    names = ("block_input", "block_output", "model.layers.1.first", "model.layers.1.second")
    units = [
        Unit(name, layer=None if "." in name else 1, intervention="collect", position=[0, 1])
        for name in names
    ]
    before, after, attention, mlp = net(torch.tensor([[3, 4]]), units=units).collected
    torch.testing.assert_close(after - before, attention + mlp, rtol=1e-5, atol=1e-5)


def test_what_else_a_block_adds_is_shown_and_refuses_nothing() -> None:
    report = found(odd_models.with_third_branch())
    assert failing(report) == {("block_input", "total"), ("block_output", "total")}
    assert report.refusals == {}
    assert report.shown("block_output").startswith("NOT total (off by ")


def test_a_model_without_finite_numbers_is_refused_nothing() -> None:
    report = found(odd_models.not_finite())
    assert report.findings == () and report.refusals == {}


def test_a_share_of_a_projection_that_lies_elsewhere_is_refused_whole() -> None:
    module = tiny_module("gpt2")
    known, family = places_of(module), replace(family_of("gpt2"), fusion="interleaved")
    places = Places(module=module, name="model", facts=known.facts, family=family, blocks=known.blocks)
    report = find_identities(places, _runner(module))
    assert {"query_output", "key_output", "value_output"} <= report.refusals.keys()
    assert not report.refusals["query_output"].single_heads
    assert may_refuse(family, "query_output", heads=False, changes=False)


def _runner(module: Any) -> Any:
    def run(prompts: torch.Tensor, visits: Any) -> Any:
        with torch.no_grad(), visiting(module, visits) as seen:
            module(input_ids=prompts)
        return seen

    return run


def test_a_built_in_decoder_keeps_its_promises_and_others_have_none() -> None:
    options = {"width": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 16, "seed": 0}
    report = found(build(config_of("gpt", options)))
    assert failing(report) == set() and len(report.findings) == 14
    assert [family.name for family in BUILT_IN if promised(family)] == ["zoo:gpt"]


def test_a_call_that_names_no_such_site_tries_nothing() -> None:
    module, calls = tiny_module("llama"), []
    module.register_forward_hook(lambda *_: calls.append(1))
    net = IntervenableModel(module)
    net(torch.tensor([[3, 4]]), units=[Unit("block_output", layer=0, from_="zero")])
    net(torch.tensor([[3, 4]]), units=[Unit("model.layers.0.mlp", from_="zero")])
    assert len(calls) == 2
    for _ in range(2):
        net(torch.tensor([[3, 4]]), units=[Unit("mlp_added", layer=0, from_="zero")])
    assert len(calls) == 5  # tried once


def test_the_check_leaves_the_module_as_it_was() -> None:
    module = tiny_module("granite", residual_multiplier=0.5).train()
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        before = module.eval()(ids).logits
    module.train()
    found(module)
    assert module.training and module.model.layers[0].training
    hooks = [h for part in module.modules() for h in (*part._forward_hooks, *part._forward_pre_hooks)]
    assert hooks == []
    with torch.no_grad():
        assert torch.equal(module.eval()(ids).logits, before)


def test_automatic_casts_of_the_caller_do_not_fail_the_check() -> None:
    module = tiny_module("llama")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert failing(found(module)) == set()


def test_a_report_survives_json_and_says_what_its_words_mean() -> None:
    report = found(multiplied())
    assert Identities.from_json(report.to_json()) == report
    assert report.shown("attention_output") == "heads sum, NOT added (off by 78%)"
    lines = report.lines("float32")
    assert lines[0].startswith("attention_output is refused: ") and lines[1].startswith("mlp_output is")
    assert [line.partition(":")[0] for line in lines[2:-1]] == [
        "total",
        "added",
        "heads apart",
        "heads sum",
        "made",
    ]
    assert lines[-1] == "tried on the loaded model, in float32 (to 1e-05), in blocks 0, 1, 2"


def test_what_the_config_tells_is_known_before_anything_is_loaded() -> None:
    facts = facts_of(multiplied())
    assert facts.residual_multiplier == 0.22
    assert known_refusals(facts, family_of("granite")).keys() == {"attention_output", "mlp_output"}
    assert known_refusals(replace(facts, residual_multiplier=1.0), family_of("granite")) == {}
    assert known_refusals(facts, family_of("llama")) == {}
    report = Identities.of(facts, family_of("granite"))
    assert report.shown("attention_output") == "refused" and report.shown("attention_added") == ""
