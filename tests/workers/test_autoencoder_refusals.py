"""Promise: an autoencoder that is not known, that contradicts its tensors, or that needs what is not stored
is refused by the name of the key; what is said of training refuses nothing; no file is read as a plain ReLU
for want of a config."""

from pathlib import Path
from typing import Any

import pytest
import torch
from autoencoder_files import (
    NEW,
    OLD,
    TRAINER,
    K,
    W,
    dictionary,
    draw,
    gated,
    layers,
    matrices,
    refused,
    sae_lens,
)
from safetensors.torch import save_file

from workers.autoencoders.kinds import is_said_in_training
from workers.intervene.features import SparseAutoencoder

SCALAR, COUNT = torch.tensor(0.5), torch.tensor(4)
PLAIN = {"architecture": "standard", "apply_b_dec_to_input": False}


def without(tensors: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


@pytest.mark.parametrize(
    ("config", "tensors", "says"),
    [
        # not known
        (
            {"architecture": "crosscoder"},
            {},
            r"cfg\.json: architecture: 'crosscoder' is not known; known are stand",
        ),
        ({"architecture": ["topk"]}, {}, r"architecture: \['topk'\] is not known"),
        ({"architecture": "transcoder"}, {}, "architecture: 'transcoder' is not known"),
        ({"activation_fn_str": "tanh-relu"}, {}, "activation_fn_str: 'tanh-relu' is not known"),
        ({"activation_fn": "gelu"}, {}, "activation_fn: 'gelu' is not known"),
        (
            {"normalize_activations": "rms"},
            {},
            "normalize_activations: 'rms' is not known; known are none, expected",
        ),
        ({"normalize_activations": ["none"]}, {}, "normalize_activations"),
        ({"reshape_activations": "flat"}, {}, "reshape_activations: 'flat' is not known"),
        (
            {"apply_b_dec_to_input": "yes"},
            {},
            "apply_b_dec_to_input: 'yes' is not known; known are true and false",
        ),
        ({"input_scale": 2.0}, {}, "input_scale: this version does not know the key"),
        ({"foo": None}, {}, "foo: this version does not know the key"),
        ({"post_norm": False}, {}, "post_norm: this"),
        (
            {"activation_fn_kwargs": {"k": 3, "signed": True}},
            {},
            r"activation_fn_kwargs\.signed: True is not known",
        ),
        ({"activation_fn_kwargs": [3]}, {}, r"activation_fn_kwargs: \[3\] is no object"),
        ({"metadata": [3]}, {}, r"metadata: \[3\] is no object"),
        (
            {"metadata": {"normalize_activations": "layer_norm"}},
            {},
            r"metadata\.normalize_activations: 'layer_norm', ",
        ),
        ({"d_out": W}, {}, f"d_out: {W}: a transcoder writes another place"),
        (
            {"metadata": {"hook_name_out": "b.hook_mlp_out"}},
            {},
            r"metadata\.hook_name_out: 'b\.hook_mlp_out': a trans",
        ),
        # contradictions
        ({"d_in": W + 1}, {}, f"d_in: {W + 1}, and the tensors have {W}"),
        ({"d_sae": 2 * K}, {}, f"d_sae: {2 * K}, and the tensors have {K}"),
        (
            {"architecture": "topk", "k": K + 1},
            {},
            f"k: {K + 1} is no whole number of features above 0 and up to the {K}",
        ),
        ({"architecture": "topk", "k": 0}, {}, "k: 0 is no whole number"),
        ({"architecture": "topk", "k": 2.5}, {}, r"k: 2\.5 is no whole number"),
        ({"architecture": "topk", "k": True}, {}, "k: True is no whole number"),
        ({"architecture": "topk", "k": [3]}, {}, r"k: \[3\] is no whole number"),
        (
            {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 99}},
            {},
            r"activation_fn_kwargs\.k: 99 is no whole number",
        ),
        (
            {"architecture": "topk", "k": 3, "activation_fn_kwargs": {"k": 4}},
            {},
            "k: 3, and activation_fn_kwargs has 4",
        ),
        (
            {"architecture": "topk", "k": 3, "activation_fn_str": "relu"},
            {},
            "'relu', which contradicts the architecture",
        ),
        (
            {"activation_fn_str": "relu", "activation_fn": "topk"},
            {},
            "activation_fn_str: and activation_fn name two",
        ),
        (
            {"architecture": "gated", "activation_fn_str": "topk"},
            gated(),
            "'topk', which contradicts .* 'gated'",
        ),
        ({"k": 4}, {}, "k: 4, which the architecture 'standard' does not have"),
        ({}, {"threshold": torch.ones(K)}, "holds 'threshold', which the architecture 'standard'"),
        ({}, {"W_skip": torch.ones(W, W)}, "holds 'W_skip', which the architecture 'standard'"),
        ({}, {"log_threshold": torch.ones(K)}, "holds 'log_threshold'"),
        (
            {"architecture": "jumprelu"},
            {},
            "'jumprelu' .* needs 'threshold' or 'topk_threshold', and it is not there",
        ),
        ({"architecture": "jumprelu"}, {"threshold": SCALAR}, r"threshold has the shape \[\]"),
        (
            {"architecture": "jumprelu"},
            {"threshold": torch.ones(K), "log_threshold": torch.ones(K)},
            "'threshold' and 'log_threshold' are both there",
        ),
        (
            {"architecture": "topk", "k": 3},
            {"threshold": torch.ones(K)},
            "holds 'threshold', which .* 'topk'",
        ),
        ({"architecture": "gated"}, {}, "'gated' .* needs '.*', and it is not there"),
        ({"architecture": "gated"}, without(gated(), "r_mag"), "needs 'r_mag', and it is not there"),
        ({"architecture": "gated"}, gated() | {"b_enc": torch.ones(K)}, "holds 'b_enc', which .* 'gated'"),
        (
            {"rescale_acts_by_decoder_norm": True},
            {},
            "rescale_acts_by_decoder_norm: true, which .* 'standard' does not",
        ),
        (
            {},
            {"scaling_factor": torch.full((K,), 2.0)},
            "finetuning_scaling_factor: false or missing, and .* holds fac",
        ),
        (
            {"apply_b_dec_to_input": True},
            without(matrices(), "b_dec"),
            "needs .*'b_dec'.* and it is not there",
        ),
        # what is not stored
        (
            {"normalize_activations": "expected_average_only_in"},
            {},
            "normalize_activations: 'expected_average_only_in' n",
        ),
        (
            {"normalize_activations": True},
            {},
            "normalize_activations: 'expected_average_only_in' needs the factor",
        ),
        (
            {"finetuning_scaling_factor": True},
            {},
            "finetuning_scaling_factor: true, and .* does not hold the factors",
        ),
        ({"architecture": "topk"}, {}, "k: is missing, and a TopK needs it"),
        ({"architecture": "batchtopk", "k": 3}, {}, "'batchtopk' .* needs 'threshold' or 'topk_threshold'"),
        (
            {"architecture": "batchtopk", "k": 3},
            {"topk_threshold": torch.tensor(0.0, dtype=torch.float64)},
            "topk_threshold: 0 is what it is before training",
        ),
        ({"d_sae": None}, {}, "d_sae: None, and the tensors have"),
    ],
)
def test_a_config_of_sae_lens_is_refused_by_the_name_of_the_key(
    config: dict[str, Any], tensors: dict[str, Any], says: str, tmp_path: Path
) -> None:
    held = tensors if "W_enc" in tensors else matrices(**tensors)
    refused(sae_lens(tmp_path / "a", held, **{**PLAIN, **config}), says)


