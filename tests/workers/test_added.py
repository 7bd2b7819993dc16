"""Promise: `attention_added` and `mlp_added` are what a block adds to its residual stream: read, swapped, set
to numbers or differentiated they are what a hook written by hand gives, in whole and in resumed forwards."""

from functools import cache
from typing import Any

import numpy as np
import plain
import pytest
import torch
from tiny import pairs, swap, tiny_module
from torch import Tensor

from swapyard import IntervenableModel, Unit
from workers.engine.batch import HOOKED, RESUMED
from workers.engine.engine import Batch, BatchResult, Engine
from workers.engine.replay.probe import probed
from workers.errors import ModelError
from workers.model.hooks import Tap, visiting
from workers.model.loading import LoadedModel, facts_of

BY = 0.22
"""What the tiny Granite multiplies by: no power of two, so that rounding would show."""

ADDED: dict[str, tuple[str, str, float]] = {
    "granite": ("self_attn", "mlp", BY),
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm", 1.0),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm", 1.0),
    "llama": ("self_attn", "mlp", 1.0),
    "stablelm": ("self_attn", "mlp", 1.0),
}
"""By family the modules whose outputs are added, written down from the library's code, and times what."""

CASES = [(model_type, site) for model_type in ADDED for site in ("attention_added", "mlp_added")]
BASE, SOURCE = torch.tensor([[5, 9, 33, 7, 11]]), torch.tensor([[6, 2, 30, 8, 12]])
LAYER, TOKEN = 1, 3


@cache
def module_of(model_type: str) -> Any:
    changes: dict[str, Any] = {"granite": {"residual_multiplier": BY}}.get(model_type, {})
    return tiny_module(
        model_type, **changes, **({"use_parallel_residual": True} if model_type == "stablelm" else {})
    )


@cache
def model_of(model_type: str) -> LoadedModel:
    return probed(LoadedModel.wrap(module_of(model_type), facts_of(module_of(model_type))))


def place(model_type: str, site: str) -> tuple[str, float]:
    attention, mlp, by = ADDED[model_type]
    return f"model.layers.{LAYER}.{attention if site == 'attention_added' else mlp}", by


def by_hand(model_type: str, site: str, ids: Tensor, added: Tensor) -> Tensor:
    """The logits where at one token a part of a block adds `added` [W]."""
    path, by = place(model_type, site)

    def touch(output: Tensor) -> Tensor:
        new = output.clone()
        new[:, TOKEN] = added / by
        return new

    with torch.no_grad():
        return plain.run(module_of(model_type), ids, [(path, "output", touch)])


def added_in(model_type: str, site: str, ids: Tensor) -> Tensor:
    """What the part adds at the token, [W]."""
    path, by = place(model_type, site)
    with torch.no_grad():
        return by * plain.record(module_of(model_type), ids, path, "output")[0, TOKEN]


@pytest.mark.parametrize(("model_type", "site"), CASES)
def test_a_swap_is_that_of_a_hook_by_hand(model_type: str, site: str) -> None:
    net = IntervenableModel(module_of(model_type))
    expected = by_hand(model_type, site, BASE, added_in(model_type, site, SOURCE))
    found = net(BASE, SOURCE, units=[Unit(site, layer=LAYER, position=TOKEN)]).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, net(BASE, units=()).logits, atol=1e-2)


