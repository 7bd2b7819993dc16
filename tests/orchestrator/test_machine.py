"""Promise: a container's limits on cores and memory are those that count, in control groups old and new."""

import os
from pathlib import Path

import pytest

from orchestrator.machine import memory_bytes, num_cores, num_gpus

PLENTY = 2**50


def limits(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": f"{2**30}\n"},
        {"memory/memory.limit_in_bytes": f"{2**30}\n"},
        {"memory.max": f"{PLENTY}\n", "memory/memory.limit_in_bytes": f"{2**30}\n"},
    ],
)
def test_memory_is_that_of_the_control_group_where_it_is_less(tmp_path: Path, files: dict[str, str]) -> None:
    assert memory_bytes(limits(tmp_path, files)) == 2**30


@pytest.mark.parametrize(
    "files", [{}, {"memory.max": "max\n"}, {"memory/memory.limit_in_bytes": f"{PLENTY}\n"}]
)
def test_memory_is_the_machines_where_there_is_no_limit(tmp_path: Path, files: dict[str, str]) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_bytes(limits(tmp_path, files)) == machine


@pytest.mark.parametrize(
    "files",
    [
        {"cpu.max": "100000 100000\n"},
        {"cpu.max": "50000 100000\n"},
        {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
    ],
)
def test_a_share_of_one_core_or_less_is_one_core(tmp_path: Path, files: dict[str, str]) -> None:
    assert num_cores(limits(tmp_path, files)) == 1


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"cpu.max": "max 100000\n"},
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        {"cpu.max": "100000000 100000\n"},
    ],
)
def test_cores_are_those_that_the_process_may_run_on_where_there_is_no_limit(
    tmp_path: Path, files: dict[str, str]
) -> None:
    assert num_cores(limits(tmp_path, files)) == len(os.sched_getaffinity(0))


def test_gpus_are_counted_by_their_device_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert num_gpus(tmp_path) == 0
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert num_gpus(tmp_path) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert num_gpus(tmp_path) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert num_gpus(tmp_path) == 0
