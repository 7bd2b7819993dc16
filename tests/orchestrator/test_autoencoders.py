"""Promise: a study swaps the features of a sparse autoencoder from a file, and keeps what it misses of the
base; what the study is made of is the file's bytes, wherever it lies."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from running import capital_pairs
from safetensors.torch import load_file, save_file
from torch import Tensor

import swapyard as sy
from orchestrator.plan.planner import Planner
from orchestrator.run.baseline_scorers import CachedScorer
from studies.language.identity import content_id, lane_identity

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
    screen = more.pop("screen", None)
    fits = {"S": {"method": "sae", "path": str(path), **more}}
    return sy.Study(
        study="sae", model=str(model), pairs=capital_pairs(), fits=fits, sweep=sweep, screen=screen
    )


def run(made: sy.Study, store: Path, **options: Any) -> sy.Results:
    return sy.run(made, store=store, executor="inline", quiet=True, **options)


def logits(results: sy.Results) -> dict[tuple[str, str], list[float]]:
    query = "SELECT subspace, intervention, list(label_logit ORDER BY pair_id) FROM results GROUP BY ALL"
    return {(subspace, how): found for subspace, how, found in results.sql(query).fetchall()}


@lru_cache
def plain(model: Path) -> tuple[Any, Any]:
    """The network and its tokeniser."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)


@lru_cache
def clean(model: Path, prompt: str) -> Tensor:
    """What layer 1 writes at the last token [W]."""
    held: list[Tensor] = []

    def touch(hidden: Tensor) -> Tensor:
        held.append(hidden[0, -1].detach().clone())
        return hidden

    last_logits(model, prompt, touch)
    return held[0]


def last_logits(model: Path, prompt: str, touch: Callable[[Tensor], Tensor]) -> Tensor:
    """The logits [V] at the last token once `touch` was at what layer 1 writes [1, T, W]."""
    network, words = plain(model)

    def change(module: Any, given: Any, out: Any) -> Any:
        return (touch(out[0]), *out[1:]) if isinstance(out, tuple) else touch(out)

    hook = network.model.layers[1].register_forward_hook(change)
    logits: Tensor = network(**words(prompt, return_tensors="pt")).logits[0, -1]
    hook.remove()
    return logits


def label_of(model: Path, text: str) -> int:
    return int(plain(model)[1](text, add_special_tokens=False)["input_ids"][-1])


