"""Promise: a study of a built-in model runs as any other: its pairs are vectors or ids, its answers classes
or ids, its rows what a network written out by hand gives; what it cannot do is said while planning."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import swapyard as sy
from orchestrator.run.device_setup import Limits, RunOptions
from orchestrator.run.driver import run_study
from orchestrator.run.progress import Progress
from tests.workers import plain_gru
from workers.errors import StudyError
from workers.zoo.build import make

STEPS, WIDTH = 10, 2
GRU = {"ref": "zoo:gru", "width": WIDTH, "num_layers": 1, "outputs": 2, "seed": 0}
MLP = {"ref": "zoo:mlp", "width": 8, "num_layers": 2, "outputs": 3, "seed": 0, "activation": "tanh"}
GPT = {"ref": "zoo:gpt", "width": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 11, "seed": 0}
RAGGED = [{"to": [0, 2, 4], "at": [0, 5, 7]}, {"to": 4, "at": 7}, {"to": [0, 2], "at": [0, 5]}]


def vectors(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 4 - 2


def embed_pairs(shape: tuple[int, int], count: int = 6, sources: int = 2) -> list[dict[str, Any]]:
    """Pairs of random vectors, of which class 1 is expected, and class 0 without intervention."""
    runs = ["base", "source", *(f"source_{n}" for n in range(2, sources + 1))]
    drawn = vectors(count, len(runs), *shape, seed=0)
    return [
        {"number": n, "label": 1, "base_label": 0}
        | {f"{run}_embeds": drawn[n, at].tolist() for at, run in enumerate(runs)}
        for n in range(count)
    ]


def study(name: str, model: Any, sweep: list[dict[str, Any]], **keys: Any) -> sy.Study:
    return sy.Study.model_validate({"study": name, "model": model, "sweep": sweep, **keys})


def logits(results: sy.Results, *columns: str) -> dict[tuple[Any, ...], list[float]]:
    """The logits of class 0 and 1 of each row, by the pair's number and `columns`."""
    assert results.sql("SELECT count(*) FROM failures").fetchall() == [(0,)]
    names = ", ".join(('"number"', *columns))
    rows = results.sql(f"SELECT base_label_logit, label_logit, {names} FROM results").fetchall()
    found = {row[2:]: list(row[:2]) for row in rows}
    assert len(found) == len(rows)
    return found


def torch_gru(module: Any) -> nn.GRU:
    """The library's GRU with the weights of a built-in one."""
    gru = nn.GRU(WIDTH, WIDTH, batch_first=True).requires_grad_(False)
    cell = module.layers[0].cell
    for part, linear in (("ih", cell.from_input), ("hh", cell.from_state)):
        getattr(gru, f"weight_{part}_l0").copy_(linear.weight)
        getattr(gru, f"bias_{part}_l0").copy_(linear.bias)
    return gru


@torch.no_grad()
def test_time_steps_of_a_gru_are_those_of_a_loop_written_out(tmp_path: Path) -> None:
    pairs = embed_pairs((STEPS, WIDTH))
    sites = ["cell_output", "update_gate_output", "cell_input"]
    ragged = {
        "sites": sites,
        "layer": 0,
        "for": RAGGED,
        "position": "$to",
        "from": {"run": "source", "position": "$at"},
    }
    found = logits(
        sy.run(study("steps", GRU, [ragged], pairs=pairs), store=tmp_path, quiet=True), "site", '"to"'
    )
    assert len(found) == len(pairs) * len(sites) * len(RAGGED)
    module = make("gru", **{key: value for key, value in GRU.items() if key != "ref"})
    gru = torch_gru(module)
    for pair in pairs:
        base, source = torch.tensor(pair["base_embeds"]), torch.tensor(pair["source_embeds"])
        for site in sites:
            for row in RAGGED:
                to, at = (value if isinstance(value, list) else [value] for value in row.values())
                steps = dict(zip(to, at, strict=True))
                states = plain_gru.swapped(gru, base, source, site, 0, steps)
                written = str(to if isinstance(row["to"], list) else row["to"])
                expected = module.head(states[-1]).tolist()
                assert found[pair["number"], site, written] == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_halves_of_a_state_from_two_sources_are_put_together(tmp_path: Path) -> None:
    pairs = embed_pairs((STEPS, WIDTH))
    units = [{"subspace": "0:1"}, {"subspace": "1:2", "from": "$second"}]
    sweep = {"site": "cell_output", "layer": 0, "position": -1, "for": {"second": ["source", "source_2"]}}
    made = study("halves", GRU, [{**sweep, "units": units}], pairs=pairs)
    found = logits(sy.run(made, store=tmp_path, quiet=True), "second")
    module = make("gru", **{key: value for key, value in GRU.items() if key != "ref"})
    gru = torch_gru(module)
    for pair in pairs:
        last = {
            run: plain_gru.states(gru, torch.tensor(pair[f"{run}_embeds"]))[-1]
            for run in ("source", "source_2")
        }
        for second in last:
            expected = module.head(torch.stack([last["source"][0], last[second][1]])).tolist()
            assert found[pair["number"], second] == pytest.approx(expected, abs=1e-5)
            assert any(abs(value) > 1e-3 for value in expected)


