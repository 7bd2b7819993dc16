"""What all tests share: an own cache, one torch thread, and a tiny model on disk that studies can name."""

import os
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def _own_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads or writes the user's cache, but for those that need the real weights in it."""
    if request.node.get_closest_marker("smollm2") is None:
        monkeypatch.setenv("SWAPYARD_CACHE", str(tmp_path / "cache"))


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