@torch.no_grad()
def by_hand(model: Path, change: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
    """The labels' logits, with a hook of plain torch that makes `change` of the base's and the source's
    activation [W]; in the order of the pairs' ids."""

    def label_logit(pair: dict[str, str]) -> float:
        source = clean(model, pair["source"])

        def swap(hidden: Tensor) -> Tensor:
            changed = hidden.clone()
            changed[0, -1] = change(hidden[0, -1], source)
            return changed

        return float(last_logits(model, pair["base"], swap)[label_of(model, pair["label"])])

    return [label_logit(pair) for pair in capital_pairs()]


def estimated(model: Path, change: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The mean over the pairs of what attribution patching says: the change of the activation times the
    gradient of the label's logit less the base label's."""

    def estimate(pair: dict[str, str]) -> float:
        held: list[Tensor] = []

        def keep(hidden: Tensor) -> Tensor:
            held.append(hidden.detach().requires_grad_(True))
            return held[0]

        logits = last_logits(model, pair["base"], keep)
        (logits[label_of(model, pair["label"])] - logits[label_of(model, pair["base_label"])]).backward()
        base = held[0][0, -1].detach()
        return float((change(base, clean(model, pair["source"])) - base) @ held[0].grad[0, -1])

    found = [estimate(pair) for pair in capital_pairs()]
    return sum(found) / len(found)


def exchanged(
    weights: dict[str, Tensor], features: slice, centered: bool, scale: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """The source's features replace, or with a scale are added to, the base's."""

    def encode(x: Tensor) -> Tensor:
        z = (x - weights["b_dec"] * centered) @ weights["W_enc"] + weights["b_enc"]
        return z * (z > weights["threshold"])

    def change(base: Tensor, source: Tensor) -> Tensor:
        changed, before = encode(base), encode(base)
        changed[features] = encode(source)[features] + scale * before[features]
        return changed @ weights["W_dec"] + (base - before @ weights["W_dec"])

    return change


def normalized_topk(weights: dict[str, Tensor], k: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The source's features replace the base's, as an autoencoder of normalised activations has them."""

    def encode(x: Tensor) -> Tensor:
        x = (x - x.mean()) / (x.std() + 1e-5) - weights["b_dec"]
        z = x @ weights["W_enc"] + weights["b_enc"]
        kept = z.argsort(descending=True)[:k]
        return torch.zeros_like(z).index_copy(0, kept, z[kept].relu())

    def change(base: Tensor, source: Tensor) -> Tensor:
        before, after = (
            (encode(x) @ weights["W_dec"] + weights["b_dec"]) * base.std() + base.mean()
            for x in (base, source)
        )
        return after + (base - before)

    return change


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
            wanted = by_hand(tiny_folder, exchanged(weights, features, centered, scale))
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


def folder_of(path: Path, weights: dict[str, Tensor], **config: Any) -> Path:
    """A folder of SAELens."""
    path.mkdir()
    save_file(weights, path / "sae_weights.safetensors")
    (path / "cfg.json").write_text(json.dumps({"d_in": W, "d_sae": K, **config}))
    return path


def bare(*names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in matrices().items() if name not in names}


def test_features_of_another_kind_are_swapped_and_estimated_as_its_config_says(
    tmp_path: Path, tiny_folder: Path
) -> None:
    weights = bare("threshold")
    said = {"architecture": "topk", "k": 4, "normalize_activations": "layer_norm"}
    path = folder_of(tmp_path / "topk", weights, **said, apply_b_dec_to_input=True)
    sweep = [{**PLACE, "subspace": "S", "interventions": ["vanilla"]}]
    made = study(tiny_folder, path, sweep, screen={"method": "attribution", "keep": 1})
    results, change = run(made, tmp_path), normalized_topk(weights, 4)
    assert sorted(logits(results)["S", "vanilla"]) == pytest.approx(
        sorted(by_hand(tiny_folder, change)), abs=1e-5
    )
    found = results.sql("SELECT estimated_change FROM screening").fetchall()
    assert found == [(pytest.approx(estimated(tiny_folder, change), abs=1e-5),)]


def planned_fits(cache: Path, made: sy.Study) -> pa.Table:
    """The fits of the study's plan, of which no run is known yet."""
    return Planner(made, say=lambda line: None).draft(CachedScorer(cache, None)).plan.tables["fits"]


@pytest.mark.parametrize("centered", [False, True])
def test_features_as_they_always_were_have_the_identity_that_they_always_had(
    tmp_path: Path, tiny_folder: Path, centered: bool
) -> None:
    """Whether nothing, or a config, says what names alone say."""
    weights = matrices()
    path = saved(tmp_path / "a" / "w.safetensors", weights)
    said = folder_of(tmp_path / "b", weights, architecture="jumprelu", apply_b_dec_to_input=centered)
    sweep = [{**PLACE, "subspace": "S", "interventions": ["vanilla"]}]
    made = study(tiny_folder, path, sweep, **({"centered": True} if centered else {}))
    ((spec, facts),) = Planner(made, say=lambda line: None).models
    lane, sha256 = lane_identity(facts, spec), hashlib.sha256(path.read_bytes()).hexdigest()
    # What version 0.1 hashed.
    content = {"model": lane, "method": "sae", "site": "block_output", "layer": 1, "heads": None}
    content |= {"sha256": sha256} | ({"centered": True} if centered else {})
    identity = content_id("fit", content).hex
    for one in (made, study(tiny_folder, said, sweep)):
        assert planned_fits(tmp_path, one)["fit"].to_pylist() == [identity]


def test_a_study_goes_on_with_no_feature_that_was_read_otherwise(tmp_path: Path, tiny_folder: Path) -> None:
    """What was a plain ReLU, for want of its config, is another fit once the config is there."""
    path = saved(tmp_path / "a" / "w.safetensors", bare("threshold"))
    sweep = [{**PLACE, "subspaces": ["all", "S"], "interventions": ["vanilla"]}]
    fits, numbers = [], []
    config = {"d_in": W, "d_sae": K, "activation_fn_str": "topk"}
    for k, num_new in ((None, 24), (4, 12), (5, 12)):
        if k is not None:
            said = {**config, "activation_fn_kwargs": {"k": k}}
            (path.parent / "cfg.json").write_text(json.dumps(said))
        found = run(study(tiny_folder, path, sweep), tmp_path)
        assert found.outcome is not None and found.outcome.num_ran == num_new
        fits += found.sql("SELECT fit FROM fits").fetchall()
        numbers.append(tuple(logits(found)["S", "vanilla"]))
    assert len(set(fits)) == len(fits) == len(set(numbers)) == 3


def test_a_pickle_is_planned_without_torch(tmp_path: Path, tiny_folder: Path) -> None:
    weights, path = bare("threshold"), tmp_path / "ae"
    path.mkdir()
    named = layers(weights)
    named["b_dec"] = named.pop("decoder.bias")
    torch.save({**named, "k": torch.tensor(4)}, path / "ae.pt")
    trainer = {"dict_class": "AutoEncoderTopK", "activation_dim": W, "dict_size": K, "k": 4}
    (path / "config.json").write_text(json.dumps({"trainer": trainer}))
    sweep = [{**PLACE, "subspaces": ["all", f"S[0:{K}]"], "interventions": ["vanilla"]}]
    made = study(tiny_folder, path, sweep)
    (tmp_path / "sae.yaml").write_text(made.to_yaml())
    code = (
        "import sys; import swapyard as sy; sy.plan(sy.load_study(sys.argv[1]), store=sys.argv[2]);"
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "sae.yaml"), str(tmp_path)], check=True)
    (spec,) = planned_fits(tmp_path, made)["spec"].to_pylist()
    assert json.loads(spec)["kind"] == {"activation": "topk", "k": 4} and json.loads(spec)["centered"]


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
