"""What the tests of autoencoders share: files as libraries write them, and the published equations in numpy.

Shapes: N activations, W dimensions, K features. The equations are written from the papers and from what the
libraries compute, in float64, and know nothing of our code.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from workers.errors import StudyError
from workers.intervene.features import SparseAutoencoder

W, K = 12, 20
Array = np.ndarray[Any, Any]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def matrices(**more: Tensor) -> dict[str, Tensor]:
    """The names of SAELens; decoder rows have different norms."""
    found = {"W_enc": draw(W, K, seed=1), "W_dec": draw(K, W, seed=2) * torch.linspace(0.3, 2, K)[:, None]}
    return found | {"b_enc": draw(K, seed=3), "b_dec": draw(W, seed=4)} | more


def gated() -> dict[str, Tensor]:
    found = matrices(b_gate=draw(K, seed=5), r_mag=0.5 * draw(K, seed=6), b_mag=draw(K, seed=7))
    del found["b_enc"]
    return found


def layers(**more: Tensor) -> dict[str, Tensor]:
    """The names of torch's linear layers, as most classes of dictionary_learning have them."""
    of = matrices()
    found = {"encoder.weight": of["W_enc"].T, "decoder.weight": of["W_dec"].T, "encoder.bias": of["b_enc"]}
    return {name: tensor.contiguous() for name, tensor in (found | more).items()}


def sae_lens(folder: Path, tensors: Mapping[str, Tensor], **config: Any) -> Path:
    """A folder of SAELens."""
    folder.mkdir(parents=True)
    save_file(dict(tensors), folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"d_in": W, "d_sae": K, "dtype": "float32", **config}))
    return folder


def dictionary(folder: Path, tensors: Mapping[str, Tensor], **trainer: Any) -> Path:
    """A folder of dictionary_learning."""
    folder.mkdir(parents=True)
    torch.save(dict(tensors), folder / "ae.pt")
    sizes = {"activation_dim": W, "dict_size": K}
    buffer = {"d_submodule": W, "io": "out", "n_ctxs": 3000, "ctx_len": 128, "device": "cuda:0"}
    (folder / "config.json").write_text(json.dumps({"trainer": {**sizes, **trainer}, "buffer": buffer}))
    return folder


def refused(path: Path, says: str, **more: Any) -> None:
    """Reading the file is an error of one line that says this."""
    with pytest.raises(StudyError, match=says) as caught:
        SparseAutoencoder.from_file(path, **more)
    assert "\n" not in str(caught.value)


OLD = {  # what versions 2 to 5 of SAELens write besides
    **{
        "model_name": "gpt2-small",
        "hook_name": "blocks.8.hook_resid_pre",
        "hook_layer": 8,
        "hook_head_index": None,
    },
    **{"prepend_bos": True, "dataset_path": "Skylion007/openwebtext", "context_size": 128, "device": "cuda"},
    **{"sae_lens_training_version": "3.11.0", "model_from_pretrained_kwargs": {}, "neuronpedia_id": None},
    **{"finetuning_scaling_factor": False, "dataset_trust_remote_code": True, "seqpos_slice": [None]},
    **{"l1_coefficient": 5.0, "lr": 3e-4, "n_checkpoints": 0, "normalize_sae_decoder": False, "lp_norm": 1.0},
}
NEW = {  # and version 6
    "device": "cpu",
    "reshape_activations": "none",
    "metadata": {
        "sae_lens_version": "6.18.0",
        "hook_name": "blocks.8.hook_resid_pre",
        "l0": 50,
        "my own": [1],
    },
}
TRAINER = {  # and dictionary_learning of 2025
    **{"lr": 1e-4, "steps": 9000, "warmup_steps": 100, "decay_start": 7000, "seed": 0, "device": "cuda:0"},
    **{
        "layer": 8,
        "lm_name": "EleutherAI/pythia-70m-deduped",
        "wandb_name": "a",
        "submodule_name": "resid_post_8",
    },
}


@dataclass(frozen=True)
class Published:
    """An autoencoder as its paper has it, in float64."""

    encoder: Array
    decoder: Array
    act: Callable[[Array], Array]
    """[N, W] → features [N, K] of what is encoded, given ``(x - centre) @ encoder``."""
    centre: Array = field(default_factory=lambda: np.zeros(W))
    bias: Array = field(default_factory=lambda: np.zeros(W))
    """What decoding adds."""
    normalized: str = "none"

    def scale(self, x: Array) -> tuple[Array, Array]:
        """What is taken off each activation, and what the rest is divided by after decoding."""
        zero = np.zeros((len(x), 1))
        if self.normalized == "layer_norm":
            return x.mean(-1, keepdims=True), x.std(-1, ddof=1, keepdims=True)
        if self.normalized == "constant_norm_rescale":
            return zero, np.linalg.norm(x, axis=-1, keepdims=True) / np.sqrt(W)
        return zero, zero + 1

    def encode(self, x: Array) -> Array:
        mean, scale = self.scale(x)
        eps = 1e-5 if self.normalized == "layer_norm" else 0
        return self.act(((x - mean) / (scale + eps) - self.centre) @ self.encoder)

    def decode(self, features: Array, of: Array) -> Array:
        """The features decoded, in the run of the activations `of`."""
        mean, scale = self.scale(of)
        return (features @ self.decoder + self.bias) * scale + mean

    def swapped(self, base: Array, source: Array, part: slice) -> Array:
        """The source's features in place of the base's, and the error on the base kept."""
        features = self.encode(base)
        changed = features.copy()
        changed[:, part] = self.encode(source)[:, part]
        return self.decode(changed, base) + base - self.decode(features, base)


def relu(z: Array) -> Array:
    return np.maximum(z, 0)


def topk(z: Array, k: int) -> Array:
    kept = np.zeros_like(z)
    for row, values in enumerate(z):
        largest = np.argsort(-values)[:k]
        kept[row, largest] = relu(values[largest])
    return kept


def jump(z: Array, threshold: Array | float) -> Array:
    return relu(z) * (z > threshold)


def wide(tensor: Tensor) -> Array:
    return tensor.double().numpy()