@pytest.mark.parametrize(
    ("trainer", "tensors", "says"),
    [
        (
            {"dict_class": "IdentityDict"},
            {},
            r"config\.json: trainer\.dict_class: 'IdentityDict' is not known",
        ),
        (
            {"trainer_class": "CrosscoderTrainer"},
            {},
            r"trainer\.trainer_class: 'CrosscoderTrainer' is not known",
        ),
        ({}, {}, r"trainer\.dict_class: is missing"),
        (
            {"dict_class": "AutoEncoder", "norm_factor": 3.2},
            {},
            r"trainer\.norm_factor: this version does not know",
        ),
        (
            {"dict_class": "AutoEncoder", "k": 4},
            {},
            r"trainer\.k: 4, which the class AutoEncoder does not have",
        ),
        ({"dict_class": "AutoEncoder", "dict_size": 3}, {}, f"dict_size: 3, and the tensors have {K}"),
        (
            {"dict_class": "AutoEncoder"},
            {"threshold": torch.ones(K)},
            "holds 'threshold', which the class AutoEncoder",
        ),
        (
            {"dict_class": "AutoEncoderTopK"},
            {},
            r"trainer\.k: is missing, and the class AutoEncoderTopK needs it",
        ),
        ({"dict_class": "AutoEncoderTopK", "k": 99}, {}, r"trainer\.k: 99 is no whole number of features"),
        ({"dict_class": "AutoEncoderTopK", "k": 5}, {"k": COUNT}, r"trainer\.k: 5, and ae\.pt has 4"),
        ({"dict_class": "AutoEncoderTopK"}, {"k": torch.tensor(40)}, r"ae\.pt: k: 40 is no whole number"),
        ({"dict_class": "AutoEncoderTopK"}, {"k": SCALAR}, r"ae\.pt: k: is no whole number"),
        ({"dict_class": "BatchTopKSAE", "k": 4}, {}, "needs 'threshold' or"),
        (
            {"dict_class": "BatchTopKSAE", "k": 4},
            {"threshold": torch.tensor(-1.0)},
            "threshold: -1 is what it is before",
        ),
        ({"dict_class": "BatchTopKSAE", "k": 4}, {"threshold": torch.tensor(float("nan"))}, "threshold: nan"),
        ({"dict_class": "GatedAutoEncoder"}, {}, "needs '.*', and it is not there"),
        (
            {"dict_class": "MatryoshkaBatchTopKSAE", "k": 4, "group_sizes": [1, 2]},
            {"threshold": SCALAR},
            r"trainer\.group_sizes: \[1, 2\] are not the",
        ),
    ],
)
def test_a_config_of_dictionary_learning_is_refused_by_the_name_of_the_key(
    trainer: dict[str, Any], tensors: dict[str, Any], says: str, tmp_path: Path
) -> None:
    held = layers(b_dec=draw(W, seed=0), **tensors)
    refused(dictionary(tmp_path / "a", held, **{**TRAINER, **trainer}), says)


