"""Promise: a failure comes back as a value that holds no tensors, what breaks the accelerator is blamed on no
job, and a row's error is JSON of bounded size."""

import json

import pytest
import torch

from workers.engine.attempts import attempt, error_json
from workers.libraries.torch import is_out_of_memory


def fail(error: Exception) -> None:
    raise error


def test_an_exception_comes_back_without_the_frames_that_hold_its_tensors() -> None:
    error = attempt(lambda: fail(ValueError("no")))
    assert isinstance(error, ValueError)
    assert error.__traceback__ is None
    assert attempt(lambda: None) is None


def test_a_broken_accelerator_is_raised() -> None:
    with pytest.raises(RuntimeError, match="device-side assert"):
        attempt(lambda: fail(RuntimeError("CUDA error: device-side assert triggered")))


def test_only_a_lack_of_memory_asks_for_smaller_forwards() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_an_error_is_json_with_type_and_a_bounded_message() -> None:
    found = json.loads(error_json("RunError", "é" * 5000))
    assert found["type"] == "RunError"
    assert found["message"] == "é" * 2000
