"""Promise: the built-in models compute what their names say: an MLP its layers, a GRU what torch.nn.GRU does,
a GPT what the transformers library's GPT-2 does with the same weights; a wrong input is refused clearly."""

from typing import Any

import plain_gru
import pytest
import torch
from tiny import VOCAB, facts_of, pairs, swap
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel
from zoo import GPT, GRU, MLP, vectors, zoo

import workers.zoo.models as zoo_modules
from workers.engine.engine import Batch, Engine
from workers.engine.replay.probe import probed
from workers.errors import ModelError
from workers.model.families import sites_of
from workers.model.loading import LoadedModel
from workers.zoo.build import make


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu", "tanh"])
def test_an_mlp_is_linear_maps_and_activations(activation: str) -> None:
    model = make("mlp", **MLP | {"activation": activation})
    weights = model.state_dict()
    given = vectors(5, 2, 4)
    hidden = given.reshape(5, 8)
    for layer in range(2):
        linear = hidden @ weights[f"layers.{layer}.linear.weight"].T + weights[f"layers.{layer}.linear.bias"]
        hidden = getattr(functional, activation)(linear)
    expected = hidden @ weights["head.weight"].T + weights["head.bias"]
    torch.testing.assert_close(model(inputs_embeds=given).logits, expected[:, None], rtol=0, atol=1e-6)


def test_an_mlp_with_a_vocabulary_lays_its_tokens_side_by_side() -> None:
    model = make("mlp", **MLP | {"vocab_size": 30, "num_inputs": 4})
    ids = torch.tensor([[3, 29, 0, 7]])
    assert model.embed is not None
    given = model.embed.weight[ids]
    assert given.shape == (1, 4, 2)
    assert torch.equal(model(ids).logits, model(inputs_embeds=given).logits)


def test_an_mlp_takes_one_vector_for_each_example() -> None:
    given = vectors(5, 2, 4)
    model = zoo("zoo:mlp").module
    assert torch.equal(model(inputs_embeds=given.flatten(1)).logits, model(inputs_embeds=given).logits)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gru", GRU | {"vocab_size": 61}),
        ("gru", GRU | {"vocab_size": 61, "per_step": True}),
        ("gpt", GPT),
        ("gpt", GPT | {"outputs": 2}),
    ],
)
@pytest.mark.parametrize("own", [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])
def test_padding_on_either_side_is_as_if_it_were_not_there(
    name: str, options: dict[str, Any], own: list[int]
) -> None:
    model = make(name, **options)
    ids = torch.tensor([[7, 8, 9, 10, 11], [4, 5, 6, 3, 2]])
    mask = torch.tensor([[1] * 5, own])
    alone = model(ids[1:, mask[1].bool()]).logits
    found = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(found[:1], model(ids[:1]).logits, rtol=0, atol=1e-6)
    there = found[1:, mask[1].bool()] if found.shape[1] > 1 else found[1:]
    torch.testing.assert_close(there, alone, rtol=0, atol=1e-6)


def gru_and_torchs(**more: Any) -> tuple[zoo_modules.GRU, nn.GRU]:
    model = make("gru", **GRU | more)
    assert isinstance(model, zoo_modules.GRU)
    torch.manual_seed(0)
    theirs = nn.GRU(4, 4, num_layers=2, batch_first=True)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(3)
    model.copy_weights(theirs)
    return model, theirs


@pytest.mark.parametrize("per_step", [False, True])
def test_a_gru_is_torchs_gru(per_step: bool) -> None:
    model, theirs = gru_and_torchs(per_step=per_step)
    given = vectors(5, 10, 4)
    states = theirs(given)[0]
    logits = model(inputs_embeds=given).logits
    assert logits.shape == (5, 10 if per_step else 1, 3)
    torch.testing.assert_close(logits, model.head(states if per_step else states[:, -1:]), rtol=0, atol=1e-6)


def test_the_gru_written_out_is_torchs_gru() -> None:
    _, theirs = gru_and_torchs()
    given = vectors(10, 4)
    torch.testing.assert_close(plain_gru.states(theirs, given), theirs(given)[0], rtol=0, atol=1e-6)


def test_only_a_gru_of_the_same_shape_is_copied() -> None:
    model, _ = gru_and_torchs()
    for other in (nn.GRU(4, 4), nn.GRU(3, 4, 2), nn.GRU(4, 4, 2, bidirectional=True)):
        with pytest.raises(ModelError, match=r"cannot be copied: only GRU\(4, 4, num_layers=2\)"):
            model.copy_weights(other)


