"""Promise: on a CUDA device a study gives what it gives on the CPU, within its bounds and its memory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import facts_of, pairs, swap, tiny_module

import swapyard as sy
from workers.engine.engine import Batch, Engine
from workers.engine.replay.probe import probed
from workers.engine.scoring import to_host
from workers.model.capability import ABILITIES
from workers.model.loading import LoadedModel
from workers.vocabulary import Cell

CELLS = [
    swap(site, layer, (position,))
    for site in ("mlp_output", "attention_input", "block_output")
    for layer in range(3)
    for position in (0, 3, 4)
]


def rows(device: str, dtype: torch.dtype, cells: list[Cell] = CELLS) -> Mapping[str, Any]:
    module = tiny_module("llama").to(device, dtype)
    engine = Engine(probed(LoadedModel.wrap(module, facts_of(module, "llama"))), capture_budget_bytes=1 << 28)
    outcome = engine.run(Batch(cells=list(enumerate(cells)), pairs=pairs(8), families=("logits", "kl")))
    assert not outcome.num_failed
    return outcome.columns


def test_columns_come_to_main_memory_as_they_are() -> None:
    columns = {"a": torch.arange(4.0), "b": torch.arange(3)}
    moved = to_host(columns)
    assert all(torch.equal(moved[name], column) for name, column in columns.items())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_metrics_of_bfloat16_weights_are_float32_and_near_those_of_float32(device: str) -> None:
    narrow, wide = rows(device, torch.bfloat16), rows("cpu", torch.float32)
    scale = float(np.abs(wide["pred_logit"]).max())
    for name in ("label_logit", "base_label_logit", "logsumexp", "pred_logit"):
        assert narrow[name].dtype == np.float32
        np.testing.assert_allclose(narrow[name], wide[name], atol=0.1 * scale)
    # The sum over the vocabulary was not made in steps of 2^-8.
    rounded = torch.from_numpy(narrow["logsumexp"]).bfloat16().float().numpy()
    assert (rounded != narrow["logsumexp"]).mean() > 0.9


@pytest.mark.cuda
def test_rows_from_a_device_are_those_of_the_cpu() -> None:
    device, cpu = rows("cuda", torch.float32), rows("cpu", torch.float32)
    scale = float(np.abs(cpu["pred_logit"]).max())
    for name, column in cpu.items():
        if column.dtype == np.float32:
            np.testing.assert_allclose(device[name], column, rtol=1e-3, atol=1e-3 * scale)
    np.testing.assert_array_equal(device["tier"], cpu["tier"])


@pytest.mark.cuda
def test_columns_of_a_device_are_there_when_they_are_looked_at() -> None:
    square = torch.rand(2048, 2048, device="cuda")
    product = square @ square @ square
    moved = to_host({"sum": product.sum(1), "max": product.amax(1)})
    assert all(column.is_pinned() for column in moved.values())
    assert torch.equal(moved["sum"], product.sum(1).cpu())
    assert torch.equal(moved["max"], product.amax(1).cpu())


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
"""Everything below runs here too, so that the tests of a device are known to be right before one is there."""

PAIRS = [
    {"base_ids": [1, 2, 3, 4], "source_ids": [5, 6, 7, 8], "label": 9, "base_label": 10},
    {"base_ids": [4, 3, 2, 1], "source_ids": [8, 7, 6, 5], "label": 11, "base_label": 12},
]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_decoder_resumes_with_all_that_makes_jobs_cheaper(kind: str, device: str) -> None:
    module = tiny_module(kind).to(device)
    found = probed(LoadedModel.wrap(module, facts_of(module, kind))).capability
    assert [one.name for one in found.abilities if not one.has] == []
    assert {one.name for one in found.abilities} == set(ABILITIES)
    assert found.device.startswith(device)


def study(folder: Path, model: Path, device: str, **keys: Any) -> Path:
    content = {
        "study": "small",
        "model": {"ref": str(model), "device": device},
        "pairs": PAIRS,
        "sweep": [{"sites": ["mlp_output", "block_output"], "layers": "all", "positions": "all"}],
        **keys,
    }
    path = folder / "small.yaml"
    path.write_text(json.dumps(content), "utf-8")
    return path


def results(path: Path, store: Path, order: str = "layer, site, base_position, pair_id") -> Any:
    found = sy.run(str(path), store=store, executor="inline", quiet=True)
    assert found.outcome is not None and found.outcome.counts.num_failed == 0
    return found.sql(
        f"SELECT label_logit, logit_diff, kl_base, prob FROM results ORDER BY {order}"
    ).fetchnumpy()


@pytest.mark.parametrize("device", DEVICES)
def test_a_study_on_a_device_has_the_rows_of_one_on_the_cpu(
    device: str, tmp_path: Path, tiny_folder: Path
) -> None:
    found = results(study(tmp_path, tiny_folder, device), tmp_path / device)
    plain = results(study(tmp_path, tiny_folder, "cpu"), tmp_path / "plain")
    scale = float(np.abs(plain["label_logit"]).max())
    for name, column in plain.items():
        np.testing.assert_allclose(found[name], column, rtol=1e-3, atol=1e-3 * scale, err_msg=name)


@pytest.mark.parametrize("device", DEVICES)
def test_fits_are_made_and_used_on_a_device(device: str, tmp_path: Path, tiny_folder: Path) -> None:
    fits = {"R": {"method": "das", "rank": 2, "num_steps": 4}, "P": {"method": "pca", "rank": 2}}
    sweep = [{"site": "block_output", "layer": 1, "position": -1, "subspaces": ["R", "P"]}]
    found = results(
        study(tmp_path, tiny_folder, device, fits=fits, sweep=sweep), tmp_path / device, "subspace, pair_id"
    )
    assert len(found["label_logit"]) == 4 and np.isfinite(found["label_logit"]).all()


@pytest.mark.parametrize("device", DEVICES)
def test_a_notebook_model_is_changed_on_a_device_and_gradients_reach_its_weights(device: str) -> None:
    net = sy.IntervenableModel(tiny_module("llama").to(device))
    for parameter in net.module.parameters():
        parameter.requires_grad_(True)
    unit = sy.Unit("mlp_output", layer=1, position=2)
    base, source = torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6]])
    changed = net(base, source, units=[unit]).logits
    clean = net(base).logits
    off = (changed - clean).abs().amax((0, 2))
    assert off[:2].max() == 0 and off[2] > 0
    changed[0, -1, 3].backward()
    assert net.module.model.layers[1].mlp.down_proj.weight.grad.abs().max() > 0


@pytest.mark.cuda
def test_memory_that_runs_out_on_a_device_makes_forwards_smaller() -> None:
    module = tiny_module("llama").to("cuda")
    model = probed(LoadedModel.wrap(module, facts_of(module, "llama")))
    sizes: list[int] = []

    def take(_: Any, args: tuple[Any, ...]) -> None:
        sizes.append(len(args[0]))
        if len(args[0]) > 5:  # More than any card has.
            torch.empty(1 << 45, device="cuda")

    module.model.layers[2].mlp.register_forward_pre_hook(take)
    engine = Engine(model, capture_budget_bytes=1 << 28, shortcut=False)
    outcome = engine.run(Batch(cells=list(enumerate(CELLS)), pairs=pairs(8), families=("logits",)))
    assert not outcome.num_failed and max(sizes) > 5
