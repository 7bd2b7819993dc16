"""Promise: autoencoders of SAELens' and dictionary_learning's folders have the features of the published
equations, whichever release wrote them; a swap of features keeps the error, and its gradient is theirs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from autoencoder_files import (
    NEW,
    OLD,
    TRAINER,
    K,
    Published,
    W,
    dictionary,
    draw,
    gated,
    jump,
    layers,
    matrices,
    relu,
    sae_lens,
    topk,
    wide,
)
from safetensors.torch import save_file

from workers.intervene.features import SparseAutoencoder
from workers.intervene.masks import Mask
from workers.intervene.operations import exchange
from workers.intervene.saving import filled_space, space_config, space_tensors

THRESHOLD = 0.2 + 0.5 * draw(K, seed=8).abs()
Case = Callable[[Path], tuple[Path, Published]]


def published(tensors: dict[str, Any], act: Any, centered: bool, **more: Any) -> Published:
    """Of tensors with the names of SAELens."""
    bias = wide(tensors["b_dec"])
    centre = bias if centered else np.zeros(W)
    return Published(wide(tensors["W_enc"]), wide(tensors["W_dec"]), act, centre, bias, **more)


def standard(old: bool, centered: bool, normalized: str = "none") -> Case:
    def case(folder: Path) -> tuple[Path, Published]:
        found = matrices()
        b = wide(found["b_enc"])
        config = {**OLD, "activation_fn_str": "relu", "activation_fn_kwargs": {}} if old else NEW
        said = {"normalize_activations": normalized, "apply_b_dec_to_input": centered}
        path = sae_lens(folder, found, architecture="standard", **config, **said)
        return path, published(found, lambda z: relu(z + b), centered, normalized=normalized)

    return case


def oldest(folder: Path) -> tuple[Path, Published]:
    """From before architectures and normalisations had names; ones were written for factors."""
    found = matrices(scaling_factor=torch.ones(K))
    b = wide(found["b_enc"])
    said = {"hook_point": "blocks.2.hook_mlp_out", "hook_point_layer": 2, "normalize_activations": False}
    path = sae_lens(folder, found, activation_fn="relu", **said, lr=4e-4, use_ghost_grads=True)
    return path, published(found, lambda z: relu(z + b), centered=True)


def old_topk(folder: Path) -> tuple[Path, Published]:
    found = matrices()
    b = wide(found["b_enc"])
    said = {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}}
    path = sae_lens(folder, found, **OLD, **said, apply_b_dec_to_input=True, normalize_activations="none")
    return path, published(found, lambda z: topk(z + b, 5), centered=True)


def normalized_topk(folder: Path) -> tuple[Path, Published]:
    found = matrices()
    b = wide(found["b_enc"])
    said = {
        "architecture": "topk",
        "k": 6,
        "apply_b_dec_to_input": True,
        "normalize_activations": "layer_norm",
    }
    path = sae_lens(folder, found, **NEW, **said)
    return path, published(found, lambda z: topk(z + b, 6), centered=True, normalized="layer_norm")


def rescaled_topk(folder: Path) -> tuple[Path, Published]:
    """Features are chosen by what they weigh once decoded."""
    found = matrices()
    b, norms = wide(found["b_enc"]), np.linalg.norm(wide(found["W_dec"]), axis=1)
    said = {
        "architecture": "topk",
        "k": 4,
        "rescale_acts_by_decoder_norm": True,
        "apply_b_dec_to_input": False,
    }
    path = sae_lens(folder, found, **NEW, **said, normalize_activations="none")
    made = published(found, lambda z: topk((z + b) * norms, 4), centered=False)
    return path, Published(made.encoder, made.decoder / norms[:, None], made.act, made.centre, made.bias)


def jumprelu(name: str, old: bool) -> Case:
    def case(folder: Path) -> tuple[Path, Published]:
        found = matrices(**{name: THRESHOLD if name == "threshold" else THRESHOLD.log()})
        b, threshold = wide(found["b_enc"]), wide(THRESHOLD)
        config = {**OLD, "activation_fn_str": "relu"} if old else NEW
        said = {"apply_b_dec_to_input": True, "normalize_activations": "constant_norm_rescale"}
        path = sae_lens(folder, found, architecture="jumprelu", **config, **said)
        made = published(
            found, lambda z: jump(z + b, threshold), centered=True, normalized="constant_norm_rescale"
        )
        return path, made

    return case


def negative_jumprelu(folder: Path) -> tuple[Path, Published]:
    """A ReLU is there as well, so that no feature is negative."""
    found = matrices(threshold=THRESHOLD - 0.6)
    b, threshold = wide(found["b_enc"]), wide(found["threshold"])
    path = sae_lens(folder, found, architecture="jumprelu", **NEW, apply_b_dec_to_input=False)
    return path, published(found, lambda z: jump(z + b, threshold), centered=False)


def batchtopk(name: str) -> Case:
    """As a checkpoint in training has it: the threshold of rescaled features, and rows not yet of norm 1."""

    def case(folder: Path) -> tuple[Path, Published]:
        found = matrices(topk_threshold=torch.tensor(0.7, dtype=torch.float64))
        b, norms = wide(found["b_enc"]), np.linalg.norm(wide(found["W_dec"]), axis=1)
        said = {
            "k": 2.5,
            "rescale_acts_by_decoder_norm": True,
            "topk_threshold_lr": 0.01,
            "decoder_init_norm": 0.1,
        }
        path = sae_lens(folder, found, architecture=name, **NEW, **said, matryoshka_widths=[5, K])
        made = published(found, lambda z: jump((z + b) * norms, 0.7), centered=True)
        return path, Published(made.encoder, made.decoder / norms[:, None], made.act, made.centre, made.bias)

    return case


def lens_gated(folder: Path) -> tuple[Path, Published]:
    found = gated()
    gate, r, b = (wide(found[name]) for name in ("b_gate", "r_mag", "b_mag"))
    path = sae_lens(folder, found, architecture="gated", **NEW, apply_b_dec_to_input=True)
    return path, published(found, lambda z: (z + gate > 0) * relu(np.exp(r) * z + b), centered=True)


def finetuned(folder: Path) -> tuple[Path, Published]:
    factor = 0.5 + draw(K, seed=9).abs()
    found = matrices(finetuning_scaling_factor=factor)
    b = wide(found["b_enc"])
    config = {**OLD, "finetuning_scaling_factor": True, "activation_fn_str": "relu"}
    path = sae_lens(folder, found, architecture="standard", **config, apply_b_dec_to_input=False)
    made = published(found, lambda z: relu(z + b), centered=False)
    decoder = made.decoder * wide(factor)[:, None]
    return path, Published(made.encoder, decoder, made.act, made.centre, made.bias)


def expected_average(folder: Path) -> tuple[Path, Published]:
    """The factor of the checkpoint is stored beside it."""
    found, factor = matrices(), 0.37
    b, bias = wide(found["b_enc"]), wide(found["b_dec"])
    said = {"normalize_activations": "expected_average_only_in", "apply_b_dec_to_input": True}
    path = sae_lens(folder, found, architecture="standard", **NEW, **said)
    (path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor}))
    made = published(found, lambda z: relu(z + b), centered=True)
    return path, Published(
        factor * made.encoder, made.decoder / factor, made.act, bias / factor, bias / factor
    )


def half_precision(folder: Path) -> tuple[Path, Published]:
    found = {name: tensor.bfloat16() for name, tensor in matrices(threshold=THRESHOLD).items()}
    b, threshold = wide(found["b_enc"]), wide(found["threshold"])
    config = {**NEW, "dtype": "bfloat16", "reshape_activations": "hook_z"}
    folder.mkdir()
    save_file(found, folder / "layer_8.safetensors")
    said = {"architecture": "jumprelu", "d_in": W, "d_sae": K, "apply_b_dec_to_input": True}
    (folder / "cfg.json").write_text(json.dumps({**config, **said}))
    made = published(found, lambda z: jump(z + b, threshold), centered=True)
    return folder / "layer_8.safetensors", made


def dictionary_class(name: str, bias: str, act: Callable[..., Any], centered: bool, **more: Any) -> Case:
    """A class of dictionary_learning with linear layers; `act` is given ``z + encoder.bias``."""

    def case(folder: Path) -> tuple[Path, Published]:
        config = {key: more[key] for key in ("k", "trainer_class") if key in more}
        tensors = {key: value for key, value in more.items() if isinstance(value, torch.Tensor)}
        tensors = {("k" if key == "k_buffer" else key): value for key, value in tensors.items()}
        found = layers(**{bias: matrices()["b_dec"]}, **tensors)
        said = {} if "trainer_class" in config else {"dict_class": name}
        path = dictionary(folder, found, **TRAINER, **said, **config)
        b = wide(found["encoder.bias"])
        return path, published(matrices(), lambda z: act(z + b), centered)

    return case


def dictionary_gated(folder: Path) -> tuple[Path, Published]:
    found = gated()
    named = {"decoder_bias": found["b_dec"], "gate_bias": found["b_gate"], "mag_bias": found["b_mag"]}
    tensors = layers(**named, r_mag=found["r_mag"])
    del tensors["encoder.bias"]
    gate, r, b = (wide(found[name]) for name in ("b_gate", "r_mag", "b_mag"))
    path = dictionary(folder, tensors, **TRAINER, dict_class="GatedAutoEncoder", l1_penalty=0.1)
    return path, published(found, lambda z: (z + gate > 0) * relu(np.exp(r) * z + b), centered=True)


def dictionary_jumprelu(folder: Path) -> tuple[Path, Published]:
    found = matrices(threshold=THRESHOLD)
    b, threshold = wide(found["b_enc"]), wide(THRESHOLD)
    path = dictionary(
        folder, found, **TRAINER, dict_class="JumpReluAutoEncoder", target_l0=20.0, bandwidth=0.001
    )
    return path, published(found, lambda z: jump(z + b, threshold), centered=False)


def matryoshka(folder: Path) -> tuple[Path, Published]:
    buffers = {"k": torch.tensor(3, dtype=torch.int), "threshold": torch.tensor(0.9)}
    found = matrices(**buffers, group_sizes=torch.tensor([4, K - 4]))
    b = wide(found["b_enc"])
    said = {"k": 3, "group_sizes": [4, K - 4], "group_fractions": [0.2, 0.8], "group_weights": [0.5, 0.5]}
    path = dictionary(folder, found, **TRAINER, dict_class="MatryoshkaBatchTopKSAE", **said)
    return path, published(found, lambda z: jump(z + b, float(buffers["threshold"])), centered=True)


def bare_npz(folder: Path) -> tuple[Path, Published]:
    """As Gemma Scope has them."""
    found = matrices(threshold=THRESHOLD)
    folder.mkdir()
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in found.items()})
    b, threshold = wide(found["b_enc"]), wide(THRESHOLD)
    return folder / "params.npz", published(found, lambda z: jump(z + b, threshold), centered=False)


def bare(tensors: dict[str, Any], act: Callable[..., Any], centered: bool) -> Case:
    """A file alone, whose names tell enough."""

    def case(folder: Path) -> tuple[Path, Published]:
        folder.mkdir()
        save_file(tensors, folder / "a.safetensors")
        return folder / "a.safetensors", published(matrices(), act, centered)

    return case


B = wide(matrices()["b_enc"])
BATCH = {"threshold": torch.tensor(0.9), "k_buffer": torch.tensor(3, dtype=torch.int)}
CASES: dict[str, Case] = {
    "oldest": oldest,
    "standard of version 3": standard(old=True, centered=True),
    "standard of version 6": standard(old=False, centered=False),
    "layer norm": standard(old=False, centered=True, normalized="layer_norm"),
    "constant norm": standard(old=True, centered=False, normalized="constant_norm_rescale"),
    "expected average": expected_average,
    "finetuned": finetuned,
    "TopK of version 3": old_topk,
    "TopK of version 6": normalized_topk,
    "rescaled TopK": rescaled_topk,
    "JumpReLU of version 3": jumprelu("threshold", old=True),
    "JumpReLU of its logarithm": jumprelu("log_threshold", old=False),
    "JumpReLU below 0": negative_jumprelu,
    "BatchTopK": batchtopk("batchtopk"),
    "Matryoshka BatchTopK": batchtopk("matryoshka_batchtopk"),
    "gated": lens_gated,
    "file with a config in its folder": half_precision,
    "AutoEncoder": dictionary_class("AutoEncoder", "bias", relu, True),
    "AutoEncoder of 2024": dictionary_class("", "bias", relu, True, trainer_class="StandardTrainer"),
    "AutoEncoderNew": dictionary_class("AutoEncoderNew", "decoder.bias", relu, False),
    "AutoEncoderTopK": dictionary_class("AutoEncoderTopK", "b_dec", lambda z: topk(z, 3), True, k=3, **BATCH),
    "AutoEncoderTopK of 2024": dictionary_class("AutoEncoderTopK", "b_dec", lambda z: topk(z, 7), True, k=7),
    "BatchTopKSAE": dictionary_class(
        "BatchTopKSAE", "b_dec", lambda z: jump(z, np.float32(0.9)), True, k=3, **BATCH
    ),
    "GatedAutoEncoder": dictionary_gated,
    "JumpReluAutoEncoder": dictionary_jumprelu,
    "MatryoshkaBatchTopKSAE": matryoshka,
    "bare npz": bare_npz,
    "bare logarithm": bare(
        matrices(log_threshold=THRESHOLD.log()), lambda z: jump(z + B, wide(THRESHOLD)), False
    ),
    "bare AutoEncoder": bare(layers(bias=matrices()["b_dec"]), lambda z: relu(z + B), True),
}


@pytest.mark.parametrize("name", CASES)
def test_features_swaps_and_gradients_are_those_of_the_published_equations(name: str, tmp_path: Path) -> None:
    path, right = CASES[name](tmp_path / "a")
    sae = SparseAutoencoder.from_file(path)
    base, source = 2 * draw(40, W, seed=20), 2 * draw(40, W, seed=21) + 0.5
    features = right.encode(wide(base))
    found = sae.coordinates(base)
    np.testing.assert_allclose(found.numpy(), features, rtol=1e-4, atol=1e-5)
    assert ((found != 0).numpy() == (features != 0)).all()
    assert 0 < (features != 0).mean() < 0.8, "some features are active and some are not"
    for part, space in ((slice(0, K), sae), (slice(5, 12), sae[5:12])):
        new = exchange(space, "vanilla", base, source)
        np.testing.assert_allclose(
            new.numpy(), right.swapped(wide(base), wide(source), part), rtol=1e-4, atol=1e-4
        )
    for given in (base, source):
        given.requires_grad_(True)
    weights, step = draw(40, W, seed=22), 1e-6
    (exchange(sae[5:12], "vanilla", base, source) * weights).sum().backward()
    for n, given in enumerate((base, source)):
        aside = wide(draw(40, W, seed=23 + n))
        ends = [
            [
                wide(one.detach()) + (sign * step * aside if m == n else 0)
                for m, one in enumerate((base, source))
            ]
            for sign in (1, -1)
        ]
        high, low = ((right.swapped(*end, slice(5, 12)) * wide(weights)).sum(-1) for end in ends)
        slope = (wide(given.grad) * aside).sum(-1)
        np.testing.assert_allclose(slope, (high - low) / (2 * step), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["TopK of version 6", "gated", "JumpReLU of version 3", "bare npz"])
def test_one_that_is_saved_and_one_that_is_masked_do_the_same(name: str, tmp_path: Path) -> None:
    sae = SparseAutoencoder.from_file(CASES[name](tmp_path / "a")[0])
    again = filled_space(json.loads(json.dumps(space_config(sae))), space_tensors(sae))
    base, source = draw(9, W, seed=20), draw(9, W, seed=21)
    expected = exchange(sae, "vanilla", base, source)
    assert torch.equal(exchange(again, "vanilla", base, source), expected)
    mask = Mask(sae, temperature=0.01)
    with torch.no_grad():
        mask.mask.fill_(1.0)
    torch.testing.assert_close(exchange(mask, "vanilla", base, source), expected, atol=1e-5, rtol=1e-5)


def test_what_was_saved_before_there_were_kinds_is_read(tmp_path: Path) -> None:
    sae = SparseAutoencoder(draw(W, K, seed=1), draw(K, W, seed=2), threshold=THRESHOLD)
    before = {"kind": "sparse_autoencoder", "width": W, "num_features": K, "centered": False, "parts": {}}
    assert space_config(sae) == before
    assert list(sae.state_dict()) == ["encoder", "decoder", "encoder_bias", "decoder_bias", "threshold"]
    again = filled_space(before, sae.state_dict())
    assert all(torch.equal(again.state_dict()[name], there) for name, there in sae.state_dict().items())


def test_of_equal_features_the_first_are_kept_whatever_runs_beside_them() -> None:
    encoder = torch.ones(1, 6)
    sae = SparseAutoencoder(encoder, encoder.T, k=2)
    rows = torch.tensor([[1.0], [3.0], [-1.0]])
    assert sae.coordinates(rows).tolist() == [[1, 1, 0, 0, 0, 0], [3, 3, 0, 0, 0, 0], [0] * 6]
    assert torch.equal(sae.coordinates(rows[1:2]), sae.coordinates(rows)[1:2])


@pytest.mark.parametrize("name", ["AutoEncoder", "TopK of version 6", "gated", "constant norm"])
def test_no_features_are_made_of_what_is_no_number(name: str, tmp_path: Path) -> None:
    sae = SparseAutoencoder.from_file(CASES[name](tmp_path / "a")[0])
    values = draw(2, W, seed=0)
    values[1] = 0 if name == "constant norm" else torch.nan
    found = sae.coordinates(values)
    assert found[0].isfinite().all() and found[1].isnan().all()


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_of_old_and_new_torch_are_read_and_numbers_are_tensors(legacy: bool, tmp_path: Path) -> None:
    path, _ = CASES["AutoEncoderTopK"](tmp_path / "a")
    expected = SparseAutoencoder.from_file(path)
    held = {name: torch.nn.Parameter(t, requires_grad=t.is_floating_point()) for name, t in layers().items()}
    torch.save(
        {**held, "b_dec": matrices()["b_dec"], "k": 3},
        path / "ae.pt",
        _use_new_zipfile_serialization=not legacy,
    )
    found = SparseAutoencoder.from_file(path)
    assert found.k == 3
    assert torch.equal(found.coordinates(draw(5, W, seed=0)), expected.coordinates(draw(5, W, seed=0)))
