"""What all tests share: an own cache and configuration, one torch thread, and a tiny model on disk."""

import atexit
import os
import re
from pathlib import Path

import pytest


def keep_to_own_cores(worker: str, num_workers: int) -> None:
    """This process, with all that it starts, on its share of the machine's cores, and on one at least."""
    cores = sorted(os.sched_getaffinity(0))
    first = int(worker.removeprefix("gw")) % len(cores)
    os.sched_setaffinity(0, cores[first::num_workers])


os.environ["OMP_NUM_THREADS"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    # As many torch threads as cores, in each of these processes, would be in each other's way.
    keep_to_own_cores(os.environ["PYTEST_XDIST_WORKER"], int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    # Nobody reads how such a process ends, and DuckDB's bindings would list whatever a test has left open.
    atexit.register(os._exit, 0)


@pytest.fixture(autouse=True)
def _own_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads or writes the user's cache, but for those that need the real weights in it, or what the
    user has configured."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    if request.node.get_closest_marker("smollm2") is None:
        monkeypatch.setenv("SWAPYARD_CACHE", str(tmp_path / "cache"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A run of the tests of one mark imports no file without it: all take a quarter of a minute."""
    expression = config.option.markexpr
    if collection_path.suffix != ".py" or not re.fullmatch(r"\w+( and not \w+)*", expression):
        return None
    return f"mark.{expression.split()[0]}" not in collection_path.read_text(encoding="utf-8") or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is for the night runs only where it is asked for: with `-m night`, or by its name."""
    if "night" in config.option.markexpr or any("::" in argument for argument in config.args):
        return
    later = [item for item in items if item.get_closest_marker("night") is not None]
    config.hook.pytest_deselected(items=later)
    items[:] = [item for item in items if item not in later]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of a CUDA device are skipped where there is none."""
    if item.get_closest_marker("cuda") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 3 layers with a tokeniser of whole words, saved as a user would save a model."""
    from tests.torture.tiny import save_tiny_model

    folder = tmp_path_factory.mktemp("tiny") / "tiny-llama"
    save_tiny_model(folder, num_layers=3)
    return folder
