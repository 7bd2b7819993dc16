"""Promise: a fetched model keeps its name in results whatever release of the libraries wrote its files, and
one that became another is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE

from workers.errors import ModelError
from workers.model.cache import content_hash, models_folder
from workers.model.fetch import SOURCES
from workers.model.pinned import Pin, tensors_digest, tokenizer_digest
from workers.model.references import resolve
from workers.vocabulary import ModelSpec

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
SMALL: dict[str, Any] = {**LLAMA, "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"}}


def configure(folder: Path, config: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def save_small(folder: Path) -> Path:
    """Two tensors, a tokeniser of a few tokens, and a config."""
    configure(folder, SMALL)
    save_file({"a": np.arange(6.0).reshape(2, 3), "b": np.ones(4, np.float32)}, folder / "model.safetensors")
    words = Tokenizer(BPE({"a": 0, "b": 1, " ": 2, "c": 3, " c": 4}, [(" ", "c")]))
    words.add_special_tokens(["<|im_start|>"])
    words.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model where a fetched one lies, pinned as what it is, under the name of its files."""
    folder = save_small(models_folder() / "smollm2-135m")
    pin = Pin(
        revision=content_hash(folder),
        tensors=tensors_digest(folder),
        tokenizer=tokenizer_digest(folder / "tokenizer.json"),
        config={"num_hidden_layers": 30, "rope_theta": 1e5, "rope_type": "default"},
        seen_with="",
    )
    monkeypatch.setitem(SOURCES, "smollm2-135m", replace(SOURCES["smollm2-135m"], pin=pin))
    return folder


def fetched_revision(pinned: str | None = None) -> str:
    return resolve(ModelSpec(ref="smollm2-135m", revision=pinned), fetch=False).revision


def test_a_fetched_model_keeps_its_name_whatever_release_wrote_its_files(fetched: Path) -> None:
    """As an older release writes them, and one to come might."""
    name, weights = content_hash(fetched), fetched / "model.safetensors"
    assert fetched_revision() == name
    older = {**LLAMA, "rope_theta": 100000.0, "rope_scaling": None, "torch_dtype": "float32"}
    newer = {**SMALL, "transformers_version": "5.99.0", "layer_types": ["full_attention"] * 30}
    for config in (older, newer):
        configure(fetched, config)
        (fetched / "tokenizer_config.json").write_text(json.dumps({"backend": "another"}), "utf-8")
        save_file(load_file(weights), weights, metadata={"format": "pt"})
        assert content_hash(fetched) != name == fetched_revision()
        assert fetched_revision(name[:12]) == name


def test_a_study_that_pins_the_files_of_a_fetched_model_goes_on_under_their_hash(fetched: Path) -> None:
    configure(fetched, {**SMALL, "transformers_version": "5.99.0"})
    files = content_hash(fetched)
    assert fetched_revision(files) == files != fetched_revision()
    with pytest.raises(ModelError, match=f"pins revision abc, but this model's is {fetched_revision()[:12]}"):
        fetched_revision("abc")


def flip(folder: Path) -> None:
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)


def split_blanks(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps({**content, "pre_tokenizer": {"type": "Whitespace"}}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip, "the tensors' digest is"),
        (split_blanks, "the tokeniser's digest is"),
        (lambda folder: configure(folder, LLAMA), "rope_theta of config.json is None, pinned is 100000.0"),
        (
            lambda folder: configure(
                folder, {**SMALL, "rope_scaling": {"type": "linear"}, "rope_parameters": {}}
            ),
            "rope_type of config.json is linear, pinned is default",
        ),
    ],
    ids=["tensors", "tokeniser", "config", "scaled"],
)
def test_a_fetched_model_that_became_another_one_is_refused(
    fetched: Path, change: Callable[[Path], object], said: str
) -> None:
    change(fetched)
    for _ in range(2):  # What was found wrong is not remembered as right.
        with pytest.raises(ModelError, match=f"is not the pinned model: .*{said}.*models clear smollm2-135m"):
            fetched_revision()


def test_a_fetched_model_is_checked_once(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(fetched, {**SMALL, "transformers_version": "5.99.0"})
    name = fetched_revision()
    monkeypatch.setattr("workers.model.pinned.differences", lambda folder, pin: ["read again"])
    assert fetched_revision() == name


def test_every_model_that_is_made_here_is_pinned() -> None:
    for name, source in SOURCES.items():
        digests = {source.pin.revision, source.pin.tensors, source.pin.tokenizer}
        assert len(digests) == 3 and all(len(bytes.fromhex(digest)) == 32 for digest in digests), name


def test_without_fetching_a_missing_alias_says_how_to_get_it() -> None:
    with pytest.raises(ModelError, match="get it with 'swapyard models fetch smollm2-135m'"):
        resolve(ModelSpec(ref="smollm2-135m"), fetch=False)