@torch.no_grad()
def test_an_mlp_whose_whole_state_is_swapped_answers_as_for_its_source(tmp_path: Path) -> None:
    pairs = embed_pairs((1, 8))
    block = {"site": "block_output", "layer": 0, "position": 0}
    sweep = [
        {**block, "name": "both", "units": [{"subspace": "0:4"}, {"subspace": "4:8"}]},
        {**block, "name": "half", "units": [{"subspace": "4:8"}]},
    ]
    found = logits(sy.run(study("mlp", MLP, sweep, pairs=pairs), store=tmp_path, quiet=True), "block")
    module = make("mlp", **{key: value for key, value in MLP.items() if key != "ref"})
    for pair in pairs:
        base, source = (torch.tensor([pair[f"{run}_embeds"]]) for run in ("base", "source"))
        own, other = (module.layers[0](given.flatten(1)) for given in (base, source))
        mixed = torch.cat([own[:, :4], other[:, 4:]], 1)
        whole = module(inputs_embeds=source).logits[0, 0]
        half = module.head(module.layers[1](mixed))[0]
        assert found[pair["number"], "both"] == pytest.approx(whole[:2].tolist(), abs=1e-5)
        assert found[pair["number"], "half"] == pytest.approx(half[:2].tolist(), abs=1e-5)


def test_a_language_model_of_token_ids_has_its_ids_as_words(tmp_path: Path) -> None:
    pairs = [{"base_ids": [1, 2, 3 + n], "source_ids": [4, 5, 6 + n], "label": 7 + n} for n in range(3)]
    sweep = [{"sites": ["block_output", "attention_value_output"], "layers": "all", "positions": "all"}]
    results = sy.run(study("gpt", GPT, sweep, pairs=pairs), store=tmp_path, quiet=True)
    rows = results.sql(
        """SELECT base_tokens, label_id, pred_token = pred_id::VARCHAR, iia = (pred_id = label_id)::DOUBLE
           FROM results WHERE site = 'block_output' AND layer = 1 AND base_position = 2 ORDER BY label_id"""
    ).fetchall()
    assert rows == [(["1", "2", str(3 + n)], 7 + n, True, True) for n in range(3)]
    assert results.sql("SELECT count(*) FROM results").fetchall() == [(3 * 2 * 2 * 3,)]
    swapped = "site = 'block_output' AND layer = 1 AND base_position = 2"
    assert results.sql(f"SELECT max(kl_source) < 1e-6 FROM results WHERE {swapped}").fetchall() == [(True,)]


def test_without_labels_the_impact_is_measured_and_accuracy_is_null(tmp_path: Path) -> None:
    task = {"name": "random_embeds", "shape": [STEPS, WIDTH], "num_pairs": 5, "seed": 0}
    sweep = [{"site": "cell_output", "layer": 0, "positions": [0, -1]}]
    results = sy.run(study("impact", GRU, sweep, task=task), store=tmp_path, quiet=True)
    columns = "count(iia), count(label), count(kl_base), count(tv_base), count(changed)"
    assert results.sql(f"SELECT {columns} FROM results").fetchall() == [(0, 0, 10, 10, 10)]
    # The variation is at most what Pinsker's inequality allows, as far as the divergence is exact.
    bounds = "tv_base > 0 AND tv_base <= sqrt(kl_base / 2) + 1e-3"
    assert results.sql(f"SELECT bool_and({bounds}) FROM results WHERE position = -1").fetchall() == [(True,)]
    assert results.sql("SELECT DISTINCT typeof(base_embeds) FROM pairs").fetchall() == [("FLOAT[][]",)]


