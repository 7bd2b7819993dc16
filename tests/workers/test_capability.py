"""Promise: what a loaded model can do is a typed report; what it lost has a reason, and a family that usually
resumes is missed in words that cannot be overlooked. An error of the machine is never a reason."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import facts_of, tiny_module
from torch import nn

from workers.engine.replay.probe import probed
from workers.model.capability import ABILITIES, Ability, Capability
from workers.model.loading import LoadedModel
from workers.vocabulary import ModelSpec
from workers.zoo.build import build
from workers.zoo.configs import config_of

pytestmark = pytest.mark.versions

OPTIONS = {"width": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 9, "seed": 0}


def wrapped(module: Any, kind: str = "llama") -> LoadedModel:
    return probed(LoadedModel.wrap(module, facts_of(module, kind)))


def test_a_decoder_can_do_everything_and_says_so_in_one_line() -> None:
    found = wrapped(tiny_module("llama")).capability
    assert {one.name for one in found.abilities if one.has} == set(ABILITIES)
    assert (found.attention, found.dtype, found.device) == ("sdpa", "float32", "cpu")
    assert found.weights_bytes > 4 * 1000
    assert found.versions.keys() == {"torch", "transformers"}
    assert found.lines("m") == ["m: resumed, checked at load (sdpa attention, float32 on cpu)"]
    assert not found.is_surprise and found.lacking(tuple(ABILITIES)) == ()


def test_a_report_is_the_same_after_it_was_written_and_read() -> None:
    whole = wrapped(tiny_module("llama")).capability
    lost = replace(whole, abilities=(Ability(name="resumed", has=False, reason="why", error="ValueError"),))
    for one in (whole, lost, Capability()):
        assert Capability.from_json(one.to_json()) == one


def test_a_model_without_a_cache_says_what_it_lacks_and_why() -> None:
    module = build(config_of("gpt", OPTIONS))
    found = probed(
        LoadedModel.wrap(module, module.config.facts(dtype="float32"), ModelSpec(ref="zoo:gpt"))
    ).capability
    (lacking,) = found.lacking(("resumed", "unchanged"))
    assert lacking == Ability(name="resumed", has=False, reason="a built-in model has no key/value cache")
    assert not found.is_surprise
    assert found.tier == "hooked: a built-in model has no key/value cache"


class DropsItsCache(nn.Module):
    """An attention that is handed no cache, whatever its name."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, cache: Any = None, past_key_values: Any = None, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


def test_a_listed_family_that_does_not_resume_is_a_warning_with_the_version_that_it_was_seen_with() -> None:
    module = tiny_module("llama")
    for block in module.model.layers:
        block.self_attn = DropsItsCache(block.self_attn)
    found = wrapped(module).capability
    assert found.ability("resumed") == Ability(
        name="resumed", has=False, reason="LlamaForCausalLM takes no key/value cache"
    )
    assert found.is_surprise
    *_, warning = found.lines("mine")
    assert warning.startswith("WARNING: mine runs hooked, several times slower: LlamaForCausalLM takes no")
    assert "last seen to resume with transformers 5." in warning
    assert f"torch {torch.__version__}" in warning
    assert "--require resumed" in warning


def fails_resumed(module: nn.Module, error: Exception) -> nn.Module:
    """Raises in a forward of one token, as only resumed ones are while a model is checked."""

    def check(_: nn.Module, args: tuple[Any, ...]) -> None:
        if args[0].shape[1] == 1:
            raise error

    module.model.layers[1].register_forward_pre_hook(check)  # type: ignore[union-attr, index]
    return module


def test_an_exception_is_a_reason_with_its_type() -> None:
    found = wrapped(fails_resumed(tiny_module("llama"), KeyError("odd"))).capability
    assert found.ability("resumed").error == "KeyError"
    assert "KeyError" in found.tier


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_and_a_broken_device_are_raised(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        wrapped(fails_resumed(tiny_module("llama"), error))
    assert caught.value is error


def test_a_shortcut_that_cannot_be_is_told_beside_a_model_that_resumes() -> None:
    module = tiny_module("llama")
    head = module.lm_head
    module.lm_head = Capped(head)
    module.set_output_embeddings(module.lm_head)
    found = wrapped(module).capability
    assert found.ability("resumed").has
    assert not found.ability("label_rows").has
    assert found.lines("m")[1:] == [
        "m: without label_rows (where only labels are asked for, only their rows of the unembedding are"
        " multiplied): logits are more than the head's input times its weight"
    ]


class Capped(nn.Module):
    """An unembedding whose logits are bent."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.weight = inner.weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return 3 * torch.tanh(hidden @ self.weight.mT / 3)