@pytest.mark.parametrize(("model_type", "site"), CASES)
def test_numbers_that_are_written_are_what_the_block_then_adds(model_type: str, site: str) -> None:
    net = IntervenableModel(module_of(model_type))
    added = torch.linspace(-1, 1, 32)
    other = "mlp_added" if site == "attention_added" else "attention_added"
    look = [
        Unit(name, layer=LAYER, position=TOKEN, intervention="collect")
        for name in ("block_input", "block_output", other)
    ]
    unit = Unit(site, layer=LAYER, position=TOKEN, from_=added)
    out = net(BASE, units=[unit, *look])
    torch.testing.assert_close(out.logits, by_hand(model_type, site, BASE, added), rtol=1e-5, atol=1e-5)
    before, after, rest = (one[0, 0] for one in out.collected)
    torch.testing.assert_close(after - before - rest, added, rtol=1e-5, atol=1e-5)
    zero = net(BASE, units=[Unit(site, layer=LAYER, position=TOKEN, from_="zero"), *look]).collected
    torch.testing.assert_close(zero[1] - zero[0], zero[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ADDED)
def test_what_is_collected_is_what_the_residual_stream_gains(model_type: str) -> None:
    net = IntervenableModel(module_of(model_type))
    names = ("block_input", "attention_added", "mlp_added", "block_output")
    units = [Unit(name, layer=LAYER, intervention="collect") for name in names]
    before, attention, mlp, after = net(BASE, units=units).collected
    torch.testing.assert_close(before + attention + mlp, after, rtol=1e-5, atol=1e-5)


def test_gradients_reach_what_is_written_as_by_hand() -> None:
    module, path = module_of("granite"), f"model.layers.{LAYER}.mlp"
    for start in (torch.linspace(-1, 1, 32), added_in("granite", "mlp_added", BASE)):
        ours, theirs = (start.clone().requires_grad_() for _ in range(2))
        unit = Unit("mlp_added", layer=LAYER, position=TOKEN, from_=ours)
        IntervenableModel(module)(BASE, units=[unit]).logits[0, -1, 7].backward()

        def touch(output: Tensor, theirs: Tensor = theirs) -> Tensor:
            return torch.cat([output[:, :TOKEN], (theirs / BY)[None, None], output[:, TOKEN + 1 :]], 1)

        plain.run(module, BASE, [(path, "output", touch)])[0, -1, 7].backward()
        assert ours.grad is not None and ours.grad.abs().max() > 1e-3
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def run(model: LoadedModel, cells: list[Any], *, resume: bool) -> BatchResult:
    batch = Batch(cells=list(enumerate(cells)), pairs=pairs(3), families=("logits", "kl"))
    outcome = Engine(model, capture_budget_bytes=1 << 28, shortcut=False, resume=resume).run(batch)
    assert [error for error in outcome.columns["error"] if error] == []
    return outcome


@pytest.mark.parametrize("model_type", ["granite", "olmo2"])
def test_the_engine_gives_rows_of_hooks_by_hand_in_both_tiers(model_type: str) -> None:
    model = model_of(model_type)
    cells = [swap(site, LAYER, (TOKEN,)) for site in ("attention_added", "mlp_added")]
    tiers = {True: HOOKED if model.resume is None else RESUMED, False: HOOKED}
    for resume, tier in tiers.items():
        outcome = run(model, cells, resume=resume)
        assert outcome.tiers == {tier: 6}
        for number, site in enumerate(("attention_added", "mlp_added")):
            for row, pair in enumerate(pairs(3)):
                base, source = (torch.tensor([pair.tokens[run]]) for run in ("base", "source"))
                expected = by_hand(model_type, site, base, added_in(model_type, site, source))
                found = outcome.columns["label_logit"][3 * number + row]
                np.testing.assert_allclose(found, expected[0, 4, pair.label_ids[0]], rtol=1e-4, atol=1e-4)


def test_a_job_at_a_refused_place_is_a_failure_that_says_so() -> None:
    """Whoever runs cells without a plan's checks meets the same refusal."""
    cells = [
        swap("query_output", LAYER, (TOKEN,), heads=(2,)),
        swap("query_output", LAYER, (TOKEN,)),
        swap("query_output", LAYER, (TOKEN,), heads=(2,), operation="collect", run="zero"),
        swap("query_norm_output", LAYER, (TOKEN,), heads=(2,)),
    ]
    batch = Batch(cells=list(enumerate(cells)), pairs=pairs(1), families=("logits",))
    outcome = Engine(model_of("olmo2"), capture_budget_bytes=1 << 28, shortcut=False).run(batch)
    refused, *others = outcome.columns["error"]
    assert others == [None, None, None]
    assert "single heads of query_output are refused" in refused


def test_a_product_that_no_visit_changes_stays_to_the_last_bit() -> None:
    module, tap = module_of("granite"), Tap(f"model.layers.{LAYER}.mlp", "output", scale=BY)
    seen: list[Tensor] = []

    def only_one(tensor: Tensor, _: int) -> Tensor:
        seen.append(tensor)
        new = tensor.clone()
        new[0, TOKEN] = 0
        return new

    after: list[Tensor] = []
    with torch.no_grad(), visiting(module, [(tap, only_one), (tap.unscaled, lambda t, _: after.append(t))]):
        module(BASE)
    with torch.no_grad():
        clean = plain.record(module, BASE, tap.module, "output")
    assert torch.equal(seen[0], clean * BY)
    others = [token for token in range(5) if token != TOKEN]
    assert torch.equal(after[0][:, others], clean[:, others])
    assert bool((after[0][:, TOKEN] == 0).all())


def test_no_module_returns_a_product_so_it_is_not_skipped() -> None:
    with pytest.raises(ModelError, match=r"skip at model.layers.1.mlp:output times 0.22: no module returns"):
        IntervenableModel(module_of("granite"))(BASE, units=[Unit("mlp_added", layer=1, intervention="skip")])