def gpt2_twin(model: nn.Module) -> Any:
    """The transformers library's GPT-2 with the weights of a built-in GPT."""
    config = GPT2Config(
        vocab_size=VOCAB,
        n_embd=16,
        n_layer=2,
        n_head=4,
        n_positions=128,
        activation_function="gelu",
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    ours = model.state_dict()
    theirs = {
        "transformer.wte.weight": ours["embed.weight"],
        "transformer.wpe.weight": ours["positions.weight"],
        "transformer.ln_f.weight": ours["norm.weight"],
        "transformer.ln_f.bias": ours["norm.bias"],
        "lm_head.weight": ours["head.weight"],
    }
    for layer in range(2):
        theirs |= _block(ours, f"blocks.{layer}", f"transformer.h.{layer}")
    twin = GPT2LMHeadModel(config)
    twin.load_state_dict(theirs)
    return twin.eval()


def _block(ours: dict[str, Tensor], here: str, there: str) -> dict[str, Tensor]:
    """GPT-2 keeps its linear maps transposed, and queries, keys and values in one."""
    names = {"ln_1": "attention_norm", "ln_2": "mlp_norm"}
    maps = {
        "attn.c_attn": [f"attention.{part}" for part in ("query", "key", "value")],
        "attn.c_proj": ["attention.project"],
        "mlp.c_fc": ["mlp.up"],
        "mlp.c_proj": ["mlp.down"],
    }
    found = {}
    for kind in ("weight", "bias"):
        found |= {f"{there}.{name}.{kind}": ours[f"{here}.{ln}.{kind}"] for name, ln in names.items()}
        for name, parts in maps.items():
            joined = torch.cat([ours[f"{here}.{part}.{kind}"] for part in parts])
            found[f"{there}.{name}.{kind}"] = joined.t()
    return found


def sharpened() -> LoadedModel:
    """A GPT with large weights, so that what is changed anywhere shows."""
    module = make("gpt", **GPT)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5).add_(0.05)
    return probed(LoadedModel.wrap(module, zoo("zoo:gpt").facts))


def test_a_gpt_is_gpt2_at_every_site() -> None:
    ours = sharpened()
    twin = gpt2_twin(ours.module)
    theirs = probed(LoadedModel.wrap(twin, facts_of(twin, "gpt2")))
    ids = torch.arange(24).reshape(2, 12)
    torch.testing.assert_close(ours.module(ids).logits, twin(ids).logits, rtol=1e-5, atol=1e-5)
    assert ours.is_causal
    assert list(sites_of(ours.facts)) == list(sites_of(theirs.facts))
    cells = [swap(site, layer, (2, 4)) for site in sites_of(ours.facts) for layer in (0, 1)]
    heads = ("query_output", "key_output", "value_output", "attention_value_output")
    cells += [swap(site, 0, (1, 4), heads=(2, 0)) for site in heads]
    batch = Batch(cells=list(enumerate(cells)), pairs=pairs(3), families=("logits", "kl"))
    one, other = (
        Engine(model, capture_budget_bytes=1 << 20, shortcut=False).run(batch) for model in (ours, theirs)
    )
    assert one.num_failed == other.num_failed == 0
    for name in ("label_logit", "logsumexp", "kl_base", "kl_source"):
        torch.testing.assert_close(
            *(torch.tensor(found.columns[name]) for found in (one, other)), rtol=1e-4, atol=1e-5
        )
    assert (one.columns["kl_base"].reshape(len(cells), -1).max(-1) > 1e-6).all()


def test_a_gpt_classifier_reads_the_last_token() -> None:
    model = make("gpt", **GPT | {"outputs": 2})
    ids = torch.tensor([[1, 2, 3], [4, 5, 3]])
    logits = model(ids).logits
    assert logits.shape == (2, 1, 2)
    torch.testing.assert_close(logits[1:], model(ids[1:]).logits)
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize(
    ("ref", "given", "says"),
    [
        ("zoo:gru", {}, "give input_ids or inputs_embeds, one of them"),
        ("zoo:gru", {"input_ids": torch.tensor([[1]])}, "has no vocabulary: give inputs_embeds, or make it"),
        ("zoo:gru", {"inputs_embeds": torch.zeros(2, 4)}, r"are \[2, 4\]; give \(rows, tokens, width\)"),
        (
            "zoo:gru",
            {"inputs_embeds": torch.zeros(2, 0, 4)},
            "0 steps of 4 dimensions; give at least one step",
        ),
        (
            "zoo:mlp",
            {"inputs_embeds": torch.zeros(2, 3, 4)},
            r"8 wide, and is given \[3, 4\] for each example",
        ),
        (
            "zoo:mlp",
            {"inputs_embeds": torch.zeros(1, 2, 4), "attention_mask": torch.tensor([[1, 0]])},
            "some of it padding",
        ),
        ("zoo:gpt", {"input_ids": torch.zeros(1, 129, dtype=torch.long)}, r"give 1 to 128 \(max_tokens\)"),
    ],
)
def test_a_wrong_input_is_refused_in_one_sentence(ref: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        zoo(ref).module(**given)
