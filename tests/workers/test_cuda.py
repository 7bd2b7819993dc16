"""Promise: on a CUDA device a study gives what it gives on the CPU, within its bounds and its memory."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from tiny import facts_of, pairs, swap, tiny_module

from workers.engine.engine import Batch, Engine
from workers.engine.transfers import to_host
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
    engine = Engine(LoadedModel.wrap(module, facts_of(module, "llama")), capture_budget_bytes=1 << 28)
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
