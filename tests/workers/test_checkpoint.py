"""Promise: a checkpoint that has not exactly the tensors of its config's model is refused with a list of
them, unless they are to be drawn; what older releases saved beside the weights is no difference."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import facts_of, tiny_module
from torch import Tensor

from workers.errors import ModelError
from workers.model.loading import load_module
from workers.vocabulary import ModelSpec

Weights = dict[str, Tensor]


def saved(folder: Path, model_type: str = "llama", **config: Any) -> Any:
    """A tiny model in `folder`, and in memory."""
    module = tiny_module(model_type, **config)
    module.save_pretrained(folder)
    return module


def edit(folder: Path, change: Callable[[Weights], Any]) -> Weights:
    """Change the checkpoint's tensors."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return weights


def configure(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")


def read(folder: Path, module: Any, **spec: Any) -> Any:
    found = facts_of(module, module.config.model_type, folder)
    return load_module(ModelSpec(ref="m", **spec), found, device="cpu")


def refusal(folder: Path, module: Any) -> str:
    with pytest.raises(ModelError) as refused:
        read(folder, module)
    return str(refused.value)


def test_missing_unexpected_and_mismatched_tensors_are_named_with_what_to_do(tmp_path: Path) -> None:
    module = saved(tmp_path)

    def change(weights: Weights) -> None:
        del weights["model.layers.1.mlp.up_proj.weight"]
        weights["model.layers.0.mlp.up_proj.bias"] = torch.zeros(48)
        weights["model.layers.2.mlp.down_proj.weight"] = torch.zeros(32, 40)

    edit(tmp_path, change)
    assert refusal(tmp_path, module) == (
        f"m cannot be loaded from {tmp_path} as LlamaForCausalLM: its weights are not this model's:"
        " 1 missing in the checkpoint: model.layers.1.mlp.up_proj.weight;"
        " 1 unexpected, without a place in the model: model.layers.0.mlp.up_proj.bias;"
        " 1 mismatched in shape: model.layers.2.mlp.down_proj.weight ([32, 40], the model's [32, 48]);"
        " give a checkpoint of this model or correct its config.json; to draw what has no value at random and"
        " leave out what is unexpected, add missing_weights: initialise and a seed to the model, as in"
        " {ref: m, missing_weights: initialise, seed: 0}"
    )


def test_of_many_tensors_the_first_ten_are_named(tmp_path: Path) -> None:
    module = saved(tmp_path)
    configure(tmp_path, num_hidden_layers=5)
    said = refusal(tmp_path, module)
    assert "18 missing in the checkpoint: model.layers.3.input_layernorm.weight, " in said
    assert said.count("model.layers.") == 10 and "model.layers.4.input_layernorm.weight and 8 more;" in said
    configure(tmp_path, num_hidden_layers=2)
    assert "9 unexpected, without a place in the model: model.layers.2.input_layernorm" in refusal(
        tmp_path, module
    )


def test_a_head_of_another_class_is_told_by_both_names(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    module = tiny_module("llama")
    AutoModelForSequenceClassification.from_config(module.config).save_pretrained(tmp_path)
    said = refusal(tmp_path, module)
    assert "as LlamaForCausalLM (config.json was saved with LlamaForSequenceClassification)" in said
    assert (
        "missing in the checkpoint: lm_head.weight; 1 unexpected, without a place in the model: score" in said
    )


def test_an_expert_less_than_the_config_says_is_a_mismatch(tmp_path: Path) -> None:
    module = saved(tmp_path, "mixtral", num_local_experts=3)
    edit(tmp_path, lambda weights: weights.pop("model.layers.1.block_sparse_moe.experts.2.w2.weight"))
    assert "mlp.experts.down_proj ([2, 32, 48], the model's [3, 32, 48])" in refusal(tmp_path, module)


def test_experts_that_cannot_be_put_together_are_named(tmp_path: Path) -> None:
    """The library names them only in its log."""
    module = saved(tmp_path, "mixtral", num_local_experts=3)
    name = "model.layers.1.block_sparse_moe.experts"

    def change(weights: Weights) -> None:
        weights[f"{name}.2.w2.weight"] = torch.zeros(3, 5)
        del weights[f"{name}.0.w1.weight"]

    edit(tmp_path, change)
    said = refusal(tmp_path, module)
    fused, shapes = "model.layers.1.mlp.experts", "([3, 5], the others [32, 48])"
    assert (
        "; 2 that the checkpoint has not all parts of, or in other shapes:"
        f" {fused}.down_proj, {fused}.gate_up_proj;"
        f" 2 that stand out in it: {name}.0.w1.weight (missing), {name}.2.w2.weight {shapes}; check config"
    ) in said


def test_a_part_of_all_experts_that_is_missing_is_named(tmp_path: Path) -> None:
    module = saved(tmp_path, "mixtral", num_local_experts=3)

    def change(weights: Weights) -> None:
        for name in [name for name in weights if name.endswith("w3.weight")]:
            del weights[name]

    edit(tmp_path, change)
    assert ".mlp.experts.gate_up_proj; check config.json" in refusal(tmp_path, module)


def cut_prefix(weights: Weights) -> None:
    """As a model without its head is saved."""
    for name in [*weights]:
        weights[name.removeprefix("transformer.")] = weights.pop(name)


def add_masks(weights: Weights) -> None:
    """As releases before 4.30 saved GPT-2."""
    for layer in range(3):
        weights[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32)
        weights[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)


def add_tied_copy(weights: Weights) -> None:
    weights["lm_head.weight"] = weights["transformer.wte.weight"].clone()


def add_neox(weights: Weights) -> None:
    """As the published Pythia models are."""
    for layer in range(3):
        attention = f"gpt_neox.layers.{layer}.attention"
        weights[f"{attention}.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.bool)
        weights[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        weights[f"{attention}.rotary_emb.inv_freq"] = torch.ones(1)


def add_frequencies(weights: Weights) -> None:
    for layer in range(3):
        weights[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)


@pytest.mark.parametrize(
    ("model_type", "change"),
    [
        ("gpt2", lambda weights: None),
        ("gpt2", cut_prefix),
        ("gpt2", add_masks),
        ("gpt2", add_tied_copy),
        ("gpt_neox", add_neox),
        ("llama", add_frequencies),
    ],
    ids=["tied", "without its head's prefix", "masks", "tied copy", "pythia", "frequencies"],
)
def test_what_is_no_weight_or_is_tied_is_no_difference(
    tmp_path: Path, model_type: str, change: Callable[[Weights], None]
) -> None:
    module = saved(tmp_path, model_type)
    edit(tmp_path, change)
    found = read(tmp_path, module)
    for name, parameter in module.named_parameters():
        assert torch.equal(found.get_parameter(name), parameter), name


def test_the_masks_of_gpt_neo_are_no_difference_and_a_bias_of_a_like_name_is(tmp_path: Path) -> None:
    """The library itself would list the masks."""
    from transformers import AutoConfig, AutoModelForCausalLM

    size = {
        "vocab_size": 61,
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "max_position_embeddings": 32,
    }
    config = AutoConfig.for_model("gpt_neo", attention_types=[[["global", "local"], 1]], **size)
    module = AutoModelForCausalLM.from_config(config)
    module.save_pretrained(tmp_path)

    def mask(weights: Weights) -> None:
        weights["transformer.h.0.attn.attention.bias"] = torch.ones(1, 1, 32, 32)
        weights["transformer.h.0.attn.attention.masked_bias"] = torch.tensor(-1e9)

    edit(tmp_path, mask)
    assert torch.equal(read(tmp_path, module).lm_head.weight, module.lm_head.weight)
    edit(
        tmp_path,
        lambda weights: weights.update({"transformer.h.0.attn.attention.q_proj.bias": torch.ones(16)}),
    )
    assert (
        "1 unexpected, without a place in the model: transformer.h.0.attn.attention.q_proj.bias;"
        in refusal(tmp_path, module)
    )


def test_a_tied_matrix_that_is_missing_is_named(tmp_path: Path) -> None:
    module = saved(tmp_path, "gpt2")
    edit(tmp_path, lambda weights: weights.pop("transformer.wte.weight"))
    assert "2 missing in the checkpoint: lm_head.weight, transformer.wte.weight;" in refusal(tmp_path, module)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_act": "foo"}, "KeyError: 'foo'"),
        ({"rope_parameters": {"rope_type": "foo", "rope_theta": 1e4}}, "foo"),
        ({"num_attention_heads": 3}, "not a multiple of the number of attention heads"),
    ],
)
def test_a_config_that_makes_no_model_is_one_line(tmp_path: Path, changes: Any, said: str) -> None:
    module = saved(tmp_path)
    configure(tmp_path, **changes)
    text = refusal(tmp_path, module)
    assert text.startswith(f"m cannot be loaded from {tmp_path}: ") and said in text and "\n" not in text
    assert text.endswith(
        "; check config.json, the weights and the memory that is free, or save the model"
        " again (save_pretrained)"
    )


@pytest.fixture
def random_state() -> Iterator[None]:
    """What the caller would draw next must not change."""
    torch.manual_seed(7)
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("random_state")
@pytest.mark.parametrize("spec", [{}, {"missing_weights": "initialise", "seed": 0}])
def test_loading_leaves_the_callers_random_state_alone(tmp_path: Path, spec: Any) -> None:
    module = tiny_module("llama")
    with torch.random.fork_rng():
        module.save_pretrained(tmp_path)
    if spec:
        edit(tmp_path, lambda weights: weights.pop("lm_head.weight"))
    torch.manual_seed(7)
    read(tmp_path, module, **spec)


def test_what_was_drawn_and_left_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = saved(tmp_path)

    def change(weights: Weights) -> None:
        weights["score.weight"] = weights.pop("lm_head.weight")

    edit(tmp_path, change)
    found = read(tmp_path, module, missing_weights="initialise", seed=3)
    assert found.lm_head.weight.std() > 0.1
    (line,) = [record.message for record in caplog.records if record.name.startswith("workers.")]
    assert line == (
        "m: drawn from seed 3, or left out: 1 missing in the checkpoint: lm_head.weight;"
        " 1 unexpected, without a place in the model: score.weight"
    )
