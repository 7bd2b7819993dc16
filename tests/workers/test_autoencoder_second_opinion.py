"""Promise: autoencoders that SAELens 6.54 and dictionary_learning 0.1 save have the features, and the swaps
of them, that these libraries compute.

It needs an environment of its own: this project's dependencies, ``pip install sae-lens dictionary-learning``.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from autoencoder_files import TRAINER, K, W, draw

from workers.intervene.features import SparseAutoencoder
from workers.intervene.operations import exchange

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

BASE, SOURCE = 2 * draw(30, W, seed=20), 2 * draw(30, W, seed=21) + 0.5
NORMALIZATIONS = ("none", "layer_norm", "constant_norm_rescale")
OURS: dict[str, dict[str, Any]] = {
    **{"standard": {}, "gated": {}, "jumprelu": {}, "topk": {"k": 4}},
    "batchtopk": {"k": 4},
    "matryoshka_batchtopk": {"k": 4, "matryoshka_widths": [5, K]},
}
CLASSES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    **dict.fromkeys(("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder"), ((), {})),
    **dict.fromkeys(("AutoEncoderTopK", "BatchTopKSAE"), ((4,), {"k": 4})),
    "MatryoshkaBatchTopKSAE": ((4, [5, K - 5]), {"k": 4, "group_sizes": [5, K - 5]}),
}
TRAINERS = ("top_k", "batch_top_k", "matryoshka_batch_top_k")


def fill(module: torch.nn.Module) -> None:
    """Random parameters; decoder rows of different norms, thresholds above 0."""
    for n, (name, tensor) in enumerate(module.named_parameters()):
        tensor.data = draw(*tensor.shape, seed=n) * (0.5 if name != "threshold" else 0.3)
        if name == "threshold":
            tensor.data = tensor.data.abs()
        if name == "W_dec":
            tensor.data *= torch.linspace(0.3, 2, K)[:, None]


@torch.no_grad()
def agree(theirs: Any, folder: Path) -> None:
    ours, part = SparseAutoencoder.from_file(folder), slice(3, 11)
    source, base = theirs.encode(SOURCE), theirs.encode(BASE)
    torch.testing.assert_close(ours.coordinates(BASE), base, atol=1e-4, rtol=1e-4)
    assert 0 < (base != 0).float().mean() < 0.8
    error = BASE - theirs.decode(base)
    changed = base.clone()
    changed[:, part] = source[:, part]
    theirs.encode(BASE)  # what is decoded is brought back by what was encoded last
    after = theirs.decode(changed) + error
    torch.testing.assert_close(exchange(ours[part], "vanilla", BASE, SOURCE), after, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("architecture", OURS)
def test_what_sae_lens_saves_is_what_it_computes(
    architecture: str, rescaled: bool, centered: bool, tmp_path: Path
) -> None:
    pytest.importorskip("sae_lens", reason="a second opinion needs sae-lens")
    from sae_lens import SAE
    from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

    if rescaled and "topk" not in architecture:
        pytest.skip("the architecture does not know it")
    more = OURS[architecture] | ({"rescale_acts_by_decoder_norm": rescaled} if "topk" in architecture else {})
    sizes = {"d_in": W, "d_sae": K, "apply_b_dec_to_input": centered}
    for normalization in NORMALIZATIONS if architecture in SAE_CLASS_REGISTRY else ():
        kind, config = SAE_CLASS_REGISTRY[architecture]
        made = kind(config(**sizes, **more, normalize_activations=normalization))
        fill(made)
        made.save_model(tmp_path / normalization)
        agree(SAE.load_from_disk(tmp_path / normalization), tmp_path / normalization)
    kind, config = SAE_TRAINING_CLASS_REGISTRY[architecture]
    trained = kind(config(**sizes, **more))
    fill(trained)
    if hasattr(trained, "topk_threshold"):
        trained.topk_threshold.fill_(0.4)
    trained.save_inference_model(tmp_path / "saved")
    agree(SAE.load_from_disk(tmp_path / "saved"), tmp_path / "saved")
    # The checkpoint, whose decoder is not normalised yet, does the same.
    trained.save_model(tmp_path / "checkpoint")
    agree(SAE.load_from_disk(tmp_path / "saved"), tmp_path / "checkpoint")


@pytest.mark.parametrize("name", CLASSES)
def test_what_dictionary_learning_saves_is_what_it_computes(name: str, tmp_path: Path) -> None:
    dictionaries = pytest.importorskip("dictionary_learning.dictionary", reason="needs dictionary-learning")
    arguments, more = CLASSES[name]
    trainers = (f"dictionary_learning.trainers.{one}" for one in TRAINERS)
    places = (dictionaries, *map(importlib.import_module, trainers))
    made = next(getattr(place, name) for place in places if hasattr(place, name))(W, K, *arguments)
    fill(made)
    if hasattr(made, "threshold") and made.threshold.ndim == 0:
        made.threshold.fill_(0.4)
    torch.save(made.state_dict(), tmp_path / "ae.pt")
    trainer = {**TRAINER, "dict_class": name, "activation_dim": W, "dict_size": K, **more}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer}))
    agree(made, tmp_path)
