"""Promise: a fit is there whole or not at all, and the one that was there first stays."""

import json
from pathlib import Path

import pytest

from orchestrator.stages.fit.store import FitFolder
from orchestrator.store.storage import LocalStorage
from workers.errors import StoreError

FIT = "0" * 32


def folder(root: Path) -> FitFolder:
    return FitFolder(LocalStorage(root))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    assert folder(tmp_path).read(FIT) is None
    written = folder(tmp_path).write(FIT, b"tensors", {"report": {"loss": 0.5}})
    assert folder(tmp_path).read(FIT) == written
    assert (written.tensors, written.about["report"]) == (b"tensors", {"loss": 0.5})
    assert sorted(path.name for path in (tmp_path / "fits").iterdir()) == [
        f"{FIT}.json",
        f"{FIT}.safetensors",
    ]


def test_the_first_to_write_wins(tmp_path: Path) -> None:
    folder(tmp_path).write(FIT, b"first", {"report": 1})
    assert folder(tmp_path).write(FIT, b"second", {"report": 2}).tensors == b"first"
    found = folder(tmp_path).read(FIT)
    assert found is not None and (found.tensors, found.about["report"]) == (b"first", 1)


def test_tensors_alone_are_no_fit_and_whoever_finishes_keeps_them(tmp_path: Path) -> None:
    LocalStorage(tmp_path).create(f"fits/{FIT}.safetensors", b"of one that was killed")
    assert folder(tmp_path).read(FIT) is None
    assert folder(tmp_path).write(FIT, b"again", {}).tensors == b"of one that was killed"


def test_a_fit_of_the_format_before_is_read(tmp_path: Path) -> None:
    written = folder(tmp_path).write(FIT, b"tensors", {"report": 1})
    assert written.about["format"] == 2
    name = tmp_path / "fits" / f"{FIT}.json"
    name.write_text(json.dumps({**written.about, "format": 1}))
    found = folder(tmp_path).read(FIT)
    assert found is not None and (found.tensors, found.about["format"]) == (b"tensors", 1)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("safetensors", b"tensorz", "it is missing, or not what was written"),
        ("json", b"{", "it is no JSON of ours"),
        ("json", b'{"format": 9}', "it has format 9, and this version reads 1 and 2"),
    ],
)
def test_a_damaged_fit_is_refused(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    folder(tmp_path).write(FIT, b"tensors", {})
    (tmp_path / "fits" / f"{FIT}.{name}").write_bytes(content)
    with pytest.raises(StoreError, match=rf"fits/0+\.{name} cannot be used \({text}"):
        folder(tmp_path).read(FIT)
