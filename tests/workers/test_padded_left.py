"""Promise: a batch that is padded at the left gives each example the logits that it has alone, whatever kind
of positions the model has; where that cannot be, it is refused."""

from typing import Any

import pytest
import torch
from tiny import tiny_module
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from workers.errors import RunError
from workers.intervene.inputs import inputs_of
from workers.intervene.intervenable import IntervenableModel
from workers.intervene.units import Unit

PROMPTS = ([5, 6, 7, 8, 9, 10], [11, 12, 13], [14])


def alibi(kind: str) -> Any:
    sizes: dict[str, dict[str, Any]] = {
        "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
        "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4},
        "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=61, initializer_range=0.3, **sizes[kind])
    return AutoModelForCausalLM.from_config(config).eval()


def module_of(kind: str) -> Any:
    return alibi(kind) if kind in ("bloom", "mpt", "falcon") else tiny_module(kind)


def padded() -> dict[str, Tensor]:
    longest = max(map(len, PROMPTS))
    rows = [[3] * (longest - len(prompt)) + prompt for prompt in PROMPTS]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox", "bloom", "mpt", "falcon"])
@torch.inference_mode()
def test_each_example_has_the_logits_that_it_has_alone(kind: str) -> None:
    module = module_of(kind)
    call = inputs_of(padded(), module, None)
    logits = module(*call.args, **call.kwargs).logits
    for row, prompt in enumerate(PROMPTS):
        alone = module(torch.tensor([prompt])).logits[0]
        torch.testing.assert_close(logits[row, -len(prompt) :], alone, atol=2e-5, rtol=2e-5)


@torch.inference_mode()
def test_a_swap_in_a_padded_batch_is_the_swap_of_each_example_alone() -> None:
    net = IntervenableModel(tiny_module("gpt2"), [Unit("block_output", layer=1, position=-1)])
    source = {name: tensor.flip(0) for name, tensor in padded().items()}  # each with another's value
    together = net(padded(), source).output.logits[:, -1]
    for row, prompt in enumerate(PROMPTS):
        alone = net([list(prompt)], [list(PROMPTS[-1 - row])]).output.logits[:, -1]
        torch.testing.assert_close(together[row], alone[0], atol=2e-5, rtol=2e-5)


def test_positions_that_are_given_stay_and_others_are_not_made_without_need() -> None:
    module = tiny_module("gpt2")
    given = torch.zeros(3, 6, dtype=torch.long)
    assert inputs_of({**padded(), "position_ids": given}, module, None).kwargs["position_ids"] is given
    at_the_right = {name: tensor.flip(1) for name, tensor in padded().items()}
    assert "position_ids" not in inputs_of(at_the_right, module, None).kwargs


def test_a_model_that_cannot_be_told_positions_is_refused() -> None:
    class Deaf(nn.Module):
        """Counts positions from the first token of the batch, whatever the mask says."""

        def __init__(self, kind: str | None) -> None:
            super().__init__()
            if kind is not None:
                self.config = AutoConfig.for_model("gpt2", vocab_size=61)
                self.config.model_type = kind

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return input_ids * attention_mask

    with pytest.raises(
        RunError, match=r"padded at the left: Deaf \(deaf\) cannot be told .*pad at the right"
    ):
        inputs_of(padded(), Deaf("deaf"), None)
    # What a mask means to a module of the user's own is the user's business.
    assert inputs_of(padded(), Deaf(None), None).spans == ((0, 6), (3, 6), (5, 6))
