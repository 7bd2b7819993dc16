"""Promise: a study swaps the features of a sparse autoencoder from a file, and keeps what it misses of the
base; what the study is made of is the file's bytes, wherever it lies."""

from pathlib import Path
from typing import Any

import pytest
import torch
from running import capital_pairs
from safetensors.torch import load_file, save_file
from torch import Tensor

import swapyard as sy

W, K = 32, 48
PLACE = {"site": "block_output", "layer": 1, "position": -1}


def matrices(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (W, K), "W_dec": (K, W), "b_enc": (K,), "b_dec": (W,), "threshold": (K,)}
    found = {name: 0.3 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    return {**found, "threshold": 0.1 * found["threshold"].abs()}


def layers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under the other names."""
    names = {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "encoder.bias"}
    names |= {"b_dec": "decoder.bias", "threshold": "threshold"}
    return {names[name]: (t.mT if name[0] == "W" else t).contiguous() for name, t in weights.items()}


def saved(path: Path, weights: dict[str, Tensor]) -> Path:
    path.parent.mkdir(exist_ok=True)
    save_file(weights, path)
    return path


def study(model: Path, path: Path | str, sweep: list[Any], **more: Any) -> sy.Study:
    fits = {"S": {"method": "sae", "path": str(path), **more}}
    return sy.Study(study="sae", model=str(model), pairs=capital_pairs(), fits=fits, sweep=sweep)


def run(made: sy.Study, store: Path, **options: Any) -> sy.Results:
    return sy.run(made, store=store, executor="inline", quiet=True, **options)


def logits(results: sy.Results) -> dict[tuple[str, str], list[float]]:
    query = "SELECT subspace, intervention, list(label_logit ORDER BY pair_id) FROM results GROUP BY ALL"
    return {(subspace, how): found for subspace, how, found in results.sql(query).fetchall()}


def by_hand(
    model: Path, weights: dict[str, Tensor], features: slice, centered: bool, scale: float
) -> list[float]:
    """The labels' logits, with a hook of plain torch: the source's features replace, or with a scale are
    added to, the base's; in the order of the pairs' ids."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network, words = AutoModelForCausalLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    block = network.model.layers[1]

    def encode(x: Tensor) -> Tensor:
        z = (x - weights["b_dec"] * centered) @ weights["W_enc"] + weights["b_enc"]
        return z * (z > weights["threshold"])

    @torch.no_grad()
    def label_logit(pair: dict[str, str]) -> float:
        held: list[Tensor] = []

        def swap(module: Any, given: Any, out: Any) -> Any:
            hidden = (out[0] if isinstance(out, tuple) else out).clone()
            held.append(hidden[0, -1].clone())
            if len(held) > 1:
                source, base = encode(held[0]), encode(held[1])
                changed = base.clone()
                changed[features] = source[features] + scale * base[features]
                missed = held[1] - base @ weights["W_dec"]
                hidden[0, -1] = changed @ weights["W_dec"] + missed
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        hook = block.register_forward_hook(swap)
        runs = [network(**words(pair[key], return_tensors="pt")).logits[0, -1] for key in ("source", "base")]
        hook.remove()
        label = words(pair["label"], add_special_tokens=False)["input_ids"]
        return float(runs[1][label[-1]])

    return [label_logit(pair) for pair in capital_pairs()]


@pytest.mark.parametrize("centered", [False, True])
def test_features_are_swapped_and_what_is_missed_of_the_base_is_kept(
    tmp_path: Path, tiny_folder: Path, centered: bool
) -> None:
    weights = matrices()
    path = saved(tmp_path / "w.safetensors", weights)
    sweep = [{**PLACE, "subspaces": ["S", "S[0:16]"], "interventions": ["vanilla", "add"]}]
    results = run(study(tiny_folder, path, sweep, centered=centered), tmp_path)
    found = logits(results)
    for subspace, features in (("S", slice(0, K)), ("S[0:16]", slice(0, 16))):
        for how, scale in (("vanilla", 0.0), ("add", 1.0)):
            wanted = by_hand(tiny_folder, weights, features, centered, scale)
            assert sorted(found[subspace, how]) == pytest.approx(sorted(wanted), abs=1e-5)
    assert found["S", "vanilla"] != pytest.approx(found["S[0:16]", "vanilla"], abs=1e-4)
    columns = "name, method, made, seed, rank, position"
    assert results.sql(f"SELECT {columns} FROM fits").fetchall() == [("S", "sae", True, None, None, None)]
    assert not (tmp_path / "sae" / "fits").exists(), "the file is an input, and is not copied"


def test_the_names_of_linear_layers_give_the_same_as_matrices(tmp_path: Path) -> None:
    weights = matrices()
    one = sy.SparseAutoencoder.from_file(saved(tmp_path / "a.safetensors", weights))
    other = sy.SparseAutoencoder.from_file(saved(tmp_path / "b.safetensors", layers(weights)))
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=0, atol=0)
    bare = {name: tensor for name, tensor in weights.items() if name.startswith("W")}
    x = torch.randn(3, W)
    plain = sy.SparseAutoencoder.from_file(saved(tmp_path / "c.safetensors", bare))
    torch.testing.assert_close(plain.coordinates(x), (x @ weights["W_enc"]).relu())


