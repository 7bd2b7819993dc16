"""Promise: a digest of tensors or of a tokeniser is of what they are, and not of how a release wrote them."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from workers.errors import ModelError
from workers.model.pinned import Pin, differences, tensors_digest, tokenizer_digest

TENSORS = {
    "b": ("F32", [2, 3], bytes(range(24))),
    "a": ("F32", [3, 2], bytes(range(1, 25))),
    "c": ("BF16", [2], b"wxyz"),
}


def write(folder: Path, tensors: Any, *names: str, **metadata: str) -> str:
    """A safetensors file with the tensors in this order, and its digest."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at, data = 0, b""
    for name in names or tensors:
        dtype, shape, numbers = tensors[name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(numbers)]}
        at, data = at + len(numbers), data + numbers
    text = json.dumps(header).encode()
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return tensors_digest(folder)


def test_the_order_and_the_header_of_a_file_do_not_change_the_digest(tmp_path: Path) -> None:
    first = write(tmp_path, TENSORS)
    assert write(tmp_path, TENSORS, "a", "b", "c") == first
    assert write(tmp_path, TENSORS, "c", "a", "b", format="pt", by="another release") == first


@pytest.mark.parametrize(
    "change",
    [
        {"b": ("F32", [2, 3], bytes(range(23)) + b"\0")},
        {"b": ("F32", [3, 2], bytes(range(24)))},
        {"b": ("I32", [2, 3], bytes(range(24)))},
        {"b": TENSORS["a"], "a": TENSORS["b"]},
        {"d": ("F32", [1], bytes(4))},
    ],
    ids=["number", "shape", "dtype", "names", "one more"],
)
def test_what_a_tensor_is_changes_the_digest(tmp_path: Path, change: Any) -> None:
    assert write(tmp_path, {**TENSORS, **change}) != write(tmp_path, TENSORS)


def test_tensors_may_lie_in_several_files(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", TENSORS)
    write(tmp_path / "parts", TENSORS, "a", "c")
    (tmp_path / "parts" / "model.safetensors").rename(tmp_path / "parts" / "model-1.safetensors")
    assert write(tmp_path / "parts", TENSORS, "b") == whole


def tokeniser(folder: Path) -> dict[str, Any]:
    """A byte-level tokeniser, as plain data."""
    vocab = {
        token: number for number, token in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġc"])
    }
    words = Tokenizer(BPE(vocab, [("Ġ", "c")]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens(["<|im_start|>"])
    words.save(str(folder / "tokenizer.json"))
    content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    return content


def digest_of(folder: Path, content: Any) -> str:
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    return tokenizer_digest(folder / "tokenizer.json")


def test_how_a_release_writes_a_tokeniser_does_not_change_the_digest(tmp_path: Path) -> None:
    content = tokeniser(tmp_path)
    first = tokenizer_digest(tmp_path / "tokenizer.json")
    model = {
        key: value for key, value in content["model"].items() if key not in ("ignore_merges", "fuse_unk")
    }
    older = {**model, "merges": [" ".join(pair) for pair in model["merges"]]}
    padded = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
    padded |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "!"}
    assert digest_of(tmp_path, {**content, "model": older, "padding": padded}) == first


def test_what_a_tokeniser_does_changes_the_digest(tmp_path: Path) -> None:
    content = tokeniser(tmp_path)
    first = tokenizer_digest(tmp_path / "tokenizer.json")
    digits = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}]}
    begins = {
        "single": [{"SpecialToken": {"id": "!", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    }
    begins |= {"type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}]}
    begins["special_tokens"] = {"!": {"id": "!", "ids": [0], "tokens": ["!"]}}
    vocab = content["model"]["vocab"]
    changes = {
        "no merges": {"model": {**content["model"], "merges": []}},
        "other ids": {"model": {**content["model"], "vocab": {**vocab, "!": vocab["#"], "#": vocab["!"]}}},
        "a special token less": {"added_tokens": []},
        "digits": {"pre_tokenizer": digits},
        "a first token": {"post_processor": begins},
        "no way back": {"decoder": None},
    }
    found = {name: digest_of(tmp_path, {**content, **change}) for name, change in changes.items()}
    assert first not in found.values() and len(set(found.values())) == len(changes)


@pytest.mark.parametrize("damage", [b"", b"\xff" * 8, struct.pack("<Q", 2) + b"[]"])
def test_a_damaged_file_is_one_message(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(damage)
    pin = Pin(revision="", tensors="", tokenizer="", config={}, seen_with="")
    with pytest.raises(ModelError, match=f"the model in {tmp_path} cannot be read .*; fetch it again"):
        differences(tmp_path, pin)
    write(tmp_path, TENSORS)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"cannot be read \(.*it is cut off: its tensors end at byte \d+"):
        differences(tmp_path, pin)
