"""Promise: a study of a checkpoint that lacks weights has no row, or those that a seed says: the same ones
whenever and by whomever it is run, and others for another seed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from running import capital_pairs
from safetensors.torch import load_file, save_file

import swapyard as sy
from workers.errors import ModelError, RunError


@pytest.fixture
def headless(tmp_path: Path, tiny_folder: Path) -> Path:
    """The tiny model without its unembedding."""
    folder = tmp_path / "headless"
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def study(**model: Any) -> sy.Study:
    sweep = [sy.Block(site="block_output", layers="all", position=-1)]
    return sy.Study(**{"study": "lacking", "pairs": capital_pairs()[:2], "sweep": sweep, **model})


def rows(made: sy.Study, store: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What each model's jobs gave, with nothing remembered of another run."""
    monkeypatch.setenv("SWAPYARD_CACHE", str(store / "cache"))
    results = sy.run(made, store=store, executor="inline", quiet=True)
    found: dict[str, list[Any]] = {}
    columns = "model, layer, base, label_logit, base_label_logit, kl_base"
    for model, *row in results.sql(f"SELECT {columns} FROM results ORDER BY ALL").fetchall():
        found.setdefault(model, []).append(row)
    return found


def test_a_checkpoint_that_lacks_weights_runs_no_job(
    headless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"1 missing in the checkpoint: lm_head\.weight; give a checkpoint"):
        rows(study(model=str(headless)), tmp_path / "runs", monkeypatch)


def test_what_a_seed_draws_is_the_same_in_every_run_and_the_seed_is_part_of_the_lane(
    headless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [{"ref": str(headless), "missing_weights": "initialise", "seed": seed} for seed in (0, 1)]
    both = rows(study(models=drawn), tmp_path / "both", monkeypatch)
    alone = rows(study(model=drawn[0]), tmp_path / "alone", monkeypatch)
    first, second = (f'{headless}(missing_weights="initialise", seed={seed})' for seed in (0, 1))
    assert set(both) == {first, second} and set(alone) == {first}
    assert alone[first] == both[first] != both[second] and len(alone[first]) == 6


def test_nan_in_weights_names_the_prompt_and_the_tensor(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, name = tmp_path / "nan", "model.layers.1.mlp.down_proj.weight"
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights[name][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    said = rf"tokens \('The.capital.of.\w+.is'\) cannot be run by .*: {name} holds NaN \(1 of"
    with pytest.raises(RunError, match=said):
        rows(study(model=str(folder)), tmp_path / "runs", monkeypatch)
