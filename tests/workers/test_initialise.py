"""Promise: weights that are drawn in the place of missing ones begin as the model's class begins them, and
are the same in every process, whatever else is missing, with any number of threads and in every dtype."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import facts_of, tiny_module
from torch import nn

from workers.errors import ModelError
from workers.model.checkpoint import Steps, draw
from workers.model.loading import load_module
from workers.vocabulary import ModelSpec

LACKING = ("lm_head.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight")
DRAWN = "977676bba31e93b1"
"""Of the first two, drawn from seed 0: in any process, by transformers 5.20.0 and 5.24.0."""


def lacking(folder: Path, *names: str, model_type: str = "llama", **config: Any) -> Any:
    """A tiny model of which `folder` lacks some tensors, and which is whole in memory."""
    module = tiny_module(model_type, **config)
    module.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if name not in names}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return module


def read(folder: Path, module: Any, seed: int = 0, dtype: Any = "float32") -> dict[str, torch.Tensor]:
    spec = ModelSpec(ref="m", missing_weights="initialise", seed=seed, dtype=dtype)
    found = load_module(spec, facts_of(module, module.config.model_type, folder), device="cpu")
    return {name: parameter.detach() for name, parameter in found.named_parameters(remove_duplicate=False)}


def digest(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(tensor.float().numpy().tobytes() for tensor in tensors)).hexdigest()[:16]


def test_what_is_drawn_from_a_seed_is_the_same_for_ever(tmp_path: Path) -> None:
    found = read(tmp_path, lacking(tmp_path, *LACKING))
    assert digest(found[LACKING[0]], found[LACKING[1]]) == DRAWN
    assert bool((found["model.norm.weight"] == 1).all())


def test_more_threads_another_random_state_and_more_missing_change_nothing(tmp_path: Path) -> None:
    one = read(tmp_path / "one", lacking(tmp_path / "one", LACKING[0]))
    module = lacking(tmp_path / "other", *LACKING)
    torch.manual_seed(99)
    torch.set_num_threads(2)
    try:
        other = read(tmp_path / "other", module)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one[LACKING[0]], other[LACKING[0]])


def test_a_seed_draws_only_what_is_missing_and_another_seed_draws_other_numbers(tmp_path: Path) -> None:
    module = lacking(tmp_path, *LACKING)
    one, other = read(tmp_path, module, seed=0), read(tmp_path, module, seed=1)
    for name, parameter in module.named_parameters():
        assert torch.equal(one[name], other[name]) == (name not in LACKING[:2]), name
        assert torch.equal(one[name], parameter) == (name not in LACKING[:2]), name
    assert not torch.equal(one[LACKING[1]].flatten()[:1000], one[LACKING[0]].flatten()[:1000])


def test_other_dtypes_have_the_same_numbers_rounded(tmp_path: Path) -> None:
    module = lacking(tmp_path, *LACKING)
    exact, rounded = read(tmp_path, module), read(tmp_path, module, dtype="bfloat16")
    for name in LACKING:
        assert torch.equal(rounded[name], exact[name].bfloat16()), name


def test_gpt2s_scaled_projections_and_tied_embeddings_begin_as_the_library_begins_them(
    tmp_path: Path,
) -> None:
    names = [
        f"transformer.h.0.{name}" for name in ("attn.c_proj.weight", "attn.c_attn.weight", "ln_1.weight")
    ]
    names += ["transformer.wte.weight", "transformer.h.0.attn.c_attn.bias"]
    module = lacking(tmp_path, *names, model_type="gpt2", n_embd=64, initializer_range=0.1)
    found = read(tmp_path, module)
    widths = [float(found[name].std()) for name in names]
    # Radford et al. 2019: what is added to the residual stream by 1 / sqrt of how often, twice in each layer.
    assert widths == pytest.approx([0.1 / 6**0.5, 0.1, 0, 0.1, 0], rel=0.03)
    assert bool((found[names[2]] == 1).all()) and bool((found[names[4]] == 0).all())
    assert abs(float(found[names[1]].mean())) < 0.005
    assert torch.equal(found["lm_head.weight"], found["transformer.wte.weight"])


def test_the_row_of_the_padding_token_is_zero(tmp_path: Path) -> None:
    found = read(tmp_path, lacking(tmp_path, "model.embed_tokens.weight"))["model.embed_tokens.weight"]
    assert bool((found[0] == 0).all()) and float(found[1:].std()) == pytest.approx(0.3, rel=0.05)


def test_a_tensor_of_another_shape_is_drawn_in_the_models(tmp_path: Path) -> None:
    module = lacking(tmp_path, LACKING[0])
    other = read(tmp_path, module)[LACKING[0]]
    weights = load_file(tmp_path / "model.safetensors") | {LACKING[0]: torch.zeros(3, 32)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(read(tmp_path, module)[LACKING[0]], other)


def test_torchs_own_uniform_weights_are_drawn_between_their_bounds() -> None:
    with Steps() as steps:
        layers = nn.ModuleDict({"one": nn.Linear(64, 64), "other": nn.Linear(64, 64)})
    draw(layers, ["one.weight", "other.weight"], steps, seed=0)
    one, other = (layers[name].weight.detach() for name in ("one", "other"))
    assert float(one.abs().max()) == pytest.approx(1 / 8, rel=0.01) and float(one.mean()) == pytest.approx(
        0, abs=0.005
    )
    assert float(one.std()) == pytest.approx(1 / 8 / 3**0.5, rel=0.03)
    assert not torch.equal(one, other)


def test_a_tensor_that_nobody_gives_a_value_cannot_be_drawn() -> None:
    module = nn.Linear(2, 2)
    with Steps() as steps:
        module.bias.data.zero_()
    draw(module, ["bias"], steps, seed=0)
    with pytest.raises(
        ModelError, match=r"weight is missing, and Linear does not say how it begins: .*cannot"
    ):
        draw(module, ["weight"], steps, seed=0)
