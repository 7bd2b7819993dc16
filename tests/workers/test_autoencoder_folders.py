"""Promise: an autoencoder is read by the config that lies beside it, from safetensors, npz and pickles alike;
a planner looks into them without torch, and no pickle is run."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from autoencoder_files import K, W, dictionary, draw, layers, matrices, refused, sae_lens
from safetensors.torch import save_file

from workers.autoencoders.files import tensor_facts
from workers.autoencoders.kinds import AutoencoderKind
from workers.autoencoders.weights import read_weights, weights_path
from workers.errors import StudyError
from workers.intervene.features import SparseAutoencoder

PLAIN = {"architecture": "standard", "apply_b_dec_to_input": False}


def test_the_config_beside_a_file_is_its_own_or_that_of_its_folder(tmp_path: Path) -> None:
    path = sae_lens(tmp_path / "a", matrices(), **PLAIN, normalize_activations="layer_norm")
    file = path / "sae_weights.safetensors"
    assert SparseAutoencoder.from_file(file).normalization == "layer_norm"
    own = path / "sae_weights_cfg.json"
    own.write_text(json.dumps({"d_in": W, "d_sae": K, "architecture": "topk", "k": 3}))
    assert SparseAutoencoder.from_file(file).k == 3
    own.unlink()
    (path / "config.json").write_text(
        json.dumps({"model_type": "llama", "hidden_act": "silu", "architectures": []})
    )
    assert SparseAutoencoder.from_file(file).normalization == "layer_norm"
    (path / "config.json").write_text(json.dumps({"d_in": W, "d_sae": K, **PLAIN}))
    refused(file, r"cfg\.json and .*config\.json are both configs of sae_weights\.safetensors")
    (path / "config.json").write_text(
        json.dumps({"wandb_id": 3, "act_fn": "jumprelu", "norm_activation": "x"})
    )
    (path / "cfg.json").unlink()
    refused(file, r"config\.json beside sae_weights\.safetensors: act_fn: this version does not know the key")
    (path / "config.json").write_text("[1]")
    refused(file, r"config\.json beside sae_weights\.safetensors is no JSON object")
    (path / "config.json").write_text("{")
    refused(file, r"config\.json beside sae_weights\.safetensors is no JSON;")


def test_checkpoints_of_dictionary_learning_are_read_by_the_config_above(tmp_path: Path) -> None:
    path = dictionary(tmp_path / "a", layers(b_dec=draw(W, seed=0)), dict_class="AutoEncoderTopK", k=4)
    (path / "checkpoints").mkdir()
    moved = (path / "ae.pt").rename(path / "checkpoints" / "ae_100.pt")
    assert SparseAutoencoder.from_file(moved).k == 4


def test_what_changes_no_number_is_no_kind(tmp_path: Path) -> None:
    """So that a study which names alone read right before goes on."""
    threshold = draw(K, seed=1).abs()
    ones, batch = {"scaling_factor": torch.ones(K)}, {"architecture": "batchtopk", "k": 3}
    made = [
        sae_lens(tmp_path / "a", matrices(**ones), **PLAIN),
        sae_lens(tmp_path / "b", matrices(threshold=threshold), **{**PLAIN, "architecture": "jumprelu"}),
        sae_lens(tmp_path / "c", matrices(threshold=threshold), **{**PLAIN, **batch}),
        dictionary(tmp_path / "d", layers(**{"decoder.bias": draw(W, seed=0)}), dict_class="AutoEncoderNew"),
        dictionary(tmp_path / "e", matrices(threshold=threshold), dict_class="JumpReluAutoEncoder"),
    ]
    save_file(matrices(**ones, log_sparsity=torch.ones(K)), tmp_path / "f.safetensors")
    save_file(matrices(threshold=-threshold), tmp_path / "g.safetensors")
    made += [tmp_path / "f.safetensors", tmp_path / "g.safetensors"]
    assert [read_weights(weights_path(path)).kind for path in made] == [None] * 7
    negative = {"architecture": "jumprelu", "d_in": W, "d_sae": K}
    (tmp_path / "g.json").write_text(json.dumps(negative))
    assert read_weights(tmp_path / "g.safetensors").kind == AutoencoderKind(activation="jumprelu")


@pytest.mark.parametrize("names", [(), ("ae.pt", "params.npz")])
def test_a_folder_has_one_file_of_tensors(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(StudyError, match=r"it has to hold one of sae_weights\.safetensors, ae\.pt"):
        weights_path(tmp_path)


class Harmful:
    """Runs a command where a pickle is loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("harmful", r"ae\.pt cannot be read as a pickle of tensors alone \(torch\.load with weights_only\)"),
        ("protocol", r"ae\.pt cannot be read as a pickle of tensors alone"),
        ("checkpoint", r"ae\.pt: 'ae' is a dict, and not a tensor; it is a training's checkpoint"),
        ("text", r"ae\.pt: 'activation' is a str, and not a tensor"),
        ("list", r"ae\.pt holds a list, and not tensors by name"),
        ("cut", r"ae\.pt cannot be read as a pickle of tensors alone"),
        ("gone", r"ae\.pt: the weights cannot be read: No such file"),
    ],
)
def test_no_pickle_is_run(content: str, says: str, tmp_path: Path) -> None:
    made, path = tmp_path / "made", tmp_path / "ae.pt"
    tensors = layers(bias=draw(W, seed=0))
    given = {"harmful": {**tensors, "x": Harmful(made)}, "text": {**tensors, "activation": "TopK"}}
    given |= {"checkpoint": {"step": 3, "ae": tensors}, "list": [tensors["bias"]]}
    if content == "protocol":
        path.write_bytes(pickle.dumps(Harmful(made)))
    elif content != "gone":
        torch.save(given.get(content, tensors), path)
    if content == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    refused(path, says)
    assert not made.exists()


def test_what_a_file_holds_is_the_same_in_every_form_and_read_without_torch(tmp_path: Path) -> None:
    """The program is a planner's: it hands the pickle to a child."""
    tensors = matrices(threshold=draw(K, seed=1).abs())
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "a.pt")
    np.savez(tmp_path / "a.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})
    code = (
        "import sys; from pathlib import Path; from workers.autoencoders.files import tensor_facts\n"
        "one, *others = (sorted(tensor_facts(Path(p)).items()) for p in sys.argv[1:])\n"
        "import math; assert all(repr(one) == repr(other) for other in others), (one, others)\n"
        "assert 'torch' not in sys.modules; print(one)"
    )
    files = [str(tmp_path / f"a.{suffix}") for suffix in ("safetensors", "pt", "npz")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    assert f"TensorFacts(shape=({W}, {K})" in done.stdout
    assert f"least={float(tensors['threshold'].double().min())!r}" in done.stdout
    assert read_weights(tmp_path / "a.npz").width == W


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.float64, 0.5),
        (torch.float32, 0.5),
        (torch.float16, 0.5),
        (torch.bfloat16, 0.5),
        (torch.int8, 3),
    ],
)
def test_numbers_of_every_type_are_looked_at_without_torch(
    dtype: torch.dtype, value: float, tmp_path: Path
) -> None:
    save_file({"a": torch.tensor([value, 1], dtype=dtype)}, tmp_path / "a.safetensors")
    found = tensor_facts(tmp_path / "a.safetensors")["a"]
    assert (found.shape, found.least, found.greatest, found.total) == (
        (2,),
        min(value, 1),
        max(value, 1),
        value + 1,
    )
