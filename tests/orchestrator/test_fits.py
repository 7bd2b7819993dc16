"""Promise: a study's fits are made once, by whoever needs them first; a stopped run makes what is missing."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from running import capital_pairs
from transformers import AutoModelForCausalLM

import swapyard as sy

DAS = {"method": "das", "rank": 2, "num_steps": 4, "lr": 0.05}
PLACE = {"site": "block_output", "layers": "all", "position": -1}


def pairs() -> list[dict[str, Any]]:
    """Twelve ordered pairs of four prompts; those among the first three are to train on."""
    found = capital_pairs()
    bases = list(dict.fromkeys(pair["base"] for pair in found))
    return [
        {
            **pair,
            "split": "train" if bases[3] not in (pair["base"], pair["source"]) else "test",
            "half": "first" if pair["base"] in bases[:2] else "second",
            "sides": sum(pair[run] in bases[:2] for run in ("base", "source")),
        }
        for pair in found
    ]


def study(model: Path, sweep: list[Any], **fits: Any) -> sy.Study:
    return sy.Study(study="fitted", model=str(model), pairs=pairs(), fits=fits, sweep=sweep)


def run(made: sy.Study, store: Path, **options: Any) -> sy.Results:
    return sy.run(made, store=store, executor="inline", quiet=True, on_failure="keep", **options)


def rows(results: sy.Results) -> list[Any]:
    columns = "job_id, block, layer, pred_id, label_logit, kl_base"
    return results.sql(f"SELECT {columns} FROM results ORDER BY ALL").fetchall()


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "fitted" / "fits").glob("*.safetensors")}


def test_each_place_and_each_axis_of_a_fit_has_its_own(tmp_path: Path, tiny_folder: Path) -> None:
    fits = {"many": {**DAS, "rank": None, "ranks": [1, 2], "seeds": [0, 1]}, "one": DAS}
    sweep = [{**PLACE, "subspaces": ["all", "one", "one[0:1]", "many"]}]
    results = run(study(tiny_folder, sweep, **fits), tmp_path)
    made = results.sql("SELECT name, count(DISTINCT fit), count(made), min(num_pairs) FROM fits GROUP BY ALL")
    assert sorted(made.fetchall()) == [("many", 12, 12, 12), ("one", 3, 3, 12)]
    cells = results.sql(
        "SELECT subspace, fit_rank, seed, count(*) FROM cells GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    assert cells == [
        ("all", None, None, 3),
        *(("many", rank, seed, 3) for rank in (1, 2) for seed in (0, 1)),
        ("one", None, None, 3),
        ("one[0:1]", None, None, 3),
    ]
    assert results.sql("SELECT count(*) FROM failures").fetchall() == [(0,)]


def test_what_is_trained_is_measured_on_pairs_that_share_no_prompt(tmp_path: Path, tiny_folder: Path) -> None:
    made = study(tiny_folder, [{**PLACE, "subspace": "das"}], das={**DAS, "where": "sides = 2"})
    results = run(made, tmp_path)
    columns = "layer, num_pairs, num_held_out, held_out_iia, loss, seconds"
    found = results.sql(f"SELECT {columns} FROM fits ORDER BY ALL").fetchall()
    by_cells = results.sql("SELECT layer, avg(iia) FROM results WHERE sides = 0 GROUP BY ALL ORDER BY ALL")
    # Of the ten other pairs eight have a prompt of those two.
    assert [row[:4] for row in found] == [(layer, 2, 2, iia) for layer, iia in by_cells.fetchall()]
    assert len(found) == 3 and all(loss > 0 and seconds > 0 for *_, loss, seconds in found)


def test_a_study_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, tiny_folder: Path) -> None:
    made = study(
        tiny_folder, [{**PLACE, "subspaces": ["das", "pca"]}], das=DAS, pca={"method": "pca", "rank": 2}
    )
    undisturbed = run(made, tmp_path / "a")
    first = run(made, tmp_path / "b", limits=sy.Limits(jobs=12))
    assert first.outcome is not None and first.outcome.stopped is not None
    some = files(tmp_path / "b")
    assert 0 < len(some) < 6
    # The maker of one more was killed between its two files.
    torn = next(iter(files(tmp_path / "a").keys() - some.keys()))
    shutil.copy(tmp_path / "a" / "fitted" / "fits" / torn, tmp_path / "b" / "fitted" / "fits")
    resumed = run(made, tmp_path / "b")
    assert rows(resumed) == rows(undisturbed)
    assert files(tmp_path / "b") == files(tmp_path / "a")
    assert resumed.sql("SELECT count(*) FROM fits WHERE made").fetchall() == [(6,)]


def test_fits_that_are_there_are_not_made_again(tmp_path: Path, tiny_folder: Path) -> None:
    made = study(tiny_folder, [{**PLACE, "subspace": "das"}], das=DAS)
    first = run(made, tmp_path / "a")
    shutil.copytree(tmp_path / "a" / "fitted" / "fits", tmp_path / "b" / "fitted" / "fits")
    with pytest.raises(sy.StoreError, match="holds no study but other things"):
        run(made, tmp_path / "b")
    shutil.rmtree(tmp_path / "b")
    grown = study(tiny_folder, [{**PLACE, "subspace": "das"}, {**PLACE, "subspace": "das[0:1]"}], das=DAS)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "a" / "fitted" / "fits").iterdir()}
    again = run(grown, tmp_path / "a")
    assert again.outcome is not None and first.outcome is not None
    assert again.outcome.num_ran == first.outcome.num_ran
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_fit_that_fails_makes_failed_rows_that_say_so(tmp_path: Path, tiny_folder: Path) -> None:
    # How wide a module path is only the loaded model tells.
    place = {"site": "model.layers.$layer.mlp", "layers": "all", "position": -1}
    wide = {**DAS, "rank": 33}
    results = run(study(tiny_folder, [{**place, "subspaces": ["all", "wide"]}], wide=wide), tmp_path)
    failed = results.sql(
        "SELECT DISTINCT subspace, error_type, error_message FROM failures ORDER BY ALL"
    ).fetchall()
    assert [(subspace, kind) for subspace, kind, _ in failed] == [("wide", "RunError")] * 3
    assert failed[0][2] == (
        "the fit 'wide' (das) at model.layers.0.mlp failed: StudyError: rank 33 is more than the 32"
        " dimensions there are"
    )
    assert results.sql("SELECT count(*) FROM results").fetchall() == [(36,)]
    assert results.sql("SELECT count(*) FROM fits WHERE NOT made").fetchall() == [(3,)]
    told = [path.read_text("utf-8") for path in tmp_path.glob("fitted/logs/*/*.failed")]
    assert sorted(told) == [message for *_, message in failed], "no other worker of the run tries again"


def test_a_damaged_fit_is_named(tmp_path: Path, tiny_folder: Path) -> None:
    run(study(tiny_folder, [{**PLACE, "subspace": "das"}], das=DAS), tmp_path)
    for path in (tmp_path / "fitted" / "fits").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    grown = study(tiny_folder, [{**PLACE, "subspaces": ["das", "das[0:1]"]}], das=DAS)
    with pytest.raises(sy.StoreError, match=r"fits/.*safetensors cannot be used .*; remove it and its twin"):
        run(grown, tmp_path)


def test_mean_ablation_by_template_and_position_is_the_hand_written_one(
    tmp_path: Path, tiny_folder: Path
) -> None:
    mu = {"method": "mean", "of": "source", "per": ["half", "position"], "where": "split = 'train'"}
    sweep = [{"site": "mlp_output", "layer": 1, "position": "all", "from": "mu", "where": "split = 'train'"}]
    results = run(study(tiny_folder, sweep, mu=mu), tmp_path)
    found = results.sql("SELECT half, base, source, label_id, label_logit FROM results").fetchall()
    tokens = dict(results.sql("SELECT base, tokens.base FROM inputs").fetchall())
    model = AutoModelForCausalLM.from_pretrained(tiny_folder).eval()
    means = {
        half: torch.stack(
            [held(model, tokens[source]) for other, _, source, *_ in found if other == half]
        ).mean(0)
        for half in ("first", "second")
    }
    assert len(found) == 6
    for half, base, _, label, logit in found:
        assert float(replaced(model, tokens[base], means[half])[label]) == pytest.approx(logit, abs=1e-4)


def test_steering_adds_the_difference_of_the_means_times_its_scale(tmp_path: Path, tiny_folder: Path) -> None:
    sweep = [
        {
            "site": "mlp_output",
            "layer": 1,
            "position": "all",
            "intervention": "add",
            "from": {"fit": "v", "scale": "$a"},
            "for": {"a": [-4, 4]},
        }
    ]
    made = study(tiny_folder, sweep, v={"method": "mean_difference", "where": "split = 'train'"})
    results = run(made, tmp_path)
    found = results.sql("SELECT a, base, label_id, label_logit FROM results").fetchall()
    tokens = dict(results.sql("SELECT base, tokens.base FROM inputs").fetchall())
    train = results.sql("SELECT base, source FROM pairs WHERE split = 'train'").fetchall()
    model = AutoModelForCausalLM.from_pretrained(tiny_folder).eval()
    base, source = (torch.cat([held(model, tokens[pair[run]]) for pair in train]).mean(0) for run in (0, 1))
    assert len(found) == 24
    for scale, prompt, label, logit in found:
        own = held(model, tokens[prompt])
        logits = replaced(model, tokens[prompt], own + scale * (source - base))
        assert float(logits[label]) == pytest.approx(logit, abs=1e-4)


def test_linked_halves_of_a_random_rotation_swap_the_whole(tmp_path: Path) -> None:
    """Example (b): both halves of R from one source give what the source gives."""
    made = sy.Study(
        study="fitted",
        model={"ref": "zoo:mlp", "width": 8, "num_layers": 1, "outputs": 2, "seed": 0},
        task={"name": "random_embeds", "shape": [1, 8], "num_sources": 2, "num_pairs": 6, "seed": 0},
        fits={"R": {"method": "random_rotation", "rank": 8}},
        site="block_output",
        layer=0,
        position=0,
        sweep=[
            {"subspaces": ["R", "R[0:4]"]},
            {
                "for": {"second": ["source", "source_2"]},
                "units": [{"subspace": "R[4:8]"}, {"subspace": "R[0:4]", "from": "$second"}],
            },
        ],
    )
    results = run(made, tmp_path)
    kl = dict(
        results.sql(
            "SELECT block || coalesce(subspace, second), max(kl_source) FROM results GROUP BY 1"
        ).fetchall()
    )
    assert kl["block0R"] < 1e-6 and kl["block1source"] < 1e-6
    assert kl["block0R[0:4]"] > 1e-5 and kl["block1source_2"] > 1e-5
    assert results.sql("SELECT method, num_pairs FROM fits").fetchall() == [("random_rotation", 0)]


@torch.no_grad()
def held(model: Any, tokens: list[int]) -> torch.Tensor:
    """What the MLP of layer 1 returns [T, W]."""
    found: list[torch.Tensor] = []
    handle = model.model.layers[1].mlp.register_forward_hook(lambda *call: found.append(call[2][0].clone()))
    model(torch.tensor([tokens]))
    handle.remove()
    return found[0]


@torch.no_grad()
def replaced(model: Any, tokens: list[int], values: torch.Tensor) -> torch.Tensor:
    """The last logits [V] where it returns `values` [T, W] instead."""
    handle = model.model.layers[1].mlp.register_forward_hook(lambda *call: values[None])
    logits: torch.Tensor = model(torch.tensor([tokens])).logits[0, -1]
    handle.remove()
    return logits