def test_a_filter_keeps_the_pairs_whose_class_is_answered_right(tmp_path: Path) -> None:
    pairs = [
        {**pair, "base_label": n % 2, "source_label": 1} for n, pair in enumerate(embed_pairs((1, 8), 24, 1))
    ]
    model = {**MLP, "outputs": 2}
    sweep = [{"site": "block_output", "layers": "all", "position": 0}]
    made = study("kept", model, sweep, pairs=pairs, filter="both_correct")
    results = sy.run(made, store=tmp_path, quiet=True)
    kept = {n for (n,) in results.sql('SELECT DISTINCT "number" FROM results').fetchall()}
    module = make("mlp", **{key: value for key, value in model.items() if key != "ref"})

    def answer(run: str, pair: dict[str, Any]) -> int:
        return int(module(inputs_embeds=torch.tensor([pair[f"{run}_embeds"]])).logits.argmax())

    right = [p for p in pairs if answer("base", p) == p["base_label"] and answer("source", p) == 1]
    assert 0 < len(right) < len(pairs)
    assert kept == {pair["number"] for pair in right}


def test_an_interrupted_study_of_vectors_goes_on_and_one_that_grows_keeps_its_pairs(tmp_path: Path) -> None:
    sweep = [{"site": "cell_output", "layer": 0, "positions": "all"}]

    def made(count: int) -> sy.Study:
        return study("goes-on", GRU, sweep, pairs=embed_pairs((STEPS, WIDTH), 6)[:count])

    options = RunOptions(executor="inline", limits=Limits(jobs=1))
    run_study(made(4), tmp_path / "a" / "goes-on", options, Progress(quiet=True))
    grown, fresh = (sy.run(made(6), store=tmp_path / folder, quiet=True) for folder in ("a", "b"))
    columns = ("position", "job_id")
    found, expected = logits(grown, *columns), logits(fresh, *columns)
    assert found.keys() == expected.keys() and len(found) == 60
    for key, values in expected.items():
        assert found[key] == pytest.approx(values, abs=1e-6)
    smaller = sy.run(made(2), store=tmp_path / "a", replace=True, quiet=True)
    assert logits(smaller, *columns).items() <= found.items()


@pytest.mark.parametrize(
    ("model", "keys", "block", "text"),
    [
        (
            GRU,
            {},
            {"read": 3},
            "block0: read 3: zoo:gru classifies the run as a whole, so there is one answer",
        ),
        (
            GRU,
            {},
            {"position": 10},
            "position 10 does not exist in 6 of 6 pairs, such as pair 0 whose base has",
        ),
        (
            GRU,
            {},
            {"site": "block_output"},
            "zoo:gru (zoo:gru) has no site 'block_output'; it has cell_input",
        ),
        (GRU, {}, {"subspace": "0:3"}, "subspace 0:3 reaches beyond cell_output of zoo:gru, which has 2"),
        (
            GRU,
            {"pairs": [{"base": "a"}]},
            {},
            "base: 'a' is text, and zoo:gru has no tokenizer; give base_ids",
        ),
    ],
)
def test_what_such_a_model_cannot_do_is_said_while_planning(
    model: Any, keys: dict[str, Any], block: dict[str, Any], text: str, tmp_path: Path
) -> None:
    sweep = [{"site": "cell_output", "layer": 0, "position": 0, **block}]
    made = study("wrong", model, sweep, **{"pairs": embed_pairs((STEPS, WIDTH)), **keys})
    with pytest.raises(sy.SwapyardError) as caught:
        sy.plan(made, store=tmp_path)
    assert text in str(caught.value)


def test_some_tokens_of_a_site_that_holds_all_of_them_are_refused(tmp_path: Path) -> None:
    model = {**MLP, "vocab_size": 9, "num_inputs": 4}
    pairs = [{"base_ids": [1, 2, 3, 4], "source_ids": [5, 6, 7, 8]}]

    def made(name: str, position: Any) -> sy.Study:
        return study(name, model, [{"site": "block_output", "layer": 0, "position": position}], pairs=pairs)

    with pytest.raises(StudyError, match=r"position 2: block_output of zoo:mlp has one for the whole run"):
        sy.plan(made("some", 2), store=tmp_path)
    for name, position in (("all", "all"), ("first", 0)):
        results = sy.run(made(name, position), store=tmp_path, quiet=True)
        assert results.sql("SELECT max(kl_source) < 1e-6 FROM results").fetchall() == [(True,)]


def test_planning_loads_no_model_library(tmp_path: Path) -> None:
    made = study(
        "light", GRU, [{"site": "cell_output", "layer": 0, "position": 0}], pairs=embed_pairs((3, 2))
    )
    (tmp_path / "light.yaml").write_text(made.to_yaml(), encoding="utf-8")
    code = (
        "import sys, swapyard as sy\n"
        "print(sy.plan('light.yaml').plan.num_jobs, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["6", "False", "False"]
