"""Promise: the index of a model's weights names files of the model's own folder; the hub cache's links are
such files, and whatever leads elsewhere is refused before it is looked at."""

import json
from pathlib import Path
from typing import Any

import pytest

from workers.errors import ModelError
from workers.model.references import has_weights, resolve
from workers.model.weight_files import shards_of
from workers.vocabulary import ModelSpec


def index(folder: Path, *names: Any, file: str = "model.safetensors.index.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    path.write_text(json.dumps({"weight_map": {f"w{number}": name for number, name in enumerate(names)}}))
    return path


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a", "b/../../a", "C:\\a", "..\\a", "\\a", "", "a\0b", "//h/a"]
)
@pytest.mark.parametrize("file", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_a_file_outside_of_the_folder_is_refused(tmp_path: Path, name: str, file: str) -> None:
    (tmp_path / "a").touch()
    path = index(tmp_path / "m", "good.safetensors", name, file=file)
    for doing in (lambda: shards_of(path), lambda: has_weights(path.parent)):
        with pytest.raises(ModelError) as caught:
            doing()
        assert str(caught.value).startswith(f"{path} names the file {name!r}, ")


def test_planning_refuses_it(tmp_path: Path, tiny_folder: Path) -> None:
    import shutil

    shutil.copytree(tiny_folder, tmp_path / "m")
    index(tmp_path / "m", "../m/model.safetensors")
    with pytest.raises(ModelError, match="which leads out of the folder"):
        resolve(ModelSpec(ref=str(tmp_path / "m")))


def test_links_of_the_hubs_cache_are_files_of_the_folder_and_others_are_not(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    path = index(snapshot, "one.safetensors")
    blobs.mkdir()
    (blobs / "abc").touch()
    (snapshot / "one.safetensors").symlink_to("../../blobs/abc")
    assert shards_of(path) == ["one.safetensors"] and has_weights(snapshot)
    (snapshot / "one.safetensors").unlink()
    (tmp_path / "secret").touch()
    (snapshot / "one.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match=r"a link that leads to .*secret"):
        shards_of(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": null}', "\xff"])
def test_what_is_no_index_is_one_message(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match="is no index of weights"):
        shards_of(path)
