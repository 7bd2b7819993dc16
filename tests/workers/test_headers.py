"""Promise: among tensors of one kind those of another shape and absent ones stand out, and no others."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from workers.model.weight_files import odd_ones, stored_tensors


def test_headers_say_where_each_tensor_lies_and_as_what(tmp_path: Path) -> None:
    tensors = {"a.0.b": np.arange(6, dtype=np.float32).reshape(2, 3), "c": np.ones(4, np.float16)}
    save_file({"a.0.b": tensors["a.0.b"]}, tmp_path / "model-1.safetensors", {"format": "pt"})
    save_file({"c": tensors["c"]}, tmp_path / "model-2.safetensors")
    found = stored_tensors(tmp_path)
    assert {name: (one.dtype, one.shape) for name, one in found.items()} == {
        "a.0.b": ("F32", (2, 3)),
        "c": ("F16", (4,)),
    }
    for name, one in found.items():
        data = one.file.read_bytes()[one.start : one.start + one.num_bytes]
        assert data == tensors[name].tobytes(), name


def test_only_what_differs_from_its_like_is_odd(tmp_path: Path) -> None:
    names = [
        f"layers.{layer}.experts.{expert}.w{n}" for layer in range(3) for expert in range(4) for n in (1, 2)
    ]
    tensors = {
        name: np.zeros((2, 1 + name.endswith("2")), np.float32)
        for name in [*names, "head", "layers.0.only", "v2.1"]
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert odd_ones(stored_tensors(tmp_path)) == []
    tensors["layers.1.experts.3.w2"] = np.zeros(7, np.float32)
    del tensors["layers.2.experts.0.w1"]
    save_file(tensors, tmp_path / "model.safetensors")
    assert odd_ones(stored_tensors(tmp_path)) == [
        "layers.2.experts.0.w1 (missing)",
        "layers.1.experts.3.w2 ([7], the others [2, 2])",
    ]
