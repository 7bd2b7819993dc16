"""Pins of fetched models: their tensors, tokeniser and the numbers of their config, by content.

The libraries that convert a model write the files, and another release may write the same model differently:
keys come and go, headers are ordered anew. What a model is called in results hangs on none of this; a model
that is another one is refused. No torch here.
"""

__all__ = ["Pin", "check_pinned", "differences", "installed", "tensors_digest", "tokenizer_digest"]

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from workers.errors import ModelError
from workers.model.cache import content_hash, is_known, keep_known
from workers.model.weight_files import Stored, stored_tensors

_LIBRARIES = ("transformers", "gguf", "tokenizers", "safetensors", "torch")
"""Libraries that have a say in what is written."""

_CHUNK_BYTES = 1 << 22

_SAMPLES = (
    "The capital of Spain is Madrid, isn't it?",
    "  two blanks\n\n\tand 12345 + 067.89 = 12,412.89",
    "def f(x):\n    return x**2  # naïve café, Ελλάδα, 東京, 🙂",
    "<|im_start|>user\nWhat's up?<|im_end|>\n<|endoftext|>",
    "\u00a0\u200b e\u0301 ﬁ ½\r\n",
)
"""Texts that show how a tokeniser splits digits, blanks, contractions, other scripts and special tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """Content that a converted model must have, whichever releases of the libraries wrote it."""

    revision: str
    """Name of it in results: the hash of the files as they were written when it was pinned."""
    tensors: str
    """`tensors_digest` of its weights."""
    tokenizer: str
    """`tokenizer_digest` of its tokeniser."""
    config: Mapping[str, object]
    """Keys of ``config.json`` that decide what is computed; those of rotary embeddings may lie one deeper."""
    seen_with: str
    """Releases that were seen to make it."""


def check_pinned(folder: Path, pin: Pin) -> list[str]:
    """In what the model in `folder` is not the pinned one; nothing where it is.

    Only the first call reads the files, as long as they do not change.

    Raises:
        ModelError: the folder or a file in it cannot be read.
    """
    found = content_hash(folder)
    if found == pin.revision:
        return []
    checked = hashlib.sha256(f"{found}\n{pin}".encode()).hexdigest()
    if is_known(checked):
        return []
    wrong = differences(folder, pin)
    if not wrong:
        keep_known(checked)
    return wrong


def differences(folder: Path, pin: Pin) -> list[str]:
    """In what the model in `folder` is not the pinned one, each as "what it is, pinned is what".

    Raises:
        ModelError: a file in it cannot be read.
    """
    try:
        found = [
            ("the tensors' digest", tensors_digest(folder), pin.tensors),
            ("the tokeniser's digest", tokenizer_digest(folder / "tokenizer.json"), pin.tokenizer),
            *_config_numbers(folder / "config.json", pin.config),
        ]
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"the model in {folder} cannot be read ({reason}); fetch it again") from error
    wrong = [(what, _short(is_), _short(pinned)) for what, is_, pinned in found if is_ != pinned]
    return [f"{what} is {is_}, pinned is {pinned}" for what, is_, pinned in wrong]


def installed() -> str:
    """The installed releases of the libraries that convert, ``transformers 5.24.0, gguf 0.19.0, …``."""
    return ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES)


def tensors_digest(folder: Path) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and numbers of all tensors in the safetensors files of
    `folder`, sorted by name: neither the order in a file nor what else its header says changes it.

    Raises:
        OSError: a file cannot be read.
        ValueError, KeyError, struct.error: it is damaged.
    """
    total = hashlib.sha256()
    tensors = stored_tensors(folder)
    for name in sorted(tensors):
        what = f"{tensors[name].dtype} {list(tensors[name].shape)}"
        total.update(f"{name}\0{what}\0{_hash_numbers(tensors[name])}\n".encode())
    return total.hexdigest()


def tokenizer_digest(file: Path) -> str:
    """SHA-256 (hex) over vocabulary, merges and added tokens of a ``tokenizer.json``, and over what becomes
    of some texts and back: settings that a release adds or leaves out do not change it, behaviour does.

    Raises:
        OSError: the file cannot be read.
        ValueError, KeyError: it is damaged.
    """
    import tokenizers

    written = json.loads(file.read_text("utf-8"))
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # The library raises plain Exception for every kind of damage.
        raise ValueError(f"{file.name}: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    ids = [backend.encode(text).ids for text in _SAMPLES]
    flags = ("id", "content", "special", "lstrip", "rstrip", "normalized", "single_word")
    content = {
        "vocab": backend.get_vocab(with_added_tokens=False),
        # Pairs in newer releases; in older ones one text, and no token of these has a blank.
        "merges": [one.split(" ") if isinstance(one, str) else one for one in written["model"]["merges"]],
        "added": sorted([token[flag] for flag in flags] for token in written["added_tokens"]),
        "samples": [[found, backend.decode(found, skip_special_tokens=False)] for found in ids],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hash_numbers(tensor: Stored) -> str:
    digest, left = hashlib.sha256(), tensor.num_bytes
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.start)
        while left and (chunk := stream.read(min(left, _CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
    if left:
        raise ValueError(f"{tensor.file.name} ends too early")
    return digest.hexdigest()


def _config_numbers(file: Path, pinned: Mapping[str, object]) -> Iterator[tuple[str, object, object]]:
    """Values under each pinned key: its description, what `file` says, and what it should say."""
    written = json.loads(file.read_text("utf-8"))
    # Rotary embeddings have their own mapping in newer releases; in older ones their base lay at the top, and
    # what scales them in a mapping where there was any.
    rotary = written.get("rope_parameters") or written.get("rope_scaling") or {}
    flat = {"rope_type": rotary.get("type", "default"), **written, **rotary}
    for key, value in pinned.items():
        yield f"{key} of {file.name}", flat.get(key), value


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
