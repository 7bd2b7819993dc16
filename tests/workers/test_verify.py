"""Promise: a model is resumed only where resumed runs were seen to give what whole runs give; otherwise it
runs hooked and says why, no exception escapes, and nothing of the check stays in the model."""

from typing import Any

import pytest
import torch
from test_replay import check_tiers
from tiny import LAYERS, facts_of, pairs, swap, tiny_module
from torch import Tensor, nn

from workers.engine.replay.probe import probed
from workers.model.loading import LoadedModel
from workers.vocabulary import ModelSpec
from workers.zoo.build import build
from workers.zoo.configs import config_of

pytestmark = pytest.mark.versions


def wrapped(module: Any) -> LoadedModel:
    return probed(LoadedModel.wrap(module, facts_of(module, "llama")))


def marks(module: nn.Module) -> list[tuple[int, int, bool]]:
    return [
        (len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m)) for m in module.modules()
    ]


def test_a_decoder_resumes_and_the_check_leaves_nothing_behind() -> None:
    module = tiny_module("llama")
    before = marks(module)
    model = wrapped(module)
    assert model.tier_reason == "resumed, checked at load"
    assert model.resume is not None and model.resume.grows and model.resume.is_chain
    assert model.resume.block_of["model.layers.2.self_attn.q_proj"] == 2
    assert "model.norm" not in model.resume.block_of
    assert marks(module) == before


class CountsItsTokens(nn.Module):
    """Takes the first token that it sees for token 0."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor) -> Tensor:
        return self.inner(hidden) * (1 + torch.arange(hidden.shape[1])[:, None] / 10)


class LooksAtTheRowsBefore(nn.Module):
    """A row is changed by those before it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor) -> Tensor:
        return self.inner(hidden) * (1 + torch.arange(hidden.shape[0])[:, None, None] / 10)


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("kind", [CountsItsTokens, LooksAtTheRowsBefore])
def test_a_block_that_is_another_in_a_resumed_run_is_found(kind: Any, layer: int) -> None:
    module = tiny_module("llama")
    module.model.layers[layer].mlp = kind(module.model.layers[layer].mlp)
    model = wrapped(module)
    assert model.resume is None
    assert model.tier_reason.startswith("hooked: ")
    assert "gives other logits, by" in model.tier_reason


def test_a_layer_without_a_cache_of_its_own_is_found() -> None:
    module = tiny_module("llama")
    attention = module.model.layers[1].self_attn
    plain = attention.forward
    attention.forward = lambda *args, cache=None, past_key_values=None, **kwargs: plain(*args, **kwargs)
    model = wrapped(module)
    assert model.resume is None
    assert model.tier_reason == "hooked: some blocks keep no keys and values of their own"


def test_a_model_that_looks_ahead_is_not_resumed() -> None:
    module = tiny_module("llama")
    module.config.is_causal = False
    for block in module.model.layers:
        block.self_attn.is_causal = False
    model = wrapped(module)
    assert not model.is_causal
    assert model.tier_reason == "hooked: a token changes what comes before it"


def test_an_exception_is_a_reason() -> None:
    module = tiny_module("llama")

    def several_tokens(_: nn.Module, args: tuple[Any, ...]) -> None:
        if args[0].shape[1] == 1:
            raise ValueError("ids only\nsecond line")

    module.model.layers[1].register_forward_pre_hook(several_tokens)
    before = marks(module)
    model = wrapped(module)
    assert model.resume is None
    assert model.tier_reason == "hooked: a resumed run raised ValueError: ids only"
    assert marks(module) == before


def test_a_built_in_model_says_that_it_has_no_cache() -> None:
    module = build(
        config_of("gpt", {"width": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 9, "seed": 0})
    )
    facts = module.config.facts(dtype="float32")
    model = probed(LoadedModel.wrap(module, facts, ModelSpec(ref="zoo:gpt")))
    assert (model.resume, model.tier_reason) == (None, "hooked: a built-in model has no key/value cache")


class Backwards(nn.Module):
    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.flip(1)


def test_a_module_whose_tokens_lie_elsewhere_is_left_to_the_hooked_tier() -> None:
    module = tiny_module("llama")
    block = module.model.layers[1]
    block.mlp = nn.Sequential(Backwards(), block.mlp, Backwards())
    module.model.layers[2].mlp.act_fn = module.model.layers[0].mlp.act_fn
    model = wrapped(module)
    assert model.resume is not None
    assert "model.layers.1.mlp" in model.resume.block_of
    for path in ("model.layers.1.mlp.0", "model.layers.1.mlp.1", "model.layers.2.mlp.act_fn"):
        assert path not in model.resume.block_of
    cells = [swap(f"model.layers.1.mlp.{path}", None, (3,)) for path in (1, 2)]
    tiers = check_tiers(model, [*cells, swap("mlp_output", 1, (3,))], pairs(2)).columns["tier"]
    assert tiers.reshape(3, 2)[:, 0].tolist() == ["hooked", "hooked", "resumed"]


@pytest.mark.parametrize("window", [3, 5, 20])
def test_a_sliding_window_shorter_than_the_prompt_resumes(window: int) -> None:
    module = tiny_module("mistral", sliding_window=window)
    model = probed(LoadedModel.wrap(module, facts_of(module, "mistral")))
    assert model.tier_reason == "resumed, checked at load"
    cells = [
        swap("attention_output", layer, (token,), read=11) for layer in range(LAYERS) for token in (1, 7)
    ]
    outcome = check_tiers(model, cells, pairs(3, lengths=(12, 12)))
    assert outcome.tiers == {"resumed": 18}


def test_in_bfloat16_a_model_resumes_within_its_wider_bound() -> None:
    module = tiny_module("llama").to(torch.bfloat16)
    model = probed(LoadedModel.wrap(module, facts_of(module, "llama")))
    assert model.tier_reason == "resumed, checked at load"