def test_what_is_trained_between_two_places_is_no_autoencoder(tmp_path: Path) -> None:
    path = dictionary(tmp_path / "a", layers(bias=draw(W, seed=0)), dict_class="AutoEncoder")
    config = path / "config.json"
    config.write_text(config.read_text().replace('"io": "out"', '"io": "in_and_out"'))
    refused(path, r"buffer\.io: 'in_and_out': it writes another place")


def test_what_is_said_of_training_refuses_nothing(tmp_path: Path) -> None:
    said = {"wandb_url": "x", "my_dataset_path": "y", "l1_coefficient": 5, "lr": 1e-4, "n_training_tokens": 3}
    made = [
        sae_lens(tmp_path / "a", matrices(log_sparsity=torch.zeros(K)), **PLAIN, **OLD | said),
        sae_lens(tmp_path / "b", matrices(), **PLAIN, **NEW, **said),
    ]
    one, other = (SparseAutoencoder.from_file(path) for path in made)
    assert torch.equal(one.coordinates(draw(3, W, seed=0)), other.coordinates(draw(3, W, seed=0)))
    for name in ("input_scale", "encoder_layer", "layer_norm", "pre_bias", "foo", "activation", "k_train"):
        assert not is_said_in_training(name)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (
            layers(b_dec=draw(W, seed=0), k=COUNT, threshold=SCALAR),
            r"holds k as a TopK or a BatchTopK does, .* config\.json",
        ),
        (layers(b_dec=draw(W, seed=0)), r"holds b_dec beside encoder\.weight as a TopK or BatchTopK does"),
        (matrices(k=COUNT), r"holds k as a TopK or a BatchTopK does"),
        (
            matrices(topk_threshold=SCALAR),
            r"holds topk_threshold as a BatchTopK of SAELens does, which needs its cfg",
        ),
        (matrices(threshold=SCALAR), "holds threshold, of no dimension, as a BatchTopK does"),
        (matrices(threshold=torch.ones(K), log_threshold=torch.ones(K)), "are both there"),
        (matrices(r_mag=torch.ones(K)), "a gated autoencoder needs 'b_gate' or 'gate_bias'"),
        (
            matrices(log_jumprelu_threshold=torch.ones(K)),
            "holds 'log_jumprelu_threshold', which this version",
        ),
        (matrices(W_skip=torch.ones(W, W)), "holds 'W_skip', which this version does not know"),
        (without(matrices(bias=draw(W, seed=0)), "b_dec"), "holds 'bias', which this version does not know"),
        (matrices(scaling_factor=torch.full((K,), 2.0)), "holds 'scaling_factor'"),
        (gated(), r"does not say whether the decoder's bias is taken off .* write centered: true or false"),
        (
            matrices(k=COUNT, threshold=torch.tensor(-1.0), group_sizes=torch.tensor([K])),
            "threshold: -1 is what it is before training",
        ),
    ],
)
def test_a_file_alone_that_is_of_another_kind_is_refused(
    tensors: dict[str, torch.Tensor], says: str, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", says)


@pytest.mark.parametrize("centered", [False, True])
def test_a_gated_file_alone_is_read_as_the_study_says(centered: bool, tmp_path: Path) -> None:
    save_file(gated(), tmp_path / "a.safetensors")
    found = SparseAutoencoder.from_file(tmp_path / "a.safetensors", centered=centered)
    path = sae_lens(tmp_path / "b", gated(), architecture="gated", apply_b_dec_to_input=centered)
    x = draw(9, W, seed=0)
    assert torch.equal(found.coordinates(x), SparseAutoencoder.from_file(path).coordinates(x))


def test_a_study_may_not_say_otherwise_than_the_config(tmp_path: Path) -> None:
    path = sae_lens(tmp_path / "a", matrices(), **PLAIN)
    refused(path, r"centered: true contradicts apply_b_dec_to_input of .*cfg\.json", centered=True)
    assert not SparseAutoencoder.from_file(path, centered=False).centered
    path = dictionary(tmp_path / "b", layers(bias=draw(W, seed=0)), dict_class="AutoEncoder")
    refused(path, r"centered: false contradicts the class AutoEncoder of .*config\.json", centered=False)