def test_a_file_is_known_by_its_bytes_and_not_by_its_path(tmp_path: Path, tiny_folder: Path) -> None:
    first = saved(tmp_path / "w.safetensors", matrices())
    moved = saved(tmp_path / "elsewhere" / "v.safetensors", load_file(first))
    assert moved.read_bytes() == first.read_bytes()
    sweep = [{**PLACE, "subspace": "S", "interventions": ["vanilla"]}]
    before = logits(run(study(tiny_folder, first, sweep), tmp_path))
    first.unlink()
    again = run(study(tiny_folder, moved, sweep), tmp_path)
    assert again.outcome is not None and again.outcome.num_ran == 0
    saved(moved, matrices(seed=1))
    changed = run(study(tiny_folder, moved, sweep), tmp_path, replace=True)
    assert changed.outcome is not None and changed.outcome.num_ran == 12
    assert logits(changed)["S", "vanilla"] != pytest.approx(before["S", "vanilla"], abs=1e-4)


def test_a_path_is_relative_to_the_study_file(tmp_path: Path, tiny_folder: Path) -> None:
    path = saved(tmp_path / "in" / "w.safetensors", matrices())
    text = study(tiny_folder, "w.safetensors", [{**PLACE, "subspace": "S"}]).to_yaml()
    (path.parent / "sae.yaml").write_text(text, encoding="utf-8")
    loaded = sy.load_study(path.parent / "sae.yaml")
    assert loaded.fits is not None and loaded.fits["S"].path == str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "gone",
            r"fits\.S: .*w\.safetensors: the weights cannot be read: No such file or directory; correct",
        ),
        ("text", r"fits\.S: .*w\.safetensors is no safetensors file, or not a whole one; save"),
        ("cut", r"w\.safetensors is no safetensors file, or not a whole one"),
        (
            "other",
            r"w\.safetensors holds a, b; a sparse autoencoder is encoder\.weight \[features, width\] and",
        ),
        ("shape", r"W_dec has the shape \[48, 31\]; with W_enc \[32, 48\] it must have \[48, 32\]"),
        ("bias", r"b_enc has the shape \[1\]; with W_enc \[32, 48\] it must have \[48\]"),
    ],
)
def test_a_file_that_holds_no_autoencoder_is_an_error_of_the_plan(
    tmp_path: Path, tiny_folder: Path, change: str, message: str
) -> None:
    path = saved(tmp_path / "w.safetensors", matrices())
    whole = path.read_bytes()
    if change == "gone":
        path.unlink()
    elif change in ("text", "cut"):
        path.write_bytes(b"no weights at all" if change == "text" else whole[:-4])
    elif change == "other":
        save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, path)
    else:
        wrong = {"shape": {"W_dec": torch.zeros(K, W - 1)}, "bias": {"b_enc": torch.zeros(1)}}[change]
        save_file({**matrices(), **wrong}, path)
    with pytest.raises(sy.StudyError, match=message):
        sy.plan(study(tiny_folder, path, [{**PLACE, "subspace": "S"}]), store=tmp_path)


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        ({}, "the key 'path' is missing; the method 'sae' needs it"),
        ({"path": "w", "rank": 2}, "the method 'sae' does not use 'rank'; allowed: centered, method, path"),
        ({"path": "w", "where": "a = 1"}, "the method 'sae' does not use 'where'"),
        ({"path": "w", "centered": "yes"}, "'yes' is not allowed here; allowed: true, false"),
    ],
)
def test_keys_that_make_no_sense_are_refused(fit: dict[str, Any], message: str) -> None:
    with pytest.raises(sy.StudyError, match=message):
        sy.Study(study="s", model="m", pairs="p.csv", fits={"S": {"method": "sae", **fit}}, sweep=[PLACE])


def test_weights_of_another_width_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    path = saved(tmp_path / "w.safetensors", {"W_enc": torch.zeros(8, 4), "W_dec": torch.zeros(4, 8)})
    with pytest.raises(sy.StudyError) as caught:
        sy.plan(study(tiny_folder, path, [{**PLACE, "subspaces": ["all", "S"]}]), store=tmp_path)
    assert str(caught.value) == (
        f"fits.S: {path} is for 8 dimensions, and block_output, layer 1 of {tiny_folder} has 32; name its own"
        " place"
    )
