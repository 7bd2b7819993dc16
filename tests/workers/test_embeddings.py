"""Promise: noise is measured in what the model's token embeddings are, scaled as the model scales them."""

import pytest
import torch
from tiny import tiny_module
from torch import nn
from zoo import zoo

from workers.model.weight_values import embedding_std


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text"])
def test_it_is_the_deviation_of_all_numbers(family: str) -> None:
    module = tiny_module(family)
    rows = module.get_input_embeddings()(torch.arange(61))
    assert embedding_std(module) == pytest.approx(rows.std(correction=0).item(), rel=1e-5)


def test_hooks_of_others_do_not_see_it() -> None:
    module, seen = tiny_module("gpt2"), []
    module.get_input_embeddings().register_forward_hook(lambda *_: seen.append(1))
    assert embedding_std(module) > 0
    assert seen == []


def test_it_is_one_where_there_are_no_token_embeddings() -> None:
    assert embedding_std(zoo("zoo:mlp").module) == 1.0
    assert embedding_std(nn.Linear(2, 2)) == 1.0
    assert embedding_std(zoo("zoo:gpt").module) != 1.0
